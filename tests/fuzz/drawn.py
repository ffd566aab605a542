"""Draws what the program is given: files of every kind, right and wrong, and the options of every command."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
import typer
from hypothesis import strategies as st
from safetensors.torch import save

from attnviz.cli.main import app
from attnviz.sources.files import METADATA
from attnviz.sources.roles import ROLES
from tests.fuzz.corpus import corpus
from tests.fuzz.program import Case

ODD = (
    *("", " ", "-", "--", "-1", "0", "1", "2", "7", "0,0", "0-1", "5:2", "0:2", "1:", "-5:", "0:", "0:" + "9" * 30, "all"),
    *("9" * 5000, "9" * 30, "nan", "inf", "-inf", "1e400", "1e-320", "1e308", "0.5", "1_000", "0x10", "\u0663", "\uff11"),
    *("None", "x", "x:y", "x" * 300, "../x", "/", ".", "every:0", "every:2", "random:9", "auto", "cuda:99", "meta"),
    *("\udcff", "\x1b[31mred", "\u202e\x07", "a\nb", "[/red]", "[bold", "{layer}", "%s", "%d%n", "\u65e5\u672c", "$x$", "$\\frac{"),
)  # fmt: skip
"""Texts that are some option's, or no option's."""

REFERENCES = (
    *("q", "k", "weights", "masks.npz:pairs", "masks.npz:padding", "masks.npz:blocks", "masks.npz:bias", "weights.npy"),
    *("masks.npz:slopes", "masks.npz:documents", "masks.npz", "packed.npz:cu_seqlens_q", "good.safetensors:q", "deep.json"),
    *("objects.npy", "lying.npy", "bomb.npz:q", "expanded.pt:q", "nowhere.npz:q", "good.safetensors:"),
)  # fmt: skip
"""Tensors of the corpus, and some that are not there."""

PATTERNS = (
    *("global", "full", "causal", "local", "local+global", "documents", "prefix", "chunked", "global-queries", "blocks"),
    *("local:window=2", "local:window=-1", "local:window=99999999999999999999", "chunked:size=0", "prefix:length=9"),
    *("causal & documents", "local | causal", "causal &", "& &", "(((", "full | full & full", "local:window", "global:x=1"),
)  # fmt: skip

FITTING: dict[str, tuple[str, ...]] = {
    "--pattern": PATTERNS,
    "--b-pattern": PATTERNS,
    "--format": ("json", "csv", "markdown", "table", "text"),
    "--values": ("weights", "logits"),
    "--reduce": ("max", "mass"),
    "--head": ("0", "1", "0,1", "all", "2"),
    "--layer": ("0", "1", "all", "cross.0"),
    "--layout": ("bhtd", "bthd", "htd", "thd", "hts", "bhts", "lhts", "lbhts"),
    "--dtype": ("float16", "bfloat16", "float32", "float64"),
    "--b-dtype": ("float16", "bfloat16"),
    "--norm": ("linear", "log", "symlog", "power"),
    "--memory": ("1", "1kB", "1MiB", "1GiB", "9" * 30 + "GiB"),
    "--lang": ("en", "ja", "de", "fr"),
    "--global": ("0", "0,3", "every:2", "random:2", "0-3,3"),
    "--documents": ("2,2", "4", "0,4", "9" * 30, "masks.npz:documents"),
    "--theme": ("light", "dark"),
    "--color": ("always", "never", "auto", "256", "truecolor"),
    "--curve": ("distance", "windows"),
    "--sort": ("entropy", "sink", "head"),
    "--statistic": ("entropy", "sink"),
    "--structure": ("sink", "local", "sink,induction,needle"),
    "--strip": ("b", "0", "the"),
    "--query": ("0", "1", "cat"),
    "--levels": ("0", "all", "0-1"),
    "--device": ("cpu", "auto"),
    "--window": ("0", "1", "2", "-1"),
    "--dilation": ("1", "2", "0"),
    "--queries": ("0:2", "1:3", "the", "3:4"),
    "--keys": ("0:2", "1:3", "the", "3:4"),
    "--cells": ("1", "2", "32"),
    "--scale": ("0", "1", "-1", "1e38"),
    "--softcap": ("0", "5", "-1"),
    "--block-size": ("2", "1/2", "0", "4/"),
}
"""What options take, beside what none does."""

FITTING |= {
    "--mask": ("masks.npz:padding",),
    "--padding": ("masks.npz:padding",),
    "--bias": ("masks.npz:bias",),
    "--alibi": ("masks.npz:slopes",),
    "--sinks": ("masks.npz:slopes",),
    "--mask-file": ("masks.npz:pairs", "masks.npz:padding", "masks.npz:bias"),
    "--b-mask-file": ("masks.npz:pairs",),
    "--blocks": ("masks.npz:blocks",),
    "--weights": ("weights.npy",),
    "--q": ("q", "good.safetensors:q", "other.npz:k"),
    "--k": ("k", "good.safetensors:k", "q"),
    "--v": ("v", "q"),
}
NAMED = (
    "--q",
    "--k",
    "--v",
    "--weights",
    "--logits",
    "--mask",
    "--padding",
    "--bias",
    "--alibi",
    "--sinks",
    "--mask-file",
)
NAMED += (
    "--cu-seqlens-q",
    "--cu-seqlens-k",
    "--block-table",
    "--cache-seqlens",
    "--q-global",
    "--k-global",
    "--v-global",
)
NAMED += ("--blocks", "--b-mask-file", "--grad")
LARGE = {"--pixels", "--dpi", "--width", "--heads", "--tokens", "--head-dim", "--batch", "--kv-heads", "--rows"}
"""Options whose numbers are work that was asked for."""

OUTPUTS = {
    "plot": (".png", ".svg"),
    "overview": (".svg",),
    "html": (".html",),
    "tiles": ("",),
    "context": (".npz", ".safetensors", ".pt"),
    "score": (".csv", ".json", ".npz", ".safetensors", ".pt"),
    "stats": (".svg", ".json", ".csv"),
    "diff": (".svg", ".json"),
    "pattern": (".svg",),
    "audit": (".md", ".json"),
    "snapshot check": (".svg",),
}
NEEDS_OUT = ("plot", "overview", "html", "tiles", "context")

SOURCES = st.sampled_from(
    ["good.safetensors"] * 12 + ["other.npz", "two.pt", "layers.safetensors", "packed.npz"] * 2 + ["weights.npy", "masks.npz", ""]
)  # fmt: skip


@cache
def commands() -> dict[str, Any]:
    """The commands that end by themselves and run no model, by what is typed for each."""
    return {name: command for name, command in leaves().items() if name not in ("view", "capture")}


def leaves() -> dict[str, Any]:
    """Every command, by what is typed for it."""

    def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name.strip(), command
            return
        for own, one in command.commands.items():
            yield from below(one, f"{name} {own}")

    return dict(below(typer.main.get_command(app), ""))


# ---- arguments


@st.composite
def options(draw: Callable[..., Any], name: str, most: int = 4) -> list[str]:
    """Some of a command's options, each with what it takes or with what none takes."""
    parameters = [one for one in commands()[name].params if one.param_type_name == "option"]
    # What ends the program by itself, --help-all, writes nothing that -o asks for.
    parameters = [one for one in parameters if one.name not in ("out", "mask_mod") and not one.is_eager]
    found = (
        ["--pattern", draw(st.sampled_from(PATTERNS[:5]))]
        if draw(st.booleans()) and "pattern" in {one.name for one in parameters}
        else []
    )
    parameters = [one for one in parameters if one.opts[0] not in found]
    known = [one for one in parameters if one.is_flag or one.opts[0] in FITTING]
    chosen = st.sampled_from(known) | st.sampled_from(parameters) if known else st.sampled_from(parameters)
    for one in draw(st.lists(chosen, max_size=most, unique_by=lambda one: one.name)):
        option = one.opts[0]
        found.append(option)
        if not one.is_flag:
            found.append(draw(_value(option)))
    return found


