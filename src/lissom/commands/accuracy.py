"""The metrics of any file on data, even one that lissom did not write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..bench.inputs import Input, images
from ..bench.process import file_process
from ..data.data import AS_GIVEN, Data
from ..data.inputs import inputs_of, is_plain
from ..errors import LissomError, listed
from ..importing.file import model_in
from ..importing.packed import ENDING
from ..learning.evaluate import Answered, RunFile, file_answers, scored
from ..tasks.kinds import is_own_kind, kind_named
from ..tasks.task import Task
from ..trees import Tree, length, shapes


def facts_in(path: Path) -> dict[str, Any]:
    """Return the metadata of a file that lissom wrote; {} for other files.

    ONNX files contain it; for other formats it is in a JSON file beside them.
    """
    beside = path.with_name(path.name + ".json")
    if path.suffix in (".onnx", ENDING):
        return {entry.key: entry.value for entry in model_in(path).metadata_props}
    if beside.is_file():
        try:
            facts = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}
    return {}


def preprocess_in(path: Path) -> str | None:
    """Return the preprocessing in a file's metadata as text; None if it states none.

    "" is that of a file of lissom's with the normalisation inside, for images in its own size.
    """
    facts = facts_in(path)
    text = facts.get("preprocess")
    return str(text) if text != AS_GIVEN and (text or (text == "" and "baked" in facts)) else None


def is_baked(facts: Mapping[str, Any]) -> bool:
    """Return whether a file takes pixels from 0 to 255."""
    return facts.get("baked") in ("true", True)


def takes_pictures(facts: Mapping[str, Any]) -> bool:
    """Return whether a file takes images of any size (n height width c) in 8 bits."""
    return facts.get("pictures") in ("true", True)


def classes_in(facts: Mapping[str, Any]) -> list[str]:
    """Return the class names in a file's metadata; [] if it has none."""
    classes = facts.get("classes") or []
    if isinstance(classes, str):
        try:
            classes = json.loads(classes)
        except ValueError:
            return []
    return [str(name) for name in classes] if isinstance(classes, list) else []


def outputs_in(path: Path) -> Tree | None:
    """Return a dict with the output names of an ONNX file that has several outputs, else None."""
    if path.suffix not in (".onnx", ENDING):
        return None
    outputs = model_in(path).graph.output
    return {part.name: torch.zeros(0) for part in outputs} if len(outputs) > 1 else None


def fixed_batch(path: Path) -> int | None:
    """Return the batch size that an ONNX file fixes; None if it fixes none."""
    if path.suffix not in (".onnx", ENDING):
        return None
    dims = model_in(path).graph.input[0].type.tensor_type.shape.dim
    return dims[0].dim_value or None if len(dims) else None


def run_in_batches(run: RunFile, batch: int) -> RunFile:
    """Return a function that runs samples in batches of one size, of which the last is padded."""

    def run_all(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        count = len(inputs[0])
        padding = -count % batch
        padded = [np.concatenate([part, np.repeat(part[-1:], padding, 0)]) for part in inputs]
        answers = [
            run([part[k : k + batch] for part in padded]) for k in range(0, count + padding, batch)
        ]
        return [np.concatenate(parts)[:count] for parts in zip(*answers, strict=True)]

    return run_all


def file_metrics(
    path: Path, target: str, data: Data, kind: str | None = None
) -> dict[str, float | None]:
    """Return the metrics of a file in a runtime on the test set.

    The kind of task is `kind` if given, else the one in the file's metadata, else guessed from the
    targets. Raises LissomError if the file and the data do not fit.
    """
    facts = facts_in(path)
    text = kind or str(facts.get("kind") or "")
    if kind is None and is_own_kind(text):
        raise LissomError(
            f"{path}: its kind of task, {text}, is your own code; --kind names it, as in "
            "--kind file.py:name"
        )
    if takes_pictures(facts):
        raise LissomError(
            f"{path}: it takes images of any size, and data are read in one size; expected the file "
            "that was exported without --pictures"
        )
    baked = is_baked(facts)
    file_classes = classes_in(facts)
    # numbers do not count as names
    has_names = file_classes != [str(k) for k in range(len(file_classes))]
    if has_names and list(data.classes) != file_classes and len(file_classes) == len(data.classes):
        raise LissomError(
            f"{path}: expected the classes of {data.name} in their order ({listed(data.classes, 4)}), "
            f"got ({listed(file_classes, 4)}); --classes states the file's"
        )
    task = Task(nn.Identity, data, kind=kind_named(text)[0] if text else None)
    batch = fixed_batch(path)
    example = data.example()
    process_inputs = images((batch or 1, *data.shape), pixels=baked)
    if not is_plain(example):
        example_inputs = inputs_of(example)
        process_inputs = [
            Input.of({**facts, "shape": [batch or 1, *facts["shape"]]}) for facts in example_inputs
        ]
    with file_process(target, path, process_inputs) as process:
        run = process.run if batch is None else run_in_batches(process.run, batch)
        answers = file_answers(run, task, data.test, baked, outputs_in(path))
        return scored(task, check_answers(path, task, answers))


def check_answers(path: Path, task: Task, answers: Answered) -> Answered:
    """Yield outputs with their targets. Raises LissomError if they do not suit the task."""
    for outputs, targets in answers:
        expected = None
        if task.kind is not None:
            expected = task.kind.misfit(outputs, targets, len(task.data.classes))
        if expected is not None:
            raise LissomError(
                f"{path}: it answers {shapes(outputs)} for {length(targets)} samples of "
                f"{task.data.name}; {task.kind}: expected {expected}; --classes names all classes that "
                "it answers, --kind says the kind of task"
            )
        yield outputs, targets
