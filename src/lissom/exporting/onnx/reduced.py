"""Sums and means over one axis of sequences, in the form that OpenVINO gets right."""

from __future__ import annotations

from typing import Any

REDUCED = {"ReduceSum", "ReduceMean"}


def reduce_sequences_as_pictures(proto: Any) -> None:
    """Give tensors (n t c) a fourth axis while they are summed up or averaged, in place, in files
    that round activations.

    OpenVINO 2026.4 computes such a sum of 8-bit integers from memory that nothing was written to,
    where the batch is larger than one; tensors of two, four and five axes are right.
    """
    from onnx import helper, numpy_helper, shape_inference

    graph = proto.graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        return
    if not any(node.op_type in REDUCED for node in graph.node):
        return
    inferred = shape_inference.infer_shapes(proto).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input)
    }
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    last = "sequences_last_axis"
    nodes = []
    for node in graph.node:
        axes = constants.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in REDUCED or ranks.get(node.input[0]) != 3 or axes is None:
            nodes.append(node)
            continue
        given, reduced = (f"{node.output[0]}_{word}" for word in ("as_picture", "reduced"))
        counted = numpy_helper.from_array(axes % 3, f"{node.output[0]}_axes")
        graph.initializer.append(counted)
        nodes.append(helper.make_node("Unsqueeze", [node.input[0], last], [given], name=given))
        nodes.append(helper.make_node(node.op_type, [given, counted.name], [reduced], name=reduced))
        nodes[-1].attribute.extend(node.attribute)
        nodes.append(
            helper.make_node("Squeeze", [reduced, last], [node.output[0]], name=node.output[0])
        )
    if len(nodes) > len(graph.node):
        import numpy as np

        graph.initializer.append(numpy_helper.from_array(np.array([-1]), last))
    del graph.node[:]
    graph.node.extend(nodes)
