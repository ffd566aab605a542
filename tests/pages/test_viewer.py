"""What a live page asks for is computed once, kept while there is room, and dropped when nobody waits."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from attnviz import AttentionInputs, InputError, Pyramid
from attnviz.attention.patterns import Causal, Full, Local, Pattern, longformer
from attnviz.pages import viewer as module
from attnviz.pages.description import Layers, PageLayer
from attnviz.pages.viewer import Kept, OutOfRange, Stopped, Viewer
from tests import reference
from tests.cases import small
from tests.coroutines import run as run_coroutine
from tests.pages.decoding import entropies
from tests.strategies import calls, normal

Tile = tuple[int, int, int, int, int, str]


class Passes:
    """Notes each pass as it begins, and holds it until told to go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.rows: list[int] = []
        self.go_on = Event()
        self.go_on.set()

    @contextmanager
    def watch(self, rows: int, title: str) -> Iterator[Callable[[int], None]]:
        self.begun.append(title)
        self.go_on.wait(60)
        yield self.rows.append


def layers(*patterns: Pattern, tokens: int = 600, heads: tuple[int, ...] = (0, 1, 2, 3)) -> list[PageLayer]:
    inputs = small(batch=1, tokens=tokens, global_positions=(0, 3))
    return [PageLayer(str(n), inputs.item(), pattern, heads) for n, pattern in enumerate(patterns)]


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
def make(passes) -> Iterator[Callable[..., Viewer]]:
    made: list[Viewer] = []

    def make(*shown: PageLayer, **settings: Any) -> Viewer:
        made.append(Viewer(shown, "test", watch=passes.watch, **settings))
        return made[-1]

    yield make
    passes.go_on.set()
    for viewer in made:
        viewer.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("pattern", [Causal(), longformer(9), Local(40)], ids=str)
def test_tiles_are_those_of_the_pyramid(make, monkeypatch, pattern):
    monkeypatch.setattr("attnviz.maps.pyramid.OVERVIEW", 256)  # finer levels are made on demand
    (layer,) = layers(pattern)
    pyramid = Pyramid(layer.attention)
    wanted = [(level, r, c) for level in range(3) for r, c in np.ndindex(*pyramid.grid(level))]

    async def ask(viewer: Viewer) -> list[np.ndarray]:
        return await asyncio.gather(*(viewer.tile(0, 2, *at, reduce) for at in wanted for reduce in ("max", "mass")))

    found = iter(run_coroutine(ask(make(layer))))
    for at in wanted:
        for reduce in ("max", "mass"):
            np.testing.assert_array_equal(next(found), pyramid.tile(2, *at, reduce=reduce))


@given(calls(dtype=torch.float64, values=False))
def test_what_a_live_page_shows_is_the_formula(call):
    shown = PageLayer("0", call.inputs.item(call.batch), call.pattern, tuple(range(call.inputs.H)))
    viewer, expected = Viewer([shown], "test"), call.expected()
    hidden = np.isneginf(expected.logits)
    T, S = hidden.shape[1:]

    async def ask(head: int) -> list[np.ndarray]:
        parts = [viewer.rectangle(0, head, range(T), range(S), values) for values in ("weights", "logits")]
        return await asyncio.gather(*parts, viewer.tile(0, head, 0, 0, 0, "max"), viewer.thumbnail(0, head))

    for head in range(call.inputs.H):
        weights, logits, tile, thumbnail = run_coroutine(ask(head))
        assert thumbnail.queries == T
        wanted = np.where(hidden[head], np.nan, expected.weights[head])
        np.testing.assert_allclose(logits, expected.logits[head], rtol=1e-6, atol=1e-6)
        for found in (weights, tile[:T, :S], thumbnail.cells):
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    viewer.close()


