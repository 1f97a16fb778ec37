"""Match inner products of the channels of two feature layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import LissomError
from ..language.loss import FeatureLoss
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gram(FeatureLoss):
    """Match the teacher's FSP matrices: inner products of channels of two feature layers.

    G    = A B^T / (h*w), with A: (n a h*w) and B: (n b h*w) from two feature layers
    loss = scale * sum over pairs of mean over (n a b) of max(0, (G_student - G_teacher)^2 - clip)

    student, teacher: one (n c h w) per feature layer
    pairs="next": each feature layer with the next one; if the resolutions differ, the larger is
      max-pooled to the smaller. Raises LissomError if there is only one feature layer.
    pairs="stage": the first with the last feature layer of each resolution; if there is only one, G
      is its Gram matrix.
    Also known as: FSP (flow of solution procedure), Gram matrices.
    Source: Yim, Joo, Bae and Kim 2017, A Gift from Knowledge Distillation,
    https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html; with
    pairs="stage", clip=1 and scale=0.1, the loss of
    https://github.com/ckdghk77/Network-Compression-Gram.
    """

    clip: float = arg(
        "subtracted from each squared difference; below 0 counts as 0", 0.0, low=0, high=1e6
    )
    scale: float = arg("factor on the loss", 1.0, above=0, high=1e6)
    pairs: Literal["next", "stage"] = arg(
        "pair each feature layer with the next, or the first with the last of each resolution",
        "next",
    )

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        import torch

        gaps = []
        for first, second in self._pairs([f.shape[2:] for f in teacher]):
            gap = (
                flow(student[first], student[second]) - flow(teacher[first], teacher[second])
            ).square()
            gaps.append((gap - self.clip).relu().mean() if self.clip else gap.mean())
        return self.scale * torch.stack(gaps).sum()

    def _pairs(self, sizes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        if self.pairs == "stage":
            same = [
                [k for k, other in enumerate(sizes) if other == size]
                for size in dict.fromkeys(sizes)
            ]
            return [(places[0], places[-1]) for places in same]
        if len(sizes) < 2:
            raise LissomError(
                "gram: expected at least two feature layers to pair, got one; "
                'pairs="stage" pairs it with itself'
            )
        return [(k, k + 1) for k in range(len(sizes) - 1)]


def flow(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSP matrices (n a b) of features (n a h w) and (n b h w).

    The larger features are max-pooled to the size of the smaller.
    """
    import torch.nn.functional as F

    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (
        f if f.shape[2:] == size else F.adaptive_max_pool2d(f, size) for f in (first, second)
    )
    return first.flatten(2) @ second.flatten(2).transpose(1, 2) / (size[0] * size[1])
