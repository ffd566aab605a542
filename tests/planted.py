"""Lone bright cells, planted in maps that nobody computed, and how many of them a finished file still shows."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import label

import attnviz
from attnviz.maps.map import AttentionMap

BRIGHT = (21, 22, 75)  # the darkest ink
RASTERIZERS = {".pdf": "pdftoppm", ".svg": "rsvg-convert"}


def spots(rows: int, columns: int, count: int) -> list[tuple[int, int]]:
    """``count`` cells, an even number: apart from each other and from the diagonal."""
    return [((2 * n + 1) * rows // (2 * count), (2 * (count - n) - 1) * columns // (2 * count)) for n in range(count)]


def cells(rows: int, columns: int, count: int, bright: float = 1.0) -> np.ndarray:
    """Dark, with ``count`` bright cells; the upper right is hidden, bright cells apart."""
    found = np.full((rows, columns), 0.02, dtype=np.float32)
    found[: rows // 3, columns - columns // 8 :] = np.nan
    for row, column in spots(rows, columns, count):
        found[row, column] = bright
    return found


def planted_map(
    T: int, pixels: int, count: int, head: int = 0, labels: Sequence[str] | None = None, **what: object
) -> AttentionMap:
    """A map of T queries and keys in at most ``pixels`` cells a side, as the program would reduce it."""
    side = min(T, pixels)
    return AttentionMap(cells(side, side, count), "weights", head, range(T), range(T), labels, labels, **what)


def planted_inputs(T: int, heads: int, count: int) -> attnviz.AttentionInputs:
    """Inputs whose ``local`` maps of window 4 are dark, with ``count`` bright cells beside each head's diagonal."""
    import torch

    rows = [(2 * n + 1) * T // (2 * count) for n in range(count)]
    q, k = torch.zeros(1, heads, T, 1), torch.zeros(1, 1, T, 1)
    q[:, :, rows] = 40.0
    k[:, :, [row - 1 for row in rows]] = 1.0
    return attnviz.AttentionInputs(q, k)


def seen(picture: np.ndarray, color: Sequence[float] = BRIGHT, near: int = 60, least: float = 0) -> int:
    """How many spots of a color there are in a picture, (height, width, 3): pixels that touch are one.

    The color is none of grays.

    Spots of less than ``least`` of the largest one's pixels are specks where lines cross cells.
    """
    red, green, blue = (picture[..., n].astype(np.int16) for n in range(3))
    bright = (red - blue) * np.sign(
        int(color[0]) - int(color[2])
    ) >= 25  # no letters, whose edges are gray, and no hatches
    for channel, wanted in zip((red, green, blue), color, strict=True):
        bright &= abs(channel - np.int16(wanted)) <= near
    sizes = np.bincount(label(bright, connectivity=2).ravel())[1:]
    return int((sizes >= least * sizes.max(initial=0)).sum())


def glimmers(picture: np.ndarray) -> int:
    """As :func:`seen`, of what a viewer that shrinks a picture leaves of the darkest ink amid the lightest."""
    red, blue = picture[..., 0].astype(np.int16), picture[..., 2].astype(np.int16)
    sizes = np.bincount(label(blue - red >= 4, connectivity=2).ravel())[1:]
    return int(
        (sizes >= 0.05 * sizes.max(initial=0)).sum()
    )  # where a large cell's edge lies below the frame are specks


def within(picture: np.ndarray, boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """A picture's boxes alone, given as shares of it from below: left, bottom, right, top."""
    height, width, _ = picture.shape
    found = np.full_like(picture, 255)
    for left, bottom, right, top in boxes:
        rows = slice(max(0, int((1 - top) * height) - 2), int((1 - bottom) * height) + 3)
        columns = slice(max(0, int(left * width) - 2), int(right * width) + 3)
        found[rows, columns] = picture[rows, columns]
    return found


def opened(file: Path | io.BytesIO) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def rasterized(file: Path, dpi: float) -> np.ndarray | None:
    """What a PNG holds, or how a viewer shows a PDF or an SVG; None where the machine has no viewer, or it shows none so high."""
    if file.suffix == ".png":
        return opened(file)
    tool = RASTERIZERS[file.suffix]
    if shutil.which(tool) is None:
        return None
    out = file.with_name(f"{file.name}.png")
    command = {
        "pdftoppm": ["-r", f"{dpi}", "-png", "-singlefile", file, out.with_suffix("")],
        "rsvg-convert": ["-d", f"{dpi}", "-p", f"{dpi}", "-o", out, file],
    }[tool]
    done = subprocess.run([tool, *command], capture_output=True, timeout=120)
    if b"larger than 32767 pixels" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return opened(out)


def embedded(file: Path) -> list[np.ndarray] | None:
    """The pictures that a PDF or an SVG embeds; None where the machine cannot tell."""
    if file.suffix == ".svg":
        found = re.findall(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", file.read_text())
        return [opened(io.BytesIO(base64.b64decode(text))) for text in found]
    if shutil.which("pdfimages") is None:
        return None
    root = file.with_name(f"{file.stem}-embedded")
    subprocess.run(["pdfimages", "-png", file, root], check=True, timeout=120)
    return [opened(path) for path in sorted(file.parent.glob(f"{root.name}-*.png"))]


def pairwise_cover(factors: dict[str, Sequence[object]]) -> Iterator[tuple[object, ...]]:
    """Cases in which each two values of two factors meet: the greedy choice, the same every time."""
    every = list(product(*(range(len(values)) for values in factors.values())))
    pairs = [{(a, case[a], b, case[b]) for a, b in combinations(range(len(case)), 2)} for case in every]
    missing = set().union(*pairs)
    while missing:
        best = max(range(len(every)), key=lambda n: len(pairs[n] & missing))
        missing -= pairs[best]
        yield tuple(values[at] for values, at in zip(factors.values(), every[best], strict=True))
