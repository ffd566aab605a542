"""Nobody starves the live page's server: real sockets, on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
import uvicorn

from attnviz.attention.patterns import Causal
from attnviz.pages import connections
from attnviz.pages.description import PageLayer
from attnviz.pages.server import HOST, application, listen
from attnviz.pages.viewer import Viewer
from tests.cases import small

MOST, PATIENCE = 8, 0.5


@pytest.fixture
def served(monkeypatch) -> Iterator[tuple[int, uvicorn.Server]]:
    """The port of a server that has little room and little patience."""
    monkeypatch.setattr(connections, "MOST", MOST)
    monkeypatch.setattr(connections, "PATIENCE", PATIENCE)
    listening = listen(0)
    port = listening.getsockname()[1]
    app = application(Viewer([PageLayer("0", small(batch=1).item(), Causal(), (0,))], "x"), token="t", port=port)
    server = uvicorn.Server(uvicorn.Config(app, http=connections.Bounded, log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port, server
    server.should_exit = True
    thread.join()


def answer(port: int) -> int:
    return httpx2.get(f"http://{HOST}:{port}/t/run.json", timeout=30).status_code


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET /t/run.json HTTP/1.1\r\nHost: x\r\nX: "])
def test_connections_without_a_request_are_closed(served, begun):
    port, _ = served
    with socket.create_connection((HOST, port)) as waiting:
        waiting.sendall(begun)
        waiting.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert waiting.recv(1) == b""


def test_a_request_after_an_answer_has_to_come_whole_too(served):
    port, _ = served
    with socket.create_connection((HOST, port)) as kept:
        kept.sendall(f"GET /t/run.json HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        kept.settimeout(30)
        assert b"200 OK" in kept.recv(1 << 16)
        kept.sendall(b"GET /t/")
        try:
            while kept.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass


def test_many_idle_connections_leave_room_for_a_page(served):
    port, server = served
    idle = [socket.create_connection((HOST, port)) for _ in range(5 * MOST)]
    try:
        assert answer(port) == 200
        assert len(server.server_state.connections) <= MOST
    finally:
        for one in idle:
            one.close()


def test_the_log_has_few_lines(caplog):
    connections.quiet()
    logger = logging.getLogger("uvicorn.error")
    try:
        for number in range(1000):
            logger.warning("Invalid HTTP request received.")
            logger.error("error %d", number)
    finally:
        logger.filters.clear()
        logging.getLogger("asyncio").filters.clear()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == connections.MOST_LINES
    assert lines[-1].endswith("(further errors are not told)")