def _value(option: str) -> st.SearchStrategy[str]:
    if option in LARGE:
        return st.sampled_from(["1", "2", "3", "0", "-1", "x", "", "nan", "1.5", "40"])
    odd = st.sampled_from(REFERENCES) | st.sampled_from(ODD) if option in NAMED else st.sampled_from(ODD)
    if option in FITTING:
        fitting = st.sampled_from(FITTING[option])
        return st.one_of(*[fitting] * 9, odd)
    return st.one_of(
        st.sampled_from(["0", "1", "2", "0.5"]), st.sampled_from(["0", "1", "2", "0.5"]), odd, st.text(max_size=6)
    )


@st.composite
def asked(
    draw: Callable[..., Any], source: str, *, most: int = 3, among: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """A command of a source, with options."""
    name = draw(st.sampled_from(among or QUICK))
    arguments = [*name.split()]
    if name == "synth":
        arguments.append(draw(st.sampled_from(["made.npz", "made.pt", "made.safetensors", "made.txt", "no/made.npz"])))
    elif source:
        arguments.append(source)
    if name in ("diff", "audit"):
        arguments.append(draw(st.just(source) | SOURCES))
    if name.startswith("snapshot"):
        arguments.append("kept.json" if name == "snapshot check" else draw(st.sampled_from(["new.json", "new.npz"])))
    arguments += draw(options(name, most))
    if name in OUTPUTS and (name in NEEDS_OUT or draw(st.booleans())):
        arguments += ["-o", "out" + draw(st.sampled_from(OUTPUTS[name]))]
    return tuple(arguments)


QUICK = (
    *("score",) * 5, *("stats", "show", "pattern", "context", "diff", "explain", "inspect", "snapshot save") * 2,
    *("snapshot check", "audit", "plot", "html", "tiles", "overview", "synth"),
)  # fmt: skip
"""The commands, the quick ones more often."""


@st.composite
def of_options(draw: Callable[..., Any]) -> Case:
    """Good files, and any options."""
    arguments = draw(asked(draw(SOURCES), most=4))
    return Case(arguments, {name: content for name, content in corpus().items() if _used(name, arguments)})


def _used(name: str, arguments: tuple[str, ...]) -> bool:
    return any(one == name or one.startswith(f"{name}:") for one in arguments)


# ---- files

VALUES = (
    *(10**400, -1, 0, 1, 2, 3, 0.5, 1e308, 1e-320, float("nan"), float("inf"), True, None, "", "x", "9" * 5000),
    *([], {}, [[]], [1], ["a"], [["a"]], [["a", "b", "c", "d"]], [["\x1b[31m", "\u202e", "\ud800", ""]], {"a": 1}, {"name": "causal"}),
    *("causal", "bthd", "byte-level", "\x1b[31m\u202e", [[0, 0, 1, 1]], [[None, 0, 10**30, -1]], [0, 3], [[0, 3]]),
)  # fmt: skip
"""What metadata and snapshots may say."""

KEYS = (
    *("format", "layout", "scale", "softcap", "tokens", "query_tokens", "token_form", "word_ids", "query_word_ids"),
    *("special_tokens", "query_special_tokens", "pattern", "cross", "layers", "without", "source", "patches", "model", "kind"),
)  # fmt: skip

ROLE_SHAPES = {
    **dict.fromkeys(ROLES, "BHTD"),  # a role that nobody has told of here is drawn all the same
    **dict.fromkeys(("q", "q_global"), "BHTD"), **dict.fromkeys(("k", "v", "k_global", "v_global"), "BKSD"),
    **dict.fromkeys(("global_mask", "key_padding_mask", "key_positions", "documents"), "BS"),
    **dict.fromkeys(("query_padding_mask", "query_positions", "query_documents"), "BT"),
    "attention_mask": "TS", "bias": "HTS", **dict.fromkeys(("alibi_slopes", "sinks"), "H"),
    **dict.fromkeys(("weights", "logits"), "BHTS"), **dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), "2"),
    "w_o": "HDM", "residual_norms": "BT2",
    "block_table": "BT", "cache_seqlens": "B",
}  # fmt: skip
BOOLEAN = {"global_mask", "key_padding_mask", "query_padding_mask", "attention_mask"}
WHOLE = {"query_positions", "key_positions", "documents", "query_documents", "cu_seqlens_q", "cu_seqlens_k"}
WHOLE |= {"block_table", "cache_seqlens"}


