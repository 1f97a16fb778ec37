"""Scales and zero points that belong to one rounding each, in an ONNX file."""

from __future__ import annotations

from typing import Any


def unshare_steps(proto: Any) -> None:
    """Give each node that rounds or widens single values' grids a scale and a zero point of its own, in
    place.

    Equal ones are one constant in the file. Where OpenVINO 2026.4 moves a widening through other
    operations, it changes that constant, for others too: it then refuses a file, or answers wrongly.
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
