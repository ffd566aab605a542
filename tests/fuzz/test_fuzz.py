"""Nothing that is given to the program breaks it: `make fuzz` draws thousands of cases, `make test` tries the corpus.

    make fuzz SEED=7 CASES=20000

The same seed draws the same cases. What is found is shrunk to a small case, whose files stay in pytest's folder; it
becomes a test, and its file one of `tests/fuzz/corpus`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from safetensors.numpy import save
from starlette.testclient import TestClient

from attnviz.attention.patterns import Causal
from attnviz.pages.description import PageLayer
from attnviz.pages.server import HOST, application
from attnviz.pages.viewer import Viewer
from tests.fuzz.corpus import corpus, tiny
from tests.fuzz.drawn import FAMILIES, commands, requests
from tests.fuzz.program import Case, Ended, fault, run

SEED = int(os.environ.get("SEED") or 0)
CASES = int(os.environ.get("CASES") or 3000)
CHUNK = 250
SHARES = {"options": 0.4, "readers": 0.35, "snapshots": 0.1, "requests": 0.15}
ROOM = 4 << 30
"""Bytes that the program may take beside what these tests have: what wants more must say so."""

chunks = [(family, n) for family, share in SHARES.items() for n in range(max(1, round(CASES * share / CHUNK)))]


@pytest.fixture(scope="module", autouse=True)
def bounded() -> Iterator[None]:
    """No case takes the machine's memory."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def holds(case: Case, folder: Path) -> None:
    """Raises where a case ends with a fault."""
    ended = run(case, folder)
    found = fault(case, ended)
    assert found is None, f"{found}\nin {folder}: attnviz {' '.join(map(repr, case.arguments))}"


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "chunk"), chunks)
def test_nothing_breaks(family, chunk, tmp_path):
    drawing = seed(SEED * 100_000 + chunk), settings(
        max_examples=CHUNK,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip

    def drawn(test, strategy):
        for how in (given(strategy), *drawing):
            test = how(test)
        test()

    if family == "requests":
        with served() as client:
            drawn(lambda request: answered(client, *request), requests())
    else:
        drawn(lambda case: holds(case, Path(mkdtemp(dir=tmp_path))), FAMILIES[family]())


TOKEN, PORT = "the-token", 8765


def served() -> TestClient:
    """A client of a page's server that raises nothing of what goes wrong inside."""
    layer = PageLayer("7", tiny().item(), Causal(), (0, 1))
    app = application(Viewer([layer], "a"), token=TOKEN, port=PORT)
    return TestClient(app, base_url=f"http://{HOST}:{PORT}", follow_redirects=False, raise_server_exceptions=False)


def answered(client: TestClient, method: str, path: str, headers: dict[str, str]) -> None:
    """Raises where a request is answered as a failure of ours."""
    answer = client.request(method, f"/{TOKEN}/{path}", headers=headers)
    assert answer.status_code < 500, (method, path, answer.text)
    if answer.status_code in (404, 422) and method != "HEAD":
        assert "\n" not in answer.json()["error"]


FOUND = (
    "audit good.safetensors good.safetensors --batch 1",
    "audit weights.npy weights.npy",
    "synth made.npz --kv-heads 2 --heads 1 --structure local",
    "synth made.npz --kv-heads 3 --heads 8 --structure sink",
    *(
        f"score weights.npy --{role} good.safetensors:k"
        for role in ("k", "q-global", "v-global", "bias", "cu-seqlens-k")
    ),
    f"score good.safetensors --documents {'9' * 30}",
    "score good.safetensors --documents 2,2 --k masks.npz:slopes",
    "score good.safetensors --documents 2,2 --k masks.npz:padding --layout bthd",
)
"""Options that once ended in a defect."""


@pytest.mark.parametrize("arguments", FOUND)
def test_what_was_found_is_refused(arguments, tmp_path):
    case = Case(tuple(arguments.split()), {name: corpus()[name] for name in corpus() if name in arguments})
    ended = run(case, tmp_path)
    assert (ended.code, fault(case, ended)) == (2, None)


@pytest.mark.parametrize("layout", [3, None, ["bthd"], {"order": "bthd"}, True, 1e308], ids=repr)
@pytest.mark.parametrize("more", [[], ["--documents", "2,2"], ["--layer", "0"]], ids=" ".join)
def test_a_layout_in_metadata_that_is_no_text_is_refused(layout, more, tmp_path):
    tensors = {name: np.zeros((1, 2, 4, 3), np.float32) for name in ("q", "k")}
    file = save(tensors, {"attnviz": json.dumps({"format": 1, "layout": layout})})
    case = Case(("score", "odd.safetensors", *more), {"odd.safetensors": file})
    assert fault(case, run(case, tmp_path)) is None


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize("name", corpus())
def test_every_file_of_the_corpus_is_read_or_refused(name, tmp_path):
    for command in (
        ["score", name, "--format", "json"],
        ["inspect", name],
        ["inspect", name, "--format", "json"],
        ["snapshot", "check", "good.safetensors", name],
    ):
        files = {one: corpus()[one] for one in {name, "good.safetensors"} if one in command}
        holds(Case(tuple(command), files), Path(mkdtemp(dir=tmp_path)))


@pytest.mark.parametrize("family", FAMILIES)
def test_cases_of_each_kind_are_drawn_and_none_breaks(family, tmp_path):
    @settings(max_examples=15, database=None)
    @given(FAMILIES[family]())
    def few(case):
        holds(case, Path(mkdtemp(dir=tmp_path)))

    few()


def test_requests_are_drawn_and_answered():
    with served() as client:

        @settings(max_examples=20, database=None)
        @given(requests())
        def few(request):
            answered(client, *request)

        few()
        assert client.get(f"/{TOKEN}/run.json").status_code == 200


def test_every_command_is_drawn():
    assert {"score", "plot", "snapshot check", "audit", "diff"} <= set(commands())


@pytest.mark.parametrize(
    ("arguments", "ended", "says"),
    [
        (("score",), Ended(70, "", "attnviz: a defect", frozenset(), frozenset()), "exit code 70"),
        (("score",), Ended(1, "", "attnviz: x", frozenset(), frozenset()), "exit code 1"),
        (("diff",), Ended(1, "", "", frozenset(), frozenset()), None),
        (("score",), Ended(2, "", "", frozenset(), frozenset()), "nothing is said"),
        (("score",), Ended(2, "x", "attnviz: x", frozenset(), frozenset()), "stdout"),
        (("score",), Ended(0, "", "x.py:3: UserWarning: odd", frozenset(), frozenset()), "not ours"),
        (("score",), Ended(0, "a\x1b[31m", "", frozenset(), frozenset()), "terminals obey"),
        (("score",), Ended(0, " nan ", "", frozenset(), frozenset()), "nan is shown"),
        (("score", "-o", "x.csv"), Ended(2, "", "attnviz: x", frozenset({"x.csv"}), frozenset()), "refused, and yet"),
        (("score", "-o", "x.csv"), Ended(0, "", "", frozenset({"x.csv", ".x.a.csv"}), frozenset()), "nobody asked"),
        (("score", "-o", "x.csv"), Ended(0, "", "", frozenset(), frozenset()), "not written"),
        (("score", "d.npz"), Ended(0, "", "", frozenset(), frozenset({"d.npz"})), "input was changed"),
        (("score", "--format", "json"), Ended(0, '{"a":NaN}', "", frozenset(), frozenset()), "no JSON"),
        (
            ("score", "--format", "json"),
            Ended(0, '{"schema":"attnviz.scores/2","items":[{"heads":[{"head":0,"weights":[[0.5,0.4]]}]}]}', "", frozenset(), frozenset()),
            "sums to 0.9",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_seen(arguments, ended, says):
    found = fault(Case(arguments), ended)
    assert found == says if says is None else says in str(found)
