"""Attention kernels with a planted mistake each, dense and in float64. Shares no code with the package, on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

NEVER = -math.inf


@dataclass
class Kernel:
    """What a dense kernel does, step by step; a mistake changes some of it."""

    q: Tensor  # (B, H, T, D)
    k: Tensor  # (B, H_kv, S, D)
    v: Tensor  # (B, H_kv, S, D_v)
    count: Tensor  # (B, T, S) how often each key counts
    scale: float
    kv_heads: list[int]  # which key head each head reads
    window: int = 0
    dilation: int = 1
    globals_: tuple[int, ...] = ()
    q_global: Tensor | None = None
    k_global: Tensor | None = None
    v_global: Tensor | None = None
    global_rows: tuple[int, ...] = ()
    cap: float | None = None
    bias: Tensor | None = None  # (H, T, S)
    slopes: Tensor | None = None  # (H,)
    sinks: Tensor | None = None  # (H,)
    padding: Tensor | None = None  # (B, S) True where the key exists
    base: float = math.e
    axis: int = -1
    hidden: float = NEVER
    cap_last: bool = False
    of_first: bool = False  # distances from index t, not from t + S - T
    size: int = 0  # of chunks
    prefix: int = 0
    documents: Tensor | None = None  # (B, S)
    blocks: Tensor | None = None  # (n_q, n_k), of BLOCK queries and keys each
    after: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = field(default=lambda w, c: (w, c))

    @property
    def T(self) -> int:
        return self.q.shape[2]

    @property
    def S(self) -> int:
        return self.k.shape[2]

    def distance(self) -> Tensor:
        """p(s) - p(t), (T, S)."""
        t = torch.arange(self.T) + (0 if self.of_first else self.S - self.T)
        return torch.arange(self.S)[None, :] - t[:, None]

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, H, T, S), context (B, H, T, D_v), log-sum-exp (B, H, T)."""
        weights, context, total = self._run(self.q, self.k, self.v)
        if self.q_global is not None and self.global_rows:
            rows = list(self.global_rows)
            own = self._run(self.q_global, self.k_global, self.v_global)
            for whole, part in zip((weights, context, total), own, strict=True):
                whole[:, :, rows] = part[:, :, rows]
        return *self.after(weights, context), total

    def _run(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v = (tensor.double()[:, self.kv_heads] for tensor in (k, v))
        x = q.double() @ k.transpose(2, 3) * self.scale
        if self.cap is not None and not self.cap_last:
            x = self.cap * torch.tanh(x / self.cap)
        if self.bias is not None:
            x = x + self.bias.double()
        if self.slopes is not None:
            x = x - self.slopes.double()[:, None, None] * self.distance().abs()
        count = self.count[:, None].double().expand(x.shape)
        x = x.masked_fill(count == 0, self.hidden)
        if self.cap is not None and self.cap_last:
            x = self.cap * torch.tanh(x / self.cap)
            count = count.clamp(min=1)
        if self.hidden != NEVER:
            count = count.clamp(min=1)
        x = x * math.log(self.base)
        terms = count * torch.exp(x)
        total = terms.sum(self.axis, keepdim=True)
        if self.sinks is not None:
            total = total + torch.exp(self.sinks.double() * math.log(self.base))[:, None, None]
        weights = terms / total
        return weights, weights @ v, torch.log(total.squeeze(-1)) if self.axis == -1 else total[..., 0]


def band(kernel: Kernel, low: int, high: int, step: int = 1, phase: int = 0) -> Tensor:
    """(B, T, S): keys at distances of ``low`` to ``high``, global keys and rows of global queries beside."""
    far = kernel.distance()
    seen = (far >= low) & (far <= high) & ((far - phase) % step == 0)
    for key in kernel.globals_:
        seen[:, key] = True
    for row in kernel.global_rows:
        seen[row] = True
    return _whole(kernel, seen)


def chunks(kernel: Kernel, size: int) -> Tensor:
    """(B, T, S): keys of the query's own chunk, up to its own."""
    far = kernel.distance()
    own = torch.arange(kernel.S)[None, :] - far
    return _whole(kernel, (torch.arange(kernel.S) // size == own // size) & (far <= 0))


def prefixed(kernel: Kernel, n: int) -> Tensor:
    """(B, T, S): the first n keys, and those up to the query's own."""
    return _whole(kernel, (kernel.distance() <= 0) | (torch.arange(kernel.S) < n))


def packed(kernel: Kernel, documents: Tensor) -> Tensor:
    """(B, T, S): keys of the query's own document, up to its own."""
    own = documents[:, kernel.S - kernel.T :]
    return (documents[:, None, :] == own[:, :, None]) & (kernel.distance() <= 0)


def blocked(kernel: Kernel, matrix: Tensor, rows: int, columns: int, offset: int = 0) -> Tensor:
    """(B, T, S): the keys of the blocks that the query's own block sees."""
    down = ((torch.arange(kernel.T) + offset) // rows).clamp(max=matrix.shape[0] - 1)
    across = (torch.arange(kernel.S) // columns).clamp(max=matrix.shape[1] - 1)
    return _whole(kernel, matrix[down][:, across])


BLOCK = 8


def _whole(kernel: Kernel, seen: Tensor) -> Tensor:
    found = seen.expand(kernel.q.shape[0], *seen.shape).double().clone()
    return found if kernel.padding is None else found * kernel.padding[:, None, :]


CASES = (
    "full",
    "causal",
    "window",
    "causal window",
    "dilated",
    "longformer",
    "padded",
    "mask",
    "softcap",
    "bias",
    "alibi",
    "sinks",
    "chunked",
    "prefix",
    "documents",
    "blocks",
    "mask_mod",
)


def case(name: str, T: int, S: int, dtype: torch.dtype, seed: int = 0, *, D: int = 16, B: int = 2) -> Kernel:
    """A right kernel: grouped heads, queries that are the last T of S positions."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    H, H_kv = 4, 2
    made = Kernel(
        normal(B, H, T, D),
        normal(B, H_kv, S, D),
        normal(B, H_kv, S, D + 3),
        torch.empty(0),
        D**-0.5,
        [h // 2 for h in range(H)],
    )
    every, window = 2 * S, max(2, min(256, S // 4))
    made.count = band(made, -every, every)
    if name == "causal":
        made.count = band(made, -every, 0)
    if name == "window":
        made.window, made.count = window, band(made, -window, window)
    if name == "causal window":
        made.window, made.count = window, band(made, -window, 0)
    if name == "dilated":
        made.window, made.dilation = window // 2, 2
        made.count = band(made, -2 * made.window, 2 * made.window, 2)
    if name == "longformer":
        made.window = window
        made.globals_ = (0, S - 2)
        made.global_rows = tuple(key - (S - T) for key in made.globals_ if key >= S - T)
        made.q_global, made.k_global, made.v_global = (
            normal(B, H, T, D),
            normal(B, H_kv, S, D),
            normal(B, H_kv, S, D + 3),
        )
        made.count = band(made, -window, window)
    if name == "padded":
        made.padding = torch.arange(S)[None] < torch.tensor([[S], [S - max(1, S // 5)]])[:B]
        made.count = band(made, -every, every)
    if name == "mask":
        seen = torch.rand(T, S, generator=draw) < 0.6
        seen[:, 0] = True
        made.count = _whole(made, seen)
    if name == "softcap":
        made.cap, made.count = 3.0, band(made, -every, 0)
    if name == "bias":
        made.bias = normal(H, T, S)
    if name == "alibi":
        made.slopes, made.count = 0.5 ** torch.arange(1.0, H + 1).double(), band(made, -every, 0)
    if name == "chunked":
        made.size = window + 1
        made.count = chunks(made, made.size)
    if name == "prefix":
        made.prefix = S - T // 2
        made.count = prefixed(made, made.prefix)
    if name == "documents":
        ends = torch.tensor([S // 4, S - T // 2, S - T // 4])
        made.documents = (torch.arange(S)[None] >= ends[:, None]).sum(0).expand(B, S)
        made.count = packed(made, made.documents)
    if name in ("blocks", "mask_mod"):
        made.blocks = torch.rand(-(-T // BLOCK), -(-S // BLOCK), generator=draw) < 0.6
        made.blocks[:, 0] = True
        made.count = blocked(made, made.blocks, BLOCK, BLOCK)
    if name == "sinks":
        made.sinks, made.count = normal(H).double() + 1, band(made, -every, 0)
    return made


def called(kernel: Kernel, name: str) -> dict[str, object]:
    """The arguments that tell ``assert_attention_close`` what this kernel should do."""
    from attnviz.attention.patterns import Blocks, Causal, Chunked, Full, Local, Masked, MaskMod, Prefix, longformer

    patterns = {
        "causal": Causal(),
        "window": Local(kernel.window),
        "causal window": Local(kernel.window) & Causal(),
        "dilated": Local(kernel.window, kernel.dilation),
        "longformer": longformer(kernel.window),
        "mask": Masked(kernel.count[0] > 0),
        "softcap": Causal(),
        "alibi": Causal(),
        "sinks": Causal(),
        "documents": Causal(),
    }
    if kernel.size:
        patterns["chunked"] = Chunked(kernel.size) & Causal()
    if kernel.prefix:
        patterns["prefix"] = Prefix(kernel.prefix)
    if kernel.blocks is not None:
        matrix = kernel.blocks
        patterns["blocks"] = Blocks(matrix, BLOCK)
        last = [n - 1 for n in matrix.shape]
        patterns["mask_mod"] = MaskMod(
            lambda b, h, t, s: matrix[(t // BLOCK).clamp(max=last[0]), (s // BLOCK).clamp(max=last[1])]
        )
    given: dict[str, object] = {"q": kernel.q, "k": kernel.k, "pattern": patterns.get(name, Full())}
    for option, value in (("softcap", kernel.cap), ("bias", kernel.bias), ("sinks", kernel.sinks)):
        given |= {} if value is None else {option: value}
    given |= {} if kernel.slopes is None else {"alibi_slopes": kernel.slopes}
    given |= {} if kernel.documents is None else {"documents": kernel.documents}
    if kernel.padding is not None:
        every = torch.ones(kernel.q.shape[0], kernel.T, dtype=torch.bool)
        given |= {"key_padding_mask": kernel.padding, "query_padding_mask": every}
    if kernel.q_global is not None:
        mask = torch.zeros(kernel.q.shape[0], kernel.S, dtype=torch.bool)
        mask[:, list(kernel.globals_)] = True
        given |= {
            "global_mask": mask,
            "q_global": kernel.q_global,
            "k_global": kernel.k_global,
            "v_global": kernel.v_global,
        }
    return given


# Mistakes: the name that a message has to have, the cases it can be made in, and what it changes.
Mistake = Callable[[Kernel], Kernel]
EVERY = CASES


def _count(change: Callable[[Kernel], Tensor]) -> Mistake:
    return lambda kernel: replace(kernel, count=change(kernel))


def _after(change: Callable[[Tensor], Tensor]) -> Mistake:
    return lambda kernel: replace(kernel, after=lambda w, c: (change(w), change(c)))


def _stale(kernel: Kernel) -> Kernel:
    """The own key of a query reads what a ring of window + 1 had there: the key of window + 1 before."""
    size, far = kernel.window + 1, kernel.distance()
    own = far == 0

    def after(weights: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (tensor.double()[:, kernel.kv_heads] for tensor in (kernel.k, kernel.v))
        index = torch.arange(kernel.S).expand(far.shape).clone()
        index = torch.where(own & (index >= size), index - size, index)
        x = (kernel.q.double() @ k.transpose(2, 3) * kernel.scale).gather(3, index.expand(weights.shape))
        x = x.masked_fill(kernel.count[:, None] == 0, NEVER)
        weights = torch.softmax(x, -1)
        moved = torch.zeros_like(weights).scatter_add_(3, index.expand(weights.shape), weights)
        return weights, moved @ v

    return replace(kernel, after=after)


def _double(kernel: Kernel) -> Kernel:
    window = replace(kernel, globals_=(), global_rows=())
    keys = torch.zeros(kernel.S, dtype=torch.bool)
    keys[list(kernel.globals_)] = True
    again = (band(window, -kernel.window, kernel.window) > 0) & keys
    count = kernel.count + again.double()
    count[:, list(kernel.global_rows)] = kernel.count[:, list(kernel.global_rows)]
    return replace(kernel, count=count)


def _tail(kernel: Kernel) -> Tensor:
    count, first = kernel.count.clone(), (kernel.S - 1) // 16 * 16
    count[:, :, first:] = 0
    return count


def _zero_tail(kernel: Kernel) -> Kernel:
    more = -kernel.S % 16 or 16

    def after(weights: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        total = replace(kernel).run()[2]
        share = torch.sigmoid(total - math.log(more))[..., None]
        return weights * share, context * share

    return replace(kernel, after=after)


def _permuted(tensor: Tensor) -> Tensor:
    order = torch.arange(tensor.shape[2])
    size = max(2, tensor.shape[2] // 4)
    pages = list(order.split(size))
    return tensor[:, :, torch.cat([pages[2 % len(pages)], *(p for n, p in enumerate(pages) if n != 2 % len(pages))])]


def _first(kernel: Kernel, count: int) -> Tensor:
    """The keys that are seen, and the first so many."""
    keys = (torch.arange(kernel.S) < count).double()
    return torch.maximum(kernel.count, keys.expand_as(kernel.count))


def _apart(kernel: Kernel) -> Tensor:
    """The keys of other documents, up to the query's own."""
    causal = band(kernel, -2 * kernel.S, 0)
    return causal - packed(kernel, kernel.documents).double()


def _chunks_from(kernel: Kernel, first: int) -> Tensor:
    """Chunks that are counted from another position."""
    far = kernel.distance()
    own = torch.arange(kernel.S)[None, :] - far
    return _whole(
        kernel, ((torch.arange(kernel.S) - first) // kernel.size == (own - first) // kernel.size) & (far <= 0)
    )


def _halves(tensor: Tensor) -> Tensor:
    """Channels that lie in pairs, read as halves."""
    return torch.cat([tensor[..., 0::2], tensor[..., 1::2]], -1)


def _of_documents(kernel: Kernel, seen: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, T, S): keys up to the query's own, by how many documents theirs is before its own."""
    own = kernel.documents[:, kernel.S - kernel.T :]
    return seen(own[:, :, None] - kernel.documents[:, None, :]).double() * band(kernel, -2 * kernel.S, 0)


def _late(documents: Tensor) -> Tensor:
    return torch.cat([documents[:, :1], documents[:, :-1]], 1)


MISTAKES: dict[str, tuple[tuple[str, ...], Mistake]] = {
    "window of another size: -1": (("window",), _count(lambda c: band(c, -c.window + 1, c.window - 1))),
    "window of another size: +1": (("window", "longformer"), _count(lambda c: band(c, -c.window - 1, c.window + 1))),
    "window of other sides: left": (("window", "longformer"), _count(lambda c: band(c, -c.window, 0))),
    "window of other sides: edge": (("window", "longformer"), _count(lambda c: band(c, -c.window + 1, c.window))),
    "part of the pattern left out: causal": (("causal window",), _count(lambda c: band(c, -c.window, c.window))),
    "part of the pattern left out: window": (("causal window",), _count(lambda c: band(c, -2 * c.S, 0))),
    "part of the pattern left out: global keys": (
        ("longformer",),
        _count(lambda c: band(replace(c, globals_=()), -c.window, c.window)),
    ),
    "dilation: none": (("dilated",), _count(lambda c: band(c, -c.window, c.window))),
    "dilation: phase": (("dilated",), _count(lambda c: band(c, -c.window * 2, c.window * 2, 2, 1))),
    "scale: none": (EVERY, lambda c: replace(c, scale=1.0)),
    "scale: twice": (EVERY, lambda c: replace(c, scale=c.scale**2)),
    "scale: padded D": (EVERY, lambda c: replace(c, scale=32**-0.5)),
    "scale: multiplied": (("full",), lambda c: replace(c, scale=1 / c.scale)),
    "mask inverted": (("mask", "causal"), _count(lambda c: 1 - c.count)),
    "mask left out": (("mask", "causal", "window"), _count(lambda c: torch.ones_like(c.count))),
    "causal in its place": (("full",), _count(lambda c: band(c, -2 * c.S, 0))),
    "aligned to the first key": (("causal",), _count(lambda c: band(replace(c, of_first=True), -2 * c.S, 0))),
    "causal off by one: own": (("causal",), _count(lambda c: band(c, -2 * c.S, -1))),
    "causal off by one: future": (("causal",), _count(lambda c: band(c, -2 * c.S, 1))),
    "grouped-query heads: interleaved": (("full", "causal"), lambda c: replace(c, kv_heads=[h % 2 for h in range(4)])),
    "grouped-query heads: first": (("full", "causal"), lambda c: replace(c, kv_heads=[0] * 4)),
    "key counted twice": (("longformer",), _double),
    "projections of global queries": (("longformer",), lambda c: replace(c, q_global=c.q, k_global=c.k, v_global=c.v)),
    "padding: seen": (("padded",), _count(lambda c: torch.ones_like(c.count))),
    "softcap: none": (("softcap",), lambda c: replace(c, cap=None)),
    "softcap: after the mask": (("softcap",), lambda c: replace(c, cap_last=True)),
    "attention sink: none": (("sinks",), lambda c: replace(c, sinks=None)),
    "attention sink: a key": (("sinks",), lambda c: replace(c, after=_to_first(c))),
    "ALiBi: sign": (("alibi",), lambda c: replace(c, slopes=-c.slopes)),
    "ALiBi: none": (("alibi",), lambda c: replace(c, slopes=None)),
    "ALiBi: before the scale": (("alibi",), lambda c: replace(c, slopes=c.slopes * c.scale)),
    "bias: none": (("bias",), lambda c: replace(c, bias=None)),
    "bias: subtracted": (("bias",), lambda c: replace(c, bias=-c.bias)),
    "bias: transposed": (("bias",), lambda c: replace(c, bias=c.bias.transpose(1, 2)) if c.T == c.S else c),
    "base 2 for base e": (EVERY, lambda c: replace(c, base=2.0)),
    "tile of keys left out": (("full", "causal", "padded"), _count(_tail)),
    "tail of keys counted": (("full",), _zero_tail),
    "heads swapped: reverse": (("full", "causal"), _after(lambda x: x.flip(1))),
    "heads swapped: two": (("full",), _after(lambda x: x[:, [0, 2, 1, 3]])),
    "batch items swapped": (("full", "causal"), _after(lambda x: x.flip(0))),
    "rows shifted": (("full", "causal"), _after(lambda x: torch.cat([x[:, :, 1:], x[:, :, -1:]], 2))),
    "rows shifted: reshaped": (("full",), _after(lambda x: x.transpose(1, 2).reshape(x.shape))),
    "rows permuted": (("full", "causal"), _after(_permuted)),
    "keys in another order": (("causal",), lambda c: replace(c, k=c.k.flip(2), v=c.v.flip(2))),
    "stale keys of a ring buffer": (("causal window",), _stale),
    "softmax over the wrong axis": (("full", "causal"), lambda c: replace(c, axis=-2)),
    "hidden keys in the softmax": (("causal", "window"), lambda c: replace(c, hidden=0.0)),
    "chunks: another size": (("chunked",), _count(lambda c: chunks(c, c.size + 1))),
    "chunks: half": (("chunked",), _count(lambda c: chunks(c, c.size // 2))),
    "chunks: a window": (("chunked",), _count(lambda c: band(c, 1 - c.size, 0))),
    "prefix: one more": (("prefix",), _count(lambda c: prefixed(c, c.prefix + 1))),
    "prefix: one less": (("prefix",), _count(lambda c: prefixed(c, c.prefix - 1))),
    "prefix: none": (("prefix",), _count(lambda c: band(c, -2 * c.S, 0))),
    "documents: leaked": (("documents",), _count(lambda c: band(c, -2 * c.S, 0))),
    "documents: late": (("documents",), _count(lambda c: packed(c, _late(c.documents)))),
    "documents: joined": (("documents",), _count(lambda c: packed(c, c.documents.clamp(min=1)))),
    "documents: inverted": (("documents",), _count(_apart)),
    "documents: a bound moved": (
        ("documents",),
        _count(
            lambda c: packed(
                c, torch.where(torch.arange(c.S) < c.S - c.T // 2 + 2, c.documents.clamp(max=1), c.documents)
            )
        ),
    ),
    "first keys seen": (("window", "causal window"), _count(lambda c: _first(c, 4))),
    "every so many keys": (
        ("full", "causal"),
        _count(lambda c: c.count * (torch.arange(c.S) % 2 == 0)),
    ),
    "chunks: another beginning": (("chunked",), _count(lambda c: _chunks_from(c, 2))),
    "channels: v reversed": (("full", "causal"), lambda c: replace(c, v=c.v.flip(3))),
    "channels: k reversed": (("full", "causal"), lambda c: replace(c, k=c.k.flip(3))),
    "channels: pairs for halves": (("causal",), lambda c: replace(c, q=_halves(c.q))),
    "memory layout: v": (("full", "causal"), lambda c: replace(c, v=c.v.transpose(1, 3).reshape(c.v.shape))),
    "memory layout: k": (("causal",), lambda c: replace(c, k=c.k.transpose(1, 2).reshape(c.k.shape))),
    "blocks: transposed": (("blocks",), _count(lambda c: blocked(c, c.blocks.T, BLOCK, BLOCK))),
    "blocks: keys off": (("blocks",), _count(lambda c: blocked(c, c.blocks.roll(1, 1), BLOCK, BLOCK))),
    "blocks: half": (("blocks",), _count(lambda c: blocked(c, c.blocks, BLOCK // 2, BLOCK // 2))),
    "blocks: from the first key": (("blocks",), _count(lambda c: blocked(c, c.blocks, BLOCK, BLOCK, c.S - c.T))),
    "mask of another place: key": (("mask",), _count(lambda c: c.count.roll(1, 2))),
    "mask of another place: first row": (("mask",), _count(lambda c: c.count[:, :1].expand_as(c.count))),
    "mask of another place: offset": (
        ("mask_mod",),
        _count(lambda c: blocked(c, c.blocks, BLOCK, BLOCK, c.S - c.T)),
    ),
    "mask transposed": (("mask", "mask_mod"), _count(lambda c: c.count.transpose(1, 2) if c.T == c.S else c.count)),
    "attention sink: a power of 2": (("sinks",), lambda c: replace(c, sinks=c.sinks * math.log(2))),
    "ALiBi: reverse": (("alibi",), lambda c: replace(c, slopes=c.slopes.flip(0))),
    "documents: the one before": (("documents",), _count(lambda c: _of_documents(c, lambda before: before <= 1))),
    "documents: the one before alone": (("documents",), _count(lambda c: _of_documents(c, lambda before: before == 1))),
    "softmax over the wrong axis: heads": (("full",), lambda c: replace(c, axis=1)),
    "softmax over the wrong axis: batch items": (("full",), lambda c: replace(c, axis=0)),
    "rows not written": (EVERY, _after(torch.zeros_like)),
    "constant factor": (EVERY, _after(lambda x: x * 1.25)),
}
"""By kind and, after a colon, which of it."""


def gradients(right: Kernel, grad: Tensor, mistake: Mistake = lambda kernel: kernel) -> dict[str, Tensor]:
    """What autograd makes of a gradient of the context, dq, dk and dv, of a kernel with a mistake."""
    leaves = {name: getattr(right, name).double().requires_grad_() for name in "qkv"}
    context = mistake(replace(right, **leaves)).run()[1]
    made = torch.autograd.grad((context * grad.double()).sum(), list(leaves.values()))
    return dict(zip(("dq", "dk", "dv"), made, strict=True))


def backward(
    right: Kernel,
    grad: Tensor,
    wrong: Kernel | None = None,
    *,
    delta: float = 1.0,
    scales: tuple[float, float] = (1.0, 1.0),
    heads: Callable[[int], bool] = lambda head: True,
    queries: slice = slice(None),
) -> dict[str, Tensor]:
    """dq, dk and dv by hand, with the denominators and outputs of a right forward pass, as flash attention has them.

    Args:
        right: the forward pass.
        grad: (B, H, T, D_v) of the context.
        wrong: what weights are computed again by, in the backward pass; None is the right one.
        delta: how often each row's sum of ``P dP`` is subtracted.
        scales: what dq and dk are multiplied by beside the scale.
        heads: the query heads that a key head's gradients are sums over.
        queries: the queries that they are sums over.
    """
    wrong, total = wrong or right, right.run()[2]
    k, v = (getattr(wrong, name).double()[:, wrong.kv_heads] for name in "kv")
    x = wrong.q.double() @ k.transpose(2, 3) * wrong.scale
    bend = torch.ones_like(x)
    if wrong.cap is not None:
        x = wrong.cap * torch.tanh(x / wrong.cap)
        bend = 1 - (x / wrong.cap) ** 2
    p = wrong.count[:, None] * torch.exp(x - total[..., None])
    g = grad.double()
    pull = g @ v.transpose(2, 3)
    flow = p * (pull - delta * (g * right.run()[1]).sum(-1, keepdim=True)) * bend * wrong.scale
    made = {"dq": flow @ k * scales[0]}
    for name, left, read in (("dk", flow * scales[1], wrong.q.double()), ("dv", p, g)):
        each = left[:, :, queries].transpose(2, 3) @ read[:, :, queries]
        made[name] = torch.zeros_like(getattr(wrong, name[1]), dtype=torch.float64)
        for head, key_head in enumerate(wrong.kv_heads):
            if heads(head):
                made[name][:, key_head] += each[:, head]
    return made


BACKWARD: dict[str, tuple[str, str, Callable[[Kernel, Tensor], dict[str, Tensor]]]] = {
    "gradient: delta left out": ("causal", "dq dk", lambda c, g: backward(c, g, delta=0.0)),
    "gradient: delta added": ("window", "dq dk", lambda c, g: backward(c, g, delta=-1.0)),
    "gradient: dq without the scale": ("full", "dq", lambda c, g: backward(c, g, scales=(1 / c.scale, 1.0))),
    "gradient: dk with the scale twice": ("causal", "dk", lambda c, g: backward(c, g, scales=(1.0, c.scale))),
    "gradient: one head of a group": ("causal", "dk dv", lambda c, g: backward(c, g, heads=lambda head: head % 2 == 1)),
    "gradient: a tile of queries left out": (
        "full",
        "dk dv",
        lambda c, g: backward(c, g, queries=slice(0, c.T - (c.T % 16 or 16))),
    ),
    "backward pass: mask left out": (
        "causal",
        "dq dk dv",
        lambda c, g: backward(c, g, replace(c, count=torch.ones_like(c.count))),
    ),
    "backward pass: a window too wide": (
        "window",
        "dq dk dv",
        lambda c, g: backward(c, g, replace(c, count=band(c, -c.window - 1, c.window + 1))),
    ),
    "backward pass: scale": ("full", "dq dk dv", lambda c, g: backward(c, g, replace(c, scale=1.0))),
    "backward pass: softcap left out": ("softcap", "dq dk dv", lambda c, g: backward(c, g, replace(c, cap=None))),
    "grouped-query heads: interleaved, v alone, backward": (
        "full",
        "dk dv",
        lambda c, g: backward(c, g, replace(c, kv_heads=[h % 2 for h in range(4)])),
    ),
}
"""Mistakes in the backward pass: the case, the gradients that they make wrong, and what it gives then."""


def _to_first(kernel: Kernel) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def after(weights: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        weights = weights.clone()
        weights[..., 0] += 1 - weights.sum(-1)
        return weights, weights @ kernel.v.double()[:, kernel.kv_heads]

    return after
