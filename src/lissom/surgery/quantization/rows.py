"""Inputs of linear layers on calibration samples: their size, their mean, and some rows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...trees import Tree, copied, run_network
from ..by_tensor import ByTensor
from .bits import Precision
from .calibrate import RangeStats
from .layers import QuantizedLinear
from .network import QuantizedNetwork
from .reconstruct import correct_biases
from .rounding import Rounding
from .sites import projected

SAMPLED_ROWS = 256  # rows on which the mean rounding error of inputs is measured


class Rows(TorchFunctionMode):
    """Record the largest value and the mean of each input (in) of some linear layers.

    Also sample up to `rows` rows of each call.
    """

    def __init__(self, names: ByTensor[str], rows: int) -> None:
        super().__init__()
        self.names = names
        self.rows = rows
        self.largest: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.samples: dict[str, list[Tensor]] = {}
        self.draw = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.linear, projected):
            named = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            if named["weight"] in self.names:
                self.note(self.names[named["weight"]], named["input"].detach())
        return func(*args, **(kwargs or {}))

    def note(self, name: str, x: Tensor) -> None:
        """Record the inputs (... in) of a layer."""
        rows = x.flatten(0, -2).float() if x.ndim > 1 else x[None].float()
        if not len(rows):
            return
        largest = rows.abs().amax(0)
        self.largest[name] = torch.maximum(largest, self.largest.get(name, largest))
        self.sums[name] = rows.double().sum(0) + self.sums.get(name, 0)
        self.counts[name] = len(rows) + self.counts.get(name, 0)
        picks = torch.randint(len(rows), (min(self.rows, len(rows)),), generator=self.draw)
        self.samples.setdefault(name, []).append(rows[picks.to(rows.device)])

    def mean(self, name: str) -> Tensor:
        """Return the mean of each input (in) of a layer, in float64."""
        return self.sums[name] / self.counts[name]

    def sample(self, name: str) -> Tensor:
        """Return the sampled input rows (n in) of a layer."""
        return torch.cat(self.samples[name])


def rows_read(
    model: nn.Module, names: Iterable[str], batches: Sequence[Tree], rows: int = SAMPLED_ROWS
) -> Rows:
    """Run a network on calibration batches; return statistics of the inputs of layers `names`."""
    weights = ByTensor((model.get_parameter(f"{name}.weight"), name) for name in names)
    with torch.no_grad(), Rows(weights, -(-rows // len(batches))) as seen:
        for batch in batches:
            run_network(model.eval(), copied(batch))
    return seen


def rounding_error(
    rows: Tensor,
    weight: Tensor,
    factor: Tensor,
    weights: Precision,
    inputs: Precision,
    pick: Any,
) -> float:
    """Return the mean square error of a rounded layer's output, over the mean square of the output.

    The inputs (n in) are divided by a factor (in) and the weight (out in) is multiplied by it
    before both are rounded. `pick` returns the range of inputs.
    """
    with torch.no_grad():
        wanted = rows @ weight.float().T
        scaled = weight.detach().float() * factor
        held = weights.grid.hold_weights(scaled, weights.bits)
        rounded = Rounding(weights.grid, weights.bits, "weights", held)
        x = rows / factor
        bounds = (0.0, 0.0)
        if not inputs.grid.at_run_time:
            stats = RangeStats()
            stats.add(x, "a linear layer")
            bounds = pick(stats, 2**inputs.bits - 1)
        held = inputs.grid.hold_inputs(*bounds, inputs.bits)
        x = Rounding(inputs.grid, inputs.bits, "inputs", held).eval()(x)
        gap = x @ rounded.eval()(scaled).T - wanted
        return float(gap.square().mean() / wanted.square().mean().clamp_min(1e-30))


def linear_inputs(model: nn.Module, batches: Sequence[Tree], but: Container[str] = ()) -> Rows:
    """Return statistics of the inputs of a prepared network's linear layers, except `but`."""
    layers = [name for name, m in model.named_modules() if isinstance(m, QuantizedLinear)]
    return rows_read(model, [name for name in layers if name not in but], batches)


def correct_means(
    quantized: QuantizedNetwork, before: nn.Module, read: Rows, batches: Sequence[Tree]
) -> int:
    """Shift the bias of each linear layer by the mean error of rounding on float inputs, in place.

    Return the number of layers.

    b += W E[x] - W' E[x']    W', x': rounded weights and inputs

    x are the inputs in the float network, so one pass over it is enough. The last layer, in which
    all errors meet, is corrected by its real outputs. Source: Nagel et al. 2019, Data-Free
    Quantization, https://arxiv.org/abs/1906.04721, section 4.2.
    """
    done = [name for name in read.counts if is_rounded(quantized.network.get_submodule(name))]
    for name in done:
        layer = quantized.network.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        with torch.no_grad():
            weight = layer.transformed().double()
            rounded = layer.in_inference()[0].double()
            rows = read.sample(name)
            source = layer.own_input_rounding or layer.site_rounding
            moved = torch.zeros_like(rows) if source is None else source(rows) - rows
            mean = read.mean(name)
            factor, _ = layer.normed()  # of the batch-norm after it, which `rounded` holds as well
            weight = weight if factor is None else layer.times(weight, factor)
            shift = weight @ mean - rounded @ (mean + moved.double().mean(0))
            holder = layer if layer.norm is None else layer.norm
            if holder.bias is None:
                zeros = torch.zeros_like(layer.weight[:, 0])
                holder.bias = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)
            holder.bias += shift.to(holder.bias)
    correct_biases(quantized, before, done[-1:], batches)
    return len(done)


def is_rounded(layer: nn.Module) -> bool:
    """Return whether a layer is linear and has rounded weights."""
    return isinstance(layer, QuantizedLinear) and layer.rounding is not None
