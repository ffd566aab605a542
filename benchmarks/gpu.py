"""The map on a GPU: against flash attention's forward on the same inputs, and every path held against the CPU.

``python benchmarks/gpu.py`` runs all of it in under 8 minutes and prints Markdown; ``--parts check,table,tune`` picks.
Needs a CUDA device, torch and triton. ``--dry`` runs the first of everything, of a few tokens, on a processor: it shows that
the script runs, and measures nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import attnviz
from attnviz import AttentionInputs, Causal, Full, Local, Pyramid, longformer
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_edges
from attnviz.engine import reducer
from attnviz.engine.reducer import reduce_map, row_groups
from attnviz.measures.statistics import head_statistics

if TYPE_CHECKING:
    from attnviz.engine.fused import Launch  # which needs triton

CELLS = 1024
U = 2.0**-24


_Case = TypeVar("_Case")


class Report:
    """Rows as they come: printed as Markdown, kept for JSON. And where they are measured."""

    def __init__(self, until: float, *, dry: bool = False) -> None:
        self.until, self.dry, self.found = until, dry, {}  # type: ignore[var-annotated]
        self.device = torch.device("cpu" if dry else "cuda")

    def some(self, cases: Iterable[_Case]) -> list[_Case]:
        """All cases; the first one where the run is dry."""
        return list(cases)[: 1 if self.dry else None]

    def tokens(self, count: int) -> int:
        """So many tokens, or few where the run is dry."""
        return min(count, 40) if self.dry else count

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def table(self, name: str, columns: list[str]) -> Callable[..., None]:
        rows = self.found.setdefault(name, [])
        print(f"\n### {name}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

        def add(*values: Any) -> None:
            rows.append(dict(zip(columns, values, strict=True)))
            print(f"| {' | '.join(said(value) for value in values)} |", flush=True)

        return add

    def save(self, parts: str) -> None:
        if out := os.environ.get("OUT"):
            (Path(out) / f"gpu-{parts.replace(',', '-')}.json").write_text(json.dumps(self.found, indent=1))


def said(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


# ---------------------------------------------------------------- correctness


def small_inputs(
    dtype: torch.dtype, T: int, *, padded: bool = False, values: bool = True, **more: Any
) -> AttentionInputs:
    """Two query heads on one key head, some rows with large logits."""
    generator = torch.Generator().manual_seed(1)
    D = 64
    q, k, v = (torch.randn(1, heads, T, D, generator=generator) for heads in (2, 1, 1))
    q[:, :, ::7] *= 4
    if padded:
        more["key_padding_mask"] = (torch.arange(T) > 20)[None]
    mask = (torch.arange(T) % 97 == 30)[None]
    return AttentionInputs(q.to(dtype), k.to(dtype), v.to(dtype) if values else None, global_mask=mask, **more)


def wide(inputs: AttentionInputs) -> AttentionInputs:
    """The same numbers in float64."""
    names = ("global_mask", "key_padding_mask", "softcap", "sinks", "scale", "bias", "alibi_slopes")
    v = None if inputs.v is None else inputs.v.double()
    return AttentionInputs(inputs.q.double(), inputs.k.double(), v, **{n: getattr(inputs, n) for n in names})


def numbers(value: Any) -> np.ndarray:
    tensor = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
    return np.nan_to_num(tensor, nan=-7.0, neginf=-9.0)


def statistics_numbers(inputs: AttentionInputs, pattern: Pattern, **where: Any) -> np.ndarray:
    found = head_statistics(inputs, pattern, **where)
    names = ("entropy", "max_weight", "sink_mass", "distance", "diagonal_mass", "previous_mass")
    return numbers([[getattr(one, name) if getattr(one, name) is not None else -7 for name in names] for one in found])


def tiles(inputs: AttentionInputs, pattern: Pattern, reduce: str, **where: Any) -> np.ndarray:
    pyramid = Pyramid.of(inputs, pattern, **where)
    pyramid.prepare(1)
    level = pyramid.levels - 1
    return np.concatenate([numbers(pyramid.tile(1, at, 0, 0, reduce=reduce)).ravel() for at in {0, level}])


def taken(inputs: AttentionInputs, pattern: Pattern, **where: Any) -> np.ndarray:
    snapshot = attnviz.take_snapshot(inputs, pattern, cells=50, **where)
    cells = [cells for head in snapshot.heads for cells in head.cells.values()]
    return np.concatenate([numbers(one).ravel() for one in cells])


def paths() -> dict[str, Callable[..., np.ndarray]]:
    """Every way that the program computes on a device."""

    def mapped(inputs: AttentionInputs, pattern: Pattern, **where: Any) -> np.ndarray:
        return numbers(attnviz.attention_map(inputs, 1, pattern, **where).cells)

    def compared(inputs: AttentionInputs, pattern: Pattern, **where: Any) -> np.ndarray:
        other = AttentionInputs(inputs.q.flip(1), inputs.k, global_mask=inputs.global_mask)
        return numbers(attnviz.compare_maps(inputs, other, 1, pattern, pixels=60, **where).difference.cells)

    def marginal(inputs: AttentionInputs, pattern: Pattern, **where: Any) -> np.ndarray:
        found = attnviz.marginals(inputs, 1, pattern, **where)
        return np.concatenate([numbers(found.received), numbers(found.entropy)])

    return {
        "score": lambda i, p, **w: numbers(attnviz.score(i, p, **w).weights),
        "stats": statistics_numbers,
        "context": lambda i, p, **w: numbers(attnviz.context(i, p, **w)),
        "map, whole": lambda i, p, **w: mapped(i, p, pixels=1024, **w),
        "map, max": lambda i, p, **w: mapped(i, p, pixels=60, **w),
        "map, mass": lambda i, p, **w: mapped(i, p, pixels=64, reduce="mass", **w),
        "map, region": lambda i, p, **w: mapped(
            i, p, pixels=50, queries=range(6, i.T - 5), keys=range(i.S // 5, i.S - 9), **w
        ),
        "map, logits": lambda i, p, **w: mapped(i, p, pixels=60, values="logits", **w),
        "tiles, max": lambda i, p, **w: tiles(i, p, "max", **w),
        "tiles, mass": lambda i, p, **w: tiles(i, p, "mass", **w),
        "marginals": marginal,
        "compare_maps": compared,
        "snapshot": taken,
    }


@contextmanager
def plain() -> Iterator[None]:
    """Without the kernel."""
    kept = reducer.reduce_fused
    reducer.reduce_fused = lambda *args, **settings: None
    try:
        yield
    finally:
        reducer.reduce_fused = kept


@contextmanager
def switched(name: str) -> Iterator[None]:
    """The process's precision switches, as named."""
    if name == "allow_tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    elif name != "default":
        torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def check(report: Report) -> None:
    add = report.table(
        "Every path on the GPU against float64 on the CPU",
        ["dtype", "pattern", "switch", "paths", "largest error", "of", "allowed", "verdict"],
    )
    a = torch.randn(256, 64, device=report.device)
    switches = report.some(("default", "allow_tf32", "high"))
    for switch in switches:
        with switched(switch):
            off = float(((a @ a.T).double() - a.double() @ a.double().T).abs().max())
        print(f"<!-- a bare float32 product under {switch}: off by {off:.2g} -->")
    cases = [
        (torch.float32, Full(), {}),
        (torch.float32, Causal(), {"padded": True}),
        (torch.float32, longformer(9), {}),
        (torch.bfloat16, Causal(), {"sinks": torch.tensor([0.5, 1.5]), "softcap": 20.0}),
        (torch.float16, Local(30), {}),
        (torch.float16, Full(), {"alibi_slopes": torch.tensor([0.1, 0.3])}),
    ]
    for dtype, pattern, more in report.some(cases):
        inputs = small_inputs(dtype, report.tokens(500), **more)
        exact = wide(inputs)
        wanted = {name: path(exact, pattern, device="cpu") for name, path in paths().items()}
        # Logits of up to 50: a few hundred roundings of float32 and, of a logit itself, as many times its size.
        allowed = 1e-5
        for switch in switches:
            worst, worst_of, failed = 0.0, "", []
            for name, path in paths().items():
                for by, context in (("", nothing), (" (plain)", plain)):
                    if by and not name.startswith(("map", "tiles", "compare")):
                        continue
                    try:
                        with switched(switch), context():
                            found = path(inputs, pattern, device=str(report.device))
                        scale = max(1.0, float(np.abs(wanted[name]).max()))
                        error = float(np.abs(found - wanted[name]).max()) / scale
                    except Exception as problem:
                        error = float("nan")
                        print(f"<!-- {name}{by}: {problem!r} -->")
                        traceback.print_exc(limit=4)
                    if not error <= allowed:
                        failed.append(f"{name}{by} {error:.2g}")
                    if error > worst:
                        worst, worst_of = error, name + by
            name = str(dtype).removeprefix("torch.")
            verdict = "same" if not failed else "**" + "; ".join(failed) + "**"
            add(name, str(pattern), switch, len(paths()), worst, worst_of, allowed, verdict)
        if report.left < 60:
            return


