"""Arrays of weights as files hold them: which of their dimensions are layers, batch items and heads. Rank 4 is never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError
from attnviz.base.types import Label
from attnviz.sources.files import TensorFile, TensorInfo
from attnviz.sources.naming import WEIGHT_LAYOUTS, families

if TYPE_CHECKING:
    from torch import Tensor

_RANKS = {len(layout): layout for layout in WEIGHT_LAYOUTS if layout not in ("bhts", "lhts")}
_LETTERS = {"l": "L", "b": "B", "h": "H", "t": "T", "s": "S"}


def as_bhts(tensor: Tensor, where: str, *, layout: str | None, layer: Label | None, batched: bool) -> Tensor:
    """Weights of one layer, (B, H, T, S) or (H, T, S), a view of an array as a file holds it.

    Args:
        tensor: the array.
        where: what errors call it.
        layout: ``hts``, ``bhts``, ``lhts`` or ``lbhts``; None where the rank says it.
        layer: which of its layers, where it has some.
        batched: whether rank 4 is known to be batch items, as what holds the array holds each layer by itself.

    Raises:
        InputError: rank 4 without a layout, a layout of another rank, a layer that is not there.
    """
    shape = tuple(tensor.shape)
    if layout is None and tensor.ndim == 4 and not batched:
        raise InputError(
            f"{where}: has shape {shape}, which may be (L, H, T, S) or (B, H, T, S); say which: --layout lhts, layers, or "
            f"--layout bhts, batch items"
        )
    layout = layout or ("bhts" if tensor.ndim == 4 else _RANKS.get(tensor.ndim))
    if layout is None or tensor.ndim != len(layout):
        wanted = "(H, T, S), (B, H, T, S), (L, H, T, S) or (L, B, H, T, S)" if layout is None else letters(layout)
        raise InputError(
            f"{where}: has shape {shape}, wanted weights {wanted}"
            + ("" if layout is None else f" by --layout {layout}")
        )
    if not layout.startswith("l"):
        return tensor
    if not isinstance(layer, int) or not 0 <= layer < len(tensor):
        raise InputError(f"{where}: holds {len(tensor)} layers (0 to {len(tensor) - 1}); choose one with --layer")
    return tensor[layer]


def letters(layout: str) -> str:
    """A layout as shapes are written: ``(L, H, T, S)``."""
    return f"({', '.join(_LETTERS[letter] for letter in layout)})"


def hint(contents: Mapping[str, TensorInfo]) -> str:
    """What to type where a file without q holds what may be weights; empty where nothing in it can be."""
    large = {
        name: info
        for name, info in contents.items()
        if len(info.shape) in (3, 4, 5) and info.dtype.startswith(("float", "bfloat"))
    }
    template = next(iter(families(large)), None)
    if template is not None:
        return f"; are they attention weights, an array a layer? --weights '{template}'"
    if len(large) != 1:
        return ""
    name, info = next(iter(large.items()))
    ranks = {4: " --layout lhts (layers) or bhts (batch items)"}
    return f"; are they attention weights? --weights {name}{ranks.get(len(info.shape), '')}"


def is_scores(file: TensorFile) -> bool:
    """Whether ``attnviz score`` wrote the file."""
    return str(file.metadata.get("kind", "")).startswith("attnviz.scores")


def check_scores(file: TensorFile) -> None:
    """Raises InputError for weights that ``attnviz score`` wrote of some keys alone, whose columns are no positions."""
    if not is_scores(file):
        return
    positions = file.read("positions").tolist() if "positions" in file.contents else []
    if "offsets" in file.contents or "global_queries" in file.contents or positions != list(range(len(positions))):
        raise InputError(
            f"{file.path}: holds the weights of {file.metadata.get('pattern')} keys as attnviz score writes them, whose "
            f"columns are not all keys; give the dump they were computed from"
        )


def check_not_weights(where: str, names: Mapping[str, str], q: Tensor) -> None:
    """Raises InputError where one square tensor of rows that sum to 1 is named as q and as k: it is weights."""
    if not names.get("q") or names.get("q") != names.get("k") or q.ndim < 3 or q.shape[-1] != q.shape[-2]:
        return
    rows = q.reshape(-1, q.shape[-1])[:64].double()
    if bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-2).all()):
        raise InputError(
            f"{where}: {names['q']} is named as q and as k, and its rows sum to 1: it holds attention weights; "
            f"--weights {names['q']} shows them as they are"
        )
