"""Whether integers meet a weight at every call, in an ONNX file.

A layer that reads several grids in turn knows no step that all its inputs have. Each of its calls
does: a runtime derives the bias of a call from the step of that call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .float_layers import path_from_integers

LAYERS = {"Conv", "Gemm", "MatMul"}  # ONNX Runtime has no integer kernel of ConvTranspose
ACTIVATIONS = {"Relu", "Clip"}  # fused into the rounding after them


def meets_only_integers(
    weight: str,
    makers: Mapping[str, Any],
    users: Mapping[str, Sequence[Any]],
    tensors: Mapping[str, Any],
) -> bool:
    """Return whether all products with a weight read rounded values of one scale each.

    ONNX Runtime needs the output of a convolution rounded too.
    """
    products = readers_of(weight, users)
    return bool(products) and all(
        node.op_type in LAYERS
        and bool(path_from_integers(node.input[0], makers, tensors))
        and (node.op_type != "Conv" or is_rounded_after(node, users))
        for node in products
    )


def readers_of(value: str, users: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return the nodes that read a weight, directly or transposed."""
    readers = list[Any]()
    for node in users[value]:
        readers += readers_of(node.output[0], users) if node.op_type == "Transpose" else [node]
    return readers


def is_rounded_after(node: Any, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether all that reads a node's result rounds it, after an activation or not."""
    readers = users[node.output[0]]
    return bool(readers) and all(
        reader.op_type == "QuantizeLinear"
        or (reader.op_type in ACTIVATIONS and is_rounded_after(reader, users))
        for reader in readers
    )
