"""Options that several commands share, as groups, and what they make of a source.

A command takes a group as one parameter; :func:`attnviz.cli.groups.command` gives the program each of the group's fields
as an option of its own, so that an option is written once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from attnviz.base.errors import InputError, not_one_of

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.labels import Tokens
    from attnviz.engine.request import Request


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
Kept = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="DIR",
        help="Keep the parts that are done here; the same command goes on where it was stopped.",
    ),
]
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
