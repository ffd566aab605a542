"""The kinds of figures that ``attnviz plot`` makes, as options: those that :data:`attnviz.plots.kind.KINDS` holds."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli import defaults
from attnviz.cli.choice import PatternChoice
from attnviz.cli.groups import Group, said_parameter
from attnviz.cli.options import Compute
from attnviz.cli.source import Source
from attnviz.plots.said import option_name, options

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.patches import PatchSpec
    from attnviz.cli.derived import Derive
    from attnviz.plots.kind import Kind

_PANEL = "What to draw of a map"


class KindChoice:
    """Which kind of figure: a flag or a value for each, and the options of all."""

    @classmethod
    def option_group(cls) -> Group:
        """The options, and what makes a kind of them."""
        parameters: dict[str, inspect.Parameter] = {}
        rare: set[str] = set()  # what only one of the kinds has, beside the option that asks for the kind
        for kind in _kinds():
            if kind.name is not None and not any(_name(field) == _flag(kind) for field in options(kind)):
                parameters[_flag(kind)] = _flag_parameter(kind)
            for field in options(kind):
                parameters.setdefault(_name(field), said_parameter(field, field.default, _PANEL))
                rare |= {_name(field)} if kind.name is not None and _name(field) != _flag(kind) else set()
        rare -= {_name(field) for field in options(_kinds()[0])}
        return Group([*parameters.values()], chosen, rare=frozenset(rare))


def chosen(**given: Any) -> Kind:
    """The kind that options ask for.

    Raises:
        InputError: two kinds, or an option that the kind has no use for.
    """
    plain, *named = _kinds()
    wanted = [kind for kind in named if given[_flag(kind)] not in (None, False)]
    if len(wanted) > 1:
        raise InputError(f"--{wanted[0].name} and --{wanted[1].name} are figures of two kinds; choose one")
    kind = wanted[0] if wanted else plain
    own = {_name(field): field for field in options(kind)}
    for other, field in [(one, field) for one in (*named, plain) for field in options(one)]:
        value = given[_name(field)]
        if _name(field) not in own and value != field.default and not defaults.used(option_name(field)):
            raise InputError(_refusal(field, value, kind, other))
    return kind(**{field.name: given[name] for name, field in own.items()})


def paths(kind: Kind) -> list[Path]:
    """The files that a kind reads."""
    return [value for field in fields(kind) if isinstance(value := getattr(kind, field.name), Path)]  # type: ignore[arg-type]


class SourceReader:
    """What a kind needs beside its request, read as the source is."""

    def __init__(
        self,
        source: Source,
        choice: PatternChoice,
        compute: Compute,
        derive: Derive,
        batch: str = "0",
        values: str = "weights",
    ) -> None:
        self.source, self.derive, self.how = source, derive, (choice, compute, batch, values)

    def other(self, path: Path, layer: str | None) -> tuple[Inputs, Pattern]:
        """Another file's inputs: of ``layer``, else of the layer of the source where the file has layers, or of all."""
        from dataclasses import replace

        whole = replace(self.source.of_file(path), layer=None)
        own = self.source.layer
        try:
            wanted = replace(whole, layer=own if layer is None and whole.layers() != [None] else layer)
            return self.derive.load(wanted, *self.how)[:2]
        except InputError as error:
            if own is None or layer is not None:
                raise InputError(str(error).replace("--layer", "--b-layer")) from error
            raise

    def picture(self, path: Path | None, *, needed: bool) -> tuple[Tensor | None, PatchSpec | None]:
        """The picture that the source's model looked at, or that is named, and how its patches lie."""
        from attnviz.sources.pictures import picture_of, read_picture

        source = self.source.source
        found, patches = (None, None) if source is None else picture_of(source)
        if needed and patches is None:
            raise InputError(
                f"--overlay: {source or 'the synthetic case'} holds no picture with its patches; make a dump with: attnviz capture "
                f"MODEL --image FILE, or say how patches lie among the keys: --patches ROWSxCOLUMNS --picture FILE"
            )
        return (found if path is None else read_picture(path)), patches


def _kinds() -> list[type[Kind]]:
    """The heatmap, which is drawn where no other kind is named, and those that have a name."""
    import attnviz.plots.kinds  # noqa: F401 (makes them known)
    from attnviz.plots.kind import KINDS
    from attnviz.plots.kinds.heatmap import Heatmap

    return [Heatmap, *KINDS.values()]


def _flag(kind: type[Kind]) -> str:
    return str(kind.name).replace("-", "_")


def _name(field: Any) -> str:
    return option_name(field).removeprefix("--").replace("-", "_")


def _flag_parameter(kind: type[Kind]) -> inspect.Parameter:
    about = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
    option = typer.Option(f"--{kind.name}", help=about, rich_help_panel=_PANEL)
    return inspect.Parameter(
        _flag(kind), inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def _refusal(field: Any, value: Any, kind: type[Kind], other: type[Kind]) -> str:
    """Why a kind has no use for an option of another."""
    if "refused" in field.metadata:
        return str(field.metadata["refused"].format(kind=f"--{kind.name}", value=value))
    if kind.name is None:
        return f"{option_name(field)} {value}: it is an option of --{other.name}; add that"
    return f"{option_name(field)} {value}: --{kind.name} has no use for it; leave it out"
