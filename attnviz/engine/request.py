"""What is asked of an attention, said once and resolved once: inputs, pattern, heads, values, region, device, memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property, wraps
from operator import index
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from attnviz.attention.call import Call
from attnviz.attention.derived import NORMS, SomeInputs, by_norms, over_heads, over_items, over_layers
from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs, cropped, merged
from attnviz.attention.names import pattern_of
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.attention.taken import taken, with_arrays
from attnviz.base.devices import parse_device, parse_dtype
from attnviz.base.errors import InputError, close_to, not_one_of
from attnviz.base.selections import checked_range
from attnviz.base.spans import Hide, Spans
from attnviz.base.types import Positions
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.checkpoint import Checkpoint
from attnviz.engine.makers import attention_of
from attnviz.engine.ranks import Ranks, Shared
from attnviz.engine.reducer import REDUCTIONS

VALUES = ("weights", "logits")
"""What a map, a table or a comparison can hold: after softmax, or before."""

GROUPED = ("merge", "spans", "query_spans", "hide", "renormalize")
"""The fields by which tokens are seen as one, and keys are hidden."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Request:
    """What is asked of an attention, ready for any view.

    Args:
        inputs: queries, keys and masks, or weights that were given.
        pattern: which query sees which key, as a pattern or by name (``"causal"``, ``"local:window=2"``); None is the
            inputs' own, else the global keys.
        heads: a query head, or several in the order wanted; None is all.
        batch: the batch item.
        values: ``weights`` or ``logits``.
        reduce: what a cell holds where the map is larger than the picture: ``max`` or ``mass``.
        pixels: the most cells along each side.
        shape: the most cells down and across, in place of ``pixels``.
        merge: ``words``: queries and keys are seen as words, by their word ids or else by the marks of their form.
        spans: runs of positions that are seen as one: ``{"system": range(0, 41)}``, ``"system:0-40,answer:90-99"`` (both ends
            belong to a range), or ``"sep:."``, which end with a token; what none has is a run of its own.
        query_spans: likewise, of queries that are of another sequence than the keys.
        hide: keys that are left out of rows, not of softmax: ``special``, ``padding``, positions and tokens, as text with
            commas or a list. What that leaves out is said.
        renormalize: whether rows are made to sum to 1 after that; a rest of 0 is a blank row.
        queries, keys: the indices to show, of words or spans where there are such; softmax still runs over every visible key.
            None is all.
        every_key: whether a pattern of shared keys alone has a column for each key all the same.
        device: where to compute (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``); None is where the inputs are.
        dtype: round the inputs to this dtype first; None keeps theirs. Half types compute in float32.
        memory: bytes that the picture and the tiles of the map in work may take, beside the inputs; None is no bound.
        ranks: the processes that share the rows; None is this one alone.
        checkpoint: a directory where the parts of maps that are done are kept, for a run that goes on where one was killed.

    Raises:
        InputError: a pattern, head, batch item, region, device, dtype or choice that is not there.
    """

    inputs: Inputs
    pattern: Pattern | str | None = None
    heads: int | Iterable[int] | None = None
    _: KW_ONLY
    batch: int = 0
    values: str = "weights"
    reduce: str = "max"
    pixels: int = 1024
    shape: tuple[int, int] | None = None
    merge: str | None = None
    spans: Spans | None = None
    query_spans: Spans | None = None
    hide: Hide | None = None
    renormalize: bool = False
    queries: range | None = None
    keys: range | None = None
    every_key: bool = False
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    memory: int | None = None
    ranks: Ranks | None = None
    checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (("values", self.values, VALUES), ("reduce", self.reduce, REDUCTIONS)):
            if value not in choices:
                raise not_one_of(name, value, choices)
        if self.reduce == "mass" and self.values == "logits":
            raise InputError("mass sums weights, and logits are not weights; choose max, or values weights")
        if self.pixels < 1:
            raise InputError(f"a picture has at least 1 cell a side; pixels is {self.pixels}")
        self._derive()
        resolved: dict[str, Any] = {
            "heads": check_heads(self.inputs, heads_of(self.heads)),
            "pattern": pattern_of(self.pattern) or self.inputs.pattern or GlobalKeys(),
            "device": self.inputs.device if self.device is None else parse_device(self.device),
            "dtype": parse_dtype(self.dtype),
            "queries": checked_range(self.queries, self.inputs.T, "queries", self.inputs.source),
            "keys": checked_range(self.keys, self.inputs.S, "keys", self.inputs.source),
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)

    def _derive(self) -> None:
        """Takes inputs derived from those asked about, where keys are hidden or tokens seen as one: once, for every view."""
        asked = {name: getattr(self, name) for name in GROUPED}
        if not any(value is not None and value is not False for value in asked.values()):
            return
        if self.values == "logits":
            raise InputError(
                "--values logits: words, spans and hidden keys are of weights, and logits don't add up; take --values weights"
            )
        pattern = pattern_of(self.pattern) or self.inputs.pattern or GlobalKeys()
        made = merged(self.inputs, self.batch, pattern, **asked)
        settled: dict[str, Any] = dict.fromkeys(GROUPED) | {"renormalize": False}
        for name, value in {"inputs": made, "pattern": None, **settled}.items():
            object.__setattr__(self, name, value)

    def but(self, **changes: Any) -> Request:
        """The same with some of it changed."""
        return replace(self, **changes)

    def alone(self) -> Request:
        """The same asked of this process, whatever others do meanwhile; no part of it is kept."""
        return self.but(ranks=None, checkpoint=None)

    def of(self, inputs: Inputs, pattern: Pattern | str | None = None) -> Request:
        """The same asked of other inputs, under a pattern of theirs; what is seen as one and left out too."""
        derived = dict(self.inputs.asked) if isinstance(self.inputs, MergedInputs) else {}
        # All of one is all of the other, however many that are.
        derived |= {"queries": None} if self.rows == range(self.inputs.T) else {}
        derived |= {"keys": None} if self.keys == range(self.inputs.S) else {}
        return self.but(inputs=inputs, pattern=pattern, **derived)

    def cropped(self) -> Request:
        """The same of the queries and keys to show alone, for views that have no region: its items have no others."""
        if len(self.rows) == self.inputs.T and self.keys == range(self.inputs.S):
            return self
        if self.values == "logits":
            raise InputError("--values logits: a part of a map is taken out of weights here; take --values weights")
        assert isinstance(self.pattern, Pattern)
        assert self.keys is not None
        made = cropped(self.inputs, self.batch, self.pattern, self.rows, self.keys)
        return self.but(inputs=made, pattern=None, queries=None, keys=None)

    @cached_property
    def attention(self) -> Attention:
        """The attention that is asked about."""
        item = self.inputs.item(self.batch, device=self.device, dtype=self.dtype)  # type: ignore[arg-type]
        made = attention_of(item, self.pattern)  # type: ignore[arg-type]
        kept = None if self.checkpoint is None else Checkpoint(Path(self.checkpoint))
        if kept is not None and not isinstance(made, Computed):
            raise InputError(
                f"{self.inputs.source}: parts are kept of maps of queries and keys, a head a map; what is given, or made of "
                f"several, is not: leave --checkpoint out"
            )
        ranks = Ranks(0, 1) if self.ranks is None else self.ranks
        return made if ranks.size == 1 and kept is None else Shared(made, ranks, kept)

    @property
    def item(self) -> AttentionItem:
        """The batch item, on its device."""
        return self.attention.item

    @property
    def chosen(self) -> tuple[int, ...]:
        """The query heads, in the order wanted."""
        assert isinstance(self.heads, tuple)
        return self.heads

    @property
    def rows(self) -> range:
        """The queries to show."""
        assert self.queries is not None
        return self.queries

    @cached_property
    def columns(self) -> Sequence[int]:
        """The keys that are columns of a map."""
        keys = self.keys
        assert keys is not None
        return keys if self.every_key else self.attention.columns(keys)

    def edges(self) -> tuple[Positions, Positions]:
        """The bins of queries and of keys that a picture has."""
        columns, (down, across) = self.columns, self.shape or (self.pixels, self.pixels)
        return self.attention.edges(self.rows, columns, down, across)


