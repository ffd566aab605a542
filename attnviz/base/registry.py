"""What lies floors above, by name: what a notebook shows of a value, and the figures that a value draws of itself.

A type names no module that draws it; it asks here, and the module is imported when somebody looks.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from attnviz.base.words import printable

_HTML = {
    "AttentionInputs": "attnviz.show.notebook:inputs_html",
    "AttentionWeights": "attnviz.show.notebook:inputs_html",
    "DerivedInputs": "attnviz.show.notebook:derived_html",
    "AttentionScores": "attnviz.show.notebook:scores_html",
    "AttentionMap": "attnviz.show.notebook:map_html",
    "Run": "attnviz.show.notebook:run_html",
    "Explanation": "attnviz.show.lessons:lesson",
}
"""By the name of a class: what makes the text that a notebook shows of it."""


def shown(value: object) -> str:
    """What a notebook shows of ``value``: HTML, or the Markdown of a lesson."""
    return printable(called(_HTML[type(value).__name__], value))


def called(place: str, *arguments: Any, **options: Any) -> Any:
    """What the function at ``module:name`` gives."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)(*arguments, **options)
