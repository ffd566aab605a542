"""attnviz: see and check attention."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from attnviz.version import __version__ as __version__

if TYPE_CHECKING:
    from attnviz.attention.given import AttentionWeights as AttentionWeights
    from attnviz.attention.inputs import AttentionInputs as AttentionInputs
    from attnviz.attention.masks import with_mask as with_mask
    from attnviz.attention.patterns import Blocks as Blocks
    from attnviz.attention.patterns import Causal as Causal
    from attnviz.attention.patterns import Chunked as Chunked
    from attnviz.attention.patterns import Documents as Documents
    from attnviz.attention.patterns import Full as Full
    from attnviz.attention.patterns import GlobalKeys as GlobalKeys
    from attnviz.attention.patterns import GlobalQueries as GlobalQueries
    from attnviz.attention.patterns import Local as Local
    from attnviz.attention.patterns import Masked as Masked
    from attnviz.attention.patterns import Prefix as Prefix
    from attnviz.attention.patterns import longformer as longformer
    from attnviz.attention.rotary import Rotary as Rotary
    from attnviz.base.errors import InputError as InputError
    from attnviz.captures.run import Run as Run
    from attnviz.captures.run import capture as capture
    from attnviz.compare.kernel import assert_attention_close as assert_attention_close
    from attnviz.compare.maps import compare_maps as compare_maps
    from attnviz.compare.snapshots.snapshot import Snapshot as Snapshot
    from attnviz.compare.snapshots.taking import take_snapshot as take_snapshot
    from attnviz.engine.scores import AttentionScores as AttentionScores
    from attnviz.engine.scores import score as score
    from attnviz.maps.combined import combined_map as combined_map
    from attnviz.maps.map import AttentionMap as AttentionMap
    from attnviz.maps.map import attention_map as attention_map
    from attnviz.maps.marginals import Marginals as Marginals
    from attnviz.maps.marginals import marginals as marginals
    from attnviz.maps.pyramid import Pyramid as Pyramid
    from attnviz.measures.context import context as context
    from attnviz.measures.curves import head_curves as head_curves
    from attnviz.measures.explanation import Explanation as Explanation
    from attnviz.measures.explanation import explain as explain
    from attnviz.measures.rows import query_statistics as query_statistics
    from attnviz.measures.rows import weight_received as weight_received
    from attnviz.measures.shares import weight_shares as weight_shares
    from attnviz.measures.statistics import head_statistics as head_statistics
    from attnviz.pages.file import page as page
    from attnviz.pages.widget import view as view
    from attnviz.plots.heads import plot_curves as plot_curves
    from attnviz.plots.heads import plot_statistics as plot_statistics
    from attnviz.plots.plotting import plot as plot
    from attnviz.plots.plotting import plot_arcs as plot_arcs
    from attnviz.plots.plotting import plot_comparison as plot_comparison
    from attnviz.plots.plotting import plot_detail as plot_detail
    from attnviz.plots.plotting import plot_heads as plot_heads
    from attnviz.plots.plotting import plot_lesson as plot_lesson
    from attnviz.plots.plotting import plot_overlay as plot_overlay
    from attnviz.plots.plotting import plot_overview as plot_overview
    from attnviz.plots.plotting import plot_pattern as plot_pattern
    from attnviz.plots.plotting import plot_strip as plot_strip
    from attnviz.plots.snapshots import plot_snapshot as plot_snapshot
    from attnviz.show.figures.heatmap import heatmap as heatmap
    from attnviz.show.frames import frame as frame
    from attnviz.sources import weights as weights
    from attnviz.sources.dumps import load as load
    from attnviz.sources.saving import save as save
    from attnviz.sources.synthetic import synthesize as synthesize

# Each public name and the module it lives in: imported on first use, so that `attnviz --help` stays light.
_HOMES = {
    "AttentionInputs": "attnviz.attention.inputs",
    "AttentionWeights": "attnviz.attention.given",
    "AttentionScores": "attnviz.engine.scores",
    "AttentionMap": "attnviz.maps.map",
    "assert_attention_close": "attnviz.compare.kernel",
    "capture": "attnviz.captures.run",
    "Rotary": "attnviz.attention.rotary",
    "Run": "attnviz.captures.run",
    "combined_map": "attnviz.maps.combined",
    "compare_maps": "attnviz.compare.maps",
    "context": "attnviz.measures.context",
    "InputError": "attnviz.base.errors",
    "Explanation": "attnviz.measures.explanation",
    "attention_map": "attnviz.maps.map",
    "Marginals": "attnviz.maps.marginals",
    "marginals": "attnviz.maps.marginals",
    "head_statistics": "attnviz.measures.statistics",
    "explain": "attnviz.measures.explanation",
    "frame": "attnviz.show.frames",
    "head_curves": "attnviz.measures.curves",
    "query_statistics": "attnviz.measures.rows",
    "weight_received": "attnviz.measures.rows",
    "weight_shares": "attnviz.measures.shares",
    "heatmap": "attnviz.show.figures.heatmap",
    "load": "attnviz.sources.dumps",
    "Causal": "attnviz.attention.patterns",
    "Full": "attnviz.attention.patterns",
    "Blocks": "attnviz.attention.patterns",
    "Chunked": "attnviz.attention.patterns",
    "Documents": "attnviz.attention.patterns",
    "Prefix": "attnviz.attention.patterns",
    "GlobalKeys": "attnviz.attention.patterns",
    "GlobalQueries": "attnviz.attention.patterns",
    "Local": "attnviz.attention.patterns",
    "Masked": "attnviz.attention.patterns",
    "longformer": "attnviz.attention.patterns",
    "page": "attnviz.pages.file",
    "Pyramid": "attnviz.maps.pyramid",
    "plot": "attnviz.plots.plotting",
    "plot_arcs": "attnviz.plots.plotting",
    "plot_lesson": "attnviz.plots.plotting",
    "plot_overlay": "attnviz.plots.plotting",
    "plot_pattern": "attnviz.plots.plotting",
    "plot_statistics": "attnviz.plots.heads",
    "plot_curves": "attnviz.plots.heads",
    "plot_comparison": "attnviz.plots.plotting",
    "plot_detail": "attnviz.plots.plotting",
    "plot_heads": "attnviz.plots.plotting",
    "plot_overview": "attnviz.plots.plotting",
    "plot_snapshot": "attnviz.plots.snapshots",
    "plot_strip": "attnviz.plots.plotting",
    "save": "attnviz.sources.saving",
    "score": "attnviz.engine.scores",
    "Snapshot": "attnviz.compare.snapshots.snapshot",
    "take_snapshot": "attnviz.compare.snapshots.taking",
    "synthesize": "attnviz.sources.synthetic",
    "view": "attnviz.pages.widget",
    "with_mask": "attnviz.attention.masks",
}

# Public modules, by their name here.
_MODULES = {"weights": "attnviz.sources.weights"}

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'attnviz' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
