"""Weights from the command line: each way of holding them, from file to numbers and to a picture; each command that takes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionWeights
from attnviz.show.figures.style import colormap
from attnviz.sources.files import write_tensors
from tests import planted, reference

L, B, H, T = 3, 2, 2, 6
WORDS = ["the", "cat", "sat", "on", "a", "mat"]


def softmax(*shape: int) -> np.ndarray:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape)).softmax(-1).numpy()


def needles(heads: int = 1, size: int = 64, count: int = 6) -> np.ndarray:
    """(H, T, S), dark, with bright cells."""
    return np.stack([np.nan_to_num(planted.cells(size, size, count), nan=0.02)] * heads)


def bare(array: np.ndarray) -> None:
    np.save("held.npy", array)


def dump(array: np.ndarray) -> None:
    attnviz.save("held.safetensors", AttentionWeights(array))


def run_of(array: np.ndarray) -> None:
    attnviz.save("held.safetensors", [AttentionWeights(layer) for layer in array])


def dict_of(array: np.ndarray) -> None:
    torch.save({"attentions": tuple(torch.from_numpy(layer) for layer in array), "loss": 0.5}, "held.pt")


def steps_of(array: np.ndarray) -> None:
    torch.save([(torch.zeros(3),), [torch.from_numpy(layer) for layer in array]], "held.pt")


def tuple_of(array: np.ndarray) -> None:
    torch.save(tuple(torch.from_numpy(layer) for layer in array), "held.pt")


def list_of(array: np.ndarray) -> None:
    torch.save([torch.from_numpy(layer) for layer in array], "held.pt")


def arrays_of(array: np.ndarray) -> None:
    np.savez("held.npz", *array)


def files_of(array: np.ndarray) -> None:
    for n, layer in enumerate(array):
        np.save(f"layer_{n}.npy", layer)


def cache_of(array: np.ndarray) -> None:
    held = {f"blocks.{n}.attn.hook_pattern": torch.from_numpy(layer) for n, layer in enumerate(array)}
    write_tensors(Path("held.safetensors"), held)


HOLDINGS = {
    # what writes it, which dimensions it has before T and S, and how it is named
    "a dump": (dump, "bh", "held.safetensors"),
    "a dump of layers": (run_of, "lbh", "held.safetensors"),
    "hts": (bare, "h", "held.npy --weights held"),
    "bhts": (bare, "bh", "held.npy --weights held --layout bhts"),
    "lhts": (bare, "lh", "held.npy --weights held --layout lhts"),
    "lbhts": (bare, "lbh", "held.npy --weights held --layout lbhts"),
    "a file by itself": (bare, "h", "--weights held.npy"),
    "a tuple": (tuple_of, "lbh", "held.pt --weights {layer}"),
    "a tuple in a dict": (dict_of, "lbh", "held.pt --weights attentions.{layer}"),
    "a tuple of tuples": (steps_of, "lbh", "held.pt --weights 1.{layer}"),
    "a list": (list_of, "lh", "held.pt --weights {layer}"),
    "an array a layer": (arrays_of, "lbh", "held.npz --weights arr_{layer}"),
    "a file a layer": (files_of, "lbh", "--weights layer_{layer}.npy"),
    "a cache": (cache_of, "lbh", "held.safetensors --weights blocks.{layer}.attn.hook_pattern"),
}
SIZES = {"l": L, "b": B, "h": H}


@pytest.mark.parametrize("name", HOLDINGS)
def test_from_a_file_to_numbers(run, folder, name):
    write, letters, named = HOLDINGS[name]
    array = softmax(*(SIZES[letter] for letter in letters), T, T)
    write(array)
    layered, batched = "l" in letters, "b" in letters
    asked = [*named.split(), *(["--layer", "1-2"] if layered else []), *(["--batch", "1"] if batched else [])]
    result = run("stats", *asked, "--format", "json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["pattern"] == "given"
    assert "every key counts as visible" in result.err
    whole = array if layered else array[None]
    whole = whole if batched else whole[:, None]
    labels = [1, 2] if layered else [0]
    assert [(row["layer"], row["head"]) for row in found["heads"]] == [
        (n if layered else None, head) for n in labels for head in range(H)
    ]
    for row in found["heads"]:
        weights = whole[row["layer"] or 0, 1 if batched else 0, row["head"]]
        wanted = reference.statistics(weights, np.ones((T, T), dtype=bool), None, [0] * T)
        for statistic, number in wanted.items():
            assert row[statistic] == (None if number is None else pytest.approx(number, abs=1e-6)), statistic


PICTURES = {"a dump", "lbhts", "a tuple"}  # what reads differs, and not what draws: the others are in the matrix


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in PICTURES else pytest.mark.matrix) for name in HOLDINGS]
)
def test_from_a_file_to_a_picture(run, folder, name):
    write, letters, named = HOLDINGS[name]
    array = np.zeros((*(SIZES[letter] for letter in letters), 64, 64), dtype=np.float32)
    spot = tuple(SIZES[letter] - 1 for letter in letters)  # of the last layer, item and head alone
    array[spot] = needles()[0]
    write(array)
    layer = ["--layer", L - 1] if "l" in letters else []
    batch = ["--batch", B - 1] if "b" in letters else []
    result = run("plot", *named.split(), *layer, *batch, "--head", H - 1, "-o", "map.png")
    assert result.code == 0, result.err
    assert planted.seen(planted.opened(folder / "map.png")) - 1 == 6  # and the color bar


@pytest.fixture
def held(folder) -> np.ndarray:
    """``held.safetensors``: two items with tokens, causal."""
    array = np.tril(softmax(B, H, T, T))
    attnviz.save("held.safetensors", AttentionWeights(array, tokens=[WORDS] * B, pattern="causal"))
    return array


_LONG = pytest.mark.matrix
FIGURES = [
    pytest.param("plot --head all", marks=_LONG),
    "plot --head 1 --detail",
    pytest.param("plot --head 0 --strip sat", marks=_LONG),
    pytest.param("plot --compare held.safetensors", marks=_LONG),
    "plot --mean",
    pytest.param("plot --max", marks=_LONG),
    pytest.param("plot --head 1 --annot --pattern-outline", marks=_LONG),
    "overview",
    pytest.param("pattern", marks=_LONG),
    pytest.param("stats", marks=_LONG),
]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("command", FIGURES)
def test_every_figure_is_drawn(run, folder, held, command):
    name, *options = command.split()
    result = run(name, "held.safetensors", *options, "-o", "figure.png")
    assert result.code == 0, result.err
    assert len(np.unique(planted.opened(folder / "figure.png").reshape(-1, 3), axis=0)) > 8


def test_score_prints_and_writes_the_rows(run, folder, held):
    result = run("score", "held.safetensors", "--head", "1", "--batch", "1", "--format", "json")
    item = json.loads(result.out)["items"][0]
    weights = np.where(np.tri(T, dtype=bool), held[1, 1], np.nan)
    found = np.array(item["heads"][0]["weights"], dtype=float)
    np.testing.assert_allclose(found, weights, atol=1e-6)
    assert "scores" not in item["heads"][0]
    table = run("score", "held.safetensors", "--head", "1").out
    assert "given, causal" in table
    assert f"{held[0, 1, 0, 0]:.4f}" in table
    rows = run("score", "held.safetensors", "--head", "0", "--format", "csv").out.splitlines()
    assert len(rows) == 1 + T * (T + 1) // 2


def test_show_and_pattern_say_that_they_were_given(run, held):
    assert "given" in run("show", "held.safetensors", "--head", "1").out.splitlines()[0]
    assert "causal" in run("pattern", "held.safetensors").out


def test_a_pattern_of_weights_alone_is_what_is_not_zero(run, folder):
    weights = np.zeros((1, 4, 4), dtype=np.float32)
    weights[0, [0, 1, 2, 3, 3], [0, 0, 2, 1, 3]] = 0.5
    attnviz.save("held.npz", AttentionWeights(weights))
    out = run("pattern", "held.npz", "--head", "none").out
    assert "weights that are not 0" in out
    assert re.search(r"weight \(5\)|weight.*\b5\b", out), out


@pytest.mark.parametrize("with_layers", [False, True])
def test_tiles_snapshots_and_pages_hold_the_weights(run, folder, held, with_layers):
    name = "held.safetensors"
    assert run("tiles", name, "-o", "tiles", "--head", "1", "--levels", "all").code == 0
    tile = next(path for path in (folder / "tiles").rglob("max/**/0-0.npy"))
    np.testing.assert_allclose(np.load(tile)[:T, :T], np.where(np.tri(T), held[0, 1], np.nan), rtol=1e-6)
    assert run("snapshot", "save", name, "kept.json").code == 0
    assert run("snapshot", "check", name, "kept.json").code == 0
    other = held.copy()
    other[0, 1, 5, 2] += 0.01
    attnviz.save("other.safetensors", AttentionWeights(other, tokens=[WORDS] * B, pattern="causal"))
    changed = run("snapshot", "check", "other.safetensors", "kept.json")
    assert changed.code == 1
    if with_layers:
        attnviz.save(name, [AttentionWeights(held[:1], pattern="causal")] * 1)
    page = run("html", name, "-o", "page.html")
    assert page.code == 0, page.err
    assert '"given":true' in (folder / "page.html").read_text()


def test_diff_takes_weights_on_both_sides(run, folder, held):
    other = held.copy()
    other[1, 0, 5, 2] += 0.01
    attnviz.save("other.safetensors", AttentionWeights(other, pattern="causal"))
    assert run("diff", "held.safetensors", "other.safetensors").code == 0
    result = run("diff", "held.safetensors", "other.safetensors", "--batch", "1", "--format", "json")
    assert result.code == 1
    head = json.loads(result.out)["heads"][0]
    assert head["max_abs"] == pytest.approx(0.01)
    assert (head["worst"]["query"], head["worst"]["key"]) == (5, 2)
    assert run("diff", "held.safetensors", "--b-batch", "1").code == 1
    np.save("bare.npy", held)
    assert run("diff", "held.safetensors", "bare.npy:bare", "--batch", "1").code == 0
    assert run("diff", "bare.npy", "bare.npy", "--weights", "bare", "--layout", "lhts", "--layer", "1").code == 0


def test_arrays_of_two_files_are_called_by_their_own_names(run, folder):
    array = softmax(L, H, T, T)
    np.save("one.npy", array)
    np.save("two.npy", array + (np.arange(L) == 2)[:, None, None, None] * 0.01)
    named = ["one.npy", "two.npy", "--weights", "one", "--layout", "lhts"]
    assert [run("diff", *named, "--layer", layer).code for layer in (1, 2)] == [0, 1]
    named = ["one.npy", "--compare", "two.npy", *named[2:], "--layer", "2", "--head", "0"]
    assert run("plot", *named, "-o", "map.png").code == 0


def test_weights_are_held_against_what_is_computed(run, folder):
    inputs = attnviz.synthesize(heads=2, tokens=6)
    attnviz.save("dump.npz", inputs)
    attnviz.save("held.npz", AttentionWeights(attnviz.score(inputs, "causal").weights))
    assert run("diff", "held.npz", "dump.npz", "--b-pattern", "causal").code == 0
    assert run("diff", "held.npz", "dump.npz", "--b-pattern", "full").code == 1


def test_negative_weights_take_the_diverging_palette(run, folder):
    weights = np.zeros((1, 8, 8), dtype=np.float32)
    weights[0, 2, 3], weights[0, 5, 6] = -1.0, 1.0
    attnviz.save("held.npz", AttentionWeights(weights))
    assert run("plot", "held.npz", "-o", "map.png").code == 0
    ends = [np.round(255 * np.array(colormap(None, "difference")(end)[:3])) for end in (0.0, 1.0)]

    def cells(color: np.ndarray) -> int:
        return int((np.abs(planted.opened(folder / "map.png") - color).max(axis=2) < 6).sum())

    assert min(map(cells, ends)) > 100
    attnviz.save("plain.npz", AttentionWeights(np.abs(weights)))
    assert run("plot", "plain.npz", "-o", "map.png").code == 0
    assert cells(ends[0]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("explain held.safetensors", "holds weights that were given, and this needs q and k"),
        ("context held.safetensors -o c.npz", "there is no v, which the context needs"),
        ("plot held.safetensors --values logits -o x.png", "without logits"),
        ("score held.safetensors --values logits", "without logits"),
        (
            "plot held.safetensors --pattern local --window 0 -o x.png",
            r"weights are not 0 on pairs that the pattern local",
        ),
        ("stats held.safetensors --scale 2", "--scale 2.0: weights that were given are shown as they are"),
        ("stats held.safetensors --layer 3", "--layer 3: the file has no layers"),
        ("stats held.safetensors --weights nothing", "there is no tensor 'nothing'"),
    ],
)
def test_what_can_not_be_is_said_in_a_line(refused, held, arguments, says):
    refused(*arguments.split(), says=says)


def test_weights_in_place_of_queries_point_the_way(refused, folder):
    np.save("held.npy", softmax(2, 4, 4))
    refused("plot", "held.npy", "-o", "x.png", says=r"are they attention weights\? --weights held$")
    refused(
        "plot", "held.npy", "--q", "held", "--k", "held", "-o", "x.png", says="--weights held shows them as they are"
    )


def test_layers_of_another_tools_names_are_taken_by_every_command_of_layers(run, folder):
    inputs = attnviz.synthesize(heads=2, tokens=6)
    held = {}
    for n in range(3):
        held[f"blocks.{n}.attn.hook_q"] = (inputs.q * (n + 1)).transpose(1, 2)
        held[f"blocks.{n}.attn.hook_k"] = inputs.k.transpose(1, 2)
    write_tensors(folder / "cache.safetensors", held)
    names = ["--q", "blocks.{layer}.attn.hook_q", "--k", "blocks.{layer}.attn.hook_k", "--layout", "bthd"]
    causal = ["--pattern", "causal"]
    found = run("stats", "cache.safetensors", *names, *causal, "--layer", "0,2", "--format", "json")
    rows = json.loads(found.out)["heads"]
    assert [row["layer"] for row in rows] == [0, 0, 2, 2]
    for row in rows:
        scaled = attnviz.AttentionInputs(inputs.q * (row["layer"] + 1), inputs.k)
        wanted = attnviz.head_statistics(scaled, "causal")[row["head"]]
        assert row["entropy"] == pytest.approx(wanted.entropy, abs=1e-5)
    for command in (["overview", "-o", "o.png"], ["html", "-o", "page.html"]):
        result = run(command[0], "cache.safetensors", *names, *causal, *command[1:])
        assert result.code == 0, result.err
    assert run("plot", "cache.safetensors", *names, *causal, "--layer", "1", "-o", "x.png").code == 0
