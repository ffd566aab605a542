"""What is wrong with patterns, score modifiers and the commands that take them: one line, exit 2, nothing written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz.sources.files import write_tensors
from tests.cases import arrays, small

COMMANDS = {
    "score": ["score", "dump.safetensors"],
    "plot": ["plot", "dump.safetensors", "-o", "out.png"],
    "context": ["context", "dump.safetensors", "-o", "out.npz"],
    "stats": ["stats", "dump.safetensors", "-o", "out.png"],
    "diff": ["diff", "dump.safetensors", "--b-dtype", "bfloat16", "-o", "out.png"],
}
command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def masks(folder) -> None:
    """Masks that do not fit, and one that does."""
    np.savez(
        "masks.npz",
        sees=np.ones((6, 6), dtype=bool),
        wide=np.ones((6, 7), dtype=bool),
        ints=np.full((6, 6), 2),
        flat=np.ones(5, dtype=bool),
    )


# Patterns

PATTERNS = {
    "unknown": (["--pattern", "sliding"], "--pattern 'sliding' is not one of global, full, causal, local"),
    "a window with full": (["--pattern", "full", "--window", "4"], "--window 4: the full pattern has no window"),
    "a window of 0 with full": (["--pattern", "full", "--window", "0"], "--window 0: the full pattern has no window"),
    "a window with causal": (["--pattern", "causal", "--window", "4"], "--window 4: the causal pattern has no window"),
    "a window with global": (["--pattern", "global", "--window", "4"], "--window 4: the global pattern has no window"),
    "a dilation with full": (["--pattern", "full", "--dilation", "2"], "--dilation 2: the full pattern has no window"),
    "local without a window": (["--pattern", "local"], "--pattern local needs --window"),
    "dilation without a window": (["--pattern", "local", "--dilation", "2"], "--pattern local needs --window"),
    "local+global without a window": (["--pattern", "local+global"], r"--pattern local\+global needs --window"),
    "a window alone": (["--window", "4"], "--window and --dilation need a local pattern"),
    "a window of 0 alone": (["--window", "0"], "--window and --dilation need a local pattern"),
    "a dilation alone": (["--dilation", "2"], "--window and --dilation need a local pattern"),
    "a negative window": (["--pattern", "local", "--window=-1"], "a window is 0 or more .* given -1 and 1"),
    "a window beyond all counting": (["--pattern", "local", f"--window={2**63}"], "a window of 92.* is too wide"),
    "a dilation of 0": (
        ["--pattern", "local", "--window", "1", "--dilation", "0"],
        "dilation 1 or more; given 1 and 0",
    ),
    "a window that is no number": (["--pattern", "local", "--window", "x"], "--window"),
    "causal twice": (["--pattern", "causal", "--causal"], "--causal: the causal pattern is causal already"),
}


@pytest.mark.sweep(keep=8)
@command
@pytest.mark.parametrize("case", PATTERNS)
def test_a_pattern_that_cannot_be(refused, dump, command, case):
    options, says = PATTERNS[case]
    refused(*COMMANDS[command], *options, says=says)


@command
def test_a_window_beside_a_dumps_own_pattern(refused, folder, command):
    metadata = {"format": 1, "pattern": {"name": "causal"}}
    write_tensors(Path("dump.safetensors"), {role: getattr(small(), role) for role in "qkv"}, metadata)
    for width in ("0", "3"):
        refused(*COMMANDS[command], "--window", width, says="--window and --dilation need a local pattern")


MASKS = {
    "another shape": (["masks.npz:wide"], r"masks.npz:wide has shape \(6, 7\), wanted \(T, S\) = \(6, 6\)"),
    "ints": (["masks.npz:ints"], r"masks.npz:ints has dtype int64 and holds other numbers than 0 and 1"),
    "one dimension": (["masks.npz:flat"], r"masks.npz:flat has shape \(5,\), wanted \(T, S\) = \(6, 6\)"),
    "a name that is not there": (["masks.npz:nope"], "masks.npz: there is no tensor 'nope'; the file holds"),
    "no name": (["masks.npz"], r"--mask-file masks.npz: the file holds .*say which one with masks.npz:NAME"),
    "a file that is not there": (["gone.npz:sees"], "gone.npz: there is no such file"),
    "no file": (["sees"], "--mask-file sees: name a file, as FILE:NAME or FILE"),
    "a pattern too": (["masks.npz:sees", "--pattern", "full"], "--pattern full: --mask-file says which query sees"),
    "a window too": (["masks.npz:sees", "--window", "0"], "--window 0: --mask-file says which query sees"),
    "a dilation too": (["masks.npz:sees", "--dilation", "2"], "--dilation 2: --mask-file says which query sees"),
}


@pytest.mark.sweep(keep=14)
@command
@pytest.mark.parametrize("case", MASKS)
def test_a_mask_file_that_does_not_fit(refused, dump, masks, command, case):
    options, says = MASKS[case]
    refused(*COMMANDS[command], "--mask-file", *options, says=says)


@command
def test_a_pattern_of_order_where_keys_are_of_another_sequence(refused, folder, command):
    tensors = {role: torch.from_numpy(a) for role, a in arrays(q=arrays()["q"][:, :4]).items()}
    write_tensors(Path("dump.safetensors"), tensors, {"format": 2, "cross": True})
    for options in (["--pattern", "local+global", "--window", "1"], ["--pattern", "causal"], ["--causal"]):
        refused(*COMMANDS[command], *options, says=r"keys are of another sequence \(cross\), which has no order")


@command
def test_a_pattern_of_global_keys_without_any(refused, folder, command):
    write_tensors(Path("dump.safetensors"), {role: getattr(small(), role) for role in "qkv"})
    for options in ([], ["--pattern", "local+global", "--window", "1"]):
        refused(*COMMANDS[command], *options, says="there is no global_mask; name one")


# Score modifiers

MODIFIERS = {
    "softcap 0": (["--softcap", "0"], "softcap is 0.0, wanted a finite number above 0"),
    "softcap negative": (["--softcap=-2"], "softcap is -2.0, wanted a finite number above 0"),
    "softcap inf": (["--softcap", "inf"], "softcap is inf"),
    "softcap nan": (["--softcap", "nan"], "softcap is nan"),
    "scale negative": (["--scale=-1"], "scale is -1.0, wanted a finite number above 0"),
    "too few sinks": (["--sinks", "extra.npz:three"], r"sinks has shape \(3,\).*wanted \(H,\) = \(4,\)"),
    "sinks of ints": (["--sinks", "extra.npz:ints"], r"sinks has shape \(4,\) and dtype int64, wanted"),
    "an infinite sink": (["--sinks", "extra.npz:infinite"], r"sinks has 1 value that is NaN or Inf, first at .*\(2,\)"),
    "too many slopes": (["--alibi", "extra.npz:five"], r"alibi_slopes has shape \(5,\).*wanted \(H,\) = \(4,\)"),
    "a slope a query": (["--alibi", "extra.npz:bias"], r"alibi_slopes has shape \(4, 6, 6\)"),
    "a bias of other heads": (
        ["--bias", "extra.npz:three_heads"],
        r"bias has shape \(3, 6, 6\).*\(H, T, S\) = \(4, 6, 6\)",
    ),
    "a bias of other keys": (["--bias", "extra.npz:wide"], r"bias has shape \(4, 6, 7\)"),
    "a bias of two dimensions": (["--bias", "extra.npz:flat"], r"bias has shape \(6, 6\)"),
    "a bias of bools": (["--bias", "extra.npz:bools"], r"bias has shape \(4, 6, 6\) and dtype bool"),
    "a bias that is not there": (["--bias", "nope"], "dump.safetensors: there is no tensor 'nope'"),
    "sinks of no name": (["--sinks", "extra.npz"], "--sinks extra.npz: the file holds .* say which one"),
}


@pytest.mark.sweep(keep=7)
@command
@pytest.mark.parametrize("case", MODIFIERS)
def test_a_score_modifier_that_does_not_fit(refused, dump, command, case):
    np.savez(
        "extra.npz",
        three=np.ones(3),
        five=np.ones(5),
        ints=np.ones(4, dtype=np.int64),
        infinite=np.array([0, 0, np.inf, 0]),
        bias=np.ones((4, 6, 6)),
        three_heads=np.ones((3, 6, 6)),
        wide=np.ones((4, 6, 7)),
        flat=np.ones((6, 6)),
        bools=np.ones((4, 6, 6), dtype=bool),
    )
    options, says = MODIFIERS[case]
    refused(*COMMANDS[command], *options, says=says)


@command
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_bias_that_is_not_finite(refused, dump, command, wrong):
    bias = np.zeros((4, 6, 6))
    bias[1, 2, 3] = wrong
    np.save("bias.npy", bias)
    refused(*COMMANDS[command], "--bias", "bias.npy", says=r"bias has 1 value that is NaN or Inf.*\(0, 1, 2, 3\)")


METADATA = {
    "a pattern of its own name": ("full", "its metadata gives the pattern as 'full', wanted"),
    "a pattern without a name": ({"window": 2}, "its metadata gives the pattern as .*wanted"),
    "an unknown setting": (
        {"name": "local", "width": 2},
        "its metadata's pattern: the pattern 'local': width=2 is no setting of it",
    ),
    "a window of text": ({"name": "local", "window": "2"}, "its metadata gives the pattern as .*wanted"),
    "a window with full": ({"name": "full", "window": 2}, "its metadata's pattern: --window 2: the full pattern"),
    "no window": ({"name": "local"}, "its metadata's pattern: --pattern local needs --window"),
}


@pytest.mark.sweep(keep=9)
@command
@pytest.mark.parametrize("case", METADATA)
def test_a_pattern_of_the_metadata_that_cannot_be(refused, folder, command, case):
    pattern, says = METADATA[case]
    tensors = {role: getattr(small(), role) for role in "qkv"}
    write_tensors(Path("dump.safetensors"), tensors, {"format": 1, "pattern": pattern})
    refused(*COMMANDS[command], says=f"dump.safetensors: {says}")


# context


def test_context_without_values(refused, folder):
    np.savez("dump.npz", **arrays(v=None))
    refused(
        "context", "dump.npz", "-o", "out.npz", says=r"dump.npz: there is no v, which the context needs; .*--v NAME"
    )


def test_context_without_an_output(refused, dump):
    refused("context", dump, says="--out")


@pytest.mark.parametrize("out", ["c.csv", "c.png", "c", "c.npy"])
def test_an_output_suffix_that_context_does_not_write(refused, dump, out):
    refused("context", dump, "-o", out, says=f"{out}: unknown suffix .*write one of .safetensors, .npz, .pt, .pth")


def test_a_context_over_its_own_source(refused, dump):
    refused("context", dump, "-o", dump, says="is an input of this command and would be overwritten")


def test_a_context_over_its_mask(refused, dump, masks):
    options = ["--mask-file", "masks.npz:sees", "-o", "masks.npz"]
    refused("context", dump, *options, says="masks.npz: is an input of this command")


def test_nan_in_the_values(refused, folder):
    v = arrays()["v"].copy()
    v[1, 2, 3] = np.nan
    np.savez("dump.npz", **arrays(v=v))
    refused("context", "dump.npz", "-o", "c.npz", says=r"v has 1 value that is NaN or Inf.*\(0, 1, 2, 3\)")


# stats

STATS = {
    "--sort unknown": (
        ["--sort", "size"],
        "--sort 'size' is not one of entropy, entropy_share, max_weight, global_mass",
    ),
    "--ascending alone": (["--ascending"], "--ascending: it turns --sort around, and no --sort is given"),
    "--statistic unknown": (["--statistic", "size"], "--statistic 'size' is not one of entropy"),
    "--statistic without a figure": (["--statistic", "distance"], "--statistic distance: .* name one with -o"),
    "--format unknown": (["--format", "yaml"], "--format 'yaml' is not one of table, json, csv"),
    "--batch of several": (["--batch", "all"], "--batch 'all': one batch item is wanted here, 2 are given"),
    "--batch out of range": (["--batch", "2"], "--batch '2': batch item 2 is out of range"),
    "--head out of range": (["--head", "4"], "--head '4': head 4 is out of range"),
    "-o unknown": (["-o", "stats.txt"], "stats.txt: unknown suffix .*write one of .png, .pdf, .svg, .json, .csv"),
    "-o into a gone directory": (["-o", "gone/stats.png"], "the directory gone does not exist"),
    "--layer of no layers": (["--layer", "0"], "--layer 0: the file has no layers"),
    "--device unknown": (["--device", "tpu"], "--device 'tpu' is not a device"),
}


@pytest.mark.parametrize("case", STATS)
def test_an_option_of_stats_that_cannot_be_used(refused, dump, case):
    options, says = STATS[case]
    refused("stats", dump, *options, says=says)


def test_a_layer_that_cannot_be_read_stops_the_statistics(refused, folder):
    named = {f"layers.{layer}.{name}": array for layer in range(2) for name, array in arrays().items()}
    named["layers.1.q"] = named["layers.1.q"] * np.float32("nan")
    np.savez("layers.npz", **named)
    refused("stats", "layers.npz", "-o", "stats.png", says="layers.npz layer 1: q has .*NaN or Inf")


# diff


@pytest.fixture
def kernel(folder) -> None:
    """A kernel's weights and scores of all six keys, and tensors that are none."""
    result = attnviz.score(replace(small(), global_mask=None), attnviz.attention.patterns.Full())
    np.savez(
        "kernel.npz",
        weights=result.weights,
        scores=result.scores,
        short=result.weights[:, :5],
        few=result.weights[:3],
        narrow=result.weights[:, :, :3],
        ints=np.ones((4, 6, 6), dtype=np.int64),
        flat=np.ones((6, 6)),
    )


