"""TensorBoard and MLflow get the values in the store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bright import data, net

import lissom
from lissom import LissomError
from lissom.running.loggers import LOGGERS, Logger, Logs
from lissom.store.store import Store
from lissom.tasks.task import Task

RECIPE = "train(3, batch=16) | train(1, batch=16)"
SCORED = {"train/loss", "train/top1", "train/lr", "train/epoch", "train/seconds"}


def run(tmp_path: Path, log: str, **more: Any) -> tuple[dict[str, Any], Store]:
    record = lissom.run(RECIPE, Task(net, data(), "net"), tmp_path / "store", log=log, **more)[0]
    return record, Store(tmp_path / "store")


@pytest.fixture
def tensorboard() -> Any:
    return pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="lissom[tensorboard] is not installed",
    )


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    # set for good by whoever writes to a folder
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return pytest.importorskip("mlflow", reason="lissom[mlflow] is not installed")


def test_networks_that_workers_make_are_logged_as_well(tmp_path: Path) -> None:
    """By a logger of this process: the workers have none."""
    written: list[tuple[str, int]] = []

    class Noting(Logger):
        module = "json"
        extra = "noting"

        def open(self, place: str) -> None: ...

        def write(self, key: str, numbers: Any, texts: Any, epoch: int) -> None:
            written.append((key, epoch))

    LOGGERS["noting"] = Noting
    try:
        task = Task.of("resnet8", lissom.Data.of("digits", size=(8, 8)))
        (record,) = lissom.run(
            "train(2) | quantize(8, samples=64)", task, tmp_path / "store", log="noting", workers=1
        )
    finally:
        del LOGGERS["noting"]
    trained = [epoch for key, epoch in written if key == record["before"]]
    assert trained == [1, 2, 2] and record["key"] in dict(written)


def test_tensorboard_has_each_epoch_and_the_metrics(tensorboard: Any, tmp_path: Path) -> None:
    record, store = run(tmp_path, f"tensorboard:{tmp_path / 'runs'}")
    for key in (record["before"], record["key"]):
        events = tensorboard.EventAccumulator(str(tmp_path / "runs" / key))
        events.Reload()
        rows = store.log(key)
        losses = events.Scalars("train/loss")
        assert [event.step for event in losses] == [row["epoch"] for row in rows]
        assert [event.value for event in losses] == pytest.approx([row["loss"] for row in rows])
        scores = store.record(key)["scores"]["test"]
        assert events.Scalars("test/top1")[0].value == pytest.approx(scores["top1"])
        texts = {tag: events.Tensors(tag)[0] for tag in events.Tags()["tensors"]}
        said = {
            tag.split("/")[0]: t.tensor_proto.string_val[0].decode() for tag, t in texts.items()
        }
        assert said["key"] == key and said["recipe"] == store.record(key)["recipe"]
    assert set(events.Tags()["scalars"]) >= SCORED | {"valid/top1", "size/params"}


def test_epochs_that_a_killed_run_told_already_do_not_count_twice(
    tensorboard: Any, tmp_path: Path
) -> None:
    for until in (3, 5):  # killed after the third
        logs = Logs(f"tensorboard:{tmp_path}", print)
        for epoch in range(1, until + 1):
            logs.row("k", {"epoch": epoch, "loss": 1 / epoch})
    events = tensorboard.EventAccumulator(str(tmp_path / "k"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_mlflow_has_each_epoch_and_the_metrics(mlflow: Any, tmp_path: Path) -> None:
    record, store = run(tmp_path, f"mlflow:{tmp_path / 'mlruns'}")
    client = mlflow.MlflowClient(tracking_uri=str(tmp_path / "mlruns"))
    experiment = client.get_experiment_by_name("lissom")
    runs = {
        run.data.tags["lissom.key"]: run for run in client.search_runs([experiment.experiment_id])
    }
    assert set(runs) == {record["before"], record["key"]}
    for key, run_ in runs.items():
        losses = client.get_metric_history(run_.info.run_id, "train/loss")
        assert [m.step for m in losses] == [row["epoch"] for row in store.log(key)]
        assert [m.value for m in losses] == [row["loss"] for row in store.log(key)]
        assert run_.data.metrics["test/top1"] == store.record(key)["scores"]["test"]["top1"]
        assert run_.data.tags["lissom.recipe"] == store.record(key)["recipe"]
        assert run_.info.status == "FINISHED" and run_.info.run_name == key
    # a run of the same network goes on where that of an earlier process is
    Logs(f"mlflow:{tmp_path / 'mlruns'}", print).row(record["key"], {"epoch": 9, "loss": 0.5})
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_mlflow_sends_nothing_to_its_makers(mlflow: Any) -> None:
    """In a process that MLflow does not take for a test, in which it sends nothing anyway."""
    code = """
import lissom
from mlflow.telemetry import utils
utils._IS_IN_CI_ENV_OR_TESTING = utils._IS_MLFLOW_DEV_VERSION = False
print(utils.is_telemetry_disabled())
"""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert child.stdout.split() == ["True"]


class Failing(Logger):
    module = "json"
    extra = "failing"

    def open(self, place: str) -> None:
        self.told: list[int] = []

    def write(self, key: str, numbers: Any, texts: Any, epoch: int) -> None:
        self.told.append(epoch)
        if epoch == 2:
            raise OSError(28, "No space left on device\nmore")


def test_a_logger_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGERS, "failing", Failing)
    notes: list[str] = []
    record, store = run(tmp_path, "failing", say=notes.append)
    said = [note for note in notes if "no longer written to" in note]
    assert len(said) == 1 and "No space left" in said[0] and len(store.log(record["before"])) == 3


def test_what_is_not_installed_or_no_logger_is_said_before_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LissomError, match="--log: there is no logger 'tensorbord'; did you mean"):
        run(tmp_path, "tensorbord")
    monkeypatch.setattr("lissom.running.loggers.find_spec", lambda _: None)
    with pytest.raises(
        LissomError, match=r"--log: mlflow is not installed; pip install 'lissom\[mlflow\]'"
    ):
        run(tmp_path, "mlflow:here")
    assert not list(tmp_path.glob("store/*-*")) and "mlruns" not in os.listdir(tmp_path)


def test_mlflow_wants_a_place_and_says_what_a_wrong_one_answers(
    mlflow: Any, tmp_path: Path
) -> None:
    with pytest.raises(LissomError, match="--log: mlflow: expected mlflow:URI"):
        run(tmp_path, "mlflow")
    with pytest.raises(LissomError, match=r"^--log: mlflow: gopher://x: ") as caught:
        run(tmp_path, "mlflow:gopher://x")
    assert "\n" not in str(caught.value)
