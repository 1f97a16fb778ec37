"""Compare the training speed of lissom's loop with a minimal hand-written one, in turns, with the
same network, precision and memory layout.

    python benchmarks/throughput.py [--model resnet20] [--rounds 5]

Both read the same images from memory and crop, flip and normalise them. The bare loop does only
what training needs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.training import TrainSettings
from lissom.learning.fit import fit
from lissom.learning.precision import autocast, fast_precision, layout_of
from lissom.learning.training_run import TrainingRun
from lissom.models import factory

BATCH, DEVICE = 128, torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bare(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Train one epoch with a minimal loop."""
    layout, precision = layout_of(model, DEVICE), fast_precision(DEVICE)
    model.to(DEVICE).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    order = torch.randperm(len(labels))
    for start in range(0, len(labels), BATCH):
        index = order[start : start + BATCH]
        images = F.pad(pixels[index], (4, 4, 4, 4))
        y, x = torch.randint(0, 9, (2,)).tolist()
        images = images[:, :, y : y + 32, x : x + 32]
        images = torch.where(
            torch.rand(len(index), 1, 1, 1, device=DEVICE) < 0.5, images.flip(3), images
        )
        images = ((images.float() - 127.5) / 63.75).contiguous(memory_format=layout)
        with autocast(DEVICE, precision):
            outputs = model(images)
        loss = F.cross_entropy(outputs.float(), labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    float(loss.detach())


def main() -> None:
    """Print the images per second of both loops in each round, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--images", type=int, default=12 * BATCH if DEVICE.type == "cpu" else 400 * BATCH
    )
    words = parser.parse_args()
    pixels = torch.randint(0, 256, (words.images, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, 10, (words.images,), device=DEVICE)
    split = Images(pixels, labels)
    data = Data(
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
    loops: dict[str, Callable[[nn.Module], object]] = {
        "lissom": lambda m: fit(
            TrainingRun(m, data, TrainSettings(1, lr=0.01, batch=BATCH), seed=0, device=DEVICE)
        ),
        "bare": lambda m: bare(m, pixels, labels),
    }
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(words.rounds + 1):  # the first round is a warm-up
        for name, loop in loops.items():
            model = factory(words.model)(10)
            begin = time.perf_counter()
            loop(model)
            if turn:
                speeds[name].append(words.images / (time.perf_counter() - begin))
    for name, found in speeds.items():
        print(
            f"{name:7} {statistics.median(found):8.0f} img/s   {' '.join(f'{s:.0f}' for s in found)}"
        )
    ratio = statistics.median(a / b for a, b in zip(speeds["lissom"], speeds["bare"], strict=True))
    print(
        f"{words.model} on {DEVICE}, batch {BATCH}, {fast_precision(DEVICE)}: lissom / bare = {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
