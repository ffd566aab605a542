"""``docs/commands.md`` is what the program says of itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz.cli import known, names
from attnviz.cli.groups import with_values

ROOT = Path(__file__).parents[2]


def fresh(*arguments: str) -> str:
    """What a new interpreter prints, in which no test has made anything known."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_page_of_commands_is_current():
    assert (ROOT / "docs/commands.md").read_text() == fresh("-m", "attnviz.cli.manual"), "make commands"


def test_the_page_of_names_is_current():
    assert (ROOT / "docs/python.md").read_text() == names.page(), "make commands"


def test_every_public_name_has_an_example_that_is_run():
    for name in attnviz.__all__:
        assert "\n>>> " in inspect.getdoc(getattr(attnviz, name)), name


@pytest.mark.sweep
def test_names_are_the_same_whether_they_are_loaded_or_read():
    script = (
        "from attnviz.cli import known; before = known.patterns(), known.statistics()\n"
        "import sys; assert 'torch' not in sys.modules\n"
        "import attnviz.attention.names, attnviz.measures.statistics\n"
        "assert before == (known.patterns(), known.statistics()), (before, known.patterns(), known.statistics())\n"
    )
    fresh("-c", script)
    assert "local+global" in known.patterns()
    assert "entropy" in known.statistics()


def test_an_option_that_may_stand_alone_takes_no_file_for_its_value():
    bare = {"--mean": "heads", "--max": "heads"}
    assert with_values(["--mean", "a.npz"], bare) == ["--mean=heads", "a.npz"]
    assert with_values(["a.npz", "--max"], bare) == ["a.npz", "--max=heads"]
    assert with_values([], bare) == []
    assert with_values(["--max", "heads", "--mean=heads"], bare) == ["--max", "heads", "--mean=heads"]
