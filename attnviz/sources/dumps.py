"""Dumps: files whose tensors play the roles of one attention call, or of a layer of many.

A dump names its tensors by role (``q``, ``k``, ``v``, ``global_mask``, ...), with ``layers.N.`` before the name
where it holds several layers, and ``cross.layers.N.`` and the like where layers are of several kinds. Other names are given by the user, as ``NAME`` or ``FILE:NAME``; nothing is guessed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError, Note
from attnviz.base.selections import parse_positions
from attnviz.base.types import Label
from attnviz.base.writing import as_path
from attnviz.sources import given as of_weights
from attnviz.sources.files import READABLE, TensorFile, describe, open_tensors, write_tensors
from attnviz.sources.naming import (
    LAYER,
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
    split,
)
from attnviz.sources.packed import PACKED, check_stray, unpacked
from attnviz.sources.reduced import ROLES as MAPS
from attnviz.sources.reduced import SCHEMA, maps_metadata, read_maps, tensors_of_maps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.patches import PatchSpec

ROLES: dict[str, str] = {
    "q": "queries (B, H, T, D)",
    "k": "keys (B, H_kv, S, D)",
    "v": "values (B, H_kv, S, D)",
    "global_mask": "global key positions (B, S) bool",
    "key_padding_mask": "key positions that exist (B, S) bool",
    "query_padding_mask": "query positions that exist (B, T) bool",
    "attention_mask": "which query sees which key (T, S), (B, T, S) or (B, H, T, S), or which keys exist (B, S)",
    "q_global": "queries of global tokens (B, H, T, D)",
    "k_global": "keys for global queries (B, H_kv, S, D)",
    "v_global": "values for global queries (B, H_kv, S, D)",
    "bias": "added to the scores (H, T, S)",
    "alibi_slopes": "ALiBi slopes (H,)",
    "sinks": "attention sinks (H,)",
    "query_positions": "where queries stand (B, T)",
    "key_positions": "where keys stand (B, S)",
    "documents": "which packed document a key is of (B, S)",
    "query_documents": "which packed document a query is of (B, T)",
    "cu_seqlens_q": "where packed sequences of queries begin and end (B + 1,)",
    "cu_seqlens_k": "where packed sequences of keys begin and end (B + 1,)",
    "block_table": "which blocks of k and v are a sequence's (B, blocks)",
    "cache_seqlens": "how many keys each sequence has in its blocks (B,)",
    "weights": "attention weights that were given (B, H, T, S)",
    "logits": "scores before softmax, beside weights (B, H, T, S)",
    "w_o": "output projection, a part a head (H, D_v, d_model)",
}
"""Every role a tensor can play, and what it is."""

OF_WEIGHTS = ("weights", "logits")
_OF_PRODUCTS = ("q", "k", "q_global", "k_global", "v_global", "bias", "alibi_slopes", "sinks", *PACKED)
"""Roles that weights which were given have no use for."""

SETTINGS = ("scale", "softcap")
"""Numbers that a dump's metadata can hold beside the tensors."""

LABELS = (
    "tokens",
    "query_tokens",
    "token_form",
    "word_ids",
    "query_word_ids",
    "special_tokens",
    "query_special_tokens",
)
"""What a dump's metadata can say of its tokens."""

FORMAT_VERSION = 2
"""The newest format; a dump that uses nothing format 1 lacks says 1, so that older programs read it."""

_MASK = "attention_mask"

_GROUPED = re.compile(r"(?:\w+\.)?(\w+)")


def role_of(name: str) -> str | None:
    """The role that a tensor's own name gives it, layer prefix apart."""
    name = re.sub(rf"({_MASK})\.\d+$", r"\1", name)  # of a pattern that holds several
    match = LAYER.fullmatch(name)
    if match:
        role = match["role"].removeprefix("tiles.")
        return role if role in ROLES or role in MAPS else None
    grouped = _GROUPED.fullmatch(name)  # what all layers of a kind share: cross.key_padding_mask
    return grouped[1] if grouped and (grouped[1] in ROLES or grouped[1] in MAPS) else None


def read_tensor(text: str, *, option: str) -> Tensor:
    """The tensor that ``FILE:NAME`` names, or ``FILE`` where it holds one.

    Raises:
        InputError: there is no such file or tensor, or no file is named.
    """
    ref = TensorRef.parse(text)
    if ref.path is None:
        raise InputError(f"{option} {text}: name a file, as FILE:NAME or FILE ({', '.join(READABLE)})")
    return _read_from(ref.path, ref.name, option)


