from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from attnviz.pages.description import PageLayer
from tests.cli.conftest import run  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """Playwright for all modules, each of which has its loop to itself: see :func:`chromium`."""
    with sync_playwright() as started:
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield started
        asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def launched(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium; Playwright's own is not downloaded. It starts once: that costs more than a module's tests."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with hearing(playwright):
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    yield browser
    with hearing(playwright):
        browser.close()


@pytest.fixture(scope="module")
def chromium(playwright: Playwright, launched: Browser) -> Iterator[Browser]:
    """The browser, for a module. Its loop counts as running no longer than that: it is in the way of others' own."""
    with hearing(playwright):
        yield launched


@contextmanager
def hearing(playwright: Playwright) -> Iterator[None]:
    """Playwright's loop is this thread's."""
    asyncio._set_running_loop(playwright._loop)
    yield
    asyncio._set_running_loop(None)


@contextmanager
def serving(*layers: PageLayer) -> Iterator[str]:
    """The address of a server of some layers, in a thread of this process."""
    import uvicorn

    from attnviz.pages.server import application, listen
    from attnviz.pages.viewer import Viewer

    viewer = Viewer(layers, "test")
    with listen(0) as listening:
        port = listening.getsockname()[1]
        app = application(viewer, token="token", port=port)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        yield f"http://127.0.0.1:{port}/token/"
        server.should_exit = True
        thread.join()


@dataclass
class Opened:
    """A page in the browser, and what it did that no test asks for."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    expected: str | None = None  # what complaints may say, where a test provokes them
    deaf: Callable[[], object] = lambda: None  # ends all hearing


Opener = Callable[..., Opened]


@pytest.fixture(scope="session")
def pages() -> list[Page]:
    """Pages that no test uses at the moment: a new one costs more than most tests do with it."""
    return []


@pytest.fixture
def opened(chromium: Browser, pages: list[Page]) -> Iterator[Opener]:
    """Opens a file with the network cut; in the end, no page may have asked for anything or complained."""
    used: list[Opened] = []

    def open_(
        path: Path | str, fragment: str = "", *, width: int = 1280, height: int = 800, dark: bool = False, offline=True
    ) -> Opened:
        it = Opened(pages.pop() if pages else chromium.new_context().new_page())
        it.page.set_default_timeout(20_000)
        it.page.set_viewport_size({"width": width, "height": height})
        it.page.emulate_media(color_scheme="dark" if dark else "light", media="screen")
        it.page.context.set_offline(offline)
        heard = {
            "request": lambda request: it.requests.append(request.url),
            "pageerror": lambda error: it.complaints.append(str(error)),
            "dialog": lambda dialog: (it.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()),
            "console": lambda said: it.complaints.append(said.text) if said.type == "error" else None,
        }
        for event, hear in heard.items():
            it.page.on(event, hear)
        it.deaf = lambda: [it.page.remove_listener(event, hear) for event, hear in heard.items()]
        used.append(it)
        it.page.goto(f"{path.as_uri() if isinstance(path, Path) else path}#{fragment}")
        return it

    yield open_
    for it in used:
        it.deaf()
        it.page.unroute_all(behavior="ignoreErrors")
        it.page.mouse.move(0, 0)  # what it is over in the next page is no doing of that page's test
        it.page.goto("about:blank")
        pages.append(it.page)
    for it in used:
        assert [said for said in it.complaints if it.expected is None or it.expected not in said] == []