@contextmanager
def nothing() -> Iterator[None]:
    yield


def check_rounding(report: Report) -> None:
    """How many units of the documentation's bound a weight is off: w (exp(c u (L + 2)) - 1), c at most 8."""
    add = report.table(
        "Rounding of single weights (the bound's c, at most 8) and bits between runs",
        ["dtype", "D", "logits up to", "c, kernel", "c, plain", "denominator off by", "same bits twice"],
    )
    T = report.tokens(1000)
    cases = itertools.product((torch.bfloat16, torch.float16, torch.float32), (64, 128), (1.0, 8.0))
    for dtype, D, size in report.some(cases):
        generator = torch.Generator().manual_seed(2)
        q, k = (torch.randn(1, 1, T, D, generator=generator) for _ in range(2))
        inputs = AttentionInputs((q * size).to(dtype), k.to(dtype))
        item = inputs.item(device=report.device)
        edges = np.arange(T + 1)
        a, b = inputs.q[0, 0].double(), inputs.k[0, 0].double()
        L = (a.abs() @ b.abs().T).amax(1, keepdim=True).numpy() * item.scale
        exact = reduce_map(wide(inputs).item(), Full(), 0, edges, edges)
        off = []
        for context in (nothing, plain):
            with context():
                found = reduce_map(item, Full(), 0, edges, edges)
            near = exact.max > 1e-20
            ratio = np.abs(np.log(np.where(near, found.max, 1) / np.where(near, exact.max, 1)))
            off.append(float((ratio / (U * (L + 2))).max()))
        first, second = (
            reduce_map(item, Full(), 0, bin_edges(range(T), 37), edges, reductions=("max", "mass")) for _ in range(2)
        )
        same = (
            np.array_equal(first.max, second.max)
            and np.array_equal(first.mass, second.mass)
            and torch.equal(first.denominators, second.denominators)
        )
        apart = float((first.log_sum_exp - exact.log_sum_exp).abs().max())
        add(str(dtype).removeprefix("torch."), D, float(L.max()), *off, apart, "yes" if same else "**no**")


