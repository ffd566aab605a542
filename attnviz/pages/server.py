"""The live page's server: on the loopback interface, behind a token, and with nothing of a request near the file system."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import FrameType

import numpy as np

from attnviz.base.errors import InputError, is_memory
from attnviz.base.types import Cells
from attnviz.pages.description import to_json
from attnviz.pages.html import LIVE_POLICY, head, tail
from attnviz.pages.viewer import OutOfRange, Stopped, Unwanted, Viewer

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from attnviz.pages.connections import Bounded, quiet
except ModuleNotFoundError as error:
    raise InputError(f"attnviz view needs {error.name}, which is not installed: pip install 'attnviz[view]'") from error

HOST = "127.0.0.1"

HEADERS = {
    "Content-Security-Policy": f"{LIVE_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every answer carries."""

_GONE = 499  # after nginx: the status of an answer that nobody waits for any more

Endpoint = Callable[[Request], Awaitable[Response]]


def application(viewer: Viewer, *, token: str, port: int) -> ASGIApp:
    """What answers requests: ``web/FORMAT.md`` lists what for.

    Args:
        viewer: computes what is asked for; closed when the server ends.
        token: the first path part of every address.
        port: where it is served, as the Host header must have it.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        viewer.close()

    inside = Starlette(
        routes=[Route(path, _answering(endpoint)) for path, endpoint in _Endpoints(viewer).by_path.items()],
        exception_handlers={HTTPException: _refusal, Exception: _defect},
        lifespan=lifespan,
    )
    inside.router.redirect_slashes = False
    return Guard(inside, token, port)


class _Endpoints:
    """What a page asks, each answer the viewer's."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.page = head(viewer.description["source"], LIVE_POLICY) + tail(viewer.description)
        self.described = to_json(viewer.description)

    @property
    def by_path(self) -> dict[str, Endpoint]:
        """Each endpoint by its path, whose parts are its parameters."""
        return {
            "/": self.index,
            "/run.json": self.run,
            "/tile/{layer}/{head}/{level}/{row}/{column}/{reduce}": self.tile,
            "/alive": self.alive,
            "/pass/{what}/{layer}/{head}": self.progress,
            "/row/{layer}/{head}/{query}": self.row,
            "/column/{layer}/{head}/{key}": self.column,
            "/sides/{layer}/{head}": self.sides,
            "/weights/{layer}/{head}/{t0}/{t1}/{s0}/{s1}": partial(self.rectangle, values="weights"),
            "/logits/{layer}/{head}/{t0}/{t1}/{s0}/{s1}": partial(self.rectangle, values="logits"),
            "/vectors/{layer}/{head}/{query}/{keys}": self.vectors,
            "/thumbnail/{layer}/{head}": self.thumbnail,
            "/statistics/{layer}/{head}": self.statistics,
        }

    async def index(self, _: Request) -> Response:
        return Response(self.page, media_type="text/html")

    async def run(self, _: Request) -> Response:
        return Response(self.described, media_type="application/json")

    async def tile(self, request: Request) -> Response:
        layer, of, level, row, column = _numbers(request, "layer", "head", "level", "row", "column")
        return _floats(await self.viewer.tile(layer, of, level, row, column, request.path_params["reduce"]))

    async def progress(self, request: Request) -> Response:
        layer, of = _numbers(request, "layer", "head")
        rows, done = await self.viewer.progress(layer, of, request.path_params["what"])
        return JSONResponse({"rows": rows, "done": done})

    async def alive(self, _: Request) -> Response:
        return JSONResponse({"changed": self.viewer.changed()})

    async def row(self, request: Request) -> Response:
        return _floats(await self.viewer.row(*_numbers(request, "layer", "head", "query")))

    async def column(self, request: Request) -> Response:
        return _floats(await self.viewer.column(*_numbers(request, "layer", "head", "key")))

    async def sides(self, request: Request) -> Response:
        return _floats(await self.viewer.sides(*_numbers(request, "layer", "head")))

    async def rectangle(self, request: Request, values: str) -> Response:
        layer, of, t0, t1, s0, s1 = _numbers(request, "layer", "head", "t0", "t1", "s0", "s1")
        return _floats(await self.viewer.rectangle(layer, of, range(t0, t1), range(s0, s1), values))

    async def vectors(self, request: Request) -> Response:
        layer, of, query = _numbers(request, "layer", "head", "query")
        return _floats(await self.viewer.vectors(layer, of, query, _listed(request, "keys")))

    async def thumbnail(self, request: Request) -> Response:
        small = await self.viewer.thumbnail(*_numbers(request, "layer", "head"))
        return _binary(np.array([*small.cells.shape, small.queries], dtype="<u4").tobytes() + _little(small.cells))

    async def statistics(self, request: Request) -> Response:
        numbers = await self.viewer.statistics(*_numbers(request, "layer", "head"))
        return Response(status_code=204) if numbers is None else JSONResponse(numbers)