def heads_of(given: Any) -> tuple[int, ...] | None:
    """Heads as a call names them: a number of whatever library, several, or all.

    Raises:
        InputError: anything else.

    >>> heads_of(3), heads_of(range(2)), heads_of("all")
    ((3,), (0, 1), None)
    """
    if given is None or (isinstance(given, str) and given == "all"):
        return None
    try:
        return (index(given),)
    except TypeError:
        pass
    try:
        return tuple(index(one) for one in given)
    except TypeError as error:
        raise InputError(f"heads are given as {given!r}; write a number, 3, or several, [0, 2, 3]") from error


def check_heads(inputs: Call, heads: Sequence[int] | None) -> tuple[int, ...]:
    """The query heads asked for, None meaning all. Raises InputError for one that is not there."""
    if heads is None:
        return tuple(range(inputs.H))
    for head in heads:
        if not 0 <= head < inputs.H:
            raise InputError(
                f"{inputs.source}: head {head} is out of range; there are {inputs.H} (0 to {inputs.H - 1})"
            )
    return tuple(heads)


def ask(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    heads: int | Iterable[int] | None = None,
    *,
    mean: str | None = None,
    max: str | None = None,
    rollout: bool = False,
    values: str = "weights",
    **what: Any,
) -> Request:
    """A request of inputs, or of a map that is derived from them.

    Args:
        inputs: those of one layer, or of several where ``mean``, ``max`` or ``rollout`` makes one map of them.
        pattern: which query sees which key, in every layer; None is each layer's own, else the global keys.
        heads, what: as :class:`Request` has them.
        mean, max: ``layers``: one map of all layers, head by head; ``heads``: one of all heads that are asked for;
            ``heads,layers``: of both; ``items``: one of all batch items, which may go with these.
        rollout: follow attention through the layers, the first one first, as arXiv:2005.00928 does: one map. With ``norms``,
            each layer is weighed against its residual by ``residual_norms`` (arXiv:2109.07152).
        values: as :class:`Request`, or ``norms``: weights times the length of the value that they are on, through ``w_o``
            where the inputs have it (arXiv:2004.10102); ``norm-shares``: that, as shares of its row.

    Raises:
        InputError: as :class:`Request`; several layers of which no one map is asked for, or that don't agree.
    """
    wanted, inputs = hows(mean, max, rollout=rollout), taken(inputs)
    if values in NORMS:
        if rollout and values != "norms":
            raise InputError(f"values {values!r}: rollout follows weights or norms; choose one of these")
        each = [inputs] if isinstance(inputs, Inputs) else inputs
        made = [by_norms(one, values, pattern) for one in each]
        inputs, pattern, values = made if not isinstance(inputs, Inputs) else made[0], None, "weights"
    if "layers" in wanted:
        inputs, pattern = over_layers(inputs, wanted["layers"], pattern), None
    if not isinstance(inputs, Inputs):
        if len(inputs) != 1:
            raise InputError(
                f"{len(inputs)} layers are given, and one map is asked for; say how they become one: mean='layers', "
                f"max='layers' or rollout=True"
            )
        inputs = inputs[0]
    if "items" in wanted:
        inputs, pattern = over_items(inputs, wanted["items"], range(inputs.B), pattern), None
    request = Request(inputs, pattern, heads, values=values, **what)
    return of_heads(request, wanted["heads"]) if "heads" in wanted else request