def test_a_layer_is_let_go_when_another_is_asked_for(make, passes):
    """What its passes kept stays."""
    read: list[tuple[int, weakref.ref[PageLayer]]] = []

    def one(index: int) -> PageLayer:
        assert all(layer() is None for _, layer in read)
        layer = layers(Causal(), Full(), Local(3), tokens=300)[index]
        read.append((index, weakref.ref(layer)))
        return layer

    viewer = Viewer(Layers(3, one), "test", watch=passes.watch)
    assert [index for index, _ in read] == [0, 1, 2]

    async def ask() -> None:
        for layer in (2, 0, 0, 1, 0):
            await viewer.tile(layer, 1, 0, 0, 0, "max")
            await viewer.rectangle(layer, 1, range(3), range(5), "logits")
            await viewer.progress(layer, 1)
            for thread in (viewer._passes, viewer._tiles):
                thread.submit(int).result()  # a thread lets go of its last work after it has told the result

    run_coroutine(ask())
    viewer.close()
    assert [index for index, _ in read] == [0, 1, 2, 0, 1, 0]
    assert len(passes.begun) == 3


def test_a_head_has_one_pass_however_many_ask(make, passes):
    viewer = make(*layers(Causal(), Full()))

    async def ask() -> None:
        tiles = [
            viewer.tile(layer, head, level, 0, 0, reduce)
            for layer in (0, 1)
            for head in (0, 3)
            for level in (0, 1, 2)
            for reduce in ("max", "mass")
        ]
        await asyncio.gather(*tiles, *(viewer.thumbnail(layer, head) for layer in (0, 1) for head in (0, 3)))
        await asyncio.gather(*(viewer.tile(0, 0, 2, 0, n, "max") for n in (0, 1, 2) for _ in range(60)))

    run_coroutine(ask())
    assert sorted(passes.begun) == ["layer 0, head 0", "layer 0, head 3", "layer 1, head 0", "layer 1, head 3"]
    assert sum(passes.rows) == 4 * 600


def test_equal_tiles_are_made_once(make, monkeypatch):
    viewer = make(*layers(Causal()))
    made: list[Any] = []
    tile = Pyramid.tile
    monkeypatch.setattr(
        Pyramid, "tile", lambda self, *at, **how: made.append((*at, how["reduce"])) or tile(self, *at, **how)
    )

    async def ask() -> None:
        for _ in range(2):  # at once, and again later
            await asyncio.gather(*(viewer.tile(0, 1, 2, 1, n % 3, "max") for n in range(200)))

    run_coroutine(ask())
    assert sorted(made) == [(1, 2, 1, 0, "max"), (1, 2, 1, 1, "max"), (1, 2, 1, 2, "max")]


def test_what_nobody_waits_for_any_more_is_not_begun(make, passes):
    passes.go_on.clear()
    viewer = make(*layers(Causal()))

    async def ask() -> None:
        first = asyncio.ensure_future(viewer.tile(0, 0, 0, 0, 0, "max"))
        await until(lambda: bool(passes.begun))
        others = [asyncio.ensure_future(viewer.tile(0, head, 0, 0, 0, "max")) for head in (1, 1, 2)]
        await asyncio.sleep(0)
        for task in (others[0], others[2]):
            task.cancel()
        await asyncio.gather(others[0], others[2], return_exceptions=True)
        passes.go_on.set()
        await asyncio.gather(first, others[1])
        assert passes.begun == ["head 0", "head 1"]  # head 1 still had one who waited
        await viewer.tile(0, 2, 0, 0, 0, "max")
        assert passes.begun == ["head 0", "head 1", "head 2"]
        assert not viewer._jobs

    run_coroutine(ask())


def test_a_pass_that_runs_is_kept_though_its_asker_left(make, passes):
    passes.go_on.clear()
    viewer = make(*layers(Causal()))

    async def ask() -> None:
        task = asyncio.ensure_future(viewer.tile(0, 0, 0, 0, 0, "max"))
        await until(lambda: bool(passes.begun))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        passes.go_on.set()
        await viewer.tile(0, 0, 0, 0, 0, "max")
        assert passes.begun == ["head 0"]
        assert viewer._kept.bytes > 0

    run_coroutine(ask())


