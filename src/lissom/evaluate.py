"""Measure how well a network, or a file made from it, does on a split."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .data.data import CPU, Data
from .data.split import Split
from .errors import LissomError
from .task import Task


def outputs_of(run: Callable[[Tensor], Tensor], data: Data, split: Split, device: torch.device = CPU,
               batch: int = 250) -> tuple[Tensor, Tensor]:
    """Return the outputs (n classes) of `run` for every image of a split, and the labels (n)."""
    outputs, labels = [], []
    for pixels, truth in split.batches(batch, device):
        outputs.append(run(data.normalised(pixels)).float().cpu())
        labels.append(truth.cpu())
    if not outputs:
        raise LissomError(f"data {data.name}: a split to be measured on is empty")
    return torch.cat(outputs), torch.cat(labels)


def network_outputs(model: nn.Module, data: Data, split: Split, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of a network in inference mode, in float32."""
    model.to(device).eval()
    with torch.inference_mode():
        found = outputs_of(model, data, split, device)
    model.to(CPU)
    return found


def scored(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Return every score of the task, None where it is not a number."""
    return {name: value if math.isfinite(value := float(score(outputs, labels))) else None
            for name, score in task.scores.items()}


def file_outputs(run: Callable[[np.ndarray], np.ndarray], task: Task, split: Split, bake: bool) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of an exported file; one with baked preprocessing takes pixels in 0..255."""
    data = task.data
    outputs, labels = [], []
    for pixels, truth in split.batches(250, CPU):
        images = pixels.float() if bake else data.normalised(pixels)
        outputs.append(torch.from_numpy(run(np.ascontiguousarray(images.numpy()))).float())
        labels.append(truth)
    return torch.cat(outputs), torch.cat(labels)
