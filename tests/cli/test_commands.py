"""What each command does when all is well: what it prints, where, and what it writes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal, Local
from attnviz.cli.main import app
from attnviz.sources.files import TensorFile, open_tensors
from tests.cases import arrays, small

COMMANDS = [str(command.name) for command in app.registered_commands]
NO_SOURCE = "attnviz: no SOURCE: using the built-in synthetic case (H=8, T=10, D=64, 3 global tokens, seed 0)\n"


@pytest.fixture
def succeed(run):
    """Runs a command that must succeed."""

    def succeed(*arguments: object):
        result = run(*arguments)
        assert result.code == 0, result.err
        return result

    return succeed


# The program


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["--version"], ["score", "--help"], ["plot", "-h"]], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(arguments):
    script = (
        "import sys, atexit\n"
        "heavy = ('torch', 'numpy', 'matplotlib', 'seaborn', 'pandas', 'safetensors')\n"
        "atexit.register(lambda: print('LOADED', sorted(set(heavy) & set(sys.modules)), file=sys.stderr))\n"
        "from attnviz.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(attnviz.__file__).parents[1])},
    )
    assert done.stderr == "LOADED []\n"
    assert done.stdout


def test_importing_the_library_imports_nothing_heavy():
    script = "import sys, attnviz; dir(attnviz); print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(attnviz.__file__).parents[1])},
    )
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    assert [name for name in attnviz.__all__ if getattr(attnviz, name, None) is None] == []


def test_version_is_the_packages(succeed):
    assert succeed("--version").out == f"attnviz {attnviz.__version__}\n"


def test_without_arguments_the_program_explains_itself(succeed):
    assert succeed().out == succeed("--help").out
    assert "score" in succeed().out


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_commands_help_has_an_example(succeed, command, option):
    assert f"Example:  attnviz {command} " in succeed(command, option).out


@pytest.mark.sweep(keep=5)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_programs_help_names_every_command(succeed, command):
    assert f" {command} " in succeed("--help").out


def test_the_program_offers_shell_completion(succeed):
    assert "--show-completion" in succeed("--help").out


# synth


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_synth_writes_the_dump_it_was_asked_for(succeed, folder, suffix):
    options = "--heads 4 --kv-heads 2 --tokens 20 --head-dim 8 --global every:8 --batch 3 --dtype float16 --seed 7"
    result = succeed("synth", f"dump{suffix}", *options.split())
    inputs = attnviz.load(f"dump{suffix}")
    expected = attnviz.synthesize(
        heads=4,
        kv_heads=2,
        tokens=20,
        head_dim=8,
        global_positions=(0, 8, 16),
        batch=3,
        dtype="float16",
        seed=7,
    )
    assert all(torch.equal(getattr(inputs, n), getattr(expected, n)) for n in ("q", "k", "v", "global_mask"))
    assert inputs.tokens == expected.tokens
    assert result.out == ""
    assert result.err == (
        f"attnviz: wrote dump{suffix}: q (3, 4, 20, 8), k and v (3, 2, 20, 8), 3 global tokens, float16\n"
    )


def test_synth_without_options_is_the_built_in_case(succeed, folder):
    succeed("synth", "dump.npz")
    assert torch.equal(attnviz.load("dump.npz").q, attnviz.synthesize().q)


@pytest.mark.parametrize("tokens", [1, 3, 4, 7, 8])
def test_synth_of_few_tokens_has_the_global_ones_that_there_are(succeed, folder, tokens):
    succeed("synth", "few.npz", "--tokens", tokens)
    mask, expected = attnviz.load("few.npz").global_mask, attnviz.synthesize(tokens=tokens).global_mask
    assert torch.equal(mask, expected)
    assert mask[0].nonzero().flatten().tolist() == [position for position in (0, 3, 7) if position < tokens]


def test_synth_draws_random_globals_from_its_seed(succeed, folder):
    masks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        succeed("synth", f"{name}.npz", "--tokens", 500, "--global", "random:16", "--seed", seed)
        masks.append(attnviz.load(f"{name}.npz").global_mask)
    assert masks[0].sum() == 16
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


# inspect


def test_inspect_names_tensors_roles_and_what_is_missing(succeed, folder):
    np.savez("dump.npz", q=np.ones((1, 2, 3, 4), "f4"), numbers=np.ones(5, "f8"))
    out = succeed("inspect", "dump.npz").out
    assert [line.split("│")[1:6] for line in out.splitlines() if "(1, 2, 3, 4)" in line or "numbers" in line] == [
        [" q       ", " (1, 2, 3, 4) ", " float32 ", " 96 bytes ", " q    "],
        [" numbers ", " (5,)         ", " float64 ", " 40 bytes ", " –    "],
    ]
    assert "missing: k, keys (B, H_kv, S, D)\nmissing: global_mask, global key positions (B, S) bool\n" in out


def test_inspect_as_json(succeed, dump):
    document = json.loads(succeed("inspect", dump, "--format", "json").out)
    assert document["schema"] == "attnviz.inspect/1"
    assert document["bytes"] == dump.stat().st_size
    assert document["missing"] == []
    assert {"name": "q", "shape": [2, 4, 6, 8], "dtype": "float32", "bytes": 1536, "role": "q"} in document["tensors"]


def test_inspect_lists_layers(succeed, layered):
    assert "layers: 2 (0 to 3); choose one with --layer" in succeed("inspect", layered).out


def test_inspect_prints_a_files_name_as_it_is(succeed, folder):
    np.savez("[red]x[b].npz", q=np.ones(2))
    assert "[red]x[b].npz" in succeed("inspect", "[red]x[b].npz").out


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_inspect_reads_no_data(succeed, folder, monkeypatch, suffix):
    attnviz.save(f"dump{suffix}", small())
    monkeypatch.setattr(TensorFile, "read", None)
    succeed("inspect", f"dump{suffix}")


# score


def document(result) -> dict:
    """The JSON that a run printed, and nothing else on stdout."""
    return json.loads(result.out)


def weights(result, item: int = 0) -> np.ndarray:
    """(H, T, G), NaN for null."""
    return np.array([head["weights"] for head in document(result)["items"][item]["heads"]], dtype=float)


def assert_weights_of(inputs: attnviz.AttentionInputs, found: np.ndarray, **options: object) -> None:
    """Six decimals of the library's; the last bits of a product may depend on where in memory its factors lie."""
    np.testing.assert_allclose(found, attnviz.score(inputs, **options).weights.double(), rtol=0, atol=1.1e-6)


