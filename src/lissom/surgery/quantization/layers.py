"""Layers with rounded weights, simulated in float.

The simulation and the exported file use the same numbers. In training a layer runs its rounded
weights and then its own batch-norm, so statistics keep updating and ordinary learning rates work.
In inference batch-norm is multiplied into the scales of the filters, which changes no integer.
Simulating folded weights in training, as the paper does, gives the same result with one scale per
filter, at twice the work. With one scale for the layer the result differs: see
`filter_factor`.
The bias is rounded to int32 as in a file, in the simulation too. ONNX Runtime then gave the same
answer on 99.9 % of CIFAR-10's test images; without that rounding, on 99.5 %.
Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877; Bengio et al. 2013,
https://arxiv.org/abs/1308.3432.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...language.grid import by_filter
from ..fold import scale_and_shift
from ..layers import (
    CompressedConv1d,
    CompressedConv2d,
    CompressedConv3d,
    CompressedConvTranspose1d,
    CompressedConvTranspose2d,
    CompressedConvTranspose3d,
    CompressedEmbedding,
    CompressedLayer,
    CompressedLinear,
    plain_class_of,
)
from .rounding import Rounding
from .sites import convolved, looked_up, projected, run_without_sites

Norm = nn.modules.batchnorm._BatchNorm
MAX_PACKED_BITS = 4  # some formats pack weights of so many bits or fewer


def with_gradient_of(smooth: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `smooth`.

    Adding an exact 0 keeps every bit of `value`; value + (smooth - value) need not.
    """
    return value.detach() + (smooth - smooth.detach())


