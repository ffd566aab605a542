"""What every test stands on: no network, no model hub, quick and repeatable property tests."""

from __future__ import annotations

import gc
import inspect
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the program has it; a warm fork has imported PyTorch without
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads of torch would only get in the way

if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton, whose own functions settle it then

import pytest
from hypothesis import HealthCheck, settings

from tests.warm import ENVIRONMENT

# Machines that run tests are shared and slow by turns: no deadlines. The same examples on every run, so that a red
# build says something of the change; HYPOTHESIS_PROFILE=search looks for new ones.
for profile, examples in (("repeatable", 16), ("sweep", 100), ("search", 2000)):
    settings.register_profile(
        profile,
        deadline=None,
        derandomize=profile != "search",
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make sweep``."""
    parser.addoption("--sweep", action="store_true", help="every case of the tests marked sweep, more random examples")


def pytest_configure(config: pytest.Config) -> None:
    """A shell's & has interrupts ignored and nohup hangups, by the tests and so by every program that they stop."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)
    usual = "sweep" if config.getoption("--sweep") else "repeatable"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", usual))


LONG = {"matrix", "power", "fuzz", "families"}
"""The marks of tests that `make test` leaves out, each of up to thousands of cases."""


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Makes no case of a long test that ``-m`` leaves out: they are more than all the others."""
    said = collector.config.option.markexpr
    if not inspect.isfunction(obj) or " or " in said or any("::" in named for named in collector.config.args):
        return None
    left_out = {term.removeprefix("not ") for term in said.split(" and ") if term.startswith("not ")} & LONG
    return [] if left_out & {mark.name for mark in getattr(obj, "pytestmark", [])} else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves all but a covering part of the tests marked ``sweep`` to ``make sweep``, and to who names a test."""
    if config.getoption("--sweep") or any("::" in named for named in config.args):
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sweep"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left = {id(item) for of_one in cases.values() for item in left_out(of_one)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left])
    items[:] = [item for item in items if id(item) not in left]


def left_out(cases: list[pytest.Item]) -> list[pytest.Item]:
    """The cases of a test that are not among the ``keep`` that show the most values of its parameters."""
    mark = cases[0].get_closest_marker("sweep")
    assert mark
    seen: set[tuple[str, int]] = set()
    left = list(cases)
    for _ in range(mark.kwargs.get("keep", 0)):
        best = max(left, key=lambda case: len(values_of(case) - seen))
        seen |= values_of(best)
        left.remove(best)
    return left


def values_of(case: pytest.Item) -> set[tuple[str, int]]:
    """Which value each parameter of a case has, by its number."""
    return set(case.callspec.indices.items()) if hasattr(case, "callspec") else set()


def pytest_collection_finish() -> None:
    """What was imported lives as long as the tests: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Every test has the environment that the first had: libraries set names of their own when they are imported."""
    yield
    for name in os.environ.keys() - ENVIRONMENT.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(ENVIRONMENT)
