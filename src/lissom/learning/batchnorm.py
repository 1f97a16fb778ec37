"""Freeze batch-norm, or the ranges of a quantized network, during a learning step."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import LissomError
from ..language.training import Freeze
from ..surgery.quantization.rounding import Rounding


def configure_batchnorm(
    model: nn.Module, momentum: float | None, freeze: Freeze
) -> Callable[[], None]:
    """Set the momentum of batch-norms (None: unchanged) in a network in training mode, and freeze.

    gamma: batch-norm scales are not trained. norm: batch-norms run as in inference, with their
    running statistics, and are not trained. ranges: the scales and zero points of weights and
    inputs are fixed, whatever their grid; values that a grid computes from the weights each time,
    as binary does, still change. norm+ranges: both. Returns a function that undoes this; call it
    once the network is back in inference mode.
    Raises LissomError if ranges are to be frozen and nothing is rounded. Source: Jacob et al. 2017,
    https://arxiv.org/abs/1712.05877, section 3.1, for norm; fine-tuning with both frozen is that of
    https://github.com/666DZY666/micronet, there qaft.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    roundings = [m for m in model.modules() if isinstance(m, Rounding) and "ranges" in freeze]
    if "ranges" in freeze and not roundings:
        raise LissomError(
            f'freeze="{freeze}": nothing in this network is rounded, so it has no '
            "ranges; quantize first"
        )
    before = [m.momentum for m in norms]
    held = [p for r in roundings for p in r.parameters()]
    held += [m.weight for m in norms if freeze == "gamma" or "norm" in freeze]
    held += [m.bias for m in norms if "norm" in freeze]
    still = [p for p in held if p is not None and p.requires_grad]
    for norm in norms:
        norm.momentum = norm.momentum if momentum is None else momentum
        if "norm" in freeze:
            norm.eval()
    for rounding in roundings:
        rounding.still = True
    for parameter in still:
        parameter.requires_grad_(False)

    def release() -> None:
        for norm, own in zip(norms, before, strict=True):
            norm.momentum = own
        for rounding in roundings:
            rounding.still = False
        for parameter in still:
            parameter.requires_grad_(True)

    return release
