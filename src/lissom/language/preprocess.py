"""Preprocessing: what happens to a picture before a network sees it, as one text.

    resize(256, "bicubic") | center_crop(224) | normalize("imagenet")

Operations on the picture come first, operations on its numbers after them. In between, 8-bit pixels
become numbers from 0 to 1. A preprocessing is an object with a text, as a recipe is: a text that
is stated is in the key of every network, and each is in the record and in every exported file.
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
from .method import Method, methods_in

if TYPE_CHECKING:
    from PIL.Image import Image

Numbers = tuple[float, ...]  # one for each channel
Size = tuple[int, int]  # (width, height) of a picture, as Pillow has it

SETS = {
    "imagenet": 'resize(256) | center_crop(224) | normalize("imagenet")',
    "cifar10": 'normalize("cifar10")',
    "data": 'normalize("data")',
}


@dataclass(frozen=True)
class Placement:
    """Where a point (x, y) of a picture lies in what becomes of it: at scale * point + offset.

    Points are in pixels, and (0, 0) is the corner of the first one. `size` is that of what becomes
    of the picture; what lies outside is cut off.
    """

    size: Size
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class PictureOperation(Method, ABC):
    """Turn a picture into another: called with a PIL image of 8 bits a channel."""

    channels: ClassVar[int | None] = None  # of what comes out; None for as many as went in
    swaps: ClassVar[bool] = False  # whether red and blue change places

    @abstractmethod
    def __call__(self, picture: Image) -> Image:
        """Return the changed picture."""

    def least(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the least width and height at which a file with a picture of `size` may be decoded
        for this operation; None for all of it.
        """
        del size
        return None

    def for_labels(self, fill: int) -> PictureOperation | None:
        """Return what does the same to a picture of labels: no values between two of them, and
        `fill` where the operation adds pixels. None for what changes values alone.
        """
        del fill
        return self

    @abstractmethod
    def placement(self, size: Size) -> Placement:
        """Return where the points of a picture of `size` lie afterwards."""

    @abstractmethod
    def code(self) -> str:
        """Return lines of Python that do the same to the PIL image `picture`, with `Image` of Pillow."""


@dataclass(frozen=True)
class NumberOperation(Method, ABC):
    """Change the numbers of each channel by a line, value -> (value - mean) / std.

    Operations in a row are one line. So each is called with mean and std of those before it, as
    numbers for pixels / 255, and returns mean and std of all of them with itself.
    """

    @abstractmethod
    def __call__(self, mean: Numbers, std: Numbers) -> tuple[Numbers, Numbers]:
        """Return mean and std after this operation."""

    def measured(self, mean: Numbers, std: Numbers) -> NumberOperation:
        """Return this operation with numbers in the place of what has to be measured on the data.

        `mean` and `std` are those of the data at this place.
        """
        return self

    @property
    def from_data(self) -> bool:
        """Whether something has to be measured on the data first."""
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
        """Read a preprocessing; raise LissomError for a text that is none."""
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
                    f"preprocess: {after} changes the picture; it must stand before {before}, "
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
        """How the channels of a colour picture lie: RGB or BGR."""
        return "BGR" if sum(operation.swaps for operation in self.pictures) % 2 else "RGB"

    @property
    def from_data(self) -> bool:
        """Whether mean and deviation have to be measured on the data first."""
        return any(operation.from_data for operation in self.numbers)

    def channels(self, before: int) -> int:
        """Return how many channels a picture of `before` channels has afterwards."""
        for operation in self.pictures:
            before = operation.channels or before
        return before

    def shown(self, picture: Image) -> Image:
        """Return what comes of a picture."""
        for operation in self.pictures:
            picture = operation(picture)
        return picture

    def placements(self, size: Size) -> list[Placement]:
        """Return what each operation does to the points of a picture of `size` (width, height).

        They are no single placement: what one operation cuts off does not come back with the next.
        """
        each = list[Placement]()
        for operation in self.pictures:
            each.append(operation.placement(size))
            size = each[-1].size
        return each

    def least(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the least width and height at which a file with a picture of `size` may be decoded;
        None for all of it.
        """
        return self.pictures[0].least(size) if self.pictures else None

    def for_labels(self, fill: int) -> Preprocess:
        """Return what does the same to a picture of labels."""
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
        """Return this preprocessing with the data's own numbers, of pixels / 255, where they are wanted."""
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
    """Return the one operation that a tree names."""
    operations = list(methods_in(node, menu("preprocess"), "preprocess"))
    if len(operations) != 1:
        raise LissomError(
            f"preprocess: expected one operation, got {len(operations)} in '{ast.unparse(node)}'; "
            "{sets} are for recipes"
        )
    return operations[0]
