"""The longest map that a peer finishes, where the peer is installed: ``pip install bertviz circuitsvis``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import attnviz
from benchmarks.measure import Comparison, baseline, benchmark
from benchmarks.measure import attnviz as program

SECONDS = 60
LONGEST = 131_072


@benchmark
def longest_within_a_minute() -> Iterator[Comparison]:
    peers = [peer for peer in ("bertviz", "circuitsvis") if find_spec(peer)]
    if not peers:
        print("  neither bertviz nor circuitsvis is installed: skipped", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:

        def ours(T: int) -> list[str | Path]:
            dump = Path(folder) / f"{T}.safetensors"
            attnviz.save(dump, attnviz.synthesize(heads=1, tokens=T))
            return program("plot", dump, "--pattern", "causal", "-o", dump.with_suffix(".png"))

        longest = _longest(ours)
    for peer in peers:
        theirs = _longest(lambda T, peer=peer: baseline("peer_view", peer, f"{T}"))  # type: ignore[misc]
        name = f"longest map of one head within {SECONDS} s, one process (up to {LONGEST:,})"
        yield Comparison(name, f"{peer}'s page", [longest], [theirs], None, "tokens")


def _longest(command: Callable[[int], list[str | Path]]) -> int:
    """The most tokens, doubled from 1,024, that a command finishes within SECONDS."""
    finished, T = 0, 1024
    while T <= LONGEST:
        try:
            subprocess.run(command(T), check=True, capture_output=True, timeout=SECONDS)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            break
        finished, T = T, 2 * T
    return finished
