"""Options that several commands share, as groups, and what they make of a source.

A command takes a group as one parameter; :func:`command` gives the program each of the group's fields as an option
of its own, so that an option is written once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand
from typer.main import get_command

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.attention.inputs import AttentionInputs
    from attnviz.attention.patterns import Pattern


ROLE_OPTIONS = {
    "q": "--q",
    "k": "--k",
    "v": "--v",
    "global_mask": "--mask",
    "key_padding_mask": "--padding",
    "bias": "--bias",
    "alibi_slopes": "--alibi",
    "sinks": "--sinks",
    "q_global": "--q-global",
    "k_global": "--k-global",
    "v_global": "--v-global",
}
"""The option that names the tensor of each role."""


@dataclass(frozen=True)
class Source:
    """Where q, k, v and the masks come from."""

    source: Annotated[
        Path | None,
        typer.Argument(
            help="Dump to read: .safetensors, .npz, .npy, .pt or .pth. None: a synthetic case.", show_default=False
        ),
    ] = None
    q: Annotated[
        str | None, typer.Option("--q", metavar="NAME", help="Tensor of queries: NAME, FILE:NAME or FILE.")
    ] = None
    k: Annotated[str | None, typer.Option("--k", metavar="NAME", help="Tensor of keys.")] = None
    v: Annotated[str | None, typer.Option("--v", metavar="NAME", help="Tensor of values.")] = None
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
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Layer of a dump of several (layers.N.q, …), with its kind if any: 5, cross.5, decoder.5."
        ),
    ] = None
    layout: Annotated[
        str | None, typer.Option(help="Order of dimensions: bhtd, bthd, htd or thd.  \\[default: bhtd]")
    ] = None
    scale: Annotated[float | None, typer.Option(help="Factor on the dot products.  \\[default: 1/sqrt(D)]")] = None
    softcap: Annotated[float | None, typer.Option(help="c in c*tanh(score/c), before masks (Gemma 2).")] = None
    bias: Annotated[str | None, typer.Option(metavar="NAME", help="Tensor (H, T, S) added to the scores.")] = None
    alibi: Annotated[str | None, typer.Option(metavar="NAME", help="Tensor (H,) of ALiBi slopes.")] = None
    sinks: Annotated[str | None, typer.Option(metavar="NAME", help="Tensor (H,) of attention sinks' logits.")] = None
    q_global: Annotated[str | None, typer.Option("--q-global", metavar="NAME", hidden=True)] = None
    k_global: Annotated[str | None, typer.Option("--k-global", metavar="NAME", hidden=True)] = None
    v_global: Annotated[str | None, typer.Option("--v-global", metavar="NAME", hidden=True)] = None

    def paths(self) -> list[Path]:
        """Every file this reads."""
        from attnviz.sources.dumps import TensorRef

        refs = [TensorRef.parse(text).path for text in self._names().values()]
        return [path for path in (self.source, *refs) if path is not None]

    def load(self, dtype: str | None = None, *, values: bool = False) -> AttentionInputs:
        """The inputs, or the synthetic case where nothing names a source.

        Raises:
            InputError: what the source lacks, or options that contradict each other.
        """
        from attnviz.sources.dumps import load

        names = self._names()
        if self.source is None and not self.paths():
            return self._synthetic(dtype)
        return load(
            self.source,
            layer=self.layer,
            names=names,
            global_positions=self.global_,
            layout=self.layout,
            dtype=dtype,
            settings=self._settings(),
            values=values,
        )

    def layers(self) -> list[str | None]:
        """The layers this speaks of: those of ``--layer`` (``0,2-4`` is several), else all that a dump has.

        None is the whole of a source that has no layers.

        Raises:
            InputError: ``--layer`` is malformed, or the file can't be read.
        """
        if self.layer is not None:
            return [label for part in self.layer.split(",") for label in _labels(part.strip(), self.layer)]
        if self.source is None or self.q is not None:
            return [None]
        from attnviz.sources.dumps import layers_of
        from attnviz.sources.files import open_tensors

        contents = open_tensors(self.source).contents
        found = [] if "q" in contents else layers_of(contents)
        return [str(label) for label in found] or [None]

    def _settings(self) -> dict[str, Any]:
        given = {"scale": self.scale, "softcap": self.softcap}
        return {name: number for name, number in given.items() if number is not None}

    def _names(self) -> dict[str, str]:
        named = {
            role: getattr(self, option.removeprefix("--").replace("-", "_")) for role, option in ROLE_OPTIONS.items()
        }
        return {role: name for role, name in named.items() if name is not None}

    def _synthetic(self, dtype: str | None) -> AttentionInputs:
        from dataclasses import replace

        from attnviz.base.selections import parse_positions
        from attnviz.cli.console import note
        from attnviz.sources.synthetic import synthesize

        given: dict[str, object] = {ROLE_OPTIONS[role]: name for role, name in self._names().items()}
        given |= {"--layer": self.layer, "--layout": self.layout}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} {value}: it speaks of a file, and no SOURCE is given; name one")
        positions = parse_positions("0,3,7" if self.global_ is None else self.global_, 10)
        note(f"no SOURCE: using the built-in synthetic case (H=8, T=10, D=64, {len(positions)} global tokens, seed 0)")
        inputs = synthesize(global_positions=positions, dtype=dtype or "float32")
        return replace(inputs, **self._settings())


def _labels(part: str, text: str) -> list[str]:
    """The layers that a part of ``--layer`` names: ``5``, ``cross.5`` or ``2-4``."""
    first, _, last = part.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        return [part]
    if int(last) < int(first) or int(last) - int(first) > 10_000:
        raise InputError(f"--layer {text!r}: {part} is not a range of layers; write it like 2-4")
    return [str(number) for number in range(int(first), int(last) + 1)]


@dataclass(frozen=True)
class Compute:
    """Where and in what precision to compute."""

    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    dtype: Annotated[
        str | None,
        typer.Option(help="Round inputs to float16, bfloat16, float32 or float64 first.  \\[default: theirs]"),
    ] = None


@dataclass(frozen=True)
class PatternChoice:
    """Which query sees which key."""

    pattern: Annotated[
        str | None,
        typer.Option(help="global, full, causal, local or local+global.  \\[default: the dump's own, else global]"),
    ] = None
    window: Annotated[int | None, typer.Option(help="Keys to each side of a query, for local patterns.")] = None
    dilation: Annotated[int | None, typer.Option(help="Steps of the window.  \\[default: 1]")] = None
    causal: Annotated[bool, typer.Option("--causal", help="Hide what comes after the query.")] = False
    mask_file: Annotated[
        str | None, typer.Option(metavar="FILE:NAME", help="Bool tensor (T, S) of your own: True where t sees s.")
    ] = None

    def paths(self) -> list[Path]:
        """The file this reads, if any."""
        from attnviz.sources.dumps import TensorRef

        path = None if self.mask_file is None else TensorRef.parse(self.mask_file).path
        return [] if path is None else [path]

    def choose(self, own: Pattern | None = None) -> Pattern:
        """The pattern asked for; where none is, ``own`` or the global keys.

        Raises:
            InputError: settings that the pattern has no use for, or an unfit mask.
        """
        from attnviz.attention.names import named_pattern
        from attnviz.attention.patterns import Causal, GlobalKeys, Masked

        if self.mask_file is not None:
            for option, value in (
                ("--pattern", self.pattern),
                ("--window", self.window),
                ("--dilation", self.dilation),
            ):
                if value is not None:
                    raise InputError(f"{option} {value}: --mask-file says which query sees which key already; give one")
            from attnviz.sources.dumps import read_tensor

            masked = Masked(read_tensor(self.mask_file, option="--mask-file"))
            return masked & Causal() if self.causal else masked
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
class Region:
    """Which part of a map to show, and how finely."""

    queries: Annotated[
        str | None, typer.Option(metavar="A:B", help="Query positions A to B-1 only, or those of a word.")
    ] = None
    keys: Annotated[
        str | None, typer.Option(metavar="A:B", help="Key positions A to B-1 only, or those of a word.")
    ] = None
    reduce: Annotated[str, typer.Option(help="What a cell of a larger map holds: max or mass.")] = "max"
    pixels: Annotated[int, typer.Option(help="Most cells along each side; larger maps are reduced.", min=1)] = 1024
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bound on memory beside the inputs: 512MiB, 2GiB.")
    ] = None

    def ranges(self, inputs: AttentionInputs, batch: int = 0) -> dict[str, range | None]:
        """The positions to show of a batch item, as :func:`attnviz.attention_map` takes them."""
        from attnviz.base.selections import parse_range

        item = inputs.item(batch)
        asked = {
            "queries": (self.queries, inputs.T, item.query_tokens),
            "keys": (self.keys, inputs.S, item.key_tokens),
        }
        return {
            name: None if text is None else parse_range(text, size, tokens, option=f"--{name}", source=inputs.source)
            for name, (text, size, tokens) in asked.items()
        }

    def bound(self) -> int | None:
        """The bound on memory in bytes, where there is one."""
        from attnviz.base.selections import parse_bytes

        return None if self.memory is None else parse_bytes(self.memory)


Batch = Annotated[str, typer.Option(metavar="B", help="Batch item, or several: 0,2-4 or all.")]
Heads = Annotated[str, typer.Option("--head", metavar="HEADS", help="Query heads: 3, 0,2-4 or all.")]
Values = Annotated[str, typer.Option(help="weights (after softmax) or logits (before).")]


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """``value``, when it is one of ``choices``. Raises InputError otherwise."""
    if value not in choices:
        raise InputError(f"{option} {value!r} is not one of {', '.join(choices)}")
    return value


@cache  # most commands have the same groups, and reading their annotations is a good part of --help
def _field_hints(group: type) -> dict[str, Any]:
    return get_type_hints(group, include_extras=True)


def command(
    app: typer.Typer, *, name: str | None = None, example: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as a command, each field of its option groups an option of its own.

    Args:
        app: the program.
        name: the command's name; None takes the function's.
        example: a line that works, shown under the help.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def listed() -> None: ...

        listed.__doc__ = function.__doc__
        unread = type("_Unread", (_Unread,), {"read": staticmethod(lambda: _whole(function, name, example))})
        app.command(name or function.__name__, cls=unread, epilog=f"Example:  {example}")(listed)
        return function

    return register


def _read_late(name: str) -> property:
    """What the command that is read has by this name; what typer sets before is let go."""
    return property(lambda self: getattr(self._command, name), lambda self, value: None)


class _Unread(TyperCommand):
    """A command whose options are read when somebody asks for them: the list of commands needs but their names."""

    read: Callable[[], Any]

    @cached_property
    def _command(self) -> Any:
        return self.read()

    params: Any = _read_late("params")
    callback: Any = _read_late("callback")


def _whole(function: Callable[..., Any], name: str | None, example: str) -> Any:
    """The command that a function is, each field of its option groups an option of its own."""
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        assert isinstance(hint, type)
        groups[parameter.name] = hint
        field_hints = _field_hints(hint)
        for field in fields(hint):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field_hints[field.name]
                )
            )

    def run(**given: Any) -> Any:
        whole = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        from attnviz.sources.files import opened_once

        with opened_once():
            return function(**whole, **given)

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    alone.command(name or function.__name__, epilog=f"Example:  {example}")(run)
    return get_command(alone)
