"""Pictures that models looked at: in dumps, and in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError
from attnviz.sources.files import open_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.base.patches import PatchSpec


def picture_of(path: Path) -> tuple[Tensor | None, PatchSpec | None]:
    """The picture that a captured model looked at, (height, width, 3) uint8, and how its patches lie; None where it doesn't say.

    Raises:
        InputError: what it holds is no picture.
    """
    file = open_tensors(path)
    patches, found = file.metadata.get("patches"), None
    if "picture" in file.contents:
        found = checked_picture(file.read("picture"), f"{path}: picture")
    if isinstance(patches, list) and len(patches) == 2 and all(isinstance(size, int) and size > 0 for size in patches):
        return found, (patches[0], patches[1])
    return found, patches if isinstance(patches, str) else None


def checked_picture(found: Tensor, name: str) -> Tensor:
    """A picture, (height, width, 3) uint8. Raises InputError for a tensor that is none, by its ``name``."""
    if found.ndim != 3 or found.shape[2] != 3 or 0 in found.shape or str(found.dtype) != "torch.uint8":
        dtype = str(found.dtype).removeprefix("torch.")
        raise InputError(f"{name} has shape {tuple(found.shape)} and dtype {dtype}, wanted (height, width, 3) uint8")
    return found


def read_picture(path: Path) -> Tensor:
    """A picture's file, (height, width, 3) uint8. Raises InputError for one that Pillow doesn't read."""
    import numpy as np
    import torch
    from PIL import Image

    if not path.exists():
        raise InputError(f"--picture {path}: there is no such file")
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"--picture {path}: is not a picture that Pillow reads: {said}") from error