def test_score_prints_a_table_a_head(succeed, dump):
    out = succeed("score", dump).out
    assert [line for line in out.splitlines() if line.startswith("head ")] == [
        f"head {h} · weights · global · queries 6 × keys 2".ljust(len(line))
        for h, line in enumerate(line for line in out.splitlines() if line.startswith("head "))
    ]
    assert "Global #1 (pos 0)" in out
    assert "Global #2 (pos 3)" in out


def test_score_prints_the_numbers_of_the_engine(succeed, dump):
    out = succeed("score", dump, "--head", 2, "--values", "logits").out
    row = next(line for line in out.splitlines() if "4 t4" in line)
    expected = attnviz.score(attnviz.load(dump)).scores[2, 4]
    assert [float(cell) for cell in row.split("│")[2:4]] == pytest.approx(expected.tolist(), abs=5e-5)


def test_score_leaves_the_middle_of_a_long_table_out_and_says_so(succeed, folder):
    attnviz.save("long.npz", small(tokens=100))
    out = succeed("score", "long.npz", "--head", 0, "--rows", 6).out
    assert "94 of 100 rows left out in the middle" in " ".join(out.split())
    shown = re.findall(r"^│ (\d+) t\d+ ", out, flags=re.MULTILINE)
    assert shown == ["0", "1", "2", "97", "98", "99"]


def test_score_without_a_source_says_so_on_stderr(succeed):
    result = succeed("score", "--head", 0)
    assert result.err == NO_SOURCE
    assert "head 0 · weights" in result.out


@pytest.mark.parametrize("format", ["json", "csv", "markdown", "table"])
def test_only_data_is_on_stdout(succeed, format):
    result = succeed("score", "--format", format)
    assert result.err == NO_SOURCE
    assert "attnviz:" not in result.out


def test_the_synthetic_case_takes_other_globals_and_scale(succeed):
    result = succeed("score", "--global", "1,9", "--scale", "0.5", "--format", "json")
    assert document(result)["items"][0]["positions"] == [1, 9]
    assert document(result)["scale"] == 0.5
    assert "2 global tokens" in result.err


def test_score_as_json_is_what_the_library_computes(succeed, dump):
    result = succeed("score", dump, "--format", "json")
    assert_weights_of(small(), weights(result))
    assert result.err == ""


def test_score_as_csv_has_a_row_a_pair(succeed, dump):
    rows = list(csv.DictReader(io.StringIO(succeed("score", dump, "--head", "1,3", "--format", "csv").out)))
    assert len(rows) == 2 * 6 * 2
    assert {row["head"] for row in rows} == {"1", "3"}


def test_score_as_markdown_has_a_table_a_head(succeed, dump):
    out = succeed("score", dump, "--head", "1,3", "--format", "markdown").out
    assert [line for line in out.splitlines() if line.startswith("**")] == [
        "**batch item 0, head 1 · weights**",
        "**batch item 0, head 3 · weights**",
    ]


