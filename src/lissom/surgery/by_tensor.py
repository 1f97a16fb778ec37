"""A mapping whose keys are tensors themselves, not their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, overload

from torch import Tensor

V = TypeVar("V")


class ByTensor(Generic[V]):
    """Map tensors to values; each tensor is kept alive, so that its identity stays its own.

    >>> import torch
    >>> one, two = torch.zeros(2), torch.zeros(2)
    >>> names = ByTensor([(one, "one")])
    >>> one in names, two in names, names[one], names.get(two, "none")
    (True, False, 'one', 'none')
    """

    def __init__(self, items: Iterable[tuple[Tensor, V]] = ()) -> None:
        self._items = {id(tensor): (tensor, value) for tensor, value in items}

    def __setitem__(self, tensor: Tensor, value: V) -> None:
        self._items[id(tensor)] = (tensor, value)

    def __getitem__(self, tensor: Tensor) -> V:
        return self._items[id(tensor)][1]

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._items

    @overload
    def get(self, tensor: object) -> V | None: ...

    @overload
    def get(self, tensor: object, default: V) -> V: ...

    def get(self, tensor: object, default: V | None = None) -> V | None:
        """Return the value of a tensor, or `default`; what is no tensor has none."""
        found = self._items.get(id(tensor))
        return default if found is None else found[1]

    def items(self) -> Iterator[tuple[Tensor, V]]:
        """Yield every tensor with its value, in the order in which they came."""
        yield from self._items.values()
