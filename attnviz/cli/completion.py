"""What a shell completes: values that help lists, names that registries hold, and what is in the file that is named.

Nothing heavy is imported: a person waits for it at each press of the Tab key.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from attnviz.cli.help import choices
from attnviz.cli.known import filled

_MOST = 100_000_000
"""Bytes of a table of contents beyond which a file isn't one of ours."""


def completed(hint: Any) -> Any:
    """An annotation of an option whose value the shell completes, as far as there is something to offer."""
    option = hint.__metadata__[0]
    if isinstance(option, typer.models.ArgumentInfo) or option.autocompletion is not None:
        return hint
    offered = _offered(option)
    if offered is None:
        return hint
    option = copy(option)
    option.autocompletion = offered
    return Annotated[hint.__origin__, option]


def _offered(option: Any) -> Callable[[typer.Context, str], Iterable[str]] | None:
    """What gives the values of an option; None where there are none to give."""
    said = option.help or ""
    if "--layer" in (option.param_decls or ()) or said.startswith("Layers of a dump"):
        return _layers
    if option.metavar == "NAME":
        return _tensors
    if option.metavar == "STATISTIC":
        said = "{statistics}."

    def listed(ctx: typer.Context, incomplete: str) -> list[str]:
        found = choices(SimpleNamespace(help=filled(said)))
        return [value for value in found if value.startswith(incomplete)]

    return listed if "{" in said or choices(SimpleNamespace(help=said)) else None


def _layers(ctx: typer.Context, incomplete: str) -> list[str]:
    """The layers of the file that is named, and all of them."""
    from attnviz.sources.naming import layers_of

    labels = [f"{label}" for label in layers_of(_names(ctx))]
    return [label for label in (*labels, *(["all"] if labels else [])) if label.startswith(incomplete)]


def _tensors(ctx: typer.Context, incomplete: str) -> list[str]:
    """The tensors of the file that is named."""
    return [name for name in _names(ctx) if name.startswith(incomplete)]


def _names(ctx: typer.Context) -> list[str]:
    """The names of a file's tensors, as its table of contents says; nothing of what can't be read so."""
    source = ctx.params.get("source")
    try:
        return [] if source is None else contents(Path(source))
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


def contents(path: Path) -> list[str]:
    """The names of the tensors of a ``.safetensors`` or ``.npz`` file.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: it can't be read.
    """
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    if path.suffix.lower() != ".safetensors":
        return []
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MOST:
            raise ValueError(f"{path}: no table of contents")
        return [name for name in json.loads(file.read(size)) if name != "__metadata__"]
