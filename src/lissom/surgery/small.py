"""Smaller inputs, which run the same code of a network in less time.

Channels are coupled in the same way on a small image, so trial cuts run on small images if the
network accepts them. The gate after the cut does so too, but only if the network's code reads
nothing that could reveal the size of a tensor (`SizesRead`). Otherwise it uses the whole images.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..trees import Tree
from .property_reads import SIZELESS_READS

SMALL_SIDE = 64  # pixels


def smaller(example: Tree) -> Tensor | None:
    """Return a corner of large images (n c h w), None if the input is not images or already small.

    >>> import torch
    >>> smaller(torch.zeros(1, 3, 224, 32)).shape
    torch.Size([1, 3, 64, 32])
    """
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point():
        return None
    return example[..., :SMALL_SIDE, :SMALL_SIDE] if max(example.shape[2:]) > SMALL_SIDE else None


class SizesRead(TorchFunctionMode):
    """Record in `found` whether code reads from a tensor anything that may depend on its size.

    This is any result that is not a tensor. PyTorch's operations treat small and large images
    alike. Only code that knows the size can treat them differently.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found = self.found or not (isinstance(out, Tensor) or func in SIZELESS_READS)
        return out
