"""The preprocessing of images as one text.

    resize(256, "bicubic") | center_crop(224) | normalize("imagenet")

Operations on the image come first, then operations on its numbers. In between, 8-bit pixels
become numbers from 0 to 1. Like a recipe, a preprocessing is an object with a text. A text that the
user states is in the key of every network; any text is in the record and in every exported file.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from ..errors import LissomError
from .grammar import parsed, parts_of
from .menu import menu
from .method import Method
from .parse_methods import methods_in

if TYPE_CHECKING:
    from PIL.Image import Image

Numbers = tuple[float, ...]  # one for each channel
Size = tuple[int, int]  # (width, height) of an image, as Pillow has it

SETS = {
    "imagenet": 'resize(256) | center_crop(224) | normalize("imagenet")',
    "cifar10": 'normalize("cifar10")',
    "data": 'normalize("data")',
}


@dataclass(frozen=True)
class Placement:
    """The map of points (x, y) from an image to the changed image: scale * point + offset.

    Points are in pixels; (0, 0) is the corner of the first pixel. `size` is the size of the changed
    image; parts outside are cut off.
    """

    size: Size
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class PictureOperation(Method, ABC):
    """Turn a PIL image with 8 bits a channel into another."""

    channels: ClassVar[int | None] = None  # of the result; None for as many as before
    swaps: ClassVar[bool] = False  # whether it swaps red and blue

    @abstractmethod
    def __call__(self, picture: Image) -> Image:
        """Return the changed image."""

    def least(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the least width and height to which a decoder may reduce an image of `size` for
        this operation; None for full size.
        """
        del size
        return None

    def for_labels(self, fill: int) -> PictureOperation | None:
        """Return the same operation for an image of labels: without interpolation, and with `fill`
        for added pixels. None for an operation that changes only values.
        """
        del fill
        return self

    @abstractmethod
    def placement(self, size: Size) -> Placement:
        """Return the placement of the points of an image of `size` (width, height)."""

    @abstractmethod
    def code(self) -> str:
        """Return Python code that does the same to a PIL image `picture`, with Pillow's `Image`."""


@dataclass(frozen=True)
class NumberOperation(Method, ABC):
    """Change the numbers of each channel linearly: value -> (value - mean) / std.

    A sequence of operations is linear too. So each receives the combined mean and std of those
    before it, for pixels / 255, and returns mean and std combined with its own.
    """

    @abstractmethod
    def __call__(self, mean: Numbers, std: Numbers) -> tuple[Numbers, Numbers]:
        """Return the combined mean and std, this operation included."""

    def measured(self, mean: Numbers, std: Numbers) -> NumberOperation:
        """Return this operation with the data's `mean` and `std` at this place filled in."""
        return self

    @property
    def from_data(self) -> bool:
        """Whether it needs the mean and std of the data."""
        return False


@dataclass(frozen=True)
class Preprocess:
    """Operations in order, read from text or from the name of a set.

    >>> str(Preprocess.of("imagenet"))
    'resize(256) | center_crop(224) | normalize("imagenet")'
    >>> Preprocess.of('scale(255) | normalize(mean=127, std=128)').line(1)
    ((0.4980392156862745,), (0.5019607843137255,))
    """

    pictures: tuple[PictureOperation, ...]
    numbers: tuple[NumberOperation, ...]

    @classmethod
    def of(cls, text: str) -> Preprocess:
        """Read a preprocessing from text. Raises LissomError if the text is not valid."""
        text = SETS.get(text.strip(), text)
        if not text.strip():
            raise LissomError(f"preprocess: it is empty; an example: {SETS['imagenet']}")
        tree = parsed(text, "preprocess")
        if isinstance(tree, ast.Tuple):
            raise LissomError(
                f"preprocess: expected | between operations, as in {SETS['imagenet']}, got a comma"
            )
        operations = [operation_in(part) for part in parts_of(tree, ast.BitOr)]
        for before, after in pairwise(operations):
            if isinstance(before, NumberOperation) and isinstance(after, PictureOperation):
                raise LissomError(
                    f"preprocess: {after} changes the image; it must stand before {before}, "
                    "which changes numbers"
                )
        for late in operations[1:]:
            if isinstance(late, PictureOperation) and late.least((1 << 16, 1 << 16)):
                raise LissomError(
                    f"preprocess: {late} says how files are decoded; expected it first, got it after "
                    f"{operations[0]}"
                )
        return cls(
            tuple(each for each in operations if isinstance(each, PictureOperation)),
            tuple(each for each in operations if isinstance(each, NumberOperation)),
        )

    def __str__(self) -> str:
        """Return the text that reads back as this preprocessing."""
        return " | ".join(map(str, [*self.pictures, *self.numbers]))

    @property
    def order(self) -> str:
        """The order of the channels of a colour image: RGB or BGR."""
        return "BGR" if sum(operation.swaps for operation in self.pictures) % 2 else "RGB"

    @property
    def from_data(self) -> bool:
        """Whether it needs the mean and std of the data."""
        return any(operation.from_data for operation in self.numbers)

    def channels(self, before: int) -> int:
        """Return the number of channels after the operations, given the number `before`."""
        for operation in self.pictures:
            before = operation.channels or before
        return before

    def shown(self, picture: Image) -> Image:
        """Return the image after all image operations."""
        for operation in self.pictures:
            picture = operation(picture)
        return picture

    def placements(self, size: Size) -> list[Placement]:
        """Return the placement of each operation, for an image of `size` (width, height).

        They cannot be merged into one: a part that one operation cuts off does not come back.
        """
        each = list[Placement]()
        for operation in self.pictures:
            each.append(operation.placement(size))
            size = each[-1].size
        return each

    def least(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the least width and height to which a decoder may reduce an image of `size`; None
        for full size.
        """
        return self.pictures[0].least(size) if self.pictures else None

    def for_labels(self, fill: int) -> Preprocess:
        """Return the same preprocessing for an image of labels."""
        operations = [operation.for_labels(fill) for operation in self.pictures]
        return Preprocess(tuple(each for each in operations if each is not None), ())

    def line(self, channels: int) -> tuple[Numbers, Numbers]:
        """Return mean and std of each channel such that the network sees (pixels / 255 - mean) / std."""
        mean = (0.0,) * channels
        std = (1.0,) * channels
        for operation in self.numbers:
            mean, std = operation(mean, std)
        return mean, std

    def measured(self, mean: Numbers, std: Numbers) -> Preprocess:
        """Return this preprocessing with the data's mean and std, of pixels / 255, filled in."""
        before = replace(self, numbers=())
        for operation in self.numbers:
            offset, factor = before.line(len(mean))
            here = (
                tuple((m - o) / f for m, o, f in zip(mean, offset, factor, strict=True)),
                tuple(s / f for s, f in zip(std, factor, strict=True)),
            )
            before = replace(before, numbers=(*before.numbers, operation.measured(*here)))
        return before


def operation_in(node: ast.expr) -> Method:
    """Return the operation that a tree names. Raises LissomError unless it is exactly one."""
    operations = list(methods_in(node, menu("preprocess"), "preprocess"))
    if len(operations) != 1:
        raise LissomError(
            f"preprocess: expected one operation, got {len(operations)} in '{ast.unparse(node)}'; "
            "{sets} are for recipes"
        )
    return operations[0]
