"""A mapping whose keys are tensors by identity, not by value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, TypeVar

from torch import Tensor

V = TypeVar("V")


class ByTensor(MutableMapping[Any, V]):
    """Map tensors to values; each tensor is kept alive, so that its id is not used again.

    Keys that are not tensors may be looked up and are absent. Sets need no such class: tensors hash
    by identity, as PyTorch's own sets of parameters rely on.

    >>> import torch
    >>> one, two = torch.zeros(2), torch.zeros(2)
    >>> names = ByTensor([(one, "one")])
    >>> one in names, two in names, names[one], names.get(two, "none")
    (True, False, 'one', 'none')
    >>> names.setdefault(two, "two"), names.pop(one), len(names), list(names)[0] is two
    ('two', 'one', 1, True)
    """

    def __init__(self, items: Iterable[tuple[Tensor, V]] = ()) -> None:
        self._items = {id(tensor): (tensor, value) for tensor, value in items}

    def __setitem__(self, tensor: Tensor, value: V) -> None:
        self._items[id(tensor)] = (tensor, value)

    def __getitem__(self, tensor: Tensor) -> V:
        return self._items[id(tensor)][1]

    def __delitem__(self, tensor: Tensor) -> None:
        del self._items[id(tensor)]

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._items

    def __iter__(self) -> Iterator[Tensor]:
        """Yield every tensor, in order of insertion."""
        for tensor, _ in self._items.values():
            yield tensor

    def __len__(self) -> int:
        return len(self._items)
