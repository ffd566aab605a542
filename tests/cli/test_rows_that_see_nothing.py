"""A query, or a head, that a mask of one's own shows nothing is blank: every command and every export says the same."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import Full, Masked
from tests.pages.decoding import Page

B, H, T, S = 2, 3, 6, 6
BLIND_HEAD, BLIND_QUERY = 1, 4


def mask_of(kind: str) -> Tensor:
    """A mask that shows query 4 nothing, and, where heads differ, head 1 nothing at all."""
    mask = torch.ones(B, H, T, S, dtype=torch.bool).tril()
    mask[:, 0, :, 2] = False
    mask[:, :, BLIND_QUERY] = False
    mask[:, BLIND_HEAD] = False
    return {"queries": mask[0, 0], "items": mask[:, 0], "heads": mask, "heads alike in batch": mask[:1]}[kind]


kinds = pytest.mark.parametrize("kind", ["queries", "items", "heads", "heads alike in batch"])
ways = pytest.mark.parametrize("way", ["mask", "bias", "added"])


def written(kind: str, way: str) -> np.ndarray:
    """Writes ``dump.safetensors``, and says who sees whom in its first item, (H, T, S)."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, H, T, 8, generator=generator) for _ in range(3))
    mask = mask_of(kind)
    wide = mask if mask.ndim == 4 else mask.view(-1, 1, T, S)
    if way == "mask":
        attnviz.save("dump.safetensors", AttentionInputs(q, k, v, pattern=Masked(mask)))
    elif way == "bias":
        bias = torch.zeros(wide.shape).masked_fill(~wide, -torch.inf)
        attnviz.save("dump.safetensors", AttentionInputs(q, k, v, bias=bias, pattern=Full()))
    else:  # as a library writes a mask
        from safetensors.torch import save_file

        added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        save_file({"q": q, "k": k, "v": v, "attention_mask": added}, "dump.safetensors")
    return wide[0].expand(H, T, S).numpy()


def same(found: Any, visible: np.ndarray) -> None:
    """That weights, NaN or None where there are none, are there for the keys seen and sum to 1, or are not at all."""
    found = np.array(found, dtype=float)
    seen = visible.any(-1)
    assert np.isnan(found[~seen]).all()
    shown = np.nan_to_num(found)
    assert (shown[~visible] == 0).all()
    assert (shown[visible] > 0).all()
    np.testing.assert_allclose(shown.sum(-1)[seen], 1, atol=2e-3)


def of_score_json(run: Callable[..., Any], visible: np.ndarray) -> None:
    items = json.loads(run("score", "dump.safetensors", "--batch", 0, "--format", "json").out)["items"]
    same([head["weights"] for head in items[0]["heads"]], visible)
    scores = np.array([head["scores"] for head in items[0]["heads"]], dtype=float)
    assert (np.isnan(scores) == ~visible).all()


def of_score_csv(run: Callable[..., Any], visible: np.ndarray) -> None:
    rows = list(csv.DictReader(io.StringIO(run("score", "dump.safetensors", "--batch", 0, "--format", "csv").out)))
    cells = {(int(row["head"]), int(row["query"]), int(row["key"])): float(row["weight"] or "nan") for row in rows}
    found = np.full((H, T, S), np.nan)
    for place, weight in cells.items():
        found[place] = weight
    same(found, visible)


def of_score_npz(run: Callable[..., Any], visible: np.ndarray) -> None:
    run("score", "dump.safetensors", "--batch", 0, "--out", "scores.npz")
    same(np.load("scores.npz")["weights"].reshape(H, T, -1), visible)


def of_stats(run: Callable[..., Any], visible: np.ndarray) -> None:
    heads = json.loads(run("stats", "dump.safetensors", "--format", "json").out)["heads"]
    expected = json.loads(run("score", "dump.safetensors", "--batch", 0, "--format", "json").out)["items"][0]["heads"]
    for head in range(H):
        if not visible[head].any():
            numbers = [heads[head][name] for name in ("entropy", "entropy_share", "max_weight", "distance")]
            assert numbers == [None] * 4
            continue
        shares, tops = [], []
        for t in np.flatnonzero(visible[head].any(-1)):
            row = [expected[head]["weights"][t][s] for s in np.flatnonzero(visible[head, t])]
            tops.append(max(row))
            if len(row) > 1:
                shares.append(-sum(w * math.log(w) for w in row if w) / math.log(len(row)))
        assert heads[head]["max_weight"] == pytest.approx(np.mean(tops), abs=1e-5)
        assert heads[head]["entropy_share"] == pytest.approx(np.mean(shares), abs=1e-5)


def of_context(run: Callable[..., Any], visible: np.ndarray) -> None:
    run("context", "dump.safetensors", "-o", "context.npz")
    found = np.load("context.npz")["context"][0]
    assert (np.isnan(found).all(-1) == ~visible.any(-1)).all()
    assert (np.isnan(found).any(-1) == ~visible.any(-1)).all()


def of_plot(run: Callable[..., Any], visible: np.ndarray) -> None:
    run("plot", "dump.safetensors", "--head", "all", "-o", "map.npz")
    cells = np.load("map.npz")["cells"]
    assert (np.isnan(cells) == ~visible).all()
    same(cells, visible)


def of_tiles(run: Callable[..., Any], visible: np.ndarray) -> None:
    run("tiles", "dump.safetensors", "-o", "tiles")
    for head in range(H):
        cells = np.load(f"tiles/{head}/max/0/0-0.npy")[:T, :S]
        assert (np.isnan(cells) == ~visible[head]).all()


def of_snapshot(run: Callable[..., Any], visible: np.ndarray) -> None:
    run("snapshot", "save", "dump.safetensors", "map.npz")
    arrays = np.load("map.npz")
    for head in range(H):
        for name in (name for name in arrays.files if name.startswith(f"head.{head}.")):
            assert (np.isnan(arrays[name]) == ~visible[head]).all()
    checked = run("snapshot", "check", "dump.safetensors", "map.npz")
    assert checked.code == 0, checked.err


def of_page(run: Callable[..., Any], visible: np.ndarray) -> None:
    run("html", "dump.safetensors", "-o", "page.html")
    page = Page(Path("page.html").read_text())
    (layer,) = page.layers
    same(page.weights(layer), visible)


def of_show(run: Callable[..., Any], visible: np.ndarray) -> None:
    if visible[BLIND_HEAD].any():
        return
    shown, blind = (run("show", "dump.safetensors", "--head", head, "--color", "none") for head in (0, BLIND_HEAD))
    maps = [result.out.split("\n\n")[0] for result in (shown, blind)]
    assert [bool(set("░▒▓█") & set(text)) for text in maps] == [True, False]


COMMANDS = {name.removeprefix("of_"): check for name, check in list(globals().items()) if name.startswith("of_")}


@pytest.mark.sweep(keep=9)
@kinds
@ways
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_the_same_of_a_row_that_sees_nothing(run, folder, kind, way, command):
    visible = written(kind, way)
    assert not visible[0, BLIND_QUERY].any()
    COMMANDS[command](run, visible)
