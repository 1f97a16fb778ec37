"""Setup of all tests: a signing key of their own, their order, short timings, rare garbage collection."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator

import pytest

from lissom.bench import latency

FIRST = ("test_docs.py", "test_torch.py")  # which take long
ROUND_S = 0.005  # of timing, in place of 0.04
GARBAGE = 20_000  # new objects between two looks, in place of 700


def pytest_configure() -> None:
    """Let no test make or use the signing key of whoever runs them."""
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="lissom-tests-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first: at the end they would keep other processes waiting."""
    items.sort(key=lambda item: item.path.name not in FIRST)


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and never among what the libraries hold."""
    gc.set_threshold(GARBAGE, 10, 10)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def short_rounds() -> Iterator[None]:
    """Time a file for a moment only: no test depends on how fast one is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "ROUND_S", ROUND_S)
        yield