@st.composite
def tensors(draw: Callable[..., Any]) -> dict[str, torch.Tensor]:
    """Tensors of some roles, most of which fit each other."""
    sizes = {"B": 1, "H": 2, "K": 1, "T": 4, "S": 4, "D": 2, "M": 3, "2": 2}
    sizes |= draw(st.dictionaries(st.sampled_from("BHKTSD"), st.integers(0, 5), max_size=1))
    roles = [
        "q",
        "k",
        "v",
        *draw(st.sampled_from([["global_mask"], ["attention_mask"], []])),
        *draw(st.lists(st.sampled_from(list(ROLE_SHAPES)), max_size=3, unique=True)),
    ]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    odd = draw(st.sampled_from([None, None, *roles]))
    return {role: draw(_tensor(role, sizes, generator, odd=role == odd)) for role in dict.fromkeys(roles)}


@st.composite
def _tensor(
    draw: Callable[..., Any], role: str, sizes: dict[str, int], generator: torch.Generator, *, odd: bool
) -> torch.Tensor:
    shape = [sizes[letter] for letter in ROLE_SHAPES[role]]
    if odd:
        shape = draw(st.sampled_from([shape, shape[1:], [1, *shape], [], [0], [3], [*shape[:-1], shape[-1] + 1]]))
    made = torch.randn(shape, generator=generator)
    if role in BOOLEAN:
        made = made > -0.5
    elif role in WHOLE:
        made = (made.abs() * 3).long().cumsum(-1) if made.dim() else made.long()
    elif role == "weights":
        made = made.softmax(-1) if made.dim() else made
    if odd:
        made = draw(st.sampled_from(CHANGES))(made)
    return made