def check_long(report: Report) -> None:
    """Sampled rows of long maps against float64: the row reduced to cells, and the denominator."""
    add = report.table(
        "Long maps, sampled queries against float64",
        ["T", "dtype", "pattern", "cells off by (relative)", "log-sum-exp off by", "rows of mass off 1 by"],
    )
    cases = [
        (100_000, torch.bfloat16, Causal()),
        (1 << 20, torch.bfloat16, Causal()),
        (1 << 20, torch.float32, Local(4096)),
    ]
    for length, dtype, pattern in report.some(cases):
        T = report.tokens(length)
        inputs = long_inputs(T, 64, dtype, report.device)
        item = inputs.item()
        edges = bin_edges(range(T), min(T, CELLS))
        whole = reduce_map(item, pattern, 0, edges, edges, reductions=("mass",))
        off = cells_off = 0.0
        for t in (0, 1, T // 3, T // 2 + 17, T - 1):
            one = np.array([t, t + 1])
            found = reduce_map(item, pattern, 0, one, edges, reductions=("max", "mass"))
            logits = (inputs.k[0, 0].double() @ inputs.q[0, 0, t].double()) * item.scale
            hidden = ~pattern.visible(torch.tensor(t, device=item.device), torch.arange(T, device=item.device), item)
            logits[hidden] = -torch.inf
            weights = torch.softmax(logits, 0).cpu().numpy()
            seen = ~hidden.cpu().numpy()
            for cells, exact in (
                (found.max, np.maximum.reduceat(weights, edges[:-1])),
                (found.mass, np.add.reduceat(weights, edges[:-1])),
            ):
                shown = np.logical_or.reduceat(seen, edges[:-1])
                assert (np.isnan(cells[0]) == ~shown).all()
                cells_off = max(cells_off, float(np.abs(cells[0] / exact - 1)[shown].max()))
            exact_sum = float(torch.logsumexp(logits, 0))
            off = max(off, abs(float(whole.log_sum_exp[t]) - exact_sum), abs(float(found.log_sum_exp[0]) - exact_sum))
        rows = float(np.abs(np.nansum(whole.mass, axis=1) - 1).max())
        add(T, str(dtype).removeprefix("torch."), str(pattern), cells_off, off, rows)


# ---------------------------------------------------------------- speed


def long_inputs(T: int, D: int, dtype: torch.dtype, device: torch.device) -> AttentionInputs:
    generator = torch.Generator(device=device).manual_seed(0)
    q, k, v = (torch.randn(1, 1, T, D, generator=generator, device=device, dtype=torch.float32) for _ in range(3))
    return AttentionInputs(q.to(dtype), k.to(dtype), v.to(dtype))


def milliseconds(call: Callable[[], object], device: torch.device, budget: float = 0.4, most: int = 9) -> float:
    """The median by device events, after a warm-up; as often as ``budget`` seconds allow. Of a dry run, one call's."""
    if device.type == "cpu":
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1000

    def once() -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop)

    once()
    spent = [once()]
    while sum(spent) + spent[0] < budget * 1000 and len(spent) < most:
        spent.append(once())
    return statistics.median(spent)


