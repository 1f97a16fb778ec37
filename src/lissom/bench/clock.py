"""Latency of layers of any width on a target: measured once per machine, stored, and interpolated."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ..errors import LissomError
from ..language.parse_methods import method_of
from ..language.target import Target
from ..store.checks import fields, mapping, number, parsed, text_of, write_json
from ..surgery.channels.budget import Shapes
from ..surgery.channels.group import Group
from ..surgery.trace import Op, traced
from ..system.scratch import temporary
from .inputs import images
from .latency import latencies
from .machine import machine

# fractions of a layer's inputs and outputs at which it is timed; other widths are interpolated
WIDTH_SHARES = (1.0, 0.75, 0.5, 0.25)
TIMING_S = 0.03  # of timing per layer
TABLE = fields(ms=mapping(number(1e-9, 1e9)))
TABLES_IN_MEMORY: dict[str, dict[str, float]] = {}  # tables of this process, if there is no store


@dataclass(frozen=True)
class Layer:
    """The facts of a convolution, or of a linear layer (kernel ()), that its latency depends on."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    size: tuple[int, ...] = ()  # of the input: positions
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    def with_widths(self, inputs: float, outputs: float) -> Layer:
        """Return the layer with other widths, rounded so that all groups are equally wide."""
        if self.groups > 1 and self.groups == self.inputs:  # depthwise
            width = max(1, round(inputs))
            return replace(
                self, inputs=width, outputs=width * (self.outputs // self.inputs), groups=width
            )
        step = self.groups
        return replace(
            self,
            inputs=max(step, round(inputs / step) * step),
            outputs=max(step, round(outputs / step) * step),
        )

    def onnx_file(self) -> bytes:
        """Return the layer as an ONNX file with random weights."""
        rng = np.random.default_rng(0)
        columns = self.inputs // self.groups if not self.transposed else self.outputs // self.groups
        rows = self.outputs if not self.transposed else self.inputs
        weight = rng.standard_normal((rows, columns, *self.kernel)).astype(np.float32)
        shape: tuple[int, ...] = (
            (1, self.inputs, *self.size) if self.kernel else (*self.size, self.inputs)
        )
        if self.kernel:
            node = helper.make_node(
                "ConvTranspose" if self.transposed else "Conv",
                ["x", "w"],
                ["y"],
                strides=self.stride,
                pads=[*self.padding, *self.padding],
                dilations=self.dilation,
                group=self.groups,
            )
        else:
            weight = np.ascontiguousarray(weight.reshape(rows, columns).T)
            node = helper.make_node("MatMul", ["x", "w"], ["y"])
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model).SerializeToString()

    def random_input(self) -> np.ndarray:
        """Return a random input of the layer."""
        shape = (1, self.inputs, *self.size) if self.kernel else (*self.size, self.inputs)
        return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def layer_of(op: Op) -> Layer:
    """Return the layer of a recorded convolution or matrix product."""
    x = op.args[0] if op.name in ("convolution", "linear") else op.args[-2]
    out = op.outputs[0]
    if op.name != "convolution":
        return Layer(x.shape[-1], out.shape[-1], size=tuple(x.shape[:-1]))
    _, weight, _, stride, padding, dilation, transposed, _, groups = op.args[:9]
    return Layer(
        x.shape[1],
        out.shape[1],
        tuple(weight.shape[2:]),
        tuple(x.shape[2:]),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        bool(transposed),
    )


EMPTY_LAYER = Layer(1, 1, size=(1,))  # almost no work: its time is that of a call


