"""``attnviz diff``: is this map that map, within tolerance?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, PatternChoice, Source, Values, check_choice
from attnviz.cli.pictures import PLAIN, look_of_file, write_figure
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from attnviz.compare.sides import Exact, Given, Side
    from attnviz.sources.naming import TensorRef


@dataclass(frozen=True)
class Other:
    """What is different of the other side."""

    b_dtype: Annotated[str | None, typer.Option(help="B: round inputs to this dtype first.")] = None
    b_device: Annotated[str | None, typer.Option(help="B: compute on this device.")] = None
    b_pattern: Annotated[str | None, typer.Option(help="B: another pattern.")] = None
    b_window: Annotated[int | None, typer.Option(help="B: another window.")] = None
    b_dilation: Annotated[int | None, typer.Option(help="B: another dilation.")] = None
    b_causal: Annotated[bool, typer.Option("--b-causal", help="B: hide what comes after the query.")] = False
    b_mask_file: Annotated[str | None, typer.Option(metavar="FILE:NAME", help="B: another mask.")] = None
    b_scale: Annotated[float | None, typer.Option(help="B: another scale.")] = None
    b_softcap: Annotated[float | None, typer.Option(help="B: another softcap.")] = None
    b_layer: Annotated[str | None, typer.Option(metavar="N", help="B: another layer.")] = None
    b_batch: Annotated[int | None, typer.Option(help="B: another batch item.")] = None
    b_global: Annotated[str | None, typer.Option(metavar="POSITIONS", help="B: other global positions.")] = None


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz diff dump.safetensors kernel.npz:weights --pattern causal --atol 1e-5")
    def diff(
        source: Source,
        other: Annotated[
            str | None,
            typer.Argument(
                help="B: a dump, or FILE:NAME of weights or scores (H, T, S). None: A again.", show_default=False
            ),
        ] = None,
        head: Heads = "all",
        batch: Annotated[int, typer.Option(help="Batch item.", min=0)] = 0,
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        b: Other = Other(),
        atol: Annotated[float, typer.Option(help="Absolute tolerance.", min=0)] = 1e-5,
        rtol: Annotated[float, typer.Option(help="Tolerance relative to B.", min=0)] = 1e-5,
        top_k: Annotated[int, typer.Option(help="How many of each query's largest keys must agree.", min=1)] = 5,
        format: Annotated[str, typer.Option(help="table or json.")] = "table",
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="Draw A, B and A - B side by side: .png, .pdf or .svg.")
        ] = None,
        look: Look = PLAIN,
    ) -> None:
        """Compare two maps: two dumps, one dump under two settings, or a kernel's output with the exact formula.

        Ends with 0 where every pair of positions is within atol + rtol * |B|, with 1 where one is beyond, with 2 on
        bad input. Either side may be FILE:NAME, a tensor of weights or scores (H, T, S), where -inf is not visible.
        """
        check_choice("--values", values, ("weights", "logits"))
        check_choice("--format", format, ("table", "json"))
        look = look_of_file(look, out, unused=("marks",))
        from attnviz.base.selections import parse_indices
        from attnviz.base.writing import check_output, is_stdout
        from attnviz.cli.progress import rows_progress
        from attnviz.compare.heads import compare, labels_of_sides, side_labels
        from attnviz.show import exports

        if other is None and not _given(b):
            raise InputError("diff: one side is given and no setting that differs; name B, or give a --b-... option")
        side_a, side_b = _sides(source, other, choice, compute, b, batch, values)
        if out is not None:
            other_file = [] if other is None else [_ref(other).path or Path(other)]
            other_file += _changed(choice, b).paths()
            out = check_output(out, (".png", ".pdf", ".svg"), inputs=[*source.paths(), *choice.paths(), *other_file])
        heads = parse_indices(head, side_a.H, option="--head", noun="head")
        pixels = None
        if out is not None:
            from attnviz.plots.room import comparison_pixels

            pixels = comparison_pixels((side_a.T, side_a.S), look)
        with rows_progress(side_a.T * len(heads), "diff") as progress:
            found = compare(
                side_a,
                side_b,
                heads=heads,
                values=values,
                atol=atol,
                rtol=rtol,
                top_k=top_k,
                pixels=pixels,
                progress=progress,
            )
        if out is not None:
            from attnviz.show.figures.captions import caption as about_maps
            from attnviz.show.figures.difference import difference_figure

            a_maps = [row[0] for row in found.pictures]
            sides = f"A {found.pictures[0][0].pattern}; B {found.pictures[0][1].pattern}"
            how = look.words(a_maps, sides)
            words = about_maps(a_maps, look.scale.fit(a_maps), source=sides)
            write_figure(out, lambda: difference_figure(found.pictures, **how), look, words, kind="diff")
        if is_stdout(out):
            pass  # the picture is there
        elif format == "json":
            data(exports.difference_json(found))
        else:
            from attnviz.cli.console import output
            from attnviz.show.terminal.tables import difference_table

            console = output()
            labels = labels_of_sides(side_labels(side_a), side_labels(side_b))
            console.print(difference_table(found, console.width, *labels))
            console.print(
                f"{'within' if found.within else 'BEYOND'} tolerance (atol {atol:g}, rtol {rtol:g})",
                style="green" if found.within else "bold red",
                highlight=False,
            )
        raise typer.Exit(0 if found.within else 1)


def _sides(
    source: Source, other: str | None, choice: PatternChoice, compute: Compute, b: Other, batch: int, values: str
) -> tuple[Side, Side]:
    """The two sides; a plain tensor takes its key positions from the side that is computed."""
    from dataclasses import replace

    from attnviz.compare.sides import Exact
    from attnviz.engine.request import Request

    named = source.weights is not None  # in either file
    plain = {
        "A": None if named else _plain(str(source.source) if source.source else None, values),
        "B": _plain(other, values, named=named),
    }
    if plain["A"] and plain["B"]:
        given = [*_given(source, source=source.source), *_given(choice), *_given(compute, device="auto"), *_given(b)]
        given += ["batch"] if batch else []
        if given:
            raise InputError(f"--{given[0]}: both sides are plain tensors, nothing is computed; leave it out")
        return _tensor_side(plain["A"], None), _tensor_side(plain["B"], None)

    if plain["A"]:
        assert other is not None
        second = source.of_file(Path(other))
    else:
        second = source if other is None or plain["B"] else source.of_file(Path(other))
    if plain["B"]:
        for option in _given(b):
            raise InputError(f"--{option}: B is a plain tensor, there is nothing to compute; leave it out")

    def computed(which: Source, choice: PatternChoice, of_b: bool) -> Exact:
        dtype = (b.b_dtype if of_b else None) or compute.dtype
        if of_b:
            changes: dict[str, Any] = {
                "scale": b.b_scale,
                "softcap": b.b_softcap,
                "layer": b.b_layer,
                "global_": b.b_global,
            }
            which = replace(which, **{name: value for name, value in changes.items() if value is not None})
        inputs = which.load(dtype)
        item = b.b_batch if of_b and b.b_batch is not None else batch
        device = (b.b_device if of_b else None) or compute.device
        inputs, pattern = choice.on(inputs)
        named = {"scale": b.b_scale, "softcap": b.b_softcap, "globals": b.b_global}
        said = [f"{name} {value}" for name, value in named.items() if of_b and value is not None]
        return Exact(Request(inputs, pattern, batch=item, values=values, device=device), said)

    def right() -> Exact:
        try:
            return computed(second, _changed(choice, b), True)
        except InputError as error:
            raise InputError(_blamed_on_b(str(error), b)) from error

    if plain["A"]:
        found = right()
        return _tensor_side(plain["A"], found, batch), found
    left = computed(source, choice, False)
    if plain["B"]:
        return left, _tensor_side(plain["B"], left, batch)
    return left, right()


def _blamed_on_b(message: str, b: Other) -> str:
    """An error in a setting that B alone has, with the option that gave it: ``--b-dtype`` for ``--dtype``."""
    for option in _given(b):
        shared = "--" + option.removeprefix("b-")
        if message.startswith(shared + " "):
            return f"--{option}{message.removeprefix(shared)}"
    return message


def _changed(choice: PatternChoice, b: Other) -> PatternChoice:
    """The pattern of B: A's, with what is different; another pattern starts afresh."""
    from dataclasses import replace

    changes: dict[str, Any] = {
        "pattern": b.b_pattern,
        "window": b.b_window,
        "dilation": b.b_dilation,
        "causal": b.b_causal or None,
        "mask_file": b.b_mask_file,
    }
    afresh = b.b_pattern is not None or b.b_mask_file is not None
    return replace(PatternChoice() if afresh else choice, **{n: v for n, v in changes.items() if v is not None})


