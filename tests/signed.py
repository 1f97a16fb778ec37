"""Store entries as a run writes them, and a signing user for each test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lissom import Store
from lissom.store.checks import write_json
from lissom.store.snapshot import save

KEY, OTHER = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
NETS = """
from pathlib import Path
from torch import nn
Path(__file__).with_name("RAN").touch()
def make(num_classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))
"""
RESNET = {"model": "resnet8", "num_classes": 3, "in_channels": 1}
NUMBERS: dict[str, Any] = {
    "scores": {"valid": {"top1": 0.5}, "test": {"top1": 0.5}},
    "params": 10,
    "macs": 10,
    "weights_bytes": 40,
}


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def put(store: Store, key: str, build: dict[str, Any], net: nn.Module) -> None:
    """Write an entry as a run does."""
    with store.entry(key) as folder:
        save(net, folder, build)
        write_json(
            folder / "record.json",
            {
                "key": key,
                "before": None,
                "recipe": "",
                "seed": 0,
                **NUMBERS,
                "float": {"key": key, **NUMBERS},
                "task": {"model": "net", "data": "digits", "shape": [1, 2, 2]},
            },
        )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a user of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "config"


@pytest.fixture
def own(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(store, KEY, {"model": "nets.py:make", "num_classes": 3}, network())
    return store


def another_user(home: Path) -> None:
    shutil.rmtree(home)
