"""The layers of a source as a page shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnviz.cli.options import Compute, PatternChoice, Source

if TYPE_CHECKING:
    from attnviz.pages.description import PageLayer


def page_layers(source: Source, head: str, batch: str, choice: PatternChoice, compute: Compute) -> list[PageLayer]:
    """Every layer that the options speak of, each with its own pattern where no other is asked for.

    Raises:
        InputError: what the source lacks; a head or batch item that is not there.
    """
    from attnviz.base.devices import parse_device
    from attnviz.base.selections import parse_index, parse_indices
    from attnviz.pages.description import PageLayer

    device, found = parse_device(compute.device), []
    for label in source.layers():
        inputs = replace(source, layer=label).load(compute.dtype)
        heads = parse_indices(head, inputs.H, option="--head", noun="head")
        item = inputs.item(parse_index(batch, inputs.B, option="--batch", noun="batch item"), device=device)
        found.append(PageLayer(label or "0", item, choice.choose(inputs.pattern), heads))
    return found


def title(source: Source) -> str:
    """What a page of the source is called."""
    return str(source.source) if source.source is not None else "inputs" if source.paths() else "synthetic"
