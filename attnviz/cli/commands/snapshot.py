"""``attnviz snapshot``: keeps what attention was, and says whether it still is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.console import data
from attnviz.cli.derived import NORMS, Derive, Weighed
from attnviz.cli.groups import Program, command
from attnviz.cli.options import VALUES, Compute, Heads, Part, Seen, Values, check_choice, request_of, tell_left_out
from attnviz.cli.pictures import PLAIN, look_of_file, write_figure
from attnviz.cli.source import Source
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.compare.snapshots.difference import SnapshotDifference
    from attnviz.compare.snapshots.snapshot import Snapshot


@dataclass(frozen=True)
class Kept(Source):
    """Where q, k, v and the masks come from: a file, always, as that of the snapshot comes after it."""

    source: Annotated[
        Path, typer.Argument(help="Dump to read: .safetensors, .npz, .npy, .pt or .pth.", show_default=False)
    ] = field()


File = Annotated[Path, typer.Argument(help="Snapshot: .json, or .npz for many cells.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Adds the commands to the program."""
    snapshot = typer.Typer(
        name="snapshot",
        cls=Program,
        help="Keep reduced maps and statistics in a small text file, and check a later run against it: for CI.",
        epilog="Example:  attnviz snapshot save dump.safetensors attention.json --pattern causal",
    )
    app.add_typer(snapshot)
    for run, example in (
        (save, "attnviz snapshot save dump.safetensors attention.json --pattern causal"),
        (check, "attnviz snapshot check dump.safetensors attention.json -o difference.png"),
    ):
        command(snapshot, example=example)(run)


def save(
    source: Kept,
    file: File,
    head: Heads = "all",
    batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
    values: Values = "weights",
    derive: Derive = Derive(),  # noqa: B008 (frozen)
    choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
    part: Part = Part(),  # noqa: B008 (frozen)
    seen: Seen = Seen(),  # noqa: B008 (frozen)
    cells: Annotated[int, typer.Option(help="Most cells along each side; larger maps are reduced.", min=1)] = 32,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
) -> None:
    """Write a snapshot: the maps of heads in few cells, their statistics and the settings, for review and for CI."""
    check_choice("--values", values, VALUES)
    from attnviz.base.selections import parse_indices
    from attnviz.base.words import count
    from attnviz.base.writing import check_output
    from attnviz.cli.console import note
    from attnviz.compare.snapshots.files import MOST_CELLS, SUFFIXES, write_snapshot

    file = check_output(file, SUFFIXES, inputs=[*source.paths(), *choice.paths()])
    if file.suffix.lower() == ".json" and cells > MOST_CELLS:
        raise InputError(f"--cells {cells}: text that is reviewed has {MOST_CELLS} at most; name a .npz")
    derive.check_one_item("a snapshot")
    inputs, pattern, _, left = derive.load(source, choice, compute, batch, values)
    inputs, pattern, heads = _of_heads(
        derive, inputs, pattern, parse_indices(head, inputs.H, option="--head", noun="head")
    )
    asked = request_of(inputs, pattern, compute, batch=batch, region=part, seen=seen, values=left)
    asked = asked.but(heads=heads)
    found = _taken(
        inputs,
        pattern,
        compute.device,
        heads=heads,
        batch=asked.batch,
        values=left,
        cells=cells,
        queries=_part(asked.rows, asked.item.T),
        keys=None if part.keys is None else asked.keys,
        **seen.asked(),
    )
    tell_left_out(asked.attention.left_out(head) for head in asked.chosen)
    write_snapshot(file, found)
    rows, columns = next(iter(found.heads[0].cells.values())).shape
    note(f"wrote {file}: {count(len(found.heads), 'head')}, {found.settings['pattern']}, {rows} × {columns} cells")


def check(
    source: Kept,
    file: File,
    choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
    compute: Compute = Compute(),  # noqa: B008 (frozen)
    derive: Derive = Derive(),  # noqa: B008 (frozen)
    values: Weighed = "weights",
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance.  \\[default: the snapshot's own rule]", min=0)
    ] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Tolerance relative to the snapshot.  \\[default: its own rule]", min=0)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Draw stored, now and the difference where they differ: .png, .pdf or .svg."),
    ] = None,
    format: Annotated[str, typer.Option(help="text or json.")] = "text",
    look: Look = PLAIN,
) -> None:
    """Check SOURCE against a snapshot, with the heads, values and cells that it keeps.

    Ends with 0 where it holds, with 1 where a value, a token or a setting is not what was stored, with 2 on bad
    input. Without --pattern the snapshot's own is taken, where it has a name, else the dump's.
    """
    check_choice("--format", format, ("text", "json"))
    look = look_of_file(look, out)
    from attnviz.base.writing import PICTURES, check_output, is_stdout
    from attnviz.cli.console import note
    from attnviz.compare.rounding import explicit
    from attnviz.compare.snapshots.comparing import compare_snapshots
    from attnviz.compare.snapshots.files import read_snapshot
    from attnviz.compare.snapshots.taking import locate

    if out is not None:
        out = check_output(out, PICTURES, inputs=[*source.paths(), *choice.paths(), file])
    stored = read_snapshot(file)
    check_choice("--values", values, ("weights", *NORMS))
    derive.check_one_item("a snapshot")
    inputs, chosen, _, _ = derive.load(source, choice, compute, "0", values)
    pattern = _pattern(choice, chosen, stored)
    inputs, pattern, _ = _of_heads(derive, inputs, pattern, range(inputs.H))
    now = _later(stored, inputs, pattern, compute, file)
    found = compare_snapshots(stored, now, explicit(atol, rtol))
    if found.note is not None:
        note(f"{file}: {found.note}")
    if out is not None and not found.within:
        _draw(found, file, out, look)
    where = locate(inputs, pattern, found.cells[0], now) if found.cells else None
    if format == "json" and not is_stdout(out):
        from attnviz.show.exports import snapshot_check_json

        data(snapshot_check_json(found, str(file), where))
    else:
        _print(found, file, where, stderr=is_stdout(out))
    raise typer.Exit(0 if found.within else 1)


