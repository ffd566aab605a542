"""How figures look, and how they are saved: the same input gives the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgb
from matplotlib.font_manager import fontManager, get_font, get_font_names
from matplotlib.text import Text

from attnviz.base.errors import InputError
from attnviz.base.words import printable
from attnviz.base.writing import PICTURES, as_path, atomic
from attnviz.show.scale.colors import DARK_PAGE, INK, POLES, hidden, is_dark, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.show.figures.about import About


LOOK = 2
"""The version of how figures look: it goes up where the same numbers are drawn otherwise, as they are since figures are ink."""

PALETTES = {"weights": INK, "logits": POLES, "difference": POLES}
"""The default palette of each kind of value: from 0 for weights, to both sides of 0 for the rest."""

_HOUSE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.spines.bottom": False,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.color": "0.25",
    "ytick.color": "0.25",
    "axes.labelcolor": "0.25",
    "figure.labelsize": 7,  # of captions
    "figure.labelweight": "normal",
}


PAPERS = {"column": 3.25, "page": 6.75}
"""Inches that a figure may take across a paper of two columns: one of them, or both."""

SHEET = 9.5
"""Inches from the first to the last line of a paper's page."""

THEMES = ("light", "dark")

_ON_PAPER: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "figure.titlesize": 8,
    "figure.labelsize": 6.5,
}
"""Sizes that are read in print, where a figure is not scaled."""

_DARK: dict[Any, Any] = {
    "figure.facecolor": DARK_PAGE,
    "axes.facecolor": DARK_PAGE,
    "savefig.facecolor": DARK_PAGE,
    "text.color": "0.92",
    "axes.labelcolor": "0.8",
    "axes.edgecolor": "0.8",
    "axes.titlecolor": "0.92",
    "xtick.color": "0.8",
    "ytick.color": "0.8",
    "grid.color": "0.35",
}

_FALLBACKS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Source Han Sans",
    "Hiragino Sans",
    "Yu Gothic",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "IPAexGothic",
    "Noto Sans Arabic",
    "Noto Emoji",
    "Symbola",
)
"""Fonts asked first for letters that DejaVu Sans has not, where the machine has them."""


