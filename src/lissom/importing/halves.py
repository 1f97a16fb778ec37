"""Convert models that compute in 16-bit floats to 32-bit floats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .tensors import BFLOAT, HALF

FLOAT = 1
NAMES = {HALF: "float16", BFLOAT: "bfloat16"}
TYPED = ("to", "dtype")  # attributes that hold a type
WIDE = "{} in 32 bits"


def in_32_bits(proto: Any) -> Any:
    """Return a model that computes in 32-bit floats; the model itself if it has no 16-bit floats.

    Weights stay as they are, and a Cast after each of them widens it.
    """
    import onnx

    if not kinds_in(proto.graph):
        return proto
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    widen_graph(wide.graph, {})
    return wide


def kinds_in(graph: Any) -> set[int]:
    """Return the 16-bit float types that occur in a graph."""
    found = set()
    for value in (*graph.input, *graph.output):
        found.add(value.type.tensor_type.elem_type)
    for tensor in graph.initializer:
        found.add(tensor.data_type)
    for node in graph.node:
        for held in node.attribute:
            found |= {held.t.data_type, held.i if held.name in TYPED else 0}
            for inner in graphs_in(held):
                found |= kinds_in(inner)
    return found & set(NAMES)


def graphs_in(held: Any) -> list[Any]:
    """Return the subgraphs that an attribute holds."""
    return [held.g, *held.graphs] if held.HasField("g") else [*held.graphs]


def widen_graph(graph: Any, renamed: dict[str, str]) -> None:
    """Make a graph compute in 32 bits, in place. `renamed` has the widened weights of outer graphs."""
    from onnx import helper

    del graph.value_info[:]
    halves = [tensor.name for tensor in graph.initializer if tensor.data_type in NAMES]
    own = {value.name for value in graph.input} - set(halves)
    for value in (*graph.input, *graph.output):
        # a weight may be listed among the inputs and keeps its type
        if value.type.tensor_type.elem_type in NAMES and value.name not in halves:
            value.type.tensor_type.elem_type = FLOAT
    renamed = {name: now for name, now in renamed.items() if name not in own}
    renamed.update({name: WIDE.format(name) for name in halves})
    nodes = [helper.make_node("Cast", [name], [renamed[name]], to=FLOAT) for name in halves]
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes += widened(node, renamed)
    del graph.node[:]
    graph.node.extend(nodes)


def widened(node: Any, renamed: dict[str, str]) -> Iterator[Any]:
    """Yield the nodes that replace a 16-bit node in 32 bits."""
    from onnx import helper

    tensors = []
    for held in node.attribute:
        if held.name in TYPED and held.i in NAMES:
            held.i = FLOAT
        if held.t.data_type in NAMES:
            tensors.append(held)
        for inner in graphs_in(held):
            widen_graph(inner, renamed)
    for held in tensors if node.op_type != "Constant" else ():
        widen_number(held.t)
    if not (tensors and node.op_type == "Constant" and node.output):
        yield node
        return
    name = node.output[0]
    node.output[0] = f"{name} in 16 bits"
    yield node
    yield helper.make_node("Cast", [node.output[0]], [name], to=FLOAT)


def widen_number(tensor: Any) -> None:
    """Convert a small tensor to 32 bits, in place."""
    from pathlib import Path

    from onnx import numpy_helper

    from .tensors import array_of

    tensor.CopyFrom(numpy_helper.from_array(array_of(tensor, Path(".")), tensor.name))


def types_said(graph: Any) -> list[str]:
    """Return sentences that name the inputs and outputs of a graph that are 16-bit floats."""
    said = []
    for what, values in (("input", graph.input), ("output", graph.output)):
        for kind, name in NAMES.items():
            names = [v.name for v in values if v.type.tensor_type.elem_type == kind]
            if names:
                said.append(
                    f"{what} {', '.join(map(repr, names))}".replace("\n", " ")[:200]
                    + f" is {name} in the file"
                )
    return said
