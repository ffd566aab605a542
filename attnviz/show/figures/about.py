"""What a figure's file says of itself: words for those who can't see it, and how it was made.

A PNG has them as text chunks, a PDF as its subject and keywords, an SVG in its metadata, and as its label and
description. :func:`read_about` reads them
back, for ``attnviz inspect figure.png``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from typing import Any

from attnviz.base.errors import InputError
from attnviz.base.words import printable

SCHEMA = "attnviz.figure/1"


@dataclass(frozen=True)
class About:
    """What a figure shows, and how it was made.

    Args:
        words: what is drawn, as a caption says it: a text for those who can't see it.
        settings: names and plain values: the kind of figure, and of its look what is not the default.
    """

    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, suffix: str) -> dict[str, Any]:
        """As matplotlib writes it into a file of this kind."""
        told = json.dumps({"schema": SCHEMA, **self.settings}, default=str)
        words = printable(self.words)
        said: dict[str, dict[str, Any]] = {
            ".png": {"Description": words, "attnviz": told},
            ".pdf": {"Subject": words, "Keywords": told},
            ".svg": {"Description": words, "Keywords": [told]},
        }
        return said[suffix]

    def describe(self, path: Path) -> None:
        """Says the words where readers of a page's SVG look for them, who read no metadata: in a file just written."""
        words = escape(printable(" ".join(self.words.split())))
        text = path.read_text(encoding="utf-8")
        start = text.index("<svg ")
        end = text.index(">", start)
        head = f'{text[start:end]} role="img" aria-label="{words}">\n <desc>{words}</desc>'
        path.write_text(text[:start] + head + text[end + 1 :], encoding="utf-8", newline="\n")


def read_about(path: Path) -> About:
    """What a figure's file says of itself.

    Raises:
        InputError: it can't be read, or says nothing, as figures of other programs do.
    """
    try:
        words, told = {".png": _of_png, ".pdf": _of_pdf, ".svg": _of_svg}[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        settings = json.loads(told or "")
        assert settings.pop("schema") == SCHEMA
    except (ValueError, KeyError, AttributeError, AssertionError) as error:
        raise InputError(f"{path}: doesn't say how it was made; attnviz wrote into its figures since 0.1.0") from error
    return About(words or "", settings)


def _of_png(path: Path) -> tuple[str | None, str | None]:
    from PIL import Image

    with Image.open(path) as image:
        return image.info.get("Description"), image.info.get("attnviz")


def _of_svg(path: Path) -> tuple[str | None, str | None]:
    text = path.read_text(encoding="utf-8", errors="replace")
    found = (
        re.search(rf"<dc:{name}>\s*(?:<rdf:Bag>\s*<rdf:li>)?(.*?)</", text, flags=re.DOTALL)
        for name in ("description", "subject")
    )
    words, told = (None if one is None else unescape(one[1]) for one in found)
    return words, told


def _of_pdf(path: Path) -> tuple[str | None, str | None]:
    content = path.read_bytes()
    words, told = (_pdf_string(content, name) for name in (b"/Subject", b"/Keywords"))
    return words, told


def _pdf_string(content: bytes, name: bytes) -> str | None:
    """A string of a PDF's information: in parentheses, with escapes, and in UTF-16 where it isn't plain ASCII."""
    start = content.find(name + b" (")
    if start < 0:
        return None
    found, at = bytearray(), start + len(name) + 2
    escapes = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
    while content[at : at + 1] not in (b")", b""):
        letter = content[at : at + 1]
        if letter == b"\\":
            at += 1
            letter = escapes.get(content[at : at + 1], content[at : at + 1])
        found += letter
        at += 1
    return found.decode("utf-16" if found.startswith((b"\xfe\xff", b"\xff\xfe")) else "latin-1")
