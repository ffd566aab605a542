"""The layers of a source as a page shows them, each read when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from attnviz.cli.options import Compute, PatternChoice, Source, request_of

if TYPE_CHECKING:
    from attnviz.base.types import Label
    from attnviz.pages.description import PageLayer


@dataclass(frozen=True)
class PageLayers:
    """Every layer that the options speak of, each with its own pattern where no other is asked for.

    Each is read when it is asked for, and none is kept.

    Args:
        source, head, batch, choice, compute: what the options say.
        told: called with each layer that was read.

    Raises:
        InputError: what the source lacks; a head or batch item that is not there.
    """

    source: Source
    head: str
    batch: str
    choice: PatternChoice
    compute: Compute
    told: Callable[[PageLayer], None] = lambda layer: None

    @cached_property
    def labels(self) -> list[Label | None]:
        """What the layers are called."""
        return self.source.layers()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[PageLayer]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> PageLayer:
        from attnviz.pages.description import PageLayer

        label = self.labels[number]
        inputs = self.source.of(label).load(self.compute.dtype)
        pattern = self.choice.choose(inputs.pattern)
        request = request_of(inputs, pattern, self.compute, head=self.head, batch=self.batch)
        layer = PageLayer("0" if label is None else f"{label}", request.item, pattern, request.chosen)
        self.told(layer)
        return layer