def test_progress_begins_a_pass_and_tells_its_rows(make, passes):
    passes.go_on.clear()
    viewer = make(*layers(Causal()))

    async def ask() -> None:
        assert await viewer.progress(0, 1) == (600, 0)
        await until(lambda: bool(passes.begun))
        assert await viewer.progress(0, 1) == (600, 0)
        passes.go_on.set()
        while (await viewer.progress(0, 1))[1] < 600:
            await asyncio.sleep(0)
        assert 1 in viewer._overviews[0]  # what is said to be done is there

    run_coroutine(ask())
    assert passes.begun == ["head 1"]


def test_what_the_engine_refuses_is_told_each_time_and_tried_once(make, passes):
    q, k = normal((1, 2, 40, 3), 0), normal((1, 2, 40, 3), 1)
    q[0, 1, 7, 2] = torch.nan
    viewer = make(PageLayer("0", AttentionInputs(q, k).item(), Full(), (0, 1)))

    async def ask() -> None:
        for _ in range(2):
            with pytest.raises(InputError, match="q has 1 value that is NaN"):
                await viewer.tile(0, 1, 0, 0, 0, "max")
        with pytest.raises(InputError, match="NaN"):
            await viewer.progress(0, 1)
        await viewer.tile(0, 0, 0, 0, 0, "max")  # another head is none the worse

    run_coroutine(ask())
    assert passes.begun == ["head 1", "head 0"]


@pytest.mark.parametrize(
    "at",
    [
        *((1, 0, 0, 0, 0, "max"), (0, 4, 0, 0, 0, "max"), (0, 0, 3, 0, 0, "max"), (0, 0, -1, 0, 0, "max")),
        *((0, 0, 0, 1, 0, "max"), (0, 0, 2, 0, 3, "max"), (0, 0, 0, 0, 0, "mean"), (-1, 0, 0, 0, 0, "max")),
    ],
)
def test_tiles_that_are_not_there_cost_no_pass(make, passes, at: Tile):
    with pytest.raises(OutOfRange):
        run_coroutine(make(*layers(Causal())).tile(*at))
    assert not passes.begun


def test_rectangles_are_the_weights_and_logits_of_the_formula(make):
    inputs = small(batch=1, tokens=30, global_positions=(0, 3))
    expected = reference.attend(inputs.q[0], inputs.k[0], np.tril(np.ones((30, 30), dtype=bool)))
    viewer = make(PageLayer("0", inputs.item(), Causal(), (1, 2)))

    async def ask(values: str) -> np.ndarray:
        return await viewer.rectangle(0, 1, range(5, 20), range(3, 30), values)

    part = (2, slice(5, 20), slice(3, 30))
    np.testing.assert_allclose(run_coroutine(ask("logits")), expected.logits[part], rtol=0, atol=1e-5)
    shown = np.where(np.isneginf(expected.logits), np.nan, expected.weights)[part]
    np.testing.assert_allclose(run_coroutine(ask("weights")), shown, rtol=0, atol=1e-6)


def test_rectangles_are_the_same_before_and_after_the_pass(make, passes):
    viewer = make(*layers(longformer(5)))

    async def ask() -> list[np.ndarray]:
        before = await viewer.rectangle(0, 1, range(0, 9), range(0, 600, 1)[90:400], "weights")
        assert not passes.begun
        await viewer.tile(0, 1, 0, 0, 0, "max")
        viewer._kept = Kept(1 << 30)
        return [before, await viewer.rectangle(0, 1, range(0, 9), range(90, 400), "weights")]

    before, after = run_coroutine(ask())
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("queries", "keys"), [((0, 601), (0, 1)), ((3, 3), (0, 1)), ((0, 1), (5, 4)), ((0, 1), (600, 601))]
)
def test_positions_that_are_not_there(make, queries, keys):
    with pytest.raises(OutOfRange, match="are not a part of 0 to 600"):
        run_coroutine(make(*layers(Causal())).rectangle(0, 0, range(*queries), range(*keys), "weights"))


