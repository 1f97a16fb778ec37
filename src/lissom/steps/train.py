"""Train on the labels."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from ..language.method import arg
from ..learning.step import Learning

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True)
class Train(Learning):
    """Minimise the task's loss; what surgery left in the network stays.

    loss = cross_entropy(network(images), labels), or the task's own.
    Source: Sutskever et al. 2013, On the importance of initialization and momentum in deep learning; Loshchilov and Hutter
    2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101, for adamw.
    """

    epochs: int = arg("how often the training data is seen", low=1, high=100_000)
    _: KW_ONLY
    smoothing: float = arg("label smoothing, the share given to all classes alike", 0.0, low=0, below=1)

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        ctx.learn(model, self.train_settings(self.epochs, self.smoothing))
        return model
