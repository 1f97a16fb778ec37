"""Products and constants in the graph of a file, read through the nodes that make them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .nodes import File, Node

MOST_FACTORS = 8  # of a product that is taken apart: no activation has more


@dataclass
class Product:
    """A product: one number, and the values that are multiplied."""

    number: float = 1.0
    factors: list[str] = field(default_factory=list)


class Reader:
    """What makes each value of a file, and how often it is read."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.makers = file.makers
        self.users = file.users
        self.constants: dict[str, torch.Tensor] = dict(file.tensors)
        for node in file.nodes:
            tensor = node.attributes.get("value")
            if node.op == "Constant" and isinstance(tensor, torch.Tensor):
                self.constants[node.outputs[0]] = tensor

    def made_by(self, name: str, op: str, inputs: int | None = None) -> Node | None:
        """Return the node that makes a value, if it is of an operator."""
        node = self.makers.get(name)
        if node is None or node.op != op or node.domain:
            return None
        return node if inputs is None or len(node.inputs) == inputs else None

    def number(self, name: str) -> float | None:
        """Return the number that a constant of one element is; None for other values."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.numel() != 1 or tensor.dtype == torch.bool:
            return None
        return float(tensor)

    def plus(self, name: str) -> tuple[str, float] | None:
        """Return a value and the number that is added to it."""
        node = self.made_by(name, "Add", 2)
        for value, other in () if node is None else (node.inputs, node.inputs[::-1]):
            if (number := self.number(other)) is not None:
                return value, number
        return None

    def product(self, name: str, *, whole: bool = False) -> Product:
        """Return a value as a product; factors that are read elsewhere, too, are not taken apart."""
        found = Product()
        self.multiply(found, name, first=True, whole=whole)
        return found

    def multiply(self, found: Product, name: str, *, first: bool, whole: bool) -> None:
        """Put a factor into a product."""
        if (number := self.number(name)) is not None:
            found.number *= number
            return
        node = self.makers.get(name)
        apart = (first or whole or self.users[name] == 1) and len(found.factors) < MOST_FACTORS
        if node is not None and apart and not node.domain and len(node.inputs) == 2:
            if node.op == "Mul":
                for factor in node.inputs:
                    self.multiply(found, factor, first=False, whole=whole)
                return
            divisor = self.number(node.inputs[1]) if node.op == "Div" else None
            if divisor:
                found.number /= divisor
                self.multiply(found, node.inputs[0], first=False, whole=whole)
                return
        found.factors.append(name)

    def times(self, name: str, value: str) -> float | None:
        """Return by which number a value is multiplied to make another; None where it does not."""
        product = self.product(name, whole=True)
        return product.number if product.factors == [value] else None


def near(number: float | None, wanted: float) -> bool:
    """Return whether a number is the one that was meant."""
    return number is not None and abs(number - wanted) <= 1e-3 * abs(wanted)
