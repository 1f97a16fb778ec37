"""The memory of a running file, without that of the runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import lissom
from lissom.language.menu import menu
from lissom.language.parse_methods import method_of

LOADED = """
import sys
from importlib import import_module
from pathlib import Path
from lissom.language.parse_methods import method_of
target = method_of("targets", sys.argv[1])
import_module(target.module)
before = set(sys.modules)
try:
    target.load(Path("/nowhere/m." + target.ending), 1)
except Exception:
    pass
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {"lissom", "numpy", "__mp_main__"}))
"""


@pytest.mark.parametrize("name", [name for name in menu("targets") if name != "torch"])
def test_loading_imports_nothing_beyond_the_library(name: str) -> None:
    """PyTorch is left out: it imports much of itself only when it loads a file."""
    target: Any = method_of("targets", name)
    if target.missing():
        pytest.skip(target.missing())
    done = subprocess.run(
        [sys.executable, "-c", LOADED, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime(packed=True)", "openvino"])
def test_a_large_file_adds_its_weights_and_a_small_one_next_to_nothing(
    target: str, tmp_path: Path
) -> None:
    found = {}
    for width in (8, 3000):
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.ReLU(), nn.Linear(width, width)
        )
        path = lissom.export(net, target, tmp_path / f"{width}.onnx", (3, 8, 8))
        (row,) = lissom.latency([path], target, (1, 3, 8, 8))
        found[width] = row["resident_mib"]
        assert 0 < found[width] < row["peak_mib"]  # type: ignore[operator]
    weights = 4 * 3000 * (3000 + 192) / 2**20
    assert 0.9 * weights < found[3000] - found[8] < 3.5 * weights  # type: ignore[operator]