def ask_for_weights(*asked: Any, **what: Any) -> Request:
    """As :func:`ask`, of what is counted in weights alone. Raises InputError where logits are asked for."""
    if what.get("values") == "logits":
        raise InputError("values 'logits': these numbers are of weights; choose weights, norms or norm-shares")
    return ask(*asked, **what)


def of_heads(request: Request, how: str) -> Request:
    """The request of the mean or the max of its heads, as one head; tokens are seen as one, and keys hidden, after that."""
    inputs = request.inputs
    if isinstance(inputs, MergedInputs):
        made = over_heads(inputs.base, how, request.chosen, inputs.own)
        return request.but(inputs=made, heads=(0,), pattern=made.pattern, **inputs.asked)
    made = over_heads(request.inputs, how, request.chosen, request.pattern)
    return request.but(inputs=made, heads=(0,), pattern=made.pattern)


def hows(mean: str | None = None, max: str | None = None, *, rollout: bool = False) -> dict[str, str]:
    """How ``layers``, ``heads`` and batch ``items`` become one, ``mean``, ``max`` or ``rollout``, as far as they are to.

    Raises:
        InputError: neither of the two, or two ways for one.

    >>> hows("layers", "heads"), hows("heads,layers")
    ({'layers': 'mean', 'heads': 'max'}, {'heads': 'mean', 'layers': 'mean'})
    """
    found: dict[str, str] = {}
    for how, text in (("mean", mean), ("max", max)):
        for over in (part.strip() for part in (text or "").split(",") if part.strip()):
            if over not in ("heads", "layers", "items"):
                raise InputError(f"--{how} {text!r} is not heads, layers, items, or some of these with commas")
            if over in found:
                raise InputError(f"--mean and --max are two ways to make one map of the {over}; choose one")
            found[over] = how
    if rollout and found:
        raise InputError(
            f"--rollout: it makes one map of all layers and heads already; leave --{next(iter(found.values()))} out"
        )
    return {"layers": "rollout"} if rollout else found


