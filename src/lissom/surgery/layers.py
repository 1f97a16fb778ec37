"""The kinds of layers whose weights surgery changes, each as a class that computes with a weight
handed to it.

A layer becomes one in place (`layer.__class__ = ...`): it stays the same object, so it keeps its
name, its hooks and the attributes that the user's code reads. What is done to its weight before it
computes is a list of transforms (transform.py), its modules `mask`, `cluster`, `cast`; with none it
computes as PyTorch's own class does.
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

# zeros as TensorFlow adds them: as many as make the output the input's size over the stride,
# rounded up
SAME = "same"


class CompressedLayer(nn.Module, ABC):
    """A layer that says how it computes with another weight, and what is done to its weight before.

    `geometry` is what a rebuilt layer must be told where a forward of somebody's own became this
    plain operation (plain_layers.py), else None.
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
        """Return the layer's own operation with another weight (out in ...) and bias (out), and
        what else it was given.
        """

    @property
    def filters(self) -> int:
        """How many filters the weight is."""
        return len(self.weight)

    def filters_first(self, weight: Tensor) -> Tensor:
        """Return a weight as the layer holds it with its filters first (out in ...), as grids take it."""
        return weight

    def as_held(self, weight: Tensor) -> Tensor:
        """Return a weight (out in ...) as the layer holds it."""
        return weight

    @property
    def transforms(self) -> dict[str, WeightTransform]:
        """What is done to the weight, by name, in this order."""
        return {
            name: part for name, part in self._modules.items() if isinstance(part, WeightTransform)
        }

    def add_transform(self, transform: WeightTransform) -> None:
        """Let `transform` act on the weight from now on, after those whose place comes before its own."""
        parts = [*self.transforms.values(), transform]
        self.drop_transforms()
        for part in sorted(parts, key=lambda part: part.place):
            self.add_module(part.name(), part)
        transform.hold(self.weight, self.training)

    def drop_transforms(self) -> None:
        """Compute with the weight as it is from now on."""
        for name in self.transforms:
            delattr(self, name)

    def transformed(self) -> Tensor:
        """Return the weight (out in ...) that the layer computes with."""
        weight = self.weight
        for transform in self.transforms.values():
            weight = transform.transformed(weight)
        return weight

    def train(self, mode: bool = True) -> Any:
        """Go to training or inference, and let the transforms take note of the weight."""
        for transform in self.transforms.values():
            transform.hold(self.weight, mode)
        return super().train(mode)


class CompressedConv(CompressedLayer):
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
    """A table of which rows (n features) are looked up."""

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
    """A transposed convolution, whose weight is (in out/groups ...); its call may name the size of
    its output.
    """

    groups: int

    @property
    def filters(self) -> int:
        return self.groups * self.weight.shape[1]

    def filters_first(self, weight: Tensor) -> Tensor:
        # a filter is of one group and reads the inputs of that group only: (out in/groups ...)
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def as_held(self, weight: Tensor) -> Tensor:
        return self.filters_first(weight)  # twice is as it was

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
        (
            kind
            for kind, compressed in COMPRESSED.items()
            if type(layer) is kind or isinstance(layer, compressed)
        ),
        None,
    )


def compress(layer: nn.Module) -> CompressedLayer:
    """Let a layer of PyTorch's become one whose weight can be transformed, in place, and return it;
    one that is stays as it is.
    """
    if not isinstance(layer, CompressedLayer):
        kind = torch_class(layer)
        assert kind is not None
        layer.__class__ = COMPRESSED[kind]
    assert isinstance(layer, CompressedLayer)
    return layer


def bake_transforms(model: nn.Module) -> None:
    """Give the weights of a network the values that its layers compute with, and make the layers what
    they were before any transform, in place; quantized ones stay.

    A weight stays the same tensor: layers that share it go on sharing it.
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
        layer.__class__ = back(layer)  # type: ignore[assignment]


def weight_in_use(layer: nn.Module) -> Tensor:
    """Return the weight (out in ...) that a layer computes with, whatever is done to it."""
    if isinstance(layer, CompressedLayer):
        return layer.transformed()
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def baked(model: nn.Module) -> nn.Module:
    """Return a copy of a network without transforms of weights; itself where it has none."""
    if not any(isinstance(part, WeightTransform) for part in model.modules()):
        return model
    copied = copy.deepcopy(model)
    bake_transforms(copied)
    return copied


def back(layer: nn.Module) -> type[nn.Module]:
    """Return the class of a layer of which nothing is rounded and no weight transformed any more."""
    kind = torch_class(layer)
    assert kind is not None
    return kind if vars(layer).get("geometry") is None else COMPRESSED[kind]


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
