"""The page as one HTML file: the front end, the description and every array in it; nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from attnviz.base.errors import InputError
from attnviz.base.types import Progress
from attnviz.base.words import printable
from attnviz.base.writing import atomic
from attnviz.pages.blobs import Chunk
from attnviz.pages.description import PageLayer, to_json
from attnviz.pages.encoding import PageEncoder, check_size, least_bytes
from attnviz.pages.frontend import asset

MOST_BYTES = 200_000_000
"""The largest file that is written where nobody asks for more."""

_MOST_CHUNK = 500_000_000  # characters of a string in a browser

EMBEDDED_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; worker-src blob:; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""What an embedded page may do: run what is in it, and no request to any host."""

LIVE_POLICY = f"{EMBEDDED_POLICY}; connect-src 'self'"
"""What a live page may do: that, and ask the server that it came from."""


def write_page(
    path: Path,
    layers: Iterable[PageLayer],
    source: str,
    *,
    most: int = MOST_BYTES,
    progress: Progress | None = None,
) -> int:
    """Writes a page of some layers, whole or not at all.

    Args:
        path: the file.
        layers: at least one; each is taken, written and let go before the next is asked for. Of a list or a tuple,
            which are all there already, every size is checked before any work.
        source: what the page is called.
        most: the most bytes that the file may have.
        progress: called with the number of query rows done.

    Returns:
        The bytes of the file.

    Raises:
        InputError: the file would be larger than ``most``, or can't be written; what the engine refuses.

    >>> import attnviz, tempfile
    >>> layer = PageLayer("0", attnviz.synthesize(heads=2, tokens=20).item(), attnviz.Causal(), (0, 1))
    >>> write_page(Path(tempfile.mkdtemp()) / "page.html", [layer], "synthetic") < 500_000
    True
    """
    written = least = 0

    def check(layer: PageLayer) -> None:
        nonlocal least
        check_size(layer)
        least += least_bytes(layer)
        check_bytes(str(path), least * 4 // 3, most, "would be at least")

    if isinstance(layers, list | tuple):
        for layer in layers:
            check(layer)
    else:
        layers = _checked(layers, check)
    with atomic(path) as temporary, temporary.open("wb") as file:
        for part in page(layers, source, progress):
            written += file.write(part)
            check_bytes(str(path), written, most, "would be more than")
    return written


def _checked(layers: Iterable[PageLayer], check: Callable[[PageLayer], None]) -> Iterator[PageLayer]:
    """The layers, each checked as it comes; none is held while the next is read."""
    for layer in layers:
        check(layer)
        yield layer
        del layer


def page(layers: Iterable[PageLayer], source: str, progress: Progress | None = None) -> Iterator[bytes]:
    """The parts of an embedded page's file, one after another: one layer is in memory at a time."""
    encoder, begun = PageEncoder(layers, source, progress), False
    for chunk in encoder.chunks():
        if not begun:  # its name is known with the first layer
            begun = True
            yield head(encoder.source, EMBEDDED_POLICY)
        yield _element(source, chunk)
    yield tail(encoder.description)


def head(source: str, policy: str) -> bytes:
    """A page's file up to and with the element it is shown in."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(printable(source))} · attnviz</title>\n<style>{asset('attnviz.css')}</style>\n</head>\n<body>\n"
        '<div id="attnviz"></div>\n'
    ).encode(errors="xmlcharrefreplace")


def tail(described: dict[str, Any]) -> bytes:
    """The rest: the description, and the front end, which runs when all else is there."""
    return (
        f'<script type="application/json" id="attnviz-run">{to_json(described)}</script>\n'
        f"<script>{asset('attnviz.js')}</script>\n</body>\n</html>\n"
    ).encode()


def _element(source: str, chunk: Chunk) -> bytes:
    text = base64.b64encode(chunk.data)
    if len(text) > _MOST_CHUNK:
        raise InputError(
            f"{source}: a layer takes {len(text):,} bytes of a page, and a browser opens {_MOST_CHUNK:,}; "
            f"take fewer heads (--head), or look at it with: attnviz view"
        )
    return b'<script type="text/plain" id="attnviz-chunk-%d">%b</script>\n' % (chunk.index, text)


def check_bytes(name: str, size: int, most: int, found: str) -> None:
    """Raises InputError for a page of more bytes than it may have."""
    if size > most:
        raise InputError(
            f"{name}: {found} {decimal(size)}, above --most {decimal(most)}; take fewer layers or heads "
            f"(--layer, --head), raise --most, or look at it without a file: attnviz view"
        )
