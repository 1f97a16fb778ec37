"""Pruned weights that stay zero while a network learns.

The zeros are the mask: nothing else is stored. In training a layer uses its weight times the mask
(weight != 0), so the gradient at a zero is 0 and weight decay acts on 0. In inference it is the
plain layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..transform import Stored, WeightTransform


class Mask(WeightTransform):
    """Keep the zeros of a weight at zero."""

    place: ClassVar[int] = 0
    options: ClassVar = {}
    mask: Tensor  # (out in ...), only in training, never saved

    def settings(self) -> dict[str, Any]:
        return {}

    def hold(self, weight: Tensor, learning: bool) -> None:
        if learning:
            self.register_buffer("mask", weight.detach() != 0, persistent=False)
        else:
            self._buffers.pop("mask", None)
            self._non_persistent_buffers_set.discard("mask")

    def transformed(self, weight: Tensor) -> Tensor:
        """Return the weight, without a gradient where it is zero.

        It is w * mask, computed by torch.where: quantization would take a product for a call of the
        user's own.
        """
        mask = self._buffers.get("mask")
        if mask is None and torch.is_grad_enabled():
            mask = weight.detach() != 0  # training in eval mode
        return weight if mask is None else torch.where(mask, weight, 0.0)

    def stored(self, before: Stored) -> Stored:
        return before._replace(sparse=True)