def on_device(
    inputs: AttentionInputs, pattern: Pattern, reductions: tuple[str, ...], launch: Launch | None = None
) -> Any:
    """The map as the device makes it, cells left there."""
    from attnviz.engine.fused import FusedMap

    item = inputs.item()
    T = item.T
    edges = bin_edges(range(T), min(T, CELLS))
    reach = pattern.reach(item)

    def run() -> object:
        made = FusedMap(item, reach, 0, edges, edges, reductions=reductions, launch=launch)
        for rows in row_groups(edges, made.chunk):
            made.add(rows)
        return made.result()

    return run


def pairs(T: int, pattern: Pattern) -> float:
    if isinstance(pattern, Local):
        return T * (2.0 * pattern.window + 1)
    return T * (T + 1) / 2 if isinstance(pattern, Causal) else float(T) * T


def flash(inputs: AttentionInputs, causal: bool) -> Callable[[], object]:
    def run() -> object:
        with sdpa_kernel(SDPBackend.MATH if inputs.q.device.type == "cpu" else SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, is_causal=causal)

    return run


def extra_bytes(call: Callable[[], object], device: torch.device) -> int:
    if device.type == "cpu":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def tune(report: Report) -> None:
    """Ways to cut the kernel, at one length that shows the loop alone and one that shows small bins."""
    from attnviz.engine.fused import Launch

    add = report.table(
        "Ways to cut the kernel (causal)",
        ["dtype", "D", "T", "reduce", "rows", "keys", "warps", "stages", "ms", "x flash"],
    )
    half = [
        Launch(128, 64, 8, 3),
        Launch(128, 64, 4, 3),
        Launch(128, 64, 8, 2),
        Launch(64, 64, 4, 3),
        Launch(128, 128, 8, 2),
        Launch(64, 128, 4, 3),
    ]
    full = [Launch(64, 64, 4, 2), Launch(128, 64, 8, 2), Launch(64, 32, 4, 3), Launch(128, 32, 8, 2)]
    cases = [
        ("bfloat16", 128, 131_072, "max"),
        ("bfloat16", 64, 131_072, "max"),
        ("bfloat16", 128, 131_072, "mass"),
        ("bfloat16", 128, 16_384, "max"),
        ("float32", 128, 65_536, "max"),
        ("float32", 64, 65_536, "max"),
    ]
    for name, D, length, reduce in report.some(cases):
        T = report.tokens(length)
        inputs = long_inputs(T, D, getattr(torch, name), report.device)
        base = milliseconds(flash(inputs, True), report.device) if name != "float32" else None
        for launch in report.some(full if name == "float32" else half):
            if report.left < 60:
                return
            try:
                spent = milliseconds(on_device(inputs, Causal(), (reduce,), launch), report.device, 0.2)
            except Exception as problem:
                print(f"<!-- {launch}: {str(problem)[:200]!r} -->")
                continue
            cut = (launch.rows, launch.keys, launch.warps, launch.stages)
            add(name, D, T, reduce, *cut, spent, None if base is None else spent / base)


