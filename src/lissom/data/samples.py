"""Turn a user's samples into batches: tensors, arrays, pairs with labels, data loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LissomError, cut, type_of
from ..trees import Tree, first, length, mapped, parts_of, tensors_in


def as_tensors(given: Any) -> Tree:
    """Return a tree with its arrays converted to tensors."""
    if isinstance(given, np.ndarray):
        return torch.from_numpy(np.asarray(given, order="C"))
    if isinstance(given, Mapping):
        return {key: as_tensors(part) for key, part in given.items()}
    if isinstance(given, (list, tuple)):
        parts = [as_tensors(part) for part in given]
        return type(given)(*parts) if hasattr(given, "_fields") else type(given)(parts)
    return given


def example_of(given: Any, model: nn.Module) -> Tree:
    """Return a copy of the example as tensors on the device of `model`.

    Floats of NumPy arrays get the type of the weights. Raises LissomError if there is no tensor.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    tree = as_tensors(given)
    if not any(True for _ in tensors_in(tree)):
        raise LissomError(
            f"apply: `example` is {type_of(given)}; expected one input as the "
            "network takes it: a "
            "tensor (n ...), a tuple of its arguments, or a dict of them by name"
        )
    if not list(tensors_in(given)):  # arrays are float64 by default, not by choice
        tree = mapped(lambda t: t.to(weight.dtype) if t.is_floating_point() else t, tree)
    return mapped(lambda t: t.detach().clone().to(weight.device), tree)


def fitted(given: Tree, example: Tree) -> Tree | None:
    """Return the part of a tree that has the form of the example, None if there is none.

    Tensors without a batch axis get one; extra arguments are dropped.
    """
    if isinstance(example, Tensor):
        if not isinstance(given, Tensor) or given.ndim not in (example.ndim, example.ndim - 1):
            return None
        if given.is_floating_point() != example.is_floating_point() and example.dtype != torch.bool:
            return None
        whole = given if given.ndim == example.ndim else given[None]
        return whole.to(device=example.device, dtype=example.dtype)
    if isinstance(example, Mapping):
        if not isinstance(given, Mapping) or not given.keys() >= example.keys():
            return None
        found = {key: fitted(given[key], part) for key, part in example.items()}
        return (
            None
            if any(part is None and example[key] is not None for key, part in found.items())
            else found
        )
    if isinstance(example, (list, tuple)):
        if not isinstance(given, (list, tuple)) or len(given) < len(example):
            return None
        parts = [fitted(part, like) for part, like in zip(given, example, strict=False)]
        return (
            None
            if any(
                part is None and like is not None for part, like in zip(parts, example, strict=True)
            )
            else tuple(parts)
        )
    return example


def picked(given: Tree, example: Tree) -> Tree | None:
    """Return the inputs in an item of a data loader, None if nothing fits the example.

    The inputs are the whole item, its first part (before a label), or the only tensor that fits.
    """
    found = fitted(given, example)
    if found is None and isinstance(given, (list, tuple)) and given:
        return fitted(given[0], example)
    if found is None and isinstance(given, Mapping) and isinstance(example, Tensor):
        fits = [
            part
            for part in (fitted(part, example) for part in parts_of(given))
            if part is not None and part.shape[1:] == example.shape[1:]
        ]
        return fits[0] if len(fits) == 1 else None
    return found


class Samples:
    """Calibration samples in batches, read from the user's data on demand and kept."""

    def __init__(self, given: Any, example: Tree) -> None:
        self.example = example
        tree = (
            as_tensors(given)
            if isinstance(given, (np.ndarray, Tensor, Mapping, list, tuple))
            else given
        )
        several = isinstance(example, (list, tuple)) and isinstance(tree, (list, tuple))
        whole = isinstance(tree, (Tensor, Mapping)) or (
            several and fitted(tree, example) is not None
        )
        if not whole and not isinstance(tree, Iterable) and not hasattr(tree, "__getitem__"):
            raise LissomError(
                f"apply: `images` is {type_of(given)}; expected a tensor or array "
                "(n ...), or batches "
                "of them, as a list or a DataLoader yields them"
            )
        self.left: Iterator[Any] = iter([tree]) if whole else iter(tree)
        self.kept: list[Tree] = []

    def __call__(self, count: int) -> list[Tree]:
        """Return up to `count` samples in batches."""
        while sum(map(length, self.kept)) < count:
            try:
                self.kept.append(self.batch(next(self.left)))
            except (StopIteration, IndexError):
                break
        taken: list[Tree] = []
        for batch in self.kept:
            left = count - sum(map(length, taken))
            if left > 0:
                taken.append(first(batch, left))
        return taken

    def batch(self, given: Any) -> Tree:
        """Return the inputs in one batch. Raises LissomError if they do not fit the example."""
        tree = as_tensors(given)
        found = picked(tree, self.example)
        if found is None:
            raise LissomError(
                "apply: `images` do not fit `example`: expected "
                f"{described(self.example)} as it has, alone "
                f"or before a label; got {described(tree)}"
            )
        return found


def described(tree: Tree) -> str:
    """Return a short description of a tree: its shape and type, or its parts.

    >>> described((torch.zeros(2, 3), "label"))
    '((2, 3) float32, str)'
    """
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, Mapping):
        return cut("{" + ", ".join(f"{key}: {described(part)}" for key, part in tree.items()) + "}")
    if isinstance(tree, (list, tuple)):
        return cut(f"({', '.join(map(described, tree[:6]))}{', ...' if len(tree) > 6 else ''})")
    return type(tree).__name__
