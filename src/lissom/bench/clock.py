"""Latency of layers of any width on a target: measured once per machine, stored, and interpolated."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import LissomError
from ..language.parse_methods import method_of
from ..language.target import Target
from ..store.checks import fields, mapping, number, parsed, text_of, write_json
from ..surgery.channels.budget import Shapes
from ..surgery.channels.group import Group
from ..surgery.trace import traced
from ..system.scratch import temporary
from .inputs import images
from .latency import latencies
from .layer_file import Layer, layer_of
from .machine import machine

# fractions of a layer's inputs and outputs at which it is timed; other widths are interpolated
WIDTH_SHARES = (1.0, 0.75, 0.5, 0.25)
TIMING_S = 0.03  # of timing per layer
MULTIPLES = (1, 2, 4, 8, 16, 32)
CUT_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of a layer's widths at which multiples are timed
COSTLIEST_LAYERS = 3  # that multiples of channels are timed on
COPIES = 9  # of a layer in a row, to time it without what happens only at the ends
GOOD_LOSS = 1.05  # time per multiply-add, relative to the best multiple
TABLE = fields(ms=mapping(number(1e-9, 1e9)))
TABLES_IN_MEMORY: dict[str, dict[str, float]] = {}  # tables of this process, if there is no store


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
        empty = replace(EMPTY_LAYER, bits=layer.bits)
        return max(self._total_ms(layer) - self._total_ms(empty), 1e-4)

    def _total_ms(self, layer: Layer) -> float:
        if repr(layer) not in self.table:
            self.table[repr(layer)] = self._measure_ms(layer)
        return self.table[repr(layer)]

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
        """Return the smallest of 1, 2, 4, ..., 32 that is a good multiple of channels for the
        costliest layers, in float and in 8 bits, since `quantize` may follow.

        Good is where the time per multiply-add is within 5 % of the shortest. If no multiple is
        good in both, the one whose larger loss is smallest is returned. Multiples that would leave
        layers with most of the multiply-adds whole are not considered.
        """
        products = traced(model, example).products()
        layers = [layer for _, _, op in products if (layer := layer_of(op)).groups == 1]
        if not layers:
            return 8
        half = sum(layer.macs for layer in layers) / 2
        multiples = [
            m for m in MULTIPLES if sum(y.macs for y in layers if y.outputs >= 2 * m) >= half
        ]
        if not multiples:
            return 8
        costliest = sorted(set(layers), key=lambda y: (-y.macs, repr(y)))[:COSTLIEST_LAYERS]
        losses = dict.fromkeys(multiples, 1.0)
        for bits in (32, 8):
            exact = [replace(layer, bits=bits) for layer in costliest]
            ms = {m: sum(y.macs * self.ms_per_mac(y, m) for y in exact) for m in multiples}
            shortest = min(ms.values())
            losses = {m: max(loss, ms[m] / shortest) for m, loss in losses.items()}
        self.write_table()
        allowed = max(GOOD_LOSS, min(losses.values()))
        return min(m for m, loss in losses.items() if loss <= allowed)

    def ms_per_mac(self, layer: Layer, multiple: int) -> float:
        """Return the latency in ms of a multiply-add of a layer that is cut to a multiple of
        channels, as an average over CUT_SHARES.
        """

        def cut(width: int, share: float) -> int:
            return min(width, max(1, round(share * width / multiple)) * multiple)

        narrow = [
            layer.with_widths(cut(layer.inputs, share), cut(layer.outputs, share))
            for share in CUT_SHARES
        ]
        return sum(map(self.inner_ms, narrow)) / sum(each.macs for each in narrow)

    def inner_ms(self, layer: Layer) -> float:
        """Return the latency of a layer in ms between others like it, where runtimes need not
        rearrange its inputs and outputs. It is measured if it is not in the table.
        """
        if not layer.repeatable:
            return self.ms(layer)
        row = replace(layer, copies=COPIES)
        return max((self._total_ms(row) - self._total_ms(layer)) / (COPIES - 1), 1e-4)

    def latencies(self, models: Iterable[nn.Module], example: Tensor) -> list[float]:
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
