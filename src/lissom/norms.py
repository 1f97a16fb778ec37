"""Batch-norm during a learning step: how fast its statistics move, and what of it stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

Frozen = Literal["none", "gamma", "norm"]


def hold_norms(model: nn.Module, momentum: float | None, freeze: Frozen) -> Callable[[], None]:
    """Set the batch-norms of a network in training mode: their momentum, None for their own, and what stays as it is.

    gamma: their scales do not learn. norm: they run as in inference, with the statistics they have, and nothing of them
    learns. Return what undoes it. Source of the latter: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.1.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in norms]
    held = {"none": [], "gamma": [m.weight for m in norms], "norm": [p for m in norms for p in (m.weight, m.bias)]}[freeze]
    still = [p for p in held if p is not None and p.requires_grad]
    for norm in norms:
        norm.momentum = norm.momentum if momentum is None else momentum
        if freeze == "norm":
            norm.eval()
    for parameter in still:
        parameter.requires_grad_(False)

    def release() -> None:
        for norm, own in zip(norms, before, strict=True):
            norm.momentum = own
        for parameter in still:
            parameter.requires_grad_(True)
    return release
