"""MNN on the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import LissomError
from ..exporting.onnx.names import layer_of_node
from ..language.method import arg
from ..language.target import WARM_UP_RUNS, Images, Run, Target, middle, one_or_all
from ..system.scratch import temporary

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ..trees import Tree

OTHER_METHOD = {"kl": "admm", "admm": "kl", "ema": "kl"}
SETTINGS_FILE = "order.json"  # the settings of the quantizer
# root mean square of the difference over that of the outputs; rounding never causes so much
MAX_ROUNDING_ERROR = 0.5


@dataclass(frozen=True)
class Mnn(Target):
    """Export to MNN: float, few-bit weights, or 8-bit integers from MNN's own quantizer.

    bits:        makes the file smaller; layers still compute in float
    activations: layers compute in 8-bit integers. MNN's quantizer finds the ranges of activations
                 on training samples, with the preprocessing of the network:
                 kl    clips them for the least divergence
                 admm  clips them for the least squared error; it reads all samples at once and
                       takes a minute for 100
                 ema   follows their extremes
    A network that `quantize` rounded is passed on in float, with weights on their grid. The ranges
    of its activations are not passed on, since MNN's converter does not read them. The settings of
    MNN's quantizer are kept next to the file, with the ending .quantizer.json.

    Raises LissomError if MNN's converter, quantizer or runtime fails (each runs in a process of its
    own), or if the outputs of the quantized file are far from the network's. MNN 3.6 falls back to
    ema if a batch-norm cannot be folded, and then loses each ReLU after an addition. With
    activations="ema" lissom writes these ReLUs in another form.

    Also known as: Mobile Neural Network.
    Source: MNN, https://github.com/alibaba/MNN; its quantizer,
    https://mnn-docs.readthedocs.io/en/latest/tools/quant.html.
    """

    ending: ClassVar[str] = "mnn"
    module: ClassVar[str] = "MNN.nn"

    bits: int | None = arg("bits of each stored weight; None = float", None, low=2, high=8)
    activations: Literal["kl", "admm", "ema"] | None = arg(
        "how MNN's quantizer finds activation ranges; None = compute in float", None
    )
    weights: Literal["max_abs", "admm"] = arg(
        "how MNN's quantizer scales the weights of a filter", "max_abs"
    )
    samples: int = arg("calibration samples for MNN's quantizer", 100, low=1)
    keep: str = arg(
        "layers that MNN's quantizer leaves float: glob patterns; not with ema",
        "",
        late=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activations and self.bits != 8:
            raise LissomError(
                f"mnn(activations={self.activations!r}): bits={self.bits} was "
                "given; MNN's quantizer makes "
                "weights of 8 bits, so bits=8 fits"
            )

        if self.keep and self.activations in (None, "ema"):
            why = (
                "without activations every layer is float"
                if self.activations is None
                else "MNN's quantizer leaves nothing out under ema; kl and admm do"
            )
            raise LissomError(f"{self.name()}(keep={self.keep!r}): {why}")

    def missing(self) -> str | None:
        return (
            None
            if find_spec("MNN") and find_spec("_tools")
            else "MNN is not installed: pip install 'lissom[mnn]'"
        )

    def file(self, few: bool, acts: bool) -> str:
        # a checksum, since patterns contain characters that file names may not contain
        layers = f"-{zlib.crc32(self.keep.encode()):08x}" if self.keep else ""
        return re.sub(r"\W+", "-", str(self)).strip("-") + layers + "/model.mnn"

    def plain(self) -> Target:
        return Mnn()

    def rounds(self) -> bool:
        return self.bits is not None

    def export(
        self,
        model: nn.Module,
        path: Path,
        shape: tuple[int, ...],
        facts: dict[str, Any],
        images: Images | None = None,
        example: Tree | None = None,
    ) -> None:
        import onnx
        import torch

        from ..exporting.example_inputs import float_samples
        from ..exporting.isolated import child_command, output_shape, run_isolated, smoke_test
        from ..exporting.onnx.export import export_onnx
        from ..exporting.onnx.pooling import pool_by_window
        from ..exporting.onnx.relu_as_max import write_relu_as_max

        shape = tuple(float_samples(self, model, shape, example).shape[1:])
        if self.activations and images is None:
            raise LissomError(
                f"{self}: MNN's quantizer has to see training images and none were given; 'lissom run' with "
                "--to has them, and without activations none are needed"
            )
        with temporary() as scratch:
            folder = Path(scratch)
            source = folder / "model.onnx"
            converted = folder / "model.mnn"
            export_onnx(model, source, shape, {}, in_integers=False, example=example)
            proto = onnx.load(str(source))
            skipped = self.float_operations(proto)
            arguments: list[str | Path] = [
                "-f",
                "ONNX",
                "--modelFile",
                source,
                "--MNNModel",
                converted,
                "--bizCode",
                "lissom",
            ]
            if self.activations:
                pool_by_window(proto)
                if self.activations == "ema":
                    write_relu_as_max(proto)
                onnx.save(proto, str(source))
                # in any other layout admm writes beyond the memory of the input
                arguments.append("--keepInputFormat=0")
            elif self.bits:
                arguments += ["--weightQuantBits", str(self.bits)]
            hint = "onnxruntime may run this network"
            run_isolated(
                child_command("mnnconvert", *arguments),
                folder,
                converted,
                where=f"{self}: MNN's converter",
                hint=hint,
            )
            outputs = output_shape(model, shape)
            smoke_test(
                str(self),
                converted,
                shape,
                outputs,
                where=f"{self}: MNN, running the converted file,",
                hint=hint,
            )
            if self.activations and images is not None:
                samples = torch.cat(list(images(self.samples))).cpu()
                converted = self.quantize_file(
                    folder, converted, samples, shape, outputs, facts | {"skip": skipped}
                )
                settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
                settings_text = json.dumps(settings | {"path": "images/"}, indent=1)
                path.with_suffix(".quantizer.json").write_text(settings_text, encoding="utf-8")
            shutil.copyfile(converted, path)

    def float_operations(self, proto: Any) -> list[str]:
        """Return MNN's names for the operations of the layers that `keep` leaves float."""
        from ..surgery.names import matching

        nodes = [
            node
            for node in proto.graph.node
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        ]
        layers = matching(
            {layer_of_node(node.name): None for node in nodes}, self.keep, f"{self}: keep"
        )
        float_nodes = [node for node in nodes if layer_of_node(node.name) in layers]
        names = chain.from_iterable(
            dict.fromkeys((node.name, *node.output)) for node in float_nodes
        )
        return list(chain.from_iterable((name, f"{name}__matmul_converted") for name in names))

    def quantize_file(
        self,
        folder: Path,
        float_file: Path,
        images: Tensor,
        shape: tuple[int, ...],
        outputs: tuple[int, ...],
        facts: dict[str, Any],
    ) -> Path:
        """Quantize a float file with MNN's quantizer and return the path of the integer file.

        `facts` holds what `write_calibration_images` needs to know of the images, and as `skip` the
        operations to leave float. Raises LissomError if the outputs differ too much from the float
        file's.
        """
        import numpy as np

        from ..exporting.isolated import child_command, run_isolated, smoke_test

        integers = folder / "integer.mnn"
        settings_file = folder / SETTINGS_FILE
        method = {
            "feature_quantize_method": str(self.activations).upper(),
            "weight_quantize_method": self.weights.upper(),
            **({"skip_quant_op_names": facts["skip"]} if facts.get("skip") else {}),
        }
        settings_file.write_text(
            json.dumps(write_calibration_images(folder / "images", images, shape, facts) | method),
            encoding="utf-8",
        )
        hint = f'activations="{OTHER_METHOD[str(self.activations)]}" may work, and mnn(8) needs no quantizer'
        run_isolated(
            child_command("mnnquant", float_file, integers, settings_file),
            folder,
            integers,
            where=f"{self}: MNN's quantizer",
            hint=hint,
        )
        smoke_test(
            str(self),
            integers,
            shape,
            outputs,
            where=f"{self}: MNN, running the quantized file,",
            hint=hint,
        )
        inputs = np.ascontiguousarray(images[:16].float().numpy())
        expected, outputs_of_integers = (
            self.load(file, 1)(inputs) for file in (float_file, integers)
        )
        error = float(
            np.sqrt(
                np.square(outputs_of_integers - expected).mean()
                / max(np.square(expected).mean(), 1e-12)
            )
        )
        if not error <= MAX_ROUNDING_ERROR:
            raise LissomError(
                f"{self}: the file of MNN's quantizer answers unlike the network: outputs differ "
                f"by {error:.2g} "
                f"of their size on the images that it was shown; {hint}"
            )
        return integers

    def load(self, path: Path, threads: int) -> Run:
        import numpy as np

        with without_standard_output():
            import MNN.expr as express
            import MNN.nn

        runtime = MNN.nn.create_runtime_manager(
            ({"backend": "CPU", "numThread": threads, "precision": "normal"},)
        )
        # ema renames the output, so MNN finds inputs and outputs itself
        network = MNN.nn.load_module_from_file(str(path), [], [], runtime_manager=runtime)

        def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
            (images,) = inputs
            values = express.const(images, list(images.shape), express.NCHW, express.float)
            outputs = express.convert(network.forward([values])[0], express.NCHW)
            return [np.array(outputs.read())]  # a copy, since the memory belongs to `outputs`

        return one_or_all(run)

    def profile(
        self, path: Path, inputs: Sequence[np.ndarray], threads: int, times: int
    ) -> list[tuple[str, float]]:
        with without_standard_output():
            import MNN

            network = MNN.Interpreter(str(path))
            session = network.createSession(
                {"backend": "CPU", "numThread": threads, "precision": "normal"}
            )
            network_input = network.getSessionInput(session)
            (images,) = inputs
            network.resizeTensor(network_input, images.shape)
            network.resizeSession(session)
        values = MNN.Tensor(
            images.shape,
            MNN.Halide_Type_Float,
            images.ravel().tolist(),
            MNN.Tensor_DimensionType_Caffe,
        )
        network_input.copyFrom(values)
        runs: list[list[tuple[str, float]]] = []
        started_s = 0.0

        def begin(*_: Any) -> bool:
            nonlocal started_s
            started_s = time.perf_counter()
            return True

        def end(_: Any, operation: Any) -> bool:
            runs[-1].append(
                (layer_of_node(operation.getName()), 1000 * (time.perf_counter() - started_s))
            )
            return True

        for _ in range(WARM_UP_RUNS + times):
            runs.append([])
            network.runSessionWithCallBackInfo(session, begin, end)
        return middle(runs[WARM_UP_RUNS:])


