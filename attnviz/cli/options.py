"""Options that several commands share, as groups, and what they make of a source.

A command takes a group as one parameter; :func:`attnviz.cli.groups.command` gives the program each of the group's fields
as an option of its own, so that an option is written once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from attnviz.base.errors import InputError, not_one_of

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.labels import Tokens
    from attnviz.base.types import Label
    from attnviz.engine.request import Request

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
            help="Layers of a dump of several (layers.N.q, ...), with their kind if any: 5, 0,2-4, cross.5 or all. "
            "Commands that show one take one.",
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
        positions = parse_positions("0,3,7" if self.global_ is None else self.global_, 10)
        note(f"no SOURCE: using the built-in synthetic case (H=8, T=10, D=64, {len(positions)} global tokens, seed 0)")
        inputs = synthesize(global_positions=positions, dtype=dtype or "float32")
        settings = self.settings
        if self.documents is not None:
            settings["documents"] = documents_of(self.documents, inputs.S, source="the synthetic case")
        return replace(inputs, **settings)


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
    twice = [label for label in dict.fromkeys(found) if found.count(label) > 1] if len({*found}) < len(found) else []
    if twice:
        raise InputError(f"--layer {text!r}: layer {twice[0]} is given more than once; name each layer once")
    return found


@dataclass(frozen=True)
class Compute:
    """Where and in what precision to compute."""

    RANK: ClassVar = 4

    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    dtype: Annotated[
        str | None,
        typer.Option(help="Round inputs first: float16, bfloat16, float32 or float64.  \\[default: theirs]"),
    ] = None


@dataclass(frozen=True)
class PatternChoice:
    """Which query sees which key."""

    RANK: ClassVar = 2
    RARE: ClassVar = ("dilation", "blocks", "block_size", "mask_mod")

    pattern: Annotated[
        str | None,
        typer.Option(
            help="{patterns}; settings after a colon: local:window=2; joined by & and |: 'documents & causal'.  "
            "\\[default: the dump's own, else global]"
        ),
    ] = None
    window: Annotated[int | None, typer.Option(help="Keys to each side of a query, for local patterns.")] = None
    dilation: Annotated[int | None, typer.Option(help="Steps of the window.  \\[default: 1]")] = None
    causal: Annotated[bool, typer.Option("--causal", help="Hide what comes after the query.")] = False
    mask_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE:NAME",
            help="Mask of your own: (T, S), (B, T, S), (B, H, T, S), or (B, S) of padding; bool, 0 and 1, or added numbers.",
        ),
    ] = None
    blocks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE:NAME", help="Bool matrix of blocks (n_q, n_k), or (H, n_q, n_k): which block sees which."
        ),
    ] = None
    block_size: Annotated[
        str | None, typer.Option(metavar="Q[/K]", help="Queries and keys to a block: 128 or 64/128.  \\[default: 128]")
    ] = None
    mask_mod: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="FlexAttention's mask_mod or BlockMask, or a pattern: runs that file, your own code.",
        ),
    ] = None

    def paths(self) -> list[Path]:
        """The files this reads."""
        from attnviz.base.owncode import OwnName
        from attnviz.sources.naming import TensorRef

        found = [TensorRef.parse(text).path for text in (self.mask_file, self.blocks) if text is not None]
        found += [] if self.mask_mod is None else [OwnName.parse(self.mask_mod, "--mask-mod").path]
        return [path for path in found if path is not None]

    def on(self, inputs: Inputs) -> tuple[Inputs, Pattern]:
        """Inputs and the pattern asked for of them; a mask of one's own may be of padding, or add to their scores.

        Raises:
            InputError: as :meth:`choose`; a mask that doesn't fit the inputs.
        """
        if self.mask_file is None:
            return inputs, self.choose(inputs.pattern)
        from attnviz.attention.masks import with_mask
        from attnviz.attention.patterns import Causal, GlobalKeys
        from attnviz.sources.dumps import read_tensor

        self._alone("--mask-file")
        masked = with_mask(
            inputs, read_tensor(self.mask_file, option="--mask-file"), name=f"--mask-file {self.mask_file}"
        )
        pattern = masked.pattern or GlobalKeys()
        return masked, pattern & Causal() if self.causal else pattern

    def _alone(self, option: str) -> None:
        """Raises InputError where another option says which query sees which key besides ``option``."""
        others = {
            "--pattern": self.pattern,
            "--window": self.window,
            "--dilation": self.dilation,
            "--mask-file": self.mask_file,
            "--blocks": self.blocks,
            "--mask-mod": self.mask_mod,
        }
        for name, value in others.items():
            if value is not None and name != option:
                raise InputError(f"{name} {value}: {option} says which query sees which key already; give one")

    def _own(self) -> Pattern | None:
        """The blocks or the function of pairs that are given."""
        if self.block_size is not None and self.blocks is None:
            raise InputError(
                f"--block-size {self.block_size}: it is of --blocks, and none are given; add --blocks FILE:NAME"
            )
        if self.blocks is not None:
            from attnviz.attention.patterns import Blocks
            from attnviz.sources.dumps import read_tensor

            self._alone("--blocks")
            sizes = (self.block_size or "128").split("/")
            if not all(size.strip().isdecimal() for size in sizes) or len(sizes) > 2:
                raise InputError(
                    f"--block-size {self.block_size!r} is not a number of queries and keys; write 128 or 64/128"
                )
            return Blocks(read_tensor(self.blocks, option="--blocks"), (int(sizes[0]), int(sizes[-1])))
        if self.mask_mod is not None:
            from attnviz.attention.names import pattern_of
            from attnviz.base.owncode import OwnName

            self._alone("--mask-mod")
            return pattern_of(OwnName.parse(self.mask_mod, "--mask-mod").load())
        return None

    def choose(self, own: Pattern | None = None) -> Pattern:
        """The pattern asked for; where none is, ``own`` or the global keys.

        Raises:
            InputError: settings that the pattern has no use for, or options that say it twice.
        """
        from attnviz.attention.names import named_pattern
        from attnviz.attention.patterns import Causal, GlobalKeys

        given = self._own()
        if given is not None:
            return given & Causal() if self.causal else given
        if self.pattern is None and own is not None and not self.given():
            return own
        if self.pattern is None and (self.window is not None or self.dilation is not None):
            raise InputError("--window and --dilation need a local pattern; add --pattern local or local+global")
        if self.pattern is None:
            base = own or GlobalKeys()
            return base & Causal() if self.causal else base
        return named_pattern(self.pattern, window=self.window, dilation=self.dilation, causal=self.causal)

    def given(self) -> bool:
        """Whether anything was asked for."""
        return any(value is not None and value is not False for value in vars(self).values())


@dataclass(frozen=True)
class Seen:
    """What is seen as one, and what is left out."""

    RANK: ClassVar = 2
    RARE: ClassVar = ("spans", "query_spans", "renormalize")

    merge: Annotated[
        str | None,
        typer.Option(
            metavar="words", help="See tokens as words: weight on a word is its tokens' sum, of one their mean."
        ),
    ] = None
    spans: Annotated[
        str | None,
        typer.Option(
            metavar="SPANS",
            help="See runs of positions as one: 'system:0-40,document 1:41-900', both ends of each; or sep:TOKEN, which end with "
            "a token (sep:special: with any special one).",
        ),
    ] = None
    query_spans: Annotated[
        str | None,
        typer.Option(metavar="SPANS", help="Likewise of queries that are of another sequence than the keys (cross)."),
    ] = None
    hide: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS",
            help="Leave keys out of rows, not of softmax: special, padding; or positions (0,3-5), or tokens.",
        ),
    ] = None
    renormalize: Annotated[
        bool, typer.Option("--renormalize", help="Make what is left of each row sum to 1 again.")
    ] = False

    def asked(self) -> dict[str, Any]:
        """What it says of a request."""
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}

    def refuse(self, why: str) -> None:
        """Raises InputError where anything of it is asked for, and why it can't be."""
        for name, value in self.asked().items():
            raise InputError(f"--{name.replace('_', '-')}{'' if value is True else f' {value}'}: {why}")