def missing_roles(contents: Iterable[str], metadata: Mapping[str, Any] | None = None) -> list[str]:
    """What ``attnviz score`` would still need to be told: q, k and the global mask, where no tensor has that role.

    No global mask is needed where ``metadata`` names the pattern of the file or of its layers.
    """
    there = {role_of(name) for name in contents}
    if there >= {*MAPS}:
        return []
    layers = (metadata or {}).get("layers")
    described = [metadata or {}, *(layers.values() if isinstance(layers, dict) else ())]
    if "attention_mask" in there or any(isinstance(one, dict) and "pattern" in one for one in described):
        there.add("global_mask")
    if "weights" in there and "q" not in there:
        return []
    return [role for role in ("q", "k", "global_mask") if role not in there]


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
    unknown = [role for role in names if role not in ROLES]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a role; the roles are {', '.join(ROLES)}")
    if global_positions is not None and "global_mask" in names:
        raise InputError("--global and --mask both say which keys are global; give one")
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
    own = _settings(main, layer)
    without, version = own.pop("without", ()), own.pop("format", FORMAT_VERSION)
    if (maps := own.pop("maps", None)) is not None and main is not None:
        _check_alone(main, names, settings or {}, layout, global_positions)
        label = None if layer is None else label_of(layer)
        told = {name: own[name] for name in (*LABELS, "cross") if name in own}
        return read_maps(
            main, prefix, maps, {**told, "layer": label, "source": where if layer is None else f"{where} layer {layer}"}
        )
    given = _holds_weights(main, names, prefix)

    skipped = set(_OF_PRODUCTS if given else OF_WEIGHTS) | (set() if values else {"v", "v_global", "w_o"})
    if global_positions is not None:
        skipped.add("global_mask")
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
    if version == 1:
        _read_as_format_1(where, tensors)
    if given:
        if main is not None:
            of_weights.check_scores(main)
        batched = arrayed or bool(prefix) or (main is not None and "format" in main.metadata)
        layout = _take_weights(
            where, tensors, layout, layer, batched=(batched and names.get("weights") is None) or arrayed
        )
    elif layout in WEIGHT_LAYOUTS:
        raise InputError(
            f"--layout {layout}: it is of weights (--weights NAME); q, k and v have bhtd, bthd, htd or thd"
        )
    else:
        _check_products(main, where, prefix, tensors, names)
        if main is not None and not any(role in tensors for role in PACKED):
            check_stray(where, main.contents)
        layout = unpacked(where, tensors, own, layout)
    _round(where, tensors, dtype)
    if "pattern" in own:
        own["pattern"] = _own_pattern(main, prefix, own["pattern"])
    inputs = _made(where, tensors, own, settings or {}, layer, layout, given=given, pairs_first=version == 1)
    if version == 1 and _has_moved_window(inputs):
        _note(
            f"{where}: written in dump format 1, whose windows counted queries from the first key on; they are now the "
            f"last {inputs.T} of {inputs.S} positions, and see the keys around these"
        )
    return inputs if global_positions is None else _with_globals(inputs, global_positions)


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
    for role in _OF_PRODUCTS:
        if role in names:
            raise InputError(
                f"--{role.replace('_', '-')} {names[role]}: --weights gives weights that were computed already; leave one out"
            )
    return True


def _take_weights(
    where: str, tensors: dict[str, Tensor], layout: str | None, layer: Label | None, *, batched: bool
) -> str | None:
    """Makes weights and logits those of one layer; gives the layout of the values beside them."""
    of_arrays = layout if layout in WEIGHT_LAYOUTS else None
    label = None if layer is None else label_of(layer)
    for role in OF_WEIGHTS:
        if role in tensors:
            tensors[role] = of_weights.as_bhts(
                tensors[role], f"{where}: {role}", layout=of_arrays, layer=label, batched=batched
            )
    return None if of_arrays else layout


