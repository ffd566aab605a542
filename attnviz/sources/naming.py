"""Tensors as a user names them, in a file or in several, and the layers that these names hold.

A name may be a template: ``blocks.{layer}.attn.hook_q`` is the tensor of each layer, whatever the numbers are; so may a file's
name: ``layer_{layer}.npy``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attnviz.base.errors import InputError
from attnviz.base.types import Label
from attnviz.sources.files import READABLE, TensorFile, open_tensors

WEIGHT_LAYOUTS = ("hts", "bhts", "lhts", "lbhts")
"""The orders of dimensions that arrays of weights have: layers, batch items, heads, queries, keys."""

LAYER = re.compile(r"(?:(?P<group>\w+)\.)?layers\.(?P<number>\d+)\.(?:calls\.(?P<call>\d+)\.)?(?P<role>.+)")
"""The name of a layer's tensor: ``vision.layers.1.calls.2.q`` is of the second call of its module in a forward pass."""

_LABEL = re.compile(r"(?:(?P<group>\w+)\.)?(?P<number>\d+)(?:\.calls\.(?P<call>\d+))?")
_FIELD = "{layer}"


@dataclass(frozen=True)
class TensorRef:
    """A tensor as a user names it: ``NAME`` in the source, ``FILE:NAME``, or ``FILE`` where it holds one."""

    path: Path | None
    name: str | None

    @classmethod
    def parse(cls, text: str) -> TensorRef:
        """The reference that ``text`` writes."""
        file, colon, name = text.rpartition(":")
        if colon and Path(file).suffix.lower() in READABLE:
            return cls(Path(file), name)
        if Path(text).suffix.lower() in READABLE:
            return cls(Path(text), None)
        return cls(None, text)


def layers_of(contents: Iterable[str]) -> list[Label]:
    """The layers whose tensors are named ``layers.N.…``, ascending, then those named ``KIND.layers.N.…`` by kind.

    >>> layers_of(["layers.10.q", "layers.2.q", "cross.layers.0.q"])
    [2, 10, 'cross.0']
    """
    matches = (match for name in contents if (match := LAYER.fullmatch(name)))
    found = {(match["group"] or "", int(match["number"]), int(match["call"] or 1)) for match in matches}
    return [_label(*place) for place in sorted(found, key=_order)]


def split(label: Label) -> tuple[str, int, int]:
    """A label's group, number, and which call of its module it is, from 1.

    >>> split(5), split("vision.1.calls.2")
    (('', 5, 1), ('vision', 1, 2))
    """
    match = _LABEL.fullmatch(str(label))
    if match is None:
        return str(label), -1, 1
    return match["group"] or "", int(match["number"]), int(match["call"] or 1)


def prefix_of(label: Label) -> str:
    """What the names of a layer's tensors begin with.

    >>> prefix_of(5), prefix_of("vision.1.calls.2")
    ('layers.5.', 'vision.layers.1.calls.2.')
    """
    group, number, call = split(label)
    return f"{f'{group}.' if group else ''}layers.{number}.{f'calls.{call}.' if call > 1 else ''}"


def known(label: Label, layers: Iterable[Label]) -> Label:
    """The label among those there are that one means: ``text.5`` is another name for the plain 5.

    >>> known("5", [5]), known("text.5", [5, "vision.5"])
    (5, 5)
    """
    there = [*layers]
    own = label_of(label)
    if own not in there and isinstance(own, str) and own.startswith("text."):
        plain = label_of(own.removeprefix("text."))
        return plain if plain in there else own
    return own


def order_of(label: Label) -> tuple[int, str, int, int]:
    """What labels are sorted by: the main tower, others, a decoder, and what reads another sequence last.

    >>> sorted([0, "cross.0", "decoder.0", "vision.0"], key=order_of)
    [0, 'vision.0', 'decoder.0', 'cross.0']
    """
    return _order(split(label))


def _label(group: str, number: int, call: int) -> Label:
    label: Label = f"{group}.{number}" if group else number
    return f"{label}.calls.{call}" if call > 1 else label


def _order(place: tuple[str, int, int]) -> tuple[int, str, int, int]:
    """The main tower, others, a decoder, and what reads another sequence last."""
    group, number, call = place
    last = 3 if group.endswith("cross") else 2 if group.endswith("decoder") else 1 if group else 0
    return last, group, number, call


def is_template(name: str) -> bool:
    """Whether a name stands for the tensor of each layer."""
    return _FIELD in name


def of_template(template: str, names: Iterable[str]) -> list[int]:
    """The layers whose tensors a template names, ascending.

    >>> of_template("blocks.{layer}.attn.hook_q", ["blocks.10.attn.hook_q", "blocks.2.attn.hook_q", "blocks.2.mlp"])
    [2, 10]
    """
    first, *rest = (re.escape(part) for part in template.split(_FIELD))
    pattern = re.compile(first + r"(?P<layer>\d+)" + r"(?P=layer)".join(rest))
    # 01 and 1 are names of two tensors, and one of them is what the template makes of 1.
    return sorted(
        int(match["layer"])
        for name in names
        if (match := pattern.fullmatch(name)) and match["layer"] == str(int(match["layer"]))
    )


