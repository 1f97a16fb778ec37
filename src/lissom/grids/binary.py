"""Rounding to two values: signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.grid import (
    ZERO_TOLERANCE,
    Codes,
    Grid,
    by_filter,
    centred,
    need_inputs,
    per_filter,
    scaled,
    sloped,
)
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Binary(Grid):
    """Round weights to their signs times one scale per filter, and inputs to their signs.

    weight: (out in h w), inputs: (n ...)
    weights: value = a sign(w)    a = mean|w| of the filter, 1 with scale=False
    inputs:  value = sign(x)      with zero=True: 1 where x >= 0, else 0
    sign(0) is 1. Inputs from -1e-6 to 0 count as 0.

    Gradient, with g = dL/dvalue, n the number of weights in a filter and `in` its input channels:
    weights: dL/dw = a h(w) g
             dL/dw = (a g [|w| <= 1] + sign(w) mean(sign(w) g)) (1 - 1/in) n    with xnor
    inputs:  dL/dx = h(x) g
    ste:      h(v) = 1, the straight-through estimator; xnor uses it for inputs
    saturate: h(v) = 1 where |v| < 1, else 0
    soft:     h(v) = max(0, 1 - |v|)
    through_scale=True adds the gradient through a = mean|w|, which is sign(w) mean(sign(w) g). With
    gradient="ste" this is what autograd computes.

    centre=True subtracts from each weight the mean over the input channels and clips the result to
    [-1, 1]. Raises LissomError with centre=True or xnor if filters have only one input channel.

    Also known as: binarization, binarized neural networks (BNN), XNOR-Net, BinaryNet.
    Source: Rastegari et al. 2016, XNOR-Net: ImageNet Classification Using Binary Convolutional
    Neural Networks, https://arxiv.org/abs/1603.05279; Courbariaux et al. 2016, BinaryNet,
    https://arxiv.org/abs/1602.02830, for saturate.
    Differs: the weights are centered in the forward pass, and gradients flow through that.
    """

    of_weights: ClassVar[tuple[int, ...]] = (1,)
    of_inputs: ClassVar[tuple[int, ...]] = (1,)
    private: ClassVar[bool] = True
    signs: ClassVar[bool] = True

    scale: bool = arg("scale the signs by mean |w| of each filter", True)
    gradient: Literal["ste", "saturate", "soft", "xnor"] = arg(
        "surrogate gradient of the sign; ste = straight-through estimator", "saturate"
    )
    centre: bool = arg(
        "subtract the weights' mean over the input channels and clip to [-1, 1]", False
    )
    zero: bool = arg("round inputs to 0 or 1 instead of -1 or 1", False)
    through_scale: bool = arg("also pass the gradient through the scale", False, late=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through_scale and (not self.scale or self.gradient == "xnor"):
            why = (
                "gradient='xnor' has its own term for it"
                if self.scale
                else "signs that stand for 1 have no scale"
            )
            raise LissomError(f"binary(through_scale=True): {why}; leave it out")

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        if self.centre or self.gradient == "xnor":
            need_inputs(weight, "binary(centre=True)" if self.centre else "binary(gradient='xnor')")
        return {}

    def _centred(self, weight: Tensor) -> Tensor:
        return centred(weight.float()) if self.centre else weight.float()

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        import torch

        w = self._centred(weight.detach())
        scale = (
            per_filter(w).abs().mean(1).clamp_min(1e-12)
            if self.scale
            else torch.ones(len(w), device=w.device)
        )
        return torch.where(w >= 0, 1.0, -1.0), scale

    def weights(self, weight: Tensor, bits: int, held: GridTensors) -> Tensor:
        w = self._centred(weight)
        codes, scale = self.codes(weight, bits, held)
        if self.gradient == "xnor":
            through = _xnor(w, codes, by_filter(scale, weight))
            return through + (codes * by_filter(scale, weight) - through).detach()
        return scaled(
            codes, scale, w.abs() if self.through_scale else None, sloped(w, self.gradient)
        )

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import signs

        return signs(x, ZERO_TOLERANCE, 0 if self.zero else -1, self.gradient)

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        import torch

        # two codes far apart give a small step; biases are stored in multiples of it, and
        # multiples of 1 would be too coarse
        zero, top = (0, 255) if self.zero else (127, 254)
        return Codes(torch.tensor(1.0), zero, top, torch.tensor(1 / (top - zero)), sign=True)


def _xnor(w: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Return w unchanged; its backward pass is the gradient of XNOR-Net."""
    import torch

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, w: Tensor) -> Tensor:
            return w.clone()

        @staticmethod
        def backward(_ctx: object, grad: Tensor) -> Tensor:
            size = w[0].numel()
            mean = per_filter(codes * grad).mean(1)
            return (
                (scale * (w.abs() <= 1) * grad + codes * by_filter(mean, w))
                * (1 - 1 / w.shape[1])
                * size
            )

    through: Tensor = Through.apply(w)
    return through
