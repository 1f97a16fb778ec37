"""A small object detector, with residual blocks and two grids of places that predict boxes.

Source: Tian et al. 2019, FCOS: Fully Convolutional One-Stage Object Detection,
https://arxiv.org/abs/1904.01355, for boxes as four distances from a place; He et al. 2015,
https://arxiv.org/abs/1512.03385, for the blocks.
Differs: no feature pyramid and no centre-ness; distances are softplus(x) instead of exp(x): it
grows linearly, so it does not amplify rounding errors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import Block, conv, initialise

WIDTHS = (16, 32, 64, 128)  # of features at the strides 2, 4, 8 and 16
INITIAL_SCORE = 0.01  # score of an untrained network: most places are background


class Head(nn.Module):
    """Predict a box and the logits of its classes at every place of a feature map (n c h w).

    A place (x, y) is the centre of a cell of `stride` pixels. It predicts the distances l, t, r, b
    to the sides of a box in strides: [x - l, y - t, x + r, y + b].
    """

    def __init__(self, width: int, num_classes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = conv(width, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.sides = nn.Conv2d(width, 4, 1)
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn(self.conv(x)))
        sides = self.stride * F.softplus(self.sides(x)).flatten(2).transpose(1, 2)
        places = centres(x.shape[2], x.shape[3], self.stride, sides)
        boxes = torch.cat([places - sides[..., :2], places + sides[..., 2:]], -1)
        return boxes, self.classes(x).flatten(2).transpose(1, 2)


class TinyDetect(nn.Module):
    """Return boxes (n p 4), x1 y1 x2 y2 in pixels of the input, and logits (n p classes) of sigmoids.

    For images of 192x256 there are p = 24 * 32 + 12 * 16 places. 787,648 parameters for 20 classes.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, shrink: int = 1) -> None:
        super().__init__()
        first, second, third, fourth = (width // shrink for width in WIDTHS)
        self.stem = conv(in_channels, first, 3, 2)
        self.bn = nn.BatchNorm2d(first)
        self.fine = nn.Sequential(Block(first, second, 2), Block(second, third, 2))
        self.coarse = nn.Sequential(Block(third, fourth, 2), Block(fourth, fourth, 1))
        self.small = Head(third, num_classes, 8)
        self.large = Head(fourth, num_classes, 16)
        initialise(self)
        for head in (self.small, self.large):
            initialise_near(head.sides, 2.0)  # boxes of about four strides
            initialise_near(head.classes, -math.log(1 / INITIAL_SCORE - 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(F.relu(self.bn(self.stem(x))))
        small_boxes, small_logits = self.small(fine)
        large_boxes, large_logits = self.large(self.coarse(fine))
        return torch.cat([small_boxes, large_boxes], 1), torch.cat([small_logits, large_logits], 1)


def initialise_near(layer: nn.Conv2d, value: float) -> None:
    """Initialise a layer so that its outputs are near `value` for any input."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)


def centres(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """Return the centres (h*w 2) of the cells of a grid, x and y in pixels, row by row.

    >>> centres(1, 2, 8, torch.zeros(1)).tolist()
    [[4.0, 4.0], [12.0, 4.0]]
    """
    x = stride * (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5)
    y = stride * (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5)
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    return grid.flatten(0, 1)
