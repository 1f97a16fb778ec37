"""Train on the labels."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.method import arg
from ..learning.step import Learning

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True)
class Train(Learning):
    """Train or fine-tune the network on the loss of its task.

    loss = cross_entropy(network(images), labels), or the task's own
    images: (n c h w), labels: (n)

    What earlier steps did stays in place: pruned channels, the zeros of a mask, fake quantization.

    Also known as: fine-tuning, fine-tune, retraining.
    Source: Sutskever et al. 2013, On the importance of initialization and momentum in deep
    learning; Loshchilov and Hutter 2019, Decoupled weight decay regularization,
    https://arxiv.org/abs/1711.05101, for adamw.
    """

    compresses: ClassVar[bool] = False

    epochs: int = arg("training epochs", low=1, high=100_000)
    _: KW_ONLY
    smoothing: float = arg(
        "label smoothing: probability spread evenly over all classes", 0.0, low=0, below=1
    )

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        ctx.learn(model, self.train_settings(self.epochs, self.smoothing))
        return model
