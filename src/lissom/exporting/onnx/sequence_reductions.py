"""Sums and means over one axis of sequences, in the form that OpenVINO computes correctly."""

from __future__ import annotations

from typing import Any

from .graph import shapes_in

REDUCED = {"ReduceSum", "ReduceMean"}


def reduce_sequences_as_pictures(proto: Any) -> None:
    """Add a fourth axis to tensors (n t c) around sums and means, in place, in files that round
    activations.

    OpenVINO 2026.4 computes such a sum of 8-bit integers from uninitialised memory if the batch is
    larger than one. Tensors of two, four and five axes are right.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    if not any(node.op_type == "QuantizeLinear" for node in graph.node):
        return
    if not any(node.op_type in REDUCED for node in graph.node):
        return
    ranks = {name: len(shape) for name, shape in shapes_in(proto).items()}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    last_axis = "sequences_last_axis"
    nodes = []
    for node in graph.node:
        axes = constants.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in REDUCED or ranks.get(node.input[0]) != 3 or axes is None:
            nodes.append(node)
            continue
        picture, reduced = (f"{node.output[0]}_{word}" for word in ("as_picture", "reduced"))
        axes_of_picture = numpy_helper.from_array(axes % 3, f"{node.output[0]}_axes")
        graph.initializer.append(axes_of_picture)
        nodes.append(
            helper.make_node("Unsqueeze", [node.input[0], last_axis], [picture], name=picture)
        )
        nodes.append(
            helper.make_node(node.op_type, [picture, axes_of_picture.name], [reduced], name=reduced)
        )
        nodes[-1].attribute.extend(node.attribute)
        nodes.append(
            helper.make_node("Squeeze", [reduced, last_axis], [node.output[0]], name=node.output[0])
        )
    if len(nodes) > len(graph.node):
        import numpy as np

        graph.initializer.append(numpy_helper.from_array(np.array([-1]), last_axis))
    del graph.node[:]
    graph.node.extend(nodes)
