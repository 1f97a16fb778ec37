"""What all tests share: a signing key of their own, their order, how garbage is looked for."""

from __future__ import annotations

import gc
import os
import tempfile

import pytest

TESTS = os.path.dirname(__file__)
LAST = ("exporting", "targets")  # folders whose tests load every runtime
FIRST = ("test_docs.py", "test_torch.py")  # which take long
GARBAGE = 20_000  # new objects between two looks, in place of 700


def pytest_configure() -> None:
    """Let no test make or use the signing key of whoever runs them."""
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="lissom-tests-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run last what loads every runtime, and of each part the longest files first.

    With every runtime loaded beside PyTorch, one process that trained afterwards has died of a
    segmentation fault; which library is at fault is not known. Several processes take one file
    after the other: a long one at the end would keep the others waiting.
    """

    def place(item: pytest.Item) -> tuple[bool, bool]:
        path = os.path.relpath(item.path, TESTS)
        return path.split(os.sep)[0] in LAST, item.path.name not in FIRST

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and never among what the libraries hold."""
    gc.set_threshold(GARBAGE, 10, 10)
    gc.collect()
    gc.freeze()
