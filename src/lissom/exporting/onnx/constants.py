"""Constant folding of layers in an ONNX file, as some position encodings need."""

from __future__ import annotations

from typing import Any

from .graph import inputs_of, makers_and_users, output_names_of, remove_unread_constants
from .operands import PRODUCTS


def fold_constant_layers(proto: Any) -> None:
    """Replace layers of constants, and the nodes after them, by their results, in place.

    OpenVINO 2026.4 fails on such a convolution in integers, and none needs to run.
    """
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    constant_names = {*tensors, ""}
    constant_nodes = list[Any]()
    folded_names = set[str]()  # outputs of layers, and of nodes that read these
    for node in graph.node:
        if node.input and constant_names.issuperset(node.input):
            constant_names.update(node.output)
            constant_nodes.append(node)
            if node.op_type in PRODUCTS or not folded_names.isdisjoint(node.input):
                folded_names.update(node.output)
    if not folded_names:
        return
    names_read = inputs_of(node for node in graph.node if node not in constant_nodes)
    names = sorted(folded_names & (names_read | output_names_of(graph)))
    read = inputs_of(constant_nodes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    subgraph = helper.make_graph(
        constant_nodes,
        "constants",
        [],
        ends,
        [tensor for name, tensor in tensors.items() if name in read],
    )
    model = helper.make_model(
        subgraph, opset_imports=proto.opset_import, ir_version=proto.ir_version
    )
    values = ReferenceEvaluator(model).run(names, {})
    for name, value in zip(names, values, strict=True):
        graph.initializer.append(numpy_helper.from_array(value, name))
    for node in reversed(constant_nodes):
        _, users = makers_and_users(graph)
        if not folded_names.isdisjoint(node.output) or not any(users[name] for name in node.output):
            graph.node.remove(node)
    remove_unread_constants(graph)
