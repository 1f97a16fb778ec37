"""A real Ray cluster of two nodes on this machine: the same bits as one process, a node killed in
the middle, and code of one's own that travels.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lissom
from lissom import LissomError, Store, Task
from lissom.data.data import Data
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
    '{train(1, batch=64, lr=0.05), distill("kd", 1, batch=64)}'
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
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    ray.shutdown()
    del os.environ["RAY_ADDRESS"]
    cluster.shutdown()


def test_a_cluster_makes_what_one_process_makes_though_a_node_dies(
    cluster: Any, alone: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "[4 of " in text:  # both learn a second later
            node = cluster.worker_nodes.copy().pop()
            threading.Timer(1.0, lambda: cluster.remove_node(node, allow_graceful=False)).start()

    records = lissom.run(
        GRID, digits(), tmp_path, workers="ray", worker_threads=threads, say=say
    )
    assert len(records) == 4
    assert any("its worker was lost" in line for line in said), said
    assert bits(tmp_path) == bits(alone)
    store = Store(tmp_path)
    assert all(store.own(key) for key in store), "the head signs what it takes in"
    assert {path.name for path in tmp_path.glob(".*")} == {".locks"}
