"""Progress of long work, on stderr, where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from attnviz.cli.console import is_quiet


class layers_progress(ExitStack):
    """A bar of the query rows of several layers, which is there once the first layer says how many it has.

    Called with the rows just done; the layers still to come count as if all were as large as the first: most are.

    Args:
        count: how many layers there are.
        title: what is going on.
        watched: whether to show it, where stderr is a terminal.
    """

    def __init__(self, count: int, title: str, *, watched: bool = True) -> None:
        super().__init__()
        self.count, self.title, self.watched = count, title, watched
        self._advance: Callable[[int], None] | None = None
        self._begun = False

    def layer(self, rows: int) -> None:
        """A layer is there, and has so many rows."""
        if not self._begun:
            self._begun = True
            self._advance = self.enter_context(rows_progress(rows * self.count, self.title, watched=self.watched))

    def __call__(self, rows: int) -> None:
        if self._advance is not None:
            self._advance(rows)


@contextmanager
def rows_progress(total: int, title: str, *, watched: bool = True) -> Iterator[Callable[[int], None] | None]:
    """A bar of query rows done, rows a second and time left; None where nobody is watching.

    Args:
        total: query rows in all, over every head.
        title: what is going on.
        watched: whether to show it, where stderr is a terminal.
    """
    if not (watched and sys.stderr.isatty()) or is_quiet():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: object) -> Text:
            speed = getattr(task, "speed", None)
            return Text("" if not speed else f"{speed:,.0f} tokens/s", style="dim")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda rows: bar.advance(task, rows)
