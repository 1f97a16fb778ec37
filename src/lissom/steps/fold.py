"""Fold batch-norm into the layers before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..context import Context


@dataclass(frozen=True)
class Fold(Step):
    """Fold each batch-norm that alone reads a convolution or linear layer into that layer.

    w' = w * gamma / sqrt(var + eps);  b' = beta + (b - mean) * gamma / sqrt(var + eps)
    The outputs stay the same to float rounding, which a gate checks on real images.
    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.2.
    """

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.fold import folded
        from ..surgery.slim import difference

        before = copy.deepcopy(model)
        ctx.facts["folded"] = folded(model, ctx.example)
        ctx.gate("folded = unfolded", difference(before, model, ctx.batch(32)), 1e-3)
        return model
