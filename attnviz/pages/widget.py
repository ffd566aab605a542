"""The page in a cell of a notebook: Jupyter, VS Code, Colab, marimo, whatever runs anywidget."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import torch

from attnviz.attention.patterns import Pattern
from attnviz.attention.taken import takes_arrays
from attnviz.base.errors import InputError
from attnviz.base.spans import Hide, Spans
from attnviz.base.types import Label
from attnviz.pages.asked import Shown, asked
from attnviz.pages.description import PageLayer, to_json
from attnviz.pages.encoding import PageEncoder, check_size, least_bytes
from attnviz.pages.fragment import NAMES, Places
from attnviz.pages.frontend import asset

MOST_BYTES = 200_000_000
"""The most that a cell holds: notebooks keep it in the browser, and some in the file."""


@takes_arrays
def view(
    shown: Shown | Mapping[str, Shown],
    pattern: Pattern | str | None = None,
    *,
    view: str | None = None,
    text: str | None = None,
    layer: Label | None = None,
    head: int | None = None,
    query: int | None = None,
    key: int | None = None,
    layers: Collection[Label] | None = None,
    heads: Collection[int] | None = None,
    batch: int | Sequence[int] = 0,
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
        shown: what :func:`attnviz.capture` gave, the inputs of one layer or of several, weights that were given, or a dump;
            or several texts of these by name: ``{"one": run_1, "other": run_2}``.
        pattern: which query sees which key, as a pattern or by name; None is each layer's own, else the global keys.
        view: what it opens on: ``heads``, ``model``, ``map``, ``text`` or ``query-key``; None is what suits it.
        text, layer, head, query, key: what that shows: a text by its name, a layer by its label, a head by its number, indices
            of a query and a key. The widget has these as traits, which say what is looked at and can be set.
        layers: which layers of a run or a dump are in it, as numbers or labels; None is all.
        heads: the query heads in it; None is all.
        batch: the batch item, or several, which the page names.
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
    >>> widget = attnviz.view(attnviz.synthesize(), attnviz.Causal(), view="map", head=3)
    >>> widget.head = 5
    >>> widget.view, widget.head, widget.fragment
    ('map', 5, 'view=map&head=5')
    """
    widget = _widget_class()
    asked_for: dict[str, Any] = {
        "merge": merge,
        "spans": spans,
        "query_spans": query_spans,
        "hide": hide,
        "renormalize": renormalize,
        "device": device,
        "dtype": dtype,
    }
    asked_for |= {"mean": mean, "max": max, "rollout": rollout, "values": values}
    source, read = asked(shown, pattern, layers=layers, heads=heads, batch=batch, by="view", **asked_for)

    def fitting() -> Iterator[PageLayer]:
        """The layers, as far as a cell holds them."""
        size = 0
        for layer in read:
            check_size(layer)
            size += least_bytes(layer)
            if size > MOST_BYTES:
                raise InputError(
                    f"{source}: takes {size:,} bytes of a notebook, and {MOST_BYTES:,} are the most; name some layers "
                    f"or heads (layers=, heads=), or save it and look at it with: attnviz view"
                )
            yield layer
            del layer

    encoder = PageEncoder(fitting(), source)
    chunks = {chunk.index: bytes(chunk.data) for chunk in encoder.chunks()}
    opened = Places(encoder.description["layers"]).fragment(
        view=view, text=text, layer=layer, head=head, query=query, key=key
    )
    listed = [chunks[index] for index in range(len(chunks))]
    return widget(run=to_json(encoder.description), chunks=listed, height=height, fragment=opened)


@lru_cache(8)
def _places(run: str) -> Places:
    """Of a description, which every look of a page at something else would read again."""
    return Places(json.loads(run)["layers"])


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
        """``web/FORMAT.md`` says what the front end reads of it, and what it writes: the fragment."""

        _esm = asset("widget.js")
        _css = asset("attnviz.css")
        run = traitlets.Unicode().tag(sync=True)
        chunks = traitlets.List(traitlets.Bytes()).tag(sync=True)
        height = traitlets.Int(640).tag(sync=True)
        fragment = traitlets.Unicode().tag(sync=True)
        view = traitlets.Unicode(None, allow_none=True)
        text = traitlets.Unicode(None, allow_none=True)
        layer = traitlets.Union([traitlets.Unicode(), traitlets.Int()], default_value=None, allow_none=True)
        head = traitlets.Int(None, allow_none=True)
        query = traitlets.Int(None, allow_none=True)
        key = traitlets.Int(None, allow_none=True)

        @property
        def _places(self) -> Places:
            return _places(self.run)

        @traitlets.observe("fragment")
        def _opened(self, change: Any) -> None:
            """Somebody looks at something else: the page, or who set the fragment."""
            for name, value in self._places.named(change["new"]).items():
                if getattr(self, name) != value:
                    self.set_trait(name, value)

        @traitlets.observe(*NAMES)
        def _set(self, change: Any) -> None:
            """Somebody set what is to be looked at."""
            name, value, places = change["name"], change["new"], self._places
            if places.named(self.fragment)[name] == (str(value) if name == "layer" and value is not None else value):
                return
            try:
                left = places.without(self.fragment, name)
                self.fragment = left if value is None else places.fragment(self.fragment, **{name: value})
            except InputError:
                self.set_trait(name, change["old"])
                raise

    return PageWidget
