"""Dumps: files whose tensors play the roles of one attention call, or of a layer of many.

A dump names its tensors by role (``q``, ``k``, ``v``, ``global_mask``, ...), with ``layers.N.`` before the name
where it holds several layers, and ``cross.layers.N.`` and the like where layers are of several kinds. Other names are given by the user, as ``NAME`` or ``FILE:NAME``; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError
from attnviz.base.selections import parse_positions
from attnviz.base.types import Label
from attnviz.sources import given as of_weights
from attnviz.sources.files import READABLE, TensorFile, describe, open_tensors
from attnviz.sources.format1 import note_moved_windows, read_as_format_1
from attnviz.sources.metadata import own_pattern, settings_of
from attnviz.sources.naming import (
    WEIGHT_LAYOUTS,
    TensorRef,
    check_layer,
    choose_one,
    in_layer,
    is_template,
    known,
    label_of,
    layers_of,
    named_layers,
    prefix_of,
)
from attnviz.sources.packed import PACKED, check_stray, unpacked
from attnviz.sources.reduced import read_maps
from attnviz.sources.roles import FORMAT_VERSION, LABELS, MASK, OF_PRODUCTS, OF_WEIGHTS, ROLES, SETTINGS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attnviz.attention.inputs import Inputs


def load(
    source: str | Path | None = None,
    *,
    layer: Label | None = None,
    names: Mapping[str, str] | None = None,
    global_positions: str | None = None,
    layout: str | None = None,
    dtype: str | Any | None = None,
    settings: Mapping[str, Any] | None = None,
    values: bool = True,
) -> Inputs:
    """The inputs that a dump, or tensors in several files, hold: q and k, or weights that something else computed.

    Args:
        source: a ``.safetensors``, ``.npz``, ``.pt``, ``.pth`` or ``.npy`` file; None where ``names`` says it all.
        layer: which layer of a dump of several: ``5``, or ``"cross.5"``.
        names: a role to the tensor that plays it, as ``NAME`` in ``source`` or ``FILE:NAME`` (or ``FILE``, where
            it holds one tensor): ``{"k": "keys.npy", "global_mask": "masks.npz:global"}``. A name with ``{layer}`` in it
            is that of each layer: ``{"weights": "blocks.{layer}.attn.hook_pattern"}``.
        global_positions: positions (``0,3,7``, ``0-3,17``, ``every:512``, ``random:16``) in place of a mask, for
            every batch item.
        layout: the order of dimensions of q, k and v (``bhtd``, ``bthd``, ``htd``, ``thd``); None takes the
            dump's own, else ``bhtd``. Of weights: ``hts``, ``bhts``, ``lhts`` or ``lbhts`` (l: layers), which an array of
            rank 4 must say.
        dtype: convert q, k and v to this dtype; None keeps theirs.
        settings: ``scale`` and ``softcap`` in place of the dump's own.
        values: whether v is wanted; False leaves it unread.

    Raises:
        InputError: a file or tensor that is missing or unfit; the message says what is there.

    >>> import attnviz, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "dump.npz"
    >>> attnviz.save(path, attnviz.synthesize(heads=2, tokens=8))
    >>> attnviz.load(path).q.shape
    torch.Size([1, 2, 8, 64])
    """
    names = dict(names or {})
    _check_roles(names, global_positions)
    main = open_tensors(Path(source)) if source is not None else None
    bare = not {"q", "weights"} & {*names} and not any(is_template(name) for name in names.values())
    if bare and named_layers(main, names, layout) is not None:
        names["weights"] = "weights"  # one array of all layers, by its own name
    prefix = _layer_prefix(main, layer, names, layout)
    if layer is not None and main is not None:
        layer = known(layer, layers_of(main.contents))
    arrayed = any(is_template(name) for name in names.values())
    names = {role: in_layer(name, layer) for role, name in names.items()}
    where = str(source) if source is not None else "inputs"
    own = settings_of(main, layer)
    without, version = own.pop("without", ()), own.pop("format", FORMAT_VERSION)
    if (maps := own.pop("maps", None)) is not None and main is not None:
        _check_alone(main, names, settings or {}, layout, global_positions)
        return read_maps(main, prefix, maps, _told_of_maps(own, where, layer))
    given = _holds_weights(main, names, prefix)
    skipped = set(OF_PRODUCTS if given else OF_WEIGHTS) | (
        set() if values else {"v", "v_global", "w_o", "residual_norms"}
    )
    if global_positions is not None:
        skipped.add("global_mask")
    tensors = _tensors(main, prefix, names, skipped, without)
    if version == 1:
        read_as_format_1(where, tensors)
    if given:
        saved = bool(prefix) or (main is not None and "format" in main.metadata)
        batched = arrayed or (saved and names.get("weights") is None)
        layout = _take_weights(main, where, tensors, layout, layer, batched=batched)
    else:
        layout = _take_products(main, where, prefix, tensors, names, layout, own)
    _round(where, tensors, dtype)
    if "pattern" in own:
        own["pattern"] = own_pattern(main, prefix, own["pattern"])
    inputs = _made(where, tensors, own, settings or {}, layer, layout, given=given, pairs_first=version == 1)
    if version == 1:
        note_moved_windows(where, inputs)
    return inputs if global_positions is None else _with_globals(inputs, global_positions)


def _check_roles(names: Mapping[str, str], positions: str | None) -> None:
    """Raises InputError where a role is none, or global positions are said twice."""
    unknown = [role for role in names if role not in ROLES]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a role; the roles are {', '.join(ROLES)}")
    if positions is not None and "global_mask" in names:
        raise InputError("--global and --mask both say which keys are global; give one")


def _told_of_maps(own: Mapping[str, Any], where: str, layer: Label | None) -> dict[str, Any]:
    """What is known of maps that were reduced while the model ran, beside the maps."""
    told = {name: own[name] for name in (*LABELS, "cross") if name in own}
    label = None if layer is None else label_of(layer)
    return {**told, "layer": label, "source": where if layer is None else f"{where} layer {layer}"}


def _tensors(
    main: TensorFile | None, prefix: str, names: Mapping[str, str], skipped: Collection[str], without: Collection[str]
) -> dict[str, Tensor]:
    """The tensor of each role: the one that is named, else the layer's own, else that of all layers of its kind."""
    tensors: dict[str, Tensor] = {}
    for role in ROLES:
        if role == "documents" and re.fullmatch(r"\d+(,\d+)*", names.get(role, "")):
            tensors[role] = names[role]  # type: ignore[assignment] # lengths, until it is known how many keys there are
        elif role in names:
            tensors[role] = _read_ref(main, TensorRef.parse(names[role]), role, prefix)
        elif role not in skipped and main is not None:
            # Masks may be said once for all layers, or all of a kind.
            shared = [] if role in without else [f"{prefix.partition('layers.')[0]}{role}"]
            found = [name for name in (prefix + role, *shared) if name in main.contents]
            if found:
                tensors[role] = main.read(found[0])
    return tensors


