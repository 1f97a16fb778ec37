"""Average pooling with padding whose input grid has a zero point, in an ONNX file.

OpenVINO 2026.4 averages codes and pads with the code 0, which is not the number 0 if the grid has a
zero point. With a separate Pad, rounded again on the same grid, both runtimes compute correctly in
integers. No number changes.
"""

from __future__ import annotations

from typing import Any

from .graph import makers_and_users, node_like, source_of_kind


def round_padded_averages(proto: Any) -> None:
    """Move padding that average pooling counts into a Pad and round again after it, in place."""
    from numpy import any as any_of
    from onnx import numpy_helper

    graph = proto.graph
    nonzero_constants = {t.name for t in graph.initializer if any_of(numpy_helper.to_array(t))}
    for pool in [node for node in graph.node if node.op_type == "AveragePool"]:
        makers, users = makers_and_users(graph)
        pad = source_of_kind(pool, "Pad", makers)
        has_pad = pad is not None and len(users[pool.input[0]]) == 1
        dequantize = source_of_kind(pad if has_pad else pool, "DequantizeLinear", makers)
        if dequantize is None or dequantize.input[2] not in nonzero_constants:
            continue
        quantize = makers.get(dequantize.input[0])
        if quantize is None or not (has_pad or separate_pad(graph, pool)):
            continue
        position = list(graph.node).index(pool)
        name = pool.name or pool.output[0]
        for like, output in ((quantize, f"{name}/q"), (dequantize, f"{name}/dq")):
            graph.node.insert(position, node_like(like, pool.input[0], output))
            position += 1
            pool.input[0] = output


def separate_pad(graph: Any, pool: Any) -> bool:
    """Move the padding of average pooling that counts it into a Pad node before it, in place.
    Return False if there is none.
    """
    from numpy import array
    from onnx import helper, numpy_helper

    attributes = {attribute.name: attribute for attribute in pool.attribute}
    pads = list(attributes["pads"].ints) if "pads" in attributes else []
    counts_padding = "count_include_pad" in attributes and attributes["count_include_pad"].i
    if (
        not counts_padding
        or not any(pads)
        or ("ceil_mode" in attributes and attributes["ceil_mode"].i)
    ):
        return False
    name = pool.name or pool.output[0]
    half = len(pads) // 2
    sizes = array([0, 0, *pads[:half], 0, 0, *pads[half:]], "int64")
    graph.initializer.append(numpy_helper.from_array(sizes, f"{name}/edges"))
    inputs = [pool.input[0], f"{name}/edges"]
    pad = helper.make_node("Pad", inputs, [f"{name}/pad"], f"{name}/pad")
    graph.node.insert(list(graph.node).index(pool), pad)
    attributes["pads"].ints[:] = [0] * len(pads)
    pool.input[0] = pad.output[0]
    return True
