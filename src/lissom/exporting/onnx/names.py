"""Name the nodes of an ONNX graph after the network's layers.

PyTorch's exporter records at each node the modules around it; names come from there. So profiles,
notes about operations that run in float and viewers of files all show the user's layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...importing.file import model_in
from ...importing.names import SCOPES, scopes_in
from ...importing.packed import ENDING
from .graph import outputs_of

# short names, since there are many of these nodes and files should be small
SHORT_KINDS = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}
LONG_KINDS = {short: kind for kind, short in SHORT_KINDS.items()}

# the names of operations with weights contain one of these, also if fused or in integers
WEIGHTED = r"Conv|Gemm|MatMul"


def name_by_layer(proto: Any, prefix: str) -> None:
    """Name each node of an exported model after its layer, as in blocks.0.conv1/Conv, in place.

    After the slash comes the operation, with a number if a layer has several. Outputs are named
    like their nodes, except the outputs of the graph. `prefix` is the text that lissom's wrappers
    add before the names of layers and tensors. Roundings of activations belong to the layer they
    are in. Nodes that dequantize weights get no name, and their outputs a number: they vanish when
    a file is loaded.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    kept_names = {value.name for value in (*proto.graph.input, *proto.graph.output)} | weights
    used_names = set(kept_names)
    renamed = dict[str, str]()
    for tensor in proto.graph.initializer:
        short = tensor.name.removeprefix(prefix)
        if short not in used_names:
            renamed[tensor.name] = tensor.name = short
            used_names.add(short)
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            renamed[node.output[0]] = f"/{len(renamed)}"
            node.name = ""
            continue
        layer = innermost_layer(
            next((p.value for p in node.metadata_props if p.key == SCOPES), "[]"), prefix
        )
        if (
            re.search(WEIGHTED, node.op_type)
            and node.input[1] in weights
            and node.input[1].endswith(".weight")
        ):
            # the exporter folds a batch-norm into the convolution before it and then records the
            # batch-norm as the layer
            layer = node.input[1].removeprefix(prefix).removesuffix(".weight")
        kind = SHORT_KINDS.get(node.op_type, node.op_type)
        stem = f"{layer}/{kind}" if layer else kind
        name = stem
        number = 0
        while name in used_names:
            number += 1
            name = f"{stem}_{number}"
        used_names.add(name)
        node.name = name
        for index, output in enumerate(node.output):
            if output and output not in kept_names:
                renamed[output] = name if not index else f"{name}:{index}"
    rename_values(proto.graph, renamed)


def rename_values(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values in a graph and in the branches and loops inside it, in place."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for subgraph in (
                *([attribute.g] if attribute.HasField("g") else []),
                *attribute.graphs,
            ):
                own_names = {value.name for value in (*subgraph.input, *subgraph.initializer)}
                own_names |= outputs_of(subgraph.node)
                rename_values(
                    subgraph, {name: new for name, new in names.items() if name not in own_names}
                )


def innermost_layer(scopes: str, prefix: str) -> str:
    """Return the innermost layer of the scopes that the exporter recorded at a node.

    >>> innermost_layer("['', 'network', 'network.stem', 'grids.conv1', '_symbolic_1']", "network.")
    'stem'
    """
    inner = next(
        (s for s in reversed(scopes_in(scopes)[:-1]) if s and not s.startswith("grids.")), ""
    )
    return (
        "" if inner + "." == prefix or not inner.startswith(prefix) else inner.removeprefix(prefix)
    )


def layer_lookup(path: Path) -> Callable[[str, str], str]:
    """Return a function from a runtime's node name and operation to the layer in the file.

    ONNX Runtime names a convolution after the activation function fused into it; the function
    returns the layer of the convolution. For files other than ONNX it reads the name alone.
    """
    if path.suffix not in (".onnx", ENDING):
        return lambda name, _: layer_of_node(name)
    proto = model_in(path)
    nodes = dict[str, Any]()  # by their names and by the names of their outputs
    for node in proto.graph.node:
        nodes.update(dict.fromkeys((*node.output, node.name), node))

    def layer(name: str, operation: str) -> str:
        node = nodes.get(re.sub(r"(_token_\d+|_nchwc|/WithoutBiases)$", "", name))
        if node is None:
            return layer_of_node(name)
        while (
            re.search(WEIGHTED, operation)
            and not re.search(WEIGHTED, node.op_type)
            and node.input[0] in nodes
        ):
            node = nodes[node.input[0]]
        return layer_of_node(node.name or name)

    return layer


def layer_of_node(node: str) -> str:
    """Return the layer of a node from its name in a runtime, which adds suffixes, or its operation
    if it has no layer.

    Nodes of files that lissom did not write keep their names.

    >>> layer_of_node("blocks.1.shortcut.0/Conv_token_23"), layer_of_node("q_2")
    ('blocks.1.shortcut.0', 'QuantizeLinear')
    >>> layer_of_node("ReduceMean_acdb_abcd_Reshape")
    'ReduceMean'
    """
    if node in LONG_KINDS or (
        node.rpartition("_")[0] in LONG_KINDS and node.rpartition("_")[2].isdecimal()
    ):
        return LONG_KINDS[node.partition("_")[0]]
    first = node.split("/")[0]
    if "/" in node:
        # a change of layout, named after the nodes around it
        return re.sub(r"^.*_(abcd|acdb)_", "", first)
    return re.sub(r"^([A-Z][A-Za-z]*)_(\d+|token_.*|raster_.*|(abcd|acdb)_.*)$", r"\1", first)
