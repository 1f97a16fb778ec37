"""Circular padding as concatenated slices in an ONNX file: OpenVINO reads no Pad of mode "wrap".

If the padded value was rounded, its integers are padded instead: the next layer then reads a
DequantizeLinear and runs in integers.
"""

from __future__ import annotations

from typing import Any

from .graph import remove_unread_nodes

AXIS_END = 2**62  # the end of any axis


def replace_circular_padding(proto: Any) -> None:
    """Replace each Pad of mode "wrap" whose pads are constants by slices and a Concat, in place."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Pad" and mode_of(node) == "wrap"]:
        if len(node.input) < 2 or node.input[1] not in tensors:
            continue
        pads = numpy_helper.to_array(tensors[node.input[1]]).tolist()
        count = len(pads) // 2
        axes_tensor = tensors.get(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        axes = range(count) if axes_tensor is None else numpy_helper.to_array(axes_tensor).tolist()
        dequantize = next(
            (
                n
                for n in graph.node
                if n.op_type == "DequantizeLinear" and n.output[0] == node.input[0]
            ),
            None,
        )
        position = list(graph.node).index(node)
        name = node.name or node.output[0]
        nodes = list[Any]()
        value = node.input[0] if dequantize is None else dequantize.input[0]
        for axis, low, high in zip(axes, pads[:count], pads[count:], strict=True):
            if low or high:
                value = pad_axis(
                    graph, nodes, value, f"{name}/{axis}", int(axis), int(low), int(high)
                )
        if dequantize is None:
            nodes.append(helper.make_node("Identity", [value], [node.output[0]], name=name))
        else:
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", [value, *dequantize.input[1:]], [node.output[0]], name=name
                )
            )
            nodes[-1].attribute.extend(dequantize.attribute)
        graph.node.remove(node)
        for other in reversed(nodes):
            graph.node.insert(position, other)
    widened = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    remove_unread_nodes(graph, widened)


def pad_axis(
    graph: Any, nodes: list[Any], value: str, name: str, axis: int, low: int, high: int
) -> str:
    """Add nodes that pad a value with its last `low` elements in front and its first `high`
    elements at the end, along `axis`. Return the name of the result.

    A negative number crops that side first, as in PyTorch.
    """
    from onnx import helper

    def add_slice(of: str, which: str, start: int, end: int) -> str:
        nodes.append(
            helper.make_node(
                "Slice",
                [of, *(constant_of(graph, n) for n in (start, end, axis))],
                [f"{name}/{which}"],
                name=f"{name}/{which}",
            )
        )
        return f"{name}/{which}"

    middle = (
        value
        if low >= 0 and high >= 0
        else add_slice(value, "middle", max(0, -low), high if high < 0 else AXIS_END)
    )
    before = [add_slice(middle, "end", -low, AXIS_END)] if low > 0 else []
    behind = [add_slice(middle, "begin", 0, high)] if high > 0 else []
    if not before and not behind:
        return middle
    nodes.append(
        helper.make_node("Concat", [*before, middle, *behind], [name], name=name, axis=axis)
    )
    return name


def constant_of(graph: Any, value: int) -> str:
    """Return the name of a constant [value], added to the graph if needed."""
    import numpy as np
    from onnx import numpy_helper

    name = f"/int/{value}"
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return name


def mode_of(node: Any) -> str:
    """Return the mode of a Pad."""
    return next((a.s.decode() for a in node.attribute if a.name == "mode"), "constant")
