"""Mistakes by any number, which is read from the rows that are wrong: named with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, product

import pytest
import torch
from torch import Tensor

from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import check_kernel
from attnviz.sources.arguments import inputs_of
from tests.compare.faults.test_backward import planted
from tests.faulty import Kernel, band, called, case, chunks, gradients, packed, prefixed
from tests.power import DTYPES

T, S = 48, 74


def seen(change: Callable[[Kernel], Tensor]) -> Callable[[Kernel], Kernel]:
    return lambda kernel: replace(kernel, count=change(kernel))


def without(first: int, last: int, times: float = 0.0) -> Callable[[Kernel], Kernel]:
    keys = torch.ones(S)
    keys[first:last] = times
    return seen(lambda kernel: kernel.count * keys)


def chunks_from(kernel: Kernel, begins: int) -> Tensor:
    moved = torch.arange(S) - begins
    own = moved[None] - kernel.distance()
    return ((moved // kernel.size == own // kernel.size) & (kernel.distance() <= 0)).double().expand(kernel.count.shape)


def first(kernel: Kernel, keys: int) -> Tensor:
    return torch.maximum(kernel.count, (torch.arange(S) < keys).double().expand(kernel.count.shape))


def heads(*order: int) -> Callable[[Kernel], Kernel]:
    return lambda kernel: replace(kernel, after=lambda w, c: (w[:, list(order)], c[:, list(order)]))


def moved(names: str, order: Callable[[Tensor], Tensor]) -> Callable[[Kernel], Kernel]:
    keys = order(torch.arange(S))
    return lambda kernel: replace(kernel, **{name: getattr(kernel, name)[:, :, keys] for name in names})


def exchanged(one: int, other: int, size: int) -> Callable[[Tensor], Tensor]:
    def order(keys: Tensor) -> Tensor:
        pages = list(keys.split(size))
        pages[one], pages[other] = pages[other], pages[one]
        return torch.cat(pages)

    return order


def ordered(table: tuple[int, ...], size: int) -> Callable[[Tensor], Tensor]:
    def order(keys: Tensor) -> Tensor:
        pages = list(keys.split(size))
        return torch.cat([*(pages[page] for page in table), *pages[len(table) :]])

    return order


def logits(kernel: Kernel) -> Tensor:
    return kernel.q.double() @ kernel.k.double()[:, kernel.kv_heads].transpose(2, 3) * kernel.scale


def with_weights(make: Callable[[Kernel], Tensor]) -> Callable[[Kernel], Kernel]:
    def mistake(kernel: Kernel) -> Kernel:
        weights = make(kernel)
        return replace(kernel, after=lambda w, c: (weights, weights @ kernel.v.double()[:, kernel.kv_heads]))

    return mistake


def sink_first(kernel: Kernel) -> Tensor:
    """The sink's own column is cut off at the wrong end."""
    x = logits(kernel).masked_fill(kernel.count[:, None] == 0, -math.inf)
    sink = kernel.sinks.double()[None, :, None, None].expand(*x.shape[:3], 1)
    return torch.softmax(torch.cat([x, sink], -1), -1)[..., 1:]


