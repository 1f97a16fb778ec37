"""Compare the cost of a batch of distillation with a batch of training plus a forward pass of the
teacher, in turns in one process.

    python benchmarks/distill_cost.py [--model resnet20] [--loss kd 'kd + gram'] [--rounds 8]

Student and teacher are the same network. A ratio of 1.00 would mean that the loss, the features and
the balancing of losses are free. Turns are short, so that other load on the machine affects all of
them. The weights of losses are measured once per turn of 25 batches, four times as often as in
training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.training import TrainSettings
from lissom.learning.fit import fit
from lissom.learning.precision import autocast, fast_precision, layout_of
from lissom.learning.training_run import TrainingRun
from lissom.models import factory
from lissom.running.context import TaskContext
from lissom.steps.distill import Distill
from lissom.tasks.task import Task

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pictures(count: int) -> Data:
    """Return noise in the shape of CIFAR-10, held in memory."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split = Images(pixels.to(DEVICE), torch.randint(0, 10, (count,), generator=draw).to(DEVICE))
    return Data(
        "noise",
        split,
        split,
        split,
        tuple("0123456789"),
        3,
        (32, 32),
        (0.5,) * 3,
        (0.25,) * 3,
        True,
        "noise",
    )


def forward_only(teacher: nn.Module, data: Data, batch: int) -> Callable[[], None]:
    """Return a function that runs a teacher over the batches of one epoch."""
    teacher = teacher.to(DEVICE).to(memory_format=layout_of(teacher, DEVICE)).eval()
    assert isinstance(data.train, Images)
    images = data.normalised(data.train.pixels[:batch]).contiguous(
        memory_format=layout_of(teacher, DEVICE)
    )

    def epoch() -> None:
        with torch.inference_mode(), autocast(DEVICE, fast_precision(DEVICE)):
            for _ in range(-(-len(data.train) // batch)):
                answers = teacher(images)
            float(answers.sum())  # waits for the device

    return epoch


def main() -> None:
    """Print the images per second of each variant in each round, and the ratio of each loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--loss", nargs="+", default=["kd", "kd + gram"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32 if DEVICE.type == "cpu" else 128)
    parser.add_argument("--batches", type=int, default=25)
    words = parser.parse_args()
    data = pictures(words.batch * words.batches)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return factory(words.model)(10)

    def distilled(loss: str) -> Callable[[], None]:
        def epoch() -> None:
            ctx = TaskContext(
                data.example().cpu(),
                lambda _: [],
                device=DEVICE,
                task=Task(network, data),
                where="distill",
                teacher=lambda _: network(),
            )
            Distill(loss, 1, lr=0.01, batch=words.batch)(network(), ctx)

        return epoch

    ways: dict[str, Callable[[], object]] = {
        "student": lambda: fit(
            TrainingRun(
                network(), data, TrainSettings(1, lr=0.01, batch=words.batch), seed=0, device=DEVICE
            )
        ),
        "teacher": forward_only(network(), data, words.batch),
        **{loss: distilled(loss) for loss in words.loss},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(words.rounds + 1):  # the first round is a warm-up
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    count = len(data.train)
    for name, found in seconds.items():
        print(
            f"{name:12} {count / statistics.median(found):8.0f} img/s   "
            f"{' '.join(f'{count / s:.0f}' for s in found)}"
        )
    for loss in words.loss:
        ratios = [
            a / (b + c)
            for a, b, c in zip(seconds[loss], seconds["student"], seconds["teacher"], strict=True)
        ]
        print(
            f"{words.model} on {DEVICE}, batch {words.batch}, {fast_precision(DEVICE)}: "
            f"{loss} / (student + teacher) = {statistics.median(ratios):.3f}   "
            f"{' '.join(f'{r:.3f}' for r in ratios)}"
        )


if __name__ == "__main__":
    main()
