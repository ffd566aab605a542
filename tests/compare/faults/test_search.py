"""Every planted mistake is red and named; a right kernel is neither."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import cycle

import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal
from attnviz.base.errors import InputError
from attnviz.compare.faults import search as _search  # noqa: F401 (it makes the kinds known)
from attnviz.compare.faults.fault import FAULTS, Case
from attnviz.compare.faults.way import compute
from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel
from attnviz.compare.rounding import rule_of
from tests.faulty import MISTAKES
from tests.power import planted

DTYPES = cycle(["float64", "float32", "bfloat16", "float16"])
OUTPUTS = cycle(["context", "weights", "context"])
COVER = [
    (mistake, cases[n % len(cases)], next(DTYPES), "context" if ": v" in mistake else output)
    for n, ((mistake, (cases, _)), output) in enumerate(zip(MISTAKES.items(), OUTPUTS, strict=False))
]
"""Each mistake once, in dtypes and outputs that take turns, one of v in a context; `make power` has all of them."""


def kinds(found) -> set[str]:
    return {fault for finding in found.findings for fault in finding.faults}


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(("mistake", "case", "dtype", "output"), COVER, ids=lambda value: value)
def test_a_planted_mistake_is_red_and_named(mistake, case, dtype, output):
    T = 24
    S = T if "transposed" in mistake else 42
    one = planted(mistake, case, dtype, S, T)
    assert one.visible(output, dtype)
    assert one.check(output, dtype, wrong=False).within
    report = one.check(output, dtype, explain=True)
    assert not report.within
    assert mistake.split(":")[0] in kinds(report), report.message()


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("what", ["context", "dq"])
@pytest.mark.parametrize("name", ["causal", "alibi", "sinks", "softcap", "bias"])
def test_what_a_hypothesis_may_be_off_by_is_what_rounding_costs(name, what):
    """A change that multiplied twice where the plain computation is made excused numbers that were nothing like it."""
    one = planted("scale: none", name, "float32", 24, 16)
    grad = torch.ones_like(one.exact["context"])
    actual = one.wrong["context"] if what == "context" else torch.ones(2, 4, 16, 16)
    case = Case(one.inputs, one.inputs.pattern, 0, 1, what, actual, rule_of("float32"), (3, 8, 15), grad=grad)
    tried = [variant for fault in FAULTS for variant in fault.variants(case) if not variant.rule]
    assert len(tried) > 20
    for variant in tried:
        with suppress(InputError, IndexError, RuntimeError, ValueError):
            made = compute(case.work(0, 1, torch.tensor(case.rows)), (variant,), case.rule)
            size = made.out.nan_to_num().abs().amax().clamp(min=1.0)
            assert bool((made.allowed.nan_to_num() <= 1e-3 * size).all()), variant.name


def test_two_mistakes_together_are_named():
    one = planted("scale: twice", "causal window", "float32", 40, 24)
    wrong = MISTAKES["part of the pattern left out: window"][1](MISTAKES["scale: twice"][1](one.right))
    report = check_kernel(Outputs(one.inputs, context=wrong.run()[1].float()))
    assert "scale" in kinds(report)
    assert kinds(report) & {"part of the pattern left out", "causal in its place"}
    assert "and" in report.findings[0].names[0]


def test_a_log_sum_exp_in_base_2_is_named():
    one = planted("scale: twice", "causal", "float32", 40, 24)
    total = one.right.run()[2].float()
    assert check_kernel(Outputs(one.inputs, lse=total)).within
    report = check_kernel(Outputs(one.inputs, lse=total / torch.tensor(2.0).log()))
    assert report.findings[0].names == ("a log-sum-exp in base 2",)


def test_a_document_that_sees_another_is_named():
    """Documents packed into one row, and a kernel that knows nothing of them."""
    q, k, v = torch.randn(3, 1, 2, 20, 8, generator=torch.Generator().manual_seed(4))
    documents = torch.tensor([[0] * 7 + [1] * 13])
    inputs = attnviz.AttentionInputs(q, k, v, documents=documents, pattern=Causal())
    right = attnviz.context(inputs)[None]
    assert check_kernel(Outputs(inputs, context=right)).within
    leaked = attnviz.context(attnviz.AttentionInputs(q, k, v, pattern=Causal()))[None]
    report = check_kernel(Outputs(inputs, context=leaked))
    assert report.findings[0].names == ("documents left out: a document sees another",)


def test_inputs_that_a_kernel_rounds_are_named():
    one = planted("scale: twice", "causal", "float32", 40, 24)
    low = replace(one.right, **{name: getattr(one.right, name).bfloat16().double() for name in "qkv"})
    report = check_kernel(Outputs(one.inputs, context=low.run()[1].float()))
    assert report.findings[0].names[0] == "inputs rounded to bfloat16"


@pytest.mark.sweep
def test_sums_that_are_kept_in_a_half_type_are_named():
    """4,096 numbers added up one by one in bfloat16."""
    one = planted("scale: twice", "full", "bfloat16", 4096, 4)
    weights, v = one.exact["weights"], one.right.v.double()[:, one.right.kv_heads]
    total = torch.zeros_like(one.exact["context"])
    for key in range(4096):
        total = (total + weights[..., key : key + 1] * v[:, :, key : key + 1]).bfloat16().double()
    report = check_kernel(Outputs(one.inputs, context=total.bfloat16()), Asked(heads=[0], batches=[0]))
    assert not report.within
    assert kinds(report) == {"accumulation in a half type"}
    assert "sums over tiles of 1 keys kept in bfloat16" in report.findings[0].names


def test_nothing_is_named_for_noise_of_no_kind():
    one = planted("scale: twice", "full", "float32", 16, 16)
    noise = torch.randn(one.exact["context"].shape, generator=torch.Generator().manual_seed(1)).double()
    report = check_kernel(
        Outputs(one.inputs, context=(one.exact["context"] + 0.3 * noise).float()), Asked(heads=[0], batches=[0])
    )
    assert not report.within
    assert report.findings == ()


def test_the_evidence_says_how_many_rows_agree_and_how_well():
    report = planted("window of another size: +1", "window", "float32", 40, 24).check(
        "context", "float32", explain=True
    )
    assert report.findings[0].names == ("a window of 11, not 10",)
    assert report.findings[0].evidence.startswith("with --window 11 all 192 rows agree within ")
    assert float(report.findings[0].evidence.split()[-1]) < 1e-6
    assert report.findings[0].settings == ("--window 11",)


def test_differences_are_placed_on_their_diagonal():
    """A window one too wide moves all of a row a little, and the key at its edge most."""
    report = planted("window of another size: +1", "window", "float32", 512, 256).check("weights", "float32")
    assert all(head.where == ("at |p(t) - p(s)| = 129",) for head in report.heads)


def test_there_are_at_least_25_kinds_each_with_a_name_of_its_own():
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 25
    assert {mistake.split(":")[0] for mistake in MISTAKES} <= set(names)
