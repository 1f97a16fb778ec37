"""What all tests share: a signing key of their own."""

from __future__ import annotations

import os
import tempfile


def pytest_configure() -> None:
    """Let no test make or use the signing key of whoever runs them."""
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="lissom-tests-")
