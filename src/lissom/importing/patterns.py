"""Merge nodes that exporters write for one operator back into that operator.

Older opsets have no Gelu or LayerNormalization, so exporters write them as several nodes. As one
operator they become one layer or call, and are pruned and quantized as one.
"""

from __future__ import annotations

import math

from torch import Tensor

from .nodes import File, Node
from .products import Product, Reader, near


def simplify(file: File) -> None:
    """Merge groups of nodes into the operators that they compute, in place."""
    drop_identities(file)
    merge_activations(file)
    merge_layer_norms(file)
    merge_biases(file)
    drop_unread(file)


def drop_identities(file: File) -> None:
    """Make nodes read the input of an Identity instead of its output. Does nothing if the file has
    subgraphs, which may read the Identity.
    """
    if any(node.branches for node in file.nodes):
        return
    same: dict[str, str] = {}
    for node in file.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        if node.op == "Identity" and not node.domain and node.inputs and node.outputs:
            same[node.outputs[0]] = node.inputs[0]


def drop_unread(file: File) -> None:
    """Remove the nodes whose outputs nobody reads."""
    users = file.users
    kept = []
    for node in reversed(file.nodes):
        if any(users[name] for name in node.outputs if name):
            kept.append(node)
        else:
            users.subtract(node.inputs)
    file.nodes = kept[::-1]


def merge_activations(file: File) -> None:
    """Merge the activations that are written as products: gelu, silu, hardswish, mish."""
    reader = Reader(file)
    for node in reversed(file.nodes):
        if node.op not in ("Mul", "Div") or node.domain:
            continue
        product = reader.product(node.outputs[0])
        if len(product.factors) != 2:
            continue
        for x, gate in (product.factors, product.factors[::-1]):
            found = activation(reader, product, x, gate)
            if found is not None:
                op, attributes = found
                node.op = op
                node.inputs = [x]
                node.attributes = attributes
                break


def activation(
    reader: Reader, product: Product, x: str, gate: str
) -> tuple[str, dict[str, str]] | None:
    """Return the activation that x times a gate computes, with its attributes; None if unknown."""
    maker = reader.makers.get(gate)
    if maker is None or maker.domain:
        return None
    if near(product.number, 1.0):
        if maker.op == "Sigmoid" and maker.inputs == [x]:
            return "Swish", {}
        if maker.op == "HardSigmoid" and maker.inputs == [x] and is_sixth(maker):
            return "HardSwish", {}
        if maker.op == "Tanh" and (inner := reader.made_by(maker.inputs[0], "Softplus")):
            return ("Mish", {}) if inner.inputs == [x] else None
    if near(product.number, 1 / 6) and is_clipped(reader, gate, x):
        return "HardSwish", {}
    if near(product.number, 0.5) and (bent := reader.plus(gate)) and bent[1] == 1:
        if (erf := reader.made_by(bent[0], "Erf")) and near(
            reader.times(erf.inputs[0], x), math.sqrt(0.5)
        ):
            return "Gelu", {}
        if (tanh := reader.made_by(bent[0], "Tanh")) and is_cubic(reader, tanh.inputs[0], x):
            return "Gelu", {"approximate": "tanh"}
    return None


def is_sixth(node: Node) -> bool:
    """Return whether a HardSigmoid has the slope of PyTorch's."""
    return near(node.attributes.get("alpha", 0.2), 1 / 6)


def is_clipped(reader: Reader, gate: str, x: str) -> bool:
    """Return whether a value is x + 3 clipped to 0 and 6."""
    clip = reader.made_by(gate, "Clip")
    if clip is None or reader.plus(clip.inputs[0]) != (x, 3):
        return False
    bounds = [reader.number(name) for name in clip.inputs[1:]]
    return (bounds or [clip.attributes.get("min"), clip.attributes.get("max")]) == [0, 6]


def is_cubic(reader: Reader, name: str, x: str) -> bool:
    """Return whether a value is sqrt(2 / pi) (x + 0.044715 x^3)."""
    outer = reader.product(name, whole=True)
    if len(outer.factors) != 1 or not near(outer.number, math.sqrt(2 / math.pi)):
        return False
    total = reader.made_by(outer.factors[0], "Add", 2)
    if total is None or x not in total.inputs:
        return False
    other = next((value for value in total.inputs if value != x), "")
    cube = reader.product(other, whole=True)
    if not near(cube.number, 0.044715):
        return False
    if cube.factors == [x, x, x]:
        return True
    power = reader.made_by(cube.factors[0], "Pow", 2) if len(cube.factors) == 1 else None
    return power is not None and power.inputs[0] == x and reader.number(power.inputs[1]) == 3


def merge_layer_norms(file: File) -> None:
    """Merge layer normalisations over the last axis that are written as several nodes."""
    reader = Reader(file)
    readers: dict[str, list[Node]] = {}
    for node in file.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    for node in file.nodes:
        found = centred(reader, node)
        if found is None:
            continue
        x, eps = found
        node.op = "LayerNormalization"
        node.inputs = [x]
        node.attributes = {"axis": -1, "epsilon": eps}
        for op in ("Mul", "Add"):  # by a scale, and with a bias
            after = readers.get(node.outputs[0], [])
            row = constant_beside(reader, after[0], node.outputs[0]) if len(after) == 1 else ""
            if not row or after[0].op != op or reader.users[node.outputs[0]] > 1:
                break
            node.inputs.append(row)
            node.outputs = list(after[0].outputs)
            after[0].outputs = [""]
    file.nodes = in_order(file)


def centred(reader: Reader, node: Node) -> tuple[str, float] | None:
    """Return the value that a division normalises and the epsilon added to its variance, or None."""
    if node.op != "Div" or node.domain:
        return None
    x = difference(reader, node.inputs[0])
    root = reader.made_by(node.inputs[1], "Sqrt")
    shifted = reader.plus(root.inputs[0]) if root is not None else None
    if x is None or shifted is None:
        return None
    squares = averaged(reader, shifted[0])
    power = reader.made_by(squares, "Pow", 2) if squares else None
    times = reader.made_by(squares, "Mul", 2) if squares else None
    if power is not None and reader.number(power.inputs[1]) == 2:
        same = difference(reader, power.inputs[0]) == x
    else:
        same = times is not None and {difference(reader, name) for name in times.inputs} == {x}
    return (x, shifted[1]) if same else None


def difference(reader: Reader, name: str) -> str | None:
    """Return x if a value is x minus its mean over the last axis, otherwise None."""
    node = reader.made_by(name, "Sub", 2)
    if node is None or averaged(reader, node.inputs[1]) != node.inputs[0]:
        return None
    return node.inputs[0]


def averaged(reader: Reader, name: str) -> str | None:
    """Return x if a value is the mean of x over the last axis with keepdims, otherwise None."""
    node = reader.made_by(name, "ReduceMean")
    if node is None or not node.attributes.get("keepdims", 1):
        return None
    axes = node.attributes.get("axes")
    if (
        axes is None
        and len(node.inputs) > 1
        and (held := reader.constants.get(node.inputs[1])) is not None
    ):
        axes = held.tolist()
    return node.inputs[0] if axes == [-1] else None


def constant_beside(reader: Reader, node: Node, name: str) -> str:
    """Return the constant row that a node combines with a value, "" if there is none."""
    others = [value for value in node.inputs if value != name]
    fits = len(others) == 1 and len(node.inputs) == 2 and others[0] in reader.constants
    return others[0] if fits and reader.constants[others[0]].ndim == 1 else ""


def in_order(file: File) -> list[Node]:
    """Return the nodes that still have outputs, constants first."""
    nodes = [node for node in file.nodes if any(node.outputs)]
    return sorted(nodes, key=lambda node: node.op != "Constant")


def merge_biases(file: File) -> None:
    """Merge a constant bias into the product with a constant matrix before it."""
    users = file.users
    makers = file.makers
    dropped: set[int] = set()
    for node in file.nodes:
        if node.op != "Add" or node.domain:
            continue
        for product, row in (node.inputs, node.inputs[::-1]):
            maker = makers.get(product)
            if maker is None or maker.op != "MatMul" or len(maker.inputs) != 2:
                continue
            bias = file.tensors.get(row)
            weight = matrix(file, makers, maker.inputs[1])
            if bias is None or weight is None or weight.ndim != 2 or users[product] > 1:
                continue
            if bias.shape == weight.shape[1:]:
                maker.inputs.append(row)
                maker.outputs[0] = node.outputs[0]
                dropped.add(id(node))
                break
    file.nodes = [node for node in file.nodes if id(node) not in dropped]


def matrix(file: File, makers: dict[str, Node], name: str) -> Tensor | None:
    """Return a constant, or the integers that it is dequantized from; None if it is computed."""
    maker = makers.get(name)
    widened = maker is not None and maker.op == "DequantizeLinear" and maker.inputs
    return file.tensors.get(maker.inputs[0] if maker is not None and widened else name)