FULL = ["--pattern", "full"]
DIFF = {
    "one side alone": ([], "one side is given and no setting that differs; name B, or give a --b-... option"),
    "values unknown": (["--b-causal", "--values", "scores"], "--values 'scores' is not one of weights, logits"),
    "format unknown": (["--b-causal", "--format", "csv"], "--format 'csv' is not one of table, json"),
    "atol negative": (["--b-causal", "--atol=-1"], "--atol"),
    "atol nan": (["--b-causal", "--atol", "nan"], "--atol"),
    "rtol inf": (["--b-causal", "--rtol", "inf"], "--rtol inf: a tolerance is a finite number"),
    "top-k 0": (["--b-causal", "--top-k", "0"], "--top-k"),
    "head": (["--b-causal", "--head", "4"], "--head '4': head 4 is out of range"),
    "batch": (["--b-causal", "--batch", "2"], "batch item 2 is out of range; there are 2"),
    "-o unknown": (["--b-causal", "-o", "diff.txt"], "diff.txt: unknown suffix .*write one of .png, .pdf, .svg"),
    "-o gone": (["--b-causal", "-o", "gone/diff.png"], "the directory gone does not exist"),
    "B gone": (["gone.npz"], "gone.npz: there is no such file"),
    "B without the name": (["kernel.npz:nope"], "kernel.npz: there is no tensor 'nope'; the file holds"),
    "B of fewer queries": ([*FULL, "kernel.npz:short"], r"has 6 queries but .*short has 5; as \(H, T, S\)"),
    "B of fewer heads": ([*FULL, "kernel.npz:few"], r"has 4 heads but .*few has 3; as \(H, T, S\)"),
    "B of fewer keys": ([*FULL, "kernel.npz:narrow"], r"narrow: has 3 columns, .*wanted 6, a key position each"),
    "B of ints": ([*FULL, "kernel.npz:ints"], r"ints: has shape \(4, 6, 6\) and dtype int64, wanted weights or scores"),
    "B of two dimensions": (
        [*FULL, "kernel.npz:flat"],
        r"flat: has shape \(6, 6\) .*wanted weights or scores \(H, T, S\)",
    ),
    "--b-dtype unknown": (["--b-dtype", "int8"], "--b-dtype 'int8' is not one of float16"),
    "--b-device unknown": (["--b-device", "tpu"], "--b-device 'tpu' is not a device"),
    "--b-pattern unknown": (["--b-pattern", "sliding"], "--b-pattern 'sliding' is not one of"),
    "--b-window with full": (["--pattern", "full", "--b-window", "0"], "--b-window 0: the full pattern has no window"),
    "--b-pattern starts afresh": (
        ["--pattern", "local", "--window", "2", "--b-pattern", "local"],
        "--b-pattern local needs --window",
    ),
    "--b-scale 0": (["--b-scale", "0"], "scale is 0.0, wanted a finite number above 0"),
    "--b-softcap 0": (["--b-softcap", "0"], "softcap is 0.0, wanted a finite number above 0"),
    "--b-layer": (["--b-layer", "0"], "--layer 0: the file has no layers"),
    "--b-batch": (["--b-batch", "2"], "batch item 2 is out of range; there are 2"),
    "--b-global": (["--b-global", "9"], "--b-global '9': position 9 is out of range"),
    "--b-mask-file": (["--b-mask-file", "gone.npz:x"], "gone.npz: there is no such file"),
}


