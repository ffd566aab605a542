"""What a page is asked to show, from Python: a run, inputs or a dump, or several texts of these by name, to its layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnviz.attention.derived import SomeInputs
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.attention.taken import is_array, taken
from attnviz.base.errors import InputError
from attnviz.base.types import Label
from attnviz.captures.run import Run
from attnviz.engine.request import ask_for_weights, hows
from attnviz.maps.layers import Layers
from attnviz.pages.description import PageLayer, page_layer, title_of
from attnviz.pages.origin import ALL, Origin, command_words, python_options
from attnviz.sources.dumps import load
from attnviz.sources.naming import layers_there

Shown = Run | Inputs | Sequence[Inputs] | str | Path
"""What has layers: what :func:`attnviz.capture` gave, the inputs of one layer or of several, given weights, a dump."""

OPTIONS = (
    *("merge", "spans", "query_spans", "hide", "renormalize", "device", "dtype"),
    *("mean", "max", "rollout", "values"),
)
"""What is passed on to :func:`attnviz.attention_map`'s request as it is."""


@dataclass(frozen=True)
class _Text:
    """One text of a page: its layers by label, each read when it is asked for."""

    source: str
    layers: Iterator[tuple[str, SomeInputs]]
    path: str | None  # of a dump
    inputs: Callable[[str], str]  # the expression that gives a layer's inputs
    word: Callable[[str], str | None] = lambda _: None  # what --layer calls a layer

    @property
    def as_one(self) -> _Text:
        """All its layers as one, of which one map is made."""
        labels, layers = list[str](), list[SomeInputs]()
        for label, inputs in self.layers:
            labels.append(label)
            layers.append(inputs)
        each = ", ".join(self.inputs(label) for label in labels)
        words = ",".join(word for word in map(self.word, labels) if word is not None) or None
        return replace(self, layers=iter([("0", layers)]), inputs=lambda _: f"[{each}]", word=lambda _: words)  # type: ignore[list-item]


def asked(
    shown: Shown | Mapping[str, Shown],
    pattern: Pattern | str | None,
    *,
    layers: Collection[Label] | None = None,
    heads: Collection[int] | None = None,
    batch: int | Sequence[int] = 0,
    by: str = "page",
    **options: Any,
) -> tuple[str, Iterator[PageLayer]]:
    """What a page is called, and its layers: one after another, none held while the next is read.

    Args:
        shown: what is looked at, or several such by name: a text each.
        pattern, layers, heads, batch, options: as :func:`attnviz.page` has them.
        by: the function that is asked, for errors.

    Raises:
        InputError: nothing to show; as each is read: no such layer, head or item, or what the engine refuses.

    >>> import attnviz
    >>> name, layers = asked({"a": attnviz.synthesize(heads=1), "b": attnviz.synthesize(heads=1, seed=1)}, "causal")
    >>> name, [(layer.text, layer.label) for layer in layers]
    ('a, b', [('a', '0'), ('b', '0')])
    """
    items = [batch] if isinstance(batch, int) else list(batch)
    if not items:
        raise InputError("batch is empty; name at least one item")
    if layers is not None and not layers:
        raise InputError("layers is empty; name at least one, or None for all")
    if isinstance(shown, Mapping):
        if not shown:
            raise InputError("no texts are given; name at least one")
        texts: Mapping[str | None, Shown] = {str(name): one for name, one in shown.items()}
        source = title_of([str(name) for name in texts])
    else:
        texts, source = {None: shown}, _text(shown, layers, None, by).source
    what = {name: options.get(name) for name in OPTIONS}
    what |= {"renormalize": bool(what["renormalize"]), "rollout": bool(what["rollout"])}
    what["values"] = what["values"] or "weights"
    chosen = None if heads is None else list(heads)

    def read() -> Iterator[PageLayer]:
        for name, one in texts.items():
            for item in items:
                called = [] if name is None else [name]
                called += [f"batch item {item}"] if len(items) > 1 else []
                for layer in _layers(_text(one, layers, name, by), pattern, chosen, item, what):
                    yield replace(layer, text=", ".join(called) or None)
                    del layer

    return source, read()


