"""The layers of a source as a page shows them, each read when it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attnviz.cli.options import Compute, Derived, PatternChoice, Source, request_of

if TYPE_CHECKING:
    from attnviz.pages.description import Layers, PageLayer


def page_layers(
    source: Source,
    head: str,
    batch: str,
    choice: PatternChoice,
    compute: Compute,
    derived: Derived,
    told: Callable[[PageLayer], None] = lambda layer: None,
) -> Layers:
    """Every layer that the options speak of, each with its own pattern where no other is asked for.

    Each is read when it is asked for; ``told`` is called with it then.

    Raises:
        InputError: what the source lacks; when one is read, a head or batch item that is not there.
    """
    from attnviz.pages.description import Layers, PageLayer

    labels = source.layers()

    def read(number: int) -> PageLayer:
        label = labels[number]
        inputs = source.of(label).load(compute.dtype)
        inputs, pattern = choice.on(inputs)
        request = request_of(inputs, pattern, compute, head=head, batch=batch, derived=derived)
        layer = PageLayer("0" if label is None else f"{label}", request.item, request.attention.pattern, request.chosen)
        told(layer)
        return layer

    return Layers(len(labels), read)
