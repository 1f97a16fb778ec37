"""The metrics of a file on data, whoever made the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..bench.process import loaded
from ..data.data import AS_GIVEN, Data
from ..errors import LissomError, listed
from ..exporting.onnx.container import ENDING, is_packed, read
from ..learning.evaluate import file_outputs, scored
from ..tasks.task import Task


def facts_in(path: Path) -> dict[str, Any]:
    """Return what a file that lissom wrote says of itself; nothing for other files.

    ONNX files hold it as metadata, others as JSON in a file beside them.
    """
    beside = path.with_name(path.name + ".json")
    if path.suffix in (".onnx", ENDING):
        import onnx

        whole = read(path) if is_packed(path) else path.read_bytes()
        try:
            model = onnx.load_model_from_string(whole)
        except Exception as error:  # protobuf raises errors of its own for a broken file
            raise LissomError(
                f"{path}: it cannot be read as ONNX ({type(error).__name__})"
            ) from None
        return {entry.key: entry.value for entry in model.metadata_props}
    if beside.is_file():
        try:
            facts = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}
    return {}


def preprocess_in(path: Path) -> str | None:
    """Return how a file says that pictures are to be seen, as text; None where it does not say."""
    text = facts_in(path).get("preprocess")
    return str(text) if text and text != AS_GIVEN else None


def is_baked(facts: Mapping[str, Any]) -> bool:
    """Return whether a file takes pixels from 0 to 255."""
    return facts.get("baked") in ("true", True)


def classes_in(facts: Mapping[str, Any]) -> list[str]:
    """Return the classes that a file says it answers, none where it does not say."""
    classes = facts.get("classes") or []
    if isinstance(classes, str):
        try:
            classes = json.loads(classes)
        except ValueError:
            return []
    return [str(name) for name in classes] if isinstance(classes, list) else []


def fixed_batch(path: Path) -> int | None:
    """Return how many samples an ONNX file takes at once, None where that is left open."""
    if path.suffix not in (".onnx", ENDING):
        return None
    import onnx

    whole = read(path) if is_packed(path) else path.read_bytes()
    dims = onnx.load_model_from_string(whole).graph.input[0].type.tensor_type.shape.dim
    return dims[0].dim_value or None if len(dims) else None


def in_batches(
    run: Callable[[np.ndarray], np.ndarray], batch: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what runs any number of samples in batches of one size, the last one filled up."""

    def all_of(samples: np.ndarray) -> np.ndarray:
        missing = -len(samples) % batch
        filled = np.concatenate([samples, np.repeat(samples[-1:], missing, 0)])
        outputs = [run(filled[k : k + batch]) for k in range(0, len(filled), batch)]
        answers: np.ndarray = np.concatenate(outputs)[: len(samples)]
        return answers

    return all_of


def file_metrics(path: Path, target: str, data: Data, threads: int = 1) -> dict[str, float | None]:
    """Return the metrics of a file in a runtime on the test set, top-1 and with many classes top-5."""
    facts = facts_in(path)
    baked = is_baked(facts)
    said = classes_in(facts)
    named = said != [str(k) for k in range(len(said))]  # numbers are no names
    if named and list(data.classes) != said and len(said) == len(data.classes):
        raise LissomError(
            f"{path}: its classes are others than those of {data.name}, or in another order: "
            f"{listed(said, 4)} and {listed(data.classes, 4)}; --classes says the file's"
        )
    task = Task(nn.Identity, data)
    batch = fixed_batch(path)
    shape = (batch or 1, *data.shape)
    with loaded(target, path, shape, threads=threads, pixels=baked) as process:
        run = process.run if batch is None else in_batches(process.run, batch)
        outputs, labels = file_outputs(run, task, data.test, baked)
    if outputs.ndim != 2 or outputs.shape[1] != len(data.classes):
        raise LissomError(
            f"{path}: it answers {tuple(outputs.shape[1:])} for an image, and {data.name} has "
            f"{len(data.classes)} classes; --classes names all that it answers"
        )
    return scored(task, outputs, labels)
