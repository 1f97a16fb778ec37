"""The kinds of layers whose weights surgery changes, each as a class that computes with a weight
handed to it.

Masked, quantized and cast layers are subclasses of these, so a kind of layer is described once.
A layer becomes one in place (`layer.__class__ = ...`): it stays the same object, so it keeps its
name, its hooks and the attributes that the user's code reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# zeros as TensorFlow adds them: as many as make the output the input's size over the stride,
# rounded up
SAME = "same"


class PlainLayer(nn.Module):
    """A layer that says how it computes with another weight.

    `geometry` is what a rebuilt layer must be told where a forward of somebody's own became this
    plain operation (plain_layers.py), else None.
    """

    weight: Tensor
    bias: Any
    geometry: dict[str, Any] | None = None

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        return self.computed(input, self.weight, self.bias, *more, **named)

    def computed(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *more: Any, **named: Any
    ) -> Tensor:
        """Return the layer's own operation with another weight (out in ...) and bias (out), and
        what else it was given.
        """
        raise NotImplementedError


class PlainConv(PlainLayer):
    """A convolution; before its own padding, the same on both sides, it may add zeros of its own.

    `pads` are as F.pad takes them, last axis first, or "same", which follows the size of the input.
    """

    pads: list[int] | str | None = None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pads = self.pads
        if isinstance(pads, str):
            pads = same_pads(x.shape[2:], self.kernel_size, self.stride, self.dilation)
        if pads is not None and any(pads):
            x = F.pad(x, pads)
        return self._conv_forward(x, weight, bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve as PyTorch's own class does."""
        found: Tensor = super()._conv_forward(input, weight, bias)  # type: ignore[misc]
        return found


class PlainConv1d(PlainConv, nn.Conv1d):
    """A convolution over one axis."""


class PlainConv2d(PlainConv, nn.Conv2d):
    """A convolution over height and width."""


class PlainConv3d(PlainConv, nn.Conv3d):
    """A convolution over three axes."""


class PlainLinear(PlainLayer, nn.Linear):
    """A linear layer."""

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class PlainTransposed(PlainLayer):
    """A transposed convolution, whose weight is (in out ...); its call may name the size of its output."""

    def computed(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None = None
    ) -> Tensor:
        layer: Any = self
        axes = weight.ndim - 2
        rest = layer._output_padding(
            x, output_size, layer.stride, layer.padding, layer.kernel_size, axes, layer.dilation
        )
        call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        return call(
            x, weight, bias, layer.stride, layer.padding, rest, layer.groups, layer.dilation
        )


class PlainConvTranspose1d(PlainTransposed, nn.ConvTranspose1d):
    """A transposed convolution over one axis."""


class PlainConvTranspose2d(PlainTransposed, nn.ConvTranspose2d):
    """A transposed convolution over height and width."""


class PlainConvTranspose3d(PlainTransposed, nn.ConvTranspose3d):
    """A transposed convolution over three axes."""


PLAIN: dict[type[nn.Module], type[PlainLayer]] = {
    nn.Conv1d: PlainConv1d,
    nn.Conv2d: PlainConv2d,
    nn.Conv3d: PlainConv3d,
    nn.Linear: PlainLinear,
    nn.ConvTranspose1d: PlainConvTranspose1d,
    nn.ConvTranspose2d: PlainConvTranspose2d,
    nn.ConvTranspose3d: PlainConvTranspose3d,
}
BY_NAME = {kind.__name__: kind for kind in PLAIN}
# their subclasses hold a weight, whatever they do with it
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def torch_class(layer: nn.Module) -> type[nn.Module] | None:
    """Return which of PyTorch's classes a layer is, or was before lissom changed it; None for any other.

    >>> torch_class(nn.Conv1d(1, 1, 1)).__name__, torch_class(nn.ReLU())
    ('Conv1d', None)
    """
    if layer._parameters.get("weight") is None:  # it is computed of other parameters
        return None
    return next(
        (kind for kind, plain in PLAIN.items() if type(layer) is kind or isinstance(layer, plain)),
        None,
    )


def back(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a layer of which nothing is rounded, masked or cast any more."""
    kind = torch_class(layer)
    assert kind is not None
    return kind if vars(layer).get("geometry") is None else PLAIN[kind]


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return the zeros before and after each axis, last axis first, that make ceil(size / stride) outputs.

    >>> same_pads((8, 9), (3, 3), (2, 2), (1, 1))
    [1, 1, 0, 1]
    """
    pads: list[int] = []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        missing = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        pads = [missing // 2, missing - missing // 2, *pads]
    return pads
