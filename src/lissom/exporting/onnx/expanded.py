"""Expand constants, such as class tokens, to the batch without reading its size, in an ONNX file.

OpenVINO 2026.4 reads the batch size from the first convolution, and then drops the bias of that
convolution if it runs in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .activations import wires


def spread_by_adding(proto: Any) -> None:
    """Expand constants to the batch by adding zeros computed from the input, in place."""
    from onnx import TensorProto

    image = proto.graph.input[0]
    quantized = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    if not quantized or image.type.tensor_type.elem_type != TensorProto.FLOAT:
        return
    makers, _ = wires(proto.graph)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    expanded = [node for node in proto.graph.node if node.op_type in ("Expand", "Tile")]
    changed = False
    for node in expanded:
        rest = sizes_behind_batch(node.input[1], makers, constants)
        data = constants.get(node.input[0])
        if rest is None or data is None or data.data_type != TensorProto.FLOAT:
            continue
        if node.op_type == "Tile":
            if set(rest) != {1} or data.dims[0] != 1:
                continue
            rest = [*data.dims[1:]]
        if len(data.dims) > len(rest) and list(data.dims) != [1, *data.dims[-len(rest) :]]:
            continue
        add_zeros(proto.graph, node, [1, *rest])
        changed = True
    if changed:
        drop_unused(proto.graph)


def add_zeros(graph: Any, node: Any, sizes: list[int]) -> None:
    """Replace an expansion by one to `sizes`, for one sample, plus a zero per sample, in place.

    The zeros are the first value of each sample times 0.
    """
    from numpy import array
    from onnx import helper, numpy_helper

    name = node.name or node.output[0]
    image = graph.input[0]
    axes = len(image.type.tensor_type.shape.dim)

    def named(word: str) -> str:
        return f"{name}{word}" if word.startswith("/") else word

    numbers = {
        "first": array([0] * (axes - 1)),
        "last": array([1] * (axes - 1)),
        "axes": array(range(1, axes)),
        "zero": array(0, "float32"),
        "shape": array([0] + [1] * (len(sizes) - 1)),
        "sizes": array(sizes),
    }
    for word, value in numbers.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{word}"))
    place = list(graph.node).index(node)
    for kind, inputs, output in (
        ("Slice", [image.name, "/first", "/last", "/axes"], "/part"),
        ("Mul", ["/part", "/zero"], "/none"),
        ("Reshape", ["/none", "/shape"], "/zeros"),
        ("Expand", [node.input[0], "/sizes"], "/one"),
        ("Add", ["/one", "/zeros"], node.output[0]),
    ):
        read = [named(word) for word in inputs]
        graph.node.insert(place, helper.make_node(kind, read, [named(output)], named(output)))
        place += 1
    graph.node.remove(node)


def sizes_behind_batch(
    shape: str, makers: Mapping[str, Any], constants: Mapping[str, Any]
) -> list[int] | None:
    """Return the sizes after the first if a shape is the batch followed by known sizes, else None."""
    from onnx import numpy_helper

    joined = makers.get(shape)
    if joined is None or joined.op_type != "Concat":
        return None
    first = makers.get(joined.input[0])
    bounds = {} if first is None else {held.name: held.i for held in first.attribute}
    if first is None or first.op_type != "Shape" or bounds != {"start": 0, "end": 1}:
        return None
    if any(name not in constants for name in joined.input[1:]):
        return None
    sizes = list[int]()
    for name in joined.input[1:]:
        sizes += numpy_helper.to_array(constants[name]).flatten().tolist()
    return sizes


def drop_unused(graph: Any) -> None:
    """Remove shapes and constants that nothing reads, in place."""
    ends = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        _, users = wires(graph)
        read = any(users[name] or name in ends for name in node.output)
        if node.op_type in ("Concat", "Shape") and not read:
            graph.node.remove(node)
    _, users = wires(graph)
    for tensor in [tensor for tensor in graph.initializer if not users[tensor.name]]:
        graph.initializer.remove(tensor)