class Guard:
    """Lets through what a page of ours asks: this host, no other origin, the token.

    A site that a person visits can send requests to their machine, and can give a name of its own this address
    (DNS rebinding): hence Origin and Host. The token keeps out other programs and people of the machine.
    """

    def __init__(self, inside: ASGIApp, token: str, port: int) -> None:
        self.inside, self.token = inside, token.encode()
        names = (HOST, "localhost")
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application's interface."""
        if scope["type"] == "lifespan":
            await self.inside(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        token, slash, path = scope["path"].removeprefix("/").partition("/")
        refusal: Response | None = None
        if [host.lower() for host in headers.getlist("host")] not in [[host] for host in self.hosts]:
            refusal = _said("this server answers to 127.0.0.1 and localhost alone, at its own port", 403)
        elif any(origin.lower() not in self._origins for origin in headers.getlist("origin")):
            refusal = _said("this server answers its own pages alone", 403)
        elif not secrets.compare_digest(token.encode(errors="surrogateescape"), self.token):
            refusal = _said("the token is not this server's; open the address that attnviz view printed", 403)
        elif not slash:
            refusal = RedirectResponse(f"/{token}/")
        if refusal is not None:
            await refusal(scope, receive, guarded)
        else:
            await self.inside({**scope, "path": f"/{path}"}, receive, guarded)

    @property
    def _origins(self) -> set[str]:
        return {f"http://{host}" for host in self.hosts}


def listen(port: int) -> socket.socket:
    """A socket that listens on the loopback interface; port 0 is any that is free.

    Raises:
        InputError: the port is taken, or not ours to take.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InputError(f"--port {port}: {error.strerror}; choose another, or none for one that is free") from error
    return listening


def serve(viewer: Viewer, listening: socket.socket, token: str) -> None:
    """Answers requests until Ctrl-C.

    Args:
        viewer: computes what is asked for.
        listening: what :func:`listen` gave.
        token: the first path part of every address.
    """
    app = application(viewer, token=token, port=listening.getsockname()[1])
    config = uvicorn.Config(
        app,
        http=Bounded,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody may say that they are somebody else
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    quiet()
    with suppress(KeyboardInterrupt):
        _Server(config, viewer).run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that tells a pass to end as soon as it is told to."""

    def __init__(self, config: uvicorn.Config, viewer: Viewer) -> None:
        super().__init__(config)
        self.viewer = viewer

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.viewer.stop()
        super().handle_exit(sig, frame)


def _answering(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose refusals are JSON of one line, and that stops waiting when its client is gone."""

    async def answer(request: Request) -> Response:
        answering = asyncio.ensure_future(endpoint(request))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            return await answering if answering.done() else Response(status_code=_GONE)
        except OutOfRange as error:
            return _said(str(error), 404)
        except InputError as error:
            return _said(str(error), 422)
        except Stopped:
            return _said("attnviz view is ending", 503)
        except Unwanted:
            return _said("nobody waited for this any more", 503)
        except Exception as error:
            if not is_memory(error):
                raise
            return _said("this needs more memory than there is; bound it with --memory", 503)
        finally:
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    return answer


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _numbers(request: Request, *names: str) -> list[int]:
    """Numbers out of the path. Raises OutOfRange for what is not one, or has more digits than any position."""
    return [_number(name, request.path_params[name]) for name in names]


def _listed(request: Request, name: str) -> list[int]:
    """Several, with commas between them, likewise."""
    return [_number(name, text) for text in request.path_params[name].split(",")]


def _number(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,15}", text):
        raise OutOfRange(f"{name} {text[:20]!r} is not a number from 0")
    return int(text)


def _little(cells: Cells) -> bytes:
    return cells.astype("<f4").tobytes()


def _binary(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


def _floats(cells: Cells) -> Response:
    return _binary(_little(cells))


def _said(text: str, status: int) -> Response:
    return JSONResponse({"error": " ".join(text.split())}, status_code=status)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _said(
        {404: "there is nothing here", 405: "only GET is answered"}.get(error.status_code, error.detail),
        error.status_code,
    )


async def _defect(request: Request, error: Exception) -> Response:
    return _said("attnviz failed; its terminal says more", 500)