def test_a_rectangle_has_a_most(make, monkeypatch):
    monkeypatch.setattr(module, "MOST_RECTANGLE", 30_000)
    with pytest.raises(InputError, match="100 x 301 numbers are asked for at once; the most is 30,000 in all"):
        run_coroutine(make(*layers(Causal())).rectangle(0, 0, range(100), range(301), "weights"))


def test_vectors_are_those_that_the_score_uses(make):
    shape = (1, 2, 6, 4)
    tensors = {name: normal(shape, seed) for seed, name in enumerate(("q", "k", "q_global", "k_global"))}
    inputs = AttentionInputs(**tensors, global_mask=torch.arange(6) == 2)
    viewer = make(PageLayer("0", inputs.item(), longformer(1), (1,)))
    for query, (q, k) in {2: ("q_global", "k_global"), 3: ("q", "k")}.items():
        found = run_coroutine(viewer.vectors(0, 0, query, [4, 1, 5]))
        wanted = [tensors[q][0, 1, query], *(tensors[k][0, 1, key] for key in (4, 1, 5))]
        np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-6)
    for query, keys in ((6, [0]), (0, [2, 6]), (-1, [0])):
        with pytest.raises(OutOfRange):
            run_coroutine(viewer.vectors(0, 0, query, keys))
    with pytest.raises(InputError, match="65 keys are asked for at once; the most is 64"):
        run_coroutine(viewer.vectors(0, 0, 0, [0] * 65))


