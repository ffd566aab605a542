"""``attnviz diff``: is this map that map, within tolerance?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Part, Seen, check_choice
from attnviz.cli.pictures import PLAIN, look_of_file, write_figure
from attnviz.cli.sides import (
    ROWS,
    Comparison,
    Held,
    Other,
    both_sides,
    each_place,
    inputs_checked,
    settings_given,
    values_compared,
)
from attnviz.cli.source import Source
from attnviz.plots.look import COLORS, Look

if TYPE_CHECKING:
    from attnviz.compare.heads import Difference
    from attnviz.compare.report import Finding
    from attnviz.compare.sides import Side


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz diff dump.safetensors kernel.npz:weights --pattern causal")
    def diff(
        source: Source,
        other: Annotated[
            str | None,
            typer.Argument(help="B: a dump, or FILE:NAME of what a kernel gave. None: A again.", show_default=False),
        ] = None,
        head: Heads = "all",
        batch: Annotated[
            str | None,
            typer.Option(
                metavar="B",
                help="Batch item, or several: 0,2-4 or all.  \\[default: all that a kernel's (B, H, ...) has, else 0]",
            ),
        ] = None,
        part: Part = Part(),  # noqa: B008 (frozen)
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        b: Other = Other(),  # noqa: B008 (frozen)
        held: Held = Held(),  # noqa: B008 (frozen)
        format: Annotated[str, typer.Option(help="table or json.")] = "table",
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="Draw A, B and A - B side by side: .png, .pdf or .svg.")
        ] = None,
        look: Look = PLAIN,
    ) -> None:
        """Compare two maps: two dumps, one dump under two settings, or a kernel's output with the exact formula.

        Ends with 0 where every number is within what rounding costs, or within atol + rtol * |B| where those are given, with
        1 where one is beyond, with 2 on bad input. Either side may be FILE:NAME, a tensor of weights or scores, (H, T, S) or
        (B, H, T, S), where -inf is not visible; B also a context, a log-sum-exp or a gradient. Where a kernel is wrong, it
        says what it computes instead.
        """
        check_choice("--format", format, ("table", "json"))
        if other is None and not settings_given(b):
            raise InputError("diff: one side is given and no setting that differs; name B, or give a --b-... option")
        values = values_compared(held, other)
        look = look_of_file(look, out, unused=(*COLORS, "width", "title", "caption") if values in ROWS else ())
        asked = Comparison(source, other, head, batch, part, choice, seen, compute, b, held, values, look)
        hold = _checked if values in ROWS or (asked.of_items and not (out and asked.of_one)) else _compared
        places = [asked] if hold is _checked else each_place(asked)
        if out is not None and len(places) > 1:
            raise InputError(
                f"{out}: a picture is of one layer and batch item, and {len(places)} are compared; name one"
            )
        within = [hold(place, format, out) for place in places]
        raise typer.Exit(0 if all(within) else 1)


def _compared(asked: Comparison, format: str, out: Path | None) -> bool:
    """Compares two maps, and prints how far they are apart."""
    from attnviz.base.selections import parse_indices
    from attnviz.base.writing import PICTURES, check_output, is_stdout
    from attnviz.cli.progress import rows_progress
    from attnviz.compare.heads import compare
    from attnviz.compare.kernel import explained_sides
    from attnviz.plots.differences import Differences
    from attnviz.show import exports

    held = asked.held
    side_a, side_b = both_sides(asked)
    if out is not None:
        out = check_output(out, PICTURES, inputs=asked.paths())
    heads = parse_indices(asked.head, side_a.H, option="--head", noun="head")
    how: dict[str, Any] = {"atol": held.atol, "rtol": held.rtol, "top_k": held.top_k, "values": asked.values}
    part = _part(asked, side_a, side_b)
    queries = part["queries"] or range(side_a.T)
    if held.rows is not None:
        from attnviz.compare.kernel import drawn_rows

        how["rows"] = drawn_rows(len(queries), held.rows) + queries.start
    how |= {**part, "pixels": _pixels(side_a, part, out, asked.look)}
    with rows_progress(len(queries) * len(heads), "diff") as progress:
        found = compare(side_a, side_b, heads=heads, progress=progress, **how)
    findings = explained_sides(side_a, side_b, found)
    if out is not None:
        sides = f"A {found.pictures[0][0].pattern}; B {found.pictures[0][1].pattern}"
        drawn = Differences(found.pictures, [row[0] for row in found.pictures], sides)
        write_figure(out, lambda: drawn.draw(asked.look), asked.look, drawn.words(asked.look), kind="diff")
    if is_stdout(out):
        pass  # the picture is there
    elif format == "json":
        data(exports.difference_json(found, findings))
    else:
        _print(found, findings, side_a, side_b)
    return found.within


def _part(asked: Comparison, a: Side, b: Side) -> dict[str, range | None]:
    """The queries and keys to compare, which a word names by the tokens of the side that has any."""
    item = a.item or b.item
    words = (None, None) if item is None else (item.query_tokens, item.key_tokens)
    return asked.part.of_sizes(a.T, a.S, *words, source=a.name)


def _pixels(side: Side, part: dict[str, range | None], out: Path | None, look: Look) -> int | None:
    if out is None:
        return None
    from attnviz.plots.room import comparison_pixels

    return comparison_pixels((len(part["queries"] or range(side.T)), len(part["keys"] or range(side.S))), look)


def _print(found: Difference, findings: tuple[Finding, ...], side_a: Side, side_b: Side) -> None:
    from attnviz.cli.console import output
    from attnviz.compare.heads import labels_of_sides, side_labels
    from attnviz.compare.report import finding_lines
    from attnviz.show.terminal.tables import difference_table

    console = output()
    labels = labels_of_sides(side_labels(side_a), side_labels(side_b))
    console.print(difference_table(found, console.width, *labels))
    for head in found.heads:
        if head.where and head.beyond > 1:
            console.print(f"head {head.head}: they lie {', '.join(head.where)}", highlight=False, soft_wrap=True)
    for line in finding_lines(findings):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{'within' if found.within else 'BEYOND'} tolerance ({found.rule})",
        style="green" if found.within else "bold red",
        highlight=False,
    )


def _checked(asked: Comparison, format: str, out: Path | None) -> bool:
    """Holds a kernel's rows, or its maps of several batch items, against the exact ones, and prints what was found."""
    from attnviz.base.selections import parse_indices
    from attnviz.base.writing import PICTURES, check_output, is_stdout
    from attnviz.cli.console import output
    from attnviz.cli.progress import rows_progress
    from attnviz.compare.handed import Outputs, laid_out
    from attnviz.compare.kernel import Asked, check_kernel
    from attnviz.show import exports
    from attnviz.sources.dumps import read_tensor

    if (text := asked.kernel) is None:
        raise InputError(f"--values {asked.values}: B is what a kernel gave; name it as FILE:NAME")
    for option in settings_given(asked.b):
        raise InputError(f"--{option}: B is a plain tensor, there is nothing to compute; leave it out")
    if out is not None and asked.values not in ROWS:
        raise InputError(f"{out}: pictures are of one batch item's weights or logits; name one with --batch")
    if out is not None:
        out = check_output(out, PICTURES, inputs=asked.paths())
    asked.seen.refuse(f"{asked.values} are of single tokens; leave it out")
    asked.part.refuse(
        f"{asked.values} are held row by row, whole; leave it out, or take some with --rows"
        if asked.values in ROWS
        else "a part is of one batch item's map; name one with --batch"
    )
    inputs, held = inputs_checked(asked), asked.held
    tensor, named = asked.tensor, {}
    batches = None if asked.batch is None else parse_indices(asked.batch, inputs.B, option="--batch", noun="batch item")
    rank = 3 if asked.values == "lse" else 4
    packing = asked.source.packing()
    if tensor.ndim == rank - 1 and inputs.B > 1 and "cu_seqlens_q" not in packing:  # one item's
        batches = batches or (0,)
        tensor = tensor.expand(inputs.B, *tensor.shape)
    named[asked.values] = tensor
    if held.grad is not None:
        named["grad"] = read_tensor(held.grad, option="--grad")
    layout = asked.source.layout or "bhtd"
    outputs = Outputs(inputs, **{name: laid_out(name, given, inputs, layout, packing) for name, given in named.items()})
    heads = parse_indices(asked.head, inputs.H, option="--head", noun="head")
    with rows_progress(inputs.T * len(heads) * len(batches or range(inputs.B)), "diff") as progress:
        report = check_kernel(outputs, Asked(held.atol, held.rtol, held.rows, heads, batches, progress=progress))
    if out is not None:
        from attnviz.show.figures.kernel import rows_figure, rows_words

        write_figure(out, lambda: rows_figure(outputs, report), asked.look, rows_words(report), kind="diff")
    if is_stdout(out):
        return report.within
    if format == "json":
        data(exports.report_json(report, inputs.source, text, asked.values))
        return report.within
    console = output()
    for n, line in enumerate(report.message().split("\n")):
        style = ("green" if report.within else "bold red") if not n else None
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
    return report.within
