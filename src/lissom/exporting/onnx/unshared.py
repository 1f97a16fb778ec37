"""Constants that are not shared between nodes, in an ONNX file."""

from __future__ import annotations

from typing import Any

from .activations import wires


def unshare_steps(proto: Any) -> None:
    """Give each per-tensor Q or DQ node its own copy of the scale and the zero point, in place.

    Equal ones are one constant in the file. When OpenVINO 2026.4 moves a DequantizeLinear through
    other operations, it changes that constant for all nodes: it then refuses the file or returns
    wrong outputs.
    """
    import onnx

    held = {tensor.name: tensor for tensor in proto.graph.initializer if not len(tensor.dims)}
    seen = set[str]()
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for place, word in ((1, "scale"), (2, "zero")):
            name = node.input[place] if place < len(node.input) else ""
            if name in held and name in seen:
                copy = onnx.TensorProto()
                copy.CopyFrom(held[name])
                copy.name = f"{node.output[0]}_{word}"
                proto.graph.initializer.append(copy)
                node.input[place] = copy.name
            seen.add(name)


def unshare_transposes(proto: Any) -> None:
    """Give each product its own transposed weight if several share it, in place.

    The integers stay shared. ONNX Runtime 1.32 transposes integers only if one node reads the
    result, and otherwise computes the products in float.
    """
    makers, users = wires(proto.graph)
    for node in [node for node in proto.graph.node if node.op_type == "Transpose"]:
        back = makers.get(node.input[0])
        if back is None or back.op_type != "DequantizeLinear" or back.input[0] in makers:
            continue
        for reader in users[node.output[0]][1:]:
            own = type(node)()
            own.CopyFrom(node)
            own.name = own.output[0] = f"{reader.output[0]}_weight"
            reader.input[:] = [
                own.output[0] if name == node.output[0] else name for name in reader.input
            ]
            proto.graph.node.insert(list(proto.graph.node).index(reader), own)