def speed(report: Report) -> None:
    add = report.table(
        "The map against flash attention's forward, one head, 1,024 x 1,024 cells",
        ["T", "dtype", "D", "pattern", "flash ms", "max ms", "mass ms", "max x", "mass x", "max pairs/s", "mass pairs/s",
         "call ms", "plain ms", "MiB"],
    )  # fmt: skip
    lengths = [1 << n for n in range(13, 21)]
    runs = [(T, "bfloat16", 128, Causal()) for T in lengths]
    runs += [(T, "bfloat16", 64, Causal()) for T in lengths]
    runs += [(T, "bfloat16", 128, Full()) for T in (8_192, 32_768, 131_072)]
    runs += [(T, "float16", D, Causal()) for T in (32_768, 1 << 20) for D in (128, 64)]
    runs += [(100_000, "bfloat16", 128, Causal()), (1 << 20, "bfloat16", 128, Local(4096))]
    runs += [(T, "float32", D, Causal()) for T in (32_768, 131_072) for D in (128, 64)]
    rate = 2e11
    for length, name, D, pattern in report.some(runs):
        T = report.tokens(length)
        if report.left < 20 + 8 * pairs(T, pattern) / rate:
            print(f"<!-- left out for time: {T} {name} {D} {pattern} -->")
            continue
        inputs = long_inputs(T, D, getattr(torch, name), report.device)
        item = inputs.item()
        made = {reduce: on_device(inputs, pattern, (reduce,)) for reduce in ("max", "mass")}
        same = name != "float32" and not isinstance(pattern, Local)
        base = milliseconds(flash(inputs, isinstance(pattern, Causal)), report.device) if same else None
        top, mass = (milliseconds(made[reduce], report.device) for reduce in ("max", "mass"))
        edges = bin_edges(range(T), min(T, CELLS))
        if not report.dry:
            torch.cuda.synchronize()
        start = time.perf_counter()
        reduce_map(item, pattern, 0, edges, edges)
        call = (time.perf_counter() - start) * 1000
        slow = None
        if T <= 65_536 and name != "float16":
            with plain():
                slow = milliseconds(partial(reduce_map, item, pattern, 0, edges, edges), report.device, 0.1)
        count = pairs(T, pattern)
        times = [None if base is None else spent / base for spent in (top, mass)]
        add(T, name, D, str(pattern), base, top, mass, *times, count / top * 1e3, count / mass * 1e3, call, slow,
            extra_bytes(made["mass"], report.device) / 2**20)  # fmt: skip
        del inputs, item, made
        torch.cuda.empty_cache()


PARTS: dict[str, tuple[Callable[[Report], None], ...]] = {
    "check": (check, check_rounding, check_long),
    "tune": (tune,),
    "table": (speed,),
}


def tell_device(report: Report) -> None:
    """What it runs on, as a heading and for the file."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__}
    name, more = "a dry run", {}
    if not report.dry:
        device = torch.cuda.get_device_properties(report.device)
        name, more = device.name, {"multiprocessors": device.multi_processor_count, "memory": device.total_memory}
    report.found["device"] = {"name": name, **more, **versions}
    print(f"## {name}, PyTorch {versions['torch']}, Triton {versions['triton']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="check,table", help="which of check, table and tune")
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--dry", action="store_true", help="the first of everything, of a few tokens, on a processor")
    asked = parser.parse_args()
    start = time.monotonic()
    report = Report(start + asked.seconds, dry=asked.dry)
    tell_device(report)
    for name in asked.parts.split(","):
        for part in PARTS[name]:
            began = time.monotonic()
            try:
                part(report)
            except Exception:
                if report.dry:
                    raise
                traceback.print_exc()
            report.save(asked.parts)
            print(f"\n<!-- {time.monotonic() - began:.0f} s -->", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
