"""Compare the speed of lissom's loader with torchvision's ImageFolder in a DataLoader, in turns.

    python benchmarks/loader.py photos [--rounds 7] [--workers 2] [--networks]

`photos` has a folder of JPEG files for each class. Both resize to 256, crop to 224 and normalise; a
batch counts when it is ready for a network. Each loader reads all files once per round. The table
has medians over rounds, ratios of the medians, and the difference of pixels from the default's.
Processor time is that of all processes: on a busy machine it is more reliable than images per
second. `--networks` adds the images per second of networks on one core, to see if they wait for the
loader.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lissom.bench.machine import machine
from lissom.data.data import Data
from lissom.data.picture import read_pixels
from lissom.data.split import CPU, Files
from lissom.data.tars import File
from lissom.language.preprocess import Preprocess

BATCH = 64
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TEXTS = {
    "lissom": "resize(256)",
    "lissom, fast": "resize(256, fast=True)",
    "lissom, draft": "resize(256, draft=True)",
    "lissom, fast and draft": "resize(256, fast=True, draft=True)",
}
NETWORKS = ("mobilenet_v3_small", "resnet18", "resnet50")


def preprocess(resize: str) -> Preprocess:
    """Return ImageNet's preprocessing with the given resize operation."""
    return Preprocess.of(f'{resize} | center_crop(224) | normalize("imagenet")')


def read_by_torchvision(folder: ImageFolder, workers: int) -> int:
    """Read all files once, as torchvision's examples do, and return the number of images."""
    return sum(len(x) for x, _ in DataLoader(folder, batch_size=BATCH, num_workers=workers))


def read_by_lissom(files: Files) -> int:
    """Read all files once, as evaluation and training do, and return the number of images."""
    data = Data("photos", files, files, files, (), 3, (224, 224), MEAN, STD, True, "photos")
    return sum(len(data.normalised(pixels)) for pixels, _ in files.batches(BATCH, CPU))


def read_uint8(files: Files) -> int:
    """Read all files once as uint8, as for a GPU, and return the number of images."""
    return sum(len(pixels) for pixels, _ in files.batches(BATCH, CPU))


def apart(paths: list[File], view: Preprocess) -> tuple[float, float]:
    """Return the mean difference of pixels from the default's, in units of 1/255, and the share of
    pixels that differ.
    """
    exact = preprocess("resize(256)")
    differences = [
        (read_pixels(path, 3, view).astype(int) - read_pixels(path, 3, exact)).ravel()
        for path in paths
    ]
    gaps = np.abs(np.concatenate(differences))
    return float(gaps.mean()), float((gaps > 0).mean())


def speed(run: Callable[[], int]) -> tuple[float, float]:
    """Return images per second, and processor time per image in ms."""
    begin = time.perf_counter()
    before = os.times()
    count = run()
    seconds = time.perf_counter() - begin
    used = sum(b - a for a, b in zip(before[:4], os.times()[:4], strict=True))
    return count / seconds, 1000 * used / count


def forward(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Run a network on a batch and return the number of images."""
    with torch.inference_mode():
        model(images)
    return len(images)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--networks", action="store_true")
    words = parser.parse_args()
    torch.set_num_threads(1)
    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    folder = ImageFolder(words.photos, transforms.Compose(steps))
    paths: list[File] = [Path(path) for path, _ in folder.samples]
    labels = torch.tensor([label for _, label in folder.samples])
    ways: dict[str, Callable[[], int]] = {
        "torchvision": partial(read_by_torchvision, folder, words.workers)
    }
    for name, resize in TEXTS.items():
        files = Files(paths, labels, 3, (224, 224), preprocess(resize), words.workers)
        ways[name] = partial(read_by_lissom, files)
        ways[f"{name}, for a GPU"] = partial(read_uint8, files)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(words.rounds):
        for name, way in ways.items():
            speeds[name].append(speed(way))
    print(
        f"{machine()['cpu']}, {machine()['cores']} cores; {len(paths)} files, medians of ", end=""
    )
    print(f"{words.rounds} rounds, {words.workers} workers\n")
    print("| loader | images/s | lowest, highest | beside torchvision | processor time | ", end="")
    print("beside torchvision | pixels differ by, of 255 |\n|---|---|---|---|---|---|---|")
    medians = {name: np.median(found, 0) for name, found in speeds.items()}
    base, base_ms = medians["torchvision"]
    for name, (middle, ms) in medians.items():
        found = [each for each, _ in speeds[name]]
        resize = TEXTS.get(name.removesuffix(", for a GPU"), TEXTS["lissom"])
        mean, share = apart(paths[:100], preprocess(resize))
        differ = f"{mean:.4f} ({share:.2%} of them)" if mean else "0"
        ends = f"{min(found):.0f}, {max(found):.0f}"
        print(f"| {name} | {middle:.0f} | {ends} | {middle / base:.2f}x | ", end="")
        print(f"{ms:.2f} ms | {base_ms / ms:.2f}x | {differ} |")
    if words.networks:
        print("\n| network on one core, float32 | images/s |\n|---|---|")
        images = torch.randn(16, 3, 224, 224)
        for name in NETWORKS:
            model = torchvision.models.get_model(name).eval()
            forward(model, images)
            runs = [speed(partial(forward, model, images)) for _ in range(words.rounds)]
            print(f"| {name} | {np.median(runs, 0)[0]:.0f} |")


if __name__ == "__main__":
    main()
