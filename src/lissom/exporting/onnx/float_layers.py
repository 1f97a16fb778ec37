"""Stop ONNX Runtime from quantizing the weights of float layers in an ONNX file.

If a layer with float weights stands between a DequantizeLinear and a QuantizeLinear, ONNX Runtime
1.32 quantizes its weights itself, with one scale for all filters. It does so if the input has one
scale for the whole tensor. Layers that were meant to stay float did not, and such a file deviated
from the simulation ten times as much as it should. Here the layer reads the same integers through
its own DequantizeLinear with one scale per channel, all of them equal: the same numbers at the same
cost.
Source: onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc,
https://github.com/microsoft/onnxruntime
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .graph import makers_and_users, outputs_of, remove_unread_nodes, shapes_in
from .names import SHORT_KINDS

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # a MatMul and an Add become a Gemm
# ONNX Runtime quantizes layers behind these too
INTEGER_KEEPING = {"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


def keep_float_layers(proto: Any) -> None:
    """Make each float layer that reads integers read them with one scale per channel, in place."""
    makers, _ = makers_and_users(proto.graph)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = [
        (node, path)
        for node in proto.graph.node
        if node.op_type in LAYERS
        and is_float_constant(node.input[1], makers, tensors)
        and (path := path_from_integers(node.input[0], makers, tensors))
    ]
    if not layers:  # nothing to infer shapes for
        return
    # the value that these layers read instead of each value
    shapes = shapes_in(proto)
    copies = dict[str, str]()
    for layer, path in layers:
        sizes = shapes.get(path[0].output[0], [])
        # one scale of size 1 counts as a scalar
        axis = next((i for i, size in enumerate(sizes) if i and size > 1), None)
        if axis is None:
            continue
        for node in (node for node in path if node.output[0] not in copies):
            copy = (
                dequantize_by_channel(proto.graph, node, axis, sizes[axis], tensors)
                if node is path[0]
                else type(node)()
            )
            if node is not path[0]:
                copy.CopyFrom(node)
                copy.input[0] = copies[node.input[0]]
            copies[node.output[0]] = copy.output[0] = copy.name = unused_name(
                layer, node.op_type, proto.graph
            )
            proto.graph.node.insert(list(proto.graph.node).index(layer), copy)
        layer.input[0] = copies[layer.input[0]]
    remove_unread_nodes(proto.graph, copies)


def dequantize_by_channel(
    graph: Any, node: Any, axis: int, size: int, tensors: Mapping[str, Any]
) -> Any:
    """Return a copy of a DequantizeLinear with `size` equal scales along an axis instead of one."""
    import numpy as np
    from onnx import helper, numpy_helper

    names = list[str]()
    for name in node.input[1:]:
        value = numpy_helper.to_array(tensors[name]).reshape(-1)
        names.append(f"{node.output[0]}/{'zero' if names else 'scale'}")
        graph.initializer.append(numpy_helper.from_array(np.repeat(value, size), names[-1]))
    return helper.make_node("DequantizeLinear", [node.input[0], *names], [""], axis=axis)


def unused_name(layer: Any, kind: str, graph: Any) -> str:
    """Return an unused name for a node of a layer."""
    taken = outputs_of(graph.node)
    taken |= {part.name for part in (*graph.node, *graph.initializer)}
    scope = layer.name.rpartition("/")[0]
    stem = f"{scope}/{SHORT_KINDS.get(kind, kind)}" if scope else SHORT_KINDS.get(kind, kind)
    return next(
        name
        for name in (stem, *(f"{stem}_{i}" for i in range(1, len(taken) + 2)))
        if name not in taken
    )


def is_float_constant(name: str, makers: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    """Return whether a value depends only on constants, without any DequantizeLinear."""
    if name in tensors:
        return True
    node = makers.get(name)
    return (
        node is not None
        and node.op_type != "DequantizeLinear"
        and bool(node.input)
        and all(is_float_constant(value, makers, tensors) for value in node.input if value)
    )


def path_from_integers(
    name: str, makers: Mapping[str, Any], tensors: Mapping[str, Any]
) -> list[Any]:
    """Return the nodes from a DequantizeLinear with one scale to a value, [] if there is none."""
    path = list[Any]()
    while (node := makers.get(name)) is not None and len(node.output) == 1:
        path.insert(0, node)
        if node.op_type not in INTEGER_KEEPING:
            break
        name = node.input[0]
    has_one_scale = (
        bool(path)
        and path[0].op_type == "DequantizeLinear"
        and path[0].input[0] in makers
        and all(
            value in tensors and list(tensors[value].dims) in ([], [1])
            for value in path[0].input[1:]
        )
    )
    return path if has_one_scale else []
