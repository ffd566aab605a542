"""What a figure says in words: its caption, and hints where a color scale hides most of a map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnviz.base.labels import SPACE, one_line
from attnviz.base.words import count, in_place, left_out_words, ranges
from attnviz.maps.map import AttentionMap, cell_words, place_of
from attnviz.maps.reasons import ReasonMap
from attnviz.show.figures.scales import ColorScale, FittedScale
from attnviz.show.scale.scaling import DECADES
from attnviz.show.scale.sinks import MOST, row_note, sink_note

_DARK = 0.05  # of the scale's top: a sequential palette's first colors, which no eye tells apart
_MOSTLY = 0.95
_DIM = 0.25  # of the scale's top: the dark third of a palette, in which structure is hard to see


def visibility_hint(maps: Sequence[AttentionMap], scale: ColorScale) -> str | None:
    """One line where a sink, or a few large weights, leave the rest of a map dark, and what would show it.

    None where all is well, and where a scale has been asked for.
    """
    if scale.settled or maps[0].values != "weights":
        return None
    if all(len(shown.keys) == 1 and np.allclose(shown.cells[np.isfinite(shown.cells)], 1) for shown in maps):
        return f"there is one key, so that every weight is 1 under the pattern {maps[0].pattern}; choose another with --pattern"
    visible = np.concatenate([shown.cells[np.isfinite(shown.cells)] for shown in maps])
    if not visible.size:
        return None
    top = float(visible.max())
    if float(visible.min()) < 0 or not top > 0:  # where all is 0, there is nothing to show
        return None
    spread = float((visible < top / 10**DECADES).mean()) < MOST
    options = ("--norm log" if spread else "--norm rank") + (
        " or --robust" if np.percentile(visible, 99) < top / 2 else ""
    )
    sink = sink_note(maps)
    if sink is not None:
        return f"{sink}; {options} shows more of the rest"
    dark = float((visible < _DARK * top).mean())
    low = _DARK
    if dark < _MOSTLY:
        # A few bright cells among many are lost in a picture, though the others are not quite as dark.
        dark, low = 0.99, np.ceil(100 * float(np.percentile(visible, 99)) / top) / 100
        if low > _DIM:
            return None
    share = "all but a few" if dark > 0.995 else f"{dark:.0%}"
    return f"{share} of the cells are below {low:.0%} of the largest, {top:.3g}, and nearly dark; {options} shows them"


def caption(
    maps: Sequence[AttentionMap], scale: FittedScale, *, source: str | None = None, notes: Sequence[str] = ()
) -> str:
    """What is drawn: source, heads, pattern, what a cell is, color scale, what gray is, sinks.

    Args:
        maps: what is drawn.
        scale: what it is drawn with.
        source: where the inputs come from, with the layer.
        notes: further sentences.

    >>> import attnviz
    >>> shown = attnviz.attention_map(attnviz.synthesize(), head=3)
    >>> caption([shown], ColorScale().fit([shown]), source="run.npz layer 2")
    'run.npz layer 2, head 3. Pattern: global. Weights of 10 queries × 3 global keys. Linear scale from 0 to 0.809.'
    """
    first = maps[0]
    heads = first.heads_name if len(maps) == 1 else f"heads {ranges(sorted({shown.head for shown in maps}))}"
    which = in_place(heads, None, place_of(maps)[1])  # the source says the layer
    noun = "key" if isinstance(first.keys, range) else "global key"
    size = f"{count(len(first.queries), 'query', 'queries')} × {count(len(first.keys), noun)}"
    if first.reduced:
        held = "their largest" if first.reduce == "max" else "their mass"
        size += f", {cell_words(first.cell_size)} ({first.reduce}: {held})"
    sentences = [
        f"{source}, {which}" if source else which.capitalize(),
        f"Pattern: {first.pattern}",
        f"{_values(first)} of {size}",
        scale.note[0].upper() + scale.note[1:],
        *notes,
    ]
    if any(bool(np.isnan(shown.cells).any()) for shown in maps):
        sentences.append("Gray is not visible")
    if scale.has_below(shown.cells for shown in maps):
        sentences.append("Dashed is below 0")
    left_out = left_out_words(shown.left_out for shown in maps)
    more = (left_out, sink_note(maps), row_note(maps))
    sentences += [said[0].upper() + said[1:] for said in more if said is not None]
    return " ".join(f"{sentence}." for sentence in sentences)


def cell_said(shown: AttentionMap, row: int, column: int) -> str:
    """What a cell is, in a line: ``it → tired 0.61``.

    >>> import attnviz
    >>> cell_said(attnviz.attention_map(attnviz.synthesize(), head=3), 4, 1)
    't4 → t3 0.12'
    """
    return f"{pair_said(shown, row, column)} {number_said(float(shown.cells[row, column]))}"


def pair_said(shown: AttentionMap | ReasonMap, row: int, column: int) -> str:
    """Whose cell it is: ``it → tired``, ``queries 0–3 → key 2``."""
    query = _place(shown.queries, shown.query_labels, shown.cells.shape[0], row, ("query", "queries"))
    key = _place(shown.keys, shown.key_labels, shown.cells.shape[1], column, ("key", "keys"))
    return f"{query} → {key}"


def number_said(value: float) -> str:
    """A value in few digits: ``0.61``, ``12.35``, ``0.0012``; ``not visible`` where it is none."""
    if not math.isfinite(value):
        return "not visible"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _place(positions: Sequence[int], labels: Sequence[str] | None, cells: int, n: int, nouns: tuple[str, str]) -> str:
    """The token of a row or a column, or what it is called."""
    first, end = (at * len(positions) // cells for at in (n, n + 1))
    if end > first + 1:
        return f"{nouns[1]} {positions[first]}–{positions[end - 1]}"
    label = "" if labels is None else one_line(labels[first]).strip(SPACE)
    return label or f"{nouns[0]} {positions[first]}"


def _values(shown: AttentionMap) -> str:
    """What a map's cells hold, as a sentence begins."""
    what = shown.values if shown.measured is None else shown.measured
    return f"Given {what}" if shown.given else what[0].upper() + what[1:]
