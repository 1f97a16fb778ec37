"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import LissomError
from ..exporting.float_reasons import RECURRENT
from ..exporting.onnx import container
from ..exporting.onnx.names import layer_lookup
from ..importing.packed import ENDING, is_packed, read
from ..language.method import arg
from ..language.target import WARM_UP_RUNS, Fused, Images, Run, Target, middle, one_or_all
from ..system.scratch import temporary

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ..trees import Tree

INTEGER_KINDS = {
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "QLinearAdd",
    "MatMulInteger",
    "ConvInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}
FLOAT_KINDS = {
    "Conv",
    "FusedConv",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "Add",
    "NhwcFusedConv",
    "ConvTranspose",
    *RECURRENT,
}
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


def adapt(proto: Any) -> None:
    """Rewrite an ONNX model so that ONNX Runtime computes in integers what should be, and no more, in
    place.
    """
    from ..exporting.onnx.activations import round_sigmoids
    from ..exporting.onnx.float_layers import keep_float_layers
    from ..exporting.onnx.shuffles import round_before_shuffles
    from ..exporting.onnx.unshare import unshare_transposes

    round_before_shuffles(proto)
    keep_float_layers(proto)
    unshare_transposes(proto)
    round_sigmoids(proto)


@dataclass(frozen=True)
class Onnxruntime(Target):
    """Export to ONNX and run in ONNX Runtime, with all graph optimizations on.

    ONNX stores each integer weight in 8 bits and each float weight in 32, whatever the bits of its
    grid and the fraction of zeros. packed=True writes model.onnxz instead, a zip file that holds
    the same ONNX file with weights in as few bits as their values need. Loading it restores the
    ONNX file bit by bit, so outputs and latency are the same.

    Also known as: ONNX, ORT.
    Source: ONNX Runtime, https://onnxruntime.ai
    """

    ending: ClassVar[str] = "onnx"
    suppresses: ClassVar[bool] = True
    pictures: ClassVar[str] = "onnx"
    module: ClassVar[str] = "onnxruntime"
    others: ClassVar[tuple[str, ...]] = (ENDING,)

    _: KW_ONLY
    packed: bool = arg(
        "store weights in as few bits as they need; only lissom reads the file", False
    )
    provider: Literal["cpu", "cuda", "tensorrt"] = arg(
        "execution provider; cuda and tensorrt need a GPU and onnxruntime-gpu", "cpu"
    )

    def identity(self) -> str:
        """Return the text that stands for this target in keys of measurements, without `packed`,
        which does not change latency.
        """
        return json.dumps(
            [
                self.name(),
                self.version,
                {} if self.provider == "cpu" else {"provider": self.provider},
            ]
        )

    def missing(self) -> str | None:
        if not find_spec("onnxruntime"):
            return "ONNX Runtime is not installed: pip install onnxruntime"
        if self.provider == "cpu":
            return None
        import onnxruntime

        wanted = PROVIDERS[self.provider][0]
        available = onnxruntime.get_available_providers()
        return (
            None
            if wanted in available
            else (
                f"this ONNX Runtime has no {wanted}: pip install "
                "onnxruntime-gpu; it has "
                f"{', '.join(available)}"
            )
        )

    def export(
        self,
        model: nn.Module,
        path: Path,
        shape: tuple[int, ...],
        facts: dict[str, Any],
        images: Images | None = None,
        example: Tree | None = None,
    ) -> None:
        from ..exporting.onnx.export import export_onnx

        if not self.packed:
            export_onnx(model, path, shape, facts, adapt=adapt, example=example)
            return
        with temporary() as folder:
            export_onnx(
                model, Path(folder) / "model.onnx", shape, facts, adapt=adapt, example=example
            )
            container.write(Path(folder) / "model.onnx", path)

    def file(self, few: bool, acts: bool) -> str:
        return f"onnx-packed/model{ENDING}" if self.packed else super().file(few, acts)

    def plain(self) -> Target:
        return Onnxruntime(provider=self.provider)

    def packs(self) -> bool:
        return self.packed

    def load(self, path: Path, threads: int) -> Run:
        session = create_session(path, threads, self.provider)
        names = [part.name for part in session.get_inputs()]

        def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
            outputs: list[np.ndarray] = session.run(None, dict(zip(names, inputs, strict=True)))
            return outputs

        return one_or_all(run)

    def profile(
        self, path: Path, inputs: Sequence[np.ndarray], threads: int, times: int
    ) -> list[tuple[str, float]]:
        with temporary() as folder:
            session = create_session(path, threads, self.provider, profile=Path(folder) / "profile")
            names = [part.name for part in session.get_inputs()]
            layer = layer_lookup(path)
            runs: list[list[tuple[str, float]]] = [[]]
            for _ in range(WARM_UP_RUNS + times):
                session.run(None, dict(zip(names, inputs, strict=True)))
            for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
                if event["name"] == "model_run":  # recorded at the end of the run, after its nodes
                    runs.append([])
                elif event["name"].endswith("_kernel_time"):
                    node = event["name"].removesuffix("_kernel_time")
                    runs[-1].append((layer(node, event["args"]["op_name"]), event["dur"] / 1000))
        return middle(runs[WARM_UP_RUNS:-1])

    def fused(self, path: Path) -> Fused | None:
        """Count integer operations in the optimised graph that ONNX Runtime runs and can save."""
        import onnx

        from ..exporting.float_reasons import why_float_in_onnxruntime, with_reason
        from ..exporting.onnx.graph import makers_and_users

        with temporary() as folder:
            optimised = Path(folder) / "optimised.onnx"
            create_session(path, 1, self.provider, optimised)
            graph = onnx.load(str(optimised)).graph
        constants = {tensor.name for tensor in graph.initializer}
        biases = constants | {
            node.output[0]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in constants
        }
        integer_nodes = [node for node in graph.node if node.op_type in INTEGER_KINDS]
        makers, users = makers_and_users(graph)
        float_operations = [
            with_reason(
                node.name or node.output[0],
                why_float_in_onnxruntime(node, makers, users, constants),
            )
            for node in graph.node
            if node.op_type in FLOAT_KINDS
            and not (node.op_type == "Add" and any(name in biases for name in node.input))
        ]
        return Fused(
            len(integer_nodes), len(integer_nodes) + len(float_operations), tuple(float_operations)
        )


def create_session(
    path: Path,
    threads: int,
    provider: str = "cpu",
    optimised: Path | None = None,
    profile: Path | None = None,
) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if not is_packed(path):
        return check_provider(
            ort.InferenceSession(str(path), options, providers=list(PROVIDERS[provider])), provider
        )
    data = read(path)
    try:
        session = ort.InferenceSession(data, options, providers=list(PROVIDERS[provider]))
    except Exception as error:
        # ONNX Runtime's own errors do not name the file, since it gets only bytes
        raise LissomError(
            f"onnxruntime: {path} cannot be run ({str(error).splitlines()[0]})"
        ) from None
    return check_provider(session, provider)


def check_provider(session: Any, provider: str) -> Any:
    """Return a session. Raises LissomError if it does not run on `provider`: ONNX Runtime silently
    falls back to the CPU.
    """
    if PROVIDERS[provider][0] not in session.get_providers():
        raise LissomError(
            f"onnxruntime: {PROVIDERS[provider][0]} cannot be used here; it would run in "
            f"{', '.join(session.get_providers())}"
        )
    return session
