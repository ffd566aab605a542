"""The shapes that are written beside the fields of public classes, and what public functions give, are the shapes there are.

A comment like ``# (B, H, T, D)`` is read from the source and held by jaxtyping against real values: one letter is one size
throughout a call.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from jaxtyping import Float, Int, Shaped
from torch import Tensor

import attnviz
from attnviz.attention.call import AttentionCall
from attnviz.engine.blocks import Block, SeenRows, blocks
from attnviz.engine.scores import AttentionScores
from tests.strategies import Call, calls

COMMENT = re.compile(r"#\s*\(([^)]*)\)")


def shapes_of(kind: type) -> dict[str, str]:
    """The shape beside each field of a class, as jaxtyping writes it: ``"B H T D"``; a size that may be 1, or a sum, is free."""
    source = inspect.getsource(kind)
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or "Tensor" not in ast.unparse(node.annotation):
            continue
        match = COMMENT.search(source.splitlines()[node.lineno - 1])
        assert match is not None, f"{kind.__name__}.{ast.unparse(node.target)} has no shape beside it"
        sizes = [size.strip().replace(" ", "") for size in match[1].split(",") if size.strip()]
        found[ast.unparse(node.target)] = " ".join("_" if set("|+") & set(size) else size for size in sizes)
    return found


def check(value: Any, shapes: dict[str, str]) -> None:
    """Every tensor of ``value`` has its shape, each letter one size with those that are bound already."""
    for name, shape in shapes.items():
        tensor = getattr(value, name)
        if tensor is not None:
            fits = isinstance(tensor, Shaped[Tensor, shape])
            assert fits, f"{type(value).__name__}.{name} is {tuple(tensor.shape)}, and ({shape}) is written beside it"


@given(call=calls())
def test_inputs_have_the_shapes_beside_their_fields(call: Call):
    with jaxtyping.jaxtyped("context"):
        check(call.inputs, shapes_of(AttentionCall))


@given(call=calls(values=False))
def test_scores_have_the_shapes_beside_their_fields(call: Call):
    result = attnviz.score(call.inputs, call.pattern, batch=call.batch)
    with jaxtyping.jaxtyped("context"):
        check(result, shapes_of(AttentionScores))
    assert result.weights is not None
    assert result.weights.shape[2] == len(result.positions) + len(result.offsets)


@given(call=calls(values=False))
def test_blocks_have_the_shapes_beside_their_fields(call: Call):
    for block in blocks(call.inputs.item(call.batch), call.pattern, 0):
        with jaxtyping.jaxtyped("context"):
            check(block, shapes_of(Block))


@given(call=calls())
def test_public_functions_give_the_shapes_that_they_say(call: Call):
    inputs, options = call.inputs, {"batch": call.batch}
    with jaxtyping.jaxtyped("context"):
        assert isinstance(inputs.q, Float[Tensor, "B H T D"])
        assert isinstance(inputs.k, Float[Tensor, "B H_kv S D"])
        assert isinstance(inputs.v, Float[Tensor, "B H_kv S D_v"])
        assert isinstance(attnviz.context(inputs, call.pattern, **options), Float[Tensor, "H T D_v"])
        full = attnviz.attention_map(inputs, 0, attnviz.Full(), **options)
        assert isinstance(full.cells, Float[np.ndarray, "T S"])
        sides = attnviz.marginals(inputs, 0, attnviz.Full(), **options)
        assert isinstance(sides.received, Float[np.ndarray, " S"])
        assert isinstance(sides.entropy, Float[np.ndarray, " T"])
        pyramid = attnviz.Pyramid.of(inputs, call.pattern, **options)
        assert isinstance(pyramid.tile(0, 0, 0, 0), Float[np.ndarray, "256 256"])
        assert isinstance(pyramid.rectangle(0, range(inputs.T), range(inputs.S)), Float[np.ndarray, "T S"])
        rows = pyramid.attention.rows(0).read(range(inputs.T)[:1])
        check(rows, shapes_of(SeenRows))
        assert isinstance(rows.keys, Int[Tensor, " n"])


def test_a_wrong_shape_is_seen():
    inputs = attnviz.synthesize(heads=2, tokens=5)
    shapes = {**shapes_of(AttentionCall), "k": "B H T D_other"}
    object.__setattr__(inputs, "k", inputs.k[:, :, :3])
    with pytest.raises(AssertionError, match=r"AttentionInputs.k is \(1, 2, 3, 64\)"), jaxtyping.jaxtyped("context"):
        check(inputs, shapes)
