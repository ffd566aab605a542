"""That snapshots fail when values change: the whole of pytest, syrupy and the comparison, on inputs of another seed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests import warm

HERE = Path(__file__).parent


def test_another_seed_fails(tmp_path):
    folder = tmp_path / "snapshots"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    conftest = folder / "conftest.py"
    changed = conftest.read_text().replace("SEED = 0", "SEED = 1")
    assert changed != conftest.read_text()
    conftest.write_text(changed)

    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-k", "test_csv or test_markdown or test_one_head"]
    done = subprocess.run(
        [warm.python(), "-m", "pytest", *options, "test_table_snapshots.py", "test_figure_snapshots.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 failed" in done.stdout
    assert "pixels differ by more than" in done.stdout