def _check_products(
    main: TensorFile | None, where: str, prefix: str, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> None:
    """Raises InputError where q or k is missing, or is weights."""
    for role in ("q", "k"):
        if role not in tensors:
            holds = describe(main.contents) if main is not None else "no source file is given"
            hint = "" if main is None or names else of_weights.hint(main.contents)
            raise InputError(
                f"{where}: there is no tensor {prefix + role!r}; {holds}; name the one that is {ROLES[role]} with --{role} NAME{hint}"
            )
    of_weights.check_not_weights(where, names, tensors["q"])


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
    mask, lengths = roles.pop(_MASK, None), roles.get("documents")
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
        return inputs if mask is None else with_mask(inputs, mask, name=_MASK, pairs_first=pairs_first)
    for name in settings:
        raise InputError(f"--{name} {settings[name]}: weights that were given are shown as they are; leave it out")
    for name in (*SETTINGS, "bias"):  # what made the weights
        roles.pop(name, None)
    if "v" in roles and layout in ("bthd", "thd"):
        roles["v"] = roles["v"].transpose(-3, -2)
    weights = AttentionWeights(**roles, **what)
    return weights if mask is None else with_mask(weights, mask, name=_MASK, pairs_first=pairs_first)


def _with_globals(inputs: Inputs, positions: str) -> Inputs:
    """The same with the positions that ``--global`` gives, in every batch item."""
    import torch

    mask = torch.zeros(inputs.B, inputs.S, dtype=torch.bool)
    mask[:, list(parse_positions(positions, inputs.S))] = True
    return with_global_mask(inputs, mask)


def picture_of(path: Path) -> tuple[Tensor | None, PatchSpec | None]:
    """The picture that a captured model looked at, (height, width, 3) uint8, and how its patches lie; None where it doesn't say.

    Raises:
        InputError: what it holds is no picture.
    """
    file = open_tensors(path)
    patches, found = file.metadata.get("patches"), None
    if "picture" in file.contents:
        found = file.read("picture")
        if found.ndim != 3 or found.shape[2] != 3 or 0 in found.shape or str(found.dtype) != "torch.uint8":
            raise InputError(
                f"{path}: picture has shape {tuple(found.shape)} and dtype {str(found.dtype).removeprefix('torch.')}, wanted "
                f"(height, width, 3) uint8"
            )
    if isinstance(patches, list) and len(patches) == 2 and all(isinstance(size, int) and size > 0 for size in patches):
        return found, (patches[0], patches[1])
    return found, patches if isinstance(patches, str) else None


def read_picture(path: Path) -> Tensor:
    """A picture's file, (height, width, 3) uint8. Raises InputError for one that Pillow doesn't read."""
    import numpy as np
    import torch
    from PIL import Image

    if not path.exists():
        raise InputError(f"--picture {path}: there is no such file")
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"--picture {path}: is not a picture that Pillow reads: {said}") from error


def with_global_mask(inputs: Inputs, mask: Tensor) -> Inputs:
    """The same inputs with another global mask, (B, S) bool."""
    from dataclasses import replace

    return replace(inputs, global_mask=mask)


def save(path: str | Path, inputs: Inputs | Sequence[Inputs]) -> None:
    """Writes inputs as a dump that :func:`load` reads back; the format is the suffix's.

    Args:
        path: the file.
        inputs: those of one call, or of several layers: each by its own ``layer``, or by its place where it has none.

    Raises:
        InputError: an unknown suffix, a dtype the format cannot hold, a path that cannot be written, or two layers of one name.

    >>> import attnviz, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     attnviz.save(f"{folder}/run.npz", [attnviz.synthesize(seed=seed) for seed in range(2)])
    ...     attnviz.load(f"{folder}/run.npz", layer=1).H
    8
    """
    if isinstance(inputs, Iterator):
        inputs = list(inputs)
    if not isinstance(inputs, Sequence):
        said = dump_metadata(layer_metadata(inputs), version=format_of(inputs))
        write_tensors(as_path(path), tensors_of(inputs), said)
        return
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    for place, one in enumerate(inputs):
        label = str(place if one.layer is None else one.layer)
        if label in layers:
            raise InputError(f"{path}: two layers are called {label}; give each a layer of its own (layer=)")
        if split(label)[1] < 0:
            raise InputError(f"{path}: layer {label!r} can't be saved; a layer is a number, or KIND.number")
        prefix = prefix_of(label)
        tensors |= {prefix + role: tensor for role, tensor in tensors_of(one).items()}
        layers[label] = layer_metadata(one)
    if not layers:
        raise InputError(f"{path}: there are no layers to save; give the inputs of one or more")
    write_tensors(as_path(path), tensors, dump_metadata({}, {}, layers, version=max(map(format_of, inputs))))


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of a dump of these inputs, by role.

    Raises:
        InputError: a pattern that can't be saved.
    """
    if hasattr(inputs, "grids"):
        return tensors_of_maps(inputs)
    if hasattr(inputs, "parts"):
        raise InputError(
            f"{inputs.source}: is made of several maps and can't be saved as inputs; save what it is made of"
        )
    found = {role: getattr(inputs, role, None) for role in ROLES}
    _, masks = _saved_pattern(inputs)
    if _is_bare_mask(inputs):
        found[_MASK] = masks[0]
    else:
        found |= {f"{_MASK}.{n}": mask for n, mask in enumerate(masks)}
    return {role: tensor for role, tensor in found.items() if tensor is not None}


def layer_metadata(inputs: Inputs) -> dict[str, Any]:
    """What a dump's metadata says of these inputs: numbers, labels and the pattern."""
    said = {name: getattr(inputs, name, None) for name in (*SETTINGS, *LABELS)}
    said["token_form"] = None if inputs.token_form == "plain" else inputs.token_form
    said["cross"] = True if inputs.cross else None
    if hasattr(inputs, "grids"):
        said["maps"] = maps_metadata(inputs)
    else:
        said["pattern"] = None if _is_bare_mask(inputs) else _saved_pattern(inputs)[0]
    return {name: value for name, value in said.items() if value is not None}


