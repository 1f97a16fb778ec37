"""Read and edit ONNX graphs: who computes and reads each value, shapes, unread nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any


def makers_and_users(graph: Any) -> tuple[dict[str, Any], defaultdict[str, list[Any]]]:
    """Return for each value the node that computes it, and the nodes that read it."""
    makers = {}
    users = defaultdict(list)
    for node in graph.node:
        makers.update(dict.fromkeys(node.output, node))
        for name in set(node.input):
            users[name].append(node)
    return makers, users


def source_of_kind(node: Any, kind: str, makers: Mapping[str, Any]) -> Any:
    """Return the node that computes the first input of `node`, None unless its operator is `kind`.

    If `node` is None, so is the result: calls can be nested along a chain of nodes.
    """
    source = None if node is None else makers.get(node.input[0])
    return source if source is not None and source.op_type == kind else None


def outputs_of(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the values that nodes compute."""
    return set(chain.from_iterable(node.output for node in nodes))


def inputs_of(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the values that nodes read."""
    return set(chain.from_iterable(node.input for node in nodes))


def output_names_of(graph: Any) -> set[str]:
    """Return the names of the outputs of a graph."""
    return {value.name for value in graph.output}


def shapes_in(proto: Any) -> dict[str, list[int]]:
    """Return the shapes of inputs and inner values of a model. Open sizes are 0."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(proto).graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input)
    }


def node_like(node: Any, value: str, output: str) -> Any:
    """Return a copy of a node that reads `value` as its first input and writes `output`."""
    from onnx import helper

    copy = helper.make_node(node.op_type, [value, *node.input[1:]], [output], output)
    copy.attribute.extend(node.attribute)
    return copy


def remove_unread_nodes(graph: Any, names: Collection[str]) -> None:
    """Remove the nodes that compute these values unless something reads them, in place."""
    results = output_names_of(graph)
    read = results | inputs_of(graph.node)
    for node in reversed(list(graph.node)):
        if node.output[0] in names and node.output[0] not in read:
            graph.node.remove(node)
            read = results | inputs_of(graph.node)


def remove_unread_constants(graph: Any) -> None:
    """Remove the constants that no node reads, in place."""
    _, users = makers_and_users(graph)
    for tensor in [tensor for tensor in graph.initializer if not users[tensor.name]]:
        graph.initializer.remove(tensor)
