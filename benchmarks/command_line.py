"""The command line, as whole processes: what a user waits for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Comparison, attnviz, baseline, benchmark, processes_in_turns


@benchmark
def help_and_version() -> Iterator[Comparison]:
    bare = "bare typer app --help"
    seconds = processes_in_turns(
        {
            bare: baseline("bare_typer", "--help"),
            "attnviz --help": attnviz("--help"),
            "attnviz --version": attnviz("--version"),
        },
        repeats=15,
    )
    for name in ("attnviz --help", "attnviz --version"):
        yield Comparison(name, bare, seconds[name], seconds[bare], 1.3)


@benchmark
def score_json() -> Iterator[Comparison]:
    with TemporaryDirectory() as folder:
        dump = Path(folder) / "dump.safetensors"
        make_dump(dump, heads=8, tokens=512, positions="every:64")
        commands = {
            "ours": attnviz("score", dump, "--format", "json"),
            "theirs": baseline("plain_scores", dump),
        }
        texts = [subprocess.run(command, check=True, capture_output=True).stdout for command in commands.values()]
        assert texts[0] == texts[1], "attnviz score and the plain script print different JSON"
        seconds = processes_in_turns(commands, repeats=10)
    yield Comparison(
        "attnviz score FILE --format json (H=8, T=512, D=64, G=8)",
        "plain script: torch, safetensors, einsum, softmax, the same JSON",
        seconds["ours"],
        seconds["theirs"],
        1.25,
    )


def make_dump(path: Path, *, heads: int, tokens: int, positions: str) -> None:
    """Writes a dump with ``attnviz synth``."""
    sizes = ("--heads", str(heads), "--tokens", str(tokens), "--global", positions)
    subprocess.run(attnviz("synth", path, *sizes), check=True, capture_output=True)
