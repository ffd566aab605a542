"""The layers of a source as a page shows them, each read when it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attnviz.cli.options import Compute, Part, PatternChoice, Seen, Source, request_of

if TYPE_CHECKING:
    from attnviz.cli.derived import Derive
    from attnviz.pages.description import Layers, PageLayer


def page_layers(
    source: Source,
    head: str,
    batch: str,
    choice: PatternChoice,
    compute: Compute,
    part: Part,
    seen: Seen,
    derive: Derive,
    values: str = "weights",
    told: Callable[[PageLayer], None] = lambda layer: None,
) -> Layers:
    """Every layer that the options speak of, each with its own pattern where no other is asked for.

    Each is read when it is asked for; ``told`` is called with it then.

    Raises:
        InputError: what the source lacks; when one is read, a head or batch item that is not there.
    """
    from attnviz.pages.description import Layers, page_layer

    labels = [None] if "layers" in derive.hows else source.layers()

    def read(number: int) -> PageLayer:
        label = labels[number]
        one = source if "layers" in derive.hows else source.of(label)
        inputs, pattern, _ = derive.load(one, choice, compute, values)
        request = derive.heads(
            request_of(inputs, pattern, compute, head=head, batch=batch, region=part, seen=seen)
        ).cropped()
        layer = page_layer(request, "0" if label is None else f"{label}")
        told(layer)
        return layer

    return Layers(len(labels), read)