def in_whole_tiles(size: int) -> Callable[[Kernel], Tensor]:
    def count(kernel: Kernel) -> Tensor:
        own = torch.arange(S)[None] - kernel.distance()
        return (torch.arange(S)[None] // size <= own // size).double().expand(kernel.count.shape)

    return count


def not_rescaled(size: int) -> Callable[[Kernel], Kernel]:
    """Online softmax that forgets to rescale what it has when a later tile has a larger logit."""

    def after(kernel: Kernel) -> Tensor:
        x, v = logits(kernel), kernel.v.double()[:, kernel.kv_heads]
        peak, total, out = torch.full((*x.shape[:3], 1), -math.inf).double(), 0.0, 0.0
        for first in range(0, S, size):
            part = x[..., first : first + size]
            higher = torch.maximum(peak, part.amax(-1, keepdim=True))
            terms = torch.exp(part - higher)
            total = total * torch.exp(peak - higher) + terms.sum(-1, keepdim=True)
            out = out + terms @ v[:, :, first : first + size]
            peak = higher
        return out / total

    return lambda kernel: replace(kernel, after=lambda w, c: (w, after(kernel)))


def ring(size: int, late: int) -> Callable[[Kernel], Kernel]:
    """The last few keys are those that a ring had in their places."""

    def mistake(kernel: Kernel) -> Kernel:
        far = kernel.distance()
        index = torch.arange(S).expand(far.shape)
        index = torch.where((far > -late) & (far <= 0) & (index >= size), index - size, index)
        x = logits(kernel)
        index = index.expand(x.shape)
        weights = torch.softmax(x.gather(3, index).masked_fill(kernel.count[:, None] == 0, -math.inf), -1)
        by_key = torch.zeros_like(weights).scatter_add_(3, index, weights)
        return replace(kernel, after=lambda w, c: (weights, by_key @ kernel.v.double()[:, kernel.kv_heads]))

    return mistake


MISTAKES = {
    "a window off by two on one side": ("window", "16 before the query to 18 after", seen(lambda c: band(c, -c.window + 2, c.window))),
    "a window of any size": ("window", "a window of 13, not 18", seen(lambda c: band(c, -13, 13))),
    "a window beside global keys": ("longformer", "16 before the query to 18", seen(lambda c: band(c, -c.window + 2, c.window))),
    "a causal window of any size": ("causal window", "a window of 11, not 18", seen(lambda c: band(c, -11, 0))),
    "a causal mask off by five": ("causal", "the first to 5 after the query", seen(lambda c: band(c, -2 * S, 5))),
    "a causal mask of whole tiles": ("causal", "whole tiles of 12", seen(in_whole_tiles(12))),
    "the last tile of 48": ("full", "the last tile of 48", without(48, S)),
    "a tile of 24 in the middle": ("causal", "keys 24 to 47 left out", without(24, 48)),
    "a tile counted twice": ("full", "keys 48 to 73 counted twice: the last tile of 48", without(48, S, 2.0)),
    "the own key hidden": ("window", "own key left out", seen(lambda c: c.count * (c.distance() != 0))),
    "a scale of D": ("causal", "a scale of D", lambda c: replace(c, scale=16.0)),
    "the scale of D padded to 24": ("full", "1/sqrt(24)", lambda c: replace(c, scale=24**-0.5)),
    "any scale": ("window", "a scale of 0.1825", lambda c: replace(c, scale=0.1825)),
    "another softcap": ("softcap", "a softcap of 5, not 3", lambda c: replace(c, cap=5.0)),
    "slopes of twice the size": ("alibi", "slopes times 2", lambda c: replace(c, slopes=c.slopes * 2)),
    "half of the bias": ("bias", "the bias times 0.5", lambda c: replace(c, bias=c.bias * 0.5)),
    "the bias of the key before": ("bias", "the bias of the key before", lambda c: replace(c, bias=c.bias.roll(1, 2))),
    "a sink of 0": ("sinks", "a sink of 0, not", lambda c: replace(c, sinks=torch.zeros_like(c.sinks))),
    "a sink cut at the wrong end": ("sinks", "wrong end", with_weights(sink_first)),
    "heads in an order": ("full", "heads in another order", heads(2, 0, 3, 1)),
    "k's heads exchanged": ("full", "of k alone", lambda c: replace(c, k=c.k[:, [1, 0]])),
    "q of another batch item": ("full", "q of batch item", lambda c: replace(c, q=c.q.flip(0))),
    "keys round the end": ("causal", "key s-3, round the end,", moved("kv", lambda s: s.roll(3))),
    "two pages exchanged": ("causal", "pages 1 and 3 of 16 keys exchanged", moved("kv", exchanged(1, 3, 16))),
    "pages in any order": ("causal", "pages of 16 keys in the order 2, 0, 3, 1", moved("kv", ordered((2, 0, 3, 1), 16))),
    "pages of k in any order": ("full", "pages of 8 keys in the order 4, 2, 7, 0, 6, 1, 8, 3, 5", moved("k", ordered((4, 2, 7, 0, 6, 1, 8, 3, 5), 8))),
    "pages of v in any order": ("window", "pages of 24 keys in the order 1, 2, 0 of v", moved("v", ordered((1, 2, 0), 24))),
    "two pages of v exchanged": ("full", "of v alone", moved("v", exchanged(1, 2, 16))),
    "a ring that is behind": ("causal", "the last 3 keys not yet written in a ring of 32", ring(32, 3)),
    "a mask of 0 and 1 added": (
        "causal",
        "a mask of 0 and 1 added",
        with_weights(lambda c: torch.softmax(logits(c) + (c.count[:, None] > 0), -1)),
    ),
    "chunks of any size": ("chunked", "chunks of 24, not 19", seen(lambda c: chunks(c, 24))),
    "a prefix of any length": ("prefix", "a prefix of 46, not 50", seen(lambda c: prefixed(c, 46))),
    "a document's bound": (
        "documents",
        "begins at key 55, not at 50",
        seen(lambda c: packed(c, torch.where((torch.arange(S) >= 50) & (torch.arange(S) < 55), 1, c.documents))),
    ),
    "documents a few keys late": (
        "documents",
        "documents that begin 3 keys late",
        seen(lambda c: packed(c, c.documents[:, (torch.arange(S) - 3).clamp(min=0)])),
    ),
    "one document more": (
        "documents",
        "a document that begins at key 40, where none does",
        seen(lambda c: packed(c, c.documents + (torch.arange(S) >= 40))),
    ),
    "chunks of another beginning": ("chunked", "chunks that begin at 7, 26, ..., not at 0", seen(lambda c: chunks_from(c, 7))),
    "the first keys": ("causal window", "the first 6 keys seen by every query", seen(lambda c: first(c, 6))),
    "every third key": (
        "causal",
        "every 3 keys one, counted from key 0 + 1, seen alone",
        seen(lambda c: c.count * (torch.arange(S) % 3 == 1)),
    ),
    "every fifth key left out": (
        "full",
        "every 5 keys one, counted from the query, left out",
        seen(lambda c: c.count * (c.distance() % 5 != 0)),
    ),
    "some channels": ("full", "the first 11 of 16 channels of q and k", lambda c: replace(c, q=c.q * (torch.arange(16) < 11))),
    "padding of another length": (
        "padded",
        "keys, not",
        seen(lambda c: ((torch.arange(S)[None] < c.padding.sum(1, keepdim=True) - 3)[:, None]).double().expand(c.count.shape)),
    ),
    "sums that are not rescaled": ("full", "not rescaled from tile to tile of 16", not_rescaled(16)),
}  # fmt: skip
"""What is wrong, the case, what a message has to say of it, and how a kernel comes to it."""


def message(name: str, dtype: str, output: str) -> str:
    of_case, _, mistake = MISTAKES[name]
    right = case(of_case, T, S, DTYPES[dtype])
    given = called(right, of_case)
    inputs = inputs_of(given.pop("q"), given.pop("k"), None, right.v, **given)
    made = dict(zip(("weights", "context"), mistake(right).run(), strict=False))[output]
    return check_kernel(Outputs(inputs, **{output: made.to(DTYPES[dtype])})).message()


FINE = ("any scale", "a sink of 0")
"""Numbers that a half type doesn't tell from others that somebody may have meant."""

TURNS = cycle(["float32", "bfloat16", "float64", "float16"])
COVER = [(name, next(TURNS)) for name in [*MISTAKES][::2] if name not in FINE]


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(("name", "dtype"), COVER)
def test_a_mistake_by_any_number_is_named_with_it(name, dtype):
    assert MISTAKES[name][1] in message(name, dtype, "context")


@pytest.mark.power
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name, dtype in product(MISTAKES, DTYPES) if name not in FINE or "float16" not in dtype],
)
def test_every_mistake_by_any_number_is_named_with_it(name, dtype):
    assert MISTAKES[name][1] in message(name, dtype, "context")
    if "rescaled" not in name and " of v " not in name and "k's heads" not in name:  # which the map doesn't show
        assert MISTAKES[name][1] in message(name, dtype, "weights")


