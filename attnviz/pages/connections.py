"""Connections of the live page's server: so many and no more, none that keeps it waiting, and few lines of log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 400
"""Connections at a time: a browser opens six to a page, and a process may have 1,024 files open."""

PATIENCE = 10.0
"""Seconds that a connection may be open without a whole request."""

MOST_LINES = 20
"""Lines that the server writes to its log in all."""


class Bounded(H11Protocol):
    """A connection that is closed where no request comes of it, or where it is one too many and idle the longest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As any connection, and the first look at it is in :data:`PATIENCE`."""
        super().connection_made(transport)
        self.born = self.loop.time()
        here = [one for one in self.connections if isinstance(one, Bounded) and not one.transport.is_closing()]
        if len(here) > MOST:
            idle = [one for one in here if one.is_idle]
            min(idle, key=lambda one: one.born, default=self).transport.abort()
        self.loop.call_later(PATIENCE, self.look, None)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def look(self, seen: Any) -> None:
        """Closes the connection where no request has come since the last look, which saw the answer ``seen``."""
        if self.transport.is_closing():
            return
        if self.is_idle and self.cycle is seen:
            self.transport.abort()
        else:
            self.loop.call_later(PATIENCE, self.look, self.cycle)


class Few(logging.Filter):
    """Lets through the first lines of what goes wrong, and nothing of what clients do wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if record.levelno < logging.ERROR:
            return False
        self.lines += 1
        if self.lines == MOST_LINES:
            record.msg, record.args, record.exc_info = f"{record.getMessage()} (further errors are not told)", (), None
        return self.lines <= MOST_LINES


def quiet() -> None:
    """Bounds what the server and its loop write."""
    few = Few()
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(few)
