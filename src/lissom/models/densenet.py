"""DenseNet for 32x32 images: three blocks in which every layer reads the outputs of all before it.

Source: Huang et al. 2016, Densely Connected Convolutional Networks,
https://arxiv.org/abs/1608.06993.
Differs: 24 channels enter the first block, as in Liu et al. 2017, https://arxiv.org/abs/1708.06519,
not 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import conv, initialise


class Dense(nn.Module):
    """Batch-norm, ReLU and a convolution.

    If it `grows`, its output is concatenated to the input; else the output is pooled.
    """

    def __init__(self, inputs: int, outputs: int, grows: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = conv(inputs, outputs, 3 if grows else 1)
        self.grows = grows

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.relu(self.bn(x)))
        return torch.cat([x, y], 1) if self.grows else F.avg_pool2d(y, 2)


class DenseNet(nn.Module):
    """The DenseNet of depth 3n+4: three blocks of n layers, each adding 12 channels."""

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, shrink: int = 1
    ) -> None:
        super().__init__()
        growth = 12 // shrink
        width = 2 * growth
        layers: list[nn.Module] = [conv(in_channels, width, 3)]
        for block in range(3):
            if block:
                layers.append(Dense(width, width, False))
            for _ in range((depth - 4) // 3):
                layers.append(Dense(width, growth, True))
                width += growth
        self.features = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(F.relu(self.bn(self.features(x))), 1).flatten(1))