def _is_bare_mask(inputs: Inputs) -> bool:
    """Whether the pattern is a mask of pairs that is read back as one, whatever the sizes."""
    from attnviz.attention.patterns import Masked

    own = inputs.pattern
    if not isinstance(own, Masked) or own.mask.shape[-2] != inputs.T:
        return False
    return own.mask.ndim > 2 or not inputs.B == inputs.T > 1


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


def _saved_pattern(inputs: Inputs) -> tuple[dict[str, Any] | None, list[Tensor]]:
    """What metadata says of the inputs' own pattern, and the masks that it holds."""
    from attnviz.attention.names import description

    masks: list[Tensor] = []
    if inputs.pattern is None:
        return None, masks
    try:
        return description(inputs.pattern, masks), masks
    except InputError as error:
        raise InputError(f"{inputs.source}: {error}") from error


def dump_metadata(
    whole: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    layers: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    version: int = FORMAT_VERSION,
) -> dict[str, Any]:
    """A dump's metadata.

    Args:
        whole: what holds for the whole file, as :func:`layer_metadata` gives it.
        groups: what holds for the layers of a kind (``"cross"``).
        layers: what holds for a layer, by its label (``"5"``, ``"cross.5"``).
        version: the format that it needs, the largest :func:`format_of` its layers.
    """
    metadata: dict[str, Any] = {"format": version, "layout": "bhtd", **whole, **(groups or {})}
    if "maps" in whole or any("maps" in one for one in (layers or {}).values()):
        metadata["schema"] = SCHEMA
    return metadata | ({"layers": dict(layers)} if layers else {})


def format_of(inputs: Inputs) -> int:
    """The format that a dump of these inputs needs: 1 where that has words for all of it, with the same meaning."""
    from attnviz.attention.names import NAMES

    if hasattr(inputs, "grids"):
        return FORMAT_VERSION
    said, masks = _saved_pattern(inputs)
    bias = getattr(inputs, "bias", None)
    new = (
        hasattr(inputs, "weights"),
        getattr(inputs, "w_o", None) is not None,
        not layer_metadata(inputs).keys().isdisjoint(LABELS[2:]),
        inputs.cross,
        inputs.query_positions is not None,
        inputs.key_positions is not None,
        inputs.documents is not None,
        said is not None and said.get("name", NAMES[0]) not in NAMES,
        not set(said or ()) <= {"name", "window", "dilation", "causal", "mask"},
        any(mask.ndim > 3 for mask in masks),
        _has_moved_window(inputs),
        bias is not None and bool(_hid_in_format_1(bias).any()),
    )
    return FORMAT_VERSION if any(new) else 1


def _has_moved_window(inputs: Inputs) -> bool:
    """Whether format 1 meant another window by the same words: it counted queries from the first key on."""
    from attnviz.attention.names import parts_of
    from attnviz.attention.patterns import Local

    own = inputs.pattern
    return inputs.T != inputs.S and own is not None and any(isinstance(part, Local) for part in parts_of(own))


def _hid_in_format_1(bias: Tensor) -> Tensor:
    """Which finite numbers of a bias hid a key in format 1: those at or below half of its dtype's least."""
    import torch

    return bias.isfinite() & (bias <= torch.finfo(bias.dtype).min / 2)


