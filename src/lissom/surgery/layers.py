"""Layers whose weights surgery changes, each with a class that computes with a given weight.

A layer becomes one in place (`layer.__class__ = ...`): it stays the same object, so it keeps its
name, its hooks and the attributes that the user's code reads. The changes to its weight before it
computes are a list of transforms (transform.py), its modules `mask`, `cluster`, `cast`. Without any
it computes as PyTorch's own class does.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .by_tensor import ByTensor
from .transform import WeightTransform

# zeros as TensorFlow adds them: so many that the output has the input's size over the stride,
# rounded up
SAME_PADDING = "same"


class CompressedLayer(nn.Module, ABC):
    """A layer with transforms of its weight, which can compute with any given weight.

    `geometry` holds the settings to rebuild a layer whose custom forward became this plain
    operation (plain_layers.py), else None.
    """

    weight: Tensor
    bias: Any
    geometry: dict[str, Any] | None = None

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        return self.computed(input, self.transformed(), self.bias, *more, **named)

    @abstractmethod
    def computed(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *more: Any, **named: Any
    ) -> Tensor:
        """Return the layer's own operation with a given weight (out in ...) and bias (out).

        `more` and `named` are further arguments of the call.
        """

    @property
    def filters(self) -> int:
        """The number of filters."""
        return len(self.weight)

    def filters_first(self, weight: Tensor) -> Tensor:
        """Return a weight in the layer's layout with its filters first (out in ...), for grids."""
        return weight

    def as_held(self, weight: Tensor) -> Tensor:
        """Return a weight (out in ...) in the layer's layout."""
        return weight

    @property
    def transforms(self) -> dict[str, WeightTransform]:
        """The transforms of the weight, by name, in the order in which they act."""
        return {
            name: part for name, part in self._modules.items() if isinstance(part, WeightTransform)
        }

    def add_transform(self, transform: WeightTransform) -> None:
        """Add a transform of the weight, after those of lower `place`."""
        parts = [*self.transforms.values(), transform]
        self.drop_transforms()
        for part in sorted(parts, key=lambda part: part.place):
            self.add_module(part.name(), part)
        transform.hold(self.weight, self.training)

    def drop_transforms(self) -> None:
        """Remove all transforms: the layer computes with its weight as it is."""
        for name in self.transforms:
            delattr(self, name)

    def transformed(self) -> Tensor:
        """Return the weight (out in ...) that the layer computes with."""
        weight = self.weight
        for transform in self.transforms.values():
            weight = transform.transformed(weight)
        return weight

    def train(self, mode: bool = True) -> Any:
        """Switch to training or inference, and let the transforms see the weight."""
        for transform in self.transforms.values():
            transform.hold(self.weight, mode)
        return super().train(mode)


