"""The layers of a source as a page shows them, each read when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from attnviz.cli.options import Compute, PatternChoice, Source, request_of

if TYPE_CHECKING:
    from attnviz.base.types import Label
    from attnviz.pages.description import PageLayer


class PageLayers:
    """Every layer that the options speak of, each with its own pattern where no other is asked for.

    Each is read when it is asked for; the latest is kept, and let go before another is read.
    """

    def __init__(
        self,
        source: Source,
        head: str,
        batch: str,
        choice: PatternChoice,
        compute: Compute,
        told: Callable[[PageLayer], None] = lambda layer: None,
    ) -> None:
        """What the options say; ``told`` is called with each layer that was read.

        Raises:
            InputError: the file can't be read, or lacks a layer that is named.
        """
        self.source, self.head, self.batch, self.choice, self.compute = source, head, batch, choice, compute
        self.labels, self._told = source.layers(), told
        self._latest: tuple[int, PageLayer] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[PageLayer]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> PageLayer:
        if self._latest is None or self._latest[0] != number:
            self._latest = None
            self._latest = number, self._read(self.labels[number])
        return self._latest[1]

    def _read(self, label: Label | None) -> PageLayer:
        """Raises InputError for what the source lacks, a head or a batch item that is not there."""
        from attnviz.pages.description import PageLayer

        inputs = self.source.of(label).load(self.compute.dtype)
        pattern = self.choice.choose(inputs.pattern)
        request = request_of(inputs, pattern, self.compute, head=self.head, batch=self.batch)
        layer = PageLayer("0" if label is None else f"{label}", request.item, pattern, request.chosen)
        self._told(layer)
        return layer
