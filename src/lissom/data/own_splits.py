"""Check the inputs of a user's splits, and find their classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import LissomError
from ..trees import Tree, concatenated, mapped, tensors_in
from .own import DatasetSplit
from .samples import tree_text
from .split import CPU

# the way out for numbers, which are used as they are
STANDARDIZE = "standardize in the network's forward, and every exported file does so too"


def common_inputs(train: DatasetSplit, valid: DatasetSplit, test: DatasetSplit, name: str) -> Tree:
    """Return the inputs of one sample, after checking that all splits have its shape and type.

    Raises LissomError if they differ, or if a split other than `train` is empty.
    """
    for part, split in (("valid", valid), ("test", test)):
        if not len(split):
            raise LissomError(f"data {name}: the {part} split is empty; more samples are needed")
    inputs = first_inputs(test)
    for split in (train, valid):
        other = first_inputs(split) if len(split) else inputs
        if tree_text(other) != tree_text(inputs):
            raise LissomError(
                f"data {name}: expected inputs of one shape and type in all splits, got "
                f"{tree_text(other)} beside {tree_text(inputs)}"
            )
    return inputs


def first_inputs(split: DatasetSplit) -> Tree:
    """Return the inputs of the first sample of a split."""
    for inputs, _ in split.batches(1, CPU, torch.tensor([0])):
        return mapped(lambda t: t[0], inputs)
    raise LissomError(f"{split.where}: it is empty")


def are_pictures(inputs: Tree) -> bool:
    """Return whether the input of a sample is an image, not numbers that are used as they are."""
    return isinstance(inputs, Tensor) and inputs.dtype == torch.uint8


def check_inputs(inputs: Tree, name: str, *, stated: bool) -> None:
    """Raise unless a network can take such inputs; `stated`: the user gave a preprocessing."""
    if isinstance(inputs, Tensor) and inputs.ndim == 0 and inputs.is_floating_point():
        raise LissomError(f"data {name}: expected inputs that are tensors, got single numbers")
    pictures = are_pictures(inputs)
    if not pictures and stated:
        raise LissomError(
            f"data {name}: its inputs are {tree_text(inputs)}, which are taken as they are; preprocess "
            f"is for images and 8-bit integers; {STANDARDIZE}"
        )
    if pictures and (inputs.ndim != 3 or len(inputs) not in (1, 3)):
        raise LissomError(
            f"data {name}: expected images (c h w) of 1 or 3 channels, got {tree_text(inputs)}; "
            "inputs[:, None] gives gray ones a channel"
        )


def shape_of(inputs: Tree) -> tuple[int, ...]:
    """Return the shape of a sample's input if it is a single tensor, else (number of tensors,).

    A tensor without axes counts as a list of one.
    """
    if isinstance(inputs, Tensor) and inputs.ndim:
        return tuple(inputs.shape)
    return (sum(1 for _ in tensors_in(inputs)),)


def class_names(
    classes: int | Sequence[str] | None,
    splits: Sequence[DatasetSplit],
    notes: list[str],
    name: str,
) -> tuple[str, ...]:
    """Return the stated class names, else numbers up to the largest target; none without classes.

    Adds a note if no target is 0. Raises LissomError if all targets are negative.
    """
    if classes is None:
        labels = concatenated([split.labels for split in splits])
        if not isinstance(labels, Tensor) or not are_classes(labels):
            return ()
        classes = int(labels.max()) + 1
        if classes < 1:
            raise LissomError(
                f"data {name}: every target is negative, at most {classes - 1}; expected classes "
                "from 0 on; leave samples without a class out"
            )
        if int(labels[labels >= 0].min()) > 0:
            notes.append(
                "no target is 0: classes are counted from 0, so that the first has no sample"
            )
    return tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)


def are_classes(labels: Tensor) -> bool:
    """Return whether labels are class indices: one per sample (n), or one per position (n positions).

    Labels (n k) of 0 and 1 only are multi-label targets. A position may have a negative label, which
    is ignored.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool or not labels.numel():
        return False
    return labels.ndim == 1 or (labels.ndim == 2 and int(labels.max()) > 1)