def _read_as_format_1(where: str, tensors: dict[str, Tensor]) -> None:
    """Gives what format 1 meant today's words, and says so."""
    import torch

    bias = tensors.get("bias")
    if bias is None or not bias.is_floating_point():
        return
    from attnviz.attention.checks import unexpanded

    bias = unexpanded(bias)
    hid = _hid_in_format_1(bias)
    if bool(hid.any()):
        tensors["bias"] = bias.masked_fill(hid, -torch.inf)
        _note(
            f"{where}: written in dump format 1, where a bias of {torch.finfo(bias.dtype).min / 2:.3g} or less hides a "
            f"key; {int(hid.sum())} of its numbers are read as -inf"
        )


def _note(message: str) -> None:
    warnings.warn(Note(message), stacklevel=3)


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


def _settings(main: TensorFile | None, layer: Label | None) -> dict[str, Any]:
    """What the dump's metadata says of labels and numbers: the layer's own first, then of its kind, then of all."""
    if main is None:
        return {}
    metadata = {} if of_weights.is_scores(main) else main.metadata  # what scores are of is no setting of theirs
    version = metadata.get("format", FORMAT_VERSION)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{main.path}: was written in dump format {version}; this attnviz reads up to {FORMAT_VERSION}; update attnviz"
        )
    layers = metadata.get("layers", {})
    of_layer = layers.get(str(layer), {}) if isinstance(layers, dict) else {}
    group = "" if layer is None else split(layer)[0]
    of_group = metadata.get(group, {}) if group else metadata
    of_group = of_group if isinstance(of_group, dict) else {}
    layout = {"layout": metadata["layout"]} if "layout" in metadata else {}
    merged = {**layout, **of_group, **(of_layer if isinstance(of_layer, dict) else {})}
    settings = {name: merged[name] for name in (*SETTINGS, *LABELS, "layout") if name in merged}
    without = merged.get("without", [])
    if not (isinstance(without, list) and _all_text(without)):
        raise InputError(f"{main.path}: its metadata gives without as {without!r}, wanted a list of roles")
    settings["without"] = without
    for name in ("pattern", "maps"):
        if name in merged:
            settings[name] = merged[name]
    # Layers of a kind called cross are so; what their kind has in common stands under the same word.
    said = merged.get("cross", False)
    if not isinstance(said, bool | dict):
        raise InputError(f"{main.path}: its metadata gives cross as {said!r}, wanted true or false")
    settings["format"] = version
    settings["cross"] = group.endswith("cross") or said is True
    for name in SETTINGS:
        if name in settings and not isinstance(settings[name], int | float):
            raise InputError(f"{main.path}: its metadata gives {name} as {settings[name]!r}, wanted a number")
    for name in ("tokens", "query_tokens"):
        labels = settings.get(name, [])
        if not (isinstance(labels, list) and all(isinstance(item, list) and _all_text(item) for item in labels)):
            raise InputError(f"{main.path}: its metadata gives {name} that are not lists of strings, one a batch item")
    return settings


def pattern_names(file: TensorFile) -> dict[Label | None, str]:
    """What the pattern of the file, or of each of its layers, is called, where its metadata says one: no mask is read.

    Raises:
        InputError: metadata that no version has.
    """
    found: dict[Label | None, str] = {}
    labels: list[Label | None] = [*layers_of(file.contents)]
    for label in labels or [None]:
        own = _settings(file, label)
        said = own.get("pattern")
        if isinstance(maps := own.get("maps"), dict):
            found[label] = str(maps.get("pattern"))
        elif said is not None and "'mask'" in repr(said):
            found[label] = "with a mask of its own"
        elif said is not None:
            found[label] = str(_own_pattern(file, "" if label is None else prefix_of(label), said))
    return found


def _own_pattern(main: TensorFile | None, prefix: str, said: Any) -> Pattern:
    """The pattern that metadata describes: ``{"name": "local", "window": 256, "causal": true}``, or a composition."""
    from attnviz.attention.names import described

    assert main is not None
    masks: list[Tensor] = []
    while (name := f"{prefix}{_MASK}.{len(masks)}") in main.contents:
        masks.append(main.read(name))
    known = {"name": str, "window": int, "dilation": int, "causal": bool}
    plain = isinstance(said, dict) and not {"any", "all", "mask"} & set(said)
    if not isinstance(said, dict) or (
        plain and ("name" not in said or any(not isinstance(said[key], known[key]) for key in known if key in said))
    ):
        raise InputError(
            f'{main.path}: its metadata gives the pattern as {said!r}, wanted {{"name": ..., "window": ..., "dilation": ..., "causal": ...}}'
        )
    try:
        return described(said, masks)
    except InputError as error:
        raise InputError(f"{main.path}: its metadata's pattern: {error}") from error


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


def _all_text(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


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
