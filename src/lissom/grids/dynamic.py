"""Equal steps over the range that the inputs of each call turn out to have.

A file cannot know such a range. So the grid holds nothing, it is no grid of a site but the own grid
of one layer, and a file has that layer as one integer product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import Held


@dataclass(frozen=True)
class Dynamic(Grid):
    """Round inputs to equal steps over their own range, measured at each call over all that is in it.

    x: s = (max(x, 0) - min(x, 0)) / 255, 1 where that is 0, z = round(-min(x, 0) / s), q = clamp(round(x / s) + z, 0, 255)
    gradient: as if nothing were rounded
    No image is needed beforehand; what a call holds, the size of the batch included, says how each of its values is
    rounded. Linear layers alone have such integer kernels.
    Source: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html, whose formula it is.
    """

    of_inputs: ClassVar[tuple[int, ...]] = (8,)
    at_run_time: ClassVar[bool] = True

    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        import torch

        y = x.detach().float()
        low, high = y.amin().clamp(max=0), y.amax().clamp(min=0)
        scale = (high - low) / 255
        scale = torch.where(scale > 0, scale, 1.0)
        zero = (-low / scale).round().clamp(0, 255)
        values = (((y / scale).round() + zero).clamp(0, 255) - zero) * scale
        values = values.to(x.dtype)
        return values + (x - x.detach()) if x.requires_grad else values
