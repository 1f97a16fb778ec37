"""The error of each rounding in a quantized network; a context that switches roundings off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...language.grid import by_filter
from ...trees import Tree, run_on_copied_inputs
from ..layers import weight_in_use
from .layers import QuantizedLayer
from .network import QuantizedNetwork
from .rounding import Rounding

Layers = Mapping[str, QuantizedLayer]
COVERED_SHARE = 0.998  # of the values: those outside do not count as use of a range


def layers_of(quantized: QuantizedNetwork) -> dict[str, QuantizedLayer]:
    """Return the layers with any rounding, by their names in the user's network."""
    return {
        name: layer
        for name, layer in quantized.network.named_modules()
        if isinstance(layer, QuantizedLayer) and layer.has_rounding
    }


def roundings(layer: QuantizedLayer, of: str = "both") -> list[Rounding]:
    """Return the roundings of a layer's "weights", its "inputs" or both.

    Layers may share roundings of inputs.
    """
    parts = {
        "weights": (layer.rounding,),
        "inputs": (layer.site_rounding, layer.own_input_rounding),
        "both": (layer.rounding, layer.site_rounding, layer.own_input_rounding),
    }[of]
    return [rounding for rounding in parts if rounding is not None]


@contextmanager
def rounding_only(
    quantized: QuantizedNetwork, on: Iterable[Rounding], floats: Layers | None = None
) -> Iterator[None]:
    """Switch off every rounding of a network except `on`, within the context; for inference.

    `floats` are the layers before quantization. Layers whose weights are not rounded get their
    weights: learned rounding leaves weights on their grid, and corrected biases suit only rounded
    weights.
    """
    chosen = set(on)
    every = [rounding for rounding in quantized.modules() if isinstance(rounding, Rounding)]
    held: list[tuple[QuantizedLayer, str, Any]] = []
    for layer in layers_of(quantized).values():
        keys = [key for key in ("weight", "bias", "norm") if hasattr(layer, key)]
        held += [(layer, key, getattr(layer, key)) for key in keys]
    try:
        for name, layer in layers_of(quantized).items():
            if floats is not None and name in floats and layer.rounding not in chosen:
                layer.weight = floats[name].weight
                layer.bias = floats[name].bias
                layer.norm = floats[name].norm
        for rounding in every:
            rounding.off = rounding not in chosen
        yield
    finally:
        for rounding in every:
            rounding.off = False
        for layer, key, value in held:
            setattr(layer, key, value)


@dataclass
class Tally:
    """Statistics of the values that one rounding rounds."""

    power: float = 0.0  # sum of squares
    error: float = 0.0  # sum of squared differences
    beyond: int = 0  # values outside the grid
    counts: Tensor | None = None  # frequency of each integer

    def add(self, x: Tensor, rounding: Rounding) -> None:
        """Add some values."""
        x = x.detach().float()
        rounded = rounding.grid.inputs(x, rounding.bits, rounding.held)
        self.power += float(x.double().square().sum())
        self.error += float((x - rounded).double().square().sum())
        codes = None if rounding.grid.at_run_time else rounding.input_codes()
        if codes is not None and not codes.sign:
            q = (x / codes.scale).round() + codes.zero
            self.beyond += int(((q < 0) | (q > codes.top)).sum())
            seen = torch.bincount(q.clamp(0, codes.top).long().flatten(), minlength=codes.top + 1)
            self.counts = seen if self.counts is None else self.counts + seen

    def row(self) -> dict[str, float | None]:
        """Return SQNR in dB, use of the range, and the share of saturated values."""
        many = None if self.counts is None else int(self.counts.sum())
        return {
            "sqnr_db": decibels(self.power, self.error),
            "use": None if self.counts is None else span(self.counts),
            "saturated": None if not many else self.beyond / many,
        }


def decibels(power: float, error: float) -> float | None:
    """Return 10 log10(power / error); None if either is 0.

    >>> decibels(100.0, 1.0)
    20.0
    """
    return round(10 * math.log10(power / error), 2) if power > 0 and error > 0 else None


def span(counts: Tensor) -> float:
    """Return the share of a grid that the middle 99.8 % of the values cover.

    `counts` has the frequency of each integer.

    >>> span(torch.tensor([0, 5, 5, 0, 0]))
    0.25
    """
    total = counts.double().cumsum(0)
    edge = (1 - COVERED_SHARE) / 2 * float(total[-1])
    low = int((total <= edge).sum())
    high = int((total < float(total[-1]) - edge).sum())
    return max(0, high - low) / max(1, len(counts) - 1)


def layer_noise(
    quantized: QuantizedNetwork, batches: Sequence[Tree], floats: Layers | None = None
) -> list[dict[str, Any]]:
    """Return a row for each layer: how rounding changes its weights, and its inputs on images.

    Inputs are those of the network with nothing rounded. `sqnr_db` is 10 log10(sum x^2 / sum (x -
    rounded x)^2), `use` the share of the grid that the middle 99.8 % of the values cover,
    `saturated` the share of values beyond its ends.
    """
    layers = layers_of(quantized)
    tallies = dict[Rounding, Tally]()
    read = set(chain.from_iterable(roundings(layer, "inputs") for layer in layers.values()))

    def see(rounding: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(rounding, Rounding)
        tallies.setdefault(rounding, Tally()).add(args[0], rounding)

    hooks = [rounding.register_forward_hook(see) for rounding in read]
    try:
        with torch.no_grad(), rounding_only(quantized.eval(), [], floats):
            for images in batches:
                run_on_copied_inputs(quantized, images)
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for name, layer in layers.items():
        inputs = [tallies[r] for r in roundings(layer, "inputs") if r in tallies]
        rows.append(
            {
                "name": name,
                "weights": None
                if layer.rounding is None
                else {
                    "bits": layer.rounding.bits,
                    "grid": str(layer.rounding.grid),
                    **weight_noise(layer, weight_in_use((floats or layers)[name])),
                },
                "inputs": {"bits": roundings(layer, "inputs")[-1].bits, **inputs[-1].row()}
                if inputs
                else None,
            }
        )
    return rows


def weight_noise(layer: QuantizedLayer, weight: Tensor) -> dict[str, float | None]:
    """Return SQNR in dB, use of the range and saturated share of a layer's weights.

    `weight` is the float weight.
    """
    assert layer.rounding is not None
    weight = weight.detach().float()
    codes, scale = layer.weight_codes()
    rounded = layer.from_grid_form(codes * by_filter(scale, codes))
    ends = layer.rounding.grid.ends(layer.rounding.bits)
    row: dict[str, float | None] = {
        "sqnr_db": decibels(
            float(weight.double().square().sum()), float((weight - rounded).double().square().sum())
        ),
        "use": None,
        "saturated": None,
    }
    if ends is not None:
        zeros = layer.rounding.zeros()
        shift = 0 if zeros is None else by_filter(zeros, weight)
        q = (layer.to_grid_form(weight) / by_filter(scale, weight)).round() + shift
        counts = torch.bincount(
            (codes + shift - ends[0]).long().flatten(), minlength=ends[1] - ends[0] + 1
        )
        row.update(
            use=span(counts), saturated=float(((q < ends[0]) | (q > ends[1])).double().mean())
        )
    return row
