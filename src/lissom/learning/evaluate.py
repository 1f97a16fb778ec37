"""Measure the metrics of a network, or of its exported file, on a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..data.data import Data
from ..data.split import CPU, Split
from ..errors import LissomError
from ..tasks.task import Task
from ..trees import Tree, concatenated, in_float, mapped, put_in, run_network, tensors_in, values_in

Answered = Iterator[tuple[Tree, Tree]]  # outputs and targets, batch by batch
BATCH_SAMPLES = 250
MAX_BATCH_NUMBERS = 1 << 26  # most numbers in a batch of inputs
MAX_HELD_BYTES = 1 << 28  # most bytes of outputs that are kept in memory
# all inputs of a file -> all its outputs
RunFile = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


def answered(
    run: Callable[[Tree], Tree],
    see: Callable[[Tree], Tree],
    split: Split,
    device: torch.device = CPU,
    size: int = BATCH_SAMPLES,
) -> Answered:
    """Yield outputs, `run(see(inputs))`, and targets of each batch, on the CPU, outputs in float32.

    Raises LissomError if the split is empty.
    """
    if not len(split):
        raise LissomError("data: a split to be measured on is empty")
    for inputs, targets in split.batches(size, device):
        outputs = in_float(run(see(inputs)))
        yield mapped(Tensor.cpu, outputs), mapped(Tensor.cpu, targets)


def batch_of(data: Data) -> int:
    """Return the batch size for evaluation: smaller if samples are large."""
    numbers = sum(t.numel() for t in tensors_in(data.example()))
    return max(1, min(BATCH_SAMPLES, MAX_BATCH_NUMBERS // max(1, numbers)))


@torch.inference_mode()
def network_answers(
    model: nn.Module, data: Data, split: Split, device: torch.device = CPU
) -> Answered:
    """Yield outputs and targets of a network in inference mode, batch by batch."""
    model.to(device).eval()

    def run(inputs: Tree) -> Tree:
        return run_network(model, inputs)

    yield from answered(run, data.normalised, split, device, batch_of(data))
    model.to(CPU)


def network_outputs(model: nn.Module, data: Data, split: Split) -> tuple[Tree, Tree]:
    """Return all outputs of a network, and the targets."""
    return join_batches(network_answers(model, data, split))


def join_batches(answers: Iterable[tuple[Tree, Tree]]) -> tuple[Tree, Tree]:
    """Return the outputs and the targets of all batches, joined."""
    batches = list(answers)
    outputs = concatenated([outputs for outputs, _ in batches])
    return outputs, concatenated([targets for _, targets in batches])


class Answers:
    """The outputs and targets of a network on a split.

    They are kept in memory if they are small, else computed again in each iteration.
    """

    def __init__(self, model: nn.Module, data: Data, split: Split) -> None:
        self.model = model
        self.data = data
        self.split = split
        self.held: list[tuple[Tree, Tree]] | None = None

    def __iter__(self) -> Answered:
        if self.held is not None:
            yield from self.held
            return
        held: list[tuple[Tree, Tree]] | None = []
        size = 0
        for batch in network_answers(self.model, self.data, self.split):
            size += sum(t.numel() * t.element_size() for t in tensors_in(batch))
            if held is not None:
                held = [*held, batch] if size <= MAX_HELD_BYTES else None
            yield batch
        self.held = held


def scored(task: Task, answers: Iterable[tuple[Tree, Tree]]) -> dict[str, float | None]:
    """Return every metric of the task for outputs and targets, None if it is not finite."""
    tally = task.tally()
    for outputs, targets in answers:
        tally.add(outputs, targets)
    return numbers(tally.values())


def numbers(values: dict[str, float]) -> dict[str, float | None]:
    """Return values by name, with None for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def file_answers(run: RunFile, task: Task, split: Split, bake: bool, form: Tree = None) -> Answered:
    """Yield outputs and targets of an exported file.

    With `bake`, the file holds the preprocessing and takes pixels in 0..255. Outputs have the form
    of `form`; without it they are a tensor, or a tuple of several. Raises LissomError if the number
    of outputs differs from `form`.
    """

    def answer(inputs: Tree) -> Tree:
        arrays = [np.ascontiguousarray(t.numpy()) for t in tensors_in(inputs)]
        outputs = [torch.from_numpy(array) for array in run(arrays)]
        if form is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        if (wanted := sum(1 for _ in tensors_in(form))) != len(outputs):
            raise LissomError(f"the file gives {len(outputs)} outputs, and the network {wanted}")
        return put_in(form, outputs)

    see = Tensor.float if bake else task.data.normalised
    return answered(answer, see, split, size=batch_of(task.data))


def relative(outputs: Tree, reference: Tree) -> float:
    """Return the root mean square of the difference, divided by that of the reference."""
    theirs = values_in(reference)
    gap = (values_in(outputs) - theirs).square().mean().sqrt()
    return float(gap / theirs.square().mean().sqrt().clamp_min(1e-12))
