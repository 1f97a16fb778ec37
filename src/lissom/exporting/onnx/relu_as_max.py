"""ReLUs after additions, in the form that MNN's quantizer keeps with its method ema."""

from __future__ import annotations

from typing import Any

from .graph import makers_and_users

SUMS = {"Add", "Sub", "Mul", "Div"}


def write_relu_as_max(proto: Any) -> None:
    """Replace each Relu and Clip that reads an Add, Sub, Mul or Div by Max and Min with a constant,
    in place.

    MNN 3.6's converter stores such an activation as a field of the addition (`activationType`). Its
    quantizer loses the field when it rebuilds the graph for ema: ranges are then measured on sums
    that are not clipped, and outputs are far off. Max and Min stay separate operations. The other
    methods keep the field, and are less accurate with Max.
    """
    from numpy import array
    from onnx import helper, numpy_helper

    makers, _ = makers_and_users(proto.graph)
    nodes = []
    for node in proto.graph.node:
        if (
            node.op_type not in ("Relu", "Clip")
            or makers.get(node.input[0]) is None
            or makers[node.input[0]].op_type not in SUMS
        ):
            nodes.append(node)
            continue
        low = node.input[1:2] or [""]
        high = node.input[2:3] or [""]
        if node.op_type == "Relu":
            low = [f"{node.output[0]}/nought"]
            proto.graph.initializer.append(numpy_helper.from_array(array(0, "float32"), low[0]))
        bounds = [(kind, name[0]) for kind, name in (("Max", low), ("Min", high)) if name[0]]
        value = node.input[0]
        for index, (kind, bound) in enumerate(bounds):
            last = index + 1 == len(bounds)
            name = node.output[0] if last else f"{node.output[0]}/{kind}"
            nodes.append(
                helper.make_node(kind, [value, bound], [name], name=node.name if last else name)
            )
            value = name
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
