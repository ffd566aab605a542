"""The kinds of figures that ``attnviz plot`` makes beside plain heatmaps: options, and what they ask of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.options import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.attention.inputs import AttentionInputs
    from attnviz.attention.patterns import Pattern
    from attnviz.compare.maps import Comparison
    from attnviz.maps.map import AttentionMap
    from attnviz.maps.marginals import Marginals
    from attnviz.maps.reasons import ReasonMap


@dataclass(frozen=True)
class Kind:
    """What to draw of a map."""

    mean: Annotated[bool, typer.Option("--mean", help="One map: the mean of the heads.")] = False
    max: Annotated[bool, typer.Option("--max", help="One map: the largest value of any of the heads.")] = False
    detail: Annotated[
        bool, typer.Option("--detail", help="With what each key receives above, and each query's entropy beside.")
    ] = False
    pattern_outline: Annotated[
        bool, typer.Option("--pattern-outline", help="Draw the edges of the pattern over the map.")
    ] = False
    compare: Annotated[
        Path | None, typer.Option(metavar="B", help="Another dump: A, B and A - B side by side.", show_default=False)
    ] = None
    b_layer: Annotated[str | None, typer.Option(metavar="N", help="B: another layer.")] = None
    strip: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help="The text, shaded by what one query sees: a position, or its word."),
    ] = None

    def paths(self) -> list[Path]:
        """The file this reads, if any."""
        return [] if self.compare is None else [self.compare]

    @property
    def how(self) -> str | None:
        """How heads are combined, if they are."""
        return "mean" if self.mean else "max" if self.max else None

    def check(self, outputs: Sequence[Path], *, overlay: bool, annot: bool, queries: str | None) -> None:
        """Raises InputError for options that have no use for each other."""
        given = {
            "--detail": self.detail,
            "--compare": self.compare is not None,
            "--strip": self.strip is not None,
            "--overlay": overlay,
        }
        kinds = [option for option, wanted in given.items() if wanted]
        if len(kinds) > 1:
            raise InputError(f"{kinds[0]} and {kinds[1]} are figures of two kinds; choose one")
        if self.mean and self.max:
            raise InputError("--mean and --max are two ways to make one map of the heads; choose one")
        combined = "--mean" if self.mean else "--max" if self.max else None
        if combined and kinds and kinds[0] in ("--detail", "--compare"):
            raise InputError(f"{kinds[0]} shows single heads; leave {combined} out")
        if self.b_layer is not None and self.compare is None:
            raise InputError(f"--b-layer {self.b_layer}: it is the layer of B; name B with --compare")
        if self.pattern_outline and kinds and kinds[0] != "--detail":
            raise InputError(f"--pattern-outline is drawn over maps; leave {kinds[0]} out")
        if annot and kinds and kinds[0] in ("--compare", "--strip"):
            raise InputError(f"--annot writes into the cells of a map; leave {kinds[0]} out")
        if self.strip is not None and queries is not None:
            raise InputError(f"--strip {self.strip} names the query; leave --queries out")
        if self.compare is not None:
            for path in outputs:
                if path.suffix.lower() in (".npz", ".zarr"):
                    raise InputError(f"{path}: --compare makes a figure (.png, .pdf, .svg); write a map of each side")

    def check_heads(self, heads: Sequence[int]) -> None:
        """Raises InputError where a kind shows one head and several are asked for."""
        if self.detail and len(heads) > 1:
            raise InputError(f"--detail shows one head, {len(heads)} are asked for; choose it with --head")

    def check_outline(self, keys: Sequence[int], pattern: Pattern) -> None:
        """Raises InputError where a map has nothing to outline."""
        if self.pattern_outline and not isinstance(keys, range):
            raise InputError(
                f"--pattern-outline: the columns are the keys of the {pattern} pattern alone, all visible; choose another "
                f"pattern, such as --pattern local+global --window 2"
            )

    def query(self, inputs: AttentionInputs, batch: int) -> range:
        """The one query of ``--strip``."""
        from attnviz.base.selections import parse_token

        assert self.strip is not None
        tokens, source = inputs.item(batch).query_tokens, inputs.source
        found = parse_token(self.strip, inputs.T, tokens, option="--strip", noun="query", source=source)
        return found[-1:]  # the token with which the word has been read

    def other(self, source: Source, dtype: str | None) -> AttentionInputs:
        """What ``--compare`` names: the layer of ``--b-layer``, else that of ``--layer`` where it has layers."""
        whole = replace(source, source=self.compare, layer=None)
        layer = source.layer if self.b_layer is None and whole.layers() != [None] else self.b_layer
        try:
            return replace(whole, layer=layer).load(dtype)
        except InputError as error:
            if source.layer is None or self.b_layer is not None:
                raise InputError(str(error).replace("--layer", "--b-layer")) from error
            raise

    def maps(
        self, inputs: AttentionInputs, heads: Sequence[int], pattern: Pattern, reduce: str, **what: Any
    ) -> list[AttentionMap]:
        """A map of each head, or one of all of them."""
        from attnviz.cli.console import note
        from attnviz.maps.combined import combined_map
        from attnviz.maps.map import attention_map

        if self.how is None:
            return [attention_map(inputs, head, pattern, reduce=reduce, **what) for head in heads]
        # max is what --reduce is where nothing else was said, and no mean is exact with it.
        chosen = None if reduce == "max" else reduce
        shown = combined_map(inputs, self.how, heads, pattern, reduce=chosen, **what)
        if self.mean and shown.reduced and chosen is None:
            note("--mean: cells hold mass (--reduce mass); a mean of the largest weights would not be exact")
        return [shown]


def drawn(
    maps: Sequence[AttentionMap],
    *,
    strip: bool = False,
    comparisons: Sequence[Comparison] = (),
    sides: Marginals | None = None,
    reasons: ReasonMap | None = None,
    annot: bool = False,
    **look: Any,
) -> Figure:
    """The figure of a kind.

    Args:
        maps: a map of each head.
        strip: whether to draw texts rather than maps.
        comparisons: in place of maps.
        sides: what stands at the sides of a map.
        reasons: whose edges are drawn over the maps.
        annot: whether to write values into cells.
        look: title, caption, width and colors.
    """
    from attnviz.show.figures import strip as texts
    from attnviz.show.figures.detail import detail
    from attnviz.show.figures.difference import difference_figure
    from attnviz.show.figures.heatmap import heads_grid, heatmap
    from attnviz.show.figures.outline import outline, outline_legend

    if comparisons:
        return difference_figure(comparisons, **look)
    if strip:
        return texts.strips(maps, **look) if len(maps) > 1 else figure_of(texts.strip(maps[0], **look))
    if sides is not None:
        figure = figure_of(detail(maps[0], sides, annot=annot, **look))
    elif len(maps) > 1:
        figure = heads_grid(maps, annot=annot, **look)
    else:
        figure = figure_of(heatmap(maps[0], annot=annot, **look))
    if reasons is not None:
        for ax in figure.axes[: len(maps)]:
            outline(reasons, ax)
        outline_legend(reasons, figure)
    return figure


def figure_of(ax: Axes) -> Figure:
    """The figure that Axes are part of."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
