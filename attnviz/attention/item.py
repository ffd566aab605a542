"""One batch item of an attention call: what it is called, and its heads, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.checks import magnitude, require_finite
from attnviz.attention.standing import Standing
from attnviz.base.devices import accumulation_dtype, dtype_name
from attnviz.base.errors import InputError
from attnviz.base.labels import SPACE, Tokens

_BIAS_CELLS = 1 << 16  # of a bias that are looked at together

_RUN = 1024
"""Keys that are looked at together."""

_SUSPECT = 1e15
"""A number this large in a tensor with padding may be the padding's, where anything may stand."""


@dataclass(frozen=True)
class AttentionItem(Standing):
    """One batch item of an attention, read a head at a time onto ``device`` as ``dtype``."""

    dtype: torch.dtype

    @cached_property
    def products(self) -> AttentionCall:
        """The inputs with their q and k. Raises InputError for weights that were given, which have none."""
        if isinstance(self.inputs, AttentionCall):
            return self.inputs
        raise InputError(f"{self.source}: {self.inputs.without_products}")

    @property
    def given(self) -> bool:
        """Whether there are weights alone, given or made of others, and no products that they are the softmax of."""
        return not isinstance(self.inputs, AttentionCall)

    @cached_property
    def scale(self) -> float:
        """The factor on the dot products."""
        products = self.products
        return 1 / math.sqrt(products.D) if products.scale is None else products.scale

    @cached_property
    def compute_dtype(self) -> torch.dtype:
        """What products, sums and softmax run in: float32 for half types, else the dtype of the inputs."""
        return accumulation_dtype(self.dtype)

    # What it is called.

    @property
    def batch_shown(self) -> int | None:
        """The item's index, for titles; None where it is the only one."""
        return self.batch if self.inputs.B > 1 else None

    @cached_property
    def key_tokens(self) -> Tokens | None:
        """The tokens of the keys, where there are any."""
        inputs = self.inputs
        return self._tokens(inputs.tokens, inputs.word_ids, inputs.special_tokens)

    @cached_property
    def query_tokens(self) -> Tokens | None:
        """The tokens of the queries, where there are any: their own or, without such, those of the keys at their positions.

        Where no key is at a query's position, its token is empty.
        """
        inputs = self.inputs
        if inputs.query_tokens is not None:
            return self._tokens(inputs.query_tokens, inputs.query_word_ids, inputs.query_special_tokens)
        if self.key_tokens is None or self.cross:
            return None
        at = self.keys_of_queries
        return self.key_tokens if at == list(range(self.S)) else self.key_tokens.at(at)

    def key_labels(self, positions: Sequence[int], *, space: str = SPACE) -> list[str] | None:
        """The tokens of keys, by index, as a reader expects them, where there are any; ``space`` stands for a space."""
        return None if self.key_tokens is None else self.key_tokens.labels(positions, space=space)

    def query_labels(self, positions: Sequence[int], *, space: str = SPACE) -> list[str] | None:
        """The tokens of queries, by index, likewise; None where one of them has none."""
        if self.query_tokens is None:
            return None
        if self.inputs.query_tokens is None and min((self.keys_of_queries[t] for t in positions), default=0) < 0:
            return None
        return self.query_tokens.labels(positions, space=space)

    def _tokens(
        self,
        tokens: Sequence[Sequence[str]] | None,
        words: Sequence[Sequence[int | None]] | None,
        special: Sequence[Sequence[int]] | None,
    ) -> Tokens | None:
        if tokens is None:
            return None
        return Tokens(
            tokens[self.batch],
            self.inputs.token_form,
            None if words is None else words[self.batch],
            () if special is None else frozenset(special[self.batch]),
        )

    # Its heads.

    def kv_head(self, head: int) -> int:
        """The key head that query head ``head`` reads: ``h // (H / H_kv)``."""
        return head // (self.inputs.H // self.inputs.H_kv)

    def query(self, head: int, rows: range | None = None, *, for_global: bool = False) -> Tensor:
        """Queries of ``head``, (T, D); ``rows``: those positions alone; ``for_global``: as global queries project them."""
        name = "q_global" if for_global and self.products.q_global is not None else "q"
        return self._head(name, head, range(self.T) if rows is None else rows)

    def key(self, head: int, *, for_global: bool = False) -> Tensor:
        """Keys that query head ``head`` reads, (S, D)."""
        name = "k_global" if for_global and self.products.k_global is not None else "k"
        return self._head(name, self.kv_head(head))

    def longest_key(self, head: int, *, for_global: bool = False) -> float:
        """The largest length of a key that query head ``head`` reads, in :attr:`compute_dtype`; found once."""
        at = (f"longest key as {self.dtype}, {for_global}", self.batch, self.kv_head(head), None)
        if at not in self.inputs._largest:
            runs = self.key(head, for_global=for_global).split(_RUN)
            self.inputs._largest[at] = max(
                float(torch.linalg.vector_norm(k, dim=1, dtype=self.compute_dtype).amax()) for k in runs
            )
        return self.inputs._largest[at]

    def value(self, head: int, *, for_global: bool = False) -> Tensor:
        """Values that query head ``head`` reads, (S, D_v).

        Raises:
            InputError: the inputs have no v.
        """
        if getattr(self.inputs, "v", None) is None:
            raise InputError(f"{self.source}: there is no v, which the context needs; give one (--v NAME)")
        name = "v_global" if for_global and getattr(self.inputs, "v_global", None) is not None else "v"
        return self._head(name, self.kv_head(head))

    def given_rows(self, name: str, head: int, rows: range | Tensor) -> Tensor:
        """Rows of the weights or the logits of ``head`` as they were given, (b, S), in :attr:`compute_dtype`."""
        whole: Tensor = getattr(self.inputs, name)[self.batch, head]
        part = whole[rows.start : rows.stop : rows.step] if isinstance(rows, range) else whole[rows.to(whole.device)]
        return part.to(device=self.device, dtype=self.dtype).to(self.compute_dtype)

    def check_products(self, head: int, rows: range, *, for_global: bool = False) -> None:
        """Raises InputError where the logits of a head's queries and keys could overflow on their way to weights."""
        q, k = (
            f"{name}_global" if for_global and getattr(self.products, f"{name}_global") is not None else name
            for name in ("q", "k")
        )
        largest = self.inputs._largest
        most_q = largest[q, self.batch, head, rows]
        most_k = largest[k, self.batch, self.kv_head(head), None]
        # A quarter: the difference of two logits, times log2(e), must fit too.
        most = torch.finfo(self.compute_dtype).max / 4
        if self.products.D * most_q * most_k * max(self.scale, 1.0) > most:
            raise InputError(
                f"{self.source}: scores of head {head} overflow {dtype_name(self.compute_dtype)}: "
                f"{q} reaches {most_q:.3g}, {k} {most_k:.3g}, and the scale is {self.scale:.3g}; "
                f"use --dtype float64 or a smaller --scale"
            )

    def softcap(self) -> float | None:
        """c, where scores become ``c * tanh(score / c)``. Raises InputError for one that the arithmetic can't hold."""
        cap = self.products.softcap
        return None if cap is None else self._held("softcap", cap, least=torch.finfo(self.compute_dtype).tiny)

    def slope(self, head: int) -> float | None:
        """The ALiBi slope of a head. Raises InputError for one that the arithmetic can't hold."""
        slopes = self.products.alibi_slopes
        if slopes is None:
            return None
        return self._held(f"alibi_slopes[{head}]", float(slopes[head]), times=self.farthest)

    def sink(self, head: int) -> float | None:
        """The logit of a head's attention sink. Raises InputError for one that the arithmetic can't hold."""
        sinks = self.products.sinks
        return None if sinks is None else self._held(f"sinks[{head}]", float(sinks[head]))

    def bias(self, head: int) -> Tensor | None:
        """What is added to the scores of query head ``head``, (T, S), -inf where it hides a key; None where nothing is.

        Raises:
            InputError: NaN or +Inf in it, or a number that the arithmetic can't hold.
        """
        whole = self.products.bias
        if whole is None:
            return None
        place = self._bias_place(head)
        bias: Tensor = whole[place]
        seen = ("bias", *place, None)
        if seen not in self.inputs._largest:
            largest = 0.0
            rows = max(1, _BIAS_CELLS // bias.shape[1])
            for first in range(0, len(bias), rows):  # in parts, as nothing of the size of the map is made
                part = bias[first : first + rows]
                if not math.isfinite(magnitude(part)) and bool((hidden := part == -torch.inf).any()):
                    self.inputs._blanked.add(seen)
                    part = part.masked_fill(hidden, 0)
                largest = max(largest, require_finite(self.source, "bias", part, place, first))
            self.inputs._largest[seen] = largest
        self._held(f"bias{list(place)}", self.inputs._largest[seen])
        return bias.to(self.device).expand(self.T, self.S)

    def bias_hides(self, head: int) -> bool:
        """Whether the bias of query head ``head`` hides a key."""
        whole = self.products.bias
        if whole is None:
            return False
        self.bias(head)
        return ("bias", *self._bias_place(head), None) in self.inputs._blanked

    def _bias_place(self, head: int) -> tuple[int, int]:
        """Where the bias of a head stands: sizes of 1 broadcast."""
        bias = self.products.bias
        assert bias is not None
        B, H = bias.shape[:2]
        return min(self.batch, B - 1), min(head, H - 1)

    def _held(self, name: str, number: float, *, times: float = 1.0, least: float = 0.0) -> float:
        """``number``, where the arithmetic holds it and what it makes of logits."""
        info = torch.finfo(self.compute_dtype)
        if abs(number) * max(times, 1.0) > info.max / 4 or 0 < abs(number) < least:
            raise InputError(
                f"{self.source}: {name} is {number:.3g}, beyond what {dtype_name(self.compute_dtype)} can hold; "
                f"use --dtype float64 or another number"
            )
        return number

    def _head(self, name: str, head: int, rows: range | None = None) -> Tensor:
        """One head of a tensor; rows of padding, which take part in no result, are 0 where they hold no number."""
        tensor: Tensor = getattr(self.inputs, name)[self.batch, head]
        if rows is not None and len(rows) < tensor.shape[0]:
            tensor = tensor[rows.start : rows.stop]
        seen = (name, self.batch, head, rows)
        tensor, largest = self._existing(name, tensor, head, rows, seen)
        rounded = tensor.to(device=self.device, dtype=self.dtype)
        if rounded.dtype != tensor.dtype and torch.finfo(rounded.dtype).max < largest:
            require_finite(
                self.source, f"{name} as {dtype_name(self.dtype)}", rounded, (self.batch, head), _start(rows)
            )
        return rounded

    def _existing(
        self, name: str, tensor: Tensor, head: int, rows: range | None, seen: tuple[str, int, int, range | None]
    ) -> tuple[Tensor, float]:
        """A head's tensor with a number everywhere, and its largest magnitude."""
        known, exists = self.inputs._largest, self.query_padding if name.startswith("q") else self.key_padding
        if seen not in known:
            largest = magnitude(tensor)
            if largest < _SUSPECT:
                known[seen] = largest
            elif exists is not None:
                self.inputs._blanked.add(seen)
        if seen in self.inputs._blanked and exists is not None:
            here = exists if rows is None else exists[rows.start : rows.stop]
            tensor = tensor.masked_fill(~here.to(tensor.device)[:, None], 0)
        if seen not in known:
            known[seen] = require_finite(self.source, name, tensor, (self.batch, head), _start(rows))
        return tensor, known[seen]


def _start(rows: range | None) -> int:
    return 0 if rows is None else rows.start
