"""``attnviz diff`` as a job in CI runs it: exit codes, what it prints, and what each side may be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import attnviz
from attnviz.attention.patterns import Causal, Full, GlobalKeys, longformer
from attnviz.sources.files import write_tensors
from tests import warm
from tests.cases import arrays, small


@pytest.fixture
def kernel(dump) -> Path:
    """What a right kernel gives for ``dump.safetensors``, causal, first item: weights, scores, and one wrong cell."""
    result = attnviz.score(small(), Causal())
    wrong = result.weights.clone()
    wrong[2, 4, 1] += 0.01
    np.savez("kernel.npz", weights=result.weights, scores=result.scores, wrong=wrong)
    return Path("kernel.npz")


CAUSAL = ["--pattern", "causal"]


# Exit codes, through the program that a user calls


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("name", "code"), [("weights", 0), ("wrong", 1), ("nope", 2)])
def test_exit_codes_of_the_program_itself(dump, kernel, name, code):
    program = Path(sys.executable).parent / "attnviz" if code == 1 else warm.program("attnviz")  # 1 is what CI reads
    arguments = ["diff", f"{dump}", f"kernel.npz:{name}", *CAUSAL]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (code < 2)


def test_within_the_tolerance_is_0(run, dump, kernel):
    result = run("diff", dump, "kernel.npz:weights", *CAUSAL)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "within tolerance (what rounding to float32 costs)"


def test_beyond_the_tolerance_is_1_and_says_where(run, dump, kernel):
    result = run("diff", dump, "kernel.npz:wrong", *CAUSAL)
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines()[-1] == "BEYOND tolerance (what rounding to float32 costs)"
    assert "4 t4 → 1 t1" in " ".join(result.out.split())


def test_a_wider_tolerance_is_0_again(run, dump, kernel):
    assert run("diff", dump, "kernel.npz:wrong", *CAUSAL, "--atol", "0.02").code == 0
    assert run("diff", dump, "kernel.npz:wrong", *CAUSAL, "--head", "0,1,3").code == 0


def test_scores_are_compared_as_logits(run, dump, kernel):
    assert run("diff", dump, "kernel.npz:scores", *CAUSAL, "--values", "logits").code == 0
    assert run("diff", dump, "kernel.npz:scores", *CAUSAL).code == 1  # they are no weights


def test_another_pattern_than_the_kernels_is_1(run, dump, kernel):
    assert run("diff", dump, "kernel.npz:weights", "--pattern", "full").code == 1


# JSON


def document(result) -> dict:
    assert result.out.count("\n") == 1
    return json.loads(result.out)


def test_json(run, dump, kernel):
    result = run("diff", dump, "kernel.npz:wrong", *CAUSAL, "--format", "json", "--top-k", "3")
    found = document(result)
    assert result.code == 1
    heads = found.pop("heads")
    assert found == {
        "schema": "attnviz.diff/2",
        "a": "dump.safetensors (causal, float64, cpu, batch item 0)",
        "b": "kernel.npz:wrong",
        "values": "weights",
        "rule": {"rounding": "float32", "sides": 1},
        "top_k": 3,
        "within": False,
        "findings": [],
    }
    assert [head["head"] for head in heads] == [0, 1, 2, 3]
    names = ["head", "max_abs", "mean_abs", "total_variation", "js_divergence", "top_k_agreement", "worst", "beyond"]
    names += ["pairs", "first", "rows_beyond", "worst_row", "where", "within"]
    assert all(list(head) == names for head in heads)
    assert [head["beyond"] for head in heads] == [0, 0, 1, 0]
    assert [head["pairs"] for head in heads] == [21] * 4
    worst = heads[2]["worst"]
    assert (worst["query"], worst["key"]) == (4, 1)
    assert heads[2]["first"] == worst
    assert worst["allowed"] < 1e-5
    assert worst["b"] - worst["a"] == pytest.approx(0.01, abs=1e-5)
    assert heads[2]["max_abs"] == pytest.approx(0.01, rel=1e-3)
    assert heads[2]["total_variation"] == pytest.approx(0.01 / 2 / 6, rel=1e-2)


def test_json_of_what_has_no_number_is_null(run, dump, kernel):
    weights = attnviz.score(small(), Causal()).weights.numpy().copy()
    weights[1, 3] = np.nan
    np.save("blank.npy", weights)
    result = run("diff", dump, "blank.npy:blank", *CAUSAL, "--format", "json")
    head = document(result)["heads"][1]
    assert result.code == 1
    assert (head["max_abs"], head["worst"]["b"], head["worst"]["query"]) == (None, None, 3)


def test_json_of_logits_has_no_divergence(run, dump, kernel):
    result = run("diff", dump, "kernel.npz:scores", *CAUSAL, "--values", "logits", "--format", "json")
    assert {head["total_variation"] for head in document(result)["heads"]} == {None}


# What a side may be


def test_two_dumps(run, dump):
    attnviz.save("same.npz", small())
    attnviz.save("other.npz", replace(small(), q=small().q * 1.01))
    assert run("diff", dump, "same.npz").code == 0
    assert run("diff", dump, "other.npz").code == 1


def test_two_dumps_each_in_its_own_pattern(run, folder):
    for name in ("causal", "full"):
        tensors = {role: torch.from_numpy(array) for role, array in arrays().items()}
        write_tensors(Path(f"{name}.npz"), tensors, {"format": 1, "pattern": {"name": name}})
    result = run("diff", "causal.npz", "full.npz", "--format", "json")
    assert (document(result)["a"], document(result)["b"]) == (
        "causal.npz (causal, float32, cpu)",
        "full.npz (full, float32, cpu)",
    )
    assert result.code == 1
    assert run("diff", "causal.npz", "full.npz", "--pattern", "full").code == 0


def test_a_part_of_both_sides(run, dump, kernel):
    whole = run("diff", dump, "kernel.npz:weights", "--pattern", "causal", "--b-dtype", "float16")
    assert whole.code == 2  # B is given
    options = ("--pattern", "causal", "--b-dtype", "float16", "--format", "json")
    found = json.loads(run("diff", dump, *options, "--queries", "t2", "--keys", "1:3").out)
    assert (found["queries"], found["keys"]) == ([2, 2], [1, 2])
    assert [(head["pairs"], head["worst"]["query"]) for head in found["heads"]] == [(2, 2)] * 4
    some = json.loads(run("diff", dump, *options, "--queries", "2:5", "--rows", "2").out)
    assert all(2 <= head["worst"]["query"] < 5 for head in some["heads"])
    drawn = run("diff", dump, *options[:-2], "--queries", "2:5", "-o", "part.png")
    assert (drawn.code, Path("part.png").exists()) == (1, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--queries", "9:12"), "is not a part of 0:6"),
        (("--keys", "zebra"), "zebra"),
        (("--keys", "0:2", "--values", "context"), "whole"),
    ],
)
def test_a_part_that_is_not_there_is_refused(refused, dump, kernel, options, says):
    refused("diff", dump, "kernel.npz:weights", "--pattern", "causal", *options, says=says)


def test_a_kernel_on_the_left(run, dump, kernel):
    assert run("diff", "kernel.npz:weights", dump, *CAUSAL).code == 0
    result = run("diff", "kernel.npz:wrong", dump, *CAUSAL, "--format", "json")
    assert document(result)["a"] == "kernel.npz:wrong"
    assert result.code == 1


def test_a_file_of_one_tensor_needs_no_name(run, dump, kernel):
    np.save("alone.npy", np.load("kernel.npz")["weights"])
    np.savez("named.npz", weights=np.load("kernel.npz")["weights"], other=np.ones(3))
    for name in ("alone.npy", "named.npz"):
        assert run("diff", dump, name, *CAUSAL).code == 0


def test_two_plain_tensors(run, kernel):
    assert run("diff", "kernel.npz:weights", "kernel.npz:weights", "--atol", "0", "--rtol", "0").code == 0
    assert run("diff", "kernel.npz:weights", "kernel.npz:wrong").code == 1


def test_a_kernel_of_the_global_keys_alone(run, dump):
    np.save("g.npy", attnviz.score(small(), GlobalKeys()).weights)
    assert run("diff", dump, "g.npy:g").code == 0
    np.save("g.npy", attnviz.score(small(), GlobalKeys()).weights.flip(-1))
    assert run("diff", dump, "g.npy:g").code == 1


def test_a_half_precision_kernel(run, dump):
    torch.save({"weights": attnviz.score(small(), Full()).weights.bfloat16()}, "kernel.pt")
    full = ["diff", dump, "kernel.pt:weights", "--pattern", "full"]
    assert run(*full).code == 0
    assert run(*full, "--atol", "1e-5", "--rtol", "1e-5").code == 1
    assert run(*full, "--atol", "2e-3", "--rtol", "4e-3").code == 0


def test_a_tolerance_that_zeros_would_meet_is_refused(run, dump, kernel):
    np.save("zeros.npy", np.zeros((4, 6, 6), dtype=np.float32))
    result = run("diff", dump, "zeros.npy", "--pattern", "full", "--atol", "1.5")
    assert result.code == 2
    assert "--atol 1.5: the largest exact weight is" in result.err
    assert run("diff", dump, "zeros.npy", "--pattern", "full").code == 1


# What a kernel gives beside its map


def rows_of(pattern) -> dict[str, torch.Tensor]:
    """Contexts and log-sum-exps of every batch item."""
    inputs = small()
    logits = [attnviz.score(inputs, pattern, batch=b).scores for b in range(inputs.B)]
    return {
        "context": torch.stack([attnviz.context(inputs, pattern, batch=b) for b in range(inputs.B)]),
        "lse": torch.stack([torch.logsumexp(one, -1) for one in logits]),
        "weights": torch.stack([one.softmax(-1) for one in logits]),
    }


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", ["context", "lse", "weights"])
def test_rows_of_a_kernel_are_held_against_the_exact_ones_in_all_batch_items(run, folder, name):
    attnviz.save("dump.safetensors", small())
    for pattern, file in ((Causal(), "right"), (Full(), "wrong")):
        torch.save({name: rows_of(pattern)[name]}, f"{file}.pt")
    right = run("diff", "dump.safetensors", f"right.pt:{name}", *CAUSAL)
    assert (right.code, right.out.split()[:2]) == (0, ["the", name])
    wrong = run("diff", "dump.safetensors", f"wrong.pt:{name}", *CAUSAL, "--format", "json")
    found = document(wrong)
    assert wrong.code == 1
    assert {head["batch"] for head in found["heads"] if not head["within"]} == {0, 1}
    assert [finding["faults"] for finding in found["findings"]] == [["mask left out"]]
    one = run("diff", "dump.safetensors", f"wrong.pt:{name}", *CAUSAL, "--batch", "1", "--head", "2")
    assert one.code == 1
    assert "pattern='full'" in one.out


def test_a_picture_is_of_one_batch_item(run, folder):
    attnviz.save("dump.safetensors", small())
    torch.save(rows_of(Full()), "wrong.pt")
    several = run("diff", "dump.safetensors", "wrong.pt:weights", *CAUSAL, "-o", "d.png")
    assert (several.code, "name one with --batch" in several.err) == (2, True)
    one = run("diff", "dump.safetensors", "wrong.pt:weights", *CAUSAL, "--batch", "1", "-o", "d.png")
    assert (one.code, (folder / "d.png").exists(), "pattern='full'" in one.out) == (1, True, True)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", ["context", "lse"])
def test_a_picture_of_rows_is_of_the_kernel_the_formula_and_the_difference(run, folder, name):
    attnviz.save("dump.safetensors", small())
    torch.save({name: rows_of(Full())[name]}, "wrong.pt")
    asked = run("diff", "dump.safetensors", f"wrong.pt:{name}", *CAUSAL, "-o", "e.svg")
    assert (asked.code, "pattern='full'" in asked.out) == (1, True)
    drawn = (folder / "e.svg").read_text()
    assert all(words in drawn for words in (f"{name} of the kernel", f"exact {name}", "difference", "head 0"))
    unused = run("diff", "dump.safetensors", f"wrong.pt:{name}", *CAUSAL, "--norm", "log", "-o", "f.svg")
    assert (unused.code, (folder / "f.svg").exists()) == (2, False)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", ["dq", "dk", "dv"])
def test_a_gradient_of_a_file_is_named(run, folder, name):
    inputs = small()
    attnviz.save("dump.safetensors", inputs)
    leaves = {role: getattr(inputs, role).double().requires_grad_() for role in "qkv"}
    k, v = (leaves[role].repeat_interleave(inputs.H // inputs.H_kv, 1) for role in "kv")
    context = torch.softmax(leaves["q"] @ k.transpose(2, 3) * inputs.D**-0.5, -1) @ v
    grad = torch.randn(context.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = dict(
        zip(("dq", "dk", "dv"), torch.autograd.grad((context * grad).sum(), list(leaves.values())), strict=True)
    )
    torch.save({"grad": grad, **{role: gradient.float() for role, gradient in made.items()}}, "kernel.pt")
    how = ("diff", "dump.safetensors", f"kernel.pt:{name}", "--grad", "kernel.pt:grad")
    assert run(*how, "--pattern", "full").code == 0
    wrong = run(*how, *CAUSAL)
    assert (wrong.code, "pattern='full'" in wrong.out) == (1, True)
    assert "give it too (grad)" in run(*how[:3], *CAUSAL).err


@pytest.mark.parametrize("named", [True, False])
def test_sequences_end_to_end_are_held_as_they_come_from_the_kernel(run, folder, named):
    """q, k, v and the context (tokens, H, D), the lengths in the dump or named."""
    ends = torch.tensor([0, 7, 19, 24])
    draw = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(24, heads, 8, generator=draw) for heads in (4, 2, 2))
    tensors = {"q": q, "k": k, "v": v, "lengths" if named else "cu_seqlens_q": ends}
    torch.save(tensors, "dump.pt")

    def context(causal: bool) -> torch.Tensor:
        made = []
        for first, last in pairwise(ends):
            parts = (tensor[first:last].transpose(0, 1)[None] for tensor in (q, k, v))
            made.append(scaled_dot_product_attention(*parts, is_causal=causal, enable_gqa=True)[0].transpose(0, 1))
        return torch.cat(made)

    torch.save({"context": context(True), "wrong": context(False)}, "kernel.pt")
    how = ("diff", "dump.pt", *CAUSAL, *(("--cu-seqlens-q", "lengths") if named else ()))
    assert run(*how, "kernel.pt:context").code == 0
    wrong = run(*how, "kernel.pt:wrong", "--values", "context")
    assert (wrong.code, "pattern='full'" in wrong.out) == (1, True)


def test_some_rows_say_how_likely_they_miss_a_fault(run, folder):
    attnviz.save("dump.safetensors", small())
    torch.save(rows_of(Causal()), "kernel.pt")
    result = run("diff", "dump.safetensors", "kernel.pt:context", *CAUSAL, "--rows", "4")
    assert result.code == 0
    assert (
        "4 of 6 queries of each head; missed is a fault in a share of them of 0.001 with probability 1, 0.01"
        in result.out
    )


# One dump under two settings


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize(
    ("options", "same"),
    [
        (["--b-dtype", "bfloat16"], False),
        (["--b-dtype", "float32"], True),
        (["--b-device", "cpu"], True),
        (["--b-pattern", "full"], False),
        (["--b-causal"], False),
        (["--b-scale", "0.5"], False),
        (["--b-scale", f"{8**-0.5}"], True),
        (["--b-softcap", "1"], False),
        (["--b-softcap", "1000000"], True),
        (["--b-batch", "0"], True),
        (["--b-batch", "1"], False),
        (["--batch", "1", "--b-batch", "0"], False),
        (["--b-global", "0,3"], True),
        (["--b-global", "0,4"], False),
        (["--pattern", "local", "--window", "1", "--b-window", "0"], False),
        (["--pattern", "local", "--window", "1", "--b-window", "1"], True),
        (["--pattern", "local", "--window", "1", "--b-dilation", "2"], False),
        (["--pattern", "full", "--b-mask-file", "all.npy"], True),
        (["--pattern", "causal", "--b-mask-file", "all.npy"], False),
        (["--pattern", "causal", "--b-pattern", "full", "--b-causal"], True),
        (["--mask-file", "all.npy", "--b-pattern", "full"], True),
        (["--pattern", "local", "--window", "9", "--b-pattern", "full"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_of_b_is_the_only_difference(run, dump, options, same):
    np.save("all.npy", np.ones((6, 6), dtype=bool))
    result = run("diff", dump, *options)
    assert result.code == (0 if same else 1), result.out + result.err


def test_another_layer(run, folder):
    named = {f"layers.{layer}.{n}": a for layer in (0, 1, 2) for n, a in arrays().items()}
    named["layers.1.q"] = small(batch=1, seed=9).q[0].numpy()
    np.savez("layers.npz", **named)
    assert run("diff", "layers.npz", "--layer", "2", "--b-layer", "0").code == 0
    assert run("diff", "layers.npz", "--layer", "1", "--b-layer", "0").code == 1


def test_longformer_against_its_kernel(run, folder):
    plain, other = small(batch=1, tokens=9), small(batch=1, tokens=9, seed=1)
    inputs = replace(plain, q_global=other.q, k_global=other.k)
    attnviz.save("dump.safetensors", inputs)
    maps = [attnviz.attention_map(inputs, head, longformer(2)).cells for head in range(4)]
    np.save("kernel.npy", np.nan_to_num(np.array(maps)))
    options = ["--pattern", "local+global", "--window", "2"]
    assert run("diff", "dump.safetensors", "kernel.npy:kernel", *options).code == 0
    assert run("diff", "dump.safetensors", "kernel.npy:kernel", *options, "--window", "1").code == 1


def test_without_a_source_the_synthetic_case_is_compared(run):
    result = run("diff", "--b-dtype", "bfloat16", "--atol", "0.05", "--head", "0")
    assert result.code == 0
    assert "no SOURCE" in result.err
    assert "A: synthetic (global, float32, cpu)" in result.out


@pytest.mark.parametrize("option", ["--b-dtype x", "--b-device x", "--b-pattern x", "--b-window 2", "--b-global x"])
def test_an_error_in_what_b_alone_has_names_that_option(run, option):
    result = run("diff", *option.split())
    assert result.code == 2
    assert option.split()[0] in result.err


def test_a_batch_item_of_two_plain_tensors_is_refused(run, dump, kernel):
    result = run("diff", "kernel.npz:weights", "kernel.npz:weights", "--batch", "1")
    assert result.code == 2
    assert "--batch" in result.err


def test_a_files_name_is_printed_as_it_is(run, dump, kernel):
    Path("kernel.npz").rename("[red]k[b].npz")
    assert "B: [red]k[b].npz:weights" in run("diff", dump, "[red]k[b].npz:weights", *CAUSAL).out


# Figures


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("values", ["weights", "logits"])
def test_a_figure_of_a_b_and_what_lies_between(run, dump, kernel, suffix, values):
    name = "wrong" if values == "weights" else "scores"
    result = run("diff", dump, f"kernel.npz:{name}", *CAUSAL, "--values", values, "--head", "2", "-o", f"x{suffix}")
    assert result.code == (1 if values == "weights" else 0)
    assert Path(f"x{suffix}").stat().st_size
    if suffix == ".svg":
        drawn = Path("x.svg").read_text()
        assert all(f"kernel.npz:{name}" in drawn or part in drawn for part in ("causal", "A − B"))
        assert "A − B" in drawn


def test_a_figure_of_equal_maps(run, dump, kernel):
    assert run("diff", dump, "kernel.npz:weights", *CAUSAL, "-o", "x.png").code == 0
    assert Path("x.png").stat().st_size


def test_each_side_is_called_by_what_it_is(run, dump):
    options = ["--b-scale", "0.5", "--b-softcap", "3", "--b-batch", "1", "--b-global", "0,4", "--b-dtype", "float64"]
    found = document(run("diff", dump, *options, "--format", "json"))
    assert found["a"] == "dump.safetensors (global, float32, cpu, batch item 0)"
    assert found["b"] == ("dump.safetensors (global, float64, cpu, batch item 1, scale 0.5, softcap 3.0, globals 0,4)")


# Several layers and batch items at once


@pytest.fixture
def given_weights(folder):
    """Two layers of three items of weights with values: ``w.npz``; and ``other.npz``, which parts at layer 1, item 2, head 1."""
    layers = [
        attnviz.AttentionWeights(
            torch.from_numpy(np.random.default_rng(n).random((3, 2, 5, 5))).softmax(-1),
            v=torch.rand(3, 2, 5, 4).double(),
            layer=n,
        )
        for n in range(2)
    ]
    attnviz.save("w.npz", layers)
    moved = layers[1].weights.clone()
    moved[2, 1, 4] = moved[2, 1, 4].flip(0)
    attnviz.save("other.npz", [layers[0], replace(layers[1], weights=moved)])
    return layers


def lines(result) -> list[dict]:
    return [json.loads(line) for line in result.out.splitlines()]


def test_all_layers_and_batch_items_of_both_sides(run, given_weights):
    assert run("diff", "w.npz", "w.npz", "--layer", "all", "--batch", "all").code == 0
    result = run("diff", "w.npz", "other.npz", "--layer", "0,1", "--batch", "all", "--format", "json")
    assert result.code == 1
    found = lines(result)
    assert [one["a"].partition(" (")[0] for one in found] == ["w.npz layer 0"] * 3 + ["w.npz layer 1"] * 3
    assert [one["within"] for one in found] == [True] * 5 + [False]
    assert [head["head"] for head in found[5]["heads"] if not head["within"]] == [1]
    assert found[5]["heads"][1]["worst"]["query"] == 4
    assert run("diff", "w.npz", "other.npz", "--layer", "1", "--batch", "0,1").code == 0
    assert run("diff", "w.npz", "w.npz", "--layer", "0,1", "--b-layer", "1,0").code == 1
    assert run("diff", "w.npz", "w.npz", "--layer", "1", "--b-layer", "1", "--batch", "1-2").code == 0


def test_two_dumps_of_queries_and_keys_in_all_items(run, dump):
    attnviz.save("moved.npz", replace(small(), q=small().q * torch.tensor([1.0, 2.0])[:, None, None, None]))
    assert run("diff", dump, dump, "--batch", "all").code == 0
    found = lines(run("diff", dump, "moved.npz", "--batch", "all", "--format", "json"))
    assert [one["within"] for one in found] == [True, False]


def test_a_tensor_and_a_context_beside_given_weights_of_several_items(run, given_weights):
    one = replace(given_weights[0], layer=None)
    attnviz.save("one.npz", one)
    contexts = torch.stack([torch.einsum("hts,hsd->htd", one.weights[b], one.v[b]) for b in range(3)])
    wrong = contexts.clone()
    wrong[2, 0, 3, 1] += 0.01
    torch.save({"weights": one.weights}, "plain.pt")
    torch.save({"context": contexts, "wrong": wrong}, "rows.pt")
    assert run("diff", "one.npz", "plain.pt:weights").code == 0
    torch.save({"weights": one.weights.flip(0)}, "plain.pt")
    assert [line["within"] for line in lines(run("diff", "one.npz", "plain.pt:weights", "--format", "json"))] == [
        False,
        True,
        False,
    ]
    assert run("diff", "one.npz", "rows.pt:context").code == 0
    result = run("diff", "one.npz", "rows.pt:wrong", "--values", "context", "--format", "json")
    heads = document(result)["heads"]
    assert [(head["batch"], head["head"]) for head in heads if not head["within"]] == [(2, 0)]
    for rows in (["--rows", "4"], []):
        said = run("diff", "one.npz", "rows.pt:wrong", "--values", "context", "--batch", "2", *rows).out
        assert "batch 2, head 0: 1 of" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("w.npz other.npz --layer 0,1 --b-layer 1", "--b-layer 1: 1 layers of B beside 2 of A; name as many"),
        ("w.npz other.npz --layer 0,1 -o x.png", "x.png: a picture is of one layer and batch item, and 2 are compared"),
        ("w.npz other.npz --layer 0 --batch all --b-batch 1", "--b-batch 1: several items of A"),
        ("w.npz other.npz --layer 0 --batch 0,9", "--batch '0,9': batch item 9 is out of range"),
        ("w.npz other.npz --layer 0 --values lse", "B is what a kernel gave"),
    ],
)
def test_several_places_that_are_not_there_are_refused(refused, given_weights, options, says):
    refused("diff", *options.split(), says=says)
