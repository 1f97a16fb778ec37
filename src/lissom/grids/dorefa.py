"""The grids of DoReFa-Net: weights squashed by tanh, inputs clipped to [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..language.grid import Codes, Grid, by_filter, rounded, sloped, through
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Dorefa(Grid):
    """Squash weights into [-1, 1] with tanh, clip inputs to [0, 1], and round both.

    weights: value = 2 round(n u) / n - 1    u = tanh(w) / (2 max|tanh(w)|) + 1/2, n = 2^bits - 1
             value = mean|w| sign(w)         with 1 bit
             max and mean are those of the whole layer
    inputs:  value = round(n clamp(prescale x, 0, 1)) / n

    Gradient, with h of `gradient`:
    weights: dvalue/dw = h(v) dv/dw       v = 2 u - 1
             dvalue/dw = h(v)             v = w / mean|w|, with 1 bit
    inputs:  dvalue/dx = prescale h(v)    v = 2 prescale x - 1
    ste:      h(v) = 1, the straight-through estimator; the default for weights
    saturate: h(v) = 1 where |v| < 1, else 0; the default for inputs
    soft:     h(v) = max(0, 1 - |v|)

    The values are not scaled back to the range of w and x. So batch-norm must follow the layer, and
    training must follow the quantization: there is no good post-training form.

    Also known as: DoReFa-Net.
    Source: Zhou et al. 2016, DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with
    Low Bitwidth Gradients, https://arxiv.org/abs/1606.06160.
    Differs: n = 254 for weights of 8 bits, so that they are the integers -127..127, which runtimes
    support.
    """

    version: ClassVar[int] = 2

    of_weights: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    of_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    for_inputs_too: ClassVar[bool] = True
    only_inner: ClassVar[bool] = True
    private: ClassVar[bool] = True

    prescale: float = arg(
        "factor on the inputs before they are clipped to [0, 1]", 0.1, above=0, high=100
    )
    gradient: Literal["ste", "saturate", "soft"] | None = arg(
        "surrogate gradient of rounding; None = ste for weights, saturate for inputs",
        None,
        late=True,
    )

    def _whole(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor, int]:
        """Return integers with their gradient, the scale of the layer, and n, 1 for one bit."""
        import torch

        w = weight.float()
        if bits == 1:
            scale = w.detach().abs().mean().clamp_min(1e-12)
            v = sloped(w / scale, self.gradient)
            return v + (torch.where(w >= 0, 1.0, -1.0) - v).detach(), scale, 1
        n = 254 if bits == 8 else 2**bits - 1
        squeezed = w.tanh()
        u = squeezed / (2 * squeezed.abs().max().clamp_min(1e-12)) + 0.5
        whole = 2 * rounded(u * n) - n  # odd numbers, or with n = 254 even ones
        if self.gradient in ("saturate", "soft"):
            whole = through(whole.detach(), n * sloped(2 * u - 1, self.gradient))
        return (whole / 2, torch.tensor(2 / n), n) if n == 254 else (whole, torch.tensor(1 / n), n)

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        whole, scale, _ = self._whole(weight.detach(), bits)
        return whole.round(), scale.to(weight.device).expand(len(weight)).contiguous().clamp_min(
            1e-12
        )

    def weights(self, weight: Tensor, bits: int, held: GridTensors) -> Tensor:
        whole, scale, _ = self._whole(weight, bits)
        return whole * by_filter(scale.to(weight.device).detach().expand(len(weight)), weight)

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        import torch

        from ..surgery.quantization.kernels import equal_steps

        n = 2**bits - 1
        step = torch.tensor(1 / (self.prescale * n), device=x.device)
        if self.gradient in (None, "saturate"):
            return equal_steps(x, step, 0, n) * self.prescale
        slope = sloped(2 * self.prescale * x - 1, self.gradient) / 2
        return through(equal_steps(x.detach(), step, 0, n) * self.prescale, slope)

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        import torch

        n = 2**bits - 1
        return Codes(torch.tensor(1 / (self.prescale * n)), 0, n, torch.tensor(1 / n))
