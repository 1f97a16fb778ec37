"""Weights of layers that read several grids in turn, as ONNX Runtime computes with them in integers.

The layer itself knows no step that all its inputs have, so its weights are written for float inputs
(`fold_scales_at_load`). Where each call reads integers of its own step, ONNX Runtime has an integer
kernel for each: it derives the bias of a call from the step of that call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .activations import wires
from .float_layers import path_to

LAYERS = {"Conv", "Gemm", "MatMul"}  # there is no integer kernel of ConvTranspose
ACTIVATIONS = {"Relu", "Clip"}  # fused into the rounding after them


def unfold_scales(proto: Any) -> None:
    """Replace the Cast and Mul of int8 weights by a DequantizeLinear if integers meet them at every
    call, in place.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    makers, users = wires(graph)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for mul in [node for node in graph.node if node.op_type == "Mul"]:
        cast = makers.get(mul.input[0])
        weight = tensors.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
        scale = tensors.get(mul.input[1])
        if weight is None or scale is None or weight.data_type != TensorProto.INT8:
            continue
        layers = readers(mul.output[0], users)
        if not layers or not all(
            node.op_type in LAYERS
            and path_to(node.input[0], makers, tensors)
            and (node.op_type != "Conv" or is_rounded_after(node, users))
            for node in layers
        ):
            continue
        scales = numpy_helper.to_array(scale)
        axis = int(np.argmax(scales.shape))
        zeros = numpy_helper.from_array(np.zeros(scales.size, np.int8), f"{mul.output[0]}.zero")
        along = numpy_helper.from_array(scales.reshape(-1), f"{mul.output[0]}.along")
        graph.initializer.extend([zeros, along])
        back = helper.make_node(
            "DequantizeLinear",
            [weight.name, along.name, zeros.name],
            [mul.output[0]],
            mul.name,
            axis=axis,
        )
        graph.node.insert(list(graph.node).index(mul), back)
        graph.node.remove(mul)
        graph.node.remove(cast)
        graph.initializer.remove(scale)


def readers(value: str, users: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Return the nodes that read a weight, directly or transposed."""
    found = list[Any]()
    for node in users[value]:
        found += readers(node.output[0], users) if node.op_type == "Transpose" else [node]
    return found


def is_rounded_after(node: Any, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether all that reads a node's result rounds it, after an activation or not."""
    following = users[node.output[0]]
    return bool(following) and all(
        reader.op_type == "QuantizeLinear"
        or (reader.op_type in ACTIVATIONS and is_rounded_after(reader, users))
        for reader in following
    )
