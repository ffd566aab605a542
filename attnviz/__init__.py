"""attnviz: see and check attention."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from attnviz.attention import AttentionInputs as AttentionInputs
    from attnviz.captures import Run as Run
    from attnviz.captures import capture as capture
    from attnviz.closeness import assert_attention_close as assert_attention_close
    from attnviz.combinations import combined_map as combined_map
    from attnviz.comparisons import compare_maps as compare_maps
    from attnviz.contexts import context as context
    from attnviz.errors import InputError as InputError
    from attnviz.explanations import Explanation as Explanation
    from attnviz.explanations import explain as explain
    from attnviz.figures.heatmap import heatmap as heatmap
    from attnviz.maps import AttentionMap as AttentionMap
    from attnviz.maps import attention_map as attention_map
    from attnviz.margins import Marginals as Marginals
    from attnviz.margins import marginals as marginals
    from attnviz.pages.widget import view as view
    from attnviz.patterns import Causal as Causal
    from attnviz.patterns import Full as Full
    from attnviz.patterns import GlobalKeys as GlobalKeys
    from attnviz.patterns import GlobalQueries as GlobalQueries
    from attnviz.patterns import Local as Local
    from attnviz.patterns import Masked as Masked
    from attnviz.patterns import longformer as longformer
    from attnviz.plotting import plot as plot
    from attnviz.plotting import plot_comparison as plot_comparison
    from attnviz.plotting import plot_detail as plot_detail
    from attnviz.plotting import plot_heads as plot_heads
    from attnviz.plotting import plot_overview as plot_overview
    from attnviz.plotting import plot_strip as plot_strip
    from attnviz.pyramid import Pyramid as Pyramid
    from attnviz.scores import AttentionScores as AttentionScores
    from attnviz.scores import score as score
    from attnviz.snapshots import Snapshot as Snapshot
    from attnviz.snapshots import take_snapshot as take_snapshot
    from attnviz.sources.dumps import load as load
    from attnviz.sources.dumps import save as save
    from attnviz.sources.synthetic import synthesize as synthesize
    from attnviz.statistics import head_statistics as head_statistics

# Each public name and the module it lives in: imported on first use, so that `attnviz --help` stays light.
_HOMES = {
    "AttentionInputs": "attnviz.attention",
    "AttentionScores": "attnviz.scores",
    "AttentionMap": "attnviz.maps",
    "assert_attention_close": "attnviz.closeness",
    "capture": "attnviz.captures",
    "Run": "attnviz.captures",
    "combined_map": "attnviz.combinations",
    "compare_maps": "attnviz.comparisons",
    "context": "attnviz.contexts",
    "InputError": "attnviz.errors",
    "Explanation": "attnviz.explanations",
    "attention_map": "attnviz.maps",
    "Marginals": "attnviz.margins",
    "marginals": "attnviz.margins",
    "head_statistics": "attnviz.statistics",
    "explain": "attnviz.explanations",
    "heatmap": "attnviz.figures.heatmap",
    "load": "attnviz.sources.dumps",
    "Causal": "attnviz.patterns",
    "Full": "attnviz.patterns",
    "GlobalKeys": "attnviz.patterns",
    "GlobalQueries": "attnviz.patterns",
    "Local": "attnviz.patterns",
    "Masked": "attnviz.patterns",
    "longformer": "attnviz.patterns",
    "Pyramid": "attnviz.pyramid",
    "plot": "attnviz.plotting",
    "plot_comparison": "attnviz.plotting",
    "plot_detail": "attnviz.plotting",
    "plot_heads": "attnviz.plotting",
    "plot_overview": "attnviz.plotting",
    "plot_strip": "attnviz.plotting",
    "save": "attnviz.sources.dumps",
    "score": "attnviz.scores",
    "Snapshot": "attnviz.snapshots",
    "take_snapshot": "attnviz.snapshots",
    "synthesize": "attnviz.sources.synthetic",
    "view": "attnviz.pages.widget",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'attnviz' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
