"""An ensemble of networks that acts as one network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..trees import ROW_IDS, Tree, output_named, put_in, tensors_in


class Ensemble(nn.Module):
    """Return the mean of the members' logits.

    That is the geometric mean of their probabilities, at every temperature. Outputs that are not
    floats are those of the first member. Raises LissomError if members pick rows (`row_ids`), each
    its own, which have no mean.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tree, **named: Tree) -> Tree:
        answers = [member(*inputs, **named) for member in self.members]
        if output_named(answers[0], ROW_IDS) is not None:
            raise LissomError(
                f"teacher: expected one teacher, got {len(answers)} that each pick rows of their own "
                f"({ROW_IDS}), such as torchvision's detectors, which have no mean"
            )
        columns = zip(*(tensors_in(answer) for answer in answers), strict=True)
        return put_in(answers[0], [mean_of(column) for column in columns])


def mean_of(column: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of floats, or the first of others."""
    return torch.stack(tuple(column)).mean(0) if column[0].is_floating_point() else column[0]