@pytest.mark.sweep(keep=9)
@pytest.mark.parametrize("case", DIFF)
def test_an_option_of_diff_that_cannot_be_used(refused, dump, kernel, case):
    options, says = DIFF[case]
    refused("diff", dump, *options, says=says)


OF_B = [
    ["--b-dtype", "float16"],
    ["--b-device", "cpu"],
    ["--b-pattern", "full"],
    ["--b-window", "0"],
    ["--b-dilation", "1"],
    ["--b-causal"],
    ["--b-mask-file", "kernel.npz:x"],
    ["--b-scale", "1"],
    ["--b-softcap", "1"],
    ["--b-layer", "0"],
    ["--b-batch", "0"],
    ["--b-global", "0"],
]


@pytest.mark.parametrize("options", OF_B, ids=lambda options: options[0])
def test_a_setting_of_b_where_b_is_a_plain_tensor(refused, dump, kernel, options):
    says = f"{options[0]}: B is a plain tensor, there is nothing to compute; leave it out"
    refused("diff", dump, "kernel.npz:weights", *options, says=says)


OF_BOTH = [*OF_B, ["--pattern", "full"], ["--window", "0"], ["--causal"], ["--dtype", "float16"], ["--device", "cpu"]]
OF_BOTH += [["--scale", "1"], ["--softcap", "1"], ["--global", "0"], ["--q", "weights"], ["--layer", "0"]]


