"""Rewrite an ONNX graph with Q/DQ nodes around float operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from .ordered import read_by

OTHER = "com.microsoft"  # domain of ONNX Runtime, whose Q/DQ nodes are per channel in every opset
INTEGERS = (2, 3, 4, 5)  # types of 8 and 16 bits
MOST_SIZES = 12
INTEGERS_ONLY = ("channels_last", "opset")  # attributes that float operators lack
# operators that keep scale and zero point of the integers they pass on
PASSING = {
    "Clip",
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}


class Pairs:
    """The rewritten nodes of a graph, with the makers, readers and scales of its values."""

    def __init__(self, graph: Any, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants = constants_of(graph)
        self.makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            self.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.returned = Counter(value.name for value in graph.output)
        self.scales: dict[str, tuple[str, str]] = {}  # of integers: scale and zero point
        self.done: set[str] = set()  # outputs of nodes that are already rewritten
        self.changed = False

    def write(
        self, op: str, reads: list[str], makes: str = "", *, like: Any = None, **settings: Any
    ) -> str:
        """Write a node, with name and attributes of the node `like`; return the name of its output."""
        from onnx import helper

        self.changed = True
        makes = makes or f"{reads[0]} ({op} {len(self.nodes)})"
        domain = OTHER if op.endswith("tizeLinear") else ""
        node = helper.make_node(op, reads, [makes], domain=domain, **settings)
        if like is not None:
            node.name = like.name.removesuffix("_quant")  # added by ONNX Runtime's quantizer
            node.metadata_props.extend(like.metadata_props)
            node.attribute.extend(
                held for held in like.attribute if held.name not in (*settings, *INTEGERS_ONLY)
            )
        self.nodes.append(node)
        return makes

    def widen(self, value: str, scale: str, zero: str = "", *, axis: int = 1) -> str:
        """Write the node that dequantizes a value; return the name of its output."""
        reads = [value, scale, *([zero] if zero else [])]
        return self.write("DequantizeLinear", reads, axis=axis)

    def round(self, value: str, makes: str, scale: str, zero: str = "") -> None:
        """Write the node that quantizes a value to `makes`."""
        self.scales[makes] = (scale, zero)
        self.write("QuantizeLinear", [value, scale, *([zero] if zero else [])], makes)

    def shape(self, sizes: list[int]) -> str:
        """Return the name of a constant with these sizes, which is added if it is missing."""
        name = f"sizes {sizes}"
        if name not in self.constants:
            tensor = self.graph.initializer.add(name=name, data_type=7, dims=[len(sizes)])
            tensor.int64_data.extend(sizes)
            self.constants[name] = tensor
        return name

    def keep(self, node: Any) -> None:
        """Write a node unchanged. Integers that it only passes on keep their scale."""
        self.nodes.append(node)
        if node.op_type == "QuantizeLinear" and len(node.input) > 1:
            self.scales[node.output[0]] = (node.input[1], reads_of(node, 3)[2])
        elif node.op_type in PASSING and node.input and node.input[0] in self.scales:
            self.scales.update(dict.fromkeys(node.output, self.scales[node.input[0]]))

    def only_reader(self, value: str, op: str) -> Any | None:
        """Return the only reader of a value if it is of an operator, otherwise None."""
        readers = self.readers.get(value, [])
        if len(readers) != 1 or self.returned[value] or readers[0].op_type != op:
            return None
        return readers[0]

    def numbers(self, value: str) -> list[Any]:
        """Return the numbers of a small constant; none if it is computed, large or external."""
        from onnx import numpy_helper

        tensor = self.constants.get(value)
        if tensor is None or tensor.external_data or sum(tensor.dims) > MOST_SIZES:
            return []
        return list(numpy_helper.to_array(tensor).reshape(-1).tolist())

    def rank(self, value: str) -> int:
        """Return the number of axes of a constant. Raises ValueError if the value is computed."""
        if value not in self.constants:
            raise ValueError(f"expected a constant, {value!r:.80} is computed")
        return len(self.constants[value].dims)


def constants_of(graph: Any) -> dict[str, Any]:
    """Return the constant tensors of a graph by name."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        held = node.attribute
        if node.op_type == "Constant" and held and node.output:
            tensor = tensor_in(held[0])
            if tensor is not None:
                constants[node.output[0]] = tensor
    return constants


def tensor_in(held: Any) -> Any | None:
    """Return the tensor that an attribute of a Constant is, None if it is not of numbers."""
    from onnx import helper, numpy_helper

    if held.name == "value":
        return held.t
    kind = {"value_int": np.int64, "value_float": np.float32}.get(held.name.removesuffix("s"))
    if kind is None:
        return None
    return numpy_helper.from_array(np.array(helper.get_attribute_value(held), kind))


def reads_of(node: Any, count: int) -> list[str]:
    """Return the names of the first `count` inputs of a node, "" for those left out."""
    reads = [*node.input][:count]
    return reads + [""] * (count - len(reads))


def attribute_of(node: Any, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(held.i) for held in node.attribute if held.name == name), default)


def read_nodes(nodes: list[Any], returned: Iterable[str]) -> list[Any]:
    """Return the nodes whose outputs are read or that hold subgraphs."""
    read = set(returned)
    kept = []
    for node in reversed(nodes):
        if not read.isdisjoint(node.output) or any(held.HasField("g") for held in node.attribute):
            read |= {*read_by(node)}
            kept.append(node)
    return kept[::-1]
