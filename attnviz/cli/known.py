"""Names that help lists. It is shown without importing what they name, which would take torch and seconds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def filled(text: str) -> str:
    """Help in which ``{patterns}`` and ``{statistics}`` are their names."""
    for word, names in (("{patterns}", patterns), ("{statistics}", statistics)):
        if word in text:
            text = text.replace(word, ", ".join(names()))
    return text


def patterns() -> list[str]:
    """As :func:`attnviz.attention.names.known_names`; where that isn't loaded, as its source says."""
    if "attnviz.attention.names" in sys.modules:
        from attnviz.attention.names import known_names

        return known_names()
    first: list[str] = next(value for name, value in _assigned(_body("attnviz.attention.names")) if name == "NAMES")
    modules = ("pairs", "order", "patterns")
    bodies = [node for module in modules for node in _body(f"attnviz.attention.{module}")]
    classes = [node for node in bodies if isinstance(node, ast.ClassDef)]
    named: list[Any] = [value for node in classes for name, value in _assigned(node.body) if name == "name"]
    return list(dict.fromkeys([*first, *named]))


def statistics() -> list[str]:
    """The names of :data:`attnviz.measures.statistics.STATISTICS`, likewise."""
    if "attnviz.measures.statistics" in sys.modules:
        from attnviz.measures.statistics import STATISTICS

        return list(STATISTICS)
    functions = [node for node in _body("attnviz.measures.statistics") if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if any("statistic(" in ast.unparse(by) for by in node.decorator_list)]


@cache
def _body(module: str) -> list[ast.stmt]:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, Any]]:
    """Names that plain values are assigned to."""
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                yield node.targets[0].id, ast.literal_eval(node.value)
            except ValueError:
                continue