class LayerClock:
    """Times layers and networks on one target that runs ONNX files, with batches of 1.

    The table of layers is a file in `home`, a folder of the store, one for each machine, target and
    library version. Without `home` it is kept in memory for the life of the process.
    """

    def __init__(self, target: str, threads: int = 1, home: Path | None = None) -> None:
        runtime = method_of("targets", target)
        assert isinstance(runtime, Target)
        if runtime.ending != "onnx" or runtime.missing():
            reason = runtime.missing() or "layers are timed as ONNX files; onnxruntime fits"
            raise LissomError(f"latency on {target}: {reason}")
        self.target = runtime
        self.threads = threads
        facts = json.dumps([machine(), runtime.identity(), threads], sort_keys=True)
        name = f"layers-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.json"
        self.path = home / name if home else None
        self.table: dict[str, float] = (
            self._read_table() if home else TABLES_IN_MEMORY.setdefault(name, {})
        )

    def _read_table(self) -> dict[str, float]:
        try:
            return dict(TABLE(parsed(text_of(self.path)))["ms"]) if self.path else {}
        except (OSError, ValueError):  # then everything is measured again
            return {}

    def ms(self, layer: Layer) -> float:
        """Return the latency of a layer in ms, without the overhead of a call. It is measured if it
        is not in the table.
        """
        for each in (layer, EMPTY_LAYER):
            if repr(each) not in self.table:
                self.table[repr(each)] = self._measure_ms(each)
        return max(self.table[repr(layer)] - self.table[repr(EMPTY_LAYER)], 1e-4)

    def write_table(self) -> None:
        """Write the table, merged with measurements that other processes have written since. If
        writing fails, the layers will be measured again next time.
        """
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                self.path,
                {
                    "machine": machine(),
                    "target": str(self.target),
                    "threads": self.threads,
                    "ms": {**self._read_table(), **self.table},
                },
            )
        except (OSError, LissomError):
            return

    def _measure_ms(self, layer: Layer) -> float:
        with temporary() as folder:
            path = Path(folder) / "layer.onnx"
            path.write_bytes(layer.onnx_file())
            run = self.target.load(path, self.threads)
            images = layer.random_input()
            for _ in range(3):
                run(images)
            times: list[float] = []
            end = time.perf_counter() + TIMING_S
            while len(times) < 5 or time.perf_counter() < end:
                begin = time.perf_counter()
                run(images)
                times.append(time.perf_counter() - begin)
        return median(times) * 1000

    def interpolated_ms(self, layer: Layer, inputs: float, outputs: float) -> float:
        """Return the latency in ms of a layer with other widths, interpolated."""
        input_widths = [max(1.0, p * layer.inputs) for p in WIDTH_SHARES]
        output_widths = [max(1.0, p * layer.outputs) for p in WIDTH_SHARES]
        if layer.groups > 1 and layer.groups == layer.inputs:
            return float(
                np.interp(
                    inputs,
                    input_widths[::-1],
                    [self.ms(layer.with_widths(i, i)) for i in input_widths][::-1],
                )
            )
        rows = [
            float(
                np.interp(
                    outputs,
                    output_widths[::-1],
                    [self.ms(layer.with_widths(i, o)) for o in output_widths][::-1],
                )
            )
            for i in input_widths
        ]
        return float(np.interp(inputs, input_widths[::-1], rows[::-1]))

    def predictor(
        self, model: nn.Module, example: Tensor, groups: Sequence[Group]
    ) -> Callable[[Sequence[int]], float]:
        """Return a function that predicts the latency in ms of a network's layers from the number
        of units kept in each group.
        """
        shapes = Shapes(model, groups)
        layers = [(name, layer_of(op)) for name, _, op in traced(model, example).products()]

        def cost(widths: Sequence[int]) -> float:
            total = 0.0
            for name, layer in layers:
                rows, columns = shapes.shape(name, widths)[:2]
                full_shape = shapes.full[name]
                outs, ins = (
                    (columns / full_shape[1], rows / full_shape[0])
                    if layer.transposed
                    else (rows / full_shape[0], columns / full_shape[1])
                )
                if layer.groups > 1 and layer.groups == layer.inputs:
                    ins = outs
                total += self.interpolated_ms(layer, ins * layer.inputs, outs * layer.outputs)
            return total

        cost([group.size for group in groups])
        self.write_table()
        return cost

    def multiple(self, model: nn.Module, example: Tensor) -> int:
        """Return the smallest multiple of channels at which the costliest layer takes the least
        time per channel.

        For each candidate m of 1, 2, 4, ..., 32, odd multiples of m are timed. A time within 5 % of
        the best counts as the best.
        """
        convolutions = [
            layer_of(op) for op in traced(model, example).ops if op.name == "convolution"
        ]
        layers = [layer for layer in convolutions if layer.groups == 1]
        if not layers:
            return 8
        costliest = max(
            layers,
            key=lambda y: y.inputs * y.outputs * int(np.prod(y.kernel)) * int(np.prod(y.size)),
        )
        ms_per_channel: dict[int, float] = {}
        for m in (1, 2, 4, 8, 16, 32):
            widths = [
                m * k
                for k in range(1, costliest.outputs // m + 1)
                if k % 2 and 0.4 <= m * k / costliest.outputs < 1
            ][-3:]
            if widths:
                ms_per_channel[m] = median(
                    [self.ms(costliest.with_widths(costliest.inputs, w)) / w for w in widths]
                )
        self.write_table()
        best = min(ms_per_channel.values(), default=0.0)
        return min((m for m, per in ms_per_channel.items() if per <= 1.05 * best), default=8)

    def latencies(self, models: Sequence[nn.Module], example: Tensor) -> list[float]:
        """Export networks and return their latencies in ms, measured in turns in fresh processes."""
        with temporary() as folder:
            files: list[tuple[str, Path]] = []
            for k, model in enumerate(models):
                path = Path(folder) / f"{k}.onnx"
                self.target.export(model, path, tuple(example.shape[1:]), {"baked": "false"})
                files.append((str(self.target), path))
            timings: list[Any] = latencies(
                files, images((1, *example.shape[1:])), threads=self.threads
            )
        return [t.median for t in timings]


def clock_of(threads: int = 1, home: Path | None = None) -> Callable[[str], LayerClock]:
    """Return a function from a target to its clock, which is made once per target. Tables of layers
    are stored in `home`, or in memory if None.
    """
    clocks: dict[str, LayerClock] = {}

    def clock(target: str) -> LayerClock:
        if target not in clocks:
            clocks[target] = LayerClock(target, threads, home)
        return clocks[target]

    return clock
