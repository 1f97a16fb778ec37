"""Compare the latency of lissom's int8 file with the same network quantized by ONNX Runtime's own
tool and by NNCF, in turns.

    python benchmarks/int8_rivals.py [--model resnet56 | --model torchvision:efficientnet_b0]
    [--threads 1]

Weights are random: latency does not depend on them. ONNX Runtime's tool gets u8 inputs and
per-channel s8 weights, its fastest setting on x86. NNCF quantizes for OpenVINO with its defaults.
NNCF is not part of lissom: pip install nncf.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

import lissom
from lissom.bench.inputs import images as noise
from lissom.bench.latency import latencies
from lissom.bench.machine import machine
from lissom.models import factory


def by_onnxruntime(source: Path, goal: Path, images: np.ndarray) -> None:
    """Quantize an ONNX file with quantize_static: QDQ, u8 activations, per-channel s8 weights."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.left = iter([{"images": images[k : k + 1]} for k in range(32)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    clean = goal.with_suffix(".clean.onnx")
    quant_pre_process(str(source), str(clean))
    quantize_static(
        str(clean),
        str(goal),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def by_nncf(source: Path, goal: Path, images: np.ndarray) -> None:
    """Quantize an ONNX file with NNCF's post-training quantization for OpenVINO and save it as
    OpenVINO IR.
    """
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(source))
    data = nncf.Dataset([images[k : k + 1] for k in range(32)])
    ov.save_model(nncf.quantize(model, data, subset_size=32), str(goal), compress_to_fp16=False)


def main() -> None:
    """Print the latencies and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    words = parser.parse_args()
    torch.manual_seed(0)
    size = 224 if words.model.startswith("torchvision:") else 32
    images = torch.randn(64, 3, size, size)
    if size == 224:
        import torchvision

        model = torchvision.models.get_model(words.model.partition(":")[2], weights=None)
        with torch.no_grad():  # gives batch-norms realistic statistics
            model.train()(images[:16])
    else:
        model = factory(words.model)(10)
    model.eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        small = lissom.apply("quantize(8)", model, images[:1], images)
        lissom.export(model, "onnxruntime", place / "float.onnx", (3, size, size))
        for runtime in ("onnxruntime", "openvino"):
            lissom.export(small, runtime, place / f"lissom-{runtime}.onnx", (3, size, size))
        by_onnxruntime(place / "float.onnx", place / "ort.onnx", images.numpy())
        by_nncf(place / "float.onnx", place / "nncf.xml", images.numpy())
        files = {
            "onnxruntime": ["float.onnx", "lissom-onnxruntime.onnx", "ort.onnx"],
            "openvino": ["float.onnx", "lissom-openvino.onnx", "ort.onnx", "nncf.xml"],
        }
        facts = machine()
        print(
            f"{words.model}, batch 1, {words.threads} thread, {facts['cpu']}, {' '.join(facts['isa'])}"
        )
        for target, names in files.items():
            timings = latencies(
                [(target, place / name) for name in names],
                noise((1, 3, size, size)),
                threads=words.threads,
                rounds=words.rounds,
            )
            own = timings[1].median
            for name, timing in zip(names, timings, strict=True):
                print(
                    f"{target:12} {name:24} {timing.median:7.3f} ms  [{timing.low:.3f}, {timing.high:.3f}]"
                    f"  lissom / this = {own / timing.median:.3f}"
                )


if __name__ == "__main__":
    main()
