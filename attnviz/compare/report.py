"""What a check of a kernel found, and how it is said: in lines for people, as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attnviz.compare.rounding import Rounding, Rule

_MOST_HEADS = 6  # named in a message


@dataclass(frozen=True)
class Number:
    """One number of a kernel beside the exact one."""

    query: int
    """The query's index, or the key's where keys have rows (dk, dv)."""
    column: int
    """The key of a weight, the dimension of a context."""
    actual: float
    exact: float
    allowed: float

    @property
    def apart(self) -> str:
        """Both, and how far apart they are."""
        far = abs(self.actual - self.exact)
        return f"actual {self.actual:.7g}, exact {self.exact:.7g}: apart by {far:.3g}, allowed {self.allowed:.3g}"


@dataclass(frozen=True)
class HeadCheck:
    """One head of one output, held against the exact one."""

    what: str
    """``weights``, ``logits``, ``context``, ``lse``, ``dq``, ``dk`` or ``dv``."""
    batch: int
    head: int
    beyond: int
    """How many numbers are further from the exact ones than they may be."""
    numbers: int
    rows_beyond: int
    """How many rows have such numbers; of weights: are too far as a distribution."""
    rows: int
    off: float
    """The largest ``|kernel - exact|``."""
    plain: float | None
    """The largest of the plain computation, in rows of the scale of the worst one."""
    worst: Number | None
    first: Number | None
    """The first number that is beyond."""
    where: tuple[str, ...] = ()
    """Where the differences lie, in words."""
    sees: str = ""
    """What the worst row sees."""
    spread: str = ""
    """How far the worst row of weights is off as a distribution, where that is too far."""
    wrong: tuple[int, ...] = ()
    """Some rows that are beyond, the worst first."""

    @property
    def within(self) -> bool:
        """Whether nothing is beyond what it may be."""
        return not (self.beyond or self.rows_beyond)

    @property
    def said(self) -> dict[str, Any]:
        """What it found, as JSON has it."""
        kept = asdict(self)
        del kept["sees"], kept["spread"], kept["wrong"]
        return {**kept, "where": list(self.where), "within": self.within}


@dataclass(frozen=True)
class Finding:
    """What a kernel computed instead: what explains its numbers within rounding."""

    names: tuple[str, ...]
    """What is wrong, in words; several where they give equal numbers: ``a window of 255, not 256``."""
    faults: tuple[str, ...]
    """The kinds of fault that these are of."""
    evidence: str
    """What agrees with it, and how well: ``with --window 255 all 8,192 rows agree within 3e-07``."""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What checking a kernel found."""

    pattern: str
    dtype: str
    """The dtype of the output, and of the inputs where that is another."""
    rules: dict[str, Rule]
    """The rule of each output that was checked."""
    heads: list[HeadCheck]
    findings: tuple[Finding, ...] = ()
    labels: dict[int, tuple[Sequence[str] | None, Sequence[str] | None]] | None = None
    """The tokens of queries and keys of each batch item."""
    batch: int = 1
    """How many batch items there are."""
    note: str = ""
    """What was looked at, where that isn't all."""

    @property
    def within(self) -> bool:
        """Whether every head is."""
        return all(head.within for head in self.heads)

    @property
    def wrong(self) -> list[HeadCheck]:
        """The heads that are not, by output and batch item, the furthest off first."""
        outputs = list(self.rules)
        found = [head for head in self.heads if not head.within]
        return sorted(
            found, key=lambda one: (outputs.index(one.what), one.batch, -one.off if one.off == one.off else 0)
        )

    def message(self) -> str:
        """What is wrong, where, and which mistake explains it; or that all is right."""
        if self.within:
            outputs = " and ".join(self.rules)
            return (
                f"the {outputs} ({self.pattern}) agree with the exact formula within {self._rules()}, for {self.dtype}"
                + self._looked()
            )
        lines = []
        for what in self.rules:
            wrong = [head for head in self.wrong if head.what == what]
            if wrong:
                verb = "are not those" if what in ("weights", "logits") else "is not that"
                beyond = f"beyond {self.rules[what]}, for {self.dtype}"
                lines.append(f"the {what} ({self.pattern}) {verb} of the exact formula: {beyond}{self._looked()}")
                lines += self._heads(wrong)
        return "\n".join([*lines, *(f"  {line}" for line in finding_lines(self.findings))])

    @property
    def said(self) -> dict[str, Any]:
        """The report, as JSON has it."""
        return {
            "pattern": self.pattern,
            "dtype": self.dtype,
            "rules": {what: rule.said for what, rule in self.rules.items()},
            "note": self.note or None,
            "within": self.within,
            "heads": [head.said for head in self.heads],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def _rules(self) -> str:
        return " and ".join(dict.fromkeys(str(rule) for rule in self.rules.values()))

    def _looked(self) -> str:
        return f"\n  {self.note}" if self.note else ""

    def _heads(self, wrong: list[HeadCheck]) -> list[str]:
        lines = []
        for batch in dict.fromkeys(head.batch for head in wrong):
            of_item = [head for head in wrong if head.batch == batch]
            for head in of_item[:_MOST_HEADS]:
                lines += self._head(head)
            more = len(of_item) - _MOST_HEADS
            item = f" of batch item {batch}" if self.batch > 1 else ""
            lines += [f"  and {more} more head{'s' if more > 1 else ''}{item}"] if more > 0 else []
        return lines

    def _head(self, head: HeadCheck) -> list[str]:
        noun = "pairs" if head.what in ("weights", "logits") else "elements"
        text = f"  batch {head.batch}, head {head.head}: {head.beyond:,} of {head.numbers:,} {noun}"
        if noun == "elements":
            rows = "keys" if head.what in ("dk", "dv") else "queries"
            text += f", of {head.rows_beyond:,} of {head.rows:,} {rows}"
        if head.worst is not None and head.beyond:
            text += f"; the worst is {self._place(head, head.worst)}, {head.worst.apart}"
        text += f"; {head.sees}" if head.sees else ""
        lines = [text]
        rule = self.rules[head.what]
        if head.spread:
            lines.append(f"    as distributions: {head.spread}")
        if head.plain is not None and isinstance(rule, Rounding):
            lines.append(
                f"    the plain computation in {rule.dtype} is off by {head.plain:.3g} at most in rows of that scale"
            )
        if head.first is not None and head.beyond > 1:
            lines.append(f"    the first is {self._place(head, head.first)}, {head.first.apart}")
        if head.where:
            lines.append(f"    they lie {', '.join(head.where)}")
        return lines

    def _place(self, head: HeadCheck, number: Number) -> str:
        queries, keys = (None, None) if self.labels is None else self.labels[head.batch]
        if head.what in ("weights", "logits"):
            return f"{_labeled('query', number.query, queries)} → {_labeled('key', number.column, keys)}"
        if head.what in ("dk", "dv"):
            return f"{_labeled('key', number.query, keys)}, dim {number.column}"
        row = _labeled("query", number.query, queries)
        return row if head.what == "lse" else f"{row}, dim {number.column}"


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """What a kernel computed instead, two lines each: the evidence, and the name."""
    lines = []
    for finding in findings:
        lines += [f"{finding.evidence}:", f"it is what the formula gives with {', or with '.join(finding.names)}"]
    return lines


def _labeled(noun: str, position: int, labels: Sequence[str] | None) -> str:
    return f"{noun} {position}" + ("" if labels is None else f" {labels[position]!r}")
