"""`lissom run --processes`: the first process starts the others, and none outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

NETWORK = """
import os
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

    def forward(self, x):
        if self.training and os.environ.get("LISSOM_RANK") and Path("kill").exists():
            os.kill(os.getpid(), 9)
        if self.training and os.environ.get("LISSOM_RANK") and Path("raise").exists():
            raise ValueError("no such luck")
        return self.layers(x)
"""
LONG_S = 120


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "LISSOM_STORE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def words(recipe: str, *more: str) -> list[str]:
    network = ("--model", "net.py:Net", "--data", "digits", "--size", "8", "--channels", "1")
    return ["-m", "lissom", "run", recipe, *network, *more]


def others(place: Path) -> list[psutil.Process]:
    """Return the processes that run in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == place and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.pid != os.getpid()]


def gone(place: Path) -> bool:
    """Return whether no process runs in a folder any more, within a while."""
    until = time.monotonic() + 15
    while others(place) and time.monotonic() < until:
        time.sleep(0.1)
    return not others(place)


def records(store: Path) -> Iterator[dict[str, object]]:
    for path in store.glob("*/record.json"):
        yield json.loads(path.read_text())


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG_S)


def test_two_processes_run_a_recipe(place: Path) -> None:
    recipe = 'train(1) | sparsify(0.0001, 1) | prune(0.3, multiple=1) | distill("kd", 1)'
    done = run(sys.executable, *words(recipe, "--processes", "2"))
    assert done.returncode == 0, done.stderr
    learned = {record["step"]: record["learned_on"] for record in records(place / ".lissom")}
    assert len(learned) == 4
    for step, on in learned.items():
        assert str(on).endswith(", 2 processes") == (not str(step).startswith("prune"))
    assert gone(place)
    assert not list((place / "temporary").glob("lissom-*"))


def test_torchrun_starts_them_too(place: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    done = run(*torchrun, *words("train(1)"))
    assert done.returncode == 0, done.stderr
    (record,) = records(place / ".lissom")
    assert str(record["learned_on"]).endswith(", 2 processes")
    again = run(*torchrun, *words("train(1)"))  # nothing is left to learn
    assert again.returncode == 0, again.stderr
    assert gone(place)


def test_a_killed_process_is_one_line(place: Path) -> None:
    (place / "kill").touch()
    done = run(sys.executable, *words("train(1)", "--processes", "3"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("lissom: --processes: process ")
    assert "was killed by SIGKILL; the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert gone(place)
    assert not list((place / "temporary").glob("lissom-*"))


def test_what_another_process_raises_is_one_line(place: Path) -> None:
    (place / "raise").touch()
    done = run(sys.executable, *words("train(1)", "--processes", "2"))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lissom: --processes: process 1 of 0 to 1 ended with status 2: ")
    assert "while it learned: no such luck (net.py" in last
    assert gone(place)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_the_others_end_with_the_first(by: signal.Signals, place: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, *words("train(100000)", "--processes", "2")],
        stderr=subprocess.PIPE,
        text=True,
        # which is ignored in all that a shell starts in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert first.stderr is not None
        assert any("epoch 2/" in line for line in first.stderr)
        assert len(others(place)) >= 2
        first.send_signal(by)
        said = first.stderr.read()
        status = first.wait(timeout=LONG_S)
    finally:
        first.kill()
        if first.stderr is not None:
            first.stderr.close()
    assert status == (130 if by == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    assert gone(place)
