"""The graph of an ONNX file as plain nodes: operator, names of inputs and outputs, attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import LissomError
from .names import SCOPES
from .tensors import array_of

MOST_NODES = 100_000
MOST_NUMBERS = 100_000  # in one attribute
OWN = ("", "ai.onnx")
# kinds of attributes
FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS = range(1, 9)


@dataclass(eq=False)
class Node:
    """A node of a file. An input that is left out has the name ""."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    scope: str = ""  # the modules around it, as PyTorch's exporter writes them

    @property
    def branches(self) -> list[Any]:
        """Return the graphs of an If."""
        held = (self.attributes.get(name) for name in ("then_branch", "else_branch"))
        return [graph for graph in held if graph is not None] if self.op == "If" else []

    def __str__(self) -> str:
        return f"{self.op:.40} (node {self.name or next(filter(None, self.outputs), '')!r:.80})"


@dataclass
class File:
    """A graph as read from a file: inputs with types and sizes, outputs, nodes in order, tensors."""

    inputs: list[Any]
    outputs: list[str]
    nodes: list[Node]
    tensors: dict[str, torch.Tensor]
    opset: int
    folder: Path
    metadata: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def users(self) -> Counter[str]:
        """Return the number of times that each value is read."""
        counts = Counter(self.outputs)
        for node in self.nodes:
            counts.update(node.inputs)
            for graph in node.branches:
                counts.update(read_in(graph))
        return counts

    @property
    def makers(self) -> dict[str, Node]:
        """Return the node that makes each value."""
        made: dict[str, Node] = {}
        for node in self.nodes:
            made.update(dict.fromkeys(node.outputs, node))
        return made


def file_of(proto: Any, folder: Path) -> File:
    """Return the graph of a model. Raises ValueError or LissomError if it is invalid or too large."""
    graph = proto.graph
    if len(graph.node) > MOST_NODES:
        raise LissomError(f"it has {len(graph.node)} nodes, at most {MOST_NODES} are read")
    if graph.sparse_initializer:
        raise LissomError("it holds sparse tensors, which are not read; export it with dense ones")
    held = {tensor.name: tensor_of(tensor, folder) for tensor in graph.initializer}
    return File(
        [value for value in graph.input if value.name not in held],
        [value.name for value in graph.output],
        [node_of(node, folder) for node in graph.node],
        held,
        opset_of(proto),
        folder,
        {entry.key: entry.value for entry in proto.metadata_props},
    )


def opset_of(proto: Any) -> int:
    """Return the version of ONNX's operators that a model uses."""
    return next((o.version for o in proto.opset_import if o.domain in OWN), 1)


def read_in(graph: Any) -> Iterator[str]:
    """Yield the names of the values that a graph and its subgraphs read and return."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for held in node.attribute:
            if held.type == GRAPH:
                yield from read_in(held.g)


def tensor_of(proto: Any, folder: Path) -> torch.Tensor:
    """Return a tensor of a file."""
    return torch.from_numpy(array_of(proto, folder))


def node_of(proto: Any, folder: Path) -> Node:
    """Return a node. Attributes that hold graphs stay protobuf messages."""
    return Node(
        proto.op_type,
        proto.name,
        list(proto.input),
        list(proto.output),
        dict(attributes_of(proto, folder)),
        "" if proto.domain in OWN else proto.domain,
        next((entry.value for entry in proto.metadata_props if entry.key == SCOPES), ""),
    )


def attributes_of(proto: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a node by name."""
    for held in proto.attribute:
        if max(len(held.floats), len(held.ints), len(held.strings)) > MOST_NUMBERS:
            raise ValueError(f"'{held.name:.80}' has more than {MOST_NUMBERS} numbers")
        if held.type == TENSOR:
            yield held.name, tensor_of(held.t, folder)
        elif held.type == GRAPH:
            yield held.name, held.g
        elif held.type in (FLOAT, INT):
            yield held.name, held.f if held.type == FLOAT else held.i
        elif held.type in (FLOATS, INTS):
            yield held.name, [*(held.floats if held.type == FLOATS else held.ints)]
        elif held.type == STRING:
            yield held.name, held.s.decode(errors="replace")
        elif held.type == STRINGS:
            yield held.name, [text.decode(errors="replace") for text in held.strings]
