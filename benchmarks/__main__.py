"""``python -m benchmarks [WORD ...]``: runs the benchmarks whose names contain a word, or all of them."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch

import benchmarks
from benchmarks.measure import BENCHMARKS, Comparison
from benchmarks.report import print_table, write_json, write_markdown

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Runs, prints the table, writes files."""
    for module in iter_modules(benchmarks.__path__):
        if module.name not in ("__main__", "gpu"):  # gpu is a command of its own, and imports triton
            import_module(f"benchmarks.{module.name}")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog=f"Benchmarks: {', '.join(sorted(BENCHMARKS))}")
    parser.add_argument("words", nargs="*", metavar="WORD", help="run the benchmarks with this in their names")
    parser.add_argument("--json", type=Path, help=f"file of results; a run of all writes {RESULTS.name} anyway")
    parser.add_argument("--markdown", type=Path, help="page to write, such as docs/benchmarks.md")
    parser.add_argument("--threads", type=int, help="threads of torch on both sides; 1 is steady on a busy machine")
    options = parser.parse_args()
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes
        torch.set_num_threads(options.threads)

    chosen = [name for name in BENCHMARKS if not options.words or any(word in name for word in options.words)]
    if not chosen:
        parser.error(f"no benchmark has {' or '.join(options.words)} in its name; there are {', '.join(BENCHMARKS)}")
    rows: list[Comparison] = []
    for name in chosen:
        print(f"{name} ...", file=sys.stderr)
        rows += BENCHMARKS[name]()
    print_table(rows)
    json = options.json or (None if options.words else RESULTS)
    if json is not None:
        write_json(json, rows)
    if options.markdown is not None:
        write_markdown(options.markdown, rows)


if __name__ == "__main__":
    main()
