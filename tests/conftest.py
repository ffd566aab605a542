"""What every test stands on: no network, no model hub, quick and repeatable property tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads of torch would only get in the way

import pytest
from hypothesis import HealthCheck, settings

from tests.warm import ENVIRONMENT

# Machines that run tests are shared and slow by turns: no deadlines. The same examples on every run, so that a red
# build says something of the change; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure() -> None:
    """A shell's & has interrupts ignored, by the tests and so by every program that they start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
