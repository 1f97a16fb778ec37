"""Smaller inputs, which show the same of a network's code in less time.

Channels are coupled in the same way on a small image, so the trial of a cut runs on small images
where the network takes them. The gate after the cut does so too, but only where the network's code
reads nothing that could tell the size of a tensor (`SizesRead`); else it is shown the whole images.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..trees import Tree

SMALL = 64  # pixels
# what code may read of a tensor without learning its size
SIZELESS: set[Any] = {
    Tensor.dim,
    Tensor.ndimension,
    Tensor.is_floating_point,
    Tensor.get_device,
    Tensor.__hash__,
    *(
        getattr(Tensor, name).__get__
        for name in ("ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")
    ),
}


def smaller(example: Tree) -> Tensor | None:
    """Return a corner of larger images (n c h w); None where the input is something else, or small already.

    >>> import torch
    >>> smaller(torch.zeros(1, 3, 224, 32)).shape
    torch.Size([1, 3, 64, 32])
    """
    if not isinstance(example, Tensor) or example.ndim != 4 or not example.is_floating_point():
        return None
    return example[..., :SMALL, :SMALL] if max(example.shape[2:]) > SMALL else None


class SizesRead(TorchFunctionMode):
    """Note whether code reads of any tensor what may depend on its size: anything that is not a tensor again.

    Operations of PyTorch do to a small image what they do to a large one; only code that knows the
    size can do otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found = self.found or not (isinstance(out, Tensor) or func in SIZELESS)
        return out
