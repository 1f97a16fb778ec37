"""Tiny networks with the kinds of layers that saved networks have, and functions that build them."""

from __future__ import annotations

from torch import Tensor, nn


class Tiny(nn.Module):
    """Two convolutions with batch-norms, a sum, pooling and a linear layer: (n 1 8 8) to (n 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.last = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n 10) of images (n 1 8 8)."""
        x = self.stem(x)
        return self.head(self.last((self.body(x) + x).relu()).relu().mean((2, 3)))


class Mixed(nn.Module):
    """Other kinds of layers, with other names of widths, and attention: (n 1 8 8) to (n 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 2, stride=2), nn.GroupNorm(4, 16), nn.PReLU(16))
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.again = nn.InstanceNorm2d(8, affine=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n 10) of images (n 1 8 8)."""
        x = self.stem(x)
        places = self.norm(x.flatten(2).transpose(1, 2))
        places = places + self.attention(places, places, places, need_weights=False)[0]
        x = self.up(places.transpose(1, 2).unflatten(2, x.shape[2:]))
        return self.head(self.again(x).relu().mean((2, 3)))


RECIPES = (
    "prune(0.5)",
    "quantize(8)",
    "quantize(4, inputs=4)",
    'quantize("ternary")',
    'quantize("binary")',
    'quantize(4, grid="lsq")',
    "quantize(8, 32)",
    "cluster(4)",
    "mask(0.5) | cluster(3, of='filter')",
    "cluster(5, of='network', renew=True) | cast('fp16')",
    "mask(0.5)",
    'cast("bf16")',
    "fold",
    "prune(0.5) | quantize(8)",
    "mask(0.5) | quantize(8)",
    'quantize(4, grid="pow2")',
    'quantize(8, "dynamic")',
    'quantize(4, grid="dorefa", fold=False)',
)
MORE = (
    "prune(0.5, multiple=2)",
    "quantize(8)",
    "mask(0.5)",
    'cast("bf16")',
    "prune(0.5, multiple=2) | quantize(8)",
    "cluster(4) | quantize(8)",
)
NETWORKS = {"tiny": Tiny, "mixed": Mixed}
SAVED = (*(("tiny", recipe) for recipe in RECIPES), *(("mixed", recipe) for recipe in MORE))
