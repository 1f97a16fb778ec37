"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..exporting.onnx.names import layer_lookup
from ..language.method import arg
from ..language.target import WARM_UP_RUNS, Fused, Images, Run, Target, middle, one_or_all
from ..system.scratch import temporary

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..trees import Tree

LAYER_KINDS = {
    "Convolution",
    "BinaryConvolution",
    "FullyConnected",
    "MatMul",
    "Deconvolution",
    "GroupConvolution",
    "RNNCell",
    "RNNSeq",
}


def adapt(proto: Any) -> None:
    """Rewrite an ONNX model so that OpenVINO computes most of it in integers, in place."""
    from ..exporting.onnx.activations import join_activations
    from ..exporting.onnx.batch_expansion import expand_by_adding_zeros
    from ..exporting.onnx.concatenation_guard import guard_concatenations
    from ..exporting.onnx.operands import sign_operands
    from ..exporting.onnx.shuffles import round_before_shuffles
    from ..exporting.onnx.unshare import unshare_scales

    round_before_shuffles(proto)
    join_activations(proto)
    sign_operands(proto)
    guard_concatenations(proto)
    expand_by_adding_zeros(proto)
    unshare_scales(proto)


@dataclass(frozen=True)
class Openvino(Target):
    """Export to OpenVINO and run on the CPU; quantized layers run in 8-bit integers.

    Float layers run in `precision`. The file is ONNX, except for networks with weights of at most 4
    bits and networks that take whole images. These use OpenVINO's own format, which stores such
    weights in 4 bits each and resizes as Pillow does: an `.xml` and a `.bin` file if the name ends
    in `.xml`, else (as in the store) one zip file of both. lissom widens these weights to 8 bits
    when it loads the file, since OpenVINO would compute 4-bit weights in float. Convolutions with
    binary inputs and weights are stored and run in single bits.

    Also known as: OpenVINO IR.
    Source: OpenVINO, https://docs.openvino.ai
    """

    ending: ClassVar[str] = "onnx"
    suppresses: ClassVar[bool] = True
    pictures: ClassVar[str] = "ir"
    onednn: ClassVar[bool] = True
    module: ClassVar[str] = "openvino"
    others: ClassVar[tuple[str, ...]] = (".ir", ".xml")

    precision: Literal["f32", "bf16"] = arg(
        "precision of float layers; bf16 needs a CPU that has it", "f32"
    )

    def missing(self) -> str | None:
        return (
            None
            if find_spec("openvino")
            else "OpenVINO is not installed: pip install 'lissom[openvino]'"
        )

    def rounds(self) -> bool:
        return self.precision == "bf16"

    def export(
        self,
        model: nn.Module,
        path: Path,
        shape: tuple[int, ...],
        facts: dict[str, Any],
        images: Images | None = None,
        example: Tree | None = None,
    ) -> None:
        from ..exporting.network_with_preprocessing import NetworkWithPreprocessing
        from ..exporting.onnx.export import export_onnx
        from ..surgery.quantization.network import QuantizedNetwork

        own_format = any(
            isinstance(layer, NetworkWithPreprocessing)
            or (isinstance(layer, QuantizedNetwork) and layer.has_packable_weights())
            for layer in model.modules()
        )
        if not own_format:
            export_onnx(model, path, shape, facts, adapt=adapt, example=example)
            return
        from ..exporting.openvino_ir import convert_to_ir

        with temporary() as folder:
            export_onnx(
                model, Path(folder) / "model.onnx", shape, facts, adapt=adapt, example=example
            )
            convert_to_ir(Path(folder) / "model.onnx", path)

    def file(self, few: bool, acts: bool) -> str:
        return (
            "openvino/model.ir"
            if few
            else "onnx-openvino/model.onnx"
            if acts
            else super().file(few, acts)
        )

    def packs(self) -> bool:
        return True

    def load(self, path: Path, threads: int) -> Run:
        from ..exporting.openvino_ir import has_binary_convolutions, read_model

        model = read_model(path)
        compiled_models = dict[tuple[int, ...], Any]()
        needs_fixed_shape = has_binary_convolutions(model)

        def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
            shape = inputs[0].shape if needs_fixed_shape else ()  # single bits need fixed shapes
            if shape not in compiled_models:
                if needs_fixed_shape:
                    model.reshape(list(shape))
                compiled_models[shape] = self.compile_model(model, threads)
            outputs = compiled_models[shape](inputs)
            # OpenVINO writes the next output into the same memory
            return [outputs[index].copy() for index in range(len(outputs))]

        return one_or_all(run)

    def profile(
        self, path: Path, inputs: Sequence[np.ndarray], threads: int, times: int
    ) -> list[tuple[str, float]]:
        from ..exporting.openvino_ir import has_binary_convolutions, read_model

        model = read_model(path)
        if has_binary_convolutions(model):
            model.reshape(list(inputs[0].shape))
        request = self.compile_model(model, threads, {"PERF_COUNT": True}).create_infer_request()
        layer = layer_lookup(path)
        runs = []
        for _ in range(WARM_UP_RUNS + times):
            request.infer(list(inputs))
            runs.append(
                [
                    (layer(node.node_name, ""), node.real_time.total_seconds() * 1000)
                    for node in request.profiling_info
                    if node.status == node.Status.EXECUTED
                ]
            )
        return middle(runs[WARM_UP_RUNS:])

    def fused(self, path: Path) -> Fused | None:
        """Count by the precision that the CPU plugin chose for each operation."""
        from ..exporting.float_reasons import why_float_in_openvino, with_reason
        from ..exporting.openvino_ir import has_binary_convolutions, read_model

        model = read_model(path)
        integer_count = 0
        one_bit_count = 0
        float_operations = list[str]()
        if has_binary_convolutions(model):
            model.reshape(
                [1, *(d.get_length() for d in list(model.input(0).get_partial_shape())[1:])]
            )
        reasons = why_float_in_openvino(model)
        for op in self.compile_model(model, 1).get_runtime_model().get_ordered_ops():
            facts = op.get_rt_info()
            kind = str(facts["layerType"].astype(str))
            precision = str(facts["runtimePrecision"].astype(str))
            if kind not in LAYER_KINDS and not (
                kind == "Eltwise" and "add" in op.get_friendly_name().split("/")[-1].lower()
            ):
                continue
            if precision in ("u8", "i8", "u1"):
                integer_count += 1
                one_bit_count += precision == "u1"
            elif kind in LAYER_KINDS or op.get_input_size() == 2:
                layer_names = str(facts["originalLayersNames"].astype(str)).split(",")
                float_operations.append(
                    with_reason(
                        op.get_friendly_name(),
                        next((reasons[name] for name in layer_names if name in reasons), None),
                    )
                )
        return Fused(
            integer_count,
            integer_count + len(float_operations),
            tuple(float_operations),
            one_bit_count,
        )

    def compile_model(self, model: Any, threads: int, more: Mapping[str, Any] | None = None) -> Any:
        """Return a model compiled for the CPU with this target's settings and `more` settings."""
        import openvino as ov
        from openvino.passes import ConstantFolding, Manager

        if not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
            # only weights are quantized: OpenVINO 2026.4 would multiply some of them by their
            # scales at run time, and wrongly
            passes = Manager()
            passes.register_pass(ConstantFolding())
            passes.run_passes(model)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
            **(more or {}),
        }
        return ov.Core().compile_model(model, "CPU", settings)
