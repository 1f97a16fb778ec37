"""The contract of augmentations, and a sum of them as in the setting `augment`.

    crop + flip + rotate(15) + mixup(0.2)

One text names the augmentations and their order, so that learning steps need no settings for each
of them.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from .grammar import parsed, parts_of
from .menu import menu
from .method import Method
from .parse_methods import methods_in

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..trees import Tree
    from .kind import Kind

PLAIN = ("crop", "flip")  # the keys of networks contain these only as the text of `augment`


@dataclass(frozen=True)
class Augmentation(Method, ABC):
    """Vary a batch of images (n c h w) randomly, and their targets (n ...) with them.

    `sees` says which input it takes: pixels in 0..255, only 8-bit pixels, or normalised numbers;
    `channels`, how many channels images may have, any if it is empty.
    `moves` says that it moves the content of an image, and that no kind of task with places
    (boxes, label images) can move its targets along. If several are `mixing` samples, one is
    drawn for each batch.
    """

    sees: ClassVar[Literal["pixels", "8 bits", "numbers"]] = "pixels"
    channels: ClassVar[tuple[int, ...]] = ()
    moves: ClassVar[bool] = False
    mixing: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        pictures: Tensor,
        targets: Tree,
        draw: torch.Generator,
        kind: Kind | None,
        classes: int,
    ) -> tuple[Tensor, Tree]:
        """Return varied images and their targets; all randomness comes from `draw`, on the CPU.

        `kind` moves or mixes the targets; if it is None, they do not change. `classes` is the
        number of classes.
        """


@dataclass(frozen=True)
class Augmentations:
    """The augmentations of a text, in order; `auto` stands for crop, and flip if the data allow it.

    >>> str(Augmentations.of("crop + flip+rotate(15)"))
    'crop+flip+rotate(15.0)'
    """

    parts: tuple[Augmentation | Literal["auto"], ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.parts)) or "none"

    def identity(self) -> str:
        """Return the part of their identity that is not in their text; "" for crop and flip."""
        return "".join(
            part.identity() for part in self.parts if part != "auto" and part.name() not in PLAIN
        )

    @staticmethod
    def of(text: str, where: str = "augment") -> Augmentations:
        """Read a text: `none`, or a sum of `auto` and methods of the menu of augmentations.

        Raises LissomError for any other text.
        """
        return augmentations_of(text, where)


@lru_cache(4096)
def augmentations_of(text: str, where: str) -> Augmentations:
    """Return the augmentations of a text; results are cached."""
    if text.strip() == "none":
        return Augmentations(())
    parts: list[Augmentation | Literal["auto"]] = []
    for node in parts_of(parsed(text, where), ast.Add):
        if isinstance(node, ast.Name) and node.id == "auto":
            parts.append("auto")
            continue
        methods = list(methods_in(node, menu("augmentations"), where))
        if len(methods) != 1 or not isinstance(methods[0], Augmentation):
            raise LissomError(f"{where}: expected augmentations, as in crop + flip, got {text!r}")
        parts.append(methods[0])
    return Augmentations(tuple(parts))
