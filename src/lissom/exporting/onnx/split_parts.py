"""Round the parts of a split value again on the same grid, so that ONNX Runtime splits integers.

It splits integers only between one Q/DQ pair and the next. No number changes.
"""

from __future__ import annotations

from typing import Any

from .graph import makers_and_users, node_like, output_names_of, source_of_kind


def round_split_parts(proto: Any) -> None:
    """Insert a Q/DQ pair after each output of a split of rounded values, in place."""
    makers, users = makers_and_users(proto.graph)
    outputs = output_names_of(proto.graph)
    for node in [node for node in proto.graph.node if node.op_type == "Split"]:
        dequantize = source_of_kind(node, "DequantizeLinear", makers)
        quantize = source_of_kind(dequantize, "QuantizeLinear", makers)
        # with fewer than 8 bits a Clip lies between the two, and the split is skipped
        if quantize is None:
            continue
        position = list(proto.graph.node).index(node) + 1
        for part in node.output:
            readers = users[part]
            if (
                part in outputs
                or not readers
                or all(user.op_type == "QuantizeLinear" for user in readers)
            ):
                continue
            codes = f"{part}/q"
            values = f"{part}/dq"
            for user in readers:
                user.input[:] = [values if name == part else name for name in user.input]
            for like, source, name in ((quantize, part, codes), (dequantize, codes, values)):
                proto.graph.node.insert(position, node_like(like, source, name))
                position += 1
