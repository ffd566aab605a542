"""Two runs of a model, layer by layer: where they part first, by how much against what rounding costs, and which mistake explains it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import GlobalKeys
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.words import printable
from attnviz.compare.heads import HeadDifference, compare
from attnviz.compare.kernel import of_difference
from attnviz.compare.report import Finding, HeadCheck, finding_lines
from attnviz.compare.rounding import ORDER, Rounding, Rule, rule_of
from attnviz.compare.sides import Exact
from attnviz.engine.request import Request
from attnviz.sources.dumps import load
from attnviz.sources.files import open_tensors
from attnviz.sources.naming import layers_of

Layers = Mapping[Any, AttentionInputs] | Iterable[tuple[Any, AttentionInputs]] | AttentionInputs | str | Path
"""A run: a dump's path, its layers by label, or one layer."""

_STEPS = 8
"""Roundings that a layer's queries, keys and values may be off by, of their root mean square."""

_EXPLAINED = 1 << 24
"""Cells of a head's map up to which what explains it is searched for."""


@dataclass(frozen=True)
class HeadAudit:
    """How far one head of two runs is apart."""

    batch: int
    head: int
    max_abs: float
    total_variation: float
    worst: tuple[int, int] | None
    """The query and the key that are furthest apart."""
    where: tuple[str, ...]
    within: bool
    """Whether the maps are within what rounding costs two computations of the same queries and keys."""


