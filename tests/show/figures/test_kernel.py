"""Pictures of what a kernel gave, beside what is exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attnviz.attention.patterns import Causal
from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel
from attnviz.show.figures.kernel import rows_figure, rows_words
from tests.cases import small


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("name", "noun"), [("context", "query"), ("lse", "query"), ("dq", "query"), ("dk", "key"), ("dv", "key")]
)
def test_rows_are_drawn_as_they_are(name, noun):
    inputs = replace(small(), pattern=Causal())
    shape = {"context": inputs.q.shape[:3] + inputs.v.shape[3:], "lse": inputs.q.shape[:3], "dq": inputs.q.shape}
    shape |= {"dk": inputs.k.shape, "dv": inputs.v.shape}
    draw = torch.Generator().manual_seed(0)
    given = {name: torch.randn(shape[name], generator=draw), "grad": torch.randn(shape["context"], generator=draw)}
    outputs = Outputs(inputs, **given)
    report = check_kernel(outputs, Asked(explain=False))
    figure = rows_figure(outputs, report)
    head = report.wrong[0]
    assert rows_words(report).startswith(f"{name} that a kernel gave")
    first = figure.axes[0]
    assert first.get_ylabel() == f"head {head.head}\n{noun}"
    shown = first.images[0].get_array().data
    assert shown == pytest.approx(given[name][head.batch, head.head].reshape(shown.shape).double().numpy())


def test_a_lone_number_of_many_rows_is_seen():
    inputs = replace(small(tokens=700), pattern=Causal())
    out = torch.zeros(inputs.q.shape[:3] + inputs.v.shape[3:])
    out[0, :, 333, 1] = 50.0
    figure = rows_figure(outputs := Outputs(inputs, context=out), check_kernel(outputs, Asked(explain=False)))
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape[0] <= 256
    assert float(shown.max()) == 50.0
