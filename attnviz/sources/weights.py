"""Weights as people hold them, made :class:`attnviz.AttentionWeights`, one a layer: ``attnviz.weights.from_outputs(outputs)``.

What a model of transformers returned, what its ``generate`` returned, a tuple of arrays (BertViz's argument), a cache of
TransformerLens or nnterp, one array of many layers. Any array will do: torch's, numpy's, JAX's. Nothing is copied but the
steps of ``generate``, which are put together.

>>> import attnviz, torch
>>> layers = attnviz.weights.from_attentions([torch.full((1, 2, 3, 3), 1 / 3)] * 4, tokens=["a", "b", "c"])
>>> len(layers), layers[0].H
(4, 2)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.arrays import as_tensor
from attnviz.attention.given import AttentionWeights
from attnviz.attention.patterns import Causal
from attnviz.base.devices import whole
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.types import Label
from attnviz.sources.given import as_bhts
from attnviz.sources.naming import in_layer, of_template

KINDS = {
    "self": "attentions",
    "encoder": "encoder_attentions",
    "decoder": "decoder_attentions",
    "cross": "cross_attentions",
}
"""The kinds of attention that outputs of transformers hold, and what they call each."""

_PATTERN = "blocks.{layer}.attn.hook_pattern"
_SCORES = "blocks.{layer}.attn.hook_attn_scores"
_EAGER = "load the model with attn_implementation='eager' and call it with output_attentions=True"


def from_outputs(outputs: Any, kind: str | None = None, **settings: Any) -> list[AttentionWeights]:
    """The weights of each layer that a model of transformers, or its ``generate``, returned.

    Args:
        outputs: what the model returned with ``output_attentions=True``.
        kind: ``self``, ``encoder``, ``decoder`` or ``cross``, where the outputs hold several; None is the one there is.
        settings: fields of :class:`attnviz.AttentionWeights`, for every layer: ``tokens``, ``pattern``, ``key_padding_mask``, …

    Raises:
        InputError: no attentions, several kinds, or a model whose weights are not over all keys.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> outputs = SimpleNamespace(attentions=(torch.eye(3).expand(1, 2, 3, 3), torch.eye(3).expand(1, 2, 3, 3)))
    >>> [given.layer for given in from_outputs(outputs, tokens=["a", "b", "c"])]
    [0, 1]
    """
    found = {name: _held(outputs, field) for name, field in KINDS.items()}
    there = [name for name, attentions in found.items() if attentions is not None and len(attentions)]
    if _held(outputs, "global_attentions") is not None:
        raise InputError(
            "outputs: these attentions are of windows and global keys (Longformer), not of all keys; capture such a model: "
            "attnviz capture MODEL"
        )
    if kind is not None and kind not in KINDS:
        raise not_one_of("kind", kind, KINDS)
    if not there or (kind is not None and kind not in there):
        held = f"hold no attentions of kind {kind}" if kind is not None and there else "hold no attentions"
        raise InputError(f"outputs: {held}{f'; there are {_listed(there)}' if there else ''}; {_EAGER}")
    if kind is None and len(there) > 1:
        raise InputError(f"outputs: hold attentions of {_listed(there)}; say which: kind={there[-1]!r}")
    chosen = kind or there[0]
    attentions = found[chosen]
    assert attentions is not None
    what = {"cross": True, **settings} if chosen == "cross" else settings
    if isinstance(attentions[0], list | tuple):
        beams = _held(outputs, "beam_indices")
        return from_generate(attentions, kind=None if chosen == "self" else chosen, beam_indices=beams, **what)
    return from_attentions(attentions, kind=None if chosen == "self" else chosen, **what)


def from_attentions(
    attentions: Iterable[Any], tokens: Any = None, *, kind: str | None = None, **settings: Any
) -> list[AttentionWeights]:
    """The weights of each layer from a tuple of arrays, as ``outputs.attentions`` is, and BertViz's ``attention``.

    Args:
        attentions: an array a layer, (B, H, T, S) or (H, T, S); None where a layer has none.
        tokens: S tokens, or S of each batch item.
        kind: what the layers are called before their number: ``"cross"`` makes ``cross.0``.
        settings: further fields of :class:`attnviz.AttentionWeights`.

    Raises:
        InputError: no arrays, or as :class:`attnviz.AttentionWeights`.

    >>> import torch
    >>> given = from_attentions((torch.eye(3).expand(2, 3, 3),), tokens=["a", "b", "c"])
    >>> given[0].weights.shape
    torch.Size([1, 2, 3, 3])
    """
    if isinstance(attentions, Tensor) or hasattr(attentions, "shape"):
        raise InputError(
            "attentions: one array is given, wanted one a layer; for one array of all: from_array(array, layout)"
        )
    held = {n: array for n, array in enumerate(attentions) if array is not None}
    if not held:
        raise InputError(f"attentions: there are none; {_EAGER}")
    return [_made(array, _label(n, kind), tokens=tokens, **settings) for n, array in held.items()]


def from_generate(
    steps: Sequence[Sequence[Any]],
    tokens: Any = None,
    *,
    kind: str | None = None,
    beam_indices: Any = None,
    **settings: Any,
) -> list[AttentionWeights]:
    """The weights of each layer from the nested tuples of ``generate``: a step a new token, an array a layer in each.

    The rows of all steps are put together: (B, H, T, S) over the prompt and what was generated, but the last token, which
    was never read. Of self-attention the pattern is causal. Beams change places between steps: the rows are those of the beams
    that won.

    Args:
        steps: for each step the array of each layer, (B, H, t, S) with the keys so far.
        tokens: S tokens, or S + 1 with the last one generated.
        kind: as in :func:`from_attentions`.
        beam_indices: of a beam search, (sequences, steps): the beam that each token came from, -1 after the end, as
            ``generate`` gives it. What comes after the end of a sequence, in a batch of several, is padding.
        settings: further fields of :class:`attnviz.AttentionWeights`; ``cross=True`` where keys are of another sequence.

    Raises:
        InputError: steps that don't follow one another, as a cache that drops keys makes them; beams that are not there.

    >>> import torch
    >>> steps = ((torch.full((1, 2, 3, 3), 1 / 3).tril(),), (torch.full((1, 2, 1, 4), 0.25),))
    >>> from_generate(steps)[0].weights.shape
    torch.Size([1, 2, 4, 4])
    """
    if not steps or not steps[0]:
        raise InputError(f"steps: there are none; {_EAGER}")
    cross = bool(settings.get("cross"))
    beams = None if beam_indices is None else _winning(beam_indices, len(steps))
    made = []
    for n in range(len(steps[0])):
        if steps[0][n] is None:
            continue
        rows = [as_tensor(step[n], f"step {at}, layer {n}") for at, step in enumerate(steps)]
        rows = rows if beams is None else _of_beams(rows, beams, n)
        whole = _together(rows, n, cross=cross)
        own = dict(settings) if cross else {"pattern": Causal(), **settings}
        if beams is not None and bool((beams < 0).any()):
            own = _padded(own, beams, whole.shape[2], cross=cross)
        labels = tokens if tokens is None or cross else _read(tokens, whole.shape[3])
        made.append(_made(whole, _label(n, kind), tokens=labels, **own))
    return made


def from_cache(
    cache: Mapping[Any, Any], tokens: Any = None, *, names: str = _PATTERN, logits: str | None = None, **settings: Any
) -> list[AttentionWeights]:
    """The weights of each layer from a cache of activations: TransformerLens', nnterp's, or any dict of arrays.

    Args:
        cache: arrays by name, or by the number of their layer.
        tokens: S tokens, or S of each batch item.
        names: the name of a layer's weights, with ``{layer}`` for its number.
        logits: likewise of its scores before softmax; None is TransformerLens' where they are there.
        settings: further fields of :class:`attnviz.AttentionWeights`.

    Raises:
        InputError: no array of such a name; says what is there.

    >>> import torch
    >>> cache = {"blocks.1.attn.hook_pattern": torch.eye(3).expand(2, 3, 3), "blocks.1.mlp.hook_out": torch.ones(3)}
    >>> [(given.layer, given.H) for given in from_cache(cache)]
    [(1, 2)]
    """
    keys = [*cache.keys()]
    named = of_template(names, [key for key in keys if isinstance(key, str)])
    layers: dict[int, Any] = {n: in_layer(names, n) for n in named} | {key: key for key in keys if isinstance(key, int)}
    if not layers:
        there = ", ".join(map(str, keys[:6])) + (", …" if len(keys) > 6 else "")
        raise InputError(f"cache: no array is named {names} with a number for {{layer}}; there are {there or 'none'}")
    made = []
    for n, key in sorted(layers.items()):
        scores = in_layer(logits or _SCORES, n)
        if logits is not None and scores not in keys:
            raise InputError(f"cache: there is no {scores}, which logits names")
        beside = {"logits": cache[scores]} if scores in keys and (logits is not None or names == _PATTERN) else {}
        made.append(_made(cache[key], n, tokens=tokens, **beside, **settings))
    return made


def from_array(array: Any, layout: str | None = None, tokens: Any = None, **settings: Any) -> list[AttentionWeights]:
    """The weights of each layer from one array.

    Args:
        array: of rank 3 (H, T, S), of rank 5 (L, B, H, T, S), or of rank 4 as ``layout`` says.
        layout: ``hts``, ``bhts``, ``lhts`` or ``lbhts``; rank 4 is never guessed.
        tokens, settings: as in :func:`from_attentions`.

    Raises:
        InputError: a rank that the layout hasn't, or rank 4 without one.

    >>> import torch
    >>> len(from_array(torch.eye(3).expand(5, 2, 3, 3), "lhts"))
    5
    """
    tensor = as_tensor(array, "array")
    layered = (layout or "").startswith("l") or (layout is None and tensor.ndim == 5)
    layers: list[int | None] = [*range(len(tensor))] if layered else [None]
    return [
        _made(as_bhts(tensor, "array", layout=layout, layer=n, batched=False), n, tokens=tokens, **settings)
        for n in layers
    ]


def _made(array: Any, layer: Label | None, **settings: Any) -> AttentionWeights:
    what = {name: value for name, value in settings.items() if value is not None}
    return AttentionWeights(as_tensor(array, f"layer {layer}" if layer is not None else "weights"), layer=layer, **what)


def _held(outputs: Any, field: str) -> Any:
    return outputs.get(field) if isinstance(outputs, Mapping) else getattr(outputs, field, None)


def _label(n: int, kind: str | None) -> Label:
    return n if kind is None else f"{kind}.{n}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _read(tokens: Any, S: int) -> Any:
    """Tokens without the last, which was generated and never read, where it is there."""
    if all(isinstance(token, str) for token in tokens):
        return tokens[:S] if len(tokens) == S + 1 else tokens
    return [item[:S] if len(item) == S + 1 else item for item in tokens]


def _winning(beam_indices: Any, steps: int) -> Tensor:
    """The beam of each sequence at each step that one of them took, (B, steps); -1 after the end."""
    beams = as_tensor(beam_indices, "beam_indices")
    if beams.ndim != 2 or whole(beams) is None or not beams.numel():
        raise InputError(f"beam_indices: has shape {tuple(beams.shape)}, wanted whole numbers (sequences, steps)")
    taken = int((beams >= 0).any(0).sum())
    if not 0 < taken <= steps:
        raise InputError(f"beam_indices: speaks of {taken} steps, and {steps} are given; both are of one generate")
    return beams[:, :taken]


def _of_beams(rows: Sequence[Tensor], beams: Tensor, layer: int) -> list[Tensor]:
    """The rows of the beams that won, step by step; 0 where a sequence has ended."""
    found = []
    for step, (part, chosen) in enumerate(zip(rows, beams.T, strict=False)):
        if int(chosen.max()) >= len(part):
            raise InputError(
                f"beam_indices: beam {int(chosen.max())} of step {step} is not there; layer {layer} has {len(part)} rows of beams"
            )
        own = part[chosen.clamp(min=0).to(part.device)]
        found.append(own.masked_fill((chosen < 0).to(part.device)[:, None, None, None], 0))
    return found


def _padded(own: dict[str, Any], beams: Tensor, T: int, *, cross: bool) -> dict[str, Any]:
    """Settings with what comes after the end of each sequence as padding."""
    there = torch.cat(
        [torch.ones(len(beams), T - beams.shape[1] + 1, dtype=torch.bool), (beams >= 0)[:, 1:].cpu()], dim=1
    )
    own["query_padding_mask"] = (
        there & own["query_padding_mask"] if own.get("query_padding_mask") is not None else there
    )
    if not cross:
        own["key_padding_mask"] = there & own["key_padding_mask"] if own.get("key_padding_mask") is not None else there
    return own


def _together(rows: Sequence[Tensor], layer: int, *, cross: bool) -> Tensor:
    """The rows of all steps over the keys of the last, (B, H, T, S)."""
    T, S = sum(step.shape[2] for step in rows), rows[-1].shape[3]
    whole = rows[0].new_zeros(*rows[0].shape[:2], T, S)
    at = 0
    for n, step in enumerate(rows):
        after = at + step.shape[2]
        if step.shape[:2] != rows[0].shape[:2] or step.shape[3] != (S if cross else after):
            raise InputError(
                f"steps: step {n} of layer {layer} has shape {tuple(step.shape)}, wanted {after} keys, those read by then; a "
                f"cache that drops keys, or one of fixed length, is not read: call the model on the sequences"
            )
        whole[:, :, at:after, : step.shape[3]] = step
        at = after
    return whole
