"""Zeros that stay zero while a network learns.

The zeros are the mask: nothing else is stored. In training a layer uses its weight times the mask
(weight != 0), so the gradient at a zero is 0 and weight decay acts on 0; in inference it is the
plain layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..transform import Stored, WeightTransform


class Mask(WeightTransform):
    """Hold the zeros of a weight."""

    place: ClassVar[int] = 0
    options: ClassVar = {}
    mask: Tensor  # (out in ...), there only in training, and never saved

    def settings(self) -> dict[str, Any]:
        return {}

    def hold(self, weight: Tensor, learning: bool) -> None:
        if learning:
            self.register_buffer("mask", weight.detach() != 0, persistent=False)
        else:
            self._buffers.pop("mask", None)
            self._non_persistent_buffers_set.discard("mask")

    def transformed(self, weight: Tensor) -> Tensor:
        """Return the weight, cut off from the gradient where it is zero.

        w * mask, written as a choice: a product is a call that quantization sees, as it would one
        of the user's own.
        """
        mask = self._buffers.get("mask")
        if mask is None and torch.is_grad_enabled():
            mask = weight.detach() != 0  # it learns in eval mode
        return weight if mask is None else torch.where(mask, weight, 0.0)

    def stored(self, before: Stored) -> Stored:
        return before._replace(sparse=True)
