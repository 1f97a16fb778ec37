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

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

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
    makers, users = wires(proto.graph)
    ends = {value.name for value in proto.graph.output}
    for back in [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]:
        rounds = makers.get(back.input[0])
        before = (
            makers.get(rounds.input[0])
            if rounds is not None and rounds.op_type == "QuantizeLinear"
            else None
        )
        alone = all(read_once(node, users) for node in (before, rounds) if node is not None)
        if (
            before is None
            or before.op_type != "Conv"
            or not alone
            or back.output[0] in ends
            or not is_activation(back.output[0], users)
        ):
            continue
        for node in users[back.output[0]]:
            node.input[:] = [
                before.output[0] if name == back.output[0] else name for name in node.input
            ]
        proto.graph.node.remove(back)
        proto.graph.node.remove(rounds)


def round_sigmoids(proto: Any) -> None:
    """Round the sigmoid inside each SiLU to 8 bits over 0..1, in place, for ONNX Runtime."""
    from numpy import array
    from onnx import helper, numpy_helper

    makers, users = wires(proto.graph)
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
        place = list(proto.graph.node).index(node) + 1
        proto.graph.node.insert(
            place, helper.make_node("QuantizeLinear", [node.output[0], scale, zero], [codes], codes)
        )
        proto.graph.node.insert(
            place + 1, helper.make_node("DequantizeLinear", [codes, scale, zero], [values], values)
        )


def read_once(node: Any, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether each output of a node has exactly one reader."""
    return all(len(users[name]) == 1 for name in node.output)


def is_activation(name: str, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether only an activation function reads a value: a single node, or as in SiLU a node
    and the multiplication of its result with the value.
    """
    inner = outputs_of(node for node in users[name] if node.op_type in ACTIVATIONS)
    rest = [node for node in users[name] if node.op_type not in ACTIVATIONS]
    return bool(inner) and all(
        node.op_type == "Mul" and set() < {*node.input} - {name} <= inner for node in rest
    )


def is_rounded(name: str, makers: dict[str, Any]) -> bool:
    """Return whether a value comes from a Q/DQ pair."""
    return (
        name in makers
        and makers[name].op_type == "DequantizeLinear"
        and makers[name].input[0] in makers
    )


def outputs_of(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the values that nodes compute."""
    return set(chain.from_iterable(node.output for node in nodes))


def inputs_of(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the values that nodes read."""
    return set(chain.from_iterable(node.input for node in nodes))


def wires(graph: Any) -> tuple[dict[str, Any], defaultdict[str, list[Any]]]:
    """Return the node that computes each value, and the nodes that read it."""
    makers = {}
    users = defaultdict(list)
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
        for name in set(node.input):
            users[name].append(node)
    return makers, users
