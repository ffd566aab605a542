"""From inputs to a picture in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from attnviz.attention.derived import SomeInputs
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.attention.taken import takes_arrays
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.types import Label
from attnviz.captures.run import Run
from attnviz.engine.request import DERIVED, Request, ask
from attnviz.maps.layers import Layers
from attnviz.plots.kind import drawn, figure_of
from attnviz.plots.kinds.arcs import Arcs
from attnviz.plots.kinds.compare import Compare
from attnviz.plots.kinds.detail import Detail
from attnviz.plots.kinds.heatmap import Heatmap
from attnviz.plots.kinds.overlay import Overlay
from attnviz.plots.kinds.overview import Overview
from attnviz.plots.kinds.pattern import Reasons
from attnviz.plots.kinds.strip import Strip
from attnviz.plots.look import COLORS, Look
from attnviz.plots.taking import looks, split, takes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@takes()
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
    what, look, progress = split(options)
    kind, request = (
        Heatmap(annot=annot, pattern_outline=pattern_outline, tags=tags),
        ask(inputs, pattern, head, **what),
    )
    return cast("Axes", drawn(kind, request, look, ax=ax, progress=progress))


@takes()
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
    what, look, progress = split(options)
    kind, request = (
        Detail(annot=annot, pattern_outline=pattern_outline, tags=tags),
        ask(inputs, pattern, head, **what),
    )
    return cast("Axes", drawn(kind, request, look, ax=ax, progress=progress))


@takes("queries", "pixels", "reduce")
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
    what, look, progress = split(options)
    return drawn(Strip(query=query), ask(inputs, pattern, heads, **what), look, ax=ax, progress=progress)


@takes(arrays=False)
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
    what, look, progress = split(options)
    other = ask(b, pattern if b_pattern is None else b_pattern, **what)
    kind = Compare(b=other.inputs, b_pattern=other.pattern)
    return cast("Figure", drawn(kind, ask(a, pattern, heads, **what), look, progress=progress))


@takes()
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
    what, look, progress = split(options)
    kind = Heatmap(annot=annot, pattern_outline=pattern_outline, tags=tags)
    request = ask(inputs, pattern, heads, **what)
    from attnviz.show.figures.style import showing

    return showing(figure_of(drawn(kind, request, look, progress=progress)))


@takes("pixels", "reduce")
def plot_arcs(
    inputs: SomeInputs,
    head: int = 0,
    pattern: Pattern | str | None = None,
    **options: Any,
) -> Axes:
    """Draws a short text with an arc from each token to those that it sees: back above the text, forward below it.

    Args:
        inputs, head, pattern: as in :func:`plot`.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The Axes, of a figure of its own.

    Raises:
        InputError: as :func:`plot`; more tokens than arcs can be told apart of.

    >>> import attnviz
    >>> len(attnviz.plot_arcs(attnviz.synthesize(), 3, "causal").texts)
    10
    """
    what, look, progress = split(options)
    return cast("Axes", drawn(Arcs(), ask(inputs, pattern, head, **what), look, progress=progress))


@takes("pixels", "reduce", "values")
def plot_overlay(
    inputs: SomeInputs,
    heads: int | Sequence[int] | None = None,
    pattern: Pattern | str | None = None,
    *,
    picture: Any = None,
    patches: str | tuple[int, int] | None = None,
    grid: str = "keys",
    each: bool = False,
    **options: Any,
) -> Figure:
    """Lays what the class token sees, or the query of ``queries``, over the picture that it looks at, a head each.

    Args:
        inputs, pattern: as in :func:`plot`.
        heads: a query head, or several; None is all.
        picture: (height, width, 3) uint8, an array; or the path of a picture, or of a dump that holds one; None is a blank page.
        patches: how they lie among the keys: rows and columns, or as ``attnviz plot --patches`` has them; None is what the dump
            says that ``picture`` is.
        grid: what the patches are: ``keys``, or ``queries`` of the key of ``keys``.
        each: a picture for each query, in place of their mean.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The figure.

    Raises:
        InputError: as :func:`plot`; patches that are not known, or not there; no query that they could be of.

    >>> import attnviz
    >>> figure = attnviz.plot_overlay(attnviz.synthesize(tokens=17), [0, 3], "full", patches=(4, 4))
    >>> figure.get_suptitle()
    'what query 0 (t0) sees'
    """
    what, look, progress = split(options)
    found, own = _picture(picture)
    kind = Overlay(picture=found, patches=patches or own, grid=grid, each=each)
    if kind.patches is None:
        raise InputError("patches: how they lie among the keys is not known; name rows and columns, patches=(24, 24)")
    return cast("Figure", drawn(kind, ask(inputs, pattern, heads, **what), look, progress=progress))


def _picture(given: Any) -> tuple[Any, Any]:
    """A picture as a tensor, and how its patches lie, where a dump says it."""
    import torch

    from attnviz.sources.files import READABLE
    from attnviz.sources.pictures import checked_picture, picture_of, read_picture

    if isinstance(given, str | Path):
        path = Path(given)
        return picture_of(path) if path.suffix.lower() in READABLE else (read_picture(path), None)
    if given is None:
        return None, None
    return checked_picture(torch.as_tensor(given), "picture:"), None


@takes("reduce", "values", colors=False)
def plot_pattern(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    head: int | None = None,
    *,
    ax: Axes | None = None,
    story: bool = False,
    **options: Any,
) -> Axes | Figure:
    """Draws which query may see which key, each cell in the color of why.

    Args:
        inputs, pattern: as in :func:`plot`.
        head: the query head whose weights are drawn along; None is none.
        ax: the Axes to draw into; None makes a figure.
        story: three pictures of a pattern that is local and global: global, local, both.
        options: what to compute, as in :func:`attnviz.attention_map`, and how it looks.

    Returns:
        The Axes drawn into, or the figure of a story.

    Raises:
        InputError: as :func:`plot`; a story of another pattern, or one into Axes that were given.

    >>> import attnviz
    >>> attnviz.plot_pattern(attnviz.synthesize(), attnviz.longformer(1)).get_title()
    'local, window 1 + global + global queries'
    """
    what, look, _ = split(options, colors=False)
    kind, request = Reasons(story=story, weights=head is not None), ask(inputs, pattern, head or 0, **what)
    from attnviz.show.figures.style import showing

    found = kind.draw(
        kind.compute(request if ax is not None else kind.fitted(request, look)), look, request.inputs.source, ax
    )
    return found if ax is not None else showing(found)


@takes_arrays
@looks("width", "dpi", *COLORS)
def plot_lesson(
    inputs: Inputs,
    figure: Literal["map", "row"] = "map",
    *,
    head: int = 0,
    query: int | str | None = None,
    key: int | str | None = None,
    pattern: Pattern | str | None = None,
    batch: int = 0,
    language: str = "en",
    title: str | None = None,
    **look: Any,
) -> Figure:
    """Draws a figure of the lesson that ``attnviz explain`` gives on one query and one key.

    Args:
        inputs, head, query, key, pattern, batch: as in :func:`attnviz.explain`.
        figure: ``map``, the head's map with a ring around the pair; ``row``, the query's weights as bars.
        language: ``en`` or ``ja``.
        title: above the figure; None says what it shows.
        look: how it looks.

    Returns:
        The figure.

    Raises:
        InputError: as :func:`attnviz.explain`.

    >>> import attnviz
    >>> bars = attnviz.plot_lesson(attnviz.synthesize(), "row", head=2, query=5, key=1).axes[0]
    >>> [label.get_text() for label in bars.get_yticklabels()]
    ['#1 t0', '#2 t3', '#3 t7']
    """
    from attnviz.measures.explanation import explain
    from attnviz.plots.lesson import FIGURES, Lesson
    from attnviz.show.figures.style import showing
    from attnviz.show.lessons import LANGUAGES

    for name, value, choices in (("figure", figure, FIGURES), ("language", language, tuple(LANGUAGES))):
        if value not in choices:
            raise not_one_of(name, value, choices)
    found, asked = explain(inputs, head=head, query=query, key=key, pattern=pattern, batch=batch), Look(**look)
    made = Lesson.of(Request(inputs, pattern, head, batch=batch), found, asked, language)
    return showing(made.figure(figure, asked, title=title))


@takes("queries", "keys", derived=False)
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
    what, look, progress = split(options)
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
