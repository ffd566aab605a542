"""From inputs to a picture in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attnviz.attention.derived import SomeInputs
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError, close_to
from attnviz.base.types import Label, Progress
from attnviz.captures.run import Run
from attnviz.engine.request import DERIVED, Request, ask, asks
from attnviz.maps.layers import Layers
from attnviz.plots.kind import drawn, figure_of
from attnviz.plots.kinds.compare import Compare
from attnviz.plots.kinds.detail import Detail
from attnviz.plots.kinds.heatmap import Heatmap
from attnviz.plots.kinds.overview import Overview
from attnviz.plots.kinds.strip import Strip
from attnviz.plots.look import Look
from attnviz.plots.said import options as options_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Function = TypeVar("_Function", bound=Callable[..., Any])

_ASKED = ("batch", "values", "reduce", "pixels", "queries", "keys", "device", "dtype", "memory")
_OF_FILES = ("theme", "transparent")
"""Parts of a look that only a file has: here, the style is matplotlib's own."""


def _takes(*without: str, derived: bool = True, arrays: bool = True) -> Callable[[_Function], _Function]:
    """Gives a function that takes ``**options`` a signature that lists them, and its docstring what each is.

    Args:
        without: fields of a request that it has no use for.
        derived: whether it takes several layers, and draws one map of them.
        arrays: whether arrays that come first are q, k and v.
    """

    def said(function: _Function) -> _Function:
        function = asks(*(name for name in _ASKED if name not in without), derived=derived, arrays=arrays)(function)
        own = inspect.signature(function)
        looks = [field for field in options_of(Look) if field.name not in _OF_FILES]
        listed = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in looks
        ]
        function.__signature__ = own.replace(parameters=[*own.parameters.values(), *listed])  # type: ignore[attr-defined]
        lines = "".join(f"\n            {field.name}: {_plain(field.metadata['help'])}" for field in looks)
        function.__doc__ = (function.__doc__ or "").replace("and how it looks.", f"and how it looks:{lines}")
        return function

    return said


def _plain(help: str) -> str:
    return help.partition("  \\[")[0]


@_takes()
def plot(
    inputs: SomeInputs,
    head: int = 0,
    pattern: Pattern | str | None = None,
    *,
    ax: Axes | None = None,
    annot: bool = False,
    pattern_outline: bool = False,
    tags: bool = False,
    **options: Any,
) -> Axes:
    """Draws one head's heatmap.

    Args:
        inputs, head, pattern: as in :func:`attnviz.attention_map`.
        ax: the Axes to draw into; None makes a figure.
        annot: whether to write each value into its cell.
        pattern_outline: whether to draw the edges of the pattern over the map, in the colors of its parts.
        tags: whether to say what each head is in a word, with its score.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: as :func:`attnviz.attention_map` and :func:`attnviz.heatmap`; no edge to draw.

    >>> import attnviz
    >>> attnviz.plot(attnviz.synthesize(), head=3, cmap="viridis").get_title()
    'head 3'
    """
    what, look, progress = _split(options)
    kind, request = (
        Heatmap(annot=annot, pattern_outline=pattern_outline, tags=tags),
        ask(inputs, pattern, head, **what),
    )
    return cast("Axes", drawn(kind, request, look, ax=ax, progress=progress))


@_takes()
def plot_detail(
    inputs: SomeInputs,
    head: int = 0,
    pattern: Pattern | str | None = None,
    *,
    ax: Axes | None = None,
    annot: bool = False,
    pattern_outline: bool = False,
    tags: bool = False,
    **options: Any,
) -> Axes:
    """Draws one head's heatmap with the attention each key receives above it and each query's entropy beside it.

    Args:
        inputs, head, pattern, ax, annot, pattern_outline, tags: as in :func:`plot`.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The Axes of the map; those of its sides are its ``child_axes``.

    Raises:
        InputError: as :func:`plot`.

    >>> import attnviz
    >>> ax = attnviz.plot_detail(attnviz.synthesize(), head=3)
    >>> [side.get_xlabel() or side.get_ylabel() for side in ax.child_axes]
    ['weight\\nreceived', 'entropy\\n(nats)']
    """
    what, look, progress = _split(options)
    kind, request = (
        Detail(annot=annot, pattern_outline=pattern_outline, tags=tags),
        ask(inputs, pattern, head, **what),
    )
    return cast("Axes", drawn(kind, request, look, ax=ax, progress=progress))


@_takes("queries", "pixels", "reduce")
def plot_strip(
    inputs: SomeInputs,
    query: int | str,
    heads: int | Sequence[int] = 0,
    pattern: Pattern | str | None = None,
    *,
    ax: Axes | None = None,
    **options: Any,
) -> Axes | Figure:
    """Draws the tokens of a text in reading order, each shaded by the weight that one query gives it.

    Args:
        inputs, pattern, ax: as in :func:`plot`.
        query: the query's position, or its token or word.
        heads: a query head, or several for a strip each, one above the other with one color scale.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The Axes drawn into, or the figure of several heads.

    Raises:
        InputError: as :func:`plot`; a query that is not there; more tokens than anyone reads.

    >>> import attnviz
    >>> attnviz.plot_strip(attnviz.synthesize(), query=4, heads=3).get_title(loc="left")
    'head 3 · what query 4 (t4) sees'
    """
    what, look, progress = _split(options)
    return drawn(Strip(query=query), ask(inputs, pattern, heads, **what), look, ax=ax, progress=progress)


