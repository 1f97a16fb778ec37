"""Recognise products and constants in the graph of a file."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .nodes import File, Node

MOST_FACTORS = 8  # that a product is split into: no activation has more


@dataclass
class Product:
    """A product of one number and several values."""

    number: float = 1.0
    factors: list[str] = field(default_factory=list)


class Reader:
    """The values of a file: the node that makes each, how often it is read, and the constants."""

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
        """Return the node that makes a value if it is of an operator, otherwise None."""
        node = self.makers.get(name)
        if node is None or node.op != op or node.domain:
            return None
        return node if inputs is None or len(node.inputs) == inputs else None

    def number(self, name: str) -> float | None:
        """Return the number in a constant of one element; None for other values."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.numel() != 1 or tensor.dtype == torch.bool:
            return None
        return float(tensor)

    def plus(self, name: str) -> tuple[str, float] | None:
        """Return the value and the number whose sum is `name`, None if it is no such sum."""
        node = self.made_by(name, "Add", 2)
        for value, other in () if node is None else (node.inputs, node.inputs[::-1]):
            if (number := self.number(other)) is not None:
                return value, number
        return None

    def product(self, name: str, *, whole: bool = False) -> Product:
        """Return a value as a product. Factors with other readers are split only if `whole`."""
        found = Product()
        self.multiply(found, name, first=True, whole=whole)
        return found

    def multiply(self, found: Product, name: str, *, first: bool, whole: bool) -> None:
        """Multiply a product by a value, which is split into its factors if possible."""
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
        """Return the number c with `name` = c * `value`, None if there is none."""
        product = self.product(name, whole=True)
        return product.number if product.factors == [value] else None


def near(number: float | None, wanted: float) -> bool:
    """Return whether a number is the wanted one up to 0.1 %."""
    return number is not None and abs(number - wanted) <= 1e-3 * abs(wanted)
