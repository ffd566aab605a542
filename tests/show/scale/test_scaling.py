"""Shares of a scale: what matplotlib's own norms make of the same values, and back."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.base.errors import InputError
from attnviz.show.figures.scales import ColorScale
from attnviz.show.scale.scaling import Scaling

RANDOM = np.random.default_rng(4)
WEIGHTS = RANDOM.dirichlet([0.1] * 12, size=9)
WEIGHTS[2, 5:] = np.nan  # hidden
WEIGHTS[3, 3] = 0.0
LOGITS = RANDOM.normal(0.5, 3, size=(9, 12))
LOGITS[2, 5:] = np.nan
KINDS = {"weights": WEIGHTS, "logits": LOGITS, "difference": LOGITS / 10}

ASKED = [
    {"norm": norm, **ends}
    for norm in ("linear", "log", "power", "rank", "row")
    for ends in ({}, {"robust": True}, {"vmax": 0.4}, {"vmin": 0.01}, {"vmin": -1.0, "vmax": 3.0})
    if not (norm == "rank" and ends) and not (norm == "log" and ends.get("vmin", 1) < 0)
]


@pytest.mark.sweep(keep=18)
@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_shares_are_those_of_matplotlibs_norms(asked, values):
    cells = KINDS[values]
    if values == "logits" and asked["norm"] == "log":
        with pytest.raises(InputError, match="logits are logarithms"):
            Scaling(**asked).fit_values([cells], values)
        return
    if values == "logits" and asked["norm"] == "row" and asked.get("vmin", 0) > 0:
        with pytest.raises(InputError, match="--vmin must be below --vmax"):  # below a row's largest nothing is above 0
            Scaling(**asked).fit_values([cells], values)
        return
    fitted = Scaling(**asked).fit_values([cells], values)
    drawn = ColorScale(**asked).fit_cells([cells], values)
    expected = np.ma.filled(np.ma.asarray(drawn.norm(drawn.cells(cells)), dtype=float), np.nan).clip(0, 1)
    np.testing.assert_allclose(fitted.shares(cells), expected, atol=1e-9)
    assert (fitted.extend, fitted.note) == (drawn.extend, drawn.note)


@pytest.mark.sweep(keep=18)
@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_value_has_the_share_that_it_is_found_at(asked, values):
    try:
        fitted = Scaling(**asked).fit_values([KINDS[values]], values)
    except InputError:
        return
    for share in (0.1, 0.3, 0.5, 0.85):
        value = fitted.value_at(share)
        if asked["norm"] == "row":  # a row of one value would be its own largest
            assert fitted.low < value < fitted.high
            continue
        assert fitted.shares(np.array([[value]])) == pytest.approx(share)
    if asked["norm"] != "rank":
        assert (fitted.value_at(0), fitted.value_at(1)) == pytest.approx((fitted.low, fitted.high))


def test_one_scale_for_several_maps():
    fitted = Scaling().fit_values([WEIGHTS, WEIGHTS * 2], "weights")
    assert fitted.high == pytest.approx(2 * np.nanmax(WEIGHTS))


@pytest.mark.parametrize("norm", ["linear", "log", "power", "rank", "row"])
@pytest.mark.parametrize("cells", [np.full((2, 2), np.nan), np.zeros((2, 2)), np.ones((1, 1))], ids=["blank", "0", "1"])
def test_maps_without_a_range(norm, cells):
    shares = Scaling(norm).fit_values([cells], "weights").shares(cells)
    assert np.array_equal(np.isnan(shares), np.isnan(cells))
    assert ((shares >= 0) & (shares <= 1) | np.isnan(shares)).all()


@pytest.mark.parametrize("end", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["vmin", "vmax"])
def test_an_end_that_is_not_finite_is_refused(name, end):
    with pytest.raises(InputError, match=f"--{name} .*: is no end of a color scale"):
        Scaling(**{name: end})


def test_ends_further_apart_than_numbers_reach_are_refused():
    for scaling, cells in ((Scaling(vmin=-1e308, vmax=1e308), 0.5), (Scaling(), -1e308)):
        with pytest.raises(InputError, match="further than numbers reach"):
            scaling.fit_values([np.full((2, 2), cells)], "weights")
