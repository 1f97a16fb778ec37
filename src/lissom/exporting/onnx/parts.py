"""Round the parts of a split value again on the same grid, so that ONNX Runtime splits integers.

It splits integers only between one Q/DQ pair and the next. No number changes.
"""

from __future__ import annotations

from typing import Any

from .activations import wires


def round_parts(proto: Any) -> None:
    """Insert a Q/DQ pair after each output of a split of rounded values, in place."""
    from onnx import helper

    makers, users = wires(proto.graph)
    ends = {value.name for value in proto.graph.output}
    for node in [node for node in proto.graph.node if node.op_type == "Split"]:
        back = makers.get(node.input[0])
        rounds = (
            makers.get(back.input[0])
            if back is not None and back.op_type == "DequantizeLinear"
            else None
        )
        # with fewer than 8 bits a Clip lies between the two, and the split is skipped
        if back is None or rounds is None or rounds.op_type != "QuantizeLinear":
            continue
        place = list(proto.graph.node).index(node) + 1
        for part in node.output:
            readers = users[part]
            if (
                part in ends
                or not readers
                or all(user.op_type == "QuantizeLinear" for user in readers)
            ):
                continue
            codes = f"{part}/q"
            values = f"{part}/dq"
            for user in readers:
                user.input[:] = [values if name == part else name for name in user.input]
            for like, source, name in ((rounds, part, codes), (back, codes, values)):
                again = helper.make_node(like.op_type, [source, *like.input[1:]], [name], name)
                again.attribute.extend(like.attribute)
                proto.graph.node.insert(place, again)
                place += 1
