"""Constant folding of layers in an ONNX file, as some position encodings need."""

from __future__ import annotations

from typing import Any

from .activations import inputs_of, wires
from .operands import PRODUCTS


def compute_constants(proto: Any) -> None:
    """Replace layers of constants, and the nodes after them, by their results, in place.

    OpenVINO 2026.4 fails on such a convolution in integers, and none needs to run.
    """
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = proto.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    fixed = {*held, ""}
    behind = list[Any]()
    made = set[str]()  # outputs of layers, and of nodes that read these
    for node in graph.node:
        if node.input and fixed.issuperset(node.input):
            fixed.update(node.output)
            behind.append(node)
            if node.op_type in PRODUCTS or not made.isdisjoint(node.input):
                made.update(node.output)
    if not made:
        return
    rest = inputs_of(node for node in graph.node if node not in behind)
    names = sorted(made & (rest | {value.name for value in graph.output}))
    read = inputs_of(behind)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    part = helper.make_graph(
        behind, "constants", [], ends, [tensor for name, tensor in held.items() if name in read]
    )
    model = helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    values = ReferenceEvaluator(model).run(names, {})
    for name, value in zip(names, values, strict=True):
        graph.initializer.append(numpy_helper.from_array(value, name))
    for node in reversed(behind):
        _, users = wires(graph)
        if not made.isdisjoint(node.output) or not any(users[name] for name in node.output):
            graph.node.remove(node)
    _, users = wires(graph)
    for tensor in [tensor for tensor in graph.initializer if not users[tensor.name]]:
        graph.initializer.remove(tensor)
