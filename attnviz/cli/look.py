"""How a figure looks: the options that every command with a figure shares."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.cli.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

    from attnviz.maps.map import AttentionMap
    from attnviz.show.figures.scales import ColorScale, ScaleOptions


@dataclass(frozen=True)
class ScaleChoice:
    """From values to colors."""

    norm: Annotated[str, typer.Option(help="From value to color: linear, log, power, rank or row.")] = "linear"
    robust: Annotated[
        bool, typer.Option("--robust", help="End the color scale at the 99th percentile (logits: 2nd and 98th).")
    ] = False
    vmin: Annotated[float | None, typer.Option(help="Low end of the color scale.")] = None
    vmax: Annotated[float | None, typer.Option(help="High end of the color scale.")] = None


@dataclass(frozen=True)
class Look(ScaleChoice):
    """Colors, size and words of a figure."""

    cmap: Annotated[
        str | None, typer.Option(help="Palette of matplotlib or seaborn.  \\[default: magma; RdBu_r for logits]")
    ] = None
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light"
    width: Annotated[
        str | None, typer.Option(help="For print: as wide as a column (3.25 in) or a page (6.75 in) of a paper.")
    ] = None
    title: Annotated[str | None, typer.Option(help="Title of the figure.")] = None
    caption: Annotated[
        bool, typer.Option("--caption", help="Say source, heads, pattern, cells and color scale under the figure.")
    ] = False
    dpi: Annotated[
        int | None,
        typer.Option(help="Dots per inch of a PNG.  \\[default: 150; 300 with --width]", min=20, max=2400),
    ] = None
    transparent: Annotated[bool, typer.Option("--transparent", help="No background.")] = False

    def check(self) -> None:
        """Raises InputError for what can be told before anything is read."""
        from attnviz.show.figures.style import PAPERS, THEMES

        check_choice("--theme", self.theme, THEMES)
        if self.width is not None:
            check_choice("--width", self.width, tuple(PAPERS))
        self.scale  # noqa: B018

    @property
    def scale(self) -> ColorScale:
        """The color scale asked for."""
        from attnviz.show.figures.scales import ColorScale

        return ColorScale(**self.colors)

    @property
    def colors(self) -> ScaleOptions:
        """The color scale, as keyword arguments of figures."""
        return {
            "norm": self.norm,
            "robust": self.robust,
            "vmin": self.vmin,
            "vmax": self.vmax,
            "cmap": self.cmap,
        }

    @property
    def inches(self) -> float | None:
        """How wide the figure is; None is what it needs."""
        from attnviz.show.figures.style import PAPERS

        return None if self.width is None else PAPERS[self.width]

    @property
    def dots(self) -> int:
        """Dots per inch."""
        return self.dpi or (150 if self.width is None else 300)

    def drawing(self, maps: Sequence[AttentionMap]) -> AbstractContextManager[None]:
        """The style to draw ``maps`` in, with fonts for their labels."""
        from attnviz.cli.console import drawing

        labels: set[str] = {self.title or ""}
        seen: set[int] = set()
        for shown in maps:
            for own in (shown.query_labels, shown.key_labels):
                if own is not None and id(own) not in seen:
                    seen.add(id(own))
                    labels.update(own)
        letters: Iterable[str] = set().union(*labels)
        return drawing(theme=self.theme, paper=self.width, letters=letters)

    def words(self, maps: Sequence[AttentionMap], source: str) -> str | None:
        """The caption, where one is asked for."""
        if not self.caption:
            return None
        from attnviz.show.figures.captions import caption

        return caption(maps, self.scale.fit(maps), source=source)

    def hint(self, maps: Sequence[AttentionMap]) -> None:
        """Says on stderr where this scale leaves most of ``maps`` dark, and which would not."""
        from attnviz.cli.console import note
        from attnviz.show.figures.captions import visibility_hint

        found = visibility_hint(maps, self.scale)
        if found is not None:
            note(found)

    def check_height(self, figure: Figure) -> None:
        """Says on stderr where a figure for print is higher than a sheet."""
        from attnviz.cli.console import note
        from attnviz.show.figures.style import SHEET

        if self.width is not None and figure.get_figheight() > SHEET:
            more = "--width page or fewer heads" if self.width == "column" else "fewer heads, or attnviz overview,"
            note(
                f"the figure is {figure.get_figheight():.1f} in high, more than a sheet of paper; {more} make it lower"
            )