@contextmanager
def house_style(*, theme: str = "light", paper: str | None = None, letters: Iterable[str] = ()) -> Iterator[None]:
    """The command line's own look, whatever the machine's matplotlibrc says.

    Args:
        theme: ``light`` or ``dark``.
        paper: ``column`` or ``page``: sizes of letters for print; None is for the screen.
        letters: what will be drawn, beside ASCII: fonts that have these letters are looked for on the machine.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_HOUSE)
        if paper is not None:
            mpl.rcParams.update(_ON_PAPER)
        if theme == "dark":
            mpl.rcParams.update(_DARK)
        there = set(get_font_names())
        known = [name for name in _FALLBACKS if name in there]
        mpl.rcParams["font.family"] = ["DejaVu Sans", *known, *_fonts_with(set(letters), ["DejaVu Sans", *known])]
        yield


def _fonts_with(letters: set[str], known: Sequence[str]) -> list[str]:
    """Further fonts of this machine, plain ones first, for the letters that ``known`` ones have not."""
    missing = {ord(letter) for letter in letters if ord(letter) > 0x7F}
    chosen: list[str] = []
    # Not those that matplotlib brings for mathematics, whose letters are in places of their own.
    faces = {
        font.name: font
        for font in fontManager.ttflist
        if font.style == "normal"
        and font.weight in (400, 500, "normal", "medium")
        and (font.name.startswith("DejaVu") or not font.fname.startswith(mpl.get_data_path()))
    }
    others = sorted(set(faces) - set(known), key=lambda name: ("Sans" not in name, len(name), name))
    for name in (*known, *others):
        if not missing:
            break
        if name in faces:
            has = missing & set(get_font(faces[name].fname).get_charmap())
            missing -= has
            if has and name not in known:
                chosen.append(name)
    return chosen


def colormap(name: str | Colormap | None, values: str) -> Colormap:
    """The palette called ``name`` (ours, matplotlib's and seaborn's names), or the default for ``values``.

    Raises:
        InputError: there is no such palette.
    """
    if isinstance(name, Colormap):
        return name.copy()
    name = PALETTES.get(values, POLES) if name is None else name
    dark = is_dark(to_rgb(mpl.rcParams["axes.facecolor"]))
    plain = name.removesuffix("_r")
    if plain in (INK, POLES):
        colors = palette(plain, dark=dark)
        own = LinearSegmentedColormap.from_list(name, colors if plain == name else colors[::-1])
        return own.with_extremes(bad=hidden(dark=dark))
    chosen = mpl.colormaps[name] if name in mpl.colormaps else _of_seaborn(name)
    return chosen.with_extremes(bad="0.32" if dark else "0.88")  # blank: neither end of any scale


def _of_seaborn(name: str) -> Colormap:
    import seaborn  # only here: it is slow to import

    try:
        chosen = seaborn.color_palette(name, as_cmap=True)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--cmap {name!r} is not a palette of matplotlib or seaborn; try ink, magma, viridis or poles"
        ) from error
    if not isinstance(chosen, Colormap):
        raise InputError(f"--cmap {name!r} is a set of separate colors, not a scale; try ink, magma, viridis or poles")
    return chosen


def save_figure(
    figure: Figure, path: str | Path, *, dpi: float = 150, transparent: bool = False, about: About | None = None
) -> None:
    """Writes a figure as PNG, PDF or SVG, by the suffix, with no date, version or random id in it.

    Args:
        figure, path: what, and where to.
        dpi: dots per inch of a PNG.
        transparent: whether it has no background.
        about: what the file says of itself.

    Raises:
        InputError: an unknown suffix, or a path that cannot be written.
    """
    path = as_path(path)
    suffix = path.suffix.lower()
    nameless: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        ".svg": {"Date": None, "Creator": None},
    }
    if suffix not in nameless:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write one of {', '.join(PICTURES)}")
    _make_printable(figure)
    said = nameless[suffix] | ({} if about is None else about.metadata(suffix))
    settings: dict[Any, Any] = {"svg.hashsalt": "attnviz", "svg.fonttype": "none", "pdf.fonttype": 42}
    with mpl.rc_context(settings), atomic(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=dpi, transparent=transparent, metadata=said)
        if suffix == ".svg" and about is not None:
            about.describe(temporary)


def _make_printable(figure: Figure) -> None:
    """Takes from a figure's texts what a terminal would obey, XML can't hold or no font can draw."""
    for text in texts_of(figure):
        text.set_text(printable(text.get_text()))


def texts_of(artist: Artist) -> Iterator[Text]:
    """The texts of a figure but those of ticks, which pass :func:`attnviz.base.labels.one_line` as they are made.

    Asked for, ticks would all be made once more, which takes a grid of heads as long as drawing it.
    """
    if isinstance(artist, Text):
        yield artist
    for child in [artist.label, artist.offsetText] if isinstance(artist, Axis) else artist.get_children():
        yield from texts_of(child)


_Drawn = TypeVar("_Drawn", bound="Axes | Figure")


def showing(found: _Drawn) -> _Drawn:
    """A figure, or Axes of one, that a notebook shows as a picture: those that pyplot doesn't know are but text there."""
    for shown in (found, found.get_figure(root=True)):
        assert shown is not None
        shown._repr_png_ = partial(picture, shown)  # type: ignore[union-attr]
    return found


def picture(found: Axes | Figure) -> bytes:
    """The PNG of a figure, as a notebook shows it."""
    figure = found.get_figure(root=True)
    assert figure is not None
    content = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has: they are boxes
        _make_printable(figure)
        figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
