"""Store entries from another machine arrive unchanged, or not at all."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import lissom
from lissom import LissomError, Store, Task
from lissom.data.data import Data
from lissom.running.launch.carried import Files, check_made, files_of, take_in
from lissom.running.plan import Node, node_at

RECIPE = "fold"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Node, Files]:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    store = Store(tmp_path_factory.mktemp("there"))
    (record,) = lissom.run(RECIPE, task, store, targets="onnxruntime")
    assert (store.folder(record["key"]) / "artefacts").is_dir()
    return task, node_at(RECIPE, 0, task.root), files_of(store, record["key"])


def test_an_entry_arrives_as_it_was_and_is_signed_here(
    made: tuple[Task, Node, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, node, files = made
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    check_made(files, node, task.spec)
    store = Store(tmp_path / "here")
    take_in(store, node.key, files)
    assert store.is_trusted(node.key) and store.record(node.key)["key"] == node.key
    there = files_of(store, node.key)
    assert {name for name in files if files[name] != there[name]} == {"manifest.json"}


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json", "log.jsonl"])
def test_a_file_that_was_damaged_on_the_way_is_refused(
    made: tuple[Task, Node, Files], tmp_path: Path, name: str
) -> None:
    _, node, files = made
    store = Store(tmp_path)
    with pytest.raises(LissomError, match=f"{name} of {node.key} is not what was written"):
        take_in(store, node.key, {**files, name: files[name] + b" "})
    with pytest.raises(LissomError, match="without a file, or with one more"):
        take_in(store, node.key, {other: files[other] for other in files if other != name})
    assert node.key not in store and not list(tmp_path.glob(".new-*"))


def test_nothing_is_written_outside_an_entry(
    made: tuple[Task, Node, Files], tmp_path: Path
) -> None:
    _, node, files = made
    store = Store(tmp_path / "store")
    for name in ("../evil.txt", "artefacts/x.onnx", "/evil.txt", "a\\b.txt"):
        with pytest.raises(LissomError, match="is no file of an entry"):
            take_in(store, node.key, {**files, name: b""})
    assert not list(tmp_path.rglob("evil.txt"))


def test_only_what_was_asked_for_is_signed(made: tuple[Task, Node, Files]) -> None:
    task, node, files = made
    record = json.loads(files["record.json"])
    structure = json.loads(files["structure.json"])
    others = [
        {"record.json": json.dumps({**record, "seed": 7}).encode()},
        {"record.json": json.dumps({**record, "key": "0" * 12}).encode()},
        {"structure.json": json.dumps({**structure, "build": {"model": "evil.py:x"}}).encode()},
        {"structure.json": b"[]"},
    ]
    for other in others:
        with pytest.raises(LissomError, match=f"what came for {node.key}"):
            check_made({**files, **other}, node, task.spec)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_said_what_to_install(tmp_path: Path) -> None:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    with pytest.raises(LissomError, match=r"Ray is not installed: pip install 'lissom\[ray\]'"):
        lissom.run("fold", task, tmp_path, workers="ray")
