"""``attnviz inspect``: what is in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.base.errors import InputError
from attnviz.cli.groups import command
from attnviz.cli.options import check_choice

if TYPE_CHECKING:
    from attnviz.base.types import Label
    from attnviz.sources.files import TensorFile


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz inspect dump.safetensors")
    def inspect(
        source: Annotated[list[Path], typer.Argument(help="File to look into, or several.", show_default=False)],
        format: Annotated[str, typer.Option(help="table or json.")] = "table",
    ) -> None:
        """Show the tensors of a file, the role each would play, and what is missing; or how a figure was made.

        Reads the table of contents, not the tensors, where the format allows it (.safetensors, .npz, .npy).
        """
        check_choice("--format", format, ("table", "json"))
        from attnviz.base.writing import PICTURES
        from attnviz.sources.files import open_tensors

        for path in source:  # whatever is wrong with one of them is said before anything is printed
            if path.suffix.lower() not in PICTURES and str(path) != "-":
                open_tensors(path)
        for number, path in enumerate(source):
            if number and format == "table":
                print()
            if path.suffix.lower() in PICTURES:
                _tell_figure(path, format)
            else:
                _tell(path, format)


def _tell(source: Path, format: str) -> None:
    """What a file of tensors holds."""
    from attnviz.base.words import json_text
    from attnviz.cli.console import data
    from attnviz.sources.files import open_tensors, spooled
    from attnviz.sources.naming import layers_of
    from attnviz.sources.roles import missing_roles, role_of

    source = spooled() if str(source) == "-" else source
    file = open_tensors(source)
    missing = missing_roles(file.contents, file.metadata)
    if format == "table":
        _print(file, missing)
        return
    document = {
        "schema": "attnviz.inspect/1",
        "source": str(source),
        "bytes": source.stat().st_size,
        "tensors": [
            {"name": n, "shape": list(i.shape), "dtype": i.dtype, "bytes": i.bytes, "role": role_of(n)}
            for n, i in file.contents.items()
        ],
        "layers": layers_of(file.contents),
        "missing": missing,
        "metadata": file.metadata,
    }
    data(json_text(document, spaced=True, lenient=True) + "\n")


def _print(file: TensorFile, missing: Sequence[str]) -> None:
    """A file's tensors as a table, and in lines what else is to be said of it."""
    from attnviz.cli.console import output
    from attnviz.show.terminal.tables import contents_table
    from attnviz.sources.metadata import pattern_names
    from attnviz.sources.naming import layers_of
    from attnviz.sources.roles import ROLES, role_of

    console, layers = output(), layers_of(file.contents)
    console.print(contents_table(str(file.path), file.path.stat().st_size, file.contents, role_of, console.width))
    lines = [f"layers: {len(layers)} ({layers[0]} to {layers[-1]}); choose one with --layer"] if layers else []
    settings = {name: value for name, value in file.metadata.items() if not isinstance(value, list | dict)}
    lines += [f"metadata: {', '.join(f'{name} {value}' for name, value in settings.items())}"] if settings else []
    try:
        lines += _patterns(pattern_names(file))
    except InputError as error:  # what is in the file is told all the same
        lines += [f"pattern: {error}"]
    lines += [f"token labels: {'yes' if 'tokens' in file.metadata else 'no'}"]
    lines += [f"missing: {name}, {ROLES[name]}" for name in missing]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _patterns(named: Mapping[Label | None, str]) -> list[str]:
    """The dump's own patterns, and of which layers each is where there are several."""
    from attnviz.base.words import ranges

    of: dict[str, list[Label | None]] = {}
    for label, name in named.items():
        of.setdefault(name, []).append(label)
    if len(of) <= 1:
        return [f"pattern: {name}" for name in of]

    def places(labels: list[Label | None]) -> str:
        numbers = [label for label in labels if isinstance(label, int)]
        return ",".join(
            [*([ranges(numbers)] if numbers else []), *(f"{one}" for one in labels if isinstance(one, str))]
        )

    return [f"pattern of layers {places(labels)}: {name}" for name, labels in of.items()]


def _tell_figure(path: Path, format: str) -> None:
    """What a figure of attnviz shows, and the options that made it so."""
    from attnviz.base.words import json_text
    from attnviz.cli.console import data, output
    from attnviz.show.figures.about import SCHEMA, read_about

    about = read_about(path)
    if format == "json":
        said = {"schema": SCHEMA, "source": str(path), "shows": about.words, **about.settings}
        data(json_text(said, spaced=True, lenient=True) + "\n")
        return
    settings = dict(about.settings)
    console = output()
    console.print(f"{path}: a figure of attnviz {settings.pop('kind', '')}".rstrip(), highlight=False, markup=False)
    console.print(about.words, highlight=False, markup=False)
    for name, value in settings.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
