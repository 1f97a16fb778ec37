"""Choose which units of a group to cut."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import LissomError


def lowest(scores: Tensor, count: int, blocks: list[Tensor] | None = None) -> Tensor:
    """Return a boolean mask of the `count` units of lowest score. Of equal scores the last go
    first.

    Each tensor in `blocks` holds the block of every unit, and all its blocks keep the same number.
    With one tensor, units are chosen block by block. With several, as when a grouped convolution
    feeds another through a shuffle, HiGHS solves the integer
    programme  maximise the sum of kept scores, equal counts kept in each block,  exactly.

    Raises LissomError if no choice keeps equal counts.

    >>> lowest(torch.tensor([3., 1., 2., 0.]), 2).tolist()
    [False, True, False, True]
    >>> lowest(torch.tensor([3., 1., 2., 0.]), 2, [torch.tensor([0, 0, 1, 1])]).tolist()
    [False, True, False, True]
    """
    marked = torch.zeros(len(scores), dtype=torch.bool)
    if count == 0:
        return marked
    keep = len(scores) - count
    if not blocks:
        return marked.index_fill_(0, scores.argsort(descending=True, stable=True)[keep:], True)
    if len(blocks) == 1:
        parts = int(blocks[0].max()) + 1
        for block in range(parts):
            mine = (blocks[0] == block).nonzero().flatten()
            worst = scores[mine].argsort(descending=True, stable=True)[keep // parts :]
            marked[mine[worst]] = True
        return marked
    return _programme(scores, keep, blocks)


def _programme(scores: Tensor, keep: int, blocks: list[Tensor]) -> Tensor:
    import numpy as np
    from scipy.optimize import LinearConstraint, milp

    value = scores.double().numpy()
    rows = np.concatenate(
        [(b.numpy() == np.arange(int(b.max()) + 1)[:, None]).astype(float) for b in blocks]
    )
    each = np.concatenate([np.full(int(b.max()) + 1, keep / (int(b.max()) + 1)) for b in blocks])
    spread = max(float(np.ptp(value)), 1e-12)
    solution = milp(
        -(value - value.min()) / spread,
        constraints=LinearConstraint(rows, each, each),
        integrality=np.ones(len(value)),
        bounds=(0, 1),
    )
    if solution.x is None:
        raise LissomError(
            f"prune: {keep} of {len(value)} channels cannot be spread evenly over "
            "the groups of the "
            "convolutions that make and read them"
        )
    return torch.from_numpy(solution.x < 0.5)