@dataclass(frozen=True)
class Part:
    """Which part of a map to show."""

    RANK: ClassVar = 2

    queries: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Query positions A to B-1 only, or those of a word; of words or spans, which of them."
        ),
    ] = None
    keys: Annotated[
        str | None, typer.Option(metavar="A:B", help="Key positions A to B-1 only, or those of a word; likewise.")
    ] = None

    def ranges(self, inputs: Inputs, batch: int) -> dict[str, range | None]:
        """The positions to show of a batch item."""
        item = inputs.item(batch)
        return self.of_sizes(inputs.T, inputs.S, item.query_tokens, item.key_tokens, source=inputs.source)

    def of_sizes(
        self, T: int, S: int, queries: Tokens | None, keys: Tokens | None, *, source: str
    ) -> dict[str, range | None]:
        """The positions among T queries and S keys, of these tokens where they have any."""
        from attnviz.base.selections import parse_range

        asked = {"queries": (self.queries, T, queries), "keys": (self.keys, S, keys)}
        return {
            name: None if text is None else parse_range(text, size, tokens, option=f"--{name}", source=source)
            for name, (text, size, tokens) in asked.items()
        }

    def refuse(self, why: str) -> None:
        """Raises InputError where a part is asked for, and why there is none."""
        for name, text in (("queries", self.queries), ("keys", self.keys)):
            if text is not None:
                raise InputError(f"--{name} {text}: {why}")

    def asked(self, inputs: Inputs, batch: int) -> dict[str, Any]:
        """What it says of a request."""
        return self.ranges(inputs, batch)


