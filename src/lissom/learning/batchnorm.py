"""What stays as it is during a learning step: batch-norm, and how a quantized network rounds."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import LissomError
from ..language.training import Freeze
from ..surgery.quantization.rounding import Rounding


def configure_batchnorm(
    model: nn.Module, momentum: float | None, freeze: Freeze
) -> Callable[[], None]:
    """Set the batch-norms of a network in training mode: their momentum, None for their own, and
    what stays as it is.

    gamma: their scales do not learn. norm: they run as in inference, with the statistics they have,
    and nothing of them learns. ranges: the scales and zero points that weights and inputs are
    rounded with stay, whatever their grid would do with them; what a grid computes of the weights
    alone, as binary does, it has not held and goes on. norm+ranges: both. Return what undoes it,
    which is to be called once the network is back in inference mode.
    Raises LissomError where ranges are to stay and nothing is rounded. Source: Jacob et al. 2017,
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
