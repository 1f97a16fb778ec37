"""A new method is a new file: dropped into a folder, it is listed, explained, hashed, saved, loaded
and exported, with no edit elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from networks import conv, head
from torch import Tensor, nn
from typer.testing import CliRunner

import lissom
from lissom import Recipe, apply
from lissom.cli.main import app
from lissom.language.grid import grid_of
from lissom.language.menu import menu

GRID = '''
"""Even integers."""

from dataclasses import dataclass

import torch

from lissom.language.grid import WeightGrid, by_filter
from lissom.language.method import arg


@dataclass(frozen=True)
class Even(WeightGrid):
    """Round weights to even multiples of a step.

    Also known as: every other value.
    Source: nobody 2026, https://example.org.
    """

    of_weights = (4,)
    reach: float = arg("share of the largest weight that is reached", 1.0, above=0, high=1)

    def hold_weights(self, weight, bits):
        return {"step": weight.abs().flatten(1).amax(1) * self.reach / 3}

    def codes(self, weight, bits, held):
        codes = (weight / by_filter(held["step"], weight)).round().clamp(-3, 3) * 2
        return codes, held["step"] / 2
'''

IMPORTANCE = '''
"""Rank channels from the last to the first."""

from dataclasses import dataclass

import torch

from lissom.language.importance import Importance


@dataclass(frozen=True)
class Backwards(Importance):
    """Rank channels by where they stand, the last ones first.

    Source: nobody 2026, https://example.org.
    """

    def __call__(self, group, evidence):
        return -torch.arange(group.size).float()
'''

TARGET = '''
"""PyTorch once more."""

from dataclasses import dataclass

from lissom.targets.torch import Torch


@dataclass(frozen=True)
class Again(Torch):
    """Export with torch.export, under another name.

    Source: nobody 2026, https://example.org.
    """

    ending = "pt2"
'''

Drop = Callable[[str, str, str], None]


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Return what drops a file into the folder of a menu, until the test is over."""
    dropped = []

    def place(folder: str, name: str, text: str) -> None:
        path = tmp_path / folder
        path.mkdir()
        (path / f"{name}.py").write_text(text, encoding="utf-8")
        package = import_module(f"lissom.{folder}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(path)])
        dropped.append((folder, name))

    yield place
    for folder, name in dropped:
        sys.modules.pop(f"lissom.{folder}.{name}", None)
        menu(folder).imported.pop(name, None)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), head(8)).eval()


def images() -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


def listed(word: str) -> str:
    return CliRunner().invoke(app, ["list", word]).output


def test_a_grid(drop: Drop, tmp_path: Path) -> None:
    drop("grids", "even", GRID)
    assert "even" in listed("grids") and "every other value" in listed("even")
    assert str(grid_of("even(reach=0.5)")) == "even(0.5)"
    recipes = [Recipe(f"quantize(4, grid='even({s})', first=4, last=4)") for s in ("", "reach=0.5")]
    assert recipes[0].steps[0].key("") != recipes[1].steps[0].key("")
    small = apply(str(recipes[0]), net(), images()[:1], images())
    codes = small.network[0].integers()[0]
    assert set(codes.unique().tolist()) == {-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0}
    lissom.save(small, tmp_path / "saved")
    assert torch.equal(outputs(lissom.load(tmp_path / "saved", net())), outputs(small))
    lissom.export(small, "onnxruntime", tmp_path / "net.onnx", (3, 8, 8))  # compares the outputs


def test_an_importance(drop: Drop) -> None:
    drop("importance", "backwards", IMPORTANCE)
    assert "backwards" in listed("importance")
    assert Recipe("prune(0.5, by='backwards')").steps[0].key("") != Recipe("prune(0.5)").steps[
        0
    ].key("")
    small = apply(
        "prune(0.5, of='channels', by='backwards', multiple=1)", net(), images()[:1], images()
    )
    assert small[0].kept == [0, 1, 2, 3]


USE = """
import torch
from lissom import export
from lissom.language.menu import menu

assert "again" in menu("targets")
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
path = export(net, "again", "net.pt2", (3, 8, 8))  # which runs the file in a process of its own
x = torch.randn(2, 3, 8, 8)
assert torch.allclose(torch.export.load(path).module()(x), net(x), atol=1e-6)
"""


def test_a_target(tmp_path: Path) -> None:
    """In a copy of the package, since files are run in other processes."""
    package = tmp_path / "package" / "lissom"
    shutil.copytree(Path(lissom.__file__).parent, package)
    (package / "targets" / "again.py").write_text(TARGET, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
