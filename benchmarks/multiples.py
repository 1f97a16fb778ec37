"""Measure how the multiple of channels that pruning keeps decides the latency, in float and 8 bits.

    python benchmarks/multiples.py [--threads 1] [-o multiples.md]

Each network loses half of its multiply-adds at multiples of 1, 4, 8, 16 and 32 channels, with
random weights. The files of one runtime and precision are timed in turns. The last columns are what
`multiple="auto"` takes. Needs torchvision.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import lissom
from lissom.bench.clock import LayerClock
from lissom.bench.inputs import images
from lissom.bench.latency import latencies
from lissom.bench.machine import machine
from lissom.models import factory

MULTIPLES = (1, 4, 8, 16, 32)
PRECISIONS = {"float": "", "int8": " | quantize(8)"}
NETWORKS = {
    "ResNet-20, 32x32": (lambda: factory("resnet20")(num_classes=10), (3, 32, 32)),
    "ResNet-18, 128x128": (torchvision.models.resnet18, (3, 128, 128)),
    "MobileNetV2, 128x128": (torchvision.models.mobilenet_v2, (3, 128, 128)),
}


def milliseconds(network: nn.Module, x: Tensor, runtime: str, then: str, threads: int) -> list[str]:
    """Return the latency at each multiple; - where half cannot be removed."""
    with tempfile.TemporaryDirectory() as folder:
        files = dict[int, tuple[str, Path]]()
        for multiple in MULTIPLES:
            recipe = f'prune(0.5, of="macs", multiple={multiple}){then}'
            try:
                small = lissom.apply(recipe, network, x[:1], x)
            except lissom.LissomError:
                continue
            path = Path(folder) / f"{multiple}.onnx"
            lissom.export(small, runtime, path, tuple(x.shape[1:]), x)
            files[multiple] = (runtime, path)
        timings = latencies(list(files.values()), images((1, *x.shape[1:])), threads=threads)
    medians = {m: timing.median for m, timing in zip(files, timings, strict=True)}
    return [f"{medians[m]:.3g}" if m in medians else "-" for m in MULTIPLES]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [
        f"{machine()['cpu']}, {given.threads} thread(s), ms:",
        "",
        f"| network | runtime | precision | {' | '.join(map(str, MULTIPLES))} | auto |",
        "|---" * (4 + len(MULTIPLES)) + "|",
    ]
    for name, (build, shape) in NETWORKS.items():
        torch.manual_seed(0)
        network = build().eval()
        x = torch.randn(8, *shape)
        for runtime in ("onnxruntime", "openvino"):
            chosen = LayerClock(runtime, given.threads).multiple(network, x[:1])
            for precision, then in PRECISIONS.items():
                ms = milliseconds(network, x, runtime, then, given.threads)
                cells = [name, runtime, precision, *ms, str(chosen)]
                rows.append(f"| {' | '.join(cells)} |")
                print(rows[-1], flush=True)
    if given.output:
        given.output.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