def in_layer(name: str, layer: Label | None) -> str:
    """A name in a layer: a template's own, or the name as it is.

    >>> in_layer("blocks.{layer}.attn.hook_q", 3), in_layer("q", 3)
    ('blocks.3.attn.hook_q', 'q')
    """
    return name.replace(_FIELD, str(layer))


def families(names: Iterable[str]) -> list[str]:
    """The templates of names that differ in a number alone, each of two or more.

    >>> families(["arr_0", "arr_1", "arr_2", "mask"])
    ['arr_{layer}']
    """
    counts: dict[str, int] = {}
    for name in names:
        for match in re.finditer(r"\d+", name):
            template = f"{name[: match.start()]}{_FIELD}{name[match.end() :]}"
            counts[template] = counts.get(template, 0) + 1
    return [template for template, count in counts.items() if count > 1]


def named_layers(main: TensorFile | None, names: Mapping[str, str], layout: str | None) -> list[Label] | None:
    """The layers that names say: those of a template, or of an array whose first dimension is layers; None: names say none.

    Args:
        main: the source, where there is one.
        names: by role, as :func:`attnviz.load` takes them.
        layout: the order of the dimensions of weights.

    Raises:
        InputError: a template that no tensor fits, or whose roles have different layers.
    """
    templates = {role: name for role, name in names.items() if is_template(name)}
    found: dict[str, list[int]] = {}
    for role, template in templates.items():
        found[role] = _of_reference(main, role, template)
    for role in found:
        if role in ("q", "k", "weights") and found[role] != next(iter(found.values())):
            first = next(iter(found))
            raise InputError(
                f"--{role} {names[role]}: names layers {_few(found[role])}, but --{first} {names[first]} names "
                f"{_few(found[first])}"
            )
    if found:
        return [*next(iter(found.values()))]
    name = names.get("weights")
    if name is None and main is not None and "weights" in main.contents and "q" not in {*names, *main.contents}:
        name = "weights"
    shape = None if name is None else _shape(main, name)
    layered = layout is not None and layout.startswith("l") and layout in WEIGHT_LAYOUTS
    return [*range(shape[0])] if shape is not None and (layered or len(shape) == 5) else None


def _of_reference(main: TensorFile | None, role: str, template: str) -> list[int]:
    """The layers that a template names, of tensors in a file or of files."""
    ref = TensorRef.parse(template)
    if ref.path is not None and is_template(ref.path.name):
        there = sorted(path.name for path in ref.path.parent.glob(f"*{ref.path.suffix}"))
        found, where, name = of_template(ref.path.name, there), str(ref.path.parent), ref.path.name
    else:
        file = main if ref.path is None else open_tensors(ref.path)
        if file is None or ref.name is None:
            raise InputError(f"--{role.replace('_', '-')} {template}: write FILE:NAME, with {_FIELD} in the name")
        there = [*file.contents]
        found, where, name = of_template(ref.name, there), str(file.path), ref.name
    if not found:
        listed = ", ".join(there[:8]) or "none"
        raise InputError(f"{where}: nothing is named {name} with a number for {_FIELD}; there are {listed}")
    return found


def layers_there(path: Path | None, names: Mapping[str, str], layout: str | None = None) -> list[Label | None]:
    """The layers that a source holds: those that names say, else those named ``layers.N.…``; ``[None]`` is one without a number.

    Raises:
        InputError: a file that can't be read; as :func:`named_layers`.
    """
    main = None if path is None else open_tensors(path)
    named = named_layers(main, names, layout)
    if named is not None:
        return [*named]
    if main is None or holds_one(main.contents, names):
        return [None]
    return [*layers_of(main.contents)] or [None]


def holds_one(contents: Iterable[str], names: Mapping[str, str]) -> bool:
    """Whether tensors of one layer are named without a number."""
    there = {*contents, *names}
    return "q" in there or "weights" in there


def check_layer(where: Path, layer: Label, layers: list[Label]) -> None:
    """Raises InputError for a layer that is not among those there are."""
    if not layers:
        raise InputError(f"{where}: --layer {layer}: the file has no layers (no tensor is named layers.N.q)")
    if known(layer, layers) not in layers:
        raise InputError(f"{where}: --layer {layer} is out of range; the file holds layers {_few(layers)}")


def label_of(layer: Label) -> Label:
    """A layer's label, a number where it is one.

    >>> label_of("5"), label_of("cross.5")
    (5, 'cross.5')
    """
    return int(layer) if isinstance(layer, str) and re.fullmatch(r"-?\d+", layer) else layer


def choose_one(where: Path | str, layers: list[Label]) -> InputError:
    """The error of a source of several layers of which none is chosen."""
    return InputError(f"{where}: holds {len(layers)} layers ({_few(layers)}); choose one with --layer")


def _few(layers: Iterable[Label]) -> str:
    listed = [str(layer) for layer in layers]
    return ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")


def _shape(main: TensorFile | None, name: str) -> tuple[int, ...] | None:
    """The shape of a tensor by its name; None where it isn't there, which reading it says."""
    ref = TensorRef.parse(name)
    file = main if ref.path is None else open_tensors(ref.path)
    if file is None:
        return None
    found = ref.name or (next(iter(file.contents)) if len(file.contents) == 1 else None)
    return file.contents[found].shape if found is not None and found in file.contents else None