@pytest.mark.parametrize(("text", "heads"), [("2", [2]), ("3,0-1", [3, 0, 1]), ("all", [0, 1, 2, 3])])
def test_heads_are_selected(succeed, dump, text, heads):
    found = document(succeed("score", dump, "--head", text, "--format", "json"))["items"][0]["heads"]
    assert [head["head"] for head in found] == heads


@pytest.mark.parametrize(("text", "items"), [(None, [0]), ("1", [1]), ("all", [0, 1])])
def test_batch_items_are_selected_and_the_first_is_the_default(succeed, dump, text, items):
    options = [] if text is None else ["--batch", text]
    found = document(succeed("score", dump, *options, "--format", "json"))["items"]
    assert [item["batch"] for item in found] == items


def test_several_items_are_headed_in_a_table(succeed, dump):
    out = succeed("score", dump, "--batch", "all", "--head", "0").out
    headings = [line.split(" · ")[0] for line in out.splitlines() if line.startswith("batch")]
    assert headings == ["batch item 0, head 0", "batch item 1, head 0"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_out_writes_the_full_tensors(succeed, dump, suffix):
    result = succeed("score", dump, "--head", "3,1", "--out", f"out{suffix}")
    file = open_tensors(Path(f"out{suffix}"))
    expected = attnviz.score(small(), heads=[3, 1])
    torch.testing.assert_close(file.read("scores"), expected.scores)
    torch.testing.assert_close(file.read("weights"), expected.weights)
    assert file.read("positions").tolist() == [0, 3]
    assert "head 3" in result.out


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_out_of_all_items_has_their_numbers_in_the_names(succeed, dump, suffix):
    succeed("score", dump, "--batch", "all", "--out", f"out{suffix}")
    assert set(open_tensors(Path(f"out{suffix}")).contents) == {
        f"{name}.{b}" for name in ("scores", "weights", "positions") for b in (0, 1)
    }


@pytest.mark.parametrize("format", ["json", "csv"])
def test_out_as_text_is_what_is_printed(succeed, dump, format):
    printed = succeed("score", dump, "--format", format, "--out", f"out.{format}").out
    assert Path(f"out.{format}").read_text() == printed


def test_out_holds_logits_and_weights_whichever_is_shown(succeed, dump):
    succeed("score", dump, "--values", "logits", "--out", "out.npz")
    assert {"scores", "weights"} < set(open_tensors(Path("out.npz")).contents)


def test_a_dtype_rounds_the_inputs_first(succeed, dump):
    result = succeed("score", dump, "--dtype", "bfloat16", "--format", "json")
    assert_weights_of(small(), weights(result), dtype="bfloat16")
    assert document(result)["dtype"] == "bfloat16"


@pytest.fixture
def trio(folder) -> None:
    """q.npy, k.npy, m.npy and mask.npy of one item."""
    named = arrays()
    for name, array in (("q", "q"), ("k", "k"), ("m", "global_mask"), ("mask", "global_mask")):
        np.save(f"{name}.npy", named[array])


@pytest.mark.parametrize(
    "arguments",
    [
        "--q q.npy --k k.npy --mask m.npy",
        "q.npy --k k.npy --mask mask.npy",
        "q.npy --k k.npy:k --mask mask.npy:mask",
        "q.npy --q q --k k.npy --global 0,3",
    ],
)
def test_tensors_in_files_of_their_own(succeed, trio, arguments):
    assert_weights_of(small(batch=1), weights(succeed("score", *arguments.split(), "--format", "json")))


def test_tensors_under_other_names(succeed, folder):
    named = arrays()
    np.savez("dump.npz", queries=named["q"], keys=named["k"], marks=named["global_mask"])
    result = succeed("score", "dump.npz", "--q", "queries", "--k", "keys", "--mask", "marks", "--format", "json")
    assert_weights_of(small(batch=1), weights(result))


def test_a_padding_under_another_name(succeed, dump):
    np.save("exists.npy", np.array([[True] * 5 + [False]] * 2))
    whole = weights(succeed("score", dump, "--format", "json"))
    result = succeed("score", dump, "--padding", "exists.npy", "--format", "json")
    found = weights(result)
    assert np.isnan(found[:, 5]).all()
    assert_weights_of(small(), np.concatenate([found[:, :5], whole[:, 5:]], axis=1))


@pytest.fixture
def layered(folder) -> Path:
    """A dump of layers 0 and 3."""
    named = {f"layers.{layer}.{n}": a for layer in (0, 3) for n, a in arrays().items()}
    named["layers.3.q"] = small(batch=1, seed=9).q[0].numpy()
    np.savez("layers.npz", **named)
    return Path("layers.npz")


def test_a_layer_of_several(succeed, layered):
    zero, three = (weights(succeed("score", layered, "--layer", n, "--format", "json")) for n in (0, 3))
    assert_weights_of(small(batch=1), zero)
    assert np.abs(three - zero).max() > 0.01


def test_a_layers_tensors_named_in_full(succeed, layered):
    named = ["--q", "layers.0.q", "--k", "layers.0.k", "--mask", "layers.0.global_mask"]
    assert_weights_of(small(batch=1), weights(succeed("score", layered, *named, "--format", "json")))


def test_globals_on_the_command_line_replace_the_mask(succeed, dump):
    found = document(succeed("score", dump, "--global", "1,4-5", "--format", "json"))
    assert found["items"][0]["positions"] == [1, 4, 5]


def test_globals_on_the_command_line_supply_a_mask(succeed, folder):
    np.savez("dump.npz", **arrays(global_mask=None))
    assert document(succeed("score", "dump.npz", "--global", "every:3", "--format", "json"))["items"][0][
        "positions"
    ] == [0, 3]


def test_a_layout_is_taken(succeed, folder):
    named = arrays()
    turned = {n: named[n].transpose(1, 0, 2) for n in ("q", "k", "v")}
    np.savez("dump.npz", **{**named, **turned})
    result = succeed("score", "dump.npz", "--layout", "thd", "--format", "json")
    assert_weights_of(small(batch=1), weights(result))


@pytest.mark.parametrize("command", [["score"], ["plot", "--head", "0", "-o", "x.png"]], ids=["score", "plot"])
def test_values_are_not_read_where_they_are_not_used(succeed, dump, monkeypatch, command):
    read: list[str] = []
    original = TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda self, name: (read.append(name), original(self, name))[1])
    succeed(command[0], dump, *command[1:])
    assert sorted(read) == ["global_mask", "k", "q"]