_INSTEAD = {
    "causal": "; pass pattern='causal'",
    "layer": "; pass the inputs of that layer: load(path, layer=...) of a file, run.inputs(...) of a capture",
    "mask": "; pass attnviz.with_mask(inputs, mask)",
    "window": "; pass pattern=attnviz.Local(window)",
}
"""What to pass for what the command line has as options, and other libraries as arguments."""


def check_options(strangers: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for an option that there isn't, with the one that was meant.

    >>> check_options(["patern"], ["pattern", "pixels"])
    Traceback (most recent call last):
    TypeError: there is no option 'patern'; did you mean pattern?
    """
    for name in strangers:
        raise TypeError(f"there is no option {name!r}{_INSTEAD.get(name) or close_to(name, known)}")


DERIVED = ("mean", "max", "rollout")
"""What :func:`ask` takes beside the fields of a request."""


def asks(
    *names: str, derived: bool = True, arrays: bool = True, looks: bool = False
) -> Callable[[_Function], _Function]:
    """Gives a function that takes ``**what``, for :func:`ask`, a signature that lists it.

    Args:
        names: the fields of a request that it takes; none is all that a map has.
        derived: whether it takes several layers, and makes one map of them.
        arrays: whether arrays that come first are q, k and v.
        looks: whether it takes parts of a look too, and so knows by itself which options there are.
    """
    whole = (
        *("batch", "values", "reduce", "pixels", *GROUPED),
        *("queries", "keys", "device", "dtype", "memory", "checkpoint"),
    )
    listed = names or whole
    listed = (*listed, *GROUPED) if {"queries", "reduce"} & {*listed} else listed

    def said(function: _Function) -> _Function:
        own = inspect.signature(function)
        asked = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in fields(Request)
            if field.name in listed
        ]
        of_ask = inspect.signature(ask).parameters
        asked += [of_ask[name] for name in DERIVED if derived and name not in own.parameters]
        kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]

        @wraps(function)
        def taking(*args: Any, **what: Any) -> Any:
            args, what = with_arrays(args, what) if arrays else (args, what)
            if not looks:
                check_options([name for name in what if name not in known], known)
            return function(*args, **what)

        taking.__signature__ = own.replace(parameters=[*kept, *asked])  # type: ignore[attr-defined]
        known = [one.name for one in (*kept, *asked)] + [field.name for field in fields(Request)]
        return cast("_Function", taking)

    return said
