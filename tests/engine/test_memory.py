"""Local patterns cost O(T x window): no tensor has anything like T x S cells, whatever is asked of them."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Blocks, Causal, Chunked, Documents, Full, Local, Pattern, Prefix, longformer
from attnviz.compare.heads import compare
from attnviz.compare.sides import Exact, Given
from attnviz.engine.request import Request
from attnviz.engine.scores import ScoreStream

T, WINDOW, GLOBALS = 8_000, 32, 3
WHOLE = T * T  # cells of the map that must not be made
BAND = T * (2 * WINDOW + 1 + GLOBALS)


def exact(inputs: AttentionInputs, pattern: Pattern, **what: object) -> Exact:
    """The exact side of some inputs."""
    return Exact(Request(inputs, pattern, **what))


class Largest(TorchDispatchMode):
    """The most cells that the memory of any tensor holds, a view counted as what it views; the most bytes of one that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                held = tensor.untyped_storage().nbytes()
                self.cells = max(self.cells, held // max(tensor.element_size(), 1))
                if not (function.is_view or tensor._is_view()):
                    self.bytes = max(self.bytes, held)
        return out


def largest(call: Callable[[], object]) -> int:
    with Largest() as mode:
        call()
    return mode.cells


@pytest.fixture(scope="module")
def inputs() -> AttentionInputs:
    q, k, v = (torch.randn(1, T, 2, generator=torch.Generator().manual_seed(n)) for n in range(3))
    mask = torch.zeros(T, dtype=torch.bool)
    mask[[0, T // 2 - 1, T - 1]] = True
    return AttentionInputs(q, k, v, global_mask=mask)


PATTERNS = {
    "local": Local(WINDOW),
    "causal local": Local(WINDOW) & Causal(),
    "dilation": Local(WINDOW, 3),
    "longformer": longformer(WINDOW),
    "causal longformer": longformer(WINDOW) & Causal(),
    "two windows": Local(WINDOW) | Local(2),
}
ASKED = {
    "score": lambda inputs, pattern: attnviz.score(inputs, pattern),
    "context": lambda inputs, pattern: attnviz.context(inputs, pattern),
    "statistics": lambda inputs, pattern: attnviz.head_statistics(inputs, pattern),
    "map": lambda inputs, pattern: attnviz.attention_map(inputs, 0, pattern, pixels=200),
    "mass": lambda inputs, pattern: attnviz.attention_map(inputs, 0, pattern, reduce="mass", pixels=200),
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_local_pattern_makes_no_tensor_of_the_whole_map(inputs, name, asked):
    cells = largest(lambda: ASKED[asked](inputs, PATTERNS[name]))
    # A block of rows against its span may be wider than the band, but stays what a cache holds.
    assert cells <= max(BAND, 1 << 21) < WHOLE / 20


SIZES = [2 * WINDOW + 1 + GLOBALS] * (T // (2 * WINDOW + 1 + GLOBALS))
DOCUMENTS = torch.arange(len(SIZES) + 1).repeat_interleave(torch.tensor([*SIZES, T - sum(SIZES)]))
CHUNKS = Chunked(SIZES[0] // 2)
OF_BLOCKS = Blocks(torch.eye(-(-T // 64), dtype=torch.bool), 64)
PACKED = {
    "documents, causal": Documents() & Causal(),
    "chunks": CHUNKS & Causal(),
    "a prefix in documents": Documents() & Prefix(9),
    "a window in documents": Local(WINDOW),
}
ANEW = torch.cat([torch.arange(n) for n in torch.bincount(DOCUMENTS).tolist()])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("name", "asked", "places"),
    [
        ("documents, causal", "statistics", ANEW),
        ("documents, causal", "mass", None),
        ("chunks", "mass", None),
        ("a prefix in documents", "map", ANEW),
        ("a window in documents", "score", ANEW),
    ],
)
def test_documents_make_no_tensor_of_the_whole_map(inputs, name, asked, places):
    packed = replace(inputs, documents=DOCUMENTS, key_positions=places)
    cells = largest(lambda: ASKED[asked](packed, PACKED[name]))
    assert cells <= max(T * (2 * SIZES[0] - 1), 1 << 21) < WHOLE / 20


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("asked", ["statistics", "mass"])
def test_blocks_make_no_tensor_of_the_whole_map(inputs, asked):
    assert largest(lambda: ASKED[asked](inputs, OF_BLOCKS & Causal())) <= 1 << 21 < WHOLE / 20


def test_modifiers_and_patterns_take_no_more_than_a_tile_beside_a_tile():
    tokens, memory = 1000, 1_000_000
    q, k = (torch.randn(1, tokens, 2, generator=torch.Generator().manual_seed(n)) for n in range(2))
    pattern = Local(450) | Local(70, 3)  # no band without gaps
    extra = {"bias": torch.zeros(1, tokens, tokens), "alibi_slopes": torch.ones(1), "softcap": 5.0}
    plain, modified = AttentionInputs(q, k), AttentionInputs(q, k, **extra)
    for inputs in (plain, modified):
        inputs.item().query(0)  # looks for NaN once

    def largest_tensor(inputs: AttentionInputs, pattern: Pattern) -> int:
        with Largest() as mode:
            attnviz.attention_map(inputs, 0, pattern, pixels=100, memory=memory)
        return mode.bytes

    least = largest_tensor(plain, Full())
    assert least < memory / 3
    assert largest_tensor(modified, Full()) == least
    assert largest_tensor(plain, pattern) <= least


class Held(TorchDispatchMode):
    """The most bytes that tensors made in its block held at any time, all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self.own: dict[int, list[int]] = {}  # by address: how many tensors look at it, and its bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {
            one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)
        }
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (address := tensor.untyped_storage().data_ptr()):
                if address not in self.own and address in given:
                    continue  # a view of what was there before
                if address not in self.own:
                    self.own[address] = [0, tensor.untyped_storage().nbytes()]
                    self.now += self.own[address][1]
                    self.most = max(self.most, self.now)
                self.own[address][0] += 1
                weakref.finalize(tensor, self.gone, address)
        return out

    def gone(self, address: int) -> None:
        self.own[address][0] -= 1
        if not self.own[address][0]:
            self.now -= self.own.pop(address)[1]


@pytest.mark.sweep
def test_a_bound_on_memory_holds_for_every_dtype_and_whatever_is_expanded():
    tokens, D, memory = 1000, 64, 360_000
    every_other = torch.zeros(tokens, dtype=torch.bool)
    every_other[::2] = True
    bias = torch.zeros(1, 1, 1, tokens, dtype=torch.float16).expand(1, 2, tokens, tokens)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        q, k = (torch.randn(2, tokens, D, generator=torch.Generator().manual_seed(n)).to(dtype) for n in range(2))
        assert tokens * D * 4 > memory * 0.7  # keys in float32 alone would take most of it
        shared = AttentionInputs(q, k, global_mask=every_other)
        asked = [
            (AttentionInputs(q, k, bias=bias), Full()),
            (AttentionInputs(q, k, alibi_slopes=torch.ones(2)), Local(300) & Causal()),
            (shared, None),
            (
                attnviz.AttentionWeights(
                    torch.full((1, 2, tokens, 1), 1 / tokens, dtype=dtype).expand(-1, -1, -1, tokens)
                ),
                None,
            ),
        ]
        for inputs, pattern in asked if dtype == torch.float16 else asked[2:3]:
            with Held() as held:
                attnviz.attention_map(inputs, 1, pattern, pixels=20, memory=memory)
            assert 0 < held.most <= memory, (dtype, pattern)
    with pytest.raises(InputError, match=r"--memory 130,000 bytes is too small"):  # 500 keys of 64 numbers
        attnviz.attention_map(shared, 1, pixels=20, memory=130_000)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("other", [Local(WINDOW // 2), longformer(WINDOW), Local(WINDOW) & Causal()], ids=str)
def test_a_comparison_of_local_patterns_makes_no_tensor_of_the_whole_map(inputs, other):
    cells = largest(lambda: compare(exact(inputs, Local(WINDOW)), exact(inputs, other)))
    assert cells <= 1 << 21 < WHOLE / 20


def test_full_attention_streams_all_the_same(inputs):
    short = AttentionInputs(inputs.q[:, :, :4096], inputs.k[:, :, :4096], inputs.v[:, :, :4096])
    for asked in ("context", "statistics", "map", "mass"):
        assert largest(lambda asked=asked: ASKED[asked](short, Causal())) <= 1 << 21 < 4096 * 4096 / 4


def test_scores_that_are_written_come_a_few_rows_at_a_time(inputs):
    for pattern in (Causal(), Local(WINDOW)):
        stream = ScoreStream(Request(inputs, pattern), most=1 << 22)
        parts = stream.parts(0)
        assert largest(lambda: next(parts)) <= 1 << 21 < WHOLE / 20  # noqa: B023 (called here)
        assert largest(lambda: stream.some(0, [0, 1, T - 1])) <= 1 << 21  # noqa: B023


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_a_full_map_of_16384_tokens_takes_a_picture_and_a_tile(reduce):
    size, pixels = 16_384, 256
    q, k = (torch.randn(1, size, 4, generator=torch.Generator().manual_seed(n)) for n in range(2))
    full = AttentionInputs(q, k)

    tracemalloc.start()  # numpy's arrays, which torch does not see
    try:
        cells = largest(lambda: attnviz.attention_map(full, 0, Full(), reduce=reduce, pixels=pixels))
        assert tracemalloc.get_traced_memory()[1] <= 4 << 20
    finally:
        tracemalloc.stop()
    assert cells <= 2 << 20 < size * size / 100


@pytest.mark.sweep
def test_a_kernels_tensor_is_read_a_block_at_a_time():
    small = AttentionInputs(torch.zeros(1, 4096, 2), torch.zeros(1, 4096, 2))
    kernel = Given(torch.full((1, 1, 1), 1 / 4096).expand(1, 4096, 4096), None, None, "kernel")
    side = exact(small, Full())
    rows, found = [], []
    cells = largest(lambda: found.append(compare(side, kernel, progress=rows.append)))
    assert cells <= 1 << 21
    assert sum(rows) == 4096
    assert found[0].within


def test_the_measure_sees_a_whole_map():
    q = torch.zeros(1, 3000, 2)
    assert largest(lambda: attnviz.score(AttentionInputs(q, q), Full())) >= 3000 * 3000
    assert largest(lambda: q[0] @ q[0].T) == 3000 * 3000


class _Largest(TorchDispatchMode):
    """The most numbers that a tensor made meanwhile holds, of float32 or float64."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, torch.Tensor) and one.dtype in (torch.float32, torch.float64) and not func.is_view:
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // one.dtype.itemsize)
        return made


HALF_ROADS = {
    "map": lambda inputs: attnviz.attention_map(inputs, 0, "causal", queries=range(inputs.T - 8, inputs.T), pixels=64),
    "local map": lambda inputs: attnviz.attention_map(inputs, 0, Local(4), pixels=64),
    "score": lambda inputs: attnviz.score(inputs, "full", queries=range(8)),
    "statistics": lambda inputs: attnviz.head_statistics(inputs, Local(4)),
    "norms": lambda inputs: attnviz.attention_map(inputs, 0, Local(4), values="norms", queries=range(8), pixels=64),
    "logits of a rectangle": lambda inputs: attnviz.Pyramid.of(inputs, Local(4)).rectangle(0, range(8), range(8)),
    "tile": lambda inputs: attnviz.Pyramid.of(inputs, Local(4)).tile(0, 3, 0, 0),
    "difference": lambda inputs: attnviz.compare_maps(inputs, inputs, 0, Local(4), pixels=64),
    "words": lambda inputs: attnviz.attention_map(inputs, 0, Local(4), spans={"a": range(100)}, pixels=64),
    "renormalized": lambda inputs: attnviz.attention_map(inputs, 0, Local(4), hide=[0], renormalize=True, pixels=64),
    "sides": lambda inputs: attnviz.marginals(inputs, 0, Local(4)),
}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("road", HALF_ROADS)
def test_keys_and_values_of_half_types_are_never_copied_whole_into_wider_ones(road):
    T, D = 20_000, 128
    q, k, v = (torch.zeros(1, T, D, dtype=torch.bfloat16) for _ in range(3))
    inputs = attnviz.AttentionInputs(q, k, v, global_mask=torch.arange(T) == 3)
    with _Largest() as largest:
        HALF_ROADS[road](inputs)
    assert 0 < largest.numbers < T * D / 2
