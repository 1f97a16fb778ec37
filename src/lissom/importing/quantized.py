"""Files of integers as files of floats: what rounds activations is left out, weights become floats."""

from __future__ import annotations

from typing import Any

from .tensors import TYPES

RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
NOTE = (
    "the file is quantized: weights are the values of their integers, and activations are not "
    "rounded any more"
)


def without_rounding(proto: Any) -> Any:
    """Return a model in which activations are not rounded; the model itself where none are.

    What integers cut off at their lowest, because that is 0, is still cut off there: exporters
    leave out a ReLU before such integers.
    """
    import onnx

    if not any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return proto
    floats = onnx.ModelProto()
    floats.CopyFrom(proto)
    graph = floats.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    integers: set[str] = set()  # values that are integers no more
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            integers.update(node.output)
            bare = begins_at_zero(node, constants)
            become(node, "Relu" if bare else "Identity")
        elif node.op_type == "DequantizeLinear" and node.input[0] in integers:
            become(node, "Identity")
        elif node.input and node.input[0] in integers:
            integers.update(node.output)
            if node.op_type == "Clip":  # to fewer bits than the integers have
                become(node, "Identity")
    return floats


def begins_at_zero(node: Any, constants: dict[str, Any]) -> bool:
    """Return whether the lowest integer of a node stands for 0."""
    from onnx import numpy_helper

    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero is None:
        return True  # an unsigned byte without an offset
    if zero.data_type not in RANGES or zero.data_type not in TYPES:
        return False
    values = numpy_helper.to_array(zero).reshape(-1)
    return bool(len(values)) and bool((values == RANGES[zero.data_type][0]).all())


def become(node: Any, op: str) -> None:
    """Make a node one of a single input, in place."""
    node.op_type = op
    node.domain = ""
    del node.input[1:]
    del node.attribute[:]
