"""The record's description of the machine: its GPU if it has one, nothing otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lissom.bench import machine


@pytest.mark.parametrize(
    ("said", "driver"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build",
            "570.86.15",
        ),
        ("NVRM version: none", None),
        (None, None),
    ],
)
def test_a_gpu_is_named_with_its_versions(
    said: str | None, driver: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = SimpleNamespace(name="NVIDIA H200", total_memory=140 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(machine, "DRIVER_FILE", tmp_path / "version")
    if said is not None:
        (tmp_path / "version").write_text(said)
    wanted = {
        "name": "NVIDIA H200",
        "memory_gib": 140.0,
        "count": 2,
        "driver": driver,
        "cuda": "13.0",
        "cudnn": "9.24.0",
    }
    if driver is None:
        del wanted["driver"]
    assert machine.machine.__wrapped__()["gpu"] == wanted


def test_without_a_gpu_nothing_is_said_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu" not in machine.machine.__wrapped__()
