"""What the tensors of an attention call must be: shapes, dtypes, masks, numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall, Call, GivenCall
from attnviz.attention.names import pattern_of
from attnviz.attention.rotary import Rotary
from attnviz.base.devices import DTYPES, dtype_name, is_real, whole
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.labels import FORMS

LAYOUTS = ("bhtd", "bthd", "htd", "thd")

_PROJECTIONS = ("q", "k", "v", "q_global", "k_global", "v_global")
_MASKS = ("global_mask", "key_padding_mask", "query_padding_mask")
_POSITIONS = ("query_positions", "key_positions")
_DOCUMENTS = ("query_documents", "documents")


def checked(call: AttentionCall, layout: str) -> dict[str, Any]:
    """The fields of a call as the engine takes them: q, k and v as (B, H, T, D), masks as (B, S), a bias of rank 4.

    Args:
        call: as a user gave it.
        layout: the order of the dimensions given: ``bhtd``, ``bthd``, ``htd`` or ``thd``.

    Raises:
        InputError: a shape, dtype, mask, position, label or number that is not as it must be.
    """
    if layout not in LAYOUTS:
        raise not_one_of(f"{call.source}: layout", layout, LAYOUTS)
    found: dict[str, Any] = {}
    for name in _PROJECTIONS:
        tensor = getattr(call, name)
        found[name] = None if tensor is None else _as_bhtd(call.source, name, tensor, layout)
    _check_projections(call.source, **found)
    found["pattern"] = pattern_of(call.pattern)
    (B, H, T, _), S = found["q"].shape, found["k"].shape[2]
    found |= _checked_places(call, (B, T, S))
    _check_numbers(call, H)
    _check_output(call, H)
    found["residual_norms"] = _residual_norms(call, B, T)
    if call.bias is not None:
        found["bias"] = _bias(call.source, call.bias, (B, H, T, S))
    return found


def checked_given(call: GivenCall) -> dict[str, Any]:
    """The fields of weights that were given: weights and logits as (B, H, T, S), v as (B, H_kv, S, D_v), masks as (B, S).

    Args:
        call: as a user gave it, its arrays as tensors.

    Raises:
        InputError: a shape, dtype, mask, position or label that is not as it must be.
    """
    found: dict[str, Any] = {}
    for name in ("weights", "logits", "v"):
        tensor = getattr(call, name)
        found[name] = None if tensor is None else _as_bhtd(call.source, name, tensor, "bhtd")
    weights, logits, v = found["weights"], found["logits"], found["v"]
    B, H, T, S = weights.shape
    if logits is not None and logits.shape != weights.shape:
        raise InputError(
            f"{call.source}: logits have shape {tuple(logits.shape)} but weights have {tuple(weights.shape)}; "
            f"both are (B, H, T, S)"
        )
    if v is not None and (v.shape[0] != B or v.shape[2] != S or H % v.shape[1]):
        raise InputError(
            f"{call.source}: v has shape {tuple(v.shape)}, wanted (B, H_kv, S, D_v) = ({B}, a divisor of {H}, {S}, ...) "
            f"beside weights {tuple(weights.shape)}"
        )
    for name in ("logits", "v"):
        if found[name] is not None and found[name].device != weights.device:
            raise InputError(
                f"{call.source}: {name} is on {found[name].device} but weights are on {weights.device}; move both to one"
            )
    _check_output(call, H)
    found["residual_norms"] = _residual_norms(call, B, T)
    return found | _checked_places(call, (B, T, S))


def _check_output(call: AttentionCall | GivenCall, H: int) -> None:
    """Raises InputError for an output projection that doesn't fit the values."""
    w_o, v = call.w_o, call.v
    if w_o is None:
        return
    if v is None:
        raise InputError(f"{call.source}: w_o is given without v, the values that it projects; give both")
    if not is_real(w_o):
        raise InputError(f"{call.source}: w_o has dtype {dtype_name(w_o.dtype)}, wanted one of {', '.join(DTYPES)}")
    D_v = v.shape[-1]
    if w_o.ndim != 3 or tuple(w_o.shape[:2]) != (H, D_v) or not w_o.shape[2]:
        raise InputError(
            f"{call.source}: w_o has shape {tuple(w_o.shape)}, wanted (H, D_v, d_model) = ({H}, {D_v}, ...): the output "
            f"projection, a part a head"
        )
    if w_o.device != v.device:
        raise InputError(f"{call.source}: w_o is on {w_o.device} but v is on {v.device}; move both to one")
    require_finite(call.source, "w_o", w_o)


