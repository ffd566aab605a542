"""What ``attnviz diff`` is asked: the two sides, what is different of B, and what of them is compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.options import Compute, Part, Seen, check_choice
from attnviz.cli.source import Source
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.compare.sides import Exact, Given, Side
    from attnviz.sources.naming import TensorRef

MAPS = ("weights", "logits")
ROWS = ("context", "lse", "dq", "dk", "dv")
"""What a kernel gives beside its map, a row a query or a key."""

_CALLED = {"out": "context", "output": "context", "attn_output": "context", **{name: name for name in ROWS}}
"""What a tensor of a name holds, where no --values says it."""


@dataclass(frozen=True)
class Held:
    """What is compared, and how closely."""

    values: Annotated[
        str | None,
        typer.Option(
            help="weights (after softmax) or logits (before); of a kernel's tensor also context, lse, dq, dk or dv.  "
            "\\[default: what its name says, else weights]",
            show_default=False,
        ),
    ] = None
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance.  \\[default: what rounding costs]", min=0)] = (
        None
    )
    rtol: Annotated[
        float | None, typer.Option(help="Tolerance relative to B.  \\[default: what rounding costs]", min=0)
    ] = None
    rows: Annotated[
        int | None, typer.Option(help="Look at this many queries of each head, drawn at random; none: at all.", min=1)
    ] = None
    top_k: Annotated[int, typer.Option(help="How many of each query's largest keys must agree.", min=1)] = 5
    grad: Annotated[
        str | None, typer.Option(metavar="FILE:NAME", help="The gradient of the context, which dq, dk and dv are of.")
    ] = None


@dataclass(frozen=True)
class Other:
    """What is different of the other side."""

    RARE: ClassVar = (
        "b_dtype",
        "b_device",
        "b_window",
        "b_dilation",
        "b_causal",
        "b_mask_file",
        "b_scale",
        "b_softcap",
        "b_layer",
        "b_batch",
        "b_global",
    )

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


@dataclass(frozen=True)
class Comparison:
    """What the command line asks."""

    source: Source
    other: str | None
    head: str
    batch: str | None
    part: Part
    choice: PatternChoice
    seen: Seen
    compute: Compute
    b: Other
    held: Held
    values: str
    look: Look

    @property
    def of_items(self) -> bool:
        """Whether B is a kernel's map of several batch items."""
        if self.plain_b is None or self.named or self.plain_a is not None:
            return False
        from attnviz.attention.inputs import AttentionInputs

        tensor = self.tensor
        several = tensor.ndim == 4 and tensor.shape[0] > 1
        return several and isinstance(self.inputs, AttentionInputs)  # two maps that are given are compared item by item

    @property
    def of_one(self) -> bool:
        """Whether one batch item is asked for, whose map can be drawn."""
        return self.batch is not None and self.batch.isdecimal()

    @property
    def named(self) -> bool:
        """Whether ``--weights`` says which tensor is compared, in either file."""
        return self.source.weights is not None

    # A file is opened to see whether it is a dump: once for each side.

    @cached_property
    def plain_a(self) -> str | None:
        """``FILE:NAME`` of the plain tensor that A is; None where it is a dump."""
        return None if self.named else _plain(str(self.source.source) if self.source.source else None, self.values)

    @cached_property
    def plain_b(self) -> str | None:
        """``FILE:NAME`` of the plain tensor that B is; None where it is a dump."""
        return _plain(self.other, self.values, named=True) if self.named else self.kernel

    @cached_property
    def kernel(self) -> str | None:
        """``FILE:NAME`` of what a kernel gave, whatever ``--weights`` says of A."""
        return _plain(self.other, self.values)

    @cached_property
    def tensor(self) -> Tensor:
        """What B holds, a plain tensor."""
        from attnviz.sources.dumps import read_tensor

        assert self.kernel is not None
        return read_tensor(self.kernel, option="diff")

    @cached_property
    def inputs(self) -> Inputs:
        """What A holds, with values where they are compared."""
        return self.source.load(self.compute.dtype, values=self.values in ("context", "dq", "dk", "dv"))

    @property
    def item(self) -> int:
        """The batch item of two maps."""
        from attnviz.base.selections import parse_index

        return 0 if self.batch is None else parse_index(self.batch, 1 << 62, option="--batch", noun="batch item")

    def paths(self) -> list[Path]:
        """Every file that this reads."""
        others = [] if self.other is None else [_ref(self.other).path or Path(self.other)]
        grad = [] if self.held.grad is None else [path for path in (_ref(self.held.grad).path,) if path is not None]
        return [*self.source.paths(), *self.choice.paths(), *others, *_changed(self.choice, self.b).paths(), *grad]


