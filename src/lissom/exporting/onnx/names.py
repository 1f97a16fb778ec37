"""Names of an ONNX graph: those of the network's own layers.

PyTorch's exporter notes at each node the modules around it, and the names are taken from there. So
a profile, a note about what is not in integers and a viewer of files all speak of the user's
layers.
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

# of which there are many, and files are to be small
SHORT = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}
LONG = {short: kind for kind, short in SHORT.items()}

# what operations that hold weights have in their names, fused and integer ones too
WEIGHTED = r"Conv|Gemm|MatMul"


def name_by_layer(proto: Any, prefix: str) -> None:
    """Name each node of an exported model after the layer that it comes from, as in
    blocks.0.conv1/Conv, in place.

    What follows the slash is the operation, and a number where a layer has several. Outputs are
    named as their nodes, except the graph's own. `prefix` is what lissom's wrappers put ahead of
    the names of the network's layers and tensors; sites at which activations are rounded belong to
    the layer they are in. What makes weights of integers, and is gone once a file is loaded, has no
    name, and its output a number.
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
            # the exporter folds batch-norm into the convolution before it, and then says that of
            # the batch-norm
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
    """Give values other names, in a graph and in those that its nodes hold as branches and loops,
    in place.
    """
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for held in node.attribute:
            for inner in (*([held.g] if held.HasField("g") else []), *held.graphs):
                hidden = {value.name for value in (*inner.input, *inner.initializer)}
                hidden |= outputs_of(inner.node)
                rename(inner, {name: new for name, new in names.items() if name not in hidden})


def layer_of(scopes: str, prefix: str) -> str:
    """Return the innermost layer of what the exporter noted at a node.

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
    """Return what leads from the name of a node, and what a runtime made of it, to the layer of a file.

    ONNX Runtime names a convolution after the activation that it took in; the layer is that of the
    convolution. Of files other than ONNX the name itself says it.
    """
    if path.suffix not in (".onnx", ENDING):
        return lambda name, _: layer_named(name)
    proto = model_in(path)
    nodes = dict[str, Any]()  # by name, and by the names of what they make
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
    """Return the layer of a node as a runtime names it, which adds words of its own, or its
    operation if it has none.

    Nodes of files that others made keep their names.

    >>> layer_named("blocks.1.shortcut.0/Conv_token_23"), layer_named("q_2")
    ('blocks.1.shortcut.0', 'QuantizeLinear')
    >>> layer_named("ReduceMean_acdb_abcd_Reshape")
    'ReduceMean'
    """
    if node in LONG or (node.rpartition("_")[0] in LONG and node.rpartition("_")[2].isdecimal()):
        return LONG[node.partition("_")[0]]
    first = node.split("/")[0]
    if "/" in node:
        # a change of layout, named after what it stands between
        return re.sub(r"^.*_(abcd|acdb)_", "", first)
    return re.sub(r"^([A-Z][A-Za-z]*)_(\d+|token_.*|raster_.*|(abcd|acdb)_.*)$", r"\1", first)
