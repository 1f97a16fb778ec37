"""A network that takes pictures as they are decoded: what happens to a picture is a part of the file."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..language.preprocess import Preprocess


class Pictured(nn.Module):
    """A network (n c h w), pixels of 0..255, behind the operations of `preprocess` on pictures.

    PyTorch computes the network alone. A file takes pictures of any one size (n height width c) of
    8 bits; where the network finds boxes, the file gives them in pixels of these pictures.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess

    def forward(self, x: Tensor) -> Any:
        return self.network(x)
