"""Assign bits to layers so that a network of a given size has the least error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import torch
from torch import nn

from ...errors import LissomError
from ...trees import Tree, run_on_copied_inputs, values_in
from .bits import FLOAT_BITS, Precision
from .layers import QuantizedLayer
from .prepare import round_weights

BUDGET_UNITS = 4000  # the parts into which a budget of bytes is divided
Options = Mapping[str, Mapping[int, float]]  # layer -> bits -> noise


def layer_bytes(layer: QuantizedLayer, bits: int) -> float:
    """Return the bytes of a layer's weights, plus those of their scales if they are rounded."""
    return layer.weight.numel() * bits / 8 + (4 * layer.filters if bits < FLOAT_BITS else 0)


def noises(
    model: nn.Module, options: Mapping[str, Sequence[Precision | None]], images: Tree
) -> dict[str, dict[int, float]]:
    """Return for each layer and each of its grids the noise that rounding only this layer causes.

    `model` is prepared, with nothing rounded yet; `images` (n c h w). Noise is the mean square of
    the change of the outputs, over the mean square of the outputs. The noise of several layers adds
    up, as far as their errors are uncorrelated.
    """
    noise: dict[str, dict[int, float]] = {}
    with torch.no_grad():
        plain = values_in(run_on_copied_inputs(model.eval(), images))
        power = float(plain.square().mean())
        for name, specs in options.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, QuantizedLayer)
            noise[name] = {}
            for spec in filter(None, specs):
                round_weights(layer, spec)
                outputs = values_in(run_on_copied_inputs(model, images))
                if outputs.shape != plain.shape:
                    raise LissomError(
                        "quantize: 'auto' compares outputs, and those of this network are "
                        f"{outputs.numel()} numbers in place of {plain.numel()} if {name} is rounded; "
                        "give bits as a number"
                    )
                noise[name][spec.bits] = float((outputs - plain).square().mean()) / max(
                    power, 1e-12
                )
            layer.rounding = None
    return noise


def assigned(
    noise: Options, cost: Callable[[str, int], float], budget: float
) -> dict[str, int] | None:
    """Return the bits of each layer with the least total noise whose cost is at most `budget`.

    None if no choice is cheap enough. Costs are rounded up to a 4,000th of the budget; that problem
    is solved exactly, as a knapsack with one choice for each layer.

    >>> assigned({"a": {2: 5.0, 8: 1.0}, "b": {2: 9.0, 8: 1.0}}, lambda _, bits: bits, 10)
    {'a': 2, 'b': 8}
    """
    unit = budget / BUDGET_UNITS
    best: list[float] = [0.0] * (BUDGET_UNITS + 1)  # least noise for at most so many units
    taken: list[list[int]] = []
    for name, choices in noise.items():
        parts = [
            (bits, ceil(cost(name, bits) / unit - 1e-9), value) for bits, value in choices.items()
        ]
        now = [float("inf")] * (BUDGET_UNITS + 1)
        how = [0] * (BUDGET_UNITS + 1)
        for bits, price, value in parts:
            for room in range(price, BUDGET_UNITS + 1):
                if (sum_ := best[room - price] + value) < now[room]:
                    now[room] = sum_
                    how[room] = bits
        best = now
        taken = [*taken, how]
    if best[BUDGET_UNITS] == float("inf"):
        return None
    room = BUDGET_UNITS
    bits_of = dict[str, int]()
    for name, how in zip(reversed(list(noise)), reversed(taken), strict=True):
        bits_of[name] = how[room]
        room -= ceil(cost(name, how[room]) / unit - 1e-9)
    return {name: bits_of[name] for name in noise}
