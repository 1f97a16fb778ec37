"""Boxes around things in pictures: moved as their pictures are, and held in one tensor for a split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import LissomError
from ..language.preprocess import Placement
from .split import MEMORY

NONE = -1  # the class of a row that holds no box
LEAST_LEFT = 0.25  # of a box's area, or a preprocessing has cut the thing off


def padded(boxes: Sequence[Tensor]) -> Tensor:
    """Return the boxes of each sample, (k 5) of x1, y1, x2, y2 and class, as one tensor (n k 5).

    k is the largest number of boxes, and at least 1. Rows that hold no box are of class -1, and 0
    otherwise. Raises LissomError where one sample's boxes would make the tensor too large for memory.

    >>> padded([torch.zeros(0, 5), torch.tensor([[2.0, 3.0, 8.0, 9.0, 1.0]])])
    tensor([[[ 0.,  0.,  0.,  0., -1.]],
    <BLANKLINE>
            [[ 2.,  3.,  8.,  9.,  1.]]])
    """
    most = max([1, *map(len, boxes)])
    if 4 * 5 * most * len(boxes) > MEMORY:
        raise LissomError(
            f"data: one picture has {most} boxes; with as many rows for each of {len(boxes)} pictures "
            f"they do not fit into {MEMORY >> 30} GiB; leave that picture out"
        )
    rows = torch.zeros(len(boxes), most, 5)
    rows[..., 4] = NONE
    for row, of_sample in zip(rows, boxes, strict=True):
        row[: len(of_sample)] = of_sample
    return rows


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (k 5) without what lies outside a picture of `size` (width, height)."""
    wide, high = size
    corners = boxes[:, :4].clamp_min(0).minimum(boxes.new_tensor([wide, high, wide, high]))
    return torch.cat([corners, boxes[:, 4:]], 1)


def areas(boxes: Tensor) -> Tensor:
    """Return the area (k) of boxes (k 5)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def moved(boxes: Tensor, placements: Iterable[Placement]) -> Tensor:
    """Return boxes (k 5) of a picture where operations on it leave them, clipped to the picture.

    A box of which less than a quarter of the area is left is dropped: what it was around can no
    longer be seen.

    >>> cut = Placement((10, 10), offset=(-6.0, 0.0))
    >>> moved(torch.tensor([[0.0, 0.0, 8.0, 4.0, 1.0], [0.0, 0.0, 7.0, 4.0, 1.0]]), [cut])
    tensor([[0., 0., 2., 4., 1.]])
    """
    whole = areas(boxes)
    for placement in placements:
        scale = boxes.new_tensor([*placement.scale, *placement.scale])
        offset = boxes.new_tensor([*placement.offset, *placement.offset])
        corners = boxes[:, :4] * scale + offset
        boxes = clipped(torch.cat([corners, boxes[:, 4:]], 1), placement.size)
        whole = whole * placement.scale[0] * placement.scale[1]
    return boxes[areas(boxes) >= LEAST_LEFT * whole]
