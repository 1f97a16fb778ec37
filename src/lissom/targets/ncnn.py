"""ncnn on the CPU."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.target import Images, Run, Target, one_or_all
from ..system.scratch import temporary

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..trees import Tree

FILES = ("model.param", "model.bin")
FP16_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")


@dataclass(frozen=True)
class Ncnn(Target):
    """Export to ncnn, which runs one image at a time, since the format has no batches.

    The file is an uncompressed zip of the two files that ncnn reads, model.param and model.bin, as
    pnnx writes them. With precision="f16" weights are stored in 16 bits, and the CPU computes in 16
    bits if it can. A network that `quantize` rounded computes in float, with weights on their grid:
    ncnn's integer converter is not part of the Python package.

    Raises LissomError if pnnx or ncnn fails. Each runs in a process of its own.

    Also known as: pnnx.
    Source: ncnn, https://github.com/Tencent/ncnn
    """

    ending: ClassVar[str] = "ncnn"
    module: ClassVar[str] = "ncnn"

    precision: Literal["f32", "f16"] = arg("format of the stored weights", "f32")

    def missing(self) -> str | None:
        both = find_spec("ncnn") and find_spec("pnnx")
        return (
            None
            if both
            else "ncnn or its converter pnnx is not installed: pip install 'lissom[ncnn]'"
        )

    def file(self, few: bool, acts: bool) -> str:
        return (
            "ncnn" if self.precision == "f32" else f"ncnn-{self.precision}"
        ) + f"/model.{self.ending}"

    def plain(self) -> Target:
        return Ncnn()

    def rounds(self) -> bool:
        return self.precision == "f16"

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

        from ..exporting.example_inputs import float_samples
        from ..exporting.isolated import output_shape, run_isolated, smoke_test
        from ..exporting.onnx.export import export_onnx

        shape = tuple(float_samples(self, model, shape, example).shape[1:])
        spec = find_spec("pnnx")
        assert spec is not None and spec.origin is not None
        with temporary() as scratch:
            folder = Path(scratch)
            source = folder / "model.onnx"
            zipped = folder / path.name
            export_onnx(model, source, shape, {}, in_integers=False, example=example)
            proto = onnx.load(str(source))
            for value in (*proto.graph.input, *proto.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = 1
            onnx.save(proto, str(source))
            sizes = ",".join(map(str, (1, *shape)))
            run_isolated(
                [
                    Path(spec.origin).with_name("pnnx"),
                    "model.onnx",
                    f"inputshape=[{sizes}]f32",
                    f"fp16={int(self.precision == 'f16')}",
                ],
                folder,
                folder / "model.ncnn.bin",
                where=f"{self}: pnnx, the converter,",
                hint="onnxruntime may run this network",
            )
            with zipfile.ZipFile(zipped, "w") as pack:
                for file in FILES:  # a fixed date makes equal networks equal files
                    pack.writestr(
                        zipfile.ZipInfo(file), (folder / file.replace(".", ".ncnn.")).read_bytes()
                    )
            smoke_test(
                str(self),
                zipped,
                shape,
                output_shape(model, shape),
                where=f"{self}: ncnn, running the converted file,",
                hint="onnxruntime may run this network",
            )
            path.write_bytes(zipped.read_bytes())

    def load(self, path: Path, threads: int) -> Run:
        import ncnn
        import numpy as np

        network = ncnn.Net()
        network.opt.num_threads = threads
        for option in FP16_OPTIONS:
            setattr(network.opt, option, self.precision == "f16")
        with temporary() as folder, zipfile.ZipFile(path) as pack:
            pack.extractall(folder, FILES)
            graph, weights = (str(Path(folder) / file) for file in FILES)
            if network.load_param(graph) or network.load_model(weights):
                raise LissomError(
                    f"{self}: ncnn cannot load {path.name}; it may hold an "
                    "operation that ncnn does not have"
                )
        first = network.input_names()[0]
        last = network.output_names()[0]

        def run_one(image: np.ndarray) -> np.ndarray:
            runner = network.create_extractor()
            # an aligned copy, since a layer may overwrite it
            runner.input(first, ncnn.Mat(np.ascontiguousarray(image)).clone())
            code, output = runner.extract(last)
            if code:
                raise LissomError(
                    f"{self}: ncnn cannot run {path.name} on an image of shape "
                    f"{image.shape} (code {code})"
                )
            return np.array(output)

        def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
            (images,) = inputs
            return [np.stack([run_one(image) for image in images])]

        return one_or_all(run)
