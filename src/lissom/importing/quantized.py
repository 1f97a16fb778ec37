"""Convert quantized models to float: activations are not rounded, weights become floats.

First every integer operator becomes the float operator between QuantizeLinear and DequantizeLinear
nodes (Q/DQ), which computes the same. Then the Q/DQ nodes of activations are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import LissomError
from .integer_products import PRODUCTS
from .nodes import OWN, opset_of
from .pairs import (
    INTEGERS,
    OTHER,
    PASSING,
    Pairs,
    attribute_of,
    constants_of,
    read_nodes,
    reads_of,
)
from .rounded_operators import ROUNDED, pad
from .tensors import TYPES

UNSIGNED = (0, 2, 4, 21)  # types of integers from 0, and no type, which means uint8
SAME_NUMBERS = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
FLOAT = 1
ROUNDING = {"QuantizeLinear", "DynamicQuantizeLinear"}
SAYING = {"ArgMax", "ArgMin", "Shape", "Size"}  # operators that return indices or sizes
NOTE = "the file is quantized: the network has dequantized weights, and its activations are not rounded"


def is_quantized(proto: Any) -> bool:
    """Return whether a model has operators that round to integers or compute with them."""
    rounds = {*ROUNDING, *ROUNDED, *PRODUCTS}
    return any(node.op_type in rounds for node in proto.graph.node)


def in_pairs(proto: Any) -> Any:
    """Return a model with float operators between Q/DQ nodes instead of integer operators; the model
    itself if it has none. Raises LissomError if an operator cannot be rewritten.
    """
    import onnx

    operators = {node.op_type for node in proto.graph.node}
    rows = {"Gather", "DequantizeLinear"} <= operators
    if not rows and operators.isdisjoint({*ROUNDED, *PRODUCTS}):
        return proto
    paired = onnx.ModelProto()
    paired.CopyFrom(proto)
    graph = paired.graph
    pairs = Pairs(graph, opset_of(proto))
    for node in sorted(graph.node, key=lambda node: node.op_type != "Constant"):
        try:
            rewrite(pairs, node)
        except (ValueError, IndexError) as error:
            raise LissomError(f"{said_of(node)}: {error}") from error
    if not pairs.changed:
        return proto
    nodes = read_nodes(pairs.nodes, [value.name for value in graph.output])
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    if not any(entry.domain == OTHER for entry in paired.opset_import):
        paired.opset_import.add(domain=OTHER, version=1)
    return paired


def rewrite(pairs: Pairs, node: Any) -> None:
    """Write a node, rewritten with Q/DQ nodes if it computes with integers."""
    if pairs.done.intersection(node.output):
        return
    known = node.domain in (*OWN, OTHER)
    if known and node.op_type in ROUNDED:
        if any(held.name == "channels_last" and held.i for held in node.attribute):
            raise ValueError("channels in the last place are not known")
        ROUNDED[node.op_type](pairs, node)
    elif known and node.op_type == "Pad" and node.input and node.input[0] in pairs.scales:
        pad(pairs, node)
    elif not (known and node.op_type in WHOLE and WHOLE[node.op_type](pairs, node)):
        pairs.keep(node)


def looked_up(pairs: Pairs, node: Any) -> bool:
    """Rewrite a lookup in a table of integers as one in a dequantized table.

    Returns False, and writes nothing, if the node is no such lookup.
    """
    table = pairs.constants.get(node.input[0])
    if table is None or table.data_type not in INTEGERS:
        return False
    scales = set(scales_behind(pairs, node.output[0]))
    if len(scales) != 1:
        return False
    ((scale, zero),) = scales
    if scale not in pairs.constants or max(pairs.constants[scale].dims, default=1) != 1:
        return False
    rows = pairs.write(
        "Gather", [pairs.widen(node.input[0], scale, zero), node.input[1]], like=node
    )
    pairs.round(rows, node.output[0], scale, zero)
    return True


def scales_behind(pairs: Pairs, value: str) -> Iterator[tuple[str, str]]:
    """Yield scale and zero point of the nodes that dequantize a value, directly or after operators
    that only pass it on.
    """
    values = [value]
    for name in values:  # the list grows
        for node in pairs.readers.get(name, []):
            if node.op_type == "DequantizeLinear":
                reads = reads_of(node, 3)
                yield reads[1], reads[2]
            elif node.op_type in PASSING:
                values += [made for made in node.output if made not in values]


# operators that are rewritten together with the nodes after them, if these are the expected ones
WHOLE = {**PRODUCTS, "Gather": looked_up}


def without_rounding(proto: Any) -> Any:
    """Return a model in which activations are not rounded; the model itself if none are.

    If the lowest integer stands for 0, a ReLU replaces the rounding: exporters omit the ReLU before
    it. Raises LissomError if an operator computes with integers.
    """
    import onnx

    if not any(node.op_type in ROUNDING for node in proto.graph.node):
        return proto
    floats = onnx.ModelProto()
    floats.CopyFrom(proto)
    graph = floats.graph
    constants = constants_of(graph)
    makers: dict[str, Any] = {}
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
    del graph.value_info[:]  # it has the old types
    integers: set[str] = set()  # values that were integers
    for node in graph.node:
        if node.op_type in ROUNDING and node.input[0] not in constants:
            integers.update(node.output)
            bare = node.op_type == "QuantizeLinear" and begins_at_zero(node, constants, makers)
            become(node, "Relu" if bare else "Identity")
        elif node.op_type == "DequantizeLinear" and node.input[0] in integers:
            become(node, "Identity")
        elif not integers.isdisjoint(node.input) and node.op_type not in SAYING:
            if node.op_type not in PASSING or node.domain not in OWN:
                raise LissomError(
                    f"{said_of(node)}: it computes with the integers of a quantized file, which is "
                    "not known; export the network in float"
                )
            integers.update(node.output)
            if node.op_type == "Clip":  # limits integers to fewer bits
                become(node, "Identity")
    for value in graph.output:
        if value.name in integers:
            value.type.tensor_type.elem_type = FLOAT
    return floats


def said_of(node: Any) -> str:
    """Return operator and name of a node for a message."""
    return f"{node.op_type:.40} (node {node.name or next(filter(None, node.output), '')!r:.80})"


def begins_at_zero(node: Any, constants: dict[str, Any], makers: dict[str, Any]) -> bool:
    """Return whether the lowest integer of a QuantizeLinear stands for 0; False if its zero point is
    computed from inputs of the network.
    """
    zero = reads_of(node, 3)[2]
    if not zero:  # 0 stands for 0
        return attribute_of(node, "output_dtype", 0) in UNSIGNED
    values = numbers_behind(zero, constants, makers)
    if values is None or values.dtype.kind not in "iu" or not values.size:
        return False
    return bool((values == np.iinfo(values.dtype).min).all())


def numbers_behind(
    name: str, constants: dict[str, Any], makers: dict[str, Any]
) -> np.ndarray[Any, Any] | None:
    """Return the numbers of a constant, also if nodes cast or reshape it; None for other values."""
    from onnx import helper, numpy_helper

    casts: list[int] = []
    while name not in constants:
        maker = makers.get(name)
        if maker is None or maker.op_type not in SAME_NUMBERS or not maker.input:
            return None
        if maker.op_type == "Cast":
            casts.append(attribute_of(maker, "to", FLOAT))
        name = maker.input[0]
    if not TYPES.keys() >= {constants[name].data_type, *casts}:
        return None
    values: np.ndarray[Any, Any] = numpy_helper.to_array(constants[name])
    for kind in reversed(casts):
        values = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    return values


def become(node: Any, op: str) -> None:
    """Change a node into an operator with one input, one output and no attributes, in place."""
    node.op_type = op
    node.domain = ""
    del node.input[1:]
    del node.output[1:]
    del node.attribute[:]
