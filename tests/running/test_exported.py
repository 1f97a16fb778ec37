"""A file of a store is handed out only if it was compared with its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lissom import Data, LissomError, Store, Task, run
from lissom.running import measure
from lissom.running.measure import export_if_missing
from lissom.running.parity import ParityError
from lissom.running.plan import one_target


@pytest.fixture
def task() -> Task:
    return Task.of("resnet8", Data.of("digits", size=(8, 8)))


@pytest.fixture
def made(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    """Give a store and the key of a network that was never exported."""
    monkeypatch.setattr(measure, "PROVEN_FILES", set())
    store = Store(tmp_path / "store")
    return store, run("train(1)", task, store)[0]["key"]


def failing(error: BaseException) -> Any:
    def fails(*_: object, **__: object) -> None:
        raise error

    return fails


@pytest.mark.parametrize("error", [LissomError("bench: the process died"), ParityError("apart")])
def test_a_file_that_could_not_be_measured_is_not_kept(
    task: Task, made: tuple[Store, str], monkeypatch: pytest.MonkeyPatch, error: LissomError
) -> None:
    store, key = made
    monkeypatch.setattr(measure, "measure_file", failing(error))
    with pytest.raises(LissomError):
        run("train(1)", task, store, targets="onnxruntime")
    assert store.artefacts(key) == []


def test_a_file_of_an_earlier_measurement_stays(
    task: Task, made: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = made
    run("train(1)", task, store, targets="onnxruntime")
    monkeypatch.setattr(measure, "measure_file", failing(LissomError("bench: the process died")))
    with pytest.raises(LissomError):
        run("train(1)", task, store, targets="onnxruntime", threads=2)
    assert [path.name for path in store.artefacts(key)] == ["onnx"]


def test_what_a_killed_process_left_is_compared_before_it_is_handed_out(
    task: Task, made: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = made
    target = one_target("onnxruntime")
    proofs: list[Path] = []
    monkeypatch.setattr(measure, "prove", lambda _, path, *more, **__: proofs.append(path))

    def build() -> nn.Module:
        return task.fresh(0)

    path = export_if_missing(store, key, target, False, build, proven=False)
    assert path.is_file() and proofs == []
    for _ in range(2):
        assert export_if_missing(store, key, target, False, build) == path
    assert proofs == [path], "once in a process"
    measure.PROVEN_FILES.clear()
    monkeypatch.setattr(measure, "prove", failing(ParityError("apart")))
    with pytest.raises(ParityError):
        export_if_missing(store, key, target, False, build)
    assert store.artefacts(key) == []
    monkeypatch.undo()
    run("train(1)", task, store, targets="onnxruntime")
    measure.PROVEN_FILES.clear()
    monkeypatch.setattr(measure, "prove", failing(ParityError("apart")))
    assert export_if_missing(store, key, target, False, build).is_file(), "the record names it"
