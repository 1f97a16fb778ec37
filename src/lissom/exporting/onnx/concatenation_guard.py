"""Stop OpenVINO from moving the rounding of concatenated rows to their parts, in an ONNX file.

OpenVINO 2026.4 rounds the parts of a concatenation instead of the whole, and turns the zero point
into a vector along the axis of concatenation. Along channels that works. Along rows or tokens the
convolution that reads them runs in float, and a linear layer makes OpenVINO fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .graph import makers_and_users, shapes_in

# the axis of channels in the input of each product
CHANNEL_AXES = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1, -1), "MatMul": (-1,)}
AXIS_KEEPING = {"DequantizeLinear", "MaxPool", "Slice"}  # operations that do not move axes
AXIS_MOVING = {"Flatten", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def guard_concatenations(proto: Any) -> None:
    """Insert max-pooling over windows of 1 between concatenated rows and their rounding, in place.

    It changes no number, and OpenVINO removes it after choosing the operations that run in
    integers.
    """
    from onnx import helper, numpy_helper

    makers, users = makers_and_users(proto.graph)
    nonzero_points = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.name.endswith("q_zero") and numpy_helper.to_array(tensor).any()
    }
    rounded = [
        node
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
        and node.input[2] in nonzero_points
        and (value := makers.get(node.input[0])) is not None
        and value.op_type == "Concat"
        and is_concatenated_along_rows(value.attribute[0].i, node.output[0], users)
    ]
    if not rounded:
        return
    shapes = shapes_in(proto)
    for node in rounded:
        value = node.input[0]
        window_axes = len(shapes.get(value, [])) - 2
        if window_axes > 0:
            name = f"{value}/whole"
            pool = helper.make_node(
                "MaxPool", [value], [name], name, kernel_shape=[1] * window_axes
            )
            proto.graph.node.insert(list(proto.graph.node).index(node), pool)
            node.input[0] = name


def is_concatenated_along_rows(axis: int, value: str, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether a product reads a value concatenated along another axis than channels."""
    pending = [(value, True)]
    while pending:
        name, axes_kept = pending.pop()
        for reader in users[name]:
            if reader.op_type in CHANNEL_AXES:
                if not axes_kept or axis not in CHANNEL_AXES[reader.op_type]:
                    return True
            elif reader.op_type in AXIS_KEEPING | AXIS_MOVING:
                kept = axes_kept and reader.op_type in AXIS_KEEPING
                pending += [(output, kept) for output in reader.output]
    return False
