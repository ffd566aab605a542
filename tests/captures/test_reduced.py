"""``maps=``: cells, statistics and log-sum-exp of each head in place of its q and k; the same numbers, and no more memory."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attnviz
from attnviz import InputError
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.captures.reduced import reduced
from attnviz.compare.snapshots.comparing import compare_snapshots
from attnviz.pages.description import PageLayer
from attnviz.pages.viewer import Viewer
from tests.coroutines import run as wait_for


def inputs_of(T: int, S: int, *, batch: int = 1, pattern: Pattern | None = None) -> attnviz.AttentionInputs:
    torch.manual_seed(T + S)
    padding = torch.ones(batch, S, dtype=torch.bool)
    padding[-1, : S // 7] = False
    return attnviz.AttentionInputs(
        2 * torch.randn(batch, 2, T, 4),
        2 * torch.randn(batch, 1, S, 4),
        torch.randn(batch, 1, S, 4),
        key_padding_mask=padding,
        pattern=pattern or attnviz.Causal(),
        layer=3,
    )


CASES = {
    "a cell a weight": inputs_of(41, 41, batch=2),
    "cells of two sizes": inputs_of(301, 301, batch=2),
    "a power of two": inputs_of(512, 512),
    "a decode step": inputs_of(1, 700),
    "fewer queries than keys": inputs_of(270, 600, pattern=attnviz.Local(20)),
    "a head of its own": inputs_of(300, 300, pattern=attnviz.Full()),
}


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory) -> tuple[attnviz.AttentionInputs, Inputs]:
    """Inputs, and their reduced maps as a file gives them back."""
    inputs = CASES[request.param]
    path = tmp_path_factory.mktemp("maps") / "maps.safetensors"
    attnviz.save(path, [reduced(inputs)])
    return inputs, attnviz.load(path, layer=3)


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("reduce", ["max", "mass"])
@pytest.mark.parametrize("pixels", [256, 128, 64])
def test_pictures_are_those_of_q_and_k(both, reduce, pixels):
    inputs, maps = both
    for batch in range(inputs.B):
        a, b = (attnviz.attention_map(one, 1, batch=batch, reduce=reduce, pixels=pixels) for one in (inputs, maps))
        assert np.array_equal(np.isnan(a.cells), np.isnan(b.cells))
        np.testing.assert_allclose(b.cells, a.cells, atol=2e-7, rtol=1e-6)
        assert replace(b, cells=a.cells) == a


def test_a_picture_of_any_size_has_as_many_cells_or_half(both):
    inputs, maps = both
    for pixels in (200, 90, 33, 1):
        cells = attnviz.attention_map(maps, 0, pixels=pixels).cells.shape
        for count, size in zip(cells, (inputs.T, inputs.S), strict=True):
            assert min(pixels, size) / 2 < count <= min(pixels, size)


def test_tiles_of_a_page_are_those_of_q_and_k_as_far_as_they_go(both):
    inputs, maps = both
    ours, theirs = attnviz.Pyramid.of(maps), attnviz.Pyramid.of(inputs)
    assert ours.levels == theirs.levels
    assert ours.overview_level == (0 if max(inputs.T, inputs.S) > 256 else ours.levels - 1)
    for reduce in ("max", "mass"):
        np.testing.assert_allclose(
            ours.tile(0, 0, 0, 0, reduce=reduce), theirs.tile(0, 0, 0, 0, reduce=reduce), atol=2e-7, rtol=1e-6
        )
    if ours.overview_level < ours.levels - 1:
        with pytest.raises(InputError, match="reduced while the model ran"):
            ours.tile(0, ours.levels - 1, 0, 0)


def test_statistics_and_denominators_are_those_of_q_and_k(both):
    inputs, maps = both
    for batch in range(inputs.B):
        assert attnviz.head_statistics(maps, batch=batch) == attnviz.head_statistics(inputs, batch=batch)
        a, b = (attnviz.Pyramid.of(one, batch=batch).prepare(1).denominators for one in (inputs, maps))
        torch.testing.assert_close(b[:, 0] + b[:, 1].log(), a[:, 0] + a[:, 1].log(), equal_nan=True)


def test_a_snapshot_of_either_is_within_the_other(both):
    inputs, maps = both
    snapshots = [attnviz.take_snapshot(one, cells=32) for one in (inputs, maps)]
    if snapshots[0].heads[0].cells.keys() == snapshots[1].heads[0].cells.keys():
        shapes = [next(iter(one.heads[0].cells.values())).shape for one in snapshots]
        if shapes[0] == shapes[1]:
            assert compare_snapshots(*snapshots).within
    told, kept = (one.heads[1].statistics for one in snapshots)
    for name, value in told.items():
        assert kept[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-5))


REFUSED = {
    "a context": lambda maps: attnviz.context(maps),
    "logits": lambda maps: attnviz.attention_map(maps, 0, values="logits"),
    "scores": lambda maps: attnviz.score(maps),
    "norms": lambda maps: attnviz.attention_map(maps, 0, values="norms"),
    "rollout": lambda maps: attnviz.attention_map([maps, maps], 0, rollout=True, reduce="mass"),
    "a mean of heads": lambda maps: attnviz.attention_map(maps, 0, mean="heads", reduce="mass"),
    "hidden keys": lambda maps: attnviz.attention_map(maps, 0, hide="0", reduce="mass"),
    "some queries' statistics": lambda maps: attnviz.head_statistics(maps, queries=range(3, 9)),
    "a part": lambda maps: attnviz.attention_map(maps, 0, queries=range(3, 150)),
    "another pattern": lambda maps: attnviz.attention_map(maps, 0, "full"),
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_q_and_k_says_so_in_a_line(what):
    maps = reduced(CASES["cells of two sizes"])
    with pytest.raises(InputError, match="without --maps") as error:
        REFUSED[what](maps)
    assert "\n" not in str(error.value)


def test_a_page_knows_how_far_it_can_zoom():
    maps = reduced(CASES["cells of two sizes"])
    layer = PageLayer("3", maps.item(), maps.pattern, (0, 1))
    viewer = Viewer([layer], "maps")
    try:
        said = viewer.description["layers"][0]
        assert (said["levels"], said["kept"], said["pattern"]) == (2, 0, "causal")
        tile = wait_for(viewer.tile(0, 1, 0, 0, 0, "mass"))
        np.testing.assert_array_equal(tile, attnviz.Pyramid.of(maps).tile(1, 0, 0, 0, reduce="mass"))
        assert wait_for(viewer.thumbnail(0, 0)).cells.shape == (64, 64)
        with pytest.raises(InputError, match="reduced while the model ran"):
            wait_for(viewer.rectangle(0, 0, range(3, 9), range(3), "weights"))
    finally:
        viewer.close()


@pytest.mark.parametrize("pixels", [128, 300, 0])
def test_cells_that_tiles_cannot_be_made_of_are_refused(pixels):
    with pytest.raises(InputError, match="a power of two, 256 or more"):
        reduced(CASES["a cell a weight"], pixels)


class Attends(torch.nn.Module):
    """A layer whose q and k are watched: by the time it runs, none is there any more but those of the layer before."""

    def __init__(self, watched: list[weakref.ref[torch.Tensor]]) -> None:
        super().__init__()
        self.watched = watched

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gc.collect()
        assert all(one() is None for one in self.watched[:-2])
        q, k, v = ((x * factor).view(1, 1, -1, 8) for factor in (1.1, 0.9, 0.5))
        self.watched += [weakref.ref(one) for one in (q, k)]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).view(x.shape)


@pytest.mark.sweep
def test_memory_follows_the_picture(tmp_path):
    watched: list[weakref.ref[torch.Tensor]] = []
    model = torch.nn.Sequential(*[Attends(watched) for _ in range(3)]).eval()
    path = tmp_path / "maps.safetensors"
    with torch.no_grad(), attnviz.capture(model, out=path, maps=256) as run:
        model(torch.randn(1, 1025, 8))
    gc.collect()
    assert len(watched) == 6
    assert all(one() is None for one in watched)
    for layer in run.layers:
        kept = run.inputs(layer)
        assert not hasattr(kept, "q")
        assert (kept.T, kept.S, str(kept.pattern)) == (1025, 1025, "causal")
        assert max(one.numel() for grid in kept.grids for one in (grid.max, grid.mass)) == 256 * 256


def test_reduced_maps_go_into_a_file_and_are_of_one_forward_pass(tmp_path):
    model = torch.nn.Sequential(Attends([]))
    with pytest.raises(InputError, match="out="), attnviz.capture(model, maps=256):
        model(torch.randn(1, 5, 8))
    again = Attends([])
    with pytest.raises(InputError, match="ran twice"), attnviz.capture(again, out=tmp_path / "m.safetensors", maps=256):
        torch.nn.Sequential(again, again)(torch.randn(1, 5, 8))
    assert not (tmp_path / "m.safetensors").exists()


def test_a_damaged_file_is_named(tmp_path):
    from attnviz.sources.files import open_tensors, write_tensors

    path = tmp_path / "maps.safetensors"
    attnviz.save(path, [reduced(CASES["a cell a weight"])])
    file = open_tensors(path)
    tensors = {name: file.read(name) for name in file.contents}
    said = dict(file.metadata)
    for name, cut in (("layers.3.max", slice(0, 1)), ("layers.3.log_sum_exp", slice(0, 1))):
        write_tensors(tmp_path / "cut.safetensors", {**tensors, name: tensors[name][:, cut].contiguous()}, said)
        with pytest.raises(InputError, match=r"cut.safetensors: .* capture it again"):
            attnviz.load(tmp_path / "cut.safetensors", layer=3)
    for maps in ({**said["layers"]["3"]["maps"], "queries": "many"}, {"pixels": 256}):
        write_tensors(tmp_path / "cut.safetensors", tensors, said | {"layers": {"3": {"maps": maps}}})
        with pytest.raises(InputError, match=r"is not attnviz.maps/1"):
            attnviz.load(tmp_path / "cut.safetensors", layer=3)
