"""Options said once: a field of a dataclass that is a keyword argument, an option of the command line, and a line of the docs."""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any


def said(default: Any, help: str, *, type: Any = None, **option: Any) -> Any:
    """A field that is an option.

    Args:
        default: what it is where nothing is said.
        help: what it does, in a line.
        type: what the command line reads it as; None is the default's own type.
        option: what else the command line has to know: its ``option`` where that has not the field's name, ``metavar``,
            ``min`` and ``max``, ``off`` (the option that says no to what is on), ``bare`` (what it is where it is given without a value), ``refused`` (what to say where a
            kind of figure has no use for it).
    """
    return field(default=default, metadata={"help": help, "type": type or default.__class__, **option})


def options(of: Any) -> list[Field[Any]]:
    """The fields of a dataclass that are options.

    >>> from attnviz.plots.look import Look
    >>> [field.name for field in options(Look)][:4]
    ['norm', 'robust', 'vmin', 'vmax']
    """
    return [field for field in fields(of) if "help" in field.metadata]


def option_name(field: Field[Any]) -> str:
    """What the command line calls a field, dashes and all."""
    return "--" + str(field.metadata.get("option", field.name)).replace("_", "-")
