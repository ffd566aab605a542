"""The built front end, as it lies in the package: ``web/`` makes it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from attnviz.base.errors import InputError


@cache
def asset(name: str) -> str:
    """The text of ``attnviz.js``, ``attnviz.css`` or ``widget.js``.

    Raises:
        InputError: this attnviz was installed without it.
    """
    try:
        return (files("attnviz.pages") / "assets" / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"{name}: this attnviz was installed without its page; install it again, or build it: cd web && npm ci && npm run build"
        ) from error
