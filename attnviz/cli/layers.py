"""The layers of a source as a page shows them, each read when it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnviz.cli.choice import PatternChoice
from attnviz.cli.groups import typed
from attnviz.cli.options import Compute, Part, Seen, request_of
from attnviz.cli.source import Source

if TYPE_CHECKING:
    from attnviz.attention.patterns import Pattern
    from attnviz.base.types import Label
    from attnviz.cli.derived import Derive
    from attnviz.engine.request import Request
    from attnviz.pages.description import Layers, PageLayer
    from attnviz.pages.origin import Origin


def page_layers(
    sources: Sequence[Source],
    head: str,
    batch: str,
    choice: PatternChoice,
    compute: Compute,
    part: Part,
    seen: Seen,
    derive: Derive,
    values: str = "weights",
    told: Callable[[PageLayer], None] = lambda layer: None,
) -> Layers:
    """Every layer that the options speak of, each with its own pattern where no other is asked for; of several sources,
    each a text of the page.

    Each is read when it is asked for; ``told`` is called with it then.

    Raises:
        InputError: what the source lacks; when one is read, a head or batch item that is not there.
    """
    from dataclasses import replace

    from attnviz.pages.description import Layers, page_layer

    over_layers = "layers" in derive.hows
    texts = text_names(sources) if len(sources) > 1 else [None]
    places = [
        (source, text, label)
        for source, text in zip(sources, texts, strict=True)
        for label in ([None] if over_layers else source.layers())
    ]

    def read(number: int) -> PageLayer:
        source, text, label = places[number]
        one = source if over_layers else source.of(label)
        inputs, pattern, item, _ = derive.load(one, choice, compute, batch, values)
        asked = request_of(inputs, pattern, compute, head=head, batch=item, region=part, seen=seen)
        layer = page_layer(derive.heads(asked).cropped(), "0" if label is None else f"{label}")
        origin = _origin(asked, pattern, one, head, batch, choice, compute, seen, derive, values)
        made = replace(layer, text=text, origin=origin)
        told(made)
        return made

    return Layers(len(places), read)


def text_names(sources: Sequence[Source]) -> list[str]:
    """What texts of a page are called, a source each: their files' names as short as tells them apart."""
    paths = [Path(source.title) for source in sources]
    short = [path.stem for path in paths]
    return short if len({*short}) == len(short) else [str(path) for path in paths]


def page_title(sources: Sequence[Source]) -> str:
    """What a page of them is called."""
    from attnviz.pages.description import title_of

    return sources[0].title if len(sources) == 1 else title_of(text_names(sources))


def _origin(
    asked: Request,
    chosen: Pattern,
    source: Source,
    head: str,
    batch: str,
    choice: PatternChoice,
    compute: Compute,
    seen: Seen,
    derive: Derive,
    values: str,
) -> Origin:
    """Where a layer came from, as a command and as Python."""
    from attnviz.pages.origin import ALL, Origin, pattern_words, python_options
    from attnviz.sources.files import is_spooled

    single = "heads" not in derive.hows and not derive.rollout
    several = batch.strip() != f"{asked.batch}"  # batch items that became one, which Python is given one by one
    words = [*typed(source), *typed(choice), *typed(compute), *typed(seen), *typed(derive)]
    words += ["--batch", batch] if batch != "0" else []
    words += ["--values", values] if values != "weights" else []
    words += [] if single or head == "all" else ["--head", head]
    stdin = source.source is not None and is_spooled(source.source)
    own = choice.given()
    pattern = pattern_words(chosen) if own else None
    assert asked.queries is not None
    assert asked.keys is not None
    written = python_options(
        pattern,
        batch=asked.batch or None,
        **vars(seen),
        **vars(derive),
        values=None if values == "weights" else values,
        head=None if single or derive.rollout else ALL if head == "all" else list(asked.chosen),
        device=None if compute.device == "auto" else compute.device,
        dtype=compute.dtype,
    )
    return Origin(
        None if stdin else tuple(words),
        None if stdin else _inputs(source, [None] if "layers" not in derive.hows else source.layers()),
        None if several or (own and pattern is None) else written,
        single,
        (asked.queries.start, asked.keys.start),
        len(asked.queries) < asked.inputs.T or len(asked.keys) < asked.inputs.S,
    )


def _inputs(source: Source, labels: list[Label | None]) -> str | None:
    """The expression that gives a source's inputs: of one layer, or the list of several."""
    if not source.paths():
        return None if typed(source) else "attnviz.synthesize()"
    if labels != [None]:
        return f"[{', '.join(_inputs(source.of(label), [None]) or '' for label in labels)}]"
    given = {
        "layer": source.label,
        "names": source.names or None,
        "global_positions": source.global_,
        "layout": source.layout,
        "settings": source.settings or None,
    }
    file = [] if source.source is None else [repr(str(source.source))]
    return (
        f"attnviz.load({', '.join(file + [f'{name}={value!r}' for name, value in given.items() if value is not None])})"
    )
