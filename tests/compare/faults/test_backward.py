"""Every mistake planted in a backward pass is red and named in the gradients that it makes wrong; a right pass is neither."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Causal
from attnviz.base.errors import InputError
from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel
from attnviz.sources.arguments import inputs_of
from tests.faulty import BACKWARD, MISTAKES, Kernel, backward, called, case, gradients
from tests.power import DTYPES

GRADIENTS = ("dq", "dk", "dv")
FORWARD = [
    mistake
    for mistake, (cases, _) in MISTAKES.items()
    if cases[0] != "longformer" and mistake != "rows not written"  # which no gradient goes through
]
"""Mistakes of a forward pass that autograd goes back through."""


def planted(
    name: str, dtype: str, T: int = 20, S: int = 26, B: int | None = None
) -> tuple[Kernel, AttentionInputs, torch.Tensor]:
    """A right kernel, what it is called with, and a gradient of its context."""
    right = case(name, T, S, DTYPES[dtype], 0, B=B or (2 if name == "padded" else 1))
    given = called(right, name)
    draw = torch.Generator().manual_seed(3)
    grad = torch.randn(right.run()[1].shape, generator=draw, dtype=torch.float64).to(DTYPES[dtype])
    return right, inputs_of(given.pop("q"), given.pop("k"), None, right.v, **given), grad


def kinds(inputs: AttentionInputs, grad: torch.Tensor, dtype: str, **given: torch.Tensor) -> set[str] | None:
    """The kinds of fault that are named; None where nothing is red."""
    given = {name: tensor.to(DTYPES[dtype]) for name, tensor in given.items()}
    report = check_kernel(Outputs(inputs, grad=grad, **given))
    return None if report.within else {fault for finding in report.findings for fault in finding.faults}


def can_be_seen(inputs: AttentionInputs, grad: torch.Tensor, dtype: str, name: str, exact, wrong) -> bool:
    """Whether a mistake moves a gradient by more than 4 times what may be rounding: these have to be red."""
    far = torch.full_like(exact, 1e3).to(DTYPES[dtype])
    heads = check_kernel(Outputs(inputs, grad=grad, **{name: far}), Asked(explain=False)).heads
    return float((wrong - exact).abs().nan_to_num(posinf=1e3).max()) > 4 * max(head.worst.allowed for head in heads)


def each_once(pairs):
    """Each mistake with one of its gradients, in dtypes that take turns."""
    dtypes = cycle(["float64", "bfloat16", "float32", "float16"])
    return [(mistake, names[n % len(names)], next(dtypes)) for n, (mistake, names) in enumerate(pairs)]


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("mistake", "name", "dtype"), each_once((mistake, made[1].split()) for mistake, made in BACKWARD.items())
)
def test_a_mistake_of_the_backward_pass_is_named(mistake, name, dtype):
    of_case, _, make = BACKWARD[mistake]
    right, inputs, grad = planted(of_case, dtype)
    assert kinds(inputs, grad, dtype, **backward(right, grad)) is None
    assert mistake.split(":")[0] in kinds(inputs, grad, dtype, **{name: make(right, grad)[name]})


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("mistake", "name", "dtype"), each_once((mistake, GRADIENTS) for mistake in FORWARD[::7]))
def test_a_mistake_of_the_forward_pass_is_named_by_its_gradients(mistake, name, dtype):
    right, inputs, grad = planted(MISTAKES[mistake][0][0], dtype, B=2 if "batch" in mistake else None)
    assert kinds(inputs, grad, dtype, **gradients(right, grad)) is None
    assert mistake.split(":")[0] in kinds(
        inputs, grad, dtype, **{name: gradients(right, grad, MISTAKES[mistake][1])[name]}
    )


@pytest.mark.power
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mistake", [*FORWARD, *BACKWARD])
def test_every_mistake_is_named_by_every_gradient(mistake, dtype):
    if mistake in BACKWARD:
        of_case, names, make = BACKWARD[mistake]
        right, inputs, grad = planted(of_case, dtype, 24, 42)
        made = {name: gradient for name, gradient in make(right, grad).items() if name in names}
    else:
        T, B = 42 if "transposed" in mistake or "axis" in mistake else 24, 2 if "batch" in mistake else None
        right, inputs, grad = planted(MISTAKES[mistake][0][0], dtype, T, 42, B)
        made = gradients(right, grad, MISTAKES[mistake][1])
    exact = backward(right, grad) if mistake in BACKWARD else gradients(right, grad)
    for name, gradient in made.items():
        found = kinds(inputs, grad, dtype, **{name: gradient})
        if found is None:
            assert not can_be_seen(inputs, grad, dtype, name, exact[name], gradient), name
        else:
            assert mistake.split(":")[0] in found, name


def test_a_query_that_sees_one_key_may_have_any_rounding_for_its_gradient():
    """It is 0 but for what cancels: flash attention's way has the roundings of its output there."""
    right, inputs, grad = planted("causal", "float32", 26, 26)
    dq = gradients(right, grad)["dq"].float()
    assert float(dq[:, :, 0].abs().max()) < 1e-12
    dq[:, :, 0] += 1e-7
    assert check_kernel(Outputs(inputs, grad=grad, dq=dq)).within
    dq[:, :, 0] += 1e-4
    assert not check_kernel(Outputs(inputs, grad=grad, dq=dq), Asked(explain=False)).within


def test_a_gradient_of_padded_queries_is_refused_where_keys_sum_over_it():
    right, _, grad = planted("causal", "float32", 26, 26)
    exists = torch.arange(26)[None] < 20
    inputs = AttentionInputs(right.q, right.k, right.v, pattern=Causal(), key_padding_mask=exists)
    made = gradients(right, grad)
    with pytest.raises(InputError, match="grad of batch item 0 is not 0 in rows of queries that are padding"):
        check_kernel(Outputs(inputs, grad=grad, dk=made["dk"].float()))
    check_kernel(Outputs(inputs, grad=grad, dq=made["dq"].float()), Asked(explain=False))
    zero = grad.masked_fill(~exists[0][:, None], 0.0)
    assert kinds(inputs, zero, "float32", **gradients(right, zero)) is None


def test_sampled_rows_of_dk_and_dv_are_keys_from_the_first_to_the_last():
    """More keys than queries: those beyond the number of queries are drawn too."""
    right, inputs, grad = planted("full", "float32", 4, 64)
    made = gradients(right, grad)
    made["dv"][:, :, 8:] *= 2
    report = check_kernel(Outputs(inputs, grad=grad, dv=made["dv"].float()), Asked(rows=16, explain=False))
    assert not report.within
    assert report.note.startswith("16 of 64 keys of each head; missed is")


def test_rows_of_dk_and_dv_that_differ_are_said_to_be_keys():
    right, inputs, grad = planted("full", "float32", 4, 64)
    made = gradients(right, grad)
    made["dv"][:, :, 8:48] *= 2
    report = check_kernel(Outputs(inputs, grad=grad, dv=made["dv"].float()), Asked(explain=False))
    assert {head.where for head in report.heads} == {("keys 8 to 47",)}
