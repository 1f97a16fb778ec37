"""OpenVINO on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..method import arg
from ._target import Fused, Run, Target

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

LAYERS = {"Convolution", "FullyConnected", "MatMul", "Deconvolution", "GroupConvolution"}


@dataclass(frozen=True)
class Openvino(Target):
    """Run the ONNX file in OpenVINO's CPU plugin; quantized layers run in 8 bits, the others in `precision`.

    Source: https://docs.openvino.ai
    """

    ending: ClassVar[str] = "onnx"

    precision: Literal["f32", "bf16"] = arg("what float layers compute in; bf16 needs a CPU that has it", "f32")

    def missing(self) -> str | None:
        return None if find_spec("openvino") else "OpenVINO is not installed: pip install 'lissom[openvino]'"

    def export(self, model: nn.Module, path: Path, shape: tuple[int, ...], facts: dict[str, Any]) -> None:
        from ._onnx import export_onnx

        export_onnx(model, path, shape, facts)

    def load(self, path: Path, threads: int) -> Run:
        compiled = self._compiled(path, threads)
        output = compiled.output(0)

        def run(images: np.ndarray) -> np.ndarray:
            found: np.ndarray = compiled([images])[output]
            return found.copy()  # OpenVINO writes the next answer into the same memory
        return run

    def fused(self, path: Path) -> Fused | None:
        """Count from the graph that the CPU plugin runs, by the precision it chose for each operation."""
        done, rest = 0, []
        for op in self._compiled(path, 1).get_runtime_model().get_ordered_ops():
            facts = op.get_rt_info()
            kind, precision = str(facts["layerType"].astype(str)), str(facts["runtimePrecision"].astype(str))
            if kind not in LAYERS and not (kind == "Eltwise" and "add" in op.get_friendly_name().lower()):
                continue
            if precision in ("u8", "i8"):
                done += 1
            elif kind in LAYERS or op.get_input_size() == 2:
                rest.append(op.get_friendly_name())
        return Fused(done, done + len(rest), tuple(rest))

    def _compiled(self, path: Path, threads: int) -> Any:
        import openvino as ov

        core = ov.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": self.precision}
        return core.compile_model(core.read_model(str(path)), "CPU", settings)
