"""What all tests share: PyTorch's ONNX exporter reads the sources of its 500 functions once, not at each export."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from typing import Any

from torch.onnx._internal.exporter import _registration

functions: Any = getattr(_registration, "onnxscript_apis", None)  # PyTorch's own, and so not for certain there
if hasattr(functions, "get_torchlib_ops"):
    functions.get_torchlib_ops = cache(functions.get_torchlib_ops)


def pytest_configure() -> None:
    """Let no test make or use the signing key of whoever runs them."""
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="lissom-tests-")
