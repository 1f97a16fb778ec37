"""Compare the cost of a batch of quantization-aware training with one in float, in turns in one
process, and time calibration.

    python benchmarks/quantize_cost.py [--model resnet20] [--of 'quantize(8)' 'quantize(4, 4)']
    [--rounds 8] [--float32]

Turns are short, so that other load on the machine affects all of them. Calibration is `quantize`
itself on 512 images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from distill_cost import DEVICE, pictures
from torch import nn

from lissom.api import apply
from lissom.data.split import Images
from lissom.language.training import TrainSettings
from lissom.learning.fit import fit
from lissom.learning.training_run import TrainingRun
from lissom.models import factory


def main() -> None:
    """Print images per second, and for each recipe the ratio and the seconds of calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument(
        "--of",
        nargs="+",
        default=["quantize(8)", "quantize(4, 4)", "quantize(2, 2)", 'quantize("ternary", 32)'],
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument(
        "--float32", action="store_true", help="also where the machine would learn in bfloat16"
    )
    words = parser.parse_args()
    data = pictures(words.batch * words.batches)
    shown = pictures(512).train
    assert isinstance(shown, Images)
    images = [data.normalised(pixels).cpu() for pixels in shown.pixels.split(128)]

    def network() -> nn.Module:
        torch.manual_seed(0)
        return factory(words.model)(10)

    networks, calibration = {"float": network()}, {}
    for text in words.of:
        begin = time.perf_counter()
        networks[text] = apply(text, network(), images[0][:1], images)
        calibration[text] = time.perf_counter() - begin

    def turn(model: nn.Module) -> Callable[[], object]:
        precision: Literal["fp32", "auto"] = "fp32" if words.float32 else "auto"
        settings = TrainSettings(1, lr=1e-4, batch=words.batch, precision=precision)
        return lambda: fit(TrainingRun(model, data, settings, seed=0, device=DEVICE))

    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for k in range(words.rounds + 1):  # the first round is a warm-up
        for name, model in networks.items():
            begin = time.perf_counter()
            turn(model)()
            if k:
                seconds[name].append(time.perf_counter() - begin)
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(found, seconds["float"], strict=True)]
        speed = len(data.train) / statistics.median(found)
        print(
            f"{name:24} {speed:6.0f} img/s   / float = {statistics.median(ratios):.3f}   "
            f"{' '.join(f'{r:.2f}' for r in ratios)}   calibration {calibration.get(name, 0):.1f} s"
        )


if __name__ == "__main__":
    main()
