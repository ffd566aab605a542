"""The layers of a source as a page shows them, each read when it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.cli.options import Compute, PatternChoice, Source, request_of

if TYPE_CHECKING:
    from attnviz.pages.description import PageLayer


@dataclass(frozen=True)
class PageLayers:
    """Every layer that the options speak of, each with its own pattern where no other is asked for.

    Iterating reads one after another, and keeps none.

    Raises:
        InputError: what the source lacks; a head or batch item that is not there.
    """

    source: Source
    head: str
    batch: str
    choice: PatternChoice
    compute: Compute

    def __len__(self) -> int:
        return len(self.source.layers())

    def __iter__(self) -> Iterator[PageLayer]:
        from attnviz.pages.description import PageLayer

        for label, inputs in self.source.each(self.compute.dtype):
            pattern = self.choice.choose(inputs.pattern)
            request = request_of(inputs, pattern, self.compute, head=self.head, batch=self.batch)
            del inputs
            layer = PageLayer("0" if label is None else f"{label}", request.item, pattern, request.chosen)
            del request
            yield layer
            del layer  # before the next is read