def _layers(
    text: _Text, pattern: Pattern | str | None, heads: list[int] | None, batch: int, what: dict[str, Any]
) -> Iterator[PageLayer]:
    """The layers of a batch item of one text."""
    over = hows(what["mean"], what["max"], rollout=what["rollout"])
    if "layers" in over:
        text = text.as_one
    for label, inputs in text.layers:
        request = ask_for_weights(inputs, pattern, heads, batch=batch, **what)
        if not request.chosen:
            raise InputError(f"{request.inputs.source}: heads is empty; name at least one, or None for all")
        layer = page_layer(request, label)
        yield replace(layer, origin=_origin(text, label, pattern, heads, batch, what, over))
        del inputs, request, layer


def _origin(
    text: _Text,
    label: str,
    pattern: Pattern | str | None,
    heads: list[int] | None,
    batch: int,
    what: dict[str, Any],
    over: dict[str, str],
) -> Origin:
    """Where a layer came from."""
    single = "heads" not in over and not what["rollout"]
    given = {name: value for name, value in what.items() if (name, value) != ("values", "weights")}
    given |= {"batch": batch or None}
    listed = None if single else heads
    return Origin(
        command_words(text.path, pattern, layer=text.word(label), **given, head=listed),
        text.inputs(label),
        python_options(pattern, **given, head=None if single or what["rollout"] else listed or ALL),
        head=single,
    )


def _text(shown: Shown, layers: Collection[Label] | None, name: str | None, by: str) -> _Text:
    """What a page of it is called, and its layers."""
    at = "" if name is None else f"[{name!r}]"
    shown = taken(shown) if is_array(shown) else shown
    if isinstance(shown, Inputs):
        if layers is not None:
            raise InputError(f"{shown.source}: layers= is of a run or a dump of several, and these are inputs of one")
        alone = iter([("0" if shown.layer is None else str(shown.layer), shown)])
        return _Text(shown.source, alone, None, lambda _: f"inputs{at}")
    if isinstance(shown, str | Path):
        path = str(shown)
        wanted: list[Label | None] = [*(layers or layers_there(Path(shown), {}))]
        named = [label for label in wanted if label is not None]
        of = {str(label): f", layer={label!r}" for label in named}
        read = (("0" if label is None else str(label), load(shown, layer=label)) for label in wanted)
        inputs = lambda label: f"attnviz.load({path!r}{of.get(label, '')})"  # noqa: E731
        return _Text(path, read, path, inputs, lambda label: label if label in of else None)
    if isinstance(shown, Sequence) and shown and all(isinstance(one, Inputs) for one in shown):
        each_one = [one for one in shown if isinstance(one, Inputs)]
        several = Layers(each_one, None if layers is None else [*layers])
        places = {label: place for place, label in enumerate(Layers(each_one).labels)}
        labelled = [(label, f"inputs{at}[{places[label]}]") for label in several.labels]
        called = {_label(label, each_one[places[label]]): said for label, said in labelled}
        each = ((_label(label, inputs), inputs) for label, inputs in several)
        return _Text(several.name, each, None, lambda label: called[label])
    if not isinstance(shown, Run):
        raise InputError(
            f"{by} takes a run, the inputs of a layer or a dump's name, not {type(shown).__name__}; arrays become inputs by "
            f"attnviz.AttentionInputs(q, k), weights of several layers by attnviz.weights.from_attentions(arrays)"
        )
    labels = list(shown.layers if layers is None else layers)
    by_name = {str(label): label for label in labels}
    captured = ((str(label), shown.inputs(label)) for label in labels)
    return _Text(shown.name, captured, None, lambda label: f"run{at}.inputs({by_name[label]!r})")


def _label(label: Label | None, inputs: Inputs) -> str:
    return str(inputs.layer if inputs.layer is not None else label)
