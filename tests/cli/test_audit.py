"""``attnviz audit`` as a job in CI runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import attnviz
from tests.cases import small


def test_runs_that_are_the_same_are_0(run, dump):
    result = run("audit", dump, dump)
    assert (result.code, result.err) == (0, "")
    assert result.out == "the runs agree in 1 layers within what rounding to float32 costs\n"


def test_runs_that_part_are_1_and_say_where(run, dump):
    attnviz.save("other.safetensors", replace(small(), scale=1.0))
    result = run("audit", dump, "other.safetensors", "-o", "audit.md", "--format", "json")
    assert (result.code, result.err) == (1, "attnviz: wrote audit.md\n")
    found = json.loads(result.out)
    assert (found["schema"], found["within"], found["first"]) == ("attnviz.audit/1", False, "0")
    assert found["layers"][0]["findings"][0]["faults"] == ["scale"]
    assert "it is what the formula gives with a scale of 1" in Path("audit.md").read_text()
    assert "the runs part at layer 0" in run("audit", dump, "other.safetensors").out


def test_bad_input_is_2(refused, dump):
    refused("audit", dump, "nothing.safetensors", says="nothing.safetensors: there is no such file")
    refused("audit", dump, dump, "-o", "x.png", says="unknown suffix '.png'")