def each_place(asked: Comparison) -> list[Comparison]:
    """What is asked of each layer and batch item, where several are named, or two maps that are given have several.

    Raises:
        InputError: layers of both sides that aren't as many; items of a plain tensor alone.
    """
    source, b = asked.source, asked.b
    plain = asked.plain_a is not None
    labels = [(None, b.b_layer)] if plain else _layer_pairs(asked)  # a plain tensor has no layers
    found = []
    for of_a, of_b in labels:
        here = asked if of_a is None else replace(asked, source=source.of(of_a), b=replace(b, b_layer=of_b))
        for item in [asked.batch] if plain else _items(here):
            found.append(replace(here, batch=item))
    if plain and asked.batch is not None and not asked.batch.isdecimal():
        raise InputError(f"--batch {asked.batch}: A is a plain tensor, of one item; name one")
    return found


def _layer_pairs(asked: Comparison) -> list[tuple[Any, str | None]]:
    """Each layer of A and what ``--b-layer`` says beside it; None is A's own."""
    from attnviz.cli.source import parse_layers

    source, b_layer = asked.source, asked.b.b_layer
    if source.layer is None:
        return [(None, b_layer)]
    of_a = source.layers()
    of_b = [b_layer] * len(of_a) if b_layer is None else [f"{label}" for label in parse_layers(b_layer)]
    if len(of_a) != len(of_b):
        raise InputError(f"--b-layer {b_layer}: {len(of_b)} layers of B beside {len(of_a)} of A; name as many")
    return [*zip(of_a, of_b, strict=True)]


def _items(asked: Comparison) -> list[str | None]:
    """The batch items to compare, as ``--batch`` has each."""
    from attnviz.base.selections import parse_indices

    batch = asked.batch
    if batch is not None and batch.strip().isdecimal():
        return [batch]
    if batch is None and (asked.plain_b is None or asked.tensor.ndim != 4 or asked.tensor.shape[0] == 1):
        return [None]
    items = parse_indices(batch or "all", asked.inputs.B, option="--batch", noun="batch item")
    if len(items) > 1 and asked.b.b_batch is not None:
        raise InputError(
            f"--b-batch {asked.b.b_batch}: several items of A are each compared with B's own; leave it out"
        )
    return [f"{item}" for item in items]


def values_compared(held: Held, other: str | None) -> str:
    """What is compared."""
    if held.values is not None:
        return check_choice("--values", held.values, (*MAPS, *ROWS))
    name = None if other is None else _ref(other).name
    return _CALLED.get(name or "", "weights")


def inputs_checked(asked: Comparison) -> Inputs:
    """A's, with the pattern that is asked for."""
    from attnviz.attention.inputs import AttentionInputs

    inputs, pattern = asked.choice.on(asked.inputs)
    if not isinstance(inputs, AttentionInputs) and asked.values != "context":
        raise InputError(
            f"{inputs.source}: holds weights, and {asked.values} are checked against the formula of q and k"
        )
    return replace(inputs, pattern=pattern)