def _of_heads(
    derive: Derive, inputs: Inputs, pattern: Pattern, heads: Sequence[int]
) -> tuple[Inputs, Pattern, Sequence[int]]:
    """Inputs, pattern and heads, of one map of these heads where that is asked for."""
    from attnviz.attention.derived import over_heads

    how = derive.hows.get("heads")
    if how is None:
        return inputs, pattern, heads
    made = over_heads(inputs, how, heads, pattern)
    return made, made.pattern or pattern, (0,)


def _later(stored: Snapshot, inputs: Inputs, pattern: Pattern, compute: Compute, file: Path) -> Snapshot:
    """What the stored snapshot keeps, of these inputs."""
    from attnviz.engine.request import GROUPED

    heads = [one.head for one in stored.heads]
    batch = stored.settings.get("batch", 0)
    for name, wanted, size in (
        ("head", max(heads, default=0), inputs.H),
        ("batch item", batch, inputs.B),
        ("query", stored.queries.stop - 1, inputs.T),
        ("key", stored.keys[-1], inputs.S),
    ):
        if not isinstance(wanted, int) or not 0 <= wanted < size:
            raise InputError(
                f"{inputs.source}: {file} keeps {name} {wanted}, and there are {size} (0 to {size - 1}); "
                f"is it a snapshot of another dump?"
            )
    return _taken(
        inputs,
        pattern,
        compute.device,
        heads=heads,
        batch=batch,
        values=str(stored.settings["values"]),
        cells=max((max(cells.shape) for one in stored.heads for cells in one.cells.values()), default=1),
        queries=_part(stored.queries, inputs.T),
        keys=_part(stored.keys, inputs.S) if isinstance(stored.keys, range) else None,
        version=stored.version,
        **{name: stored.settings[name] for name in GROUPED if name in stored.settings},
    )


def _draw(found: SnapshotDifference, file: Path, out: Path, look: Look) -> None:
    from attnviz.cli.console import note
    from attnviz.plots.differences import of_snapshots
    from attnviz.show.figures.snapshot import words_of

    drawn = of_snapshots(found, f"A {file}; B now")
    if drawn is None:
        note(f"{out}: not drawn, as the two have no cells in common")
        return
    words = f"{words_of(drawn.pictures)} {drawn.words(look)}"
    write_figure(out, lambda: drawn.draw(look), look, words, kind="snapshot")


def _print(found: SnapshotDifference, file: Path, where: tuple[int, int, float] | None, *, stderr: bool) -> None:
    from attnviz.cli.console import output

    console = output(stderr=stderr)
    first, *rest = found.report(where=where).split("\n")
    console.print(f"{file}: {first}", style="green" if found.within else "bold red", highlight=False, markup=False)
    for line in rest:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _taken(inputs: Inputs, pattern: Pattern, device: str, **how: Any) -> Snapshot:
    """The snapshot, with a bar: each head's rows go by twice, for statistics and for cells."""
    from attnviz.cli.progress import rows_progress
    from attnviz.compare.snapshots.taking import take_snapshot

    rows = inputs.T + len(how["queries"] or range(inputs.T))
    with rows_progress(rows * len(how["heads"]), "snapshot") as progress:
        return take_snapshot(inputs, pattern, device=device, progress=progress, **how)


def _part(positions: range, size: int) -> range | None:
    return None if positions == range(size) else positions


def _pattern(choice: PatternChoice, chosen: Pattern, stored: Snapshot) -> Pattern:
    """The pattern asked for; else the snapshot's, where a name of the command line makes it; else the dump's."""
    kept = str(stored.settings.get("pattern"))
    if choice.given() or str(chosen) == kept:
        return chosen
    from attnviz.attention.names import NAMES, named_pattern

    settings = {name: re.search(rf"{name} (\d+)", kept) for name in ("window", "dilation")}
    of_local = {name: int(found[1]) for name, found in settings.items() if found}
    for name in NAMES:
        for causal in (False, True):
            try:
                named = named_pattern(name, causal=causal, **(of_local if "local" in name else {}))
            except InputError:
                continue
            if str(named) == kept:
                return named
    return chosen
