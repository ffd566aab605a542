"""Pictures under weights: patches in grids, tiles and a thumbnail; patches that are queries; many queries, averaged or each."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.base.patches import Patches
from attnviz.engine.request import Request
from attnviz.plots.kinds.overlay import Overlay
from tests.strategies import normal

sizes = st.integers(1, 3)


@given(
    st.lists(st.tuples(sizes, sizes, sizes, sizes, st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=2),
    st.data(),
)
def test_weights_are_laid_by_the_share_of_a_patch_that_a_cell_is(parts, data):
    text, at, patches = [], 0, []
    for rows, columns, down, across, ends, apart in parts:
        at += data.draw(st.integers(0, 2))
        text.append(f"{at}:{down}x{across}*{rows}x{columns}+{ends}/{apart}")
        for tile in range(down * across):
            top, left = divmod(tile, across)
            for row in range(rows):
                for column in range(columns):
                    box = (
                        (Fraction(top * rows + row, down * rows), Fraction(top * rows + row + 1, down * rows)),
                        (
                            Fraction(left * columns + column, across * columns),
                            Fraction(left * columns + column + 1, across * columns),
                        ),
                    )
                    patches.append((at, box))
                    at += 1
                at += ends
            at += apart
        at -= apart
    weights = normal((at,), 0).abs().numpy()
    found = Patches.of(",".join(text), at, source="x")
    R, C = max(p[0] * p[2] for p in parts), max(p[1] * p[3] for p in parts)
    wanted = np.zeros((R, C))
    for place, (down, across) in patches:
        for r in range(R):
            for c in range(C):
                high = min(down[1], Fraction(r + 1, R)) - max(down[0], Fraction(r, R))
                wide = min(across[1], Fraction(c + 1, C)) - max(across[0], Fraction(c, C))
                if high > 0 and wide > 0:
                    area = high * wide / ((down[1] - down[0]) * (across[1] - across[0]))
                    wanted[r, c] += float(area) * weights[place]
    laid = found.laid(weights[found.span.start : found.span.stop])
    np.testing.assert_allclose(laid, wanted, rtol=1e-12)


def test_what_no_part_sees_is_blank():
    tiles = Patches.of("0:1x2*1x1,2:1x1", 3, source="x")
    assert np.isnan(Patches.of("1x2", 2, source="x").laid(np.array([np.nan, 1.0]))).tolist() == [[True, False]]
    np.testing.assert_allclose(tiles.laid(np.array([np.nan, 1.0, 0.5])), [[0.25, 1.25]])


@pytest.mark.parametrize("text", ["", "2", "0x2", "2x2x2", "a:2x2", "3x3", "9:2x2", "2x2,"])
def test_patches_that_cannot_be_are_an_error(text):
    with pytest.raises(InputError, match="--patches"):
        Patches.of(text, 8, source="x")


# What people have


def seen(T: int, S: int, **given: object) -> AttentionInputs:
    return AttentionInputs(normal((2, T, 4), 0), normal((2, S, 4), 1), **given)


def laid(
    inputs: AttentionInputs, head: int = 0, *, region: dict[str, range] | None = None, **how: object
) -> list[np.ndarray]:
    """What a figure lays over the picture, of each of its panels."""
    kind = Overlay(**how)
    request = kind.asked(Request(inputs, "full", head, **(region or {})))
    parts = kind.compute(request)
    return [parts.more["patches"].laid(shown.cells.ravel()) for shown in parts.maps]


def weights(inputs: AttentionInputs, head: int = 0) -> np.ndarray:
    return attnviz.score(inputs, "full", heads=[head]).weights[0].numpy()


def test_a_class_token_where_there_is_one_else_the_mean_of_all_patches():
    inputs = seen(5, 5)
    np.testing.assert_allclose(laid(inputs, patches=(2, 2))[0], weights(inputs)[0, 1:].reshape(2, 2))
    bare = seen(4, 4)
    np.testing.assert_allclose(laid(bare, patches="2x2")[0], weights(bare).mean(0).reshape(2, 2))
    of_all = laid(inputs, patches="2x2", region={"queries": range(1, 5)})[0]
    np.testing.assert_allclose(of_all, weights(inputs)[1:, 1:].mean(0).reshape(2, 2))


def test_a_word_over_the_tiles_and_the_thumbnail_of_a_vision_language_model():
    inputs = seen(10, 10)  # 2 words, 2 tiles of 2 x 1 side by side, a thumbnail of 2 x 1, 2 words
    found = laid(inputs, patches="2:1x2*2x1,6:2x1", region={"queries": range(9, 10)})[0]
    own = weights(inputs)[9]
    wanted = np.array([[own[2] + own[6] / 2, own[4] + own[6] / 2], [own[3] + own[7] / 2, own[5] + own[7] / 2]])
    np.testing.assert_allclose(found, wanted)
    with pytest.raises(InputError, match="its queries are no patches"):
        laid(inputs, patches="2:1x2*2x1,6:2x1")


def test_object_queries_over_a_feature_map_averaged_or_each():
    inputs = seen(3, 6, cross=True)
    own = weights(inputs)
    each = laid(inputs, patches="2x3", each=True, region={"queries": range(1, 3)})
    np.testing.assert_allclose(each, own[1:].reshape(2, 2, 3))
    np.testing.assert_allclose(
        laid(inputs, patches="2x3", region={"queries": range(1, 3)})[0], own[1:].mean(0).reshape(2, 3)
    )


def test_a_grid_of_queries_gives_to_a_word():
    inputs = seen(6, 4, cross=True)
    found = laid(inputs, patches="2x3", grid="queries", region={"keys": range(2, 3)})[0]
    np.testing.assert_allclose(found, weights(inputs)[:, 2].reshape(2, 3))
    several = laid(inputs, patches="2x3", grid="queries", region={"keys": range(1, 3)})[0]
    np.testing.assert_allclose(several, weights(inputs)[:, 1:3].sum(1).reshape(2, 3))
    with pytest.raises(InputError, match="name it with --keys"):
        laid(inputs, patches="2x3", grid="queries")


def test_a_hidden_patch_is_blank():
    inputs = seen(5, 5)
    request = Overlay(patches=(2, 2)).asked(Request(inputs, "full", 0, hide=[1]))
    found = Overlay(patches=(2, 2)).compute(request).maps[0].cells.ravel()
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], weights(inputs)[0, 2:])
