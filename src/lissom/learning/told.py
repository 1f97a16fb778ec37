"""What a training loop says of batches: how many answers are right, and that losses are numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import LissomError, cause_of
from ..trees import Tree, answer_in


@contextmanager
def own_code(compiled: bool = False) -> Iterator[None]:
    """Say in one line what the user's own network raises while it learns, or torch.compile of it:
    what is tried before keeps no gradients and is not compiled.
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


def correct(outputs: Tree, targets: Tree) -> Tensor:
    """Return how many of the largest outputs (n classes) are those of their targets (n); NaN where
    targets are no classes.
    """
    answer = answer_in(outputs)
    classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    if answer is None or answer.ndim != 2 or not classes:
        return torch.full((), torch.nan)
    return (answer.detach().argmax(1) == targets).sum()


def share(right: Tensor, seen: int) -> float | None:
    """Return the share of `seen` images that were named right, None where that is no number."""
    return float(right) / seen if torch.isfinite(right) else None


def finite(mean: Tensor, value: Tensor, where: str) -> float:
    """Return the mean loss as a number, or raise if it is none."""
    if not (torch.isfinite(mean) and torch.isfinite(value)):
        raise LissomError(
            f"{where}: the loss is {float(value.detach()):g}; a lower lr or clip=1.0 may help"
        )
    return float(mean)
