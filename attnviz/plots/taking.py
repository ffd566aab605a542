"""The options of functions that draw: what is asked of the inputs, and how it looks, both said where they are defined."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast, overload

from attnviz.attention.inputs import Inputs
from attnviz.attention.taken import TakesArrays, is_array
from attnviz.base.errors import InputError
from attnviz.base.types import Progress
from attnviz.engine.request import DERIVED, Request, asks, check_options
from attnviz.plots.look import COLORS, Look
from attnviz.plots.said import options as options_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_First = TypeVar("_First")
_Rest = ParamSpec("_Rest")
_Given = TypeVar("_Given")

_ASKED = ("batch", "values", "reduce", "pixels", "queries", "keys", "device", "dtype", "memory")
_OF_FILES = ("theme", "transparent")
"""Parts of a look that only a file has: here, the style is matplotlib's own."""


@overload
def takes(
    *without: str, derived: bool = ..., arrays: Literal[True] = ..., colors: bool = ...
) -> Callable[[Callable[Concatenate[_First, _Rest], _Given]], TakesArrays[_First, _Rest, _Given]]: ...
@overload
def takes(
    *without: str, derived: bool = ..., arrays: Literal[False], colors: bool = ...
) -> Callable[[Callable[_Rest, _Given]], Callable[_Rest, _Given]]: ...
def takes(*without: str, derived: bool = True, arrays: bool = True, colors: bool = True) -> Any:
    """Gives a function that takes ``**options`` a signature that lists them, and its docstring what each is.

    Args:
        without: fields of a request that it has no use for.
        derived: whether it takes several layers, and draws one map of them.
        arrays: whether arrays that come first are q, k and v.
        colors: whether it has a color scale.
    """
    left = _OF_FILES if colors else (*_OF_FILES, *COLORS)

    def said(function: Callable[..., Any]) -> Any:
        asking: Callable[..., Any] = asks  # which of its types it has is of no use here
        asked = asking(*(name for name in _ASKED if name not in without), derived=derived, arrays=arrays, looks=True)
        return _listed(asked(function), [field.name for field in options_of(Look) if field.name not in left])

    return said


def looks(*names: str, of: str = "") -> Callable[[_Function], _Function]:
    """Likewise a function of what is computed already, which takes ``**look``: these parts of a look, and no others.

    Args:
        names: the parts.
        of: what computes it, which is said where inputs or arrays are given in its place.
    """

    def said(function: _Function) -> _Function:
        listed = _listed(function, names)
        known = inspect.signature(listed).parameters

        @wraps(function)
        def taking(*args: Any, **given: Any) -> Any:
            check_options([name for name in given if name not in known], known)
            if of and args and (isinstance(args[0], Inputs) or is_array(args[0])):
                name = f"attnviz.{function.__name__}"
                raise InputError(f"{name} draws what attnviz.{of} counts: {name}(attnviz.{of}(inputs))")
            return function(*args, **given)

        return cast("_Function", taking)

    return said


def _listed(function: _Function, names: Sequence[str]) -> _Function:
    """A function with these parts of a look in its signature and in its docstring."""
    own = inspect.signature(function)
    fields = [field for field in options_of(Look) if field.name in names]
    kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    listed = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields
    ]
    function.__signature__ = own.replace(parameters=[*kept, *listed])  # type: ignore[attr-defined]
    lines = "".join(f"\n            {field.name}: {_plain(field.metadata['help'])}" for field in fields)
    function.__doc__ = (function.__doc__ or "").replace("how it looks.", f"how it looks:{lines}")
    return function


def _plain(help: str) -> str:
    return help.partition("  \\[")[0]


def split(options: dict[str, Any], *, colors: bool = True) -> tuple[dict[str, Any], Look, Progress | None]:
    """What is asked, how it looks, and who is told how far it is. ``colors``: as in :func:`takes`."""
    given = dict(options)
    progress = given.pop("progress", None)
    names = [*(field.name for field in fields(Request)), *DERIVED]
    what = {name: given.pop(name) for name in names if name in given}
    looks = [field.name for field in options_of(Look) if colors or field.name not in COLORS]
    check_options([name for name in given if name not in looks], [*names, *looks, "progress"])
    return what, Look(**given), progress
