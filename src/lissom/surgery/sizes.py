"""The bytes of the numbers that inference needs: in theory, by their bits, and packed."""

from __future__ import annotations

from itertools import chain
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .layers import CompressedLayer
from .packing import pack
from .quantization.layers import QuantizedLayer
from .quantization.rounding import Rounding
from .transform import FLOAT, Stored, WeightTransform


class Sizes(NamedTuple):
    """Theoretical bits and packed bytes."""

    bits: float = 0.0
    packed: int = 0

    def plus(self, other: Sizes) -> Sizes:
        """Return the sum of both."""
        return Sizes(self.bits + other.bits, self.packed + other.packed)


def sizes(model: nn.Module) -> dict[str, int]:
    """Return `theory_bytes` and `packed_bytes` of a network in inference, without a file around it.

    Each number counts once. Rounded weights count with the bits of their grid, log2(3) for ternary;
    16-bit weights with 16; clustered ones with log2 of the values in a codebook. In a masked layer
    only nonzero weights count, plus one bit per weight for their position, if that is less. Scales
    of filters and of inputs, codebooks, biases and everything that is not rounded have 32 bits. A
    batch-norm that a quantized layer owns is part of its scales and biases; other batch-norms count
    as their parameters.
    `packed_bytes` uses the output of `pack` for weights that were changed.
    """
    total = Sizes()
    seen = set[Tensor]()
    owned = {layer.norm for layer in model.modules() if isinstance(layer, QuantizedLayer)}
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Rounding):
                total = total.plus(floats(int(layer.of == "inputs" and bool(layer.names))))
            elif layer not in owned and not isinstance(layer, WeightTransform):
                fresh = [p for p in layer._parameters.values() if p is not None and p not in seen]
                seen.update(fresh)
                total = total.plus(of_layer(layer, fresh, seen))
    return {"theory_bytes": ceil(total.bits / 8), "packed_bytes": total.packed}


def of_layer(layer: nn.Module, fresh: list[nn.Parameter], seen: set[Tensor]) -> Sizes:
    """Return the sizes of a layer's parameters in `fresh`, which have not been counted yet.

    `seen` are all that have.
    """
    total = Sizes()
    for value in fresh:
        if value is layer._parameters.get("weight") and isinstance(layer, CompressedLayer):
            total = total.plus(of_weight(layer, seen))
        elif not isinstance(layer, QuantizedLayer):
            total = total.plus(floats(value.numel()))
    if isinstance(layer, QuantizedLayer):
        biased = layer.bias is not None or layer.norm is not None
        total = total.plus(floats(layer.filters * (int(layer.rounding is not None) + int(biased))))
    return total


def of_weight(layer: CompressedLayer, seen: set[Tensor]) -> Sizes:
    """Return the sizes of a weight and its transforms' tensors, without its scales."""
    # + 0.0 makes -0.0 a 0.0; files hold float32, whatever the network's dtype
    stored = Stored(layer.weight.detach().float() + 0.0)
    held = Sizes()
    for transform in layer.transforms.values():
        stored = transform.stored(stored)
    rounding = layer.rounding if isinstance(layer, QuantizedLayer) else None
    if rounding is not None:
        assert isinstance(layer, QuantizedLayer)
        codes = layer.integers()[0]
        each = rounding.grid.value_bits or rounding.bits
        sign_bits = 1.0 if rounding.grid.value_bits else rounding.bits
        stored = Stored(rounding.stored(codes), each, sign_bits, sparse=stored.sparse)
        nonzero = int(codes.count_nonzero())
    else:
        nonzero = int(stored.values.count_nonzero())
        parameters = chain.from_iterable(t.parameters() for t in layer.transforms.values())
        books = [book for book in parameters if book not in seen]
        seen.update(books)
        held = held.plus(floats(sum(book.numel() for book in books), stored.book_bits))
    bits = stored.values.numel() * stored.bits
    if stored.sparse:
        bits = min(bits, stored.values.numel() + nonzero * stored.sign_bits)
    return held.plus(Sizes(bits, len(pack(bytes_of(stored.values))[1])))


def bytes_of(values: Tensor) -> np.ndarray:
    """Return the elements of a tensor as `pack` takes them: bfloat16 as int16."""
    values = values.cpu()
    if values.dtype == torch.bfloat16:
        values = values.view(torch.int16)
    return values.numpy()


def floats(count: int, bits: float = FLOAT) -> Sizes:
    """Return the sizes of so many numbers that are not rounded."""
    return Sizes(count * bits, int(count * bits // 8))