def both_sides(asked: Comparison) -> tuple[Side, Side]:
    """The two sides; a plain tensor takes its key positions from the side that is computed, which then is in float64."""
    source, other, choice, b, batch = asked.source, asked.other, asked.choice, asked.b, asked.item
    plain_a, plain_b = asked.plain_a, asked.plain_b
    if plain_a or plain_b:
        asked.seen.refuse(
            "a plain tensor is compared as it is; name it with --weights, where both sides are weights, or save it as a dump"
        )
    if plain_a and plain_b:
        return _both_plain(asked, plain_a, plain_b)
    if plain_b:
        for option in settings_given(b):
            raise InputError(f"--{option}: B is a plain tensor, there is nothing to compute; leave it out")
        left = _computed(asked, source, choice, exact=True)
        return left, _tensor_side(plain_b, left, batch)
    second = source if other is None else source.of_file(Path(other))
    left_or_none = None if plain_a else _computed(asked, source, choice)
    try:
        right = _computed(asked, _of_b(second, b), _changed(choice, b), b, exact=plain_a is not None)
    except InputError as error:
        raise InputError(_blamed_on_b(str(error), b)) from error
    if left_or_none is not None:
        return left_or_none, right
    assert plain_a is not None
    return _tensor_side(plain_a, right, batch), right


def _both_plain(asked: Comparison, a: str, b: str) -> tuple[Side, Side]:
    """Two plain tensors, of which nothing is computed."""
    given = [*settings_given(asked.source, source=asked.source.source), *settings_given(asked.choice)]
    given += [
        *settings_given(asked.compute, device="auto"),
        *settings_given(asked.b),
        *(["batch"] if asked.item else []),
    ]
    if given:
        raise InputError(f"--{given[0]}: both sides are plain tensors, nothing is computed; leave it out")
    return _tensor_side(a, None), _tensor_side(b, None)


def _of_b(source: Source, b: Other) -> Source:
    """B's source, with what is different of it."""
    changes: dict[str, Any] = {"scale": b.b_scale, "softcap": b.b_softcap, "layer": b.b_layer, "global_": b.b_global}
    return replace(source, **{name: value for name, value in changes.items() if value is not None})


def _computed(
    asked: Comparison, source: Source, choice: PatternChoice, b: Other | None = None, *, exact: bool = False
) -> Exact:
    """A side that is computed.

    Args:
        asked: what the command line asks.
        source, choice: this side's.
        b: what is different of B; None of A.
        exact: whether it is what a plain tensor is held against, in float64.
    """
    from attnviz.compare.sides import Exact
    from attnviz.engine.request import Request

    b = b or Other()
    inputs, pattern = choice.on(source.load(b.b_dtype or asked.compute.dtype))
    device = b.b_device or asked.compute.device
    if exact and device == "mps":
        device = "cpu"  # MPS has no float64
    named = {"scale": b.b_scale, "softcap": b.b_softcap, "globals": b.b_global}
    said = [f"{name} {value}" for name, value in named.items() if value is not None]
    item = asked.item if b.b_batch is None else b.b_batch
    what: dict[str, Any] = {"batch": item, "values": asked.values, "device": device}
    what |= {"dtype": "float64" if exact else None, **asked.seen.asked()}
    return Exact(Request(inputs, pattern, **what), said)


def _blamed_on_b(message: str, b: Other) -> str:
    """An error in a setting that B alone has, with the option that gave it: ``--b-dtype`` for ``--dtype``."""
    for option in settings_given(b):
        shared = "--" + option.removeprefix("b-")
        if message.startswith(shared + " "):
            return f"--{option}{message.removeprefix(shared)}"
    return message


def _changed(choice: PatternChoice, b: Other) -> PatternChoice:
    """The pattern of B: A's, with what is different; another pattern starts afresh."""
    changes: dict[str, Any] = {
        "pattern": b.b_pattern,
        "window": b.b_window,
        "dilation": b.b_dilation,
        "causal": b.b_causal or None,
        "mask_file": b.b_mask_file,
    }
    afresh = b.b_pattern is not None or b.b_mask_file is not None
    return replace(PatternChoice() if afresh else choice, **{n: v for n, v in changes.items() if v is not None})


def settings_given(group: object, **defaults: object) -> list[str]:
    """The options of a group that are not what they are by default, without dashes; None and False are nothing."""
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
    name = {"weights": "weights", "logits": "scores"}.get(values, values)
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
