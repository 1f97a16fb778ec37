"""What the numbers that inference needs take: in theory, by the bits of each, and packed as
`packing.py` packs them.
"""

from __future__ import annotations

from math import ceil, log2
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .masks import Masked
from .packing import pack
from .quantization.layers import QuantizedLayer
from .quantization.rounding import Rounding

FLOAT = 32  # bits of a scale, a bias and whatever is not rounded


class Sizes(NamedTuple):
    """Bits in theory and bytes packed."""

    bits: float = 0.0
    packed: int = 0

    def plus(self, other: Sizes) -> Sizes:
        """Return the sum of both."""
        return Sizes(self.bits + other.bits, self.packed + other.packed)


def sizes(model: nn.Module) -> dict[str, int]:
    """Return `theory_bytes` and `packed_bytes` of a network in inference: each number once, without
    any file around it.

    Rounded weights count with the bits of their grid, log2(3) for ternary; of a masked layer the
    weights that are not zero alone, with one bit for every weight that says where, if that is less.
    Scales of filters and of inputs, biases and all that is not rounded have 32 bits. A batch-norm
    that a quantized layer owns is in its scales and biases; others count as their parameters.
    Packed, weights of quantized and masked layers take what `pack` makes of them.
    """
    total = Sizes()
    seen = set[int]()
    owned = {id(layer.norm) for layer in model.modules() if isinstance(layer, QuantizedLayer)}
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Rounding):
                total = total.plus(floats(int(layer.of == "inputs" and bool(layer.names))))
            elif id(layer) not in owned:
                fresh = [
                    p for p in layer._parameters.values() if p is not None and id(p) not in seen
                ]
                seen |= {id(p) for p in fresh}
                total = total.plus(of_layer(layer, fresh))
    return {"theory_bytes": ceil(total.bits / 8), "packed_bytes": total.packed}


def of_layer(layer: nn.Module, fresh: list[nn.Parameter]) -> Sizes:
    """Return the sizes of a layer of whose parameters those in `fresh` have not been counted yet."""
    found = Sizes()
    for value in fresh:
        if value is layer._parameters.get("weight") and isinstance(layer, (QuantizedLayer, Masked)):
            found = found.plus(of_weight(layer))
        elif not isinstance(layer, QuantizedLayer):
            found = found.plus(floats(value.numel()))
    if isinstance(layer, QuantizedLayer):
        biased = layer.bias is not None or layer.norm is not None
        found = found.plus(
            floats(len(layer.weight) * (int(layer.rounding is not None) + int(biased)))
        )
    return found


def of_weight(layer: QuantizedLayer | Masked) -> Sizes:
    """Return the sizes of a weight alone, without its scales."""
    rounding = layer.rounding if isinstance(layer, QuantizedLayer) else None
    # of -0.0, too, 0.0; files hold float32, whatever the network does
    values: Tensor = layer.weight.detach().float() + 0.0
    each = rest = float(FLOAT)
    if rounding is not None:
        assert isinstance(layer, QuantizedLayer)
        values = layer.integers()[0]
        ternary = rounding.grid.name() == "ternary"
        # of those that are not 0: a sign
        each, rest = (log2(3), 1.0) if ternary else (rounding.bits, rounding.bits)
    bits = values.numel() * each
    if isinstance(layer, Masked) or layer.masked:
        bits = min(bits, values.numel() + int(values.count_nonzero()) * rest)
    values = values if rounding is None else rounding.stored(values)
    return Sizes(bits, len(pack(values.cpu().numpy())[1]))


def floats(count: int) -> Sizes:
    """Return the sizes of so many numbers that are not rounded."""
    return Sizes(count * FLOAT, count * FLOAT // 8)
