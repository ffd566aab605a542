"""The options of functions that draw: what is asked of the inputs, and how it looks, both said where they are defined."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from attnviz.base.errors import close_to
from attnviz.base.types import Progress
from attnviz.engine.request import DERIVED, Request, asks
from attnviz.plots.look import COLORS, Look
from attnviz.plots.said import options as options_of

_Function = TypeVar("_Function", bound=Callable[..., Any])

_ASKED = ("batch", "values", "reduce", "pixels", "queries", "keys", "device", "dtype", "memory")
_OF_FILES = ("theme", "transparent")
"""Parts of a look that only a file has: here, the style is matplotlib's own."""


def takes(
    *without: str, derived: bool = True, arrays: bool = True, colors: bool = True
) -> Callable[[_Function], _Function]:
    """Gives a function that takes ``**options`` a signature that lists them, and its docstring what each is.

    Args:
        without: fields of a request that it has no use for.
        derived: whether it takes several layers, and draws one map of them.
        arrays: whether arrays that come first are q, k and v.
        colors: whether it has a color scale.
    """
    left = _OF_FILES if colors else (*_OF_FILES, *COLORS)

    def said(function: _Function) -> _Function:
        function = asks(*(name for name in _ASKED if name not in without), derived=derived, arrays=arrays)(function)
        own = inspect.signature(function)
        looks = [field for field in options_of(Look) if field.name not in left]
        listed = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in looks
        ]
        function.__signature__ = own.replace(parameters=[*own.parameters.values(), *listed])  # type: ignore[attr-defined]
        lines = "".join(f"\n            {field.name}: {_plain(field.metadata['help'])}" for field in looks)
        function.__doc__ = (function.__doc__ or "").replace("and how it looks.", f"and how it looks:{lines}")
        return function

    return said


def _plain(help: str) -> str:
    return help.partition("  \\[")[0]


_INSTEAD = {
    "causal": "; pass pattern='causal'",
    "layer": "; pass the inputs of that layer: load(path, layer=...) of a file, run.inputs(...) of a capture",
    "mask": "; pass attnviz.with_mask(inputs, mask)",
    "window": "; pass pattern=attnviz.Local(window)",
}
"""What to pass for what the command line has as options, and other libraries as arguments."""


def split(options: dict[str, Any], *, colors: bool = True) -> tuple[dict[str, Any], Look, Progress | None]:
    """What is asked, how it looks, and who is told how far it is. ``colors``: as in :func:`takes`."""
    given = dict(options)
    progress = given.pop("progress", None)
    names = [*(field.name for field in fields(Request)), *DERIVED]
    what = {name: given.pop(name) for name in names if name in given}
    looks = [field.name for field in options_of(Look) if colors or field.name not in COLORS]
    for name in given:
        if name not in looks:
            instead = _INSTEAD.get(name) or close_to(name, [*names, *looks, "progress"])
            raise TypeError(f"there is no option {name!r}{instead}")
    return what, Look(**given), progress