def _residual_norms(call: AttentionCall | GivenCall, B: int, T: int) -> Tensor | None:
    """The lengths of the residual and of what is added to it, (B, T, 2). Raises InputError where they are none."""
    norms = call.residual_norms
    if norms is None:
        return None
    found = tuple(norms.shape)
    norms = norms.unsqueeze(0) if norms.ndim == 2 else norms
    if norms.shape != (B, T, 2) or not is_real(norms):
        raise InputError(
            f"{call.source}: residual_norms have shape {found} and dtype {dtype_name(norms.dtype)}, "
            f"wanted (B, T, 2) = ({B}, {T}, 2) and a floating dtype: the length of the residual, and of what is added to it"
        )
    if bool((norms < 0).any()):
        raise InputError(
            f"{call.source}: residual_norms hold a number below 0, first at index {tuple((norms < 0).nonzero()[0].tolist())}; they are lengths"
        )
    return norms


def _checked_places(call: Call, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Masks and positions of any attention as the engine takes them; labels are checked along."""
    found: dict[str, Any] = {}
    B, T, S = sizes
    for name in _MASKS:
        mask = getattr(call, name)
        found[name] = None if mask is None else _mask(call.source, name, mask, (B, T, S))
    _check_globals_exist(call.source, found["global_mask"], found["key_padding_mask"])
    for name in (*_POSITIONS, *_DOCUMENTS):
        numbers = getattr(call, name)
        found[name] = None if numbers is None else _positions(call.source, name, numbers, (B, T, S))
    _check_documents(call)
    _check_places(call, found, (B, T, S))
    _check_labels(call.source, "tokens", call.tokens, B, S)
    _check_labels(call.source, "query_tokens", call.query_tokens, B, T)
    if call.token_form not in FORMS:
        raise not_one_of(f"{call.source}: token_form", call.token_form, FORMS)
    _check_words(call.source, "", call.tokens, call.word_ids, call.special_tokens)
    _check_words(call.source, "query_", call.query_tokens, call.query_word_ids, call.query_special_tokens)
    return found


def require_finite(source: str, name: str, tensor: Tensor, prefix: tuple[int, ...] = (), first_row: int = 0) -> float:
    """The largest magnitude in ``tensor``, read in one pass without a temporary.

    Args:
        source, name: what errors call the inputs and the tensor.
        tensor: a part of it.
        prefix: the index of that part.
        first_row: where its rows begin in the whole.

    Raises:
        InputError: NaN or Inf in it; says how many, and the first index.
    """
    largest = magnitude(tensor)
    if not math.isfinite(largest):
        wrong = ~torch.isfinite(tensor)
        count = int(wrong.sum())
        inside = wrong.nonzero()[0].tolist()
        if inside:
            inside[0] += first_row
        where = f" in {name}{list(prefix)}" if prefix else ""
        plural = "value that is" if count == 1 else "values that are"
        raise InputError(
            f"{source}: {name} has {count} {plural} NaN or Inf{where}, first at index {(*prefix, *inside)}; "
            f"fix what wrote the tensor"
        )
    return largest


def magnitude(tensor: Tensor) -> float:
    """The largest magnitude in ``tensor``, NaN where it holds one."""
    low, high = (float(end) for end in torch.aminmax(tensor))
    return math.nan if math.isnan(low) or math.isnan(high) else max(abs(low), abs(high))


def unexpanded(tensor: Tensor, dims: Iterable[int] | None = None) -> Tensor:
    """A tensor without the copies that ``expand`` made of it in name: each of these dimensions is 1 where all along it is the same.

    >>> tuple(unexpanded(torch.zeros(1, 1, 1, 5).expand(2, 4, 5, 5)).shape)
    (1, 1, 1, 5)
    """
    for dim in range(tensor.ndim) if dims is None else dims:
        if tensor.shape[dim] > 1 and tensor.stride(dim) == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _as_bhtd(source: str, name: str, tensor: Tensor, layout: str) -> Tensor:
    shape = tuple(tensor.shape)
    if not is_real(tensor):
        raise InputError(
            f"{source}: {name} has dtype {dtype_name(tensor.dtype)}, wanted one of {', '.join(DTYPES)}; "
            f"convert it before saving"
        )
    if tensor.ndim not in (3, 4) or (len(layout) == 3 and tensor.ndim != 3):
        wanted = "3" if len(layout) == 3 else "4, or 3 for one batch item"
        raise InputError(f"{source}: {name} has rank {tensor.ndim}, shape {shape}; layout {layout} wants rank {wanted}")
    if 0 in shape:
        raise InputError(f"{source}: {name} is empty, shape {shape}; every size must be at least 1")
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(0)
    return tensor.transpose(1, 2) if layout in ("bthd", "thd") else tensor


def _check_projections(
    source: str,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_global: Tensor | None,
    k_global: Tensor | None,
    v_global: Tensor | None,
) -> None:
    shapes = f"shapes as (B, H, T, D): q {tuple(q.shape)}, k {tuple(k.shape)}"
    if k.shape[3] != q.shape[3]:
        raise InputError(
            f"{source}: k has head_dim {k.shape[3]} but q has {q.shape[3]}; both come from the same layer? {shapes}"
        )
    if k.shape[0] != q.shape[0]:
        raise InputError(f"{source}: k has {k.shape[0]} batch items but q has {q.shape[0]}; {shapes}")
    if q.shape[1] % k.shape[1]:
        raise InputError(
            f"{source}: q has {q.shape[1]} heads, which is not a multiple of the {k.shape[1]} heads of k; "
            f"is the layout right (--layout)? {shapes}"
        )
    if v is not None and v.shape[:3] != k.shape[:3]:
        raise InputError(
            f"{source}: v has shape {tuple(v.shape)}, wanted (B, H_kv, S, ...) = {tuple(k.shape[:3])} as k has"
        )
    for name, tensor, like in (("q_global", q_global, q), ("k_global", k_global, k), ("v_global", v_global, v)):
        if tensor is None:
            continue
        if like is None:
            raise InputError(f"{source}: {name} is given without v; give both")
        if tensor.shape != like.shape:
            raise InputError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, wanted {tuple(like.shape)} as "
                f"{name.removesuffix('_global')} has"
            )
    others = {"k": k, "v": v, "q_global": q_global, "k_global": k_global, "v_global": v_global}
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != q.dtype:
            raise InputError(
                f"{source}: {name} is {dtype_name(tensor.dtype)} but q is {dtype_name(q.dtype)}; "
                f"convert both to one dtype (--dtype does)"
            )
        if tensor is not None and tensor.device != q.device:
            raise InputError(f"{source}: {name} is on {tensor.device} but q is on {q.device}; move both to one")
    if (q_global is None) != (k_global is None):
        there, missing = ("q_global", "k_global") if k_global is None else ("k_global", "q_global")
        raise InputError(f"{source}: {there} is given without {missing}; global queries use both or neither")


def _side(name: str, sizes: tuple[int, int, int]) -> tuple[str, str, tuple[int, int]]:
    """Whether a field is of queries or of keys, its letters and its shape."""
    B, T, S = sizes
    return ("query", "(B, T)", (B, T)) if name.startswith("query") else ("key", "(B, S)", (B, S))


def _mask(source: str, name: str, mask: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    if mask.dtype != torch.bool:
        raise InputError(
            f"{source}: {name} has dtype {dtype_name(mask.dtype)}, wanted bool; save it as `{name}.bool()`"
        )
    if mask.ndim == 1:
        mask = mask.unsqueeze(0)
    side, letters, wanted = _side(name, sizes)
    if tuple(mask.shape) != wanted:
        raise InputError(
            f"{source}: {name} has shape {tuple(mask.shape)}, wanted {letters} = {wanted}, one flag a {side} position"
        )
    return mask


def _check_globals_exist(source: str, global_mask: Tensor | None, key_padding_mask: Tensor | None) -> None:
    if global_mask is None or key_padding_mask is None:
        return
    wrong = (global_mask & ~key_padding_mask.to(global_mask.device)).nonzero()
    if len(wrong):
        batch, position = wrong[0].tolist()
        raise InputError(
            f"{source}: position {position} of batch item {batch} is padding (key_padding_mask) but "
            f"global_mask makes it a global token; a padded position can't be global"
        )


def _positions(source: str, name: str, positions: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """Positions as (B, T) or (B, S) int64."""
    numbers = whole(positions)
    if numbers is None:
        raise InputError(f"{source}: {name} has dtype {dtype_name(positions.dtype)}, wanted whole numbers (int64)")
    shape = tuple(numbers.shape)
    if numbers.ndim == 1:
        numbers = numbers.unsqueeze(0)
    side, letters, wanted = _side(name, sizes)
    if tuple(numbers.shape) not in (wanted, (1, wanted[1])):
        raise InputError(f"{source}: {name} has shape {shape}, wanted {letters} = {wanted}, one number a {side}")
    if magnitude(numbers) >= 2**53:
        raise InputError(f"{source}: {name} reaches {magnitude(numbers):.3g}; positions stay below 2^53")
    return numbers.expand(wanted)


def _check_places(call: Call, found: dict[str, Any], sizes: tuple[int, int, int]) -> None:
    """What positions, and keys of another sequence, ask of each other."""
    source, (B, T, S) = call.source, sizes
    if not isinstance(call.cross, bool):
        raise InputError(f"{source}: cross is of type {type(call.cross).__name__}, wanted True or False")
    if call.cross:
        for name in (*_POSITIONS, "alibi_slopes"):
            if getattr(call, name, None) is not None:
                raise InputError(f"{source}: {name} is given with cross, and keys of another sequence have no order")
        return
    keys: Tensor | None = found["key_positions"]
    if keys is not None and found["query_positions"] is None and T > S:
        raise InputError(
            f"{source}: key_positions are given and query_positions are not, and of {T} queries only {S} can be the last "
            f"keys; give query_positions too"
        )
    if keys is None:
        return
    for batch in range(B):
        exists = found["key_padding_mask"]
        index = torch.arange(S) if exists is None else exists[batch].cpu().nonzero().flatten()
        own = keys[batch].cpu()[index]
        order = own.argsort(stable=True)
        again = own[order][1:] == own[order][:-1]
        where = ""
        if found["documents"] is not None:  # positions may start anew in each
            documents = found["documents"][batch].cpu()[index]
            order = order[documents[order].argsort(stable=True)]
            again = (own[order].diff() == 0) & (documents[order].diff() == 0)
            where = " of a document"
        if bool(again.any()):
            first = int(again.nonzero()[0])
            one, other = sorted(int(index[order[first + n]]) for n in (0, 1))
            packed = "" if where else "; where documents are packed, give documents too"
            raise InputError(
                f"{source}: key_positions of batch item {batch} has {int(keys[batch, one])} twice, at keys {one} and "
                f"{other}{where}; a position belongs to one key{packed}"
            )


def _check_documents(call: Call) -> None:
    if call.query_documents is not None and call.documents is None:
        raise InputError(f"{call.source}: query_documents are given without documents, those of the keys; give both")


def _check_labels(source: str, name: str, labels: Sequence[Sequence[str]] | None, B: int, length: int) -> None:
    if labels is None:
        return
    if not _are_lists(labels, B) or any(not issubclass(kind, str) for item in labels for kind in set(map(type, item))):
        raise InputError(f"{source}: {name} must be {B} lists of strings, one a batch item")
    for batch, item in enumerate(labels):
        if len(item) != length:
            raise InputError(f"{source}: {name} of batch item {batch} has {len(item)} labels, wanted {length}")


def _check_words(
    source: str,
    prefix: str,
    tokens: Sequence[Sequence[str]] | None,
    words: Sequence[Sequence[int | None]] | None,
    special: Sequence[Sequence[int]] | None,
) -> None:
    """What is said of tokens: of those of queries where ``prefix`` is ``query_``."""
    for name, given in ((f"{prefix}word_ids", words), (f"{prefix}special_tokens", special)):
        if given is not None and tokens is None:
            raise InputError(f"{source}: {name} is given without {prefix}tokens, of which it speaks")
        if given is not None and tokens is not None and not _are_lists(given, len(tokens)):
            raise InputError(f"{source}: {name} must be {len(tokens)} lists of integers, one a batch item")
    for batch, own in enumerate(tokens or ()):
        if words is not None and not (
            len(words[batch]) == len(own) and all(word is None or _is_index(word) for word in words[batch])
        ):
            raise InputError(
                f"{source}: {prefix}word_ids of batch item {batch} are not {len(own)} integers or None, one a token"
            )
        if special is not None and not all(_is_index(n) and n < len(own) for n in special[batch]):
            raise InputError(
                f"{source}: {prefix}special_tokens of batch item {batch} are not positions, 0 to {len(own) - 1}"
            )


def _are_lists(value: object, count: int) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == count
        and all(isinstance(item, Sequence) and not isinstance(item, str) for item in value)
    )


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> float:
    """A number of any library, 0-d tensors among them, as a float; NaN of what is none."""
    try:
        return math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan
    except OverflowError:  # an integer of 400 digits
        return math.inf


def _check_numbers(call: AttentionCall, H: int) -> None:
    for name in ("scale", "softcap"):
        number = getattr(call, name)
        if number is not None and not 0 < _number(number) <= sys.float_info.max:
            found = number if isinstance(number, int | float | str) else f"of type {type(number).__name__}"
            raise InputError(f"{call.source}: {name} is {found}, wanted a finite number above 0")
    if call.rotary is not None and not isinstance(call.rotary, Rotary):
        raise InputError(
            f"{call.source}: rotary is {type(call.rotary).__name__}, wanted attnviz.Rotary(layout, frequencies)"
        )
    if call.rotary is not None and call.rotary.end > call.q.shape[-1]:
        raise InputError(
            f"{call.source}: rotary turns dimensions {call.rotary.first} to {call.rotary.end - 1}, and head_dim is "
            f"{call.q.shape[-1]}; give a frequency for each pair of dimensions that turn"
        )
    for name in ("alibi_slopes", "sinks"):
        vector = getattr(call, name)
        if vector is None:
            continue
        if tuple(vector.shape) != (H,) or not is_real(vector):
            raise InputError(
                f"{call.source}: {name} has shape {tuple(vector.shape)} and dtype {dtype_name(vector.dtype)}, "
                f"wanted (H,) = ({H},) of {', '.join(DTYPES)}, one number a query head"
            )
        require_finite(call.source, name, vector)


def _bias(source: str, bias: Tensor, wanted: tuple[int, int, int, int]) -> Tensor:
    shape = tuple(bias.shape)
    whole = bias.unsqueeze(0) if bias.ndim == 3 else bias
    fits = whole.ndim == 4 and all(size in (1, full) for size, full in zip(whole.shape, wanted, strict=True))
    if not fits or not is_real(bias):
        raise InputError(
            f"{source}: bias has shape {shape} and dtype {dtype_name(bias.dtype)}, "
            f"wanted (H, T, S) = {wanted[1:]} or (B, H, T, S) of {', '.join(DTYPES)}, where 1 broadcasts"
        )
    return unexpanded(whole)