@dataclass(frozen=True)
class LayerAudit:
    """How far one layer of two runs is apart."""

    layer: str
    tensors: dict[str, float]
    """The root mean square of the difference of q, k and v, relative to that of the first run's, padding left out."""
    allowed: float
    """What rounding may make of that, this deep in a model."""
    settings: tuple[str, ...]
    """Settings that are not the same, a line each."""
    heads: tuple[HeadAudit, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def inputs_agree(self) -> bool:
        """Whether queries, keys and values are the same within rounding."""
        return all(off <= self.allowed for off in self.tensors.values())

    @property
    def within(self) -> bool:
        """Whether the layer is the same, but for rounding."""
        return self.inputs_agree and not self.settings


@dataclass(frozen=True)
class Audit:
    """Two runs of a model, layer by layer."""

    a: str
    b: str
    dtype: str
    layers: tuple[LayerAudit, ...]
    missing: tuple[str, ...] = ()
    """Layers that one run alone has."""

    @property
    def first(self) -> LayerAudit | None:
        """The first layer where they part; None where they don't."""
        return next((layer for layer in self.layers if not layer.within), None)

    @property
    def within(self) -> bool:
        """Whether the runs are the same, but for rounding."""
        return self.first is None and not self.missing

    @property
    def said(self) -> dict[str, Any]:
        """The audit, as JSON has it."""
        first = self.first
        layers = [{**asdict(layer), "within": layer.within} for layer in self.layers]
        return {
            "schema": "attnviz.audit/1",
            "a": self.a,
            "b": self.b,
            "dtype": self.dtype,
            "within": self.within,
            "first": None if first is None else first.layer,
            "missing": list(self.missing),
            "layers": layers,
        }

    def verdict(self) -> list[str]:
        """Where they part, and why, in lines."""
        lines = [f"layer {name} is in one run alone" for name in self.missing]
        first = self.first
        if first is None:
            return lines or [f"the runs agree in {len(self.layers)} layers within what rounding to {self.dtype} costs"]
        off = ", ".join(f"{name} by {number:.2g}" for name, number in first.tensors.items() if number > first.allowed)
        lines.append(f"the runs part at layer {first.layer}" + (f": {off}, allowed {first.allowed:.2g}" if off else ""))
        lines += [f"  {line}" for line in first.settings]
        wrong = [head for head in first.heads if not head.within]
        if wrong:
            worst = max(wrong, key=lambda head: head.total_variation)
            place = "" if worst.worst is None else f", most at query {worst.worst[0]} → key {worst.worst[1]}"
            items = len({head.batch for head in first.heads})
            item = f"batch item {worst.batch}, " if items > 1 else ""
            several = f" of {items} batch items" if items > 1 else ""
            lines.append(
                f"  {len(wrong)} of {len(first.heads)} heads{several}; {item}head {worst.head} most: total variation "
                f"{worst.total_variation:.2g}{place}{''.join(f', {where}' for where in worst.where)}"
            )
        return [*lines, *(f"  {line}" for line in finding_lines(first.findings))]

    def markdown(self) -> str:
        """The audit as Markdown, for a pull request."""
        lines = [f"### Attention: {self.a} against {self.b}", "", *_quoted(self.verdict()), ""]
        lines += [
            "| layer | q | k | v | allowed | heads apart | largest total variation | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for layer in self.layers:
            numbers = [f"{layer.tensors[name]:.1e}" if name in layer.tensors else "" for name in "qkv"]
            apart = [head for head in layer.heads if not head.within]
            most = max((head.total_variation for head in layer.heads), default=0.0)
            said = "" if layer.within else "first to part" if layer is self.first else "parts"
            row = [
                layer.layer,
                *numbers,
                f"{layer.allowed:.1e}",
                f"{len(apart)} of {len(layer.heads)}",
                f"{most:.1e}",
                said,
            ]
            lines.append(f"| {' | '.join(row)} |")
        return printable("\n".join(lines) + "\n")


def _quoted(lines: Sequence[str]) -> list[str]:
    return ["```text", *lines, "```"]


def audit(a: Layers, b: Layers, *, batch: int | None = None, explain: bool = True) -> Audit:
    """Holds two runs of a model against each other: another attention implementation, dtype, version or machine.

    A layer's queries, keys and values, and its settings, say whether what comes before it is the same; its maps, by head, what
    becomes of that. The first layer that parts is where to look.

    Args:
        a, b: a dump's path, its layers by label, or one layer.
        batch: the batch item; None is all.
        explain: whether to search for what explains the first layer that parts.

    Raises:
        InputError: runs without a layer in common, or of other sizes; a batch item that is not there.

    >>> import attnviz
    >>> inputs = attnviz.synthesize(heads=2)
    >>> audit({0: inputs}, {0: inputs}).verdict()
    ['the runs agree in 1 layers within what rounding to float32 costs']
    """
    found: list[LayerAudit] = []
    missing: list[str] = []
    dtype, names = "float64", (_name(a, "A"), _name(b, "B"))
    own, other = _layers(a), _layers(b)
    for depth, (label, one) in enumerate(own.items()):
        if label not in other:
            missing.append(label)
            continue
        left, right = one(), other[label]()
        _check_sizes(label, left, right)
        dtype = max(dtype, *(dtype_name(side.q.dtype) for side in (left, right)), key=ORDER.index)
        parted = any(not layer.within for layer in found)
        batches = range(left.B) if batch is None else [batch]
        if not 0 <= batches[-1] < left.B:
            raise InputError(f"--batch {batch}: {left.source} has {left.B} batch items (0 to {left.B - 1})")
        found.append(_layer(label, depth, left, right, batches, explain=explain and not parted))
    missing += [label for label in other if label not in own]
    if not found:
        raise InputError(f"{names[0]} and {names[1]} have no layer in common: {', '.join(own)} and {', '.join(other)}")
    return Audit(*names, dtype, tuple(found), tuple(missing))


def assert_runs_agree(a: Layers, b: Layers, *, batch: int | None = None) -> None:
    """Asserts that two runs of a model have the same attention, but for rounding; as :func:`audit`.

    Raises:
        AssertionError: they part; says at which layer, by how much, and which mistake explains it.
        InputError: as :func:`audit`.
    """
    __tracebackhide__ = True
    found = audit(a, b, batch=batch)
    if not found.within:
        raise AssertionError("\n".join(found.verdict()))


def _name(run: Layers, default: str) -> str:
    return str(run) if isinstance(run, (str, Path)) else run.source if isinstance(run, AttentionInputs) else default


def _layers(run: Layers) -> dict[str, Any]:
    """What makes each layer's inputs, by label: one layer of a dump in memory at a time."""
    if isinstance(run, AttentionInputs):
        return {"0": lambda: run}
    if isinstance(run, (str, Path)):
        path = Path(run)
        contents = open_tensors(path).contents
        labels: list[Any] = [None] if "q" in contents else [*layers_of(contents)] or [None]
        return {"0" if label is None else f"{label}": _loaded(path, label) for label in labels}
    pairs = run.items() if isinstance(run, Mapping) else run
    return {f"{label}": _held(inputs) for label, inputs in pairs}


def _loaded(path: Path, label: Any) -> Any:
    return lambda: load(path, layer=label)


def _held(inputs: AttentionInputs) -> Any:
    return lambda: inputs


def _check_sizes(label: str, a: AttentionInputs, b: AttentionInputs) -> None:
    for side in (a, b):
        if not isinstance(side, AttentionInputs):
            raise InputError(
                f"{side.source}: holds weights; an audit is of runs with queries and keys: attnviz diff A B"
            )
    sizes = {
        "batch items": ((a.B, b.B), "were both runs given the same?"),
        "heads": ((a.H, b.H), "is it another model?"),
        "head_dim": ((a.D, b.D), "is it another model?"),
        "queries": ((a.T, b.T), "were both runs given the same tokens?"),
        "keys": ((a.S, b.S), "were both runs given the same tokens?"),
    }
    for name, ((left, right), hint) in sizes.items():
        if left != right:
            raise InputError(f"layer {label}: {a.source} has {left} {name} but {b.source} has {right}; {hint}")


def _layer(
    label: str, depth: int, a: AttentionInputs, b: AttentionInputs, batches: Sequence[int], *, explain: bool
) -> LayerAudit:
    rule = rule_of(dtype_name(a.q.dtype), dtype_name(b.q.dtype), sides=2)
    unit = rule.unit if isinstance(rule, Rounding) else torch.finfo(torch.float64).eps
    tensors = {name: off for name in "qkv" if (off := _relative(name, a, b, batches)) is not None}
    heads: list[HeadAudit] = []
    wrong: list[HeadCheck] = []
    for batch in batches:
        sides = [_side(inputs, batch) for inputs in (a, b)]
        for head in compare(*sides, rule=rule, top_k=1).heads:
            heads.append(_head(batch, head))
            wrong += [] if head.within else [of_difference("weights", batch, head, a.T)]
    settings = tuple(dict.fromkeys(line for batch in batches for line in _settings(a, b, batch)))
    made = LayerAudit(label, tensors, _STEPS * unit * (1 + math.sqrt(depth)), settings, tuple(heads))
    if explain and not made.within:
        made = replace(made, findings=_explained(a, b, rule, wrong))
    return made


def _side(inputs: AttentionInputs, batch: int) -> Exact:
    return Exact(Request(inputs, batch=batch, device="cpu", dtype=torch.float64))


def _head(batch: int, found: HeadDifference) -> HeadAudit:
    worst = None if found.worst is None else (found.worst.query, found.worst.key)
    where = found.where if found.beyond > 1 else ()
    return HeadAudit(batch, found.head, found.max_abs, found.total_variation or 0.0, worst, where, found.within)


def _relative(name: str, a: AttentionInputs, b: AttentionInputs, batches: Sequence[int]) -> float | None:
    """The root mean square of the difference of a tensor, relative to that of the first; None where they can't be held together.

    What stands in padding is anything: a query that sees no key has other numbers in every library.
    """
    one, two = getattr(a, name), getattr(b, name)
    if one is None or two is None or one.shape != two.shape:
        return None
    size = off = 0.0
    for batch in batches:
        left, right = (tensor[batch].detach().cpu().double() for tensor in (one, two))
        there = torch.isfinite(left) & torch.isfinite(right)
        for item in (a.item(batch), b.item(batch)):
            exists = item.query_padding if name == "q" else item.key_padding
            there &= True if exists is None else exists.cpu()[:, None]
        size += float(left[there].square().sum())
        off += float((left - right)[there].square().sum())
    return math.sqrt(off / size) if size else math.sqrt(off)


def _settings(a: AttentionInputs, b: AttentionInputs, batch: int) -> Iterator[str]:
    """What the two calls do not have in common, a line each."""
    if str(a.pattern) != str(b.pattern):
        yield f"the pattern is {a.pattern or 'global'}, and {b.pattern or 'global'}"
    one, two = a.item(batch), b.item(batch)
    if not math.isclose(one.scale, two.scale, rel_tol=1e-6):
        yield f"the scale is {one.scale:.6g}, and {two.scale:.6g}"
    for name in ("softcap", "cross"):
        if getattr(a, name) != getattr(b, name):
            yield f"{name} is {getattr(a, name)}, and {getattr(b, name)}"
    for name in (
        "global_mask",
        "key_padding_mask",
        "bias",
        "alibi_slopes",
        "sinks",
        "query_positions",
        "key_positions",
    ):
        left, right = getattr(a, name), getattr(b, name)
        if (left is None) != (right is None):
            yield f"{name} is {'given' if left is not None else 'not there'}, and {'given' if right is not None else 'not there'}"
        elif left is not None and not (left.shape == right.shape and _alike(left, right)):
            yield f"{name} is not the same"


def _alike(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a.cpu(), b.cpu())
    return torch.allclose(a.cpu().double(), b.cpu().double(), rtol=1e-2, atol=1e-6, equal_nan=True)


def _explained(a: AttentionInputs, b: AttentionInputs, rule: Rule, wrong: Sequence[HeadCheck]) -> tuple[Finding, ...]:
    """What turns the first run's map into the second's, in the batch item that is furthest off."""
    if not wrong or a.T * a.S > _EXPLAINED:
        return ()
    from attnviz.compare.faults.search import search

    furthest = sorted(wrong, key=lambda head: -head.off)
    batch = furthest[0].batch
    heads = [head for head in furthest if head.batch == batch][:4]
    side, maps = _side(b, batch), torch.zeros(a.H, a.T, a.S, dtype=torch.float64)
    for head in heads:
        maps[head.head] = side.rows(head.head).read(range(a.T)).over(torch.arange(a.S), True).values.nan_to_num()
    inputs = replace(a, pattern=a.pattern or GlobalKeys())
    return search(inputs, "weights", maps.expand(batch + 1, *maps.shape), rule, heads)
