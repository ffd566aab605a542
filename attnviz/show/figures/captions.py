"""What a figure says in words: its caption, and hints where a color scale hides most of a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnviz.base.labels import one_line
from attnviz.base.words import count, in_place
from attnviz.maps.map import AttentionMap, cell_words, place_of
from attnviz.show.figures.scales import ColorScale, FittedScale
from attnviz.show.scale.scaling import DECADES

MOST = 0.5
"""The share of the weight beyond which a key is a sink."""

_TIMES_EVEN = 4  # and how many times an even share: one of two keys takes half of the weight by nature

_CLEAR = 1.5  # times the mean of a row: its largest weight, where one column can be said to lead

_DARK = 0.05  # of the scale's top: a sequential palette's first colors, which no eye tells apart
_MOSTLY = 0.95
_DIM = 0.25  # of the scale's top: the dark third of a palette, in which structure is hard to see


@dataclass(frozen=True)
class Sink:
    """A key, or the keys of one column, that takes most of a head's weight.

    Args:
        name: the map's: ``head 3``.
        keys: the positions of the column: the first and the last.
        label: the key's token, where the column is one key that has one.
        share: of the weight shown; of a map reduced by max, of the rows whose largest weight is in the column.
        exact: whether ``share`` is one of weight.
        column: of the map's cells.
    """

    name: str
    keys: tuple[int, int]
    label: str | None
    share: float
    exact: bool
    column: int = 0


def find_sink(shown: AttentionMap) -> Sink | None:
    """The key that takes most of the weight shown, where there is one.

    Weights, and cells of their mass, are summed. The largest weights of a map reduced by max do not add up to
    anything; there, it is the column that holds the largest weight of most rows.

    >>> import attnviz
    >>> find_sink(attnviz.attention_map(attnviz.synthesize(), head=3)) is None
    True
    """
    rows, columns = shown.cells.shape
    finite = np.isfinite(shown.cells)
    cells = np.where(finite, shown.cells, 0)
    exact = shown.combined != "max" and (not shown.reduced or shown.reduce == "mass")
    if shown.values != "weights" or rows == 1 or not cells.any() or (cells < 0).any():
        return None
    seen = finite.any(axis=1)
    counts = finite.sum(axis=1)
    clear = (cells.max(axis=1) > _CLEAR * cells.sum(axis=1) / np.maximum(counts, 1)) | (counts == 1)
    leads = np.bincount(cells[clear].argmax(axis=1), minlength=columns) / int(seen.sum())  # share of rows, (P',)
    shares = cells.sum(axis=0) / cells.sum() if exact else leads
    most = int(shares.argmax())
    if min(shares[most], leads[most]) <= MOST or shares[most] < _TIMES_EVEN / columns:  # one query makes no sink
        return None
    first, end = most * len(shown.keys) // columns, (most + 1) * len(shown.keys) // columns
    label = shown.key_labels[first] if shown.key_labels is not None and end == first + 1 else None
    return Sink(shown.name, (shown.keys[first], shown.keys[end - 1]), label, float(shares[most]), exact, most)


def sink_note(maps: Sequence[AttentionMap]) -> str | None:
    """One line about the keys that take most of the weight, where there are any."""
    sinks = [sink for sink in map(find_sink, maps) if sink is not None]
    if not sinks:
        return None
    worst = max(sinks, key=lambda sink: sink.share)
    first, last = worst.keys
    token = f" ({one_line(worst.label)})" if worst.label is not None else ""
    keys = f"key {first}{token} takes" if first == last else f"keys {first} to {last} take"
    if worst.exact:
        what = f"{keys} {percent(worst.share)} of the weight shown"
    else:
        where = f"key {first}{token}" if first == last else f"keys {first} to {last}"
        what = f"the largest weight of {percent(worst.share)} of the rows is at {where}"
    if len(maps) == 1:
        return what
    return f"in {len(sinks)} of {len(maps)} heads one column stands out; in {worst.name}, {what}"


def visibility_hint(maps: Sequence[AttentionMap], scale: ColorScale) -> str | None:
    """One line where a sink, or a few large weights, leave the rest of a map dark, and what would show it.

    None where all is well, and where a scale has been asked for.
    """
    if scale.settled or maps[0].values != "weights":
        return None
    visible = np.concatenate([shown.cells[np.isfinite(shown.cells)] for shown in maps])
    if not visible.size:
        return None
    top = float(visible.max())
    if float(visible.min()) < 0:
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
    """What is drawn: source, heads, pattern, what a cell is, color scale, sinks.

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
    heads = first.heads_name if len(maps) == 1 else f"heads {_ranges(sorted({shown.head for shown in maps}))}"
    which = in_place(heads, None, place_of(maps)[1])  # the source says the layer
    noun = "key" if isinstance(first.keys, range) else "global key"
    size = f"{count(len(first.queries), 'query', 'queries')} × {count(len(first.keys), noun)}"
    if first.reduced:
        held = "their largest" if first.reduce == "max" else "their mass"
        size += f", {cell_words(first.cell_size)} ({first.reduce}: {held})"
    sentences = [
        f"{source}, {which}" if source else which.capitalize(),
        f"Pattern: {first.pattern}",
        f"{'Given ' + first.values if first.given else first.values.capitalize()} of {size}",
        scale.note[0].upper() + scale.note[1:],
        *notes,
    ]
    sink = sink_note(maps)
    if sink is not None:
        sentences.append(sink[0].upper() + sink[1:])
    return " ".join(f"{sentence}." for sentence in sentences)


def percent(share: float) -> str:
    """In whole percents; what is not all is not called 100%."""
    return "over 99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7``: runs of numbers by their ends."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
