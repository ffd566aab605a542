"""The formula taught on a user's own numbers: an :class:`~attnviz.measures.explanation.Explanation` as Markdown.

The Markdown is the one rendering: terminals show it as rich draws it, GitHub as GitHub does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from attnviz.measures.explanation import Explanation, Key
from attnviz.show.lessons.english import ENGLISH
from attnviz.show.lessons.japanese import JAPANESE
from attnviz.show.lessons.words import Count, Words
from attnviz.show.terminal.tables import short

LANGUAGES: dict[str, Words] = {"en": ENGLISH, "ja": JAPANESE}

_TERMS = 6  # products of the dot product
_KEYS = 12  # rows of the softmax, beyond which the largest weights stand for it

_TOY = (
    "import math",
    "",
    "import torch",
    "",
    "H, T, D = 8, 10, 64",
    "q, k, v = torch.randn(3, H, T, D)",
    "mask = torch.zeros(T, dtype=torch.bool)",
    "mask[[0, 3, 7]] = True",
    "k_g, v_g = k[:, mask], v[:, mask]                            # (H, G, D)",
    'score = torch.einsum("htd,hgd->htg", q, k_g) / math.sqrt(D)  # (H, T, G)',
    "weight = score.softmax(-1)                                   # (H, T, G)",
    'context = torch.einsum("htg,hgd->htd", weight, v_g)          # (H, T, D)',
    "print(score.shape, weight.sum(-1).allclose(torch.ones(H, T)), context.shape)",
)
_TOY_PRINTS = ("torch.Size([8, 10, 3]) True torch.Size([8, 10, 64])",)

_IN_ALT = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_[]<>#|~&!"})
"""Letters that Markdown reads, in text that is to be read as it is."""


def lesson(
    explanation: Explanation,
    language: str = "en",
    *,
    figures: Mapping[str, str] | None = None,
    title: str | None = None,
) -> str:
    """A lesson on one query and one key, in Markdown.

    Args:
        explanation: the numbers, of :func:`attnviz.explain`.
        language: one of :data:`LANGUAGES`: ``en`` or ``ja``.
        figures: where its figures are, of ``map`` and ``row``; None are those without figures.
        title: in place of its own.

    >>> import attnviz
    >>> print(lesson(attnviz.explain(attnviz.synthesize(), head=2, query=5, key=1)).splitlines()[0])
    # Attention, step by step: head 2, query 5 "`t5`", Global #1 (position 0 "`t0`")
    """
    return _Lesson(explanation, LANGUAGES[language], figures or {}, title).markdown()


def told(explanation: Explanation, language: str, text: str) -> str:
    """One of the :class:`Words` that speaks of the pair, filled, without Markdown: of figures."""
    return _Lesson(explanation, LANGUAGES[language], plain=True).said(text)


class _Lesson:
    def __init__(
        self,
        explanation: Explanation,
        words: Words,
        figures: Mapping[str, str] = MappingProxyType({}),
        title: str | None = None,
        *,
        plain: bool = False,
    ) -> None:
        """``plain``: tokens as they are, not as code of Markdown."""
        self.e, self.words, self.figures, self.title, self.plain = explanation, words, figures, title, plain
        e = explanation
        self.query = self._with_token(f"{e.query}", e.query_token)
        self.key = self._name(e.key)
        self.k, self.v = ("k", "v") if e.G is None else ("k_g", "v_g")
        self.s = "s" if e.G is None else "g"  # what runs over them
        self.index = e.key.position if e.key.number is None else e.key.number - 1

    def markdown(self) -> str:
        parts = (self._opening, self._shapes, self._einsum, self._dot, self._scale, self._softmax, self._context)
        blocks = [block for section in (*parts, self._toy, self._summary) for block in section()]
        return "\n\n".join(blocks).replace("`」 ", "`」") + "\n"  # no space after a bracket, as after a number

    def _name(self, key: Key) -> str:
        position = self._with_token(f"{key.position}", key.token)
        text = self.words.position_key if key.number is None else self.words.global_key
        return text.format(number=key.number, position=position)

    def _with_token(self, name: str, token: str | None) -> str:
        """A position and its token, in quotes."""
        if token is None:
            return name
        space = "" if self.words.quoted.startswith("「") else " "
        return name + space + self.words.quoted.format(token=_plain(token) if self.plain else _code(token))

    def _figure(self, name: str) -> list[str]:
        """A figure, where there is one."""
        if name not in self.figures:
            return []
        alt = _Lesson(self.e, self.words, plain=True).said(f"figure_{name}").translate(_IN_ALT)
        return [f"![{alt}]({self.figures[name]})", self.said(f"figure_{name}")]

    def said(self, text: str) -> str:
        """One of the words that speaks of the pair."""
        filled = str(getattr(self.words, text)).format(head=self.e.head, query=self.query, key=self.key)
        return filled.replace("」 ", "」") if self.plain else filled

    def _opening(self) -> list[str]:
        e, words = self.e, self.words
        title = words.title.format(head=e.head, query=self.query, key=self.key)
        opening = [
            "# " + (title if self.title is None else _plain(self.title, 200).translate(_IN_ALT)),
            words.settings.format(source=_code(e.source, cells=60), pattern=e.pattern, dtype=e.dtype),
        ]
        if e.for_global:
            opening.append(words.global_query.format(query=self.query))
        if e.own_projections:
            opening.append(words.own_projections)
        return opening

    def _shapes(self) -> list[str]:
        e, words = self.e, self.words
        H, keys = "H" if e.H_kv == e.H else "H_kv", "S" if e.G is None else "G"
        n = e.S if e.G is None else e.G
        rows = [
            ("`q[b]`", f"(H, T, D) = {(e.H, e.T, e.D)}", words.queries),
            ("`k[b]`", f"({H}, S, D) = {(e.H_kv, e.S, e.D)}", words.keys),
        ]
        if e.positions is not None:
            listed = _listed(e.positions)
            rows += [
                ("`mask[b]`", f"(S,) = ({e.S},)", words.mask.format(positions=listed)),
                ("`k_g = k[b][:, mask[b]]`", f"({H}, G, D) = {(e.H_kv, e.G, e.D)}", words.global_keys),
            ]
        rows += [
            ("`score`", f"(H, T, {keys}) = {(e.H, e.T, n)}", words.scores),
            ("`weight`", f"(H, T, {keys}) = {(e.H, e.T, n)}", words.weights if e.sink is None else words.weights_sink),
        ]
        if e.D_v is not None:
            D_v = "D" if e.D_v == e.D else "D_v"
            rows.append(("`v[b]`", f"({H}, S, {D_v}) = {(e.H_kv, e.S, e.D_v)}", words.values))
            if e.G is not None:
                rows.append(
                    ("`v_g = v[b][:, mask[b]]`", f"({H}, G, {D_v}) = {(e.H_kv, e.G, e.D_v)}", words.global_values)
                )
            rows.append(("`context`", f"(H, T, {D_v}) = {(e.H, e.T, e.D_v)}", words.contexts))
        blocks = [f"## {words.shapes_title}", self._sizes(), _table(words.shapes_head, rows, "lll")]
        if e.B > 1:
            blocks.append(words.batch_of.format(batch=e.batch, B=e.B))
        if e.H_kv != e.H:
            blocks.append(words.grouped.format(group=e.H // e.H_kv, head=e.head, kv_head=e.kv_head))
        return blocks

    def _sizes(self) -> str:
        """What each letter of the shapes counts, and how many that is here."""
        e, words = self.e, self.words
        there = {
            "H": True,
            "H_kv": e.H_kv != e.H,
            "T": True,
            "S": True,
            "G": e.G is not None,
            "D": True,
            "D_v": e.D_v not in (None, e.D),
        }
        group = e.H // e.H_kv
        rows = [
            (f"`{letter}`", f"{Count(getattr(e, letter))}", getattr(words, f"size_{letter}").format(group=group))
            for letter, is_there in there.items()
            if is_there
        ]
        return _table(words.sizes_head, rows, "lrl")

    def _einsum(self) -> list[str]:
        e, words, s = self.e, self.words, self.s
        kv = "h" if e.H_kv == e.H else f"h // {e.H // e.H_kv}"
        met = self._met("t")
        product = f"dot[h, t, {s}] += q[h, t, d] * {self.k}[{kv}, {s}, d]"
        loops = [
            (f"for h in range({e.H}):", words.loop_heads),
            (f"    for t in range({e.T}):", words.loop_queries),
            (f"        for {s} in {met}:", words.loop_visible if e.G is None else words.loop_global),
            (f"            for d in range({e.D}):", words.loop_dimensions),
        ]
        width = max(len(code) for code, _ in loops)
        code = [f"{code:{width}}  # {comment}" for code, comment in loops] + [" " * 16 + product]
        pairs = e.measures[0].pairs if e.G is None else e.T * e.G
        sizes = {"heads": e.H, "queries": e.T, "keys": e.G, "pairs": pairs, "D": e.D}
        sizes |= {"dots": e.H * pairs, "products": e.H * pairs * e.D}
        count = words.einsum_counted if e.G is None else words.einsum_count
        keys = self.k if e.H_kv == e.H else f"{self.k}.repeat_interleave({e.H // e.H_kv}, 0)"
        return [
            "## " + words.einsum_title.format(einsum=f"htd,h{s}d->ht{s}"),
            _fence("python", [f'dot = torch.einsum("htd,h{s}d->ht{s}", q, {keys})']),
            self._letters(),
            words.similarity,
            _fence("python", code),
            words.einsum_letters.format(kept=f"h, t, {s}"),
            count.format(**{name: Count(size) for name, size in sizes.items() if size is not None}),
        ]

    def _met(self, query: int | str) -> str:
        """What a loop over the keys of a query runs over."""
        return f"visible({query})" if self.e.G is None else f"range({self.e.G})"

    def _letters(self) -> str:
        """The formula letter by letter: what each counts, where it stands, and what becomes of it."""
        e, words, s = self.e, self.words, self.s
        counted = {"h": words.letter_h, "t": words.letter_t, s: words.letter_s if e.G is None else words.letter_g}
        counted |= {"d": words.letter_d}
        rows = []
        for letter, what in counted.items():
            stands = [f"`{letter}`" if letter in where else "" for where in ("htd", f"h{s}d", f"ht{s}")]
            role = words.letter_summed if letter == "d" else words.letter_kept
            rows.append((f"`{letter}`", what.format(H=e.H, T=e.T, S=e.S, G=e.G, D=e.D), *stands, role))
        letter, what, role = words.letters_head
        return _table([letter, what, "`q`", f"`{self.k}`", "`dot`", role], rows, "llcccl")

    def _excerpt(self) -> list[str]:
        """The table of queries and keys that the pair is one of."""
        e, words, some = self.e, self.words, self.e.excerpt
        numbers = some.keys if e.positions is None else [e.positions.index(key) + 1 for key in some.keys]
        gaps = [n for n, (one, other) in enumerate(pairwise(numbers), 1) if other > one + 1]  # columns left out
        heads = [f"{key}" if e.positions is None else f"#{key}" for key in numbers]
        rows = []
        for n, (query, logits) in enumerate(zip(some.queries, some.logits, strict=True)):
            label = [f"{query}"] if some.query_tokens is None else [f"{query}", _code(some.query_tokens[n], table=True)]
            cells = ["·" if logit == -math.inf else number(logit) for logit in logits]
            if query == e.query:
                at = some.keys.index(e.key.position)
                cells[at] = f"**{cells[at]}**"
            row = [*label, *_with_gaps(cells, gaps)]
            rows.append([*_gap(some.queries, n, len(row)), row])
        heads = _with_gaps(heads, gaps)
        named = ["", *[""] * (some.query_tokens is not None), *heads]
        return [
            "### " + words.excerpt_title.format(head=e.head),
            _table(
                named,
                [row for part in rows for row in part],
                "r" + "l" * (len(named) > len(heads) + 1) + "r" * len(heads),
            ),
            words.excerpt_note,
            *self._figure("map"),
        ]

    def _toy(self) -> list[str]:
        words = self.words
        code, printed = _fence("python", _TOY), _fence("text", _TOY_PRINTS)
        return [f"## {words.toy_title}", words.toy_note, code, words.toy_prints, printed]

    def _summary(self) -> list[str]:
        e, words = self.e, self.words
        text = words.summary.format(
            query=self.query,
            key=self.key,
            dot=number(e.dot),
            logit=number(e.key.logit),
            n=Count(len(e.keys)),
            weight=number(e.key.weight),
            percent=_percent(e.key.weight),
        )
        space = "" if words.quoted.startswith("「") else " "
        text += "" if e.context is None else space + words.summary_context.format(query=self.query)
        return [f"## {words.summary_title}", text, words.next_steps]

    def _dot(self) -> list[str]:
        e, words = self.e, self.words
        q, k = f"q[{e.head}, {e.query}]", f"{self.k}[{e.kv_head}, {self.index}]"
        all_sizes = math.fsum(abs(term.product) for term in e.terms)
        rows, total, size = [], 0.0, 0.0
        for term in e.terms[:_TERMS]:
            total, size = total + term.product, size + abs(term.product)
            share = _percent(size / all_sizes if all_sizes else None)
            rows.append(
                (f"{term.dimension}", *map(number, (term.q, term.k, term.product, total)), share),
            )
        rest = e.terms[_TERMS:]
        if rest:
            others = number(math.fsum(term.product for term in rest))
            share = _percent(1.0 if all_sizes else None)
            rows.append((words.others.format(n=len(rest)), "", "", others, number(e.dot), share))
        rows.append((words.sum, "", "", f"**{number(e.dot)}**", "", ""))
        return [
            f"## {words.dot_title}",
            words.dot_which.format(query=self.query, key=self.key, head=e.head),
            _fence("text", [f"{q} · {k} = {number(e.dot)}"]),
            *([] if e.key.number is None else [words.dot_index.format(number=e.key.number, index=self.index)]),
            _table([head.format(q="q", k=self.k) for head in words.dot_head], rows, "rrrrrr"),
            words.dot_note,
            *self._cosine(),
        ]

    def _cosine(self) -> list[str]:
        """The dot product as two lengths and an angle, where there is one."""
        e = self.e
        lengths = [math.hypot(*numbers) for numbers in zip(*((term.q, term.k) for term in e.terms), strict=True)]
        if not all(lengths):
            return []
        q, k = lengths
        cosine = e.dot / q / k
        return [self.words.dot_cosine.format(q=number(q), k=number(k), cosine=number(cosine), dot=number(e.dot))]

    def _scale(self) -> list[str]:
        e, words = self.e, self.words
        root = number_short(math.sqrt(e.D))
        first = f"{number(e.dot)} / {root}" if e.textbook else f"{number(e.dot)} * {number_short(e.scale)}"
        if not e.plain:
            title = words.steps_title
        elif e.textbook:
            title = words.scale_title.format(D=e.D, root=root)
        else:
            title = words.scale_given_title.format(scale=number_short(e.scale))
        blocks = [f"## {title}"]
        if not e.textbook:
            blocks.append(words.scale_given.format(textbook=number_short(1 / math.sqrt(e.D))))
        if e.plain:
            blocks.append(_fence("text", [f"logit = {first} = {number(e.key.logit)}"]))
        else:
            blocks.append(_table(words.steps_head, self._steps(first), "llr"))
        return [*blocks, *self._excerpt(), *self._why(root)]

    def _steps(self, first: str) -> list[tuple[str, ...]]:
        e, words = self.e, self.words
        rows: list[tuple[str, ...]] = [(words.step_dot, "", number(e.dot))]
        before = e.dot
        for step in e.steps:
            x, by = number(before), number_short(step.by)
            if step.kind == "scale":
                name, how = words.step_scale, first
            elif step.kind == "softcap":
                name, how = words.step_softcap.format(by=by), f"{by} * tanh({x} / {by})"
            elif step.kind == "bias":
                name, how = words.step_bias, f"{x} + ({by})"
            else:
                name, how = words.step_alibi, f"{x} - {by} * {step.apart}"
            rows.append((name, f"`{how}`", number(step.result)))
            before = step.result
        rows[-1] = (*rows[-1][:2], f"**{rows[-1][2]}**")
        return rows

    def _why(self, root: str) -> list[str]:
        e, words = self.e, self.words
        divided = e.textbook and len(e.measures) == 2
        heads = [
            words.why_divided.format(root=root) if divided and n == 0
            else words.why_plain if divided
            else words.why_scale.format(scale=number_short(measure.scale))
            for n, measure in enumerate(e.measures)
        ]  # fmt: skip
        rows = [
            (words.why_variance, *(number(measure.variance) for measure in e.measures)),
            (words.why_entropy, *(number(measure.entropy) for measure in e.measures)),
            (words.why_share, *(_percent(measure.entropy_share) for measure in e.measures)),
            (words.why_gradient, *(number(measure.gradient) for measure in e.measures)),
        ]
        blocks = [
            f"### {words.why_title}",
            words.why_intro.format(pairs=Count(e.measures[0].pairs), head=e.head),
            _table(["", *heads], rows, "l" + "r" * len(heads)),
        ]
        if len(e.measures) == 1:
            return [*blocks, words.nothing_to_compare]
        if divided and e.plain:
            plain, small = number(e.measures[1].variance), number(e.measures[0].variance)
            blocks.append(words.explain_variance.format(root=root, D=e.D, plain=plain, divided=small))
        blocks += [words.explain_entropy, words.explain_gradient]
        if divided and e.measures[1].gradient > 0:
            ratio = e.measures[0].gradient / e.measures[1].gradient
            text = (
                words.gradient_larger
                if ratio > 1.05
                else words.gradient_smaller
                if ratio < 0.95
                else words.gradient_alike
            )
            blocks.append(text.format(ratio=number_short(ratio, 3)))
        return blocks

    def _softmax(self) -> list[str]:
        e, words = self.e, self.words
        shown = self._shown()
        labeled = any(key.token is not None for key in shown)
        blank = [""] * labeled
        rows: list[list[str]] = []
        for key in shown:
            row = [f"{key.position}" if key.number is None else f"#{key.number}"]
            if labeled:
                row.append("" if key.token is None else _code(key.token, table=True))
            row += map(number, (key.logit, key.shifted, key.exp, key.weight))
            rows.append([f"**{cell}**" for cell in row] if key == e.key else row)
        if rest := self._rest(shown):
            exp, weight = math.fsum(key.exp for key in rest), math.fsum(key.weight for key in rest)
            rows.append([words.others.format(n=f"{len(rest):,}"), *blank, "", "", number(exp), number(weight)])
        mass = math.fsum(key.weight for key in e.keys)
        if e.sink is not None:
            exp = math.exp(e.sink - e.peak)
            rows.append([words.softmax_sink, *blank, *map(number, (e.sink, e.sink - e.peak, exp)), ""])
        rows.append([words.sum, *blank, "", "", f"**{number(e.total)}**", f"**{number(mass)}**"])
        key_head, token_head, *heads = words.softmax_head
        heads = [key_head, *[token_head] * labeled, *heads]
        sees = words.softmax_sees if e.G is None else words.softmax_sees_global
        peak = words.softmax_max if e.sink is None else words.softmax_max_sink
        blocks = [
            "## " + words.softmax_title.format(query=self.query),
            sees.format(query=self.query, n=Count(len(e.keys)), G=Count(e.G or 0), S=Count(e.S)),
            _fence(
                "text", [f"max    = {number(e.peak)}    {peak}", "weight = exp(logit - max) / sum(exp(logit - max))"]
            ),
            _table(heads, rows, "r" + "l" * labeled + "rrrr"),
            words.softmax_note,
            words.softmax_this.format(
                key=self.key, exp=number(e.key.exp), total=number(e.total), weight=number(e.key.weight)
            ),
            *self._figure("row"),
        ]
        if e.sink is not None:
            blocks.append(words.sink_note.format(mass=number(mass)))
        return blocks

    def _context(self) -> list[str]:
        e, words = self.e, self.words
        if e.context is None:
            return [f"## {words.context_title}", words.no_values]
        shown, components = self._shown(), len(e.key.value)
        rows: list[tuple[str, ...]] = []
        for key in shown:
            name = f"{key.position}" if key.number is None else f"#{key.number}"
            row = (name, number(key.weight), *map(number, key.value))
            rows.append(tuple(f"**{cell}**" for cell in row) if key == e.key else row)
        if rest := self._rest(shown):
            name = words.others.format(n=f"{len(rest):,}")
            rows.append((name, number(math.fsum(key.weight for key in rest)), *[""] * components))
        rows.append(("**context**", "", *(f"**{number(value)}**" for value in e.context[:components])))
        heads = [words.softmax_head[0], words.softmax_head[5], *(f"d = {d}" for d in range(components))]
        at, s = f"{e.head}, {e.query}", self.s
        value = f"{self.v}[{e.kv_head}, {s}, d]"
        return [
            f"## {words.context_title}",
            _fence("text", [f"context[{at}, d] = sum(weight[{at}, {s}] * {value} for {s} in {self._met(e.query)})"]),
            words.context_note.format(shown=components, D_v=Count(len(e.context))),
            _table(heads, rows, "r" * len(heads)),
            words.context_norm.format(query=self.query, D_v=Count(len(e.context)), norm=number(math.hypot(*e.context))),
        ]

    def _shown(self) -> list[Key]:
        """The keys that get a row: all, or the largest weights and the one explained."""
        return shown_keys(self.e)

    def _rest(self, shown: Sequence[Key]) -> list[Key]:
        """The keys that get no row."""
        positions = {key.position for key in shown}
        return [key for key in self.e.keys if key.position not in positions]


def shown_keys(e: Explanation) -> list[Key]:
    """The keys that a lesson shows each by itself: all, or the largest weights and the one explained."""
    if len(e.keys) <= _KEYS:
        return list(e.keys)
    largest = sorted(e.keys, key=lambda key: -key.weight)[: _KEYS - 1]
    chosen = {e.key.position, *(key.position for key in largest)}
    return [key for key in e.keys if key.position in chosen]


def _gap(positions: Sequence[int], n: int, columns: int) -> list[list[str]]:
    """A row of dots before the n-th position, where some are left out."""
    return [["⋮"] * columns] if n and positions[n] > positions[n - 1] + 1 else []


def _with_gaps(cells: Sequence[str], gaps: Sequence[int]) -> list[str]:
    """Cells with dots before each of some of them.

    >>> _with_gaps(["0", "7", "8"], [1])
    ['0', '…', '7', '8']
    """
    return [part for n, cell in enumerate(cells) for part in (["…", cell] if n in gaps else [cell])]


def number(value: float) -> str:
    """Four decimals where they say something, else three digits and an exponent."""
    if value == 0 or 5e-5 <= abs(value) < 1e6:
        return f"{value + 0.0:.4f}"
    return f"{value:.3g}"


def number_short(value: float, digits: int = 5) -> str:
    """``8``, ``0.125``, ``5.6569``: at most ``digits`` digits that count."""
    return f"{value:.{digits}g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _listed(positions: Sequence[int], most: int = 6) -> str:
    if len(positions) <= most:
        return ", ".join(map(str, positions))
    return f"{', '.join(map(str, positions[: most - 1]))}, …, {positions[-1]}"


def _plain(text: str, cells: int = 14) -> str:
    """Text on one line, cut to so many cells; what is blank is told."""
    text = short(text, cells)
    return text if text.strip() else "␣" * len(text) or "∅"


def _code(text: str, *, table: bool = False, cells: int = 14) -> str:
    """Text as a Markdown code span, whatever is in it; in a table cell, ``|`` is escaped as GitHub wants it."""
    text = _plain(text, cells)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    span = f"{fence}{space}{text}{space}{fence}"
    return span.replace("|", r"\|") if table else span


def _fence(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    marks = {"l": ":--", "r": "--:", "c": ":-:"}
    lines = [heads, [marks[side] for side in align], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