def read_tensor(text: str, *, option: str) -> Tensor:
    """The tensor that ``FILE:NAME`` names, or ``FILE`` where it holds one.

    Raises:
        InputError: there is no such file or tensor, or no file is named.
    """
    ref = TensorRef.parse(text)
    if ref.path is None:
        raise InputError(f"{option} {text}: name a file, as FILE:NAME or FILE ({', '.join(READABLE)})")
    return _read_from(ref.path, ref.name, option)


def _check_alone(
    main: TensorFile, names: Mapping[str, str], settings: Mapping[str, Any], layout: str | None, positions: str | None
) -> None:
    """Raises InputError where something is named that reduced maps have no use for."""
    asked = {
        **names,
        **settings,
        **({"layout": layout} if layout else {}),
        **({"global": positions} if positions else {}),
    }
    for name in asked:
        raise InputError(
            f"{main.path}: holds maps that were reduced while the model ran, and --{name.replace('_', '-')} is of q and k; "
            f"leave it out"
        )


def packing(
    source: str | Path | None, *, layer: Label | None = None, names: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """What says which sequence each token of a dump is of, by role; nothing where its tensors are batch items.

    Args:
        source, layer, names: as :func:`load` takes them.
    """
    names = dict(names or {})
    main = open_tensors(Path(source)) if source is not None else None
    prefix = _layer_prefix(main, layer, names, None)
    found = {}
    for role in PACKED:
        if role in names:
            found[role] = _read_ref(main, TensorRef.parse(in_layer(names[role], layer)), role, prefix)
        elif main is not None and prefix + role in main.contents:
            found[role] = main.read(prefix + role)
    return found


def _holds_weights(main: TensorFile | None, names: Mapping[str, str], prefix: str) -> bool:
    """Whether weights are what is read, and not q and k. Raises InputError where both are named."""
    if "logits" in names and "weights" not in names:
        raise InputError(f"--logits {names['logits']}: logits stand beside weights; name these too (--weights NAME)")
    there = {*names} if main is None else {*names, *(role for role in ROLES if prefix + role in main.contents)}
    if "weights" not in names and ("weights" not in there or "q" in there):
        return False
    for role in OF_PRODUCTS:
        if role in names:
            raise InputError(
                f"--{role.replace('_', '-')} {names[role]}: --weights gives weights that were computed already; leave one out"
            )
    return True


def _take_weights(
    main: TensorFile | None,
    where: str,
    tensors: dict[str, Tensor],
    layout: str | None,
    layer: Label | None,
    *,
    batched: bool,
) -> str | None:
    """Makes weights and logits those of one layer; gives the layout of the values beside them."""
    if main is not None:
        of_weights.check_scores(main)
    of_arrays = layout if layout in WEIGHT_LAYOUTS else None
    label = None if layer is None else label_of(layer)
    for role in OF_WEIGHTS:
        if role in tensors:
            tensors[role] = of_weights.as_bhts(
                tensors[role], f"{where}: {role}", layout=of_arrays, layer=label, batched=batched
            )
    return None if of_arrays else layout


def _take_products(
    main: TensorFile | None,
    where: str,
    prefix: str,
    tensors: dict[str, Tensor],
    names: Mapping[str, str],
    layout: str | None,
    own: dict[str, Any],
) -> str | None:
    """Makes q, k and v batch items where they are packed; gives their layout.

    Raises:
        InputError: q or k is missing, or is weights.
    """
    if layout in WEIGHT_LAYOUTS:
        raise InputError(
            f"--layout {layout}: it is of weights (--weights NAME); q, k and v have bhtd, bthd, htd or thd"
        )
    for role in ("q", "k"):
        if role not in tensors:
            holds = describe(main.contents) if main is not None else "no source file is given"
            hint = "" if main is None or names else of_weights.hint(main.contents)
            raise InputError(
                f"{where}: there is no tensor {prefix + role!r}; {holds}; name the one that is {ROLES[role]} with --{role} NAME{hint}"
            )
    of_weights.check_not_weights(where, names, tensors["q"])
    if main is not None and not any(role in tensors for role in PACKED):
        check_stray(where, main.contents)
    return unpacked(where, tensors, own, layout)


def _round(where: str, tensors: dict[str, Tensor], dtype: str | Any | None) -> None:
    """Converts what is computed with to ``dtype``."""
    from attnviz.base.devices import parse_dtype

    wanted = parse_dtype(dtype)
    if wanted is None:
        return
    for role in ("q", "k", "v", "q_global", "k_global", "v_global", "w_o", *OF_WEIGHTS):
        if role in tensors and tensors[role].is_floating_point():
            tensors[role] = _rounded(where, role, tensors[role], wanted)


def _made(
    where: str,
    tensors: Mapping[str, Tensor],
    own: dict[str, Any],
    settings: Mapping[str, Any],
    layer: Label | None,
    layout: str | None,
    *,
    given: bool,
    pairs_first: bool,
) -> Inputs:
    """The inputs of what was read: tensors, what the metadata says, and settings in place of that."""
    from attnviz.attention.given import AttentionWeights
    from attnviz.attention.inputs import AttentionInputs
    from attnviz.attention.masks import with_mask

    own = {**own, **settings}
    layout = layout or own.pop("layout", None) or "bhtd"
    own.pop("layout", None)
    roles: dict[str, Any] = {**tensors, **own}
    mask, lengths = roles.pop(MASK, None), roles.get("documents")
    if isinstance(lengths, str):
        sizes, place = (
            (roles["weights"].shape, -1) if given else (roles["k"].shape, -3 if layout in ("bthd", "thd") else -2)
        )
        # Of a k that has no such dimension, its own check says more.
        roles["documents"] = documents_of(lengths, sizes[place], source=where) if len(sizes) >= -place else None
    label = None if layer is None else label_of(layer)
    what: dict[str, Any] = {"source": where if layer is None else f"{where} layer {layer}", "layer": label}
    if not given:
        inputs = AttentionInputs(**roles, **what, layout=layout)
        return inputs if mask is None else with_mask(inputs, mask, name=MASK, pairs_first=pairs_first)
    for name in settings:
        raise InputError(f"--{name} {settings[name]}: weights that were given are shown as they are; leave it out")
    for name in (*SETTINGS, "bias", "rotary"):  # what made the weights
        roles.pop(name, None)
    if "v" in roles and layout in ("bthd", "thd"):
        roles["v"] = roles["v"].transpose(-3, -2)
    weights = AttentionWeights(**roles, **what)
    return weights if mask is None else with_mask(weights, mask, name=MASK, pairs_first=pairs_first)


def _with_globals(inputs: Inputs, positions: str) -> Inputs:
    """The same with the positions that ``--global`` gives, in every batch item."""
    import torch

    mask = torch.zeros(inputs.B, inputs.S, dtype=torch.bool)
    mask[:, list(parse_positions(positions, inputs.S))] = True
    return with_global_mask(inputs, mask)


def with_global_mask(inputs: Inputs, mask: Tensor) -> Inputs:
    """The same inputs with another global mask, (B, S) bool."""
    from dataclasses import replace

    return replace(inputs, global_mask=mask)


def documents_of(lengths: str, S: int, *, source: str = "inputs") -> Tensor:
    """Which document each of ``S`` keys is of, (S,), where documents of these ``lengths`` (``6,10``) follow one another.

    Raises:
        InputError: the lengths don't add up to ``S``.
    """
    import torch

    sizes = [int(part) for part in lengths.split(",")]
    if sum(sizes) != S:
        raise InputError(
            f"{source}: --documents {lengths} are {sum(sizes)} tokens in all, and there are {S} keys; give lengths that "
            f"add up, or name a tensor (B, S)"
        )
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def _layer_prefix(main: TensorFile | None, layer: Label | None, names: Mapping[str, str], layout: str | None) -> str:
    """What the names of a layer's tensors begin with. Raises InputError for a layer that is not there, or is not chosen."""
    named = named_layers(main, names, layout)
    if named is not None:
        where = "inputs" if main is None else main.path
        if layer is None:
            raise choose_one(where, named)
        check_layer(Path(where), layer, named)
        return f"layers.{label_of(layer)}."
    if main is None:
        if layer is not None:
            raise InputError(f"--layer {layer}: a layer needs a dump of several layers; no source file is given")
        return ""
    layers = layers_of(main.contents)
    if layer is None:
        there = {*main.contents, *names}
        if layers and not {"q", "k"} <= there and "weights" not in there:
            raise choose_one(main.path, layers)
        return ""
    check_layer(main.path, layer, layers)
    return prefix_of(known(layer, layers))


def _rounded(where: str, role: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype. Raises InputError for numbers that are too large for it."""
    rounded = tensor.to(dtype)
    wrong = ~rounded.isfinite() & tensor.isfinite()
    if wrong.any():
        raise InputError(
            f"{where}: {role} as {str(dtype).removeprefix('torch.')} has {int(wrong.sum())} values too large for it, "
            f"first at index {tuple(wrong.nonzero()[0].tolist())}; choose another --dtype"
        )
    return rounded


def _read_ref(main: TensorFile | None, ref: TensorRef, role: str, prefix: str) -> Tensor:
    option = {"global_mask": "mask", "key_padding_mask": "padding", "alibi_slopes": "alibi"}.get(
        role, role.replace("_", "-")
    )
    if ref.path is None:
        assert ref.name is not None
        if main is None:
            raise InputError(f"--{option} {ref.name}: no source file is given to find it in; write FILE:{ref.name}")
        return main.read(ref.name if ref.name in main.contents else prefix + ref.name)
    return _read_from(ref.path, ref.name, f"--{option}")


def _read_from(path: Path, name: str | None, option: str) -> Tensor:
    file = open_tensors(path)
    if name is not None:
        return file.read(name)
    if len(file.contents) != 1:
        raise InputError(f"{option} {path}: {describe(file.contents)}; say which one with {path}:NAME")
    return file.read(next(iter(file.contents)))
