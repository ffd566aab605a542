"""Which planted faults a check sees where: every mistake, dtype, length and output; and the table of it in the docs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel
from attnviz.compare.outputs import contexts, exact_attention, plain_attention
from attnviz.compare.rounding import Rounding, Sizes, rule_of
from attnviz.compare.sides import Exact
from attnviz.engine.request import Request
from attnviz.sources.arguments import inputs_of
from tests.faulty import MISTAKES, Kernel, called, case

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
LENGTHS = (16, 128, 1024, 16_384)
QUERIES = 32
"""Of long sequences the last so many: a decode step's, or a turn's."""
TIMES = 4
"""A fault that moves a number by more than so many times what rounding may cost is one that has to be seen."""


@dataclass(frozen=True)
class Planted:
    """A mistake in a kernel, in float64, and what a right one gives."""

    mistake: str
    case: str
    right: Kernel
    inputs: object
    exact: dict[str, Tensor]
    wrong: dict[str, Tensor]

    @property
    def moves(self) -> bool:
        """Whether it changes anything here."""
        return not torch.equal(self.wrong["context"], self.exact["context"])

    def visible(self, output: str, dtype: str) -> bool:
        """Whether it moves a number by more than :data:`TIMES` what rounding may cost there."""
        moved = (self.wrong[output] - self.exact[output]).abs()
        rule = rule_of(dtype)
        for b in range(self.inputs.B):
            for h in range(self.inputs.H):
                allowed = self._allowed(rule, output, b, h)
                if bool((moved[b, h] > TIMES * allowed).any()) or bool(moved[b, h].isnan().any()):
                    return True
        return False

    def _allowed(self, rule, output: str, b: int, h: int) -> Tensor:
        exact = self.exact[output][b, h]
        if not isinstance(rule, Rounding):
            return rule.atol + rule.rtol * exact.abs()
        if output == "weights":
            side = Exact(Request(self.inputs, batch=b, dtype=torch.float64))
            S = self.inputs.S
            logits = side.rows(h).read(torch.arange(side.T), weights=False).over(torch.arange(S), False).values
            return rule.of_weights(exact, rule.of_logits(logits, Sizes.of(side.attention.item, h)), S)[0]
        ours = contexts(exact_attention(self.inputs, b), h)
        plain = contexts(plain_attention(self.inputs, b), h, None, rule.dtype)
        return rule.of_contexts(ours, plain, self.inputs.S)[:, None]

    def check(self, output: str, dtype: str, *, wrong: bool = True, explain: bool = False):
        """What a check says of the faulty kernel, or of the right one, its numbers rounded to the dtype."""
        given = (self.wrong if wrong else self.exact)[output].to(DTYPES[dtype])
        return check_kernel(Outputs(self.inputs, **{output: given}), Asked(explain=explain))


def planted(mistake: str, name: str, dtype: str, S: int, T: int | None = None, seed: int = 0) -> Planted:
    """A mistake, planted in a case."""
    T = min(S, QUERIES) if T is None else T
    B = 1 if S > 1024 and "batch" not in mistake and name != "padded" else 2
    right = case(name, T, S, DTYPES[dtype], seed, B=B)
    given = called(right, name)
    inputs = inputs_of(given.pop("q"), given.pop("k"), None, right.v, **given)
    weights, context, _ = right.run()
    wrong_weights, wrong_context, _ = MISTAKES[mistake][1](right).run()
    return Planted(
        mistake,
        name,
        right,
        inputs,
        {"weights": weights, "context": context},
        {"weights": wrong_weights, "context": wrong_context},
    )


Seen = tuple[str, str, str, int, str, bool]
"""Mistake, case, dtype, length, output, and whether a check sees it."""


def plane(dtypes: Sequence[str] = tuple(DTYPES), lengths: Sequence[int] = LENGTHS) -> Iterator[Seen]:
    """Every mistake in each dtype, length and output; raises where one that has to be seen isn't, or a right kernel is red."""
    for mistake, (cases, _) in MISTAKES.items():
        for dtype in dtypes:
            for length in lengths:
                one = planted(mistake, cases[0], dtype, length)
                for output in ("weights", "context") if one.moves else ():
                    red = not one.check(output, dtype).within
                    place = f"{mistake}, {cases[0]}, {dtype}, {length}, {output}"
                    assert red or not one.visible(output, dtype), f"{place}: not seen"
                    assert one.check(output, dtype, wrong=False).within, f"{place}: a right one is red"
                    yield mistake, cases[0], dtype, length, output, red


def table(found: Iterable[Seen]) -> str:
    """The faults that can't be seen somewhere, as the docs have them; all others are seen everywhere."""
    missed: dict[tuple[str, str], dict[str, list[int]]] = {}
    for mistake, name, dtype, length, output, red in found:
        if not red:
            missed.setdefault((mistake, name), {}).setdefault(f"{output}, {dtype}", []).append(length)
    lines = ["| fault | pattern | not seen in |", "|---|---|---|"]
    for (mistake, name), places in missed.items():
        listed = "; ".join(f"{place}: {', '.join(f'{n:,}' for n in lengths)}" for place, lengths in places.items())
        lines.append(f"| {mistake} | {name} | {listed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        table(
            plane(
                *(part.split(",") for part in sys.argv[1:2]), *([int(n) for n in p.split(",")] for p in sys.argv[2:3])
            )
        )
    )
