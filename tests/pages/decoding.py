"""A page read as ``web/FORMAT.md`` says, in float64 and plain numpy. Shares no code with the package, on purpose."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from typing import Any

import numpy as np


class Page:
    """An HTML file, taken apart."""

    def __init__(self, text: str) -> None:
        self.text = text
        (run,) = re.findall(r'<script type="application/json" id="attnviz-run">(.*?)</script>', text, re.DOTALL)
        self.run: dict[str, Any] = json.loads(run, parse_constant=_refuse)
        chunks = re.findall(r'<script type="text/plain" id="attnviz-chunk-(\d+)">([^<]*)</script>', text)
        self.chunks = {int(index): base64.b64decode(content, validate=True) for index, content in chunks}

    @property
    def layers(self) -> list[dict[str, Any]]:
        return self.run["layers"]

    def array(self, blob: dict[str, Any]) -> np.ndarray:
        """A blob's values: float64, or bool where it holds bits."""
        raw = self.chunks[blob["chunk"]][blob["offset"] : blob["offset"] + blob["length"]]
        assert len(raw) == blob["length"]
        raw = zlib.decompress(raw) if blob["deflate"] else raw
        shape, count = tuple(blob["shape"]), math.prod(blob["shape"])
        match blob["dtype"]:
            case "f32" | "f16":
                return np.frombuffer(raw, "<f4" if blob["dtype"] == "f32" else "<f2").reshape(shape).astype(float)
            case "q16":
                codes = np.frombuffer(raw, "<u2").astype(int)
                return (codes.reshape(shape) - 32768) * self.array(blob["steps"])[..., None]
            case "q12":
                assert len(raw) == -(-count // 2) * 3
                codes = []
                for i in range(0, len(raw), 3):
                    b0, b1, b2 = raw[i : i + 3]
                    codes += [b0 | (b1 & 15) << 8, b1 >> 4 | b2 << 4]
                assert count == len(codes) or codes.pop() == 2048
                return (np.array(codes).reshape(shape) - 2048) * self.array(blob["steps"])[..., None]
            case "bits":
                assert len(raw) == -(-count // 8)
                return np.array([bool(raw[i // 8] >> i % 8 & 1) for i in range(count)]).reshape(shape)
            case "u8map" | "u16map":
                wide = blob["dtype"] == "u16map"
                codes = np.frombuffer(raw, "<u2" if wide else "u1").reshape(shape).astype(float)
                tops = np.array(blob["tops"])[:, None, None]
                return np.where(codes == 0, np.nan, (codes - 1) / (65534 if wide else 254) * tops)
        raise AssertionError(blob["dtype"])

    def visible(self, layer: dict[str, Any]) -> np.ndarray:
        """(1 or H, T, S) bool: one for all heads, or one a head."""
        sees, T, S = layer["visible"], layer["queries"], layer["keys"]
        if sees["kind"] == "bits":
            assert len(sees["blobs"]) in (1, layer["heads"])
            return np.stack([self.array(blob) for blob in sees["blobs"]])
        offset = np.arange(S)[None] - np.arange(T)[:, None]
        found = np.ones((T, S), dtype=bool)
        if sees["low"] is not None:
            found &= offset >= sees["low"]
        if sees["high"] is not None:
            found &= offset <= sees["high"]
        if sees["keys"] is not None:
            found &= self.array(sees["keys"])[None]
        if sees["queries"] is not None:
            found &= self.array(sees["queries"])[:, None]
        return found[None]

    def positions(self, layer: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(T,) and (S,): where queries and keys stand."""
        given = layer["positions"]
        queries, keys = (
            np.array(at) if isinstance(at, list) else at + np.arange(size)
            for at, size in ((given["queries"], layer["queries"]), (given["keys"], layer["keys"]))
        )
        assert (queries.shape, keys.shape) == ((layer["queries"],), (layer["keys"],))
        return queries, keys

    def logits(self, layer: dict[str, Any]) -> np.ndarray:
        """(H, T, S), -inf where hidden."""
        H, K, T, S = (layer[name] for name in ("heads", "kv_heads", "queries", "keys"))
        q, k = self.array(layer["q"]), self.array(layer["k"])
        assert q.shape == (H, T, layer["head_dim"])
        assert k.shape == (K, S, layer["head_dim"])
        kv = [h * K // H for h in range(H)]
        scores = np.einsum("htd,hsd->hts", q, k[kv])
        if layer["global"] is not None:
            own = layer["global"]
            scores[:, own["rows"]] = np.einsum("hrd,hsd->hrs", self.array(own["q"]), self.array(own["k"])[kv])
        scores *= layer["scale"]
        if layer["softcap"] is not None:
            scores = layer["softcap"] * np.tanh(scores / layer["softcap"])
        if layer["bias"] is not None:
            scores = scores + self.array(layer["bias"])
        if layer["alibi"] is not None:
            queries, keys = self.positions(layer)
            distance = np.abs(queries[:, None] - keys[None])
            scores = scores - np.array(layer["alibi"])[:, None, None] * distance
        return np.where(self.visible(layer), scores, -np.inf)

    def weights(self, layer: dict[str, Any]) -> np.ndarray:
        """(H, T, S), 0 where hidden, NaN in the rows of queries that see nothing."""
        return np.exp(self.logits(layer) - self.array(layer["log_sum_exp"])[:, :, None])


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def entropies(weights: np.ndarray) -> np.ndarray:
    """Of rows of weights that are NaN where hidden, in nats; NaN where nothing is seen."""
    logs = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    return np.where(np.isnan(weights).all(-1), np.nan, -np.nansum(weights * logs, axis=-1))
