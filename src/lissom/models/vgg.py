"""VGG with batch-norm for 32x32 images, with one linear layer or three as in the original.

Source: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556; the CIFAR form of Liu et al.
2017, Learning Efficient Convolutional Networks through Network Slimming,
https://arxiv.org/abs/1708.06519.
Differs: the last pooling is a global mean, so other image sizes fit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import conv, initialise

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, 64 to 512 channels, with the size halved between them.

    `hidden` is the width of two further linear layers: 4096 in the original, which gives 39 M
    parameters at depth 19.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        shrink: int = 1,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for stage, count in enumerate(STAGES[depth]):
            if stage:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                outputs = min(512, 64 << stage) // shrink
                layers += [conv(width, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                width = outputs
        self.features = nn.Sequential(*layers)
        self.head: nn.Module = nn.Linear(width, num_classes)
        if hidden:
            hidden //= shrink
            self.head = nn.Sequential(
                nn.Linear(width, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(hidden, num_classes),
            )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits
