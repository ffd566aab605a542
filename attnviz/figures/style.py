"""How figures look, and how they are saved: the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.colors import Colormap, to_rgb
from matplotlib.font_manager import get_font_names

from attnviz.colors import is_dark
from attnviz.errors import InputError
from attnviz.writing import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")

PALETTES = {"weights": "magma", "logits": "RdBu_r", "difference": "RdBu_r"}
"""The default palette of each kind of value: uniform from 0 for weights, diverging from 0 for the rest.

matplotlib's own, told apart by color-blind readers: seaborn's would cost its import, a second and a half.
"""

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
"""Fonts asked for letters that DejaVu Sans has not, where the machine has them."""


@contextmanager
def house_style() -> Iterator[None]:
    """The command line's own look, whatever the machine's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_HOUSE)
        there = set(get_font_names())
        mpl.rcParams["font.family"] = ["DejaVu Sans", *(name for name in _FALLBACKS if name in there)]
        yield


def colormap(name: str | Colormap | None, values: str) -> Colormap:
    """The palette called ``name`` (matplotlib's and seaborn's names), or the default for ``values``.

    Raises:
        InputError: there is no such palette.
    """
    if isinstance(name, Colormap):
        return name.copy()
    name = PALETTES.get(values, PALETTES["difference"]) if name is None else name
    chosen = mpl.colormaps[name] if name in mpl.colormaps else _of_seaborn(name)
    dark = is_dark(to_rgb(mpl.rcParams["axes.facecolor"]))
    return chosen.with_extremes(bad="0.32" if dark else "0.88")  # blank: neither end of any scale


def _of_seaborn(name: str) -> Colormap:
    import seaborn  # only here: it is slow to import

    try:
        chosen = seaborn.color_palette(name, as_cmap=True)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--cmap {name!r} is not a palette of matplotlib or seaborn; try magma, viridis or RdBu_r"
        ) from error
    if not isinstance(chosen, Colormap):
        raise InputError(f"--cmap {name!r} is a set of separate colors, not a scale; try magma, viridis or RdBu_r")
    return chosen


def save_figure(figure: Figure, path: str | Path, *, dpi: float = 150, transparent: bool = False) -> None:
    """Writes a figure as PNG, PDF or SVG, by the suffix, with no date, version or random id in it.

    Raises:
        InputError: an unknown suffix, or a path that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    nameless: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        ".svg": {"Date": None, "Creator": None},
    }
    if suffix not in nameless:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write one of {', '.join(SUFFIXES)}")
    settings: dict[Any, Any] = {"svg.hashsalt": "attnviz", "svg.fonttype": "none", "pdf.fonttype": 42}
    with mpl.rc_context(settings), atomic(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=dpi, transparent=transparent, metadata=nameless[suffix])
