"""Checks and counts of a training loop: correct outputs, finite losses, errors of user code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import LissomError, cause_of
from ..trees import Tree, answer_in


@contextmanager
def errors_of_user_code(compiled: bool = False) -> Iterator[None]:
    """Turn an error of the user's network or of torch.compile in training into one line.

    Earlier checks do not catch these: they run without gradients and uncompiled.
    """
    try:
        yield
    except LissomError:
        raise
    except Exception as error:
        if compiled:
            raise LissomError(
                f"compile: torch.compile of this network raised {cause_of(error)}; leave compile out"
            ) from error
        raise LissomError(
            f"the network raised an error while it learned: {cause_of(error)}"
        ) from error


def count_correct(outputs: Tree, targets: Tree) -> Tensor:
    """Return the number of samples whose largest output (n classes) is at the target (n).

    NaN if the targets are not classes.
    """
    answer = answer_in(outputs)
    classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    if answer is None or answer.ndim != 2 or not classes:
        return torch.full((), torch.nan)
    return (answer.detach().argmax(1) == targets).sum()


def accuracy(correct: Tensor, seen: int) -> float | None:
    """Return the share of `seen` samples that are correct, None if `correct` is not finite."""
    return float(correct) / seen if torch.isfinite(correct) else None


def checked_mean(mean: Tensor, value: Tensor, where: str) -> float:
    """Return the mean loss as a float. Raises LissomError if it or the last loss is not finite."""
    if not (torch.isfinite(mean) and torch.isfinite(value)):
        raise LissomError(
            f"{where}: the loss is {float(value.detach()):g}; a lower lr or clip=1.0 may help"
        )
    return float(mean)