class CompressedConv(CompressedLayer):
    """A convolution that may add zeros before its own padding, which is the same on both sides.

    `pads` has the form of F.pad, last axis first, or is "same", which follows the size of the
    input.
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
        output: Tensor = super()._conv_forward(input, weight, bias)  # type: ignore[misc]
        return output


class CompressedConv1d(CompressedConv, nn.Conv1d):
    """A convolution over one axis."""


class CompressedConv2d(CompressedConv, nn.Conv2d):
    """A convolution over height and width."""


class CompressedConv3d(CompressedConv, nn.Conv3d):
    """A convolution over three axes."""


class CompressedLinear(CompressedLayer, nn.Linear):
    """A linear layer."""

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class CompressedEmbedding(CompressedLayer, nn.Embedding):
    """An embedding, whose rows (n features) are looked up."""

    bias = None

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(
            x,
            weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )


class CompressedTransposed(CompressedLayer):
    """A transposed convolution, whose weight is (in out/groups ...).

    Its call may give the size of its output.
    """

    groups: int

    @property
    def filters(self) -> int:
        return self.groups * self.weight.shape[1]

    def filters_first(self, weight: Tensor) -> Tensor:
        # a filter belongs to one group and reads only the inputs of that group: (out in/groups ...)
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def as_held(self, weight: Tensor) -> Tensor:
        return self.filters_first(weight)  # applied twice, it restores the layout

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


class CompressedConvTranspose1d(CompressedTransposed, nn.ConvTranspose1d):
    """A transposed convolution over one axis."""


class CompressedConvTranspose2d(CompressedTransposed, nn.ConvTranspose2d):
    """A transposed convolution over height and width."""


class CompressedConvTranspose3d(CompressedTransposed, nn.ConvTranspose3d):
    """A transposed convolution over three axes."""


COMPRESSED: dict[type[nn.Module], type[CompressedLayer]] = {
    nn.Conv1d: CompressedConv1d,
    nn.Conv2d: CompressedConv2d,
    nn.Conv3d: CompressedConv3d,
    nn.Linear: CompressedLinear,
    nn.ConvTranspose1d: CompressedConvTranspose1d,
    nn.ConvTranspose2d: CompressedConvTranspose2d,
    nn.ConvTranspose3d: CompressedConvTranspose3d,
    nn.Embedding: CompressedEmbedding,
}
BY_NAME = {kind.__name__: kind for kind in COMPRESSED}
# layers with a weight, whatever their subclasses do with it
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def torch_class(layer: nn.Module) -> type[nn.Module] | None:
    """Return the PyTorch class that a layer has, or had before lissom changed it; else None.

    >>> torch_class(nn.Conv1d(1, 1, 1)).__name__, torch_class(nn.ReLU())
    ('Conv1d', None)
    """
    if layer._parameters.get("weight") is None:  # it is computed from other parameters
        return None
    return next(
        (
            kind
            for kind, compressed in COMPRESSED.items()
            if type(layer) is kind or isinstance(layer, compressed)
        ),
        None,
    )


def compress(layer: nn.Module) -> CompressedLayer:
    """Make a PyTorch layer one whose weight can be transformed, in place, and return it.

    A layer that is one already stays as it is.
    """
    if not isinstance(layer, CompressedLayer):
        kind = torch_class(layer)
        assert kind is not None
        layer.__class__ = COMPRESSED[kind]
    assert isinstance(layer, CompressedLayer)
    return layer


def bake_transforms(model: nn.Module) -> None:
    """Write the transformed weights into the layers and remove the transforms, in place.

    Layers get their original class again; quantized layers stay. A weight stays the same tensor, so
    layers that share it still do.
    """
    done = ByTensor[bool]()
    for layer in list(model.modules()):
        if not isinstance(layer, CompressedLayer) or type(layer) not in COMPRESSED.values():
            continue
        if layer.weight not in done:
            with torch.no_grad():
                layer.weight.copy_(layer.transformed())
            done[layer.weight] = True
        layer.drop_transforms()
        layer.__class__ = plain_class_of(layer)  # type: ignore[assignment]


def weight_in_use(layer: nn.Module) -> Tensor:
    """Return the weight (out in ...) that a layer computes with, after its transforms."""
    if isinstance(layer, CompressedLayer):
        return layer.transformed()
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def baked(model: nn.Module) -> nn.Module:
    """Return a copy of a network with its transforms baked in; the network itself if none."""
    if not any(isinstance(part, WeightTransform) for part in model.modules()):
        return model
    copied = copy.deepcopy(model)
    bake_transforms(copied)
    return copied


def plain_class_of(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a layer after all rounding and transforms are removed."""
    kind = torch_class(layer)
    assert kind is not None
    return kind if vars(layer).get("geometry") is None else COMPRESSED[kind]


def missing(size: int, reach: int, stride: int) -> int:
    """Return the padding of an axis with which a window gives ceil(size / stride) places.

    >>> missing(64, 3, 2), missing(65, 3, 2)
    (1, 2)
    """
    return max(0, (-(-size // stride) - 1) * stride + reach - size)


def halves(total: int, upper: bool) -> tuple[int, int]:
    """Return the padding before and after; the larger half is after if `upper`, otherwise before.

    >>> halves(3, True), halves(3, False)
    ((1, 2), (2, 1))
    """
    small = total // 2
    return (small, total - small) if upper else (total - small, small)


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    upper: bool = True,
) -> list[int]:
    """Return the padding before and after each axis, last axis first, for ceil(n / stride) outputs.

    >>> same_pads((8, 9), (3, 3), (2, 2), (1, 1))
    [1, 1, 0, 1]
    """
    pads: list[int] = []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        pads = [*halves(missing(n, d * (k - 1) + 1, s), upper), *pads]
    return pads
