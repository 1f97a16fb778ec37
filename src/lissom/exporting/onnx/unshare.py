"""Constants that are not shared between nodes, in an ONNX file."""

from __future__ import annotations

from typing import Any

from .graph import makers_and_users, source_of_kind


def unshare_scales(proto: Any) -> None:
    """Give each per-tensor Q or DQ node its own copy of the scale and the zero point, in place.

    Equal ones are one constant in the file. When OpenVINO 2026.4 moves a DequantizeLinear through
    other operations, it changes that constant for all nodes: it then refuses the file or returns
    wrong outputs.
    """
    import onnx

    scalars = {tensor.name: tensor for tensor in proto.graph.initializer if not len(tensor.dims)}
    used_names = set[str]()
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, word in ((1, "scale"), (2, "zero")):
            name = node.input[index] if index < len(node.input) else ""
            if name in scalars and name in used_names:
                copy = onnx.TensorProto()
                copy.CopyFrom(scalars[name])
                copy.name = f"{node.output[0]}_{word}"
                proto.graph.initializer.append(copy)
                node.input[index] = copy.name
            used_names.add(name)


def unshare_transposes(proto: Any) -> None:
    """Give each product its own transposed weight if several share it, in place.

    The integers stay shared. ONNX Runtime 1.32 transposes integers only if one node reads the
    result, and otherwise computes the products in float.
    """
    makers, users = makers_and_users(proto.graph)
    for node in [node for node in proto.graph.node if node.op_type == "Transpose"]:
        dequantize = source_of_kind(node, "DequantizeLinear", makers)
        if dequantize is None or dequantize.input[0] in makers:
            continue
        for reader in users[node.output[0]][1:]:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = copy.output[0] = f"{reader.output[0]}_weight"
            reader.input[:] = [
                copy.output[0] if name == node.output[0] else name for name in reader.input
            ]
            proto.graph.node.insert(list(proto.graph.node).index(reader), copy)
