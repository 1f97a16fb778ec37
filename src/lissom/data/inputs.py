"""What a network takes, as a record keeps it: shape, type and range of each input, and how they are
handed over.

A single tensor of floats needs no more than its shape. For others there is a list of inputs, and a
form: the place in this list where a network takes one tensor, else a list or dict of such forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..trees import Tree, tensors_in


def inputs_of(samples: Tree) -> list[dict[str, Any]]:
    """Return shape (without the batch), type and range of each tensor of samples (n ...)."""
    inputs = list[dict[str, Any]]()
    for tensor in tensors_in(samples):
        facts: dict[str, Any] = {
            "shape": list(tensor.shape[1:]),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "low": None,
            "high": None,
        }
        if not tensor.is_floating_point():
            facts.update(low=int(tensor.min()), high=int(tensor.max()))
        inputs.append(facts)
    return inputs


def form_of(samples: Tree) -> Any:
    """Return how the tensors of samples are handed to a network, with places instead of tensors.

    >>> form_of({"ids": torch.zeros(1), "rest": (torch.zeros(1), torch.zeros(1))})
    {'ids': 0, 'rest': [1, 2]}
    """
    places = iter(range(sum(1 for _ in tensors_in(samples))))

    def placed(tree: Tree) -> Any:
        if isinstance(tree, Tensor):
            return next(places)
        if isinstance(tree, Mapping):
            return {str(key): placed(part) for key, part in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [placed(part) for part in tree]
        return None

    return placed(samples)


def is_plain(samples: Tree) -> bool:
    """Return whether samples are a single tensor of floats, of which the shape says all."""
    return isinstance(samples, Tensor) and samples.is_floating_point()


def example_in(inputs: Sequence[Mapping[str, Any]], form: Any, count: int = 2) -> Tree:
    """Return samples of the form that a record says: noise, integers within the range of each input."""
    draw = torch.Generator().manual_seed(0)

    def drawn(form: Any) -> Tree:
        if isinstance(form, Mapping):
            return {key: drawn(part) for key, part in form.items()}
        if isinstance(form, list):
            return tuple(drawn(part) for part in form)
        if not isinstance(form, int):
            return None
        facts = inputs[form]
        shape = (count, *facts["shape"])
        dtype = getattr(torch, facts["dtype"])
        if dtype.is_floating_point:
            return torch.randn(shape, generator=draw).to(dtype)
        low = int(facts["low"] or 0)
        high = int(facts["high"] or low)
        return torch.randint(low, high + 1, shape, generator=draw).to(dtype)

    return drawn(form)
