"""Small files that cases are made of: of every format and kind, and some that were made to do harm.

`python -m tests.fuzz.corpus` writes them to the folder beside this file. What `make fuzz` found lies there too.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

import attnviz
from attnviz.cli.main import main
from attnviz.sources.files import METADATA, write_tensors
from tests.cases import small

FOLDER = Path(__file__).parent / "corpus"


@cache
def corpus() -> dict[str, bytes]:
    """Every file by its name."""
    return {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}


def tiny(**changes: object) -> attnviz.AttentionInputs:
    """One item, two heads, four tokens of two numbers."""
    return small(**{"batch": 1, "heads": 2, "kv_heads": 1, "tokens": 4, "head_dim": 2, **changes})


def write() -> None:
    """Writes the files that are no finds."""
    os.chdir(FOLDER)
    attnviz.save("good.safetensors", replace(tiny(), tokens=[["the", "cat", "sat", "down"]]))
    attnviz.save("other.npz", tiny(seed=1))
    attnviz.save("two.pt", tiny(batch=2))
    attnviz.save("layers.safetensors", [tiny(seed=n) for n in range(2)])
    whole = attnviz.score(tiny(), "causal").weights
    np.save("weights.npy", whole.numpy())
    packed = {name: torch.randn(5, 2, 2) for name in "qkv"}
    write_tensors(Path("packed.npz"), packed | {"cu_seqlens_q": torch.tensor([0, 2, 5])})
    np.savez(
        "masks.npz",
        pairs=np.tril(np.ones((4, 4), bool)), padding=np.array([[1, 1, 1, 0]], bool), blocks=np.eye(2, dtype=bool),
        bias=np.zeros((2, 4, 4), np.float32), slopes=np.ones(2, np.float32), documents=np.array([[0, 0, 1, 1]]),
    )  # fmt: skip
    for arguments in (
        ["snapshot", "save", "good.safetensors", "kept.json"],
        ["plot", "good.safetensors", "--head", "0", "-o", "figure.svg"],
        ["plot", "good.safetensors", "--head", "0", "--dpi", "20", "-o", "figure.png"],
    ):
        sys.argv = ["attnviz", *arguments]
        with suppress(SystemExit):
            main()
    harmful()


def harmful() -> None:
    """Writes files that say what is not so, or would run."""
    good = Path("good.safetensors").read_bytes()
    Path("truncated.safetensors").write_bytes(good[:-7])
    Path("long-header.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + good[8:])
    said = {METADATA: '{"scale":' + "9" * 400 + ',"layout":"bhtd"}'}
    header = {"__metadata__": said, "q": {"dtype": "F32", "shape": [1, 1, 1, 1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    Path("digits.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    Path("pickle.pt").write_bytes(pickle.dumps({"q": os.getcwd}))
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "<f4", "fortran_order": False, "shape": (1, 1, 1 << 40, 4)})
    Path("lying.npy").write_bytes(lying.getvalue())
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "qk":
            archive.writestr(f"{name}.npy", lying.getvalue() + bytes(64))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    Path("objects.npy").write_bytes(objects.getvalue())
    folder = Path(tempfile.mkdtemp())
    torch.save({"q": torch.zeros(1).expand(1, 2, 1 << 20, 1 << 12), "k": torch.zeros(1, 2, 4, 2)}, folder / "x.pt")
    Path("expanded.pt").write_bytes((folder / "x.pt").read_bytes())
    q = torch.zeros(1, 2, 4, 2)
    torch.save({"q": q.to_sparse(), "k": q, "v": q.to("meta")}, "sparse.pt")
    Path("deep.json").write_text('{"a":' + "[" * 5000)


if __name__ == "__main__":
    write()
