"""A lesson in the terminal: Markdown as rich draws it, its paragraphs broken as Japanese wants it too."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, Paragraph, TableElement
from rich.table import Table
from rich.text import Text

_WIDE = r"\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_NEVER_LAST = "（「『"
_NEVER_FIRST = "、。，．・：；！？）」』ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ"
_UNIT = re.compile(rf"[{_NEVER_LAST}]*(?:[{_WIDE}]|[^\s{_WIDE}]+)[{_NEVER_FIRST}]*\s*")


class LessonMarkdown(Markdown):
    """Markdown for :meth:`rich.console.Console.print`.

    rich breaks lines at spaces alone, so that a Japanese sentence with an English word in it comes out ragged.
    """


class _Paragraph(Paragraph):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield broken(self.text, options.max_width)


class _Table(TableElement):
    """A table whose cells wrap where there is no room, and are never cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


LessonMarkdown.elements = {**Markdown.elements, "paragraph_open": _Paragraph, "table_open": _Table}


def broken(text: Text, width: int) -> Text:
    """``text`` in lines of at most ``width`` cells, broken at spaces and between wide letters.

    >>> print(broken(Text("`d` について、和をとります。"), 12))
    `d` につい
    て、和をとり
    ます。
    """
    breaks, line = [], ""
    for unit in _UNIT.finditer(text.plain):
        if line and cell_len((line + unit[0]).rstrip()) > width:
            breaks.append(unit.start())
            line = ""
        line += unit[0]
    lines = text.divide(breaks)
    for part in lines:
        part.rstrip()
    return Text("\n").join(lines)
