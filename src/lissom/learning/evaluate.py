"""Measure how well a network, or a file made from it, does on a split."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..data.data import Data
from ..data.split import CPU, Split
from ..errors import LissomError
from ..tasks.task import Task


def outputs_of(
    run: Callable[[Tensor], Tensor],
    see: Callable[[Tensor], Tensor],
    split: Split,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor]:
    """Return the outputs (n classes) of `run` for what it is to `see` of each image, and the labels (n)."""
    found = [
        (run(see(pixels)).float().cpu(), truth.cpu())
        for pixels, truth in split.batches(250, device)
    ]
    if not found:
        raise LissomError("data: a split to be measured on is empty")
    return torch.cat([outputs for outputs, _ in found]), torch.cat([labels for _, labels in found])


def network_outputs(
    model: nn.Module, data: Data, split: Split, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of a network in inference mode, in float32."""
    model.to(device).eval()
    with torch.inference_mode():
        found = outputs_of(model, data.normalised, split, device)
    model.to(CPU)
    return found


def scored(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Return every metric of the task, None where it is not a number."""
    return {
        name: value if math.isfinite(value := float(metric(outputs, labels))) else None
        for name, metric in task.metrics.items()
    }


def file_outputs(
    run: Callable[[np.ndarray], np.ndarray], task: Task, split: Split, bake: bool
) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of an exported file; one with baked preprocessing takes pixels in 0..255."""

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(run(np.ascontiguousarray(images.numpy())))

    return outputs_of(answer, Tensor.float if bake else task.data.normalised, split)


def relative(outputs: Tensor, reference: Tensor) -> float:
    """Return the root mean square of what differs, over that of the reference."""
    gap = (outputs.double() - reference.double()).square().mean().sqrt()
    return float(gap / reference.double().square().mean().sqrt().clamp_min(1e-12))
