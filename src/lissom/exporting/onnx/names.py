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
from .activations import outputs_of

# short names, since there are many of these nodes and files should be small
SHORT = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}
LONG = {short: kind for kind, short in SHORT.items()}

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
    fixed = {value.name for value in (*proto.graph.input, *proto.graph.output)} | weights
    taken = set(fixed)
    renamed = dict[str, str]()
    for tensor in proto.graph.initializer:
        short = tensor.name.removeprefix(prefix)
        if short not in taken:
            renamed[tensor.name] = tensor.name = short
            taken.add(short)
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            renamed[node.output[0]] = f"/{len(renamed)}"
            node.name = ""
            continue
        where = layer_of(
            next((p.value for p in node.metadata_props if p.key == SCOPES), "[]"), prefix
        )
        if (
            re.search(WEIGHTED, node.op_type)
            and node.input[1] in weights
            and node.input[1].endswith(".weight")
        ):
            # the exporter folds a batch-norm into the convolution before it and then records the
            # batch-norm as the layer
            where = node.input[1].removeprefix(prefix).removesuffix(".weight")
        kind = SHORT.get(node.op_type, node.op_type)
        stem = f"{where}/{kind}" if where else kind
        name = stem
        number = 0
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        node.name = name
        for place, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = name if not place else f"{name}:{place}"
    rename(proto.graph, renamed)


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values in a graph and in the branches and loops inside it, in place."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for held in node.attribute:
            for inner in (*([held.g] if held.HasField("g") else []), *held.graphs):
                hidden = {value.name for value in (*inner.input, *inner.initializer)}
                hidden |= outputs_of(inner.node)
                rename(inner, {name: new for name, new in names.items() if name not in hidden})


def layer_of(scopes: str, prefix: str) -> str:
    """Return the innermost layer of the scopes that the exporter recorded at a node.

    >>> layer_of("['', 'network', 'network.stem', 'grids.conv1', '_symbolic_1']", "network.")
    'stem'
    """
    inner = next(
        (s for s in reversed(scopes_in(scopes)[:-1]) if s and not s.startswith("grids.")), ""
    )
    return (
        "" if inner + "." == prefix or not inner.startswith(prefix) else inner.removeprefix(prefix)
    )


def layers_in(path: Path) -> Callable[[str, str], str]:
    """Return a function from a runtime's node name and operation to the layer in the file.

    ONNX Runtime names a convolution after the activation function fused into it; the function
    returns the layer of the convolution. For files other than ONNX it reads the name alone.
    """
    if path.suffix not in (".onnx", ENDING):
        return lambda name, _: layer_named(name)
    proto = model_in(path)
    nodes = dict[str, Any]()  # by their names and by the names of their outputs
    for node in proto.graph.node:
        nodes.update(dict.fromkeys((*node.output, node.name), node))

    def layer(name: str, made_of: str) -> str:
        node = nodes.get(re.sub(r"(_token_\d+|_nchwc|/WithoutBiases)$", "", name))
        if node is None:
            return layer_named(name)
        while (
            re.search(WEIGHTED, made_of)
            and not re.search(WEIGHTED, node.op_type)
            and node.input[0] in nodes
        ):
            node = nodes[node.input[0]]
        return layer_named(node.name or name)

    return layer


def layer_named(node: str) -> str:
    """Return the layer of a node from its name in a runtime, which adds suffixes, or its operation
    if it has no layer.

    Nodes of files that lissom did not write keep their names.

    >>> layer_named("blocks.1.shortcut.0/Conv_token_23"), layer_named("q_2")
    ('blocks.1.shortcut.0', 'QuantizeLinear')
    >>> layer_named("ReduceMean_acdb_abcd_Reshape")
    'ReduceMean'
    """
    if node in LONG or (node.rpartition("_")[0] in LONG and node.rpartition("_")[2].isdecimal()):
        return LONG[node.partition("_")[0]]
    first = node.split("/")[0]
    if "/" in node:
        # a change of layout, named after the nodes around it
        return re.sub(r"^.*_(abcd|acdb)_", "", first)
    return re.sub(r"^([A-Z][A-Za-z]*)_(\d+|token_.*|raster_.*|(abcd|acdb)_.*)$", r"\1", first)
