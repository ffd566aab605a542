"""What a run found: a table in the terminal, JSON, and a page of the documentation."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Comparison

PACKAGES = ("attnviz", "matplotlib", "numpy", "rich", "safetensors", "seaborn", "torch", "typer")

HOW_TO_READ = """\
Each row compares attnviz with the plain way of getting the same result, on one machine and in one run. The two take
turns (A B, B A, ...), so that a busy moment falls on both. `ours` and `theirs` are the least and the median sample;
`ratio` is ours / theirs, of the least and of the medians. A target is met when both ratios are at most the target.
Times differ from machine to machine; ratios travel better, but read them on the machine that you care about.
Whole commands are timed from the start of the process to its end. Memory is the rise of the resident set at its peak,
in a process of its own.
Some rows are facts of the machine: a float32 product beat a bfloat16 one by 20 times on a processor that has no instructions
for bfloat16; on one that has them it may be the other way round.
"""


def cells(row: Comparison) -> tuple[str, ...]:
    """A row of the table as text."""
    target = "" if row.target is None else f"≤ {row.target:g}"
    ratio = f"{row.minimums:.2f}" if len(row.ours) == 1 else f"{row.minimums:.2f} / {row.medians:.2f}"
    met = {True: "yes", False: "no", None: ""}[row.met]
    return row.name, row.against, _sample(row.ours, row.unit), _sample(row.theirs, row.unit), ratio, target, met


HEADINGS = ("benchmark", "compared with", "ours", "theirs", "ratio", "target", "met")


def print_table(rows: Sequence[Comparison]) -> None:
    """Prints the table."""
    table = Table(
        *HEADINGS, title=f"attnviz on {machine()['cpu']}, {machine()['cores']} cores, {machine()['threads']} threads"
    )
    for row in rows:
        style = {True: "green", False: "red", None: ""}[row.met]
        *texts, met = cells(row)
        table.add_row(*texts, f"[{style}]{met}[/]" if style else met)
    console = Console()
    console.print(table)


def write_json(path: Path, rows: Sequence[Comparison]) -> None:
    """Every sample, with the machine and the versions."""
    document = {
        "schema": "attnviz.benchmarks/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "rows": [
            {
                "name": row.name,
                "against": row.against,
                "unit": row.unit,
                "ratio_of_minimums": round(row.minimums, 4),
                "ratio_of_medians": round(row.medians, 4),
                "target": row.target,
                "met": row.met,
                "ours": [round(sample, 6) for sample in row.ours],
                "theirs": [round(sample, 6) for sample in row.theirs],
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_markdown(path: Path, rows: Sequence[Comparison]) -> None:
    """The page: how to read it, the table, the machine."""
    here = machine()
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by `python -m benchmarks --markdown docs/benchmarks.md`. -->",
        "",
        HOW_TO_READ,
        f"| {' | '.join(HEADINGS)} |",
        f"|{'|'.join([':--'] * 2 + ['--:'] * 4 + [':--'])}|",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {here['cpu']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gib']} GiB, {here['system']}, "
        f"load average {here['load'][1]} over 5 minutes (the benchmarks alone make about 1); "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + ".",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "name": platform.node(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],  # 1, 5, 15 minutes: far below cores on an idle machine
    }


def versions() -> dict[str, str]:
    """Python and the packages that decide the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _sample(values: Sequence[float], unit: str) -> str:
    least, median = min(values), statistics.median(values)
    if unit == "bytes":
        return f"{least / 1e6:.1f} MB"
    if unit != "s":
        return f"{least:,} {unit}"
    decimals = 0 if least >= 0.01 else 2
    return f"{least * 1e3:.{decimals}f} / {median * 1e3:.{decimals}f} ms"