@_takes(arrays=False)
def plot_comparison(
    a: SomeInputs,
    b: SomeInputs,
    heads: Sequence[int] | None = None,
    pattern: Pattern | str | None = None,
    b_pattern: Pattern | str | None = None,
    **options: Any,
) -> Figure:
    """Draws two maps of each head on one color scale, and their difference: A, B and A - B side by side.

    Args:
        a, b, pattern, b_pattern: as in :func:`attnviz.compare_maps`.
        heads: the query heads, a row each; None is all.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The figure.

    Raises:
        InputError: as :func:`plot`; inputs of different sizes.

    >>> import attnviz
    >>> figure = attnviz.plot_comparison(attnviz.synthesize(), attnviz.synthesize(seed=1), heads=[3])
    >>> figure.axes[2].get_title()
    'A − B'
    """
    what, look, progress = _split(options)
    other = ask(b, pattern if b_pattern is None else b_pattern, **what)
    kind = Compare(b=other.inputs, b_pattern=other.pattern)
    return cast("Figure", drawn(kind, ask(a, pattern, heads, **what), look, progress=progress))


@_takes()
def plot_heads(
    inputs: SomeInputs,
    heads: Sequence[int] | None = None,
    pattern: Pattern | str | None = None,
    *,
    annot: bool = False,
    pattern_outline: bool = False,
    tags: bool = False,
    **options: Any,
) -> Figure:
    """Draws a grid of heads with one color scale.

    Args:
        inputs, pattern, annot, pattern_outline, tags: as in :func:`plot`.
        heads: the query heads; None is all.
        tags: whether heads are sorted by what they do (:data:`attnviz.measures.tags.TAGS`), and named by it.
        options: what to compute, as in :func:`attnviz.attention_map`, in as many cells as a panel has pixels; and how it looks.

    Returns:
        The figure.

    Raises:
        InputError: as :func:`plot`.

    >>> import attnviz
    >>> len(attnviz.plot_heads(attnviz.synthesize(), heads=[0, 3], norm="log").axes)
    3
    """
    what, look, progress = _split(options)
    kind = Heatmap(annot=annot, pattern_outline=pattern_outline, tags=tags)
    request = ask(inputs, pattern, heads, **what)
    from attnviz.show.figures.style import showing

    return showing(figure_of(drawn(kind, request, look, progress=progress)))


@_takes("queries", "keys", derived=False)
def plot_overview(
    source: str | Path | Run | Inputs | Sequence[Inputs],
    pattern: Pattern | str | None = None,
    *,
    layers: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    ax: Axes | None = None,
    each: bool = False,
    tags: bool = False,
    **options: Any,
) -> Axes | Figure:
    """Draws a whole model at a glance: layers down, heads across, a small map each.

    Args:
        source: a dump's path, what :func:`attnviz.capture` gave, or inputs: of one layer, or of several in order. One
            layer is in memory at a time.
        pattern: which query sees which key; None is each layer's own, else the global keys.
        layers: the labels of layers, in the order wanted; None is all.
        heads: the query heads of each layer; None is all.
        ax: the Axes to draw into; None makes a figure.
        each: whether each panel has a color scale of its own; otherwise all share one.
        tags: whether to draw the heads of all layers as a grid, sorted by what they do and named by it.
        options: what to compute, as in :func:`attnviz.attention_map`, in as many cells as a panel has pixels; and how it looks.

    Returns:
        The Axes drawn into: panel (layer, head) is around x = head, y = layer. With ``tags`` the Figure of the grid.

    Raises:
        InputError: as :func:`plot`; a layer that is not there.

    >>> import attnviz
    >>> attnviz.plot_overview([attnviz.synthesize(seed=seed) for seed in range(3)]).get_title()
    '3 layers, 24 heads'
    """
    what, look, progress = _split(options)
    for name in DERIVED:
        if what.pop(name, None):
            raise InputError(
                f"{name}: an overview is of every layer and head; draw one map of them with plot(..., {name}=...)"
            )
    chosen, kind = Layers(source, layers), Overview(each=each, tags=tags)

    def asked() -> Iterator[tuple[Label | None, Request]]:
        for label, inputs in chosen:
            yield label, ask(inputs, pattern, heads, **what)

    from attnviz.show.figures.style import showing

    found = kind.draw(kind.compute(asked(), len(chosen), chosen.name, look, ax, progress), look, ax)
    return found if ax is not None else showing(found)


_INSTEAD = {
    "causal": "; pass pattern='causal'",
    "layer": "; pass the inputs of that layer: load(path, layer=...) of a file, run.inputs(...) of a capture",
    "mask": "; pass attnviz.with_mask(inputs, mask)",
    "window": "; pass pattern=attnviz.Local(window)",
}
"""What to pass for what the command line has as options, and other libraries as arguments."""


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], Look, Progress | None]:
    """What is asked, how it looks, and who is told how far it is."""
    given = dict(options)
    progress = given.pop("progress", None)
    names = [*(field.name for field in fields(Request)), *DERIVED]
    what = {name: given.pop(name) for name in names if name in given}
    looks = [field.name for field in options_of(Look)]
    for name in given:
        if name not in looks:
            instead = _INSTEAD.get(name) or close_to(name, [*names, *looks, "progress"])
            raise TypeError(f"there is no option {name!r}{instead}")
    return what, Look(**given), progress
