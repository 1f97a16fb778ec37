"""Rounding before a pixel shuffle instead of after the ReLU behind it."""

from __future__ import annotations

import math
from typing import Any

from .graph import makers_and_users, output_names_of

SHUFFLES = {"DepthToSpace", "SpaceToDepth"}
BY_ELEMENT = {"Relu", "Clip"}


def round_before_shuffles(proto: Any) -> None:
    """Move each DepthToSpace behind the ReLU and the rounding that follow it, in place.

    A shuffle only moves numbers, so the outputs stay the same. ONNX Runtime computes a convolution
    in integers only if its output is rounded at once, and the shuffle then moves bytes.
    """
    graph = proto.graph
    _, users = makers_and_users(graph)
    results = output_names_of(graph)
    # scales of one number: those of channels would meet other channels before the shuffle
    single = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) == 1}

    def only_reader(node: Any) -> Any:
        readers = users[node.output[0]]
        return readers[0] if len(readers) == 1 and node.output[0] not in results else None

    moved = dict[str, Any]()  # by the value that they read from now on
    for shuffle in graph.node:
        if shuffle.op_type not in SHUFFLES:
            continue
        first = reader = only_reader(shuffle)
        while reader is not None and reader.op_type in BY_ELEMENT:
            reader = only_reader(reader)
        if reader is None or reader.op_type != "QuantizeLinear":
            continue
        widened = only_reader(reader)
        if widened is None or widened.op_type != "DequantizeLinear":
            continue
        if reader.input[1] not in single or widened.input[1] not in single:
            continue
        first.input[0] = shuffle.input[0]
        output = widened.output[0]
        widened.output[0] = f"{output}/before_shuffle"
        shuffle.input[0] = widened.output[0]
        shuffle.output[0] = output
        moved[shuffle.input[0]] = shuffle
    nodes = list[Any]()
    for node in graph.node:
        if node.op_type in SHUFFLES and node.input[0] in moved:
            continue
        nodes.append(node)
        if node.output[0] in moved:
            nodes.append(moved[node.output[0]])
    del graph.node[:]
    graph.node.extend(nodes)
