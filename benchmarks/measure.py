"""Measuring: calls and processes in turns, peak memory in a process of its own, and what a comparison found."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """Samples of our way and of another, and the ratio that ours may reach."""

    name: str  # what of attnviz is measured
    against: str  # what it is compared with
    ours: Sequence[float]
    theirs: Sequence[float]
    target: float | None  # the largest ratio wanted; None: for information
    unit: str = "s"  # or "bytes"

    @property
    def minimums(self) -> float:
        """The ratio of the least samples: what the code needs, with the least disturbance by other processes."""
        return min(self.ours) / min(self.theirs)

    @property
    def medians(self) -> float:
        """The ratio of the median samples."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def met(self) -> bool | None:
        """Whether both ratios are within the target."""
        return None if self.target is None else max(self.minimums, self.medians) <= self.target


Benchmark = Callable[[], Iterator[Comparison]]
BENCHMARKS: dict[str, Benchmark] = {}
"""Every benchmark by its function's name, once its module is imported."""


def benchmark(function: Benchmark) -> Benchmark:
    """Makes a function that yields comparisons a benchmark, called by its name."""
    BENCHMARKS[function.__name__] = function
    return function


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, ``repeats`` samples, after one that does not count.

    The calls take turns (A B, B A, A B, ...), so that a busy moment of the machine falls on all of them. Freeing the
    result does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            result = calls[name]()
            elapsed = time.perf_counter() - start
            del result
            if turn:
                seconds[name].append(elapsed)
    return seconds


def processes_in_turns(commands: Mapping[str, Sequence[str | Path]], repeats: int) -> dict[str, list[float]]:
    """Seconds that whole processes take, from start to end, as :func:`in_turns`.

    The first, uncounted run compiles what is not compiled yet, as pip does when it installs a package.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(command: Sequence[str | Path]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    return in_turns({name: lambda command=command: run(command) for name, command in commands.items()}, repeats)  # type: ignore[misc]


def attnviz(*arguments: str | Path) -> list[str | Path]:
    """The command line of the installed ``attnviz``."""
    return [Path(sys.executable).with_name("attnviz"), *arguments]


def baseline(name: str, *arguments: str | Path) -> list[str | Path]:
    """The command line of a script in ``baselines/``."""
    return [sys.executable, Path(__file__).with_name("baselines") / f"{name}.py", *arguments]


def peak_extra_bytes(prepare: Callable[[], T], call: Callable[[T], object]) -> int:
    """How far the resident memory rises, at its peak, while ``call`` works on what ``prepare`` made.

    Both run in a new process, as functions of a module. ``prepare`` also does what happens only once (start threads,
    load kernels), on something small.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(sender, prepare, call))
    child.start()
    sender.close()
    try:
        return int(receiver.recv())
    finally:
        child.join()


def _measure_peak(sender: Any, prepare: Callable[[], T], call: Callable[[T], object]) -> None:
    subject = prepare()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak starts anew at what is resident now
        before = _peak_bytes()
        call(subject)
    else:  # the peak of the process's whole life: right where prepare has not freed much
        before = _peak_bytes()
        call(subject)
    sender.send(_peak_bytes() - before)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
