"""Sequences of several lengths as kernels hold them, made batch items: packed one after another, or keys in pages.

FlashAttention's ``cu_seqlens`` say where each sequence of a packed tensor ends; its ``block_table`` says which blocks of a cache are
each sequence's keys. Both become a padded batch, whose queries stand last among their own keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PACKED = ("cu_seqlens_q", "cu_seqlens_k", "block_table", "cache_seqlens")
"""The roles that say which sequence a token is of."""

_BESIDE = ("q", "k", "v", "alibi_slopes", "sinks")


def check_stray(where: str, contents: Mapping[str, Any]) -> None:
    """Raises InputError where a file holds lengths of sequences under a name that no role has: it is not one sequence."""
    for name in contents:
        plain = name.rpartition(".")[2].lower()
        if "cu_seqlens" in plain and plain not in PACKED:
            raise InputError(
                f"{where}: holds {name}, so q and k are of several sequences, packed; say so: --cu-seqlens-q {name} (and "
                f"--cu-seqlens-k, where keys are packed otherwise)"
            )


def unpacked(where: str, tensors: dict[str, Tensor], own: dict[str, Any], layout: str | None) -> str | None:
    """Makes q, k and v batch items, with the padding and the places that go with them.

    Args:
        where: what errors call the inputs.
        tensors: by role, changed in place: q, k and v become (B, H, T, D).
        own: what the metadata says, whose labels are filled up with empty ones.
        layout: the order of dimensions: of packed tensors ``thd`` or ``htd``, None is ``thd``.

    Returns:
        The layout that q, k and v have then; ``layout`` itself where nothing is packed.

    Raises:
        InputError: lengths that don't fit, or a tensor that has no place beside them.
    """
    if not any(role in tensors for role in PACKED):
        return layout
    said = {role: tensors.pop(role) for role in PACKED if role in tensors}
    for role in tensors:
        if role not in _BESIDE:
            raise InputError(
                f"{where}: {role} stands beside {next(iter(said))}, where only {', '.join(_BESIDE)} do; leave it out"
            )
    if ("block_table" in said) != ("cache_seqlens" in said):
        raise InputError(
            f"{where}: block_table and cache_seqlens go together: which blocks, and how many keys of each sequence"
        )
    packed_q = "cu_seqlens_q" in said
    if not packed_q and "block_table" not in said:
        raise InputError(f"{where}: cu_seqlens_k is given without cu_seqlens_q; give both")
    queries = (
        _packed(where, "q", tensors["q"], said["cu_seqlens_q"], "cu_seqlens_q", layout)
        if packed_q
        else _items(where, tensors["q"], layout)
    )
    keys = {name: _keys(where, name, tensors[name], said, layout) for name in ("k", "v") if name in tensors}
    counts = [len(part) for part in queries], [len(part) for part in keys["k"]]
    if len(counts[0]) != len(counts[1]):
        raise InputError(f"{where}: there are {len(counts[0])} sequences of queries and {len(counts[1])} of keys")
    tensors["q"] = _padded(queries)
    tensors |= {name: _padded(parts) for name, parts in keys.items()}
    _places(tensors, *counts)
    for name, side in (("query_tokens", counts[0]), ("tokens", counts[1])):
        if name in own and [len(labels) for labels in own[name]] == side:
            own[name] = [[*labels, *[""] * (max(side) - len(labels))] for labels in own[name]]
    return "bhtd"


def side_by_side(where: str, name: str, tensor: Tensor, ends: Tensor, role: str, layout: str | None = None) -> Tensor:
    """What is packed, (tokens, H, D), as batch items, (B, H, n, D), filled up with 0.

    Args:
        where: what errors call the inputs.
        name: the tensor's.
        tensor: (tokens, H, D).
        ends: (B + 1,) where each sequence begins and the last ends.
        role: what that is called.
        layout: ``thd`` or ``htd``; None is ``thd``.

    Raises:
        InputError: lengths that don't fit.
    """
    return _padded(_packed(where, name, tensor, ends, role, layout))


def _keys(where: str, name: str, tensor: Tensor, said: Mapping[str, Tensor], layout: str | None) -> list[Tensor]:
    """The keys or values of each sequence, (S, H_kv, D)."""
    if "block_table" in said:
        return _paged(where, name, tensor, said["block_table"], said["cache_seqlens"])
    role = "cu_seqlens_k" if "cu_seqlens_k" in said else "cu_seqlens_q"
    return _packed(where, name, tensor, said[role], role, layout)


def _packed(where: str, name: str, tensor: Tensor, ends: Tensor, role: str, layout: str | None) -> list[Tensor]:
    """The part of each sequence, (n, H, D), of a packed tensor."""
    if layout not in (None, "thd", "htd") or tensor.ndim != 3:
        raise InputError(
            f"{where}: {name} has shape {tuple(tensor.shape)} beside {role}; packed sequences are (tokens, H, D), or (H, tokens, D) "
            f"by --layout htd"
        )
    whole = tensor.transpose(0, 1) if layout == "htd" else tensor
    cuts = _whole_numbers(where, role, ends, 1).tolist()
    if cuts[:1] != [0] or cuts[-1] != len(whole) or sorted(cuts) != cuts or len(cuts) < 2:
        raise InputError(
            f"{where}: {role} is {_few(cuts)}, wanted B + 1 ascending numbers from 0 to the {len(whole)} tokens of {name}, shape "
            f"{tuple(tensor.shape)}"
        )
    return [whole[first:stop] for first, stop in pairwise(cuts)]


def _paged(where: str, name: str, pages: Tensor, table: Tensor, lengths: Tensor) -> list[Tensor]:
    """The keys of each sequence, (n, H_kv, D), from the blocks that a table names."""
    table, counts = (
        _whole_numbers(where, "block_table", table, 2),
        _whole_numbers(where, "cache_seqlens", lengths, 1).tolist(),
    )
    if pages.ndim != 4 or len(table) != len(counts) or not counts or not pages.shape[1]:
        raise InputError(
            f"{where}: {name} has shape {tuple(pages.shape)}, block_table {tuple(table.shape)} and cache_seqlens {len(counts)}; wanted "
            f"(blocks, block size, H_kv, D), (B, blocks of each) and (B,), with a sequence and a key to a block at least"
        )
    found = []
    for item, count in enumerate(counts):
        blocks = -(-count // pages.shape[1])
        own = table[item, :blocks]
        if count < 0 or blocks > table.shape[1] or bool(((own < 0) | (own >= len(pages))).any()):
            raise InputError(
                f"{where}: batch item {item} has {count} keys in blocks {_few(own.tolist())}; {name} has {len(pages)} blocks of "
                f"{pages.shape[1]}, and block_table names {table.shape[1]} for each"
            )
        found.append(pages[own.long()].flatten(0, 1)[:count])
    return found


def _items(where: str, q: Tensor, layout: str | None) -> list[Tensor]:
    """The queries of each batch item, (T, H, D), where they are not packed."""
    if q.ndim != 4:
        raise InputError(
            f"{where}: q has shape {tuple(q.shape)} beside block_table, wanted rank 4, or cu_seqlens_q for packed queries"
        )
    if not len(q):
        raise InputError(f"{where}: q is empty, shape {tuple(q.shape)}; every size must be at least 1")
    return [*(q if layout == "bthd" else q.transpose(1, 2))]


def _padded(parts: list[Tensor]) -> Tensor:
    """(B, H, n, D) of parts (n, H, D), filled up with 0."""
    longest = max(1, *(len(part) for part in parts))
    whole = parts[0].new_zeros(len(parts), parts[0].shape[1], longest, parts[0].shape[2])
    for item, part in enumerate(parts):
        whole[item, :, : len(part)] = part.transpose(0, 1)
    return whole


def _places(tensors: dict[str, Tensor], queries: list[int], keys: list[int]) -> None:
    """Which queries and keys exist, and where queries stand: last among their own keys."""
    import torch

    counts = torch.tensor([queries, keys])
    t, s = torch.arange(tensors["q"].shape[2]), torch.arange(tensors["k"].shape[2])
    tensors["query_padding_mask"] = t < counts[0][:, None]
    tensors["key_padding_mask"] = s < counts[1][:, None]
    tensors["query_positions"] = t + (counts[1] - counts[0])[:, None]


def _whole_numbers(where: str, role: str, numbers: Tensor, rank: int) -> Tensor:
    from attnviz.base.devices import whole  # it imports torch

    found = whole(numbers)
    if numbers.ndim != rank or found is None:
        kind = str(numbers.dtype).removeprefix("torch.")
        raise InputError(
            f"{where}: {role} has shape {tuple(numbers.shape)} and dtype {kind}, wanted whole numbers of rank {rank}"
        )
    return found.cpu()


def _few(numbers: list[int]) -> str:
    return f"[{', '.join(map(str, numbers[:8]))}{', …' if len(numbers) > 8 else ''}]"
