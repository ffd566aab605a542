"""``docs/python.md``, written from docstrings: every public name, what it takes and gives, and an example that is run.

``python -m attnviz.cli.names docs/python.md`` writes it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attnviz

_OPENING = """# Python

What `help(attnviz.NAME)` says, of every name that `import attnviz` gives. This page is written by the program:
`make commands`. The examples are run where they are written, in the docstrings. [The library](library.md) has the names by
what they are for.

Wherever inputs are taken, arrays do: `q` and `k`, or `q`, `k` and `v`, in which every query sees every key unless a pattern
is named (`attnviz.plot(q, k, pattern="causal")`), and attention weights `(H, T, S)` alone (`attnviz.plot(weights,
tokens=words)`). An array is torch's, numpy's, of any library that speaks DLPack, or nested lists; heads may be any iterable, a
part of a map is a `range` or a `slice`, and a pattern is one, its name, or its class.
"""


def page() -> str:
    """The page."""
    names = sorted(attnviz.__all__, key=str.lower)
    listed = ", ".join(f"[`{name}`](#{_anchor(name)})" for name in names)
    return "\n".join([_OPENING, listed, "", *(_section(name) for name in names)])


def _anchor(name: str) -> str:
    return f"attnviz{name}".lower()


def _section(name: str) -> str:
    """A name: how it is called, what it is, and an example."""
    value = getattr(attnviz, name)
    said, _, example = (inspect.getdoc(value) or "").partition("\n>>> ")
    parts = [f"## attnviz.{name}\n"]
    if not isinstance(value, ModuleType):
        parts += [f"```text\n{_signature(name, value)}\n```\n"]
    parts += [*_told(said)]
    if isinstance(value, ModuleType):
        parts += [f"- `{one}`: {_first(getattr(value, one))}" for one in _functions(value)] + [""]
    elif inspect.isclass(value):
        methods = [f"- `{one}`: {_first(getattr(value, one))}" for one in _methods(value)]
        parts += ["It has:\n", *methods, ""] if methods else []
    return "\n".join([*parts, f"```python not-run\n>>> {example.rstrip()}\n```\n"])


def _signature(name: str, value: Any) -> str:
    """A call, a parameter a line where it is long."""
    parameters = [*inspect.signature(value).parameters.values()]
    written = [re.sub(r": .*?(?= = |$)", "", str(one)).replace(" = ", "=") for one in parameters]
    keyword = next((n for n, one in enumerate(parameters) if one.kind is inspect.Parameter.KEYWORD_ONLY), None)
    if keyword is not None:
        written.insert(keyword, "*")
    whole = f"{name}({', '.join(written)})"
    if len(whole) <= 100:
        return whole
    lines, line = [], ""
    for one in written:
        if len(line) + len(one) > 90:
            lines.append(line.rstrip())
            line = ""
        line += f"{one}, "
    return f"{name}(\n    " + "\n    ".join([*lines, line.rstrip(", ")]) + "\n)"


def _told(text: str) -> Iterator[str]:
    """A docstring as Markdown: its sections' entries as lists."""
    for block in re.split(r"\n\n+", _plain(text).strip()):
        head, _, rest = block.partition("\n")
        if head in ("Args:", "Returns:", "Raises:"):
            yield f"{head.removesuffix(':')}:\n"
            yield from (_entry(entry) for entry in re.split(r"\n(?=    \S)", "\n" + rest) if entry.strip())
            yield ""
        else:
            yield re.sub(r"\n(?!    )", " ", block) + "\n"


def _entry(text: str) -> str:
    """A parameter, or what is returned or raised, with what lies deeper as entries of its own."""
    first, *deeper = re.split(r"\n(?=        \w+: )", text.strip("\n"))
    names, colon, said = " ".join(first.split()).partition(": ")
    line = f"- `{names}`: {said}" if colon and re.fullmatch(r"[\w, *.]+", names) else "- " + " ".join(first.split())
    return "\n".join([line, *(f"    {_entry(one)}" for one in deeper)])


def _first(value: Any) -> str:
    """The first sentence of a docstring."""
    return " ".join(_plain(inspect.getdoc(value) or "").partition("\n\n")[0].split())


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _methods(kind: type) -> list[str]:
    """What a user calls or reads of a class, as far as the class itself says what it is."""
    found = [(name, value) for name, value in vars(kind).items() if not name.startswith("_")]
    of_patterns = ("visible", "reach", "reasons")  # for who writes a pattern
    return [
        name
        for name, value in found
        if name not in of_patterns
        and (inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod))
        and inspect.getdoc(value)
    ]


def _plain(text: str) -> str:
    """A docstring without the marks of Sphinx."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
