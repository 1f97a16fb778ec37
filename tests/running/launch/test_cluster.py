"""A real Ray cluster of two nodes on this machine: the same bits as one process, a node killed in
the middle, and user code that is sent along.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import lissom
from lissom import LissomError, Store, Task
from lissom.data.data import Data
from lissom.learning.rung import Rung
from lissom.running.search.early import EarlyStopping
from lissom.running.search.outcome import Outcome
from lissom.system.processes import surroundings

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: pip install 'lissom[ray]'",
    ),
    pytest.mark.filterwarnings("ignore"),  # of Ray's own
]
GRID = (
    "train(1, batch=64) | prune({0.3, 0.5}, multiple=4) | "
    '{train(6, batch=64, lr=0.05), distill("kd", 6, batch=64)}'
)


def digits() -> Task:
    return Task.of("resnet8", Data.of("digits", size=(8, 8)))


def bits(store: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.name in ("model.safetensors", "structure.json")
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("alone")
    lissom.run(GRID, digits(), store)
    return store


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    # lissom lies where only PYTHONPATH leads to, and nodes inherit that
    os.environ["PYTHONPATH"] = surroundings()["PYTHONPATH"]
    port = free_port()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "ray_client_server_port": port}
    )
    cluster.client = f"ray://127.0.0.1:{port}"
    cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    ray.shutdown()
    del os.environ["RAY_ADDRESS"]
    cluster.shutdown()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


NET = """
from torch import nn

def make(num_classes=10, in_channels=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, num_classes),
    )
"""


def kill_at_work(cluster: Any) -> None:
    """Kill the second node as soon as something is made there: its process starts with the first order."""
    (node,) = cluster.worker_nodes
    (raylet,) = [info.process.pid for info in node.all_processes["raylet"]]
    end = time.monotonic() + 60
    while not any(
        "lissom.running.launch.child" in process.cmdline()
        for process in psutil.Process(raylet).children(recursive=True)
    ):
        assert time.monotonic() < end
        time.sleep(0.1)
    cluster.remove_node(node, allow_graceful=False)


def test_a_cluster_makes_what_one_process_makes_though_a_node_dies(
    cluster: Any, alone: Path, tmp_path: Path
) -> None:
    killer = threading.Thread(target=kill_at_work, args=(cluster,))
    killer.start()
    words = ["run", GRID, "--model", "resnet8", "--size", "8", "--store", str(tmp_path), "--json"]
    words += ["--workers", "ray", "--worker-threads", str(torch.get_num_threads())]
    done = subprocess.run(
        [sys.executable, "-m", "lissom", *words],
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    killer.join()
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 4
    assert "its worker was lost" in done.stderr and "it is made again" in done.stderr
    assert bits(tmp_path) == bits(alone)
    store = Store(tmp_path)
    assert all(store.is_trusted(key) for key in store), "the head signs what it takes in"
    assert {path.name for path in tmp_path.glob(".*")} == {".locks"}


@pytest.mark.parametrize("address", ["ray", "ray://"])
def test_code_of_the_current_folder_travels(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    (tmp_path / "net.py").write_text(NET)
    address = cluster.client if address == "ray://" else address
    words = ["run", "train(1, batch=64) | prune(0.5, multiple=4)", "--model", "net.py:make"]
    words += ["--size", "8", "--workers", address]
    done = subprocess.run(
        [sys.executable, "-m", "lissom", *words],
        cwd=tmp_path,
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)  # where the code lies is signed, too
    store = Store(".lissom")
    assert len(list(store)) == 2 and all(store.is_trusted(key) for key in store)
    assert "usage stat" not in (done.stdout + done.stderr).lower()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"workers: the cluster ray://127.0.0.1:1 cannot be used"):
        lissom.run("fold", digits(), tmp_path, workers="ray://127.0.0.1:1")


def test_a_training_is_stopped_on_a_cluster_too(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search sends its rungs along, and takes back what a training had reached."""
    monkeypatch.setattr("lissom.running.search.search.PROBES", 2)
    rungs = [Rung(), Rung(1.5)]
    monkeypatch.setattr(EarlyStopping, "rung", lambda *_: rungs.pop(0))
    found = lissom.search(
        'train(1) | prune(0.1..0.5, of="macs") | train(3, batch=256) | quantize(8)',
        "fastest",
        digits(),
        Store(tmp_path / "store"),
        budget_s=600,
        targets="onnxruntime",
        trials=2,
        workers="ray",
    )
    whole, stopped = [Outcome.of(each) for each in found.outcomes if not each["probe"]]
    assert whole.finished and whole.midway is not None
    assert stopped.stopped and stopped.midway is not None and 0 < stopped.midway < 1
    assert found.chosen == [whole.recipe]
