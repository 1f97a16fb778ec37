"""The bits of the first and the last layer, of embeddings, and of the layers between."""

from __future__ import annotations

from collections.abc import Mapping

from ..coverage import IS_FIRST_LAYER, IS_LAST_LAYER
from .bits import FLOAT_BITS, Precision, Precisions, at_least
from .layers import QuantizedLayer


def layer_precisions(
    layers: Mapping[str, QuantizedLayer],
    usual: tuple[Precision | None, Precision | None],
    least_first: int,
    least_last: int,
    left: dict[str, str],
) -> tuple[Precisions, Precisions]:
    """Return the grids of the weights and of the inputs of layers, by name.

    They are the `usual` ones, with at least `least_first` bits in embeddings and the first layer,
    and at least `least_last` in the last. Layers that stay float for that are added to `left`.
    """
    weights: Precisions = dict.fromkeys(layers, usual[0])
    inputs: Precisions = dict.fromkeys(layers, usual[1])
    tables = [name for name, layer in layers.items() if layer.is_table]
    products = [name for name in layers if name not in tables]
    inputs.update(dict.fromkeys(tables))
    # embeddings read the network's inputs, as the first layer does
    ends = [(name, least_first, IS_FIRST_LAYER) for name in (*tables, *products[:1])]
    ends += [(name, least_last, IS_LAST_LAYER) for name in products[-1:]]
    for name, bits, reason in ends:
        weights[name] = at_least(weights[name], bits)
        inputs[name] = at_least(inputs[name], bits)
        if bits == FLOAT_BITS:
            left[name] = reason
    return weights, inputs
