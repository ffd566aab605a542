"""The page in a cell of a notebook: Jupyter, VS Code, Colab, marimo, whatever runs anywidget."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from attnviz.attention.derived import SomeInputs
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.spans import Hide, Spans
from attnviz.base.types import Label
from attnviz.captures.run import Run
from attnviz.engine.request import ask_for_weights, hows
from attnviz.maps.layers import Layers
from attnviz.pages.description import PageLayer, page_layer, to_json
from attnviz.pages.encoding import PageEncoder, check_size, least_bytes
from attnviz.pages.frontend import asset
from attnviz.sources.dumps import load
from attnviz.sources.naming import layers_there

MOST_BYTES = 200_000_000
"""The most that a cell holds: notebooks keep it in the browser, and some in the file."""


def view(
    shown: Run | Inputs | Sequence[Inputs] | str | Path,
    pattern: Pattern | None = None,
    *,
    layers: Collection[Label] | None = None,
    heads: Collection[int] | None = None,
    batch: int = 0,
    height: int = 640,
    merge: str | None = None,
    spans: Spans | None = None,
    query_spans: Spans | None = None,
    hide: Hide | None = None,
    renormalize: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    mean: str | None = None,
    max: str | None = None,
    rollout: bool = False,
    values: str = "weights",
) -> Any:
    """The interactive page of every layer and head, as a widget for a notebook's cell.

    Args:
        shown: what :func:`attnviz.capture` gave, the inputs of one layer or of several, weights that were given, or a dump.
        pattern: which query sees which key; None is each layer's own, else the global keys.
        layers: which layers of a run or a dump, as numbers or labels; None is all.
        heads: the query heads; None is all.
        batch: the batch item.
        height: CSS pixels that the widget is tall.
        merge, spans, query_spans, hide, renormalize: words, spans and what is left out, as :func:`attnviz.attention_map` takes them.
        device, dtype: as in :func:`attnviz.score`.
        mean, max, rollout, values: one map of the layers or heads, or what else is made of weights, as in
            :func:`attnviz.attention_map`.

    Returns:
        An ``anywidget.AnyWidget``: show it as a cell's last value.

    Raises:
        InputError: anywidget is not installed; no such layer, head or item; more than a cell can hold.

    >>> import attnviz
    >>> attnviz.view(attnviz.synthesize(), attnviz.Causal()).height
    640
    """
    widget = _widget_class()
    named: Iterator[tuple[str, SomeInputs]]
    source, named = _layers(shown, layers)
    what: dict[str, Any] = {"batch": batch, "device": device, "dtype": dtype}
    what |= {"merge": merge, "spans": spans, "query_spans": query_spans, "hide": hide, "renormalize": renormalize}
    chosen_heads = None if heads is None else list(heads)

    if "layers" in hows(mean, max, rollout=rollout):
        named = iter([("0", [inputs for _, inputs in named])])
    derived: dict[str, Any] = {"mean": mean, "max": max, "rollout": rollout, "values": values}

    def read() -> Iterator[PageLayer]:
        """One layer after another; none is held while the next is read."""
        size = 0
        for label, inputs in named:
            request = ask_for_weights(inputs, pattern, chosen_heads, **what, **derived)
            if not request.chosen:
                raise InputError(f"{request.inputs.source}: heads is empty; name at least one, or None for all")
            layer = page_layer(request, label)
            check_size(layer)
            size += least_bytes(layer)
            if size > MOST_BYTES:
                raise InputError(
                    f"{source}: takes {size:,} bytes of a notebook, and {MOST_BYTES:,} are the most; name some layers "
                    f"or heads (layers=, heads=), or save it and look at it with: attnviz view"
                )
            yield layer
            del inputs, request, layer

    encoder = PageEncoder(read(), source)
    chunks = {chunk.index: bytes(chunk.data) for chunk in encoder.chunks()}
    return widget(
        run=to_json(encoder.description), chunks=[chunks[index] for index in range(len(chunks))], height=height
    )


def _layers(
    shown: Run | Inputs | Sequence[Inputs] | str | Path, layers: Collection[Label] | None
) -> tuple[str, Iterator[tuple[str, Inputs]]]:
    """What a page of it is called, and its layers by label, each read when it is asked for."""
    if layers is not None and not layers:
        raise InputError("layers is empty; name at least one, or None for all")
    if isinstance(shown, Inputs):
        if layers is not None:
            raise InputError(f"{shown.source}: layers= is of a run or a dump of several, and these are inputs of one")
        return shown.source, iter([("0" if shown.layer is None else str(shown.layer), shown)])
    if isinstance(shown, str | Path):
        wanted: list[Label | None] = [*(layers or layers_there(Path(shown), {}))]
        return str(shown), (("0" if label is None else str(label), load(shown, layer=label)) for label in wanted)
    if isinstance(shown, Sequence) and shown and all(isinstance(one, Inputs) for one in shown):
        several = Layers(shown, None if layers is None else [*layers])
        return several.name, (
            (str(inputs.layer if inputs.layer is not None else label), inputs) for label, inputs in several
        )
    if not isinstance(shown, Run):
        raise InputError(f"view takes a run, the inputs of a layer or a dump's name, not {type(shown).__name__}")
    wanted_labels = list(shown.layers if layers is None else layers)
    return shown.name, ((str(label), shown.inputs(label)) for label in wanted_labels)


@cache
def _widget_class() -> type[Any]:
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise InputError(
            f"attnviz.view needs {error.name}, which is not installed: pip install 'attnviz[notebook]'"
        ) from error

    class PageWidget(anywidget.AnyWidget):
        """``web/FORMAT.md`` says what the front end reads of it."""

        _esm = asset("widget.js")
        _css = asset("attnviz.css")
        run = traitlets.Unicode().tag(sync=True)
        chunks = traitlets.List(traitlets.Bytes()).tag(sync=True)
        height = traitlets.Int(640).tag(sync=True)

    return PageWidget
