"""Parallel processes give the same bits as one, whatever is killed, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import lissom
from lissom import LissomError, Task
from lissom.data.data import Data
from lissom.errors import Unmeasured
from lissom.running.launch.child import maker
from lissom.system.processes import surroundings
from lissom.tasks.task import own_task

GRID = "train(1, batch=64) | prune({0.3, 0.5}, multiple=4) | train(1, batch=64, lr=0.05)"
LONG = "train(1, batch=64) | train({400, 401}, batch=64, lr=0.05)"  # minutes
WANTED_S = 60


def digits() -> Task:
    return Task.of("resnet8", Data.of("digits", size=(8, 8)))


def side_by_side(store: Path, **more: Any) -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    return lissom.run(GRID, digits(), store, workers=2, worker_threads=threads, **more)


def bits(store: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.name in ("model.safetensors", "structure.json")
    }


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "lissom.running.launch.child" in child.cmdline()
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("alone")
    lissom.run(GRID, digits(), store, seeds=(0, 1))
    return store


def test_two_processes_make_what_one_makes(alone: Path, tmp_path: Path) -> None:
    said: list[str] = []
    records = side_by_side(tmp_path, seeds=(0, 1), say=said.append)
    assert [record["key"] for record in records] == [
        record["key"] for record in lissom.run(GRID, digits(), alone, seeds=(0, 1))
    ]
    assert all(record["finished"] for record in records)
    assert bits(tmp_path) == bits(alone)
    assert any(line.startswith("2 workers of ") for line in said)
    assert not children() and {path.name for path in tmp_path.glob(".*")} == {".locks"}


def test_a_worker_that_is_killed_changes_nothing(alone: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if sum("[5 of 10" in line for line in said) == 1 and "[5 of 10" in text:
            for child in children():  # the one that learns, and the one that is to
                child.kill()

    side_by_side(tmp_path, seeds=(0, 1), say=say, checkpoint=0.00001)
    assert any("its worker was killed by SIGKILL; it is made again" in line for line in said)
    assert bits(tmp_path) == bits(alone)
    assert not children() and {path.name for path in tmp_path.glob(".*")} == {".locks"}


OWN = """
import os
from dataclasses import replace
from lissom import LissomError, Task
from lissom.data.data import Data
from torch.nn import functional as F

def loss(network, batch):
    if sum(p.numel() for p in network.parameters()) < 10_000:
        raise LissomError("it is too small to learn")
    return F.cross_entropy(batch.outputs, batch.labels)

def task():
    print("a user's own code prints what it likes")
    return replace(Task.of("resnet8", Data.of("digits", size=(8, 8))), loss=loss)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return f"{file}:task"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_recipe_that_fails_ends_no_other(own: str, tmp_path: Path, workers: int) -> None:
    said: list[str] = []
    recipe = (
        "train(1, batch=64) | prune({0.2, 0.8}, multiple=4) | train(1, batch=64, lr=0.05) | "
        "{fold, quantize(8, samples=16)}"
    )
    with pytest.raises(Unmeasured, match="too small to learn; everything else is done") as caught:
        lissom.run(recipe, own_task(own), tmp_path / "store", workers=workers, say=said.append)
    assert [
        record["recipe"].split("prune(")[1].split(",")[0] for record in caught.value.records
    ] == ["0.2", "0.2"]
    assert sum("too small to learn" in line for line in said) == 1
    with pytest.raises(LissomError, match=r"^it is too small to learn$"):
        lissom.run(
            "train(1, batch=64) | prune(0.8, multiple=4) | train(1, batch=64, lr=0.05)",
            own_task(own),
            tmp_path / "store",
            workers=workers,
        )


def test_only_tasks_that_have_a_name_go_to_workers(tmp_path: Path) -> None:
    task = Task(digits().build, digits().data, kind=digits().kind)
    with pytest.raises(LissomError, match=r"made by Python code.*--task file\.py:name"):
        lissom.run("fold", task, tmp_path, workers=2)


def test_a_worker_that_has_other_data_says_so(tmp_path: Path) -> None:
    task = digits()
    setup = {
        "task": {**task.origin, "data": {**task.origin["data"], "size": [16, 16]}},
        "store": str(tmp_path),
        "device": "cpu",
        "checkpoint_s": None,
        "threads": torch.get_num_threads(),
    }
    order = {"key": task.root(0), "recipe": "", "seed": 0}
    with pytest.raises(LissomError, match="expected the same data, model and versions"):
        maker(setup, print)(order)


def started(store: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a long run on two workers at the head of a session; return when both learn."""
    words = ["run", LONG, "--model", "resnet8", "--size", "8", "--store", str(store)]
    words += ["--workers", "2", "--checkpoint", "0.00001"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lissom", *words],
            env=surroundings(),
            stdout=file,
            stderr=file,
            start_new_session=True,
            # which is ignored in all that a shell starts in the background
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    waits(lambda: len(list(store.glob(".part-*/checkpoint.safetensors"))) == 2, log)
    return process


def waits(until: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + WANTED_S
    while not until():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def of_session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="the system knows no sessions")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_run_and_checkpoints_stay(tmp_path: Path, sent: int) -> None:
    store, log = tmp_path / "store", tmp_path / "log.txt"
    run = started(store, log)
    assert len(of_session(run.pid)) == 3
    os.killpg(run.pid, sent)  # as a terminal does; workers are in groups of their own
    run.wait(WANTED_S)
    waits(lambda: not of_session(run.pid), log)
    assert len(list(store.glob(".part-*/checkpoint.safetensors"))) == 2
    if sent == signal.SIGINT:
        assert run.returncode == 130 and "Traceback" not in log.read_text()
        assert not list(store.glob(".new-*"))
