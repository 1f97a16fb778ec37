"""Loggers of a run besides the store: TensorBoard files, or an MLflow server or folder.

A logger has one run per network, named by its key. It gets a row for each epoch of learning, and at
the end the metrics, the recipe and the measurements of the exported files.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ..errors import LissomError, first_line, unknown

Numbers = dict[str, float]
FOLDER = "runs"  # TensorBoard's own default


class Logger(ABC):
    """Receive the numbers and texts of each network."""

    module: str
    extra: str

    def __init__(self, place: str) -> None:
        if find_spec(self.module) is None:
            raise LissomError(
                f"--log: {self.extra} is not installed; pip install 'lissom[{self.extra}]'"
            )
        self.open(place)

    @abstractmethod
    def open(self, place: str) -> None:
        """Open a folder or server for writing; "" for the default one."""

    @abstractmethod
    def write(self, key: str, numbers: Numbers, texts: Mapping[str, str], epoch: int) -> None:
        """Write numbers of a network after an epoch, and texts that describe it."""


class TensorBoard(Logger):
    """Write event files, in a folder for each network."""

    module = "tensorboard"
    extra = "tensorboard"

    def open(self, place: str) -> None:
        self.folder = Path(place or FOLDER)
        self.writers: dict[str, Any] = {}

    def write(self, key: str, numbers: Numbers, texts: Mapping[str, str], epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if key not in self.writers:
            # a run that was killed writes its epochs again: drop the old ones
            self.writers[key] = SummaryWriter(str(self.folder / key), purge_step=epoch)
        writer = self.writers[key]
        for name, value in numbers.items():
            writer.add_scalar(name, value, epoch)
        for name, text in texts.items():
            writer.add_text(name, text, epoch)
        writer.flush()


class MlFlow(Logger):
    """Write to an MLflow tracking server, or into a folder, as experiment `lissom`."""

    module = "mlflow"
    extra = "mlflow"

    def open(self, place: str) -> None:
        if not place:
            raise LissomError(
                "--log: mlflow: expected mlflow:URI, as in mlflow:http://localhost:5000"
            )
        if urlparse(place).scheme in ("", "file"):
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = (
                "true"  # MLflow advises against file stores, and asks for this
            )
        from mlflow import MlflowClient

        self.runs: dict[str, str] = {}
        try:
            self.client = MlflowClient(tracking_uri=place)
            found = self.client.get_experiment_by_name("lissom")
            self.experiment = (
                found.experiment_id if found else self.client.create_experiment("lissom")
            )
        except Exception as error:  # the server, or whatever listens there, may answer anything
            raise LissomError(f"--log: mlflow: {place}: {first_line(error)}") from None

    def write(self, key: str, numbers: Numbers, texts: Mapping[str, str], epoch: int) -> None:
        if key not in self.runs:
            tags = {"lissom.key": key}
            before = self.client.search_runs([self.experiment], f"tags.`lissom.key` = '{key}'")
            run = (
                before[0]
                if before
                else self.client.create_run(self.experiment, tags=tags, run_name=key)
            )
            self.runs[key] = run.info.run_id
        for name, value in numbers.items():
            self.client.log_metric(self.runs[key], name, value, step=epoch)
        for name, text in texts.items():
            self.client.set_tag(self.runs[key], f"lissom.{name}", text)
        if texts:  # they come last
            self.client.set_terminated(self.runs[key])


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "mlflow": MlFlow}


class Logs:
    """All loggers of a run. If one fails, that is reported once and the run goes on without it."""

    def __init__(self, text: str, say: Callable[[str], None]) -> None:
        """Open the loggers in a text such as `tensorboard,mlflow:URI` or `tensorboard:FOLDER`."""
        self.say = say
        self.epochs: dict[str, int] = {}
        self.loggers = list[Logger]()
        for word in filter(None, map(str.strip, text.split(","))):
            name, _, place = word.partition(":")
            if name not in LOGGERS:
                raise unknown("--log", "logger", name, LOGGERS)
            self.loggers.append(LOGGERS[name](place))

    def row(self, key: str, row: Mapping[str, Any]) -> None:
        """Log the row of an epoch."""
        epoch = int(row["epoch"])
        self.epochs[key] = epoch
        self._tell(key, numbers_in(row, "train"), {}, epoch)

    def network(self, record: Mapping[str, Any]) -> None:
        """Log the record of a finished network."""
        key = record["key"]
        numbers: Numbers = {}
        for split, scores in record["scores"].items():
            numbers |= numbers_in(scores, split)
        numbers |= numbers_in({n: record[n] for n in ("params", "macs", "weights_bytes")}, "size")
        for target, facts in record["targets"].items():
            latency = facts.get("latency_ms") or {}
            numbers |= numbers_in({**facts, "latency_ms": latency.get("median")}, target)
        texts = {name: str(record[name]) for name in ("key", "recipe", "step", "seed")}
        self._tell(key, numbers, texts, self.epochs.get(key, 0))

    def _tell(self, key: str, numbers: Numbers, texts: Mapping[str, str], epoch: int) -> None:
        for logger in list(self.loggers):
            try:
                logger.write(key, numbers, texts, epoch)
            except Exception as error:  # such as a lost server or a full disk
                self.loggers.remove(logger)
                self.say(f"note: {logger.extra} is no longer written to: {first_line(error)}")


def numbers_in(values: Mapping[str, Any], before: str) -> Numbers:
    """Return the values that are finite numbers, under names that both loggers accept.

    >>> numbers_in({"loss": 0.5, "top1": None, "epoch": 3, "fused": "9/9"}, "train")
    {'train/loss': 0.5, 'train/epoch': 3.0}
    """
    return dict(named(values, before))


def named(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, float]]:
    """Yield the name and value of each finite number."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            letters = "".join(c if c.isalnum() or c in "/_-. " else "_" for c in f"{before}/{name}")
            yield letters, float(value)
