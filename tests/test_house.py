"""The map of the house in CONTRIBUTING.md is the house."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "attnviz"


def mapped() -> dict[str, list[str]]:
    """The modules of each package, as the map has them."""
    block = re.search(r"```text\n(attnviz/.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert block is not None
    found: dict[str, list[str]] = {}
    above = ""
    for line in block[1].splitlines():
        name, *modules = line.split()
        name = name.rstrip("/")
        depth = len(line) - len(line.lstrip())
        place = "" if depth == 0 else name if depth == 1 else f"{above}/{name}"
        above = name if depth == 1 else above
        found[place] = modules
    return found


def test_the_map_is_the_tree():
    there: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            there.setdefault(str(path.parent.relative_to(PACKAGE)).removeprefix("."), []).append(path.stem)
    assert mapped() == there


def test_each_package_says_what_is_inside():
    for path in PACKAGE.rglob("__init__.py"):
        assert path.read_text().startswith('"""'), f"{path.relative_to(ROOT)} has no docstring"
