"""Residual networks for 32x32 images.

Source: He, Zhang, Ren and Sun 2015, Deep Residual Learning, https://arxiv.org/abs/1512.03385
(section 4.2) and 2016, Identity Mappings in Deep Residual Networks,
https://arxiv.org/abs/1603.05027.
Differs: shortcuts that change the shape are 1x1 convolutions (option B): every runtime quantizes
them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded to keep the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 6n+2: three stages of n blocks, 16, 32 and 64 channels wide."""

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, shrink: int = 1
    ) -> None:
        super().__init__()
        first = 16 // shrink
        self.stem = conv(in_channels, first, 3)
        self.bn = nn.BatchNorm2d(first)
        blocks = []
        width = first
        for stage in range(3):
            for k in range((depth - 2) // 6):
                outputs = first << stage
                blocks.append(Block(width, outputs, 2 if stage and not k else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Bottleneck(nn.Module):
    """Batch-norm and ReLU before each of three convolutions, 1x1, 3x3 and 1x1, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            self.shortcut = conv(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        return self.conv3(F.relu(self.bn3(y))) + self.shortcut(x)


class PreResNet(nn.Module):
    """The pre-activation bottleneck ResNet of depth 9n+2 from the paper on network slimming."""

    def __init__(
        self, depth: int, num_classes: int = 10, in_channels: int = 3, shrink: int = 1
    ) -> None:
        super().__init__()
        first = 16 // shrink
        self.stem = conv(in_channels, first, 3)
        blocks = []
        width = first
        for stage in range(3):
            for k in range((depth - 2) // 9):
                blocks.append(Bottleneck(width, first << stage, 2 if stage and not k else 1))
                width = 4 * first << stage
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def initialise(model: nn.Module) -> None:
    """Draw convolution weights as He et al. 2015 do (normal, fan out)."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
