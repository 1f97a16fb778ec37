"""The inputs of a network in a record: shape, type and range of each, and their structure.

For a single tensor of floats the shape is enough. Other inputs are a list, and a form: the index of
a tensor in this list, or a list or dict of such forms.
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
    """Return the structure of samples, with indices instead of tensors.

    >>> form_of({"ids": torch.zeros(1), "rest": (torch.zeros(1), torch.zeros(1))})
    {'ids': 0, 'rest': [1, 2]}
    """
    places = iter(range(sum(1 for _ in tensors_in(samples))))

    def indexed(tree: Tree) -> Any:
        if isinstance(tree, Tensor):
            return next(places)
        if isinstance(tree, Mapping):
            return {str(key): indexed(part) for key, part in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [indexed(part) for part in tree]
        return None

    return indexed(samples)


def is_plain(samples: Tree) -> bool:
    """Return whether samples are a single tensor of floats, which its shape describes fully."""
    return isinstance(samples, Tensor) and samples.is_floating_point()


def example_in(inputs: Sequence[Mapping[str, Any]], form: Any, count: int = 2) -> Tree:
    """Return random samples of the recorded form: noise, and integers within each input's range."""
    draw = torch.Generator().manual_seed(0)

    def random_tree(form: Any) -> Tree:
        if isinstance(form, Mapping):
            return {key: random_tree(part) for key, part in form.items()}
        if isinstance(form, list):
            return tuple(random_tree(part) for part in form)
        if not isinstance(form, int):
            return None
        facts = inputs[form]
        shape = (count, *facts["shape"])
        dtype = getattr(torch, facts["dtype"])
        if dtype.is_floating_point:
            return torch.randn(shape, generator=draw).to(dtype)
        low = 0 if facts["low"] is None else int(facts["low"])
        high = low if facts["high"] is None else int(facts["high"])
        return torch.randint(low, high + 1, shape, generator=draw).to(dtype)

    return random_tree(form)
