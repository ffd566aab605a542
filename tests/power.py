"""Which planted faults a check sees where: every mistake, dtype, length and output; and the table of it in the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Causal, Chunked, Full, Local, Pattern, Prefix
from attnviz.compare.gradients import GRADIENTS, Flow, check_gradients
from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel
from attnviz.compare.outputs import reference
from attnviz.compare.rounding import Rounding, Rule, Sizes, rule_of
from attnviz.compare.sides import Exact
from attnviz.engine.request import Request
from attnviz.sources.arguments import inputs_of
from tests.faulty import CASES, MISTAKES, Kernel, called, case
from tests.kernels import CONTEXTS, DENOMINATORS, STREAMED, WEIGHTS, stepwise

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

    def moves(self, output: str) -> bool:
        """Whether it changes anything of an output here."""
        return not torch.equal(self.wrong[output], self.exact[output])

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
        if output == "weights" and not isinstance(rule, Rounding):
            return rule.atol + rule.rtol * exact.abs()
        if output == "weights":
            side = Exact(Request(self.inputs, batch=b, dtype=torch.float64))
            S = self.inputs.S
            logits = side.rows(h).read(torch.arange(side.T), weights=False).over(torch.arange(S), False).values
            return rule.of_weights(exact, rule.of_logits(logits, Sizes.of(side.attention.item, h)), S)[0]
        return reference(output, self.inputs, b, h, rule).allowed.reshape(len(exact), -1)

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
    right: set[tuple[object, ...]] = set()
    for mistake, (cases, _) in MISTAKES.items():
        for dtype in dtypes:
            for length in lengths:
                one = planted(mistake, cases[0], dtype, length)
                for output in filter(one.moves, ("weights", "context")):
                    red = not one.check(output, dtype).within
                    place = f"{mistake}, {cases[0]}, {dtype}, {length}, {output}"
                    assert red or not one.visible(output, dtype), f"{place}: not seen"
                    kernel = cases[0], dtype, length, output, one.inputs.B
                    if kernel not in right:  # the same numbers, whatever the mistake is
                        assert one.check(output, dtype, wrong=False).within, f"{place}: a right one is red"
                        right.add(kernel)
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


# Right kernels


SHAPES: dict[str, Callable[[int], Pattern]] = {
    "full": lambda S: Full(),
    "causal": lambda S: Causal(),
    "window": lambda S: Local(max(1, S // 8)),
    "causal window": lambda S: Local(max(1, S // 4)) & Causal(),
    "chunked": lambda S: Chunked(max(1, S // 5)) & Causal(),
    "prefix": lambda S: Prefix(S // 3),
    "dilated": lambda S: Local(max(1, S // 8), 3),
}
"""Patterns that right kernels are held to, of a length."""


@dataclass(frozen=True)
class Draw:
    """Queries, keys and values of many seeds, a batch item each, and what they see."""

    q: Tensor  # (n, 1, T, D)
    k: Tensor
    v: Tensor
    seen: bool | Tensor  # as kernels take it
    inputs: AttentionInputs

    @classmethod
    def of(cls, seeds: Sequence[int], dtype: str, T: int, S: int, shape: str) -> Draw:
        each = []
        for seed in seeds:
            draw, spread = torch.Generator().manual_seed(seed), (1.0, 0.2, 5.0)[seed % 3]
            q, k, v = (torch.randn((1, n, 32), generator=draw, dtype=torch.float64) for n in (T, S, S))
            each.append([tensor.to(DTYPES[dtype]) for tensor in (q * spread, k, v)])
        q, k, v = (torch.stack(tensors) for tensors in zip(*each, strict=True))
        pattern = SHAPES[shape](S)
        inputs = AttentionInputs(q, k, v, pattern=pattern)
        seen: bool | Tensor = shape == "causal" and T == S
        if shape != "full" and not seen:
            seen = pattern.visible(torch.arange(T)[:, None], torch.arange(S)[None], inputs.item())
        return cls(q, k, v, seen, inputs)

    def made(self, flex: bool) -> dict[str, dict[str, Tensor]]:
        """What right kernels of every kind give, by the output and their names."""
        given, wide = (self.q, self.k, self.v, self.seen), self.q.dtype == torch.float64
        maps = self.inputs.T * self.inputs.S <= MAPPED
        weights = {
            name: kernel(self.q, self.k, self.seen)
            for name, kernel in (WEIGHTS.items() if maps else ())
            if not (wide and name in NARROW)
        }
        contexts, denominators = {name: made @ self.v for name, made in weights.items() if name in CONTEXTS}, {}
        for name, kernel in CONTEXTS.items():
            if (
                name in contexts  # a product of weights
                or (wide and name in NARROW)
                or not (maps or name in STREAMED)
                or (name == "flex" and not flex)
            ):
                continue
            if name in DENOMINATORS:
                contexts[name], denominators[name] = DENOMINATORS[name](*given)
            else:
                contexts[name] = kernel(*given)
        return {"context": contexts, "lse": denominators, "weights": weights}

    def red(self, made: dict[str, Tensor], what: str, rule: Rule) -> Iterator[str]:
        """The kernels, of one output, that a check calls wrong, and their batch items; the exact numbers are made once for all."""
        for b in range(len(self.q)):
            hold = self._weights(b, rule) if what == "weights" else self._rows(b, what, rule)
            right: list[Tensor] = []
            for name, out in made.items():
                if any(torch.equal(out[b], one) for one in right):  # as on one thread, mostly
                    continue
                if hold(out[b, 0].double()):
                    right.append(out[b])
                else:
                    yield f"{name}, {what}, item {b}"

    def _rows(self, b: int, what: str, rule: Rule) -> Callable[[Tensor], bool]:
        right = reference(what, self.inputs, b, 0, rule)
        allowed = right.allowed.reshape(len(right.exact), -1)
        return lambda out: bool(((out.reshape(right.exact.shape) - right.exact).abs() <= allowed).all())

    def _weights(self, b: int, rule: Rule) -> Callable[[Tensor], bool]:
        side, T, S = Exact(Request(self.inputs, batch=b, dtype=torch.float64)), self.inputs.T, self.inputs.S
        logits = side.rows(0).read(torch.arange(T), weights=False).over(torch.arange(S), False).values
        exact = torch.softmax(logits, 1)
        if isinstance(rule, Rounding):
            pairs, rows = rule.of_weights(exact, rule.of_logits(logits, Sizes.of(side.attention.item, 0)), S)
        else:
            pairs, rows = rule.atol + rule.rtol * exact, torch.full((T,), torch.inf)

        def hold(out: Tensor) -> bool:
            off = (out - exact).abs()
            return bool((off <= pairs).all()) and bool((off.sum(1) / 2 <= rows).all())

        return hold


def red_kernels(
    dtype: str,
    T: int,
    S: int,
    seeds: int,
    *,
    shapes: Sequence[str] = tuple(SHAPES),
    threads: Sequence[int] = (1, 2),
    flex: int = 0,
) -> list[str]:
    """Right kernels of every kind that a check calls wrong; none, where it is right itself.

    Args:
        dtype: of what goes in and comes out.
        T, S: queries and keys.
        seeds: how many times inputs are drawn, the patterns taking turns.
        shapes: the patterns whose turns these are.
        threads: numbers of threads that each kernel runs on; those of long inputs take turns.
        flex: seeds of each pattern that FlexAttention takes part in, which is slow uncompiled.
    """
    found, rule, before = [], rule_of(dtype), torch.get_num_threads()
    at_once = min(50, max(1, MAPPED // (T * S)))  # what is larger doesn't stay in a processor's cache
    for shape in shapes:
        own = range(list(SHAPES).index(shape), seeds, len(SHAPES))
        for first in range(0, len(own), at_once):
            drawn = Draw.of(own[first : first + at_once], dtype, T, S, shape)
            made: dict[str, dict[str, Tensor]] = {}
            turn = first // at_once % len(threads)
            try:
                for count in threads if at_once > 4 else threads[turn : turn + 1]:
                    torch.set_num_threads(count)
                    for what, outputs in drawn.made(first < flex).items():
                        of_count = {f"{name}, {count} threads": out for name, out in outputs.items()}
                        made.setdefault(what, {}).update(of_count)
            finally:
                torch.set_num_threads(before)
            for what, outputs in made.items():
                held = drawn.red(outputs, what, rule_of("float32") if what == "lse" else rule)
                found += [f"{dtype}, {T} x {S}, {shape}, seeds {own[first]}, ...: {one}" for one in held]
    return found


def red_gradients(dtype: str, T: int, seeds: int) -> list[str]:
    """Right kernels whose gradients, by autograd, a check calls wrong."""
    found, rule, names = (
        [],
        rule_of(dtype),
        [name for name in DIFFERENTIATED if dtype != "float64" or name not in NARROW],
    )
    for n, shape in enumerate(SHAPES):
        drawn = Draw.of(range(n, seeds, len(SHAPES)), dtype, T, T, shape)
        draw = torch.Generator().manual_seed(n)
        grad = torch.randn(drawn.v.shape, generator=draw, dtype=torch.float64).to(drawn.v.dtype)
        flow = Flow(drawn.inputs, grad)
        for name in names:
            leaves = [tensor.clone().requires_grad_() for tensor in (drawn.q, drawn.k, drawn.v)]
            made = torch.autograd.grad(CONTEXTS[name](*leaves, drawn.seen), leaves, grad)
            for what, gradient in zip(GRADIENTS, made, strict=True):
                items = range(len(drawn.q))
                heads = check_gradients(what, gradient, flow, rule, None, heads=[0], batches=items)
                found += [f"{dtype}, {T}, {shape}, {name}: {head}" for head in heads if not head.within]
    return found


def red_cases(dtype: str, T: int, seeds: int) -> list[str]:
    """Right kernels of each case, every step in the dtype, that a check calls wrong."""
    found = []
    for name in CASES:
        for seed in range(seeds if name != "longformer" else 0):  # whose global rows are another call
            right = case(name, T, T, DTYPES[dtype], seed, B=1 + (name == "padded"))
            right = replace(right, q=right.q * (1.0, 0.25, 4.0)[seed % 3])
            for setting in ("sinks", "slopes"):
                if getattr(right, setting) is not None:
                    right = replace(right, **{setting: getattr(right, setting).to(DTYPES[dtype]).double()})
            given = called(right, name)
            inputs = inputs_of(given.pop("q"), given.pop("k"), None, right.v, **given)
            for wide in (True, False) if dtype != "float64" else (False,):
                weights, context = stepwise(right, wide=wide)
                report = check_kernel(Outputs(inputs, weights=weights, context=context), Asked(explain=False))
                found += [] if report.within else [f"{name}, seed {seed}: {report.message()}"]
    return found


DIFFERENTIATED = ("sdpa math", "sdpa flash", "plain", "online, 64")
"""Kernels that autograd goes back through."""

NARROW = ("sdpa flash", "flex", "scaled first", "float32 softmax")
"""Kernels that compute in float32 whatever goes in."""

MAPPED = 1 << 22
"""Cells of a map up to which kernels that make one are run."""


def written(docs: str, found: str) -> str:
    """The page with the table of what can't be seen in the place of the one that it has."""
    first = docs.index(found.partition("\n")[0])
    last = docs.index("\n\n", first)
    return docs[:first] + found + docs[last:]


DOCS = Path(__file__).parents[1] / "docs" / "checking.md"
"""The page that has the table, of bfloat16, which sees least: ``python -m tests.power`` writes it."""


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(), table(plane(["bfloat16"]))))
