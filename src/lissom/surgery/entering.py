"""The input tensors of a network, with names that do not depend on how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..trees import Tree, tensors_in


def entering(network: nn.Module, inputs: Tree) -> dict[str, Tensor]:
    """Return the tensors of a tree of inputs by site: "input", and "input_NAME" if not the first.

    >>> import torch
    >>> list(entering(nn.Bilinear(2, 2, 2), (torch.zeros(1, 2), torch.ones(1, 2))))
    ['input', 'input_input2']
    """
    if isinstance(inputs, Tensor):
        return {"input": inputs}
    if isinstance(inputs, Mapping):
        return entering_as(network, (), inputs)
    return entering_as(network, tuple(inputs), {})


def entering_as(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the tensors among the arguments of a call by site, as `entering` names them."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        return {"input": args[0]}
    try:
        signature = inspect.signature(network.forward)
        places = {name: place for place, name in enumerate(signature.parameters)}
        arguments = dict(signature.bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # the call itself will raise an error
        arguments = {**{f"{place}": value for place, value in enumerate(args)}, **kwargs}
        places = {name: place for place, name in enumerate(arguments)}
    tensors: dict[str, Tensor] = {}
    for name, value in arguments.items():
        for number, tensor in enumerate(tensors_in(value)):
            word = "input" if places[name] == 0 else f"input_{name}"
            tensors[f"{word}_{number}" if number else word] = tensor
    return tensors
