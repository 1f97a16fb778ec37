"""Expand constants, such as class tokens, to the batch without reading its size, in an ONNX file.

OpenVINO 2026.4 reads the batch size from the first convolution, and then drops the bias of that
convolution if it runs in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .graph import makers_and_users, output_names_of, remove_unread_constants


def expand_by_adding_zeros(proto: Any) -> None:
    """Expand constants to the batch by adding zeros computed from the input, in place."""
    from onnx import TensorProto

    image = proto.graph.input[0]
    quantized = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
    if not quantized or image.type.tensor_type.elem_type != TensorProto.FLOAT:
        return
    makers, _ = makers_and_users(proto.graph)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    expansions = [node for node in proto.graph.node if node.op_type in ("Expand", "Tile")]
    changed = False
    for node in expansions:
        sizes = sizes_after_batch(node.input[1], makers, constants)
        data = constants.get(node.input[0])
        if sizes is None or data is None or data.data_type != TensorProto.FLOAT:
            continue
        if node.op_type == "Tile":
            if set(sizes) != {1} or data.dims[0] != 1:
                continue
            sizes = [*data.dims[1:]]
        if len(data.dims) > len(sizes) and list(data.dims) != [1, *data.dims[-len(sizes) :]]:
            continue
        add_zeros(proto.graph, node, [1, *sizes])
        changed = True
    if changed:
        remove_unread_shapes(proto.graph)


def add_zeros(graph: Any, node: Any, sizes: list[int]) -> None:
    """Replace an expansion by one to `sizes`, for one sample, plus a zero per sample, in place.

    The zeros are the first value of each sample times 0.
    """
    from numpy import array
    from onnx import helper, numpy_helper

    name = node.name or node.output[0]
    image = graph.input[0]
    axes = len(image.type.tensor_type.shape.dim)

    def full_name(short_name: str) -> str:
        return f"{name}{short_name}" if short_name.startswith("/") else short_name

    constants = {
        "first": array([0] * (axes - 1)),
        "last": array([1] * (axes - 1)),
        "axes": array(range(1, axes)),
        "zero": array(0, "float32"),
        "shape": array([0] + [1] * (len(sizes) - 1)),
        "sizes": array(sizes),
    }
    for short_name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{short_name}"))
    position = list(graph.node).index(node)
    for kind, inputs, output in (
        ("Slice", [image.name, "/first", "/last", "/axes"], "/part"),
        ("Mul", ["/part", "/zero"], "/none"),
        ("Reshape", ["/none", "/shape"], "/zeros"),
        ("Expand", [node.input[0], "/sizes"], "/one"),
        ("Add", ["/one", "/zeros"], node.output[0]),
    ):
        read = [full_name(short_name) for short_name in inputs]
        graph.node.insert(
            position, helper.make_node(kind, read, [full_name(output)], full_name(output))
        )
        position += 1
    graph.node.remove(node)


def sizes_after_batch(
    shape: str, makers: Mapping[str, Any], constants: Mapping[str, Any]
) -> list[int] | None:
    """Return the sizes after the first if a shape is the batch followed by known sizes, else None."""
    from onnx import numpy_helper

    concat = makers.get(shape)
    if concat is None or concat.op_type != "Concat":
        return None
    first = makers.get(concat.input[0])
    attributes = (
        {} if first is None else {attribute.name: attribute.i for attribute in first.attribute}
    )
    if first is None or first.op_type != "Shape" or attributes != {"start": 0, "end": 1}:
        return None
    if any(name not in constants for name in concat.input[1:]):
        return None
    sizes = list[int]()
    for name in concat.input[1:]:
        sizes += numpy_helper.to_array(constants[name]).flatten().tolist()
    return sizes


def remove_unread_shapes(graph: Any) -> None:
    """Remove shapes and constants that nothing reads, in place."""
    outputs = output_names_of(graph)
    for node in reversed(list(graph.node)):
        _, users = makers_and_users(graph)
        is_read = any(users[name] or name in outputs for name in node.output)
        if node.op_type in ("Concat", "Shape") and not is_read:
            graph.node.remove(node)
    remove_unread_constants(graph)