@pytest.mark.parametrize("options", OF_BOTH, ids=lambda options: options[0])
def test_a_setting_where_both_sides_are_plain_tensors(refused, kernel, options):
    says = f"{options[0]}: both sides are plain tensors, nothing is computed; leave it out"
    refused("diff", "kernel.npz:weights", "kernel.npz:scores", *options, says=says)


def test_plain_tensors_of_different_sizes(refused, kernel):
    refused("diff", "kernel.npz:weights", "kernel.npz:short", says=r"weights has 6 queries but .*short has 5")


def test_dumps_of_different_sizes(refused, dump):
    attnviz.save("other.npz", small(tokens=7))
    refused(
        "diff", dump, "other.npz", "--pattern", "full", says=r"has 6 queries but other.npz .* has 7; as \(H, T, S\)"
    )
    attnviz.save("heads.npz", small(heads=2, kv_heads=2))
    refused("diff", dump, "heads.npz", says=r"has 4 heads but heads.npz .* has 2; as")


@pytest.mark.parametrize("which", ["a", "b", "mask", "b-mask"])
def test_a_figure_over_an_input(refused, dump, kernel, masks, which):
    Path("out.png").symlink_to({"a": "dump.safetensors", "b": "kernel.npz"}.get(which, "masks.npz"))
    options = {
        "a": ["--b-causal"],
        "b": ["kernel.npz:weights"],
        "mask": ["--mask-file", "masks.npz:sees", "--b-causal"],
        "b-mask": ["--b-mask-file", "masks.npz:sees"],
    }[which]
    refused(
        "diff", dump, *options, "-o", "out.png", says="out.png: is an input of this command and would be overwritten"
    )


@pytest.mark.parametrize("option", ["--atol", "--rtol"])
def test_a_tolerance_that_is_no_number(refused, dump, option):
    refused("diff", dump, "--b-causal", option, "small", says=option)