class QuantizedLayer(CompressedLayer):
    """The base of layers with rounded weights; a layer becomes one by a change of its class.

    What a value passes, from the layer before to the next (each part may be missing):

        site -> site_rounding -> own_input_rounding -> weight, rounded by `rounding`
             -> norm -> next site

    `site_rounding` is the same for all layers that read the site. `own_input_rounding` rounds once
    more, to the fewer bits of this layer; layers with the same `own_input_rounding_name` share it.

    Grids, scales and batch-norm see a weight as (out in ...), as `to_grid_form` returns it. The
    layer itself computes with the weight in its own layout.
    """

    call = staticmethod(convolved)  # the call by which `Sites` knows the layer
    # Whether it looks up rows. It then reads integers, which are never rounded. Its outputs are not
    # sums, so errors cannot cancel in them and it has no bias.
    is_table: ClassVar[bool] = False
    rounding: Rounding | None  # of the weights; None leaves them float
    norm: Norm | None  # the batch-norm that followed the layer
    norm_name: str | None  # its path in the network
    # the site that the layer reads, or one of several with the same step; None if steps differ
    site: str | None
    # the two roundings of inputs; not submodules, since the network owns them, in its `grids`
    site_rounding: Rounding | None
    own_input_rounding: Rounding | None
    own_input_rounding_name: str | None  # in `grids`

    def prepare(self, norm: Norm | None = None, norm_name: str | None = None) -> None:
        """Set the attributes of a layer whose class has just changed; nothing is rounded yet."""
        self.rounding = self.site = self.own_input_rounding_name = None
        self.norm = norm
        self.norm_name = norm_name
        self.set_input_roundings(None)

    def set_input_roundings(
        self, of_site: Rounding | None, of_layer: Rounding | None = None
    ) -> None:
        """Set the rounding of the site that the layer reads and the layer's own second rounding."""
        self.__dict__.update(site_rounding=of_site, own_input_rounding=of_layer)

    @property
    def has_rounding(self) -> bool:
        """Whether the layer's weights or inputs are rounded."""
        return any((self.rounding, self.site_rounding, self.own_input_rounding))

    def settings(self) -> dict[str, Any]:
        """Return the settings from which the layer is rebuilt."""
        return {
            "site": self.site,
            "norm": self.norm_name,
            "rounding": None if self.rounding is None else self.rounding.settings(),
            "again": self.own_input_rounding_name,
        }

    def train(self, mode: bool = True) -> Any:
        """Switch to training or inference; after training, let the scales follow the weights."""
        learned = self.training and not mode
        found = super().train(mode)
        if learned and self.rounding is not None:
            self.rounding.refresh(self.to_grid_form(self.transformed().detach()))
        return found

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        return self.call(input, self.weight, self, *more, **named)

    def forward_quantized(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        """Round the input, run the layer with rounded weights, then its batch-norm."""
        if self.own_input_rounding is not None:
            x = self.own_input_rounding(x)
        if not self.training:
            weight, bias = self.learning() if torch.is_grad_enabled() else self.in_inference()
            return self.computed(x, weight, bias, *more, **named)
        weight = self.transformed()
        if self.rounding is not None:
            weight = self.on_grid(weight, self.rounding)
        weight = weight if self.is_table else weight.to(x.dtype)
        y = self.computed(x, weight, self.bias, *more, **named)
        return y if self.norm is None else self.norm(y)

    def learning(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight and bias of inference, to the bit, with the gradients of training.

        It serves networks that learn in eval mode.
        """
        weight, bias = self.in_inference()
        if "in_inference" in vars(self) or not any(p.requires_grad for p in self.parameters()):
            return weight, bias
        smooth = self.transformed()
        if self.rounding is not None and not self.rounding.off:
            smooth = self.on_grid(smooth, self.rounding)
        shift = self.bias
        if (
            self.norm is not None
            and self.norm.running_mean is not None
            and self.norm.running_var is not None
        ):
            factor = (self.norm.running_var + self.norm.eps).rsqrt()
            factor = factor if self.norm.weight is None else factor * self.norm.weight
            shift = (
                -self.norm.running_mean * factor
                if shift is None
                else (shift - self.norm.running_mean) * factor
            )
            shift = shift if self.norm.bias is None else shift + self.norm.bias
            smooth = self.times(smooth, factor)
        if smooth.requires_grad:
            smooth.register_hook(lambda _: self.__dict__.update(learned_at=self.versions()))
        return with_gradient_of(
            smooth, weight
        ), None if bias is None or shift is None else with_gradient_of(shift, bias)

    def versions(self) -> list[int]:
        """Return the version counters of the tensors that scales depend on."""
        return [
            t._version
            for t in (self.weight, None if self.norm is None else self.norm.weight)
            if t is not None
        ]

    def catch_up(self) -> None:
        """Update the scales for weights that were trained in eval mode, as `train` does for
        training mode.
        """
        before = self.__dict__.get("learned_at")
        if (
            before is not None
            and not self.training
            and self.rounding is not None
            and before != self.versions()
        ):
            del self.__dict__["learned_at"]
            self.rounding.refresh(self.to_grid_form(self.transformed().detach()))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.catch_up()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def filter_factor(self) -> Tensor | None:
        """Return the factor of each filter (out) before it is rounded, never 0; None if all are 1.

        It is the sign of batch-norm's factor, because the integers of a weight may reach further
        down than up: -8 to 7 negated would be -7 to 8. For a grid with one scale for all filters it
        is the factor itself, from the running statistics: weights share a scale only after
        batch-norm is multiplied in.
        """
        if self.norm is None or self.rounding is None:
            return None
        sign = (
            None
            if self.norm.weight is None
            else torch.where(self.norm.weight.detach() < 0, -1.0, 1.0)
        )
        if not self.rounding.grid.one_scale:
            return sign
        size = scale_and_shift(self.norm)[0].abs().clamp_min(1e-12).float()
        return size if sign is None else sign * size

    def to_grid_form(self, weight: Tensor) -> Tensor:
        """Return a weight of the layer in the form that its grid rounds (out ...)."""
        factor = self.filter_factor()
        weight = self.filters_first(weight)
        return weight if factor is None else weight * by_filter(factor, weight)

    def from_grid_form(self, weight: Tensor) -> Tensor:
        """Return a weight that `to_grid_form` returned (out ...) in the layer's layout."""
        factor = self.filter_factor()
        return self.as_held(weight if factor is None else weight / by_filter(factor, weight))

    def on_grid(self, weight: Tensor, rounding: Rounding) -> Tensor:
        """Return a rounded weight, in the layer's layout, with the gradient of training."""
        return self.from_grid_form(rounding(self.to_grid_form(weight)))

    def times(self, weight: Tensor, factor: Tensor) -> Tensor:
        """Return a weight in the layer's layout with each filter multiplied by its factor (out)."""
        weight = self.filters_first(weight)
        return self.as_held(weight * by_filter(factor, weight))

    def weight_codes(self) -> tuple[Tensor, Tensor]:
        """Return the weights as integers of the grid (out ...), in float, and the scale of each
        filter (out).
        """
        assert self.rounding is not None
        self.catch_up()
        return self.rounding.codes(self.to_grid_form(self.transformed().detach()))

    def in_inference(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight, in the layer's layout, and the bias (out) of inference: rounded,
        batch-norm folded in.
        """
        if self.rounding is None or self.rounding.off:
            factor, bias = self.normed()
            weight = self.transformed()
            if factor is not None:
                weight = self.times(weight.double(), factor).to(weight)
            return weight, None if bias is None else bias.to(weight)
        codes, scale, bias = self.integers()
        step = self.step()
        if bias is not None and step is not None:
            unit = scale * step
            bias = (bias / unit.double()).round().float() * unit
        weight = self.as_held(codes * by_filter(scale, codes))
        return weight, None if bias is None else bias.float()

    def step(self) -> Tensor | None:
        """Return the step of the integers that the layer reads.

        None if it reads floats, or if the step is known only at run time.
        """
        roundings = (self.own_input_rounding, self.site_rounding)
        source = next((r for r in roundings if r is not None and not r.off), None)
        return None if source is None or source.grid.at_run_time else source.input_codes().step

    def integers(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the weights as integers (out ...), in float, the scale of each filter (out), and
        the bias in float64, with batch-norm folded in.

        A filter with tiny weights and a large bias gets a larger scale, with which the bias fits
        int32.
        """
        codes, scale = self.weight_codes()
        factor, bias = self.normed()
        if factor is not None:
            in_codes = self.filter_factor()  # what the codes are multiplied by already
            scale = (scale * (factor if in_codes is None else factor / in_codes)).float()
            codes = codes * by_filter((factor != 0).float(), codes)
        step = self.step()
        if bias is not None and step is not None:
            least = (bias.abs() / (step.double() * 2.0**30)).float().clamp_min(1e-12)
            small = scale < least
            codes = torch.where(
                by_filter(small, codes), (codes * by_filter(scale / least, codes)).round(), codes
            )
            scale = torch.where(small, least, scale)
        return codes, scale.clamp_min(1e-12), bias

    def normed(self) -> tuple[Tensor | None, Tensor | None]:
        """Return batch-norm's factor for each filter and the bias with its shift, in float64.

        The factor is None without batch-norm, the bias if there is none.
        """
        bias = None if self.bias is None else self.bias.detach().double()
        if self.norm is None:
            return None, bias
        factor, shift = scale_and_shift(self.norm)
        return factor, shift if bias is None else shift + bias * factor

    def make_plain(self, weight: Tensor, bias: Tensor | None) -> None:
        """Become a layer of the original class with this weight and bias.

        The layer's second rounding of its input stays, as a pre-hook.
        """
        rounding = self.own_input_rounding
        self.drop_transforms()
        for name in ("rounding", "norm"):
            self._modules.pop(name, None)
        self.__class__ = plain_class_of(self)  # type: ignore[assignment]
        self.weight = nn.Parameter(weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach())
        if rounding is not None:
            self.register_forward_pre_hook(
                lambda _, given: (run_without_sites(given[0], rounding),)
            )


class QuantizedConv1d(QuantizedLayer, CompressedConv1d):
    """A convolution over one axis whose weights are rounded."""


class QuantizedConv2d(QuantizedLayer, CompressedConv2d):
    """A convolution whose weights are rounded."""


class QuantizedConv3d(QuantizedLayer, CompressedConv3d):
    """A convolution over three axes whose weights are rounded."""


class QuantizedConvTranspose1d(QuantizedLayer, CompressedConvTranspose1d):
    """A transposed convolution over one axis whose weights are rounded."""


class QuantizedConvTranspose2d(QuantizedLayer, CompressedConvTranspose2d):
    """A transposed convolution whose weights are rounded."""


class QuantizedConvTranspose3d(QuantizedLayer, CompressedConvTranspose3d):
    """A transposed convolution over three axes whose weights are rounded."""


class QuantizedLinear(QuantizedLayer, CompressedLinear):
    """A linear layer whose weights are rounded."""

    call = staticmethod(projected)


class QuantizedEmbedding(QuantizedLayer, CompressedEmbedding):
    """An embedding (n features) whose rows are rounded, each with its own scale."""

    call = staticmethod(looked_up)
    is_table = True


CLASSES: dict[type, type[QuantizedLayer]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.ConvTranspose1d: QuantizedConvTranspose1d,
    nn.ConvTranspose2d: QuantizedConvTranspose2d,
    nn.ConvTranspose3d: QuantizedConvTranspose3d,
    nn.Linear: QuantizedLinear,
    nn.Embedding: QuantizedEmbedding,
}