CHANGES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda t: t,
    lambda t: t * float("nan"),
    lambda t: t.float() * 1e38,
    lambda t: t.float() * float("inf"),
    lambda t: torch.full_like(t.float(), -float("inf")),
    lambda t: t.float() * 1e-40,
    lambda t: torch.zeros_like(t),
    lambda t: t.half(),
    lambda t: t.bfloat16(),
    lambda t: t.double() * 1e300,
    lambda t: t.long() * 10**18,
    lambda t: t.long() - 10**9,
    lambda t: t.to(torch.uint8),
    lambda t: t.bool(),
    lambda t: t.to(torch.complex64),
    lambda t: t.float().to(torch.float8_e4m3fn),
    lambda t: t.to(torch.int32),
)


@st.composite
def metadata(draw: Callable[..., Any]) -> dict[str, Any]:
    """What a dump says of itself."""
    said = {"format": 2, "layout": "bhtd"}
    return said | draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2))


@st.composite
def dump(draw: Callable[..., Any]) -> tuple[str, bytes]:
    """A dump, well written, of what may be no sense."""
    made, said = draw(tensors()), draw(metadata())
    prefix = draw(st.sampled_from([""] * 12 + ["layers.0.", "cross.layers.3.", "x.", "\x1b[31m"]))
    made = {prefix + name: tensor.contiguous() for name, tensor in made.items()}
    text = json.dumps(said)
    suffix = draw(st.sampled_from([".safetensors", ".safetensors", ".npz", ".pt"]))
    stream = io.BytesIO()
    if suffix == ".safetensors":
        return f"drawn{suffix}", save(made, {METADATA: text})
    if suffix == ".pt":
        more = st.dictionaries(st.sampled_from(["q", "x", "v"]), st.integers(0, 13), max_size=1)
        torch.save({**made, METADATA: text, **{name: strange()[n] for name, n in draw(more).items()}}, stream)
    else:
        np.savez(
            stream, **{name.replace("/", "_"): _array(tensor) for name, tensor in made.items()}, **{METADATA: text}
        )
    return f"drawn{suffix}", stream.getvalue()


@cache
def strange() -> tuple[Any, ...]:
    """What a file may hold in place of a plain tensor."""
    t = torch.zeros(1, 2, 4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch calls deprecated, or in beta
        odd = (torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), t[0].to_sparse_csr(), t.to_sparse(), t.to("meta"))
    parts = (
        torch.nn.Parameter(t),
        t.mT,
        torch.zeros(1).expand(1, 2, 4, 2),
        torch.view_as_complex(t.view(1, 2, 4, 1, 2)).conj(),
    )
    return (None, 1, "x", [1], torch.tensor(1.0), torch.zeros(1).expand(1, 2, 1 << 20, 1 << 12), *odd, *parts)


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return (
        tensor.numpy() if str(tensor.dtype) not in ("torch.bfloat16", "torch.float8_e4m3fn") else tensor.float().numpy()
    )


