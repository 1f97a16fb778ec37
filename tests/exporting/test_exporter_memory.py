"""Exports leave nothing of the networks in the memory of the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lissom.language.parse_methods import method_of
from lissom.language.target import Target
from lissom.system.processes import surroundings

SCRIPT = """
import gc, json, sys, warnings
import psutil
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from pathlib import Path
from lissom.language.parse_methods import method_of

warnings.simplefilter("ignore")
target = method_of("targets", sys.argv[1])
for number in range(13):
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    target.export(nn.Sequential(*layers), Path(sys.argv[2]), (3, 8, 8), {})
    if number in (4, 12):
        gc.collect(), gc.collect()  # what C++ held is free after the first
        held = sum(type(f) is ShapeEnv for f in gc.get_objects())
        print(json.dumps([held, psutil.Process().memory_info().rss]))
"""
MIB = 2**20


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_exports_leave_nothing_in_memory(name: str, tmp_path: Path) -> None:
    """Log records, which pytest keeps, would hold on to what they tell of: so it is a process of its own."""
    target = method_of("targets", name)
    assert isinstance(target, Target)
    if target.missing():
        pytest.skip(target.missing() or "")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(tmp_path / f"net.{target.ending}")],
        env=surroundings(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (known, before), (left, after) = map(json.loads, done.stdout.splitlines()[-2:])
    assert left <= known and after - before < 4 * MIB, (known, left, (after - before) / MIB)
