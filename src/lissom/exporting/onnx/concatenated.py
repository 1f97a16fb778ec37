"""Stop OpenVINO from moving the rounding of concatenated rows to their parts, in an ONNX file.

OpenVINO 2026.4 rounds the parts of a concatenation instead of the whole, and turns the zero point
into a vector along the axis of concatenation. Along channels that works. Along rows or tokens the
convolution that reads them runs in float, and a linear layer makes OpenVINO fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .activations import wires

# the axis of channels in the input of each product
CHANNELS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1, -1), "MatMul": (-1,)}
ALIKE = {"DequantizeLinear", "MaxPool", "Slice"}  # operations that do not move axes
MOVES = {"Flatten", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def guard_concatenations(proto: Any) -> None:
    """Insert max-pooling over windows of 1 between concatenated rows and their rounding, in place.

    It changes no number, and OpenVINO removes it after choosing the operations that run in
    integers.
    """
    from onnx import helper, numpy_helper, shape_inference

    makers, users = wires(proto.graph)
    shifted = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.name.endswith("q_zero") and numpy_helper.to_array(tensor).any()
    }
    rounded = [
        node
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
        and node.input[2] in shifted
        and (whole := makers.get(node.input[0])) is not None
        and whole.op_type == "Concat"
        and along_rows(whole.attribute[0].i, node.output[0], users)
    ]
    if not rounded:
        return
    sizes = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in shape_inference.infer_shapes(proto).graph.value_info
    }
    for node in rounded:
        whole = node.input[0]
        axes = sizes.get(whole, 0) - 2
        if axes > 0:
            name = f"{whole}/whole"
            pool = helper.make_node("MaxPool", [whole], [name], name, kernel_shape=[1] * axes)
            proto.graph.node.insert(list(proto.graph.node).index(node), pool)
            node.input[0] = name


def along_rows(axis: int, value: str, users: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether a product reads a value concatenated along another axis than channels."""
    ahead = [(value, True)]
    while ahead:
        name, as_it_is = ahead.pop()
        for reader in users[name]:
            if reader.op_type in CHANNELS:
                if not as_it_is or axis not in CHANNELS[reader.op_type]:
                    return True
            elif reader.op_type in ALIKE | MOVES:
                kept = as_it_is and reader.op_type in ALIKE
                ahead += [(output, kept) for output in reader.output]
    return False