@st.composite
def damaged(draw: Callable[..., Any], names: tuple[str, ...] | None = None) -> tuple[str, bytes]:
    """A file of the corpus, some of its bytes changed, cut or doubled; or under another suffix."""
    name = draw(st.sampled_from(names or tuple(corpus())))
    content = bytearray(corpus()[name])
    for _ in range(draw(st.integers(0, 3))):
        place, how = draw(st.integers(0, max(len(content) - 1, 0))), draw(st.integers(0, 3))
        if not content:
            break
        if how == 0:
            content[place] = draw(st.integers(0, 255))
        elif how == 1:
            del content[place:]
        elif how == 2:
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        else:
            del content[place : place + draw(st.integers(1, 40))]
    suffix = "." + name.rpartition(".")[2]
    if draw(st.integers(0, 9)) == 0:
        suffix = draw(st.sampled_from([".safetensors", ".npz", ".npy", ".pt", ".pth", ".json", ".PT", ""]))
    return f"drawn{suffix}", bytes(content)


@st.composite
def of_readers(draw: Callable[..., Any]) -> Case:
    """Any file, and a few options."""
    name, content = draw(st.one_of(dump(), dump(), damaged()))
    if name.startswith("drawn") and name.endswith((".json",)):
        arguments = ("snapshot", "check", "good.safetensors", name)
    else:
        arguments = draw(asked(name, most=2))
    files = {one: corpus()[one] for one in corpus() if _used(one, arguments)}
    return Case(arguments, files | {name: content})


# ---- snapshots


@st.composite
def of_snapshots(draw: Callable[..., Any]) -> Case:
    """A snapshot that says something else."""
    document = json.loads(corpus()["kept.json"])
    for _ in range(draw(st.integers(1, 2))):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 4)):
                place = place[key]
                continue
            if draw(st.booleans()):
                place[key] = deepcopy(draw(st.sampled_from(VALUES)))
            elif draw(st.booleans()):
                del place[key]
            elif isinstance(place, list):
                place.append(deepcopy(place[key]))
            break
    more = draw(st.sampled_from([(), (), ("--format", "json"), ("--atol", "0"), ("-o", "out.svg")]))
    files = {"good.safetensors": corpus()["good.safetensors"], "drawn.json": json.dumps(document).encode()}
    return Case(("snapshot", "check", "good.safetensors", "drawn.json", *more), files)


# ---- the page's server

_PART = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "99",
        "-1",
        "9" * 16,
        "9" * 5000,
        "max",
        "mass",
        "nan",
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "\u0663",
        "",
        "0.0",
        "a b",
    ]
)
_WHAT = st.sampled_from(["", "run.json", "tile", "pass", "weights", "logits", "vectors", "thumbnail", "static", ".."])


@st.composite
def requests(draw: Callable[..., Any]) -> tuple[str, str, dict[str, str]]:
    """A request's method, its path after the token, and its headers."""
    method = draw(st.sampled_from(["GET"] * 9 + ["HEAD", "POST", "PUT", "OPTIONS", "TRACE", "X"]))
    small = st.integers(0, 5).map(str)
    path = "/".join([draw(_WHAT), *draw(st.lists(small | small | _PART, max_size=7))])
    query = draw(st.sampled_from(["", "", "?x=1", "?" + "a" * 3000, "?%00", "?x=%ff"]))
    headers = draw(st.dictionaries(st.sampled_from(["accept", "range", "x", "content-length", "expect"]), st.sampled_from(["", "0", "-1", "bytes=0-", "9" * 4000, "x"]), max_size=2))  # fmt: skip
    return method, f"{path}{query}", headers


FAMILIES: dict[str, Callable[[], st.SearchStrategy[Case]]] = {
    "options": of_options,
    "readers": of_readers,
    "snapshots": of_snapshots,
}
"""What cases are drawn from."""