@pytest.mark.parametrize("token", ["[/INST]", "[bold]", "[CLS]", "$x$", "日本語", "\\[", ":smile:"])
def test_any_token_is_printed_as_it_is(succeed, folder, token):
    attnviz.save("dump.npz", labeled(token))
    out = succeed("score", "dump.npz", "--head", "0").out
    assert f"│ 1 {token}" in out
    assert out.count(token) == 2  # a row, and the heading of its column


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("token", ["[/INST]", "$x_", "naïve", "\\frac", "a\nb", "^{"])
def test_any_token_can_be_drawn(succeed, folder, token):
    attnviz.save("dump.npz", labeled(token))
    succeed("plot", "dump.npz", "--head", "0", "-o", "x.svg")
    assert Path("x.svg").stat().st_size


def labeled(token: str) -> attnviz.AttentionInputs:
    from dataclasses import replace

    return replace(small(batch=1, tokens=4, global_positions=(1,)), tokens=[["a", token, "b", "c"]])


# plot


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_plot_writes_a_picture_by_its_suffix(succeed, dump, suffix, magic):
    result = succeed("plot", dump, "--head", 1, "-o", f"x{suffix}")
    assert Path(f"x{suffix}").read_bytes().startswith(magic)
    assert result.out == ""
    assert result.err == f"attnviz: wrote x{suffix}\n"


def test_plot_without_a_source_says_so(succeed, folder):
    result = succeed("plot", "--head", 3, "-o", "x.png")
    assert result.err == NO_SOURCE + "attnviz: wrote x.png\n"


def test_plot_of_all_heads_is_a_grid(succeed, dump):
    succeed("plot", dump, "-o", "x.svg")
    svg = Path("x.svg").read_text()
    assert all(f">head {h}<" in svg for h in range(4))


def test_plot_takes_its_looks_from_options(succeed, dump):
    looks = "--cmap viridis --vmin 0 --vmax 1 --annot --title Hello --dpi 80 --transparent"
    succeed("plot", dump, "--head", 0, *looks.split(), "-o", "x.svg")
    assert ">Hello<" in Path("x.svg").read_text()


def test_inspect_sums_up_layers_that_are_alike_and_says_their_patterns(run, folder):
    layers = [small(seed=n) for n in range(5)]
    patterns = [Causal(), Causal(), Causal(), Local(2), None]
    attnviz.save("run.npz", [replace(one, pattern=own) for one, own in zip(layers, patterns, strict=True)])
    told = run("inspect", "run.npz").out
    assert re.search(r"layers\.0–4\.q .*5 × .* q ", told)
    assert "pattern of layers 0-2: causal\npattern of layers 3: local, window 2\n" in told
    attnviz.save("one.npz", replace(layers[0], pattern=Causal()))
    assert "\npattern: causal\n" in run("inspect", "one.npz").out
