"""Average pooling with padding whose input grid has a zero point, in an ONNX file.

OpenVINO 2026.4 averages codes and pads with the code 0, which is not the number 0 if the grid has a
zero point. With a separate Pad, rounded again on the same grid, both runtimes compute correctly in
integers. No number changes.
"""

from __future__ import annotations

from typing import Any

from .activations import wires


def round_padded_averages(proto: Any) -> None:
    """Move padding that average pooling counts into a Pad and round again after it, in place."""
    from numpy import any as any_of
    from onnx import helper, numpy_helper

    graph = proto.graph
    shifted = {t.name for t in graph.initializer if any_of(numpy_helper.to_array(t))}
    for pool in [node for node in graph.node if node.op_type == "AveragePool"]:
        makers, users = wires(graph)
        pad: Any = makers.get(pool.input[0])
        padded = pad is not None and pad.op_type == "Pad" and len(users[pool.input[0]]) == 1
        back = makers.get(pad.input[0]) if padded else pad
        if back is None or back.op_type != "DequantizeLinear" or back.input[2] not in shifted:
            continue
        rounds = makers.get(back.input[0])
        if rounds is None or not (padded or pad_apart(graph, pool)):
            continue
        place = list(graph.node).index(pool)
        name = pool.name or pool.output[0]
        for like, word in ((rounds, f"{name}/q"), (back, f"{name}/dq")):
            again = helper.make_node(like.op_type, [pool.input[0], *like.input[1:]], [word], word)
            again.attribute.extend(like.attribute)
            graph.node.insert(place, again)
            place += 1
            pool.input[0] = word


def pad_apart(graph: Any, pool: Any) -> bool:
    """Move the padding of average pooling that counts it into a Pad node before it, in place.
    Return False if there is none.
    """
    from numpy import array
    from onnx import helper, numpy_helper

    facts = {held.name: held for held in pool.attribute}
    edges = list(facts["pads"].ints) if "pads" in facts else []
    counts = "count_include_pad" in facts and facts["count_include_pad"].i
    if not counts or not any(edges) or ("ceil_mode" in facts and facts["ceil_mode"].i):
        return False
    name = pool.name or pool.output[0]
    half = len(edges) // 2
    sizes = array([0, 0, *edges[:half], 0, 0, *edges[half:]], "int64")
    graph.initializer.append(numpy_helper.from_array(sizes, f"{name}/edges"))
    read = [pool.input[0], f"{name}/edges"]
    pad = helper.make_node("Pad", read, [f"{name}/pad"], f"{name}/pad")
    graph.node.insert(list(graph.node).index(pool), pad)
    facts["pads"].ints[:] = [0] * len(edges)
    pool.input[0] = pad.output[0]
    return True
