"""Scales and zero points that are not shared between nodes, in an ONNX file."""

from __future__ import annotations

from typing import Any


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
