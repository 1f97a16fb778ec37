"""An ensemble of networks that acts as one network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..trees import Tree, put_in, tensors_in


class Ensemble(nn.Module):
    """Return the mean of the members' logits.

    That is the geometric mean of their probabilities, at every temperature.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tree, **named: Tree) -> Tree:
        answers = [member(*inputs, **named) for member in self.members]
        columns = zip(*(tensors_in(answer) for answer in answers), strict=True)
        return put_in(answers[0], [torch.stack(column).mean(0) for column in columns])
