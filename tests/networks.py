"""Small networks for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lissom.models import factory
from lissom.models.resnet import Block


def images(count: int = 32, size: int = 16, seed: int = 0) -> Tensor:
    """Return images of noise (count 3 size size), the same at every call."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seasoned(name: str = "resnet8") -> nn.Module:
    """Return a built-in network of four classes whose batch-norm has seen images."""
    torch.manual_seed(0)
    made = factory(name)(num_classes=4)
    for _ in range(5):
        made(images())
    return made.eval()


def residual(width: int = 64) -> nn.Sequential:
    """Return half a ResNet-8, of four classes, whose batch-norm has seen images: its export takes
    half the time.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )
    for _ in range(5):
        model(images())
    return model.eval()


def chain() -> nn.Sequential:
    """Return two convolutions and a linear layer of four classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        conv(3, 8),
        nn.ReLU(),
        conv(8, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


class Net(nn.Module):
    """A forward given as a function of the network itself and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(inputs: int = 4, outputs: int = 4, **settings: Any) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def head(width: int) -> nn.Sequential:
    """Return five classes from the mean of each channel."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def grouped() -> nn.Sequential:
    """Return two convolutions with batch-norm, one of them in groups, and a linear layer: untrained."""
    return nn.Sequential(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        conv(8, 16, groups=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        head(16),
    )


def grouped_and_seen() -> nn.Sequential:
    """Return that network with statistics of batch-norm that it has seen, in eval mode."""
    torch.manual_seed(0)
    model = grouped()
    with torch.no_grad():
        model(torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    return model.eval()