@contextlib.contextmanager
def without_standard_output() -> Iterator[None]:
    """Keep output that a library writes to standard output past Python off the terminal, such as
    the CPU features that MNN prints when it is imported.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)


def write_calibration_images(
    folder: Path, images: Tensor, shape: tuple[int, ...], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write preprocessed images as PNG files and return the settings with which MNN's quantizer
    reads them.

    It computes (pixel - mean) * normal. `facts` holds mean and std in 0..1; without them the pixels
    span the range of the images. Raises LissomError if inputs are not images of 1 or 3 channels.
    """
    import torch
    from PIL import Image

    values = images.double()
    if len(shape) != 3 or shape[0] not in (1, 3) or tuple(values.shape[1:]) != shape:
        raise LissomError(
            f"mnn: inputs of shape {tuple(values.shape[1:])} for a network that takes {shape} were "
            "given; MNN's "
            "quantizer reads images of 1 or 3 channels"
        )
    low = values.amin((0, 2, 3))
    step = ((values.amax((0, 2, 3)) - low) / 255).clamp_min(1e-12)
    if facts.get("baked") == "true":
        low = torch.zeros(shape[0])
        step = torch.ones(shape[0])
    elif "mean" in facts and "std" in facts:
        mean, std = (torch.tensor(facts[name], dtype=torch.float64) for name in ("mean", "std"))
        low = -mean / std
        step = 1 / (255 * std)
    pixels = (
        ((values - low.view(-1, 1, 1)) / step.view(-1, 1, 1)).round().clamp(0, 255).to(torch.uint8)
    )
    folder.mkdir()
    for k, image in enumerate(pixels.numpy()):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(
            folder / f"{k:06}.png"
        )
    # all images in one batch: with more batches, ema writes beyond the memory of the first
    return {
        "format": "RGB" if shape[0] == 3 else "GRAY",
        "mean": (-low / step).tolist(),
        "normal": step.tolist(),
        "width": shape[2],
        "height": shape[1],
        "path": f"{folder}/",
        "used_image_num": len(pixels),
        "batch_size": len(pixels),
        "quant_bits": 8,
        "feature_clamp_value": 127,
        "weight_clamp_value": 127,
    }
