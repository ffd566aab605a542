"""Derived maps as options: one map of several heads or layers, rollout, weights times the length of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.types import Label
    from attnviz.cli.choice import PatternChoice
    from attnviz.cli.options import Compute
    from attnviz.cli.source import Source
    from attnviz.engine.request import Request
    from attnviz.plots.kind import Kind

NORMS = ("norms", "norm-shares")

Weighed = Annotated[
    str,
    typer.Option(
        "--values",
        help="weights (after softmax), norms (weight times ‖v‖, through w_o where there is one) or norm-shares (of a row).",
    ),
]
"""What is counted where logits are no choice."""


@dataclass(frozen=True)
class Derive:
    """One map of several: of heads, of layers."""

    RANK: ClassVar = 1

    mean: Annotated[
        str | None,
        typer.Option(
            metavar="OVER",
            help="One map, the mean over: heads, layers (of --layer) or items (of --batch); several with commas.",
        ),
    ] = None
    max: Annotated[
        str | None,
        typer.Option(
            metavar="OVER", help="One map, the largest value of: heads, layers or items; several with commas."
        ),
    ] = None
    rollout: Annotated[
        bool,
        typer.Option(
            "--rollout",
            help="One map: attention followed through the layers, mean of heads and identity (--values norms: weighed by lengths).",
        ),
    ] = False

    @property
    def hows(self) -> dict[str, str]:
        """How ``layers`` and ``heads`` become one, as far as they are to. Raises InputError for what contradicts itself."""
        from attnviz.engine.request import hows

        return hows(self.mean, self.max, rollout=self.rollout)

    def load(
        self, source: Source, choice: PatternChoice, compute: Compute, batch: str, values: str = "weights"
    ) -> tuple[Inputs, Pattern, str, str]:
        """The inputs, one layer's or what is derived from several layers and batch items; their pattern; and what is left of
        ``--batch`` and of ``--values``.

        Raises:
            InputError: what the source lacks; layers or items of which there is no one map.
        """
        inputs, pattern, left = self._layers(source, choice, compute, values)
        return *self._items(inputs, pattern, batch), left

    def _layers(
        self, source: Source, choice: PatternChoice, compute: Compute, values: str
    ) -> tuple[Inputs, Pattern, str]:
        """One layer's inputs, or what is derived from several."""
        from attnviz.attention.derived import over_layers

        hows = self.hows
        if self.rollout and values not in ("weights", "norms"):
            raise InputError(f"--values {values}: --rollout follows weights or norms; choose one of these")
        if "layers" not in hows:
            return self._one(source, choice, compute, values)
        each = [self._one(source.of(label), choice, compute, values) for label in source.layers()]
        made = over_layers([replace(inputs, pattern=pattern) for inputs, pattern, _ in each], hows["layers"])
        assert made.pattern is not None
        return made, made.pattern, each[0][2]

    def each(
        self, source: Source, choice: PatternChoice, compute: Compute, batch: str, values: str = "weights"
    ) -> Iterator[tuple[Label | None, Inputs, Pattern, str]]:
        """Each layer, one in memory at a time, or the one map that is made of them, with what is left of ``--batch``."""
        over_layers = "layers" in self.hows
        for label in [None] if over_layers else source.layers():
            one = source if over_layers else source.of(label)
            inputs, pattern, left, _ = self.load(one, choice, compute, batch, values)
            yield label, inputs, pattern, left
            del inputs

    def check_one_item(self, what: str) -> None:
        """Raises InputError where several batch items are to become one, and ``what`` holds one as it is."""
        how = self.hows.get("items")
        if how is not None:
            raise InputError(f"--{how} items: {what} holds one batch item; choose it with --batch, and leave items out")

    def _items(self, inputs: Inputs, pattern: Pattern, batch: str) -> tuple[Inputs, Pattern, str]:
        """The inputs as one batch item, their pattern and ``--batch`` of that, where items become one; else as they are.

        Several items of ``--batch`` do where heads or layers do: ``--batch all --mean``.
        """
        from attnviz.attention.derived import over_items
        from attnviz.base.selections import parse_indices

        hows = self.hows
        how = hows.get("items") or hows.get("heads") or hows.get("layers")
        if how not in ("mean", "max"):
            return inputs, pattern, batch
        items = parse_indices(batch, inputs.B, option="--batch", noun="batch item")
        if len(items) == 1 and "items" not in hows:
            return inputs, pattern, batch
        if len(items) == 1 and inputs.B > 1:
            raise InputError(f"--{how} items: it is of several batch items; name them: --batch all")
        made = over_items(replace(inputs, pattern=pattern), how, items)
        assert made.pattern is not None
        return made, made.pattern, "0"

    def heads(self, request: Request) -> Request:
        """The request of one map of its heads, where that is asked for."""
        from attnviz.engine.request import of_heads

        how = self.hows.get("heads")
        return request if how is None else of_heads(request, how)

    def of_kind(self, kind: Kind) -> Kind:
        """A kind of figure that draws one map of its heads, where that is asked for.

        Raises:
            InputError: it shows single heads.
        """
        from attnviz.plots.kinds.heatmap import OfHeads

        how = self.hows.get("heads")
        if how is None:
            return kind
        if not isinstance(kind, OfHeads):
            raise InputError(f"{kind.title} shows single heads; leave --{how} out")
        return replace(kind, **{how: True})

    def _one(self, source: Source, choice: PatternChoice, compute: Compute, values: str) -> tuple[Inputs, Pattern, str]:
        """One layer."""
        from attnviz.attention.derived import by_norms

        inputs, pattern = choice.on(source.load(compute.dtype, values=values in NORMS))
        if values not in NORMS:
            return inputs, pattern, values
        made = by_norms(inputs, values, pattern)
        assert made.pattern is not None
        return made, made.pattern, "weights"