def _given(group: object, **defaults: object) -> list[str]:
    return [
        name.strip("_").replace("_", "-")
        for name, value in vars(group).items()
        if value is not None and value is not False and value != defaults.get(name)
    ]


def _ref(text: str) -> TensorRef:
    from attnviz.sources.naming import TensorRef

    return TensorRef.parse(text)


def _plain(text: str | None, values: str, *, named: bool = False) -> str | None:
    """``FILE:NAME`` of a plain tensor, where that is what a side names; None where it is a dump.

    Args:
        text: what a side names.
        values: ``weights`` or ``logits``.
        named: whether ``--weights`` says which tensor of a file it is.
    """
    if text is None:
        return None
    from attnviz.sources.files import open_tensors
    from attnviz.sources.naming import layers_of

    ref = _ref(text)
    if ref.path is not None and ref.name is not None:
        return text
    file = open_tensors(Path(text))
    contents = file.contents
    if named or "format" in file.metadata:  # as attnviz saved it
        return None
    name = "weights" if values == "weights" else "scores"
    if "q" in contents or layers_of(contents) or (name not in contents and len(contents) != 1):
        return None
    return f"{text}:{name if name in contents else next(iter(contents))}"


def _tensor_side(text: str, computed: Exact | None, batch: int = 0) -> Given:
    """A plain tensor: one batch item, or as many as the computed side has, of which ``batch`` is compared."""
    from attnviz.compare.sides import Given
    from attnviz.sources.dumps import read_tensor

    tensor = read_tensor(text, option="diff")
    if tensor.ndim == 4 and len(tensor) > 1:
        if computed is None or len(tensor) != computed.attention.item.inputs.B:
            raise InputError(
                f"{text}: has shape {tuple(tensor.shape)}, which may be (L, H, T, S) or (B, H, T, S); name it with --weights "
                f"and say which: --layout lhts, layers, or --layout bhts, batch items"
            )
        tensor = tensor[batch]
    if computed is None:
        return Given(tensor, name=text)
    return Given(tensor, computed.shared_keys, computed.S, text)
