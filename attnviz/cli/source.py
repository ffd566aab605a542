"""Where inputs come from, as options: a dump, tensors by role, a synthetic case; of a layer, or of several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from attnviz.base.errors import InputError
from attnviz.base.runs import repeated

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.base.types import Label

ROLE_OPTIONS = {
    "q": "--q",
    "k": "--k",
    "v": "--v",
    "global_mask": "--mask",
    "key_padding_mask": "--padding",
    "bias": "--bias",
    "alibi_slopes": "--alibi",
    "sinks": "--sinks",
    "documents": "--documents",
    "q_global": "--q-global",
    "k_global": "--k-global",
    "v_global": "--v-global",
    "cu_seqlens_q": "--cu-seqlens-q",
    "cu_seqlens_k": "--cu-seqlens-k",
    "block_table": "--block-table",
    "cache_seqlens": "--cache-seqlens",
    "weights": "--weights",
    "logits": "--logits",
}
"""The option that names the tensor of each role."""


@dataclass(frozen=True)
class Source:
    """Where q, k, v and the masks come from."""

    RANK: ClassVar = 3
    RARE: ClassVar = (
        "v",
        "padding",
        "documents",
        "softcap",
        "bias",
        "alibi",
        "sinks",
        "cu_seqlens_q",
        "cu_seqlens_k",
        "block_table",
        "cache_seqlens",
    )

    source: Annotated[
        Path | None,
        typer.Argument(
            help="Dump to read: .safetensors, .npz, .npy, .pt or .pth; - is stdin. None: a synthetic case.",
            show_default=False,
        ),
    ] = None
    q: Annotated[
        str | None,
        typer.Option(
            "--q",
            metavar="NAME",
            help="Tensor of queries: NAME, FILE:NAME or FILE; {layer} in it is each layer's number.",
        ),
    ] = None
    k: Annotated[str | None, typer.Option("--k", metavar="NAME", help="Tensor of keys.")] = None
    v: Annotated[str | None, typer.Option("--v", metavar="NAME", help="Tensor of values.")] = None
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="NAME", help="Tensor of weights that something else computed, in place of q and k."
        ),
    ] = None
    logits: Annotated[str | None, typer.Option("--logits", metavar="NAME", hidden=True)] = None
    mask: Annotated[str | None, typer.Option(metavar="NAME", help="Bool tensor of global key positions.")] = None
    padding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Bool tensor of key positions that exist (False: padding).")
    ] = None
    global_: Annotated[
        str | None,
        typer.Option(
            "--global",
            metavar="POSITIONS",
            help="Global positions in place of a mask: 0,3,7  0-3,17  every:512  random:16.",
        ),
    ] = None
    documents: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tensor (B, S): which packed document a key is of; or their lengths: 6,10."),
    ] = None
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Layers of a dump of several, with their kind if any: 5, 0,2-4, cross.5 or all; where one is shown, one.",
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            help="Order of dimensions: bhtd, bthd, htd or thd; of weights hts, bhts, lhts or lbhts.  \\[default: bhtd]"
        ),
    ] = None
    scale: Annotated[float | None, typer.Option(help="Factor on the dot products.  \\[default: 1/sqrt(D)]")] = None
    softcap: Annotated[float | None, typer.Option(help="c in c*tanh(score/c), before masks (Gemma 2).")] = None
    bias: Annotated[str | None, typer.Option(metavar="NAME", help="Tensor (H, T, S) added to the scores.")] = None
    alibi: Annotated[str | None, typer.Option(metavar="NAME", help="Tensor (H,) of ALiBi slopes.")] = None
    sinks: Annotated[str | None, typer.Option(metavar="NAME", help="Tensor (H,) of attention sinks' logits.")] = None
    cu_seqlens_q: Annotated[
        str | None,
        typer.Option(
            "--cu-seqlens-q", metavar="NAME", help="Tensor (B+1,) of where packed sequences end: q is (tokens, H, D)."
        ),
    ] = None
    cu_seqlens_k: Annotated[
        str | None, typer.Option("--cu-seqlens-k", metavar="NAME", help="Likewise of keys.  \\[default: as of q]")
    ] = None
    block_table: Annotated[
        str | None,
        typer.Option(
            "--block-table", metavar="NAME", help="Tensor (B, n) of the blocks of paged k and v of each sequence."
        ),
    ] = None
    cache_seqlens: Annotated[
        str | None,
        typer.Option("--cache-seqlens", metavar="NAME", help="Tensor (B,) of how many keys each has in them."),
    ] = None
    q_global: Annotated[str | None, typer.Option("--q-global", metavar="NAME", hidden=True)] = None
    k_global: Annotated[str | None, typer.Option("--k-global", metavar="NAME", hidden=True)] = None
    v_global: Annotated[str | None, typer.Option("--v-global", metavar="NAME", hidden=True)] = None

    def __post_init__(self) -> None:
        if str(self.source) == "-":
            from attnviz.sources.files import spooled

            object.__setattr__(self, "source", spooled())

    def paths(self) -> list[Path]:
        """Every file this reads."""
        from attnviz.sources.naming import TensorRef

        refs = [TensorRef.parse(text).path for text in self.names.values() if not self._are_lengths(text)]
        return [path for path in (self.source, *refs) if path is not None]

    def load(self, dtype: str | None = None, *, values: bool = False) -> Inputs:
        """The inputs of one layer, or the synthetic case where nothing names a source.

        Raises:
            InputError: what the source lacks, more than one layer, or options that contradict each other.
        """
        from attnviz.sources.dumps import load

        names = self.names
        if self.source is None and not self.paths():
            return self._synthetic(dtype)
        return load(
            self.source,
            layer=self.label,
            names=names,
            global_positions=self.global_,
            layout=self.layout,
            dtype=dtype,
            settings=self.settings,
            values=values,
        )

    def packing(self) -> dict[str, Tensor]:
        """What says which sequence each token is of, by role, where q, k and v are packed."""
        from attnviz.sources.dumps import packing

        return packing(self.source, layer=self.label, names=self.names)

    @property
    def label(self) -> Label | None:
        """The one layer of ``--layer``. Raises InputError where it names several."""
        if self.layer is None:
            return None
        labels = self.layers()
        if len(labels) != 1:
            raise InputError(f"--layer {self.layer}: one layer is wanted here, {len(labels)} are given")
        return labels[0]

    @property
    def title(self) -> str:
        """What a page or a table of all its layers is called."""
        return str(self.source) if self.source is not None else "inputs" if self.paths() else "synthetic"

    def each(self, dtype: str | None = None) -> Iterator[tuple[Label | None, Inputs]]:
        """Each layer that this speaks of and its inputs, one in memory at a time."""
        for label in self.layers():
            yield label, self.of(label).load(dtype)

    def of(self, label: Label | None) -> Source:
        """The same, of one layer."""
        return replace(self, layer=None if label is None else f"{label}")

    def with_more(self, more: Sequence[Path] | None) -> list[Source]:
        """This and the same of each further file.

        Raises:
            InputError: a file twice.
        """
        if not more:
            return [self]
        paths = [path for path in (self.source, *more) if path is not None]
        if twice := repeated(paths):
            raise InputError(f"{twice[0]}: this file is given twice; name each once")
        return [self, *map(self.of_file, more)]

    def of_file(self, path: Path) -> Source:
        """The same, of another file: what a ``.npy`` calls by its own name is called by the other's there."""
        own = self.source
        renamed = own is not None and own.suffix == path.suffix == ".npy" and self.weights == own.stem
        return replace(self, source=path, weights=path.stem if renamed else self.weights)

    def layers(self) -> list[Label | None]:
        """The layers this speaks of: those of ``--layer`` (``0,2-4`` is several), else all that a dump has.

        None is the whole of a source that has no layers.

        Raises:
            InputError: ``--layer`` is malformed, or the file can't be read.
        """
        named = None if self.layer is None or self.layer.strip().lower() == "all" else parse_layers(self.layer)
        from attnviz.sources.files import open_tensors
        from attnviz.sources.naming import check_layer, layers_of, layers_there

        there: list[Label | None] = [None]
        if self.paths():
            there = layers_there(self.source, self.names, self.layout)
        if named is None:
            return there
        if there != [None] and self.source is not None:
            for label in named:
                check_layer(self.source, label, [one for one in there if one is not None])
        elif self.source is not None and self.q is None and self.weights is None:
            layers = layers_of(open_tensors(self.source).contents)
            for label in named:
                check_layer(self.source, label, layers)
        return [*named]

    @property
    def settings(self) -> dict[str, Any]:
        """What is said of the formula."""
        given = {"scale": self.scale, "softcap": self.softcap}
        return {name: number for name, number in given.items() if number is not None}

    @property
    def names(self) -> dict[str, str]:
        """The tensor of each role that is named."""
        named = {
            role: getattr(self, option.removeprefix("--").replace("-", "_")) for role, option in ROLE_OPTIONS.items()
        }
        return {role: name for role, name in named.items() if name is not None}

    def document_tokens(self) -> int | None:
        """How many tokens the documents have in all, where their lengths are given."""
        lengths = self.documents
        return None if lengths is None or not self._are_lengths(lengths) else sum(map(int, lengths.split(",")))

    def _are_lengths(self, text: str) -> bool:
        """Whether ``--documents`` gives lengths and names no tensor."""
        return text == self.documents and re.fullmatch(r"\d+(,\d+)*", text) is not None

    def _synthetic(self, dtype: str | None) -> Inputs:
        from dataclasses import replace

        from attnviz.base.selections import parse_positions
        from attnviz.cli.console import note
        from attnviz.sources.dumps import documents_of
        from attnviz.sources.synthetic import synthesize

        named = {role: name for role, name in self.names.items() if not self._are_lengths(name)}
        given: dict[str, object] = {ROLE_OPTIONS[role]: name for role, name in named.items()}
        given |= {"--layer": self.layer, "--layout": self.layout}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} {value}: it speaks of a file, and no SOURCE is given; name one")
        positions = None if self.global_ is None else parse_positions(self.global_, 10)
        inputs = synthesize(global_positions=positions, dtype=dtype or "float32")
        count = len(inputs.item().global_positions)
        note(f"no SOURCE: using the built-in synthetic case (H=8, T=10, D=64, {count} global tokens, seed 0)")
        settings = self.settings
        if self.documents is not None:
            settings["documents"] = documents_of(self.documents, inputs.S, source="the synthetic case")
        return replace(inputs, **settings)


def paths_of(sources: Sequence[Source]) -> list[Path]:
    """Every file that these read."""
    return [path for source in sources for path in source.paths()]


More = Annotated[
    list[Path] | None,
    typer.Argument(metavar="MORE", help="Further dumps, with the same options.", show_default=False),
]
"""Further files of a command that takes several."""


def parse_layers(text: str) -> list[Label]:
    """The layers that ``--layer`` names, in the order written.

    Raises:
        InputError: a range that is none, a layer named twice.

    >>> parse_layers("7,0-2,cross.1-2")
    [7, 0, 1, 2, 'cross.1', 'cross.2']
    """
    found: list[Label] = []
    for part in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(\w+\.)?(\d+)-(\d+)", part)
        if not match:
            found.append(int(part) if part.isdecimal() else part)
            continue
        kind, first, last = match[1] or "", int(match[2]), int(match[3])
        if last < first or last - first > 10_000:
            raise InputError(f"--layer {text!r}: {part} is not a range of layers; write it like 2-4")
        found += [f"{kind}{number}" if kind else number for number in range(first, last + 1)]
    if twice := repeated(found):
        raise InputError(f"--layer {text!r}: layer {twice[0]} is given more than once; name each layer once")
    return found
