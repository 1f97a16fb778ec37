"""Turn a user's samples into batches: tensors, arrays, pairs with labels, data loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LissomError, cut, type_of
from ..trees import Tree, first, length, mapped, parts_of, tensors_in


def as_tensors(value: Any) -> Tree:
    """Return a tree with its arrays converted to tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.asarray(value, order="C"))
    if isinstance(value, Mapping):
        return {key: as_tensors(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [as_tensors(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def example_of(value: Any, model: nn.Module) -> Tree:
    """Return a copy of the example as tensors on the device of `model`.

    Floats of NumPy arrays get the type of the weights. Raises LissomError if there is no tensor.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    tree = as_tensors(value)
    if not any(True for _ in tensors_in(tree)):
        raise LissomError(
            f"apply: `example` is {type_of(value)}; expected one input as the "
            "network takes it: a "
            "tensor (n ...), a tuple of its arguments, or a dict of them by name"
        )
    if not list(tensors_in(value)):  # arrays are float64 by default, not by choice
        tree = mapped(lambda t: t.to(weight.dtype) if t.is_floating_point() else t, tree)
    return mapped(lambda t: t.detach().clone().to(weight.device), tree)


def fit_to_example(tree: Tree, example: Tree) -> Tree | None:
    """Return the part of a tree that has the form of the example, None if there is none.

    Tensors without a batch axis get one; extra arguments are dropped.
    """
    if isinstance(example, Tensor):
        if not isinstance(tree, Tensor) or tree.ndim not in (example.ndim, example.ndim - 1):
            return None
        if tree.is_floating_point() != example.is_floating_point() and example.dtype != torch.bool:
            return None
        batch = tree if tree.ndim == example.ndim else tree[None]
        return batch.to(device=example.device, dtype=example.dtype)
    if isinstance(example, Mapping):
        if not isinstance(tree, Mapping) or not tree.keys() >= example.keys():
            return None
        found = {key: fit_to_example(tree[key], part) for key, part in example.items()}
        return (
            None
            if any(part is None and example[key] is not None for key, part in found.items())
            else found
        )
    if isinstance(example, (list, tuple)):
        if not isinstance(tree, (list, tuple)) or len(tree) < len(example):
            return None
        parts = [fit_to_example(part, like) for part, like in zip(tree, example, strict=False)]
        return (
            None
            if any(
                part is None and like is not None for part, like in zip(parts, example, strict=True)
            )
            else tuple(parts)
        )
    return example


def inputs_in_item(item: Tree, example: Tree) -> Tree | None:
    """Return the inputs in an item of a data loader, None if nothing fits the example.

    The inputs are the whole item, its first part (before a label), or the only tensor that fits.
    """
    inputs = fit_to_example(item, example)
    if inputs is None and isinstance(item, (list, tuple)) and item:
        return fit_to_example(item[0], example)
    if inputs is None and isinstance(item, Mapping) and isinstance(example, Tensor):
        fits = [
            part
            for part in (fit_to_example(part, example) for part in parts_of(item))
            if part is not None and part.shape[1:] == example.shape[1:]
        ]
        return fits[0] if len(fits) == 1 else None
    return inputs


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
            several and fit_to_example(tree, example) is not None
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

    def batch(self, item: Any) -> Tree:
        """Return the inputs in one batch. Raises LissomError if they do not fit the example."""
        tree = as_tensors(item)
        inputs = inputs_in_item(tree, self.example)
        if inputs is None:
            raise LissomError(
                "apply: `images` do not fit `example`: expected "
                f"{tree_text(self.example)} as it has, alone "
                f"or before a label; got {tree_text(tree)}"
            )
        return inputs


def tree_text(tree: Tree) -> str:
    """Return a short description of a tree: its shape and type, or its parts.

    >>> tree_text((torch.zeros(2, 3), "label"))
    '((2, 3) float32, str)'
    """
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, Mapping):
        return cut("{" + ", ".join(f"{key}: {tree_text(part)}" for key, part in tree.items()) + "}")
    if isinstance(tree, (list, tuple)):
        return cut(f"({', '.join(map(tree_text, tree[:6]))}{', ...' if len(tree) > 6 else ''})")
    return type(tree).__name__
