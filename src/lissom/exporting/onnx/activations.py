"""Rounding around activations other than ReLU, of which each runtime makes integers its own way, in
an ONNX file.

Between a convolution and a SiLU, say, the network rounds, and after the SiLU again. OpenVINO
computes both in one operation if nothing lies between them, and is 1.1 to 1.5 times as fast so;
ONNX Runtime needs the first rounding to compute the convolution in integers at all, and one more,
of the sigmoid within the SiLU, to look that up in a table. EfficientNet-B0 is 1.4 times as fast so.
All other networks of 5 bits and more, if they round no concatenation, have one ONNX file for both
runtimes.
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


def joined(proto: Any) -> None:
    """Take out what rounds to 8 bits between a convolution and its activation, in place, for OpenVINO.

    Fewer bits, which have a clip between their two nodes, stay: they are no mere detail of how a
    file is computed.
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


def looked_up(proto: Any) -> None:
    """Round the sigmoid within each SiLU to 8 bits of 0..1, in place, for ONNX Runtime."""
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
    """Return whether each output of a node has one reader."""
    return all(len(users[name]) == 1 for name in node.output)


def is_activation(name: str, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether an activation alone reads a value: one node or, as in SiLU, also what
    multiplies its result with it.
    """
    inner = outputs_of(node for node in users[name] if node.op_type in ACTIVATIONS)
    rest = [node for node in users[name] if node.op_type not in ACTIVATIONS]
    return bool(inner) and all(
        node.op_type == "Mul" and set() < {*node.input} - {name} <= inner for node in rest
    )


def is_rounded(name: str, makers: dict[str, Any]) -> bool:
    """Return whether a value is one of a grid."""
    return (
        name in makers
        and makers[name].op_type == "DequantizeLinear"
        and makers[name].input[0] in makers
    )


def outputs_of(nodes: Iterable[Any]) -> set[str]:
    """Return the values that nodes make."""
    return set(chain.from_iterable(node.output for node in nodes))


def inputs_of(nodes: Iterable[Any]) -> set[str]:
    """Return the values that nodes read."""
    return set(chain.from_iterable(node.input for node in nodes))


def wires(graph: Any) -> tuple[dict[str, Any], defaultdict[str, list[Any]]]:
    """Return which node makes each value, and which nodes read it."""
    makers = {}
    users = defaultdict(list)
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
        for name in set(node.input):
            users[name].append(node)
    return makers, users
