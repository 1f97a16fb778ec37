"""Networks that take decoded images: the preprocessing is part of the exported file."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..language.preprocess import Preprocess


class NetworkWithPreprocessing(nn.Module):
    """A network that takes pixels of 0..255 (n c h w), and the image operations of `preprocess`.

    In PyTorch only the network runs. The exported file takes 8-bit images (n height width c) of
    any one size. If the network finds boxes, the file returns them in pixels of these images.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess

    def forward(self, x: Tensor) -> Any:
        return self.network(x)
