"""Setup of all tests: a signing key of their own, their order, rare garbage collection."""

from __future__ import annotations

import gc
import os
import tempfile

import pytest

FIRST = ("test_docs.py", "test_torch.py")  # which take long
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