def test_the_number_of_a_mistake_is_one_that_somebody_meant_where_it_is_as_near():
    assert "--scale 0.204124145" in message("the scale of D padded to 24", "float32", "context")


NUMBERS = (
    "any scale",
    "another softcap",
    "slopes of twice the size",
    "half of the bias",
    "a sink of 0",
)
"""Mistakes by a number that every gradient tells."""


def of_gradient(name: str, dtype: str, gradient: str) -> str:
    of_case, _, mistake = MISTAKES[name]
    right, inputs, grad = planted(of_case, dtype)
    made = gradients(right, grad, mistake)[gradient].to(DTYPES[dtype])
    return check_kernel(Outputs(inputs, grad=grad, **{gradient: made})).message()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("name", "gradient"), [*zip(NUMBERS, cycle(["dk", "dv"]), strict=False)])
def test_a_number_is_read_from_the_gradient_of_keys_or_values_alone(name, gradient):
    assert MISTAKES[name][1] in of_gradient(name, "float32", gradient)


@pytest.mark.power
@pytest.mark.parametrize("gradient", ["dq", "dk", "dv"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name, dtype in product(NUMBERS, DTYPES) if name not in FINE or "float16" not in dtype],
)
def test_every_number_is_read_from_every_gradient(name, dtype, gradient):
    assert MISTAKES[name][1] in of_gradient(name, dtype, gradient)
