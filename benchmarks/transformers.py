"""Compare the error and latency of int8 transformers with NNCF's transformer mode.

    python benchmarks/transformers.py [--models deit_tiny_patch16_224,...] [--pictures photos.tar]
        [--seeds 3] [--rounds 15]

Prints for each network of timm the relative error of the outputs (the root mean square of the
difference over that of the outputs), on as many new samples as were used to calibrate, and the
latency of the files in turns, one thread (--rounds 0: none). Weights are timm's random initial
ones, new for each seed, and nothing is trained: the errors compare quantizers and do not predict
accuracy. Samples are noise, or photographs from a tar file. A file that is slower than the float
one is marked, and the fastest of each runtime is named. NNCF's file is for OpenVINO, and its error
is measured there. lissom's error is measured in PyTorch, which its files are checked against. Needs
timm and nncf, which is not part of lissom: pip install nncf.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.bench.inputs import images as noise
from lissom.bench.latency import latencies
from lissom.bench.machine import machine

MODELS = "deit_tiny_patch16_224,vit_tiny_patch16_224,swin_tiny_patch4_window7_224,mobilevit_xxs"
RECIPES = ("quantize(8)", 'quantize(8, "dynamic")')
RUNTIMES = ("onnxruntime", "openvino")


def samples(count: int, side: int, pictures: str | None) -> Tensor:
    """Return noise, or photographs taken evenly from a tar file, with about unit variance."""
    if pictures is None:
        return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    from PIL import Image

    with tarfile.open(pictures) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
        found = []
        for name in names[:: len(names) // count][:count]:
            file = tar.extractfile(name)
            assert file is not None
            image = Image.open(file).convert("RGB").resize((side, side))
            found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
    return (torch.stack(found) - 0.45) / 0.225


def relative(outputs: Tensor, wanted: Tensor) -> float:
    """Return the root mean square of the difference over that of the wanted outputs."""
    return float((outputs - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def by_nncf(source: Path, goal: Path, images: Tensor, others: Tensor) -> Tensor:
    """Quantize an ONNX file with NNCF's transformer mode on images, save it, and return its outputs
    for other images.
    """
    import nncf
    import openvino as ov

    shown = [images[k : k + 1].numpy() for k in range(len(images))]
    model = nncf.quantize(
        ov.Core().read_model(str(source)),
        nncf.Dataset(shown),
        subset_size=len(shown),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    ov.save_model(model, str(goal), compress_to_fp16=False)
    network = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = [network(others[k : k + 1].numpy())[0] for k in range(len(others))]
    return torch.from_numpy(np.concatenate(answers))


def errors_of(model: nn.Module, images: Tensor, others: Tensor, folder: Path) -> dict[str, float]:
    """Quantize a network in each way on images and return the errors on other images."""
    with torch.no_grad():
        wanted = model(others)
    errors = {}
    for recipe in RECIPES:
        small = lissom.apply(recipe, model, images[:1], images)
        with torch.no_grad():
            errors[recipe] = relative(small(others), wanted)
    source = folder / "float.onnx"
    lissom.export(model, "openvino", source, tuple(images.shape[1:]))
    errors["NNCF"] = relative(by_nncf(source, folder / "nncf.xml", images, others), wanted)
    return errors


def row(model: nn.Module, images: Tensor, others: Tensor, folder: Path, rounds: int) -> None:
    """Quantize a network in each way on images, and print errors on other images and latencies."""
    with torch.no_grad():
        wanted = model(others)
    shape = tuple(images.shape[1:])
    files = {("float", target): folder / f"float-{target}.onnx" for target in RUNTIMES}
    for (_, target), path in files.items():
        lissom.export(model, target, path, shape)
    errors = {}
    for recipe in RECIPES:
        small = lissom.apply(recipe, model, images[:1], images)
        with torch.no_grad():
            errors[recipe] = relative(small(others), wanted)
        for target in RUNTIMES:
            path = folder / f"{len(files)}.onnx"
            try:
                lissom.export(small, target, path, shape)
                files[recipe, target] = path
            except LissomError as error:
                print(f"  {recipe} {target}: {error}")
    path = folder / "nncf.xml"
    errors["NNCF"] = relative(by_nncf(files["float", "openvino"], path, images, others), wanted)
    files["NNCF", "openvino"] = path
    for target in RUNTIMES:
        here = {name: path for (name, runtime), path in files.items() if runtime == target}
        pictures = noise((1, *shape))
        pairs = [(target, path) for path in here.values()]
        timings = latencies(pairs, pictures, threads=1, rounds=rounds)
        times = {name: timing.median for name, timing in zip(here, timings, strict=True)}
        for name, time in times.items():
            shown = f"{errors[name]:.4f}" if name in errors else "      "
            slower = "  slower than float" if time > times["float"] else ""
            print(f"  {target:11} {name:24} {shown}  {time:7.2f} ms{slower}", flush=True)
        print(f"  {target:11} fastest: {min(times, key=lambda name: times[name])}", flush=True)


def main() -> None:
    """Print a block for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--pictures")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    facts = machine()
    print(f"{facts['cpu']}, {' '.join(facts['isa'])}, one thread, batch 1")
    for name in words.models.split(","):
        print(f"{name}, random weights, {words.samples} samples of {words.pictures or 'noise'}")
        for seed in range(words.seeds):
            torch.manual_seed(seed)
            model = timm.create_model(name, pretrained=False).eval()
            both = samples(2 * words.samples, model.default_cfg["input_size"][1], words.pictures)
            images, others = both[::2], both[1::2]
            with tempfile.TemporaryDirectory() as folder:
                if words.rounds and not seed:
                    row(model, images, others, Path(folder), words.rounds)
                else:
                    errors = errors_of(model, images, others, Path(folder))
                    said = ", ".join(f"{way} {error:.4f}" for way, error in errors.items())
                    print(f"  seed {seed}: {said}", flush=True)


if __name__ == "__main__":
    main()