def test_thumbnails_that_would_take_long_are_of_some_queries_until_the_pass_is_made(make, passes, monkeypatch):
    monkeypatch.setattr(module, "_CHEAP_CELLS", 600 * 600 - 1)
    viewer = make(*layers(Causal(), Local(5)))

    async def ask() -> None:
        coarse = await viewer.thumbnail(0, 0)
        assert not passes.begun
        assert (coarse.queries, coarse.cells.shape) == (64, (64, 64))
        middle = [(600 * i // 64 + 600 * (i + 1) // 64) // 2 for i in range(64)]
        rows = np.stack([await viewer.row(0, 0, query) for query in middle])
        edges = [600 * i // 64 for i in range(64)]
        np.testing.assert_allclose(coarse.cells, np.fmax.reduceat(rows, edges, axis=1), rtol=1e-5)
        narrow = await viewer.thumbnail(1, 0)  # a window is few weights
        assert (narrow.queries, narrow.cells.shape) == (600, (64, 64))
        pyramid = Pyramid(viewer.layers[0].attention)
        tile = await viewer.tile(0, 0, 0, 0, 0, "max")
        found = await viewer.thumbnail(0, 0)
        assert found.queries == 600
        assert np.nanmax(found.cells) == np.nanmax(tile) == np.nanmax(pyramid.prepare(0).max)

    run_coroutine(ask())


@given(calls(dtype=torch.float64, values=False))
def test_whole_rows_and_columns_are_those_of_the_formula(call):
    """And what stands at the sides: what keys receive of all queries that see them, entropies and largest weights."""
    shown = PageLayer("0", call.inputs.item(call.batch), call.pattern, (call.inputs.H - 1,))
    viewer, expected = Viewer([shown], "test"), call.expected()
    weights = np.where(np.isneginf(expected.logits[-1]), np.nan, expected.weights[-1])
    query, key = weights.shape[0] - 1, weights.shape[1] // 2

    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(viewer.row(0, 0, query), viewer.column(0, 0, key), viewer.sides(0, 0))

    row, column, sides = run_coroutine(ask())
    viewer.close()
    np.testing.assert_allclose(row, weights[query], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(column, weights[:, key], rtol=1e-6, atol=1e-7)
    seen = ~np.isnan(weights)
    means = np.where(seen.any(0), np.nansum(weights, 0) / np.maximum(seen.sum(0), 1), np.nan)
    T, S = weights.shape
    received, entropy, largest = np.split(sides, [S, S + T])
    np.testing.assert_allclose(received, means, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(entropy, entropies(weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(largest, np.fmax.reduce(weights, axis=1), rtol=1e-5, atol=1e-7)


def test_a_pass_that_nobody_asks_for_any_more_ends(make, passes, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    passes.go_on.clear()
    viewer = make(*layers(Causal()))

    async def ask() -> None:
        assert await viewer.progress(0, 1) == (600, 0)  # somebody looks, and goes away
        await until(lambda: bool(passes.begun))
        passes.go_on.set()
        await until(lambda: not viewer._jobs)
        assert passes.rows == []
        await viewer.tile(0, 1, 0, 0, 0, "max")  # who waits has it

    run_coroutine(ask())
    assert passes.begun == ["head 1", "head 1"]


def test_a_file_that_changes_is_told_and_its_layers_are_not_read_again(make, tmp_path):
    file = tmp_path / "run.npz"
    file.write_bytes(b"as it was")
    shown = layers(Causal(), Full(), tokens=20)
    viewer = Viewer(Layers(2, shown.__getitem__), "test", files=[file])
    assert viewer.changed() is None
    file.write_bytes(b"something else")
    said = "run.npz has changed since attnviz view opened it: end it and start it again"
    assert viewer.changed() == said
    with pytest.raises(InputError, match=said):
        run_coroutine(viewer.tile(0, 0, 0, 0, 0, "max"))
    file.unlink()
    assert viewer.changed() == said.replace("has changed", "is gone")
    viewer.close()


def test_what_was_used_last_is_kept_and_the_rest_made_anew(make, passes):
    viewer = make(*layers(Causal()), memory=9_200_000)  # room for one pass of 600 x 600 cells, not for two

    async def ask() -> None:
        for n, head in enumerate((0, 0, 1, 1, 0)):
            await viewer.tile(0, head, 2, n // 3, n % 3, "max")
            assert viewer._kept.bytes <= 9_200_000
        assert passes.begun == ["head 0", "head 1", "head 0"]
        await viewer.tile(0, 1, 2, 1, 0, "max")  # a tile that is kept needs no pass
        assert passes.begun == ["head 0", "head 1", "head 0"]

    run_coroutine(ask())


def test_kept_values_go_in_the_order_of_use_save_the_pinned():
    gone: list[str] = []
    kept = Kept(30)
    for name in "abc":
        kept.put((name,), name, 10, lambda name=name: gone.append(name))
    assert kept.get(("a",)) == "a"
    with kept.pinned(("b",)):
        kept.put(("d",), "d", 10)
        assert gone == ["c"]
        kept.put(("e",), "e", 30)
        assert gone == ["c", "a"]
        assert ("b",) in kept
    assert gone == ["c", "a", "b"]
    assert (("e",) in kept, kept.bytes) == (True, 30)
    kept.put(("e",), "e", 5)
    assert kept.bytes == 5


def test_a_viewer_that_stops_ends_the_pass_and_begins_no_other(make, passes):
    passes.go_on.clear()
    viewer = make(*layers(Causal()))

    async def ask() -> None:
        task = asyncio.ensure_future(viewer.tile(0, 0, 0, 0, 0, "max"))
        await until(lambda: bool(passes.begun))
        viewer.stop()
        passes.go_on.set()
        with pytest.raises(Stopped):
            await task
        with pytest.raises(Stopped):
            await viewer.tile(0, 1, 0, 0, 0, "max")

    run_coroutine(ask())
    assert passes.begun == ["head 0"]
    assert passes.rows == []


def test_a_pattern_that_does_not_fit_is_refused_at_once(make):
    inputs = AttentionInputs(normal((1, 2, 5, 3), 0), normal((1, 2, 5, 3), 1))
    with pytest.raises(InputError, match="there is no global_mask"):
        make(PageLayer("0", inputs.item(), longformer(1), (0,)))
