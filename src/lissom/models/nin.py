"""Network in Network for 32x32 images, dense or with grouped convolutions and channel shuffles.

Source: Lin, Chen and Yan 2013, Network In Network, https://arxiv.org/abs/1312.4400; Zhang et al.
2017, ShuffleNet, https://arxiv.org/abs/1707.01083, for grouped convolutions with a shuffle between
them.
Differs: batch-norm after every convolution instead of dropout, and no ReLU before the global
pooling at the end.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import initialise

WIDTHS = (192, 160, 96, 192, 192, 192, 192, 192)
GROUPED_WIDTHS = (256, 256, 256, 512, 512, 512, 1024, 1024)
GROUPS = (1, 2, 2, 16, 4, 4, 32, 8, 1)


class Unit(nn.Module):
    """A convolution, batch-norm and ReLU, after a shuffle of the channels of `mixed` groups.

    With `ahead`, batch-norm and ReLU come before the convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        groups: int,
        mixed: int,
        relu: bool,
        ahead: bool = False,
    ) -> None:
        super().__init__()
        # a convolution of one group reads all channels anyway
        self.mixed = mixed if groups > 1 else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
        self.bn = nn.BatchNorm2d(inputs if ahead else outputs)
        self.act: nn.Module = nn.ReLU() if relu else nn.Identity()
        self.ahead = ahead

    def forward(self, x: Tensor) -> Tensor:
        if self.mixed > 1:
            x = x.unflatten(1, (self.mixed, -1)).transpose(1, 2).flatten(1, 2)
        return self.conv(self.act(self.bn(x))) if self.ahead else self.act(self.bn(self.conv(x)))


class NIN(nn.Module):
    """Three stages of a spatial and two 1x1 convolutions, pooling between them, and a global mean.

    The convolutions have 966,986 parameters with the widths of `nin`, 582,666 with those of
    `nin_gc`. With `ahead`, the order is batch-norm, ReLU, convolution, pooling in all but the first
    unit: in a network with binary inputs, pooling then compares sums instead of signs (Rastegari et
    al. 2016, https://arxiv.org/abs/1603.05279, figure 3).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        shrink: int = 1,
        grouped: bool = False,
        ahead: bool = False,
    ) -> None:
        super().__init__()
        widths = [width // shrink for width in (GROUPED_WIDTHS if grouped else WIDTHS)] + [
            num_classes
        ]
        groups = GROUPS if grouped else (1,) * 9
        kernels = (5, 1, 1, 3 if grouped else 5, 1, 1, 3, 1, 1)
        layers: list[nn.Module] = []
        for k, (inputs, outputs) in enumerate(zip((in_channels, *widths), widths, strict=False)):
            if k in (3, 6):
                layers.append(nn.MaxPool2d(3, 2, 1))
            layers.append(
                Unit(
                    inputs,
                    outputs,
                    kernels[k],
                    groups[k],
                    groups[k - 1] if k else 1,
                    k < 8 or ahead,
                    ahead and k > 0,
                )
            )
        self.features = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
