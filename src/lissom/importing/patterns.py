"""What exporters write in several nodes, as the one operator that it is."""

from __future__ import annotations

from .nodes import File


def simplify(file: File) -> None:
    """Put operators in the place of the nodes that exporters make of them, in place."""
    merge_biases(file)


def merge_biases(file: File) -> None:
    """Give a product with a constant matrix the constant row that is added to it next."""
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
            weight = file.tensors.get(maker.inputs[1])
            if bias is None or weight is None or weight.ndim != 2 or users[product] > 1:
                continue
            if bias.shape == weight.shape[1:]:
                maker.inputs.append(row)
                maker.outputs[0] = node.outputs[0]
                dropped.add(id(node))
                break
    file.nodes = [node for node in file.nodes if id(node) not in dropped]
