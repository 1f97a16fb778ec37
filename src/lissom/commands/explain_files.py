"""What `lissom explain` finds in a file: the metric in its runtime, and on older processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..bench.capped import CAPS, run_capped
from ..bench.process import file_process
from ..data.split import CPU, evenly_spaced
from ..language.target import Target
from ..learning.evaluate import file_answers, join_batches, relative, scored
from ..report.rows import main_score
from ..running.measure import inputs_in
from ..tasks.task import Task
from ..trees import Tree, put_in, tensors_in

CAPPED_IMAGES = 1000  # images that are run with a capped instruction set


def main_metric(task: Task, outputs: Tree, labels: Tree) -> float | None:
    """Return the task's first metric of outputs (n classes) against labels (n)."""
    return main_score(scored(task, [(outputs, labels)]))


def file_row(
    task: Task,
    record: dict[str, Any],
    target: Target,
    path: Path,
    simulated: Tree,
    labels: Tree,
) -> dict[str, Any]:
    """Return the metric of the file of `record` on the test images, and on older processors.

    `simulated` are the outputs of the quantized network in PyTorch on the same images.
    """
    with file_process(str(target), path, inputs_in(record, 1)) as process:
        answers = file_answers(process.run, task, task.data.test, False, simulated)
        outputs, _ = join_batches(answers)
    agreement = task.agreement()
    agreement.add(outputs, simulated)
    fused = target.fused(path)
    return {
        "score": main_metric(task, outputs, labels),
        "noise": relative(outputs, simulated),
        "agreement": agreement.values().get("agreement"),
        "fused": str(fused) if fused else None,
        "not_fused": list(fused.rest) if fused else [],
        "capped": on_older_processors(task, target, path, simulated) if target.onednn else [],
    }


def on_older_processors(
    task: Task, target: Target, path: Path, simulated: Tree
) -> list[dict[str, Any]]:
    """Return metric and latency of a file for each cap on the processor's instruction set.

    Its outputs have the form of `simulated`. `noise` is the relative difference from the outputs
    without a cap.
    """
    subset = evenly_spaced(task.data.test, CAPPED_IMAGES)
    batches = subset.batches(250, CPU)
    images, labels = join_batches((task.data.normalised(x), y) for x, y in batches)
    samples = [tensor.numpy() for tensor in tensors_in(images)]
    rows = list[dict[str, Any]]()
    uncapped: Tree = None
    for cap in CAPS:
        result = run_capped(target, path, samples, cap)
        if result is None:
            continue
        arrays, ms = result
        outputs = put_in(simulated, [torch.from_numpy(part) for part in arrays])
        if not rows:
            uncapped = outputs
        rows.append(
            {
                "cap": cap or "as it is",
                "score": main_metric(task, outputs, labels),
                "noise": relative(outputs, uncapped),
                "latency_ms": round(ms, 4),
            }
        )
    return rows
