"""How a figure looks, said once: its fields are keyword arguments of the library and options of the command line.

Nothing heavy is imported before it draws: ``attnviz plot --help`` lists these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from attnviz.base.errors import not_one_of
from attnviz.plots.said import options, said

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from attnviz.maps.map import AttentionMap
    from attnviz.show.figures.scales import ColorScale, FittedScale

COLORS = ("norm", "robust", "vmin", "vmax", "cmap", "marks")
"""Parts of a look that a figure without a color scale has no use for."""


@dataclass(frozen=True)
class Scale:
    """From values to colors."""

    norm: str = said("linear", "From value to color: linear, log, power, rank or row.")
    robust: bool = said(False, "End the color scale at the 99th percentile (logits: 2nd and 98th).", rare=True)
    vmin: float | None = said(None, "Low end of the color scale.", type=float, rare=True)
    vmax: float | None = said(None, "High end of the color scale.", type=float, rare=True)

    @property
    def ends(self) -> dict[str, Any]:
        """The fields of this group alone, as keyword arguments."""
        return {"norm": self.norm, "robust": self.robust, "vmin": self.vmin, "vmax": self.vmax}


@dataclass(frozen=True)
class Look(Scale):
    """Colors, size and words of a figure."""

    RANK: ClassVar = 1

    cmap: str | Colormap | None = said(
        None, "Palette: ink or poles; or one of matplotlib or seaborn.  \\[default: ink; poles for logits]", type=str
    )
    theme: str | None = said(None, "light or dark.", type=str)
    width: float | str | None = said(None, "For print: column (3.25 in) or page (6.75 in).", type=str)
    title: str | None = said(None, "Title of the figure.", type=str)
    caption: bool | str | None = said(
        False, "Say source, heads, pattern, cells and color scale under the figure.", type=bool
    )
    dpi: float | None = said(
        None, "Dots per inch of a PNG.  \\[default: 150; 300 with --width]", type=int, min=20, max=2400, rare=True
    )
    transparent: bool = said(False, "No background.", rare=True)
    marks: bool = said(
        True,
        "Mark a column that takes most of the weight, lone peaks of long maps, and, by dashes, what is below 0.",
        off="no-marks",
        rare=True,
    )

    def check(self) -> None:
        """Raises InputError for what can be told before anything is read."""
        from attnviz.show.figures.style import PAPERS, THEMES

        for option, value, choices in (("--theme", self.theme, THEMES), ("--width", self.width, tuple(PAPERS))):
            if isinstance(value, str) and value not in choices:
                raise not_one_of(option, value, choices)
        self.scale  # noqa: B018

    def for_file(self) -> Look:
        """The same with the dots per inch that a file has where nothing else is said."""
        return replace(self, dpi=self.dpi or (150 if self.width is None else 300))

    @property
    def scale(self) -> ColorScale:
        """The color scale asked for."""
        from attnviz.show.figures.scales import ColorScale

        return ColorScale(**self.colors)

    def fitted(self, maps: Sequence[AttentionMap]) -> FittedScale:
        """The color scale of these maps."""
        return self.scale.fit(maps).marked(self.marks)

    @property
    def colors(self) -> dict[str, Any]:
        """The color scale, as keyword arguments of figures."""
        return {**self.ends, "cmap": self.cmap}

    @property
    def inches(self) -> float | None:
        """How wide the figure is; None is what it needs."""
        from attnviz.show.figures.style import PAPERS

        return PAPERS[self.width] if isinstance(self.width, str) else self.width

    @property
    def paper(self) -> str | None:
        """The part of a paper that it is for, where it is for one."""
        return self.width if isinstance(self.width, str) else None

    @property
    def dots(self) -> float:
        """Dots per inch: those asked for, else matplotlib's ``figure.dpi``."""
        import matplotlib as mpl

        return float(self.dpi or mpl.rcParams["figure.dpi"])

    @property
    def said(self) -> dict[str, Any]:
        """The fields that are not what a file has where nothing is said."""
        plain = Look(theme="light").for_file()
        found = {one.name: getattr(self, one.name) for one in options(Look)}
        return {name: value for name, value in found.items() if value != getattr(plain, name)}

    def words(
        self,
        maps: Sequence[AttentionMap],
        source: str,
        *,
        scale: FittedScale | None = None,
        said: Sequence[str] = (),
        **layout: Any,
    ) -> dict[str, Any]:
        """Title, caption, width and colors, as keyword arguments of figures.

        Args:
            maps: what the caption tells of.
            source: where the inputs come from, as it says.
            scale: what the maps are drawn with; None is this look's own.
            said: further sentences of the caption, without their periods.
            layout: further keyword arguments.
        """
        caption = self.caption if isinstance(self.caption, str) else None
        if self.caption is True:
            from attnviz.show.figures.captions import caption as told

            caption = told(maps, scale or self.fitted(maps), source=source, notes=said)
        return {"title": self.title, "caption": caption, "width": self.inches, **self.colors, **layout}

    def hint(self, maps: Sequence[AttentionMap]) -> str | None:
        """A line where this scale leaves most of ``maps`` dark: which would not."""
        from attnviz.show.figures.captions import visibility_hint

        return visibility_hint(maps, self.scale)

    def too_high(self, figure: Figure) -> str | None:
        """A line where a figure for print is higher than a sheet."""
        from attnviz.show.figures.style import SHEET

        high = float(figure.get_figheight())
        if self.paper is None or high <= SHEET:
            return None
        more = "--width page or fewer heads" if self.paper == "column" else "fewer heads, or attnviz overview,"
        return f"the figure is {high:.1f} in high, more than a sheet of paper; {more} make it lower"
