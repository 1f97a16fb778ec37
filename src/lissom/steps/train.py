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

    Training keeps the results of earlier steps: pruned channels, the zeros of a mask, fake
    quantization.

    Also known as: fine-tuning, fine-tune, retraining, early stopping for until, exponential moving
    average for ema, gradient accumulation for accumulate, gradient checkpointing for recompute.
    Source: Sutskever et al. 2013, On the importance of initialization and momentum in deep
    learning; Kingma and Ba 2014, Adam, https://arxiv.org/abs/1412.6980; Loshchilov and Hutter 2019,
    Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101, for adamw; Goyal et al.
    2017, Accurate, Large Minibatch SGD, https://arxiv.org/abs/1706.02677, for warmup; Bao et al.
    2021, BEiT, https://arxiv.org/abs/2106.08254, for layer_decay; Polyak and Juditsky 1992,
    Acceleration of Stochastic Approximation by Averaging, for ema; Prechelt 1998, Early Stopping -
    But When?, for until; Huang et al. 2016, Deep Networks with Stochastic Depth,
    https://arxiv.org/abs/1603.09382, for drop_path; Chen et al. 2016, Training Deep Nets with
    Sublinear Memory Cost, https://arxiv.org/abs/1604.06174, for recompute; Micikevicius et al. 2017,
    Mixed Precision Training, https://arxiv.org/abs/1710.03740, for precision.
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
