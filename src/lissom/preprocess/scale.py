"""Scaling of pixel values."""

from __future__ import annotations

from dataclasses import dataclass

from ..language.method import arg
from ..language.preprocess import NumberOperation, Numbers


@dataclass(frozen=True)
class Scale(NumberOperation):
    """Multiply every number.

    y = by * x

    Numbers are from 0 to 1 before the first operation, so scale(255) restores the pixel values. For
    a network that expects (pixel - 127) / 128, use scale(255) | normalize(mean=127, std=128).
    Also known as: rescale.
    Source: the rescale_factor of image processors, https://huggingface.co/docs/transformers
    """

    by: float = arg("the factor", above=0)

    def __call__(self, mean: Numbers, std: Numbers) -> tuple[Numbers, Numbers]:
        return mean, tuple(s / self.by for s in std)
