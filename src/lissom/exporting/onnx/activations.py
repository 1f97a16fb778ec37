"""Rounding around activation functions other than ReLU in an ONNX file, which each runtime handles
in its own way.

A network rounds, for example, between a convolution and a SiLU, and again after the SiLU. OpenVINO
fuses the convolution and the SiLU if nothing lies between them, which is 1.1 to 1.5 times as fast.
ONNX Runtime needs the first rounding to compute the convolution in integers at all, and one more,
of the sigmoid inside the SiLU, to compute it by table lookup: EfficientNet-B0 gets 1.4 times as
fast. All other networks of 5 bits and more share one ONNX file for both runtimes, unless they round
a concatenation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .graph import makers_and_users, output_names_of, outputs_of, source_of_kind

ACTIVATIONS = {
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Sigmoid",
    "Tanh",
}


def join_activations(proto: Any) -> None:
    """Remove 8-bit rounding between a convolution and its activation function, in place.

    Rounding to fewer bits, which has a Clip between its two nodes, stays: removing it would change
    the results noticeably.
    """
    makers, users = makers_and_users(proto.graph)
    outputs = output_names_of(proto.graph)
    for dequantize in [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]:
        quantize = source_of_kind(dequantize, "QuantizeLinear", makers)
        layer = source_of_kind(quantize, "Conv", makers)
        if (
            layer is None
            or not has_one_reader_each(layer, users)
            or not has_one_reader_each(quantize, users)
            or dequantize.output[0] in outputs
            or not feeds_only_activation(dequantize.output[0], users)
        ):
            continue
        for node in users[dequantize.output[0]]:
            node.input[:] = [
                layer.output[0] if name == dequantize.output[0] else name for name in node.input
            ]
        proto.graph.node.remove(dequantize)
        proto.graph.node.remove(quantize)


def round_sigmoids(proto: Any) -> None:
    """Round the sigmoid inside each SiLU to 8 bits over 0..1, in place, for ONNX Runtime."""
    from numpy import array
    from onnx import helper, numpy_helper

    makers, users = makers_and_users(proto.graph)
    sigmoids = [
        node
        for node in proto.graph.node
        if node.op_type == "Sigmoid"
        and is_rounded(node.input[0], makers)
        and [(u.op_type, set(u.input)) for u in users[node.output[0]]]
        == [("Mul", {*node.input, *node.output})]
        and all(u.op_type == "QuantizeLinear" for u in users[users[node.output[0]][0].output[0]])
    ]
    if not sigmoids:
        return
    scale = "/unit"
    zero = "/unit:0"
    proto.graph.initializer.extend(
        [
            numpy_helper.from_array(array(1 / 255, "float32"), scale),
            numpy_helper.from_array(array(0, "uint8"), zero),
        ]
    )
    for node in sigmoids:
        (reader,) = users[node.output[0]]
        codes = f"{node.output[0]}/q"
        values = f"{node.output[0]}/dq"
        reader.input[:] = [values if name == node.output[0] else name for name in reader.input]
        position = list(proto.graph.node).index(node) + 1
        proto.graph.node.insert(
            position,
            helper.make_node("QuantizeLinear", [node.output[0], scale, zero], [codes], codes),
        )
        proto.graph.node.insert(
            position + 1,
            helper.make_node("DequantizeLinear", [codes, scale, zero], [values], values),
        )


def has_one_reader_each(node: Any, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether each output of a node has exactly one reader."""
    return all(len(users[name]) == 1 for name in node.output)


def feeds_only_activation(name: str, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether only an activation function reads a value: a single node, or as in SiLU a node
    and the multiplication of its result with the value.
    """
    activated = outputs_of(node for node in users[name] if node.op_type in ACTIVATIONS)
    others = [node for node in users[name] if node.op_type not in ACTIVATIONS]
    return bool(activated) and all(
        node.op_type == "Mul" and set() < {*node.input} - {name} <= activated for node in others
    )


def is_rounded(name: str, makers: dict[str, Any]) -> bool:
    """Return whether a value comes from a Q/DQ pair."""
    return (
        name in makers
        and makers[name].op_type == "DequantizeLinear"
        and makers[name].input[0] in makers
    )