@dataclass(frozen=True)
class Region(Part):
    """Which part of a map to show, and how finely."""

    RANK: ClassVar = 2
    RARE: ClassVar = ("memory",)

    reduce: Annotated[str, typer.Option(help="What a cell of a larger map holds: max or mass.")] = "max"
    pixels: Annotated[int, typer.Option(help="Most cells along each side; larger maps are reduced.", min=1)] = 1024
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bound on memory beside the inputs: 512MiB, 2GiB.")
    ] = None

    def check(self) -> None:
        """Raises InputError for what can be told before anything is read."""
        check_choice("--reduce", self.reduce, ("max", "mass"))
        self.bound()

    def asked(self, inputs: Inputs, batch: int) -> dict[str, Any]:
        """What it says of a request."""
        return {
            **self.ranges(inputs, batch),
            "reduce": self.reduce,
            "pixels": self.pixels,
            "memory": self.bound(),
        }

    def bound(self) -> int | None:
        """The bound on memory in bytes, where there is one."""
        from attnviz.base.selections import parse_bytes

        return None if self.memory is None else parse_bytes(self.memory)


def tell_left_out(shares: Iterable[float | None]) -> None:
    """Says on stderr how much weight hidden keys take with them, where some are hidden."""
    from attnviz.base.words import left_out_words
    from attnviz.cli.console import note

    said = left_out_words(shares)
    if said is not None:
        note(said)


Batch = Annotated[str, typer.Option(metavar="B", help="Batch item, or several: 0,2-4 or all.")]
Item = Annotated[str, typer.Option("--batch", metavar="B", help="Batch item.")]
Heads = Annotated[str, typer.Option("--head", metavar="HEADS", help="Query heads: 3, 0,2-4 or all.")]
Values = Annotated[
    str,
    typer.Option(
        help="weights (after softmax), logits (before), norms (weight times ‖v‖, through w_o where there is one) or "
        "norm-shares (of a row)."
    ),
]
VALUES = ("weights", "logits", "norms", "norm-shares")


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """``value``, when it is one of ``choices``. Raises InputError otherwise."""
    if value not in choices:
        raise not_one_of(option, value, choices)
    return value


def request_of(
    inputs: Inputs,
    pattern: Pattern,
    compute: Compute,
    *,
    head: str = "all",
    batch: str = "0",
    region: Part | None = None,
    seen: Seen | None = None,
    **more: Any,
) -> Request:
    """What the options ask of inputs: the one place where their text becomes a request.

    Args:
        inputs: what is asked.
        pattern: which query sees which key, as :meth:`PatternChoice.choose` says.
        compute: where.
        head, batch: ``--head`` and ``--batch``.
        region: which part of the map, and how finely; None is all of it.
        seen: what is seen as one, and what is left out; None is nothing.
        more: further fields of a request.

    Raises:
        InputError: a head, a batch item or a position that is not there.
    """
    from attnviz.base.selections import parse_index, parse_indices
    from attnviz.engine.request import Request

    item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
    if getattr(inputs, "how", None) == "rollout" and head not in ("all", "0"):
        raise InputError(f"--head {head}: --rollout is of the mean of all heads; leave --head out")
    what: dict[str, Any] = {"heads": parse_indices(head, inputs.H, option="--head", noun="head"), "batch": item}
    what |= {} if seen is None else seen.asked()
    request = Request(inputs, pattern, **{"device": compute.device, **what, **more})
    return request if region is None else request.but(**region.asked(request.inputs, item))
