"""Train with a price on batch-norm scales, so that channels which are not needed fade."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..method import arg
from .train import Learning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..context import Context
    from ..fit import Batch


@dataclass(frozen=True)
class Sparsify(Learning):
    """Train with an L1 price on the scales of batch-norm: network slimming.

    loss = task loss + weight * sum |gamma|
    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming,
    https://arxiv.org/abs/1708.06519.
    """

    weight: float = arg("price of one unit of |gamma|", above=0, high=1)
    epochs: int = arg("how often the training data is seen", low=1, high=100_000)
    _: KW_ONLY
    lr: float = arg("peak learning rate of SGD with Nesterov momentum", 0.05, above=0, high=10)

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Raise if the network has nothing to make sparse."""
        self._scales(model, ctx)
        return model

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        from torch import stack

        scales = self._scales(model, ctx)

        def price(_: nn.Module, __: Batch) -> Tensor:
            return self.weight * stack([s.abs().sum() for s in scales]).sum()

        ctx.learn(model, self.pace(self.epochs), terms=(price,))
        ctx.facts["scales"] = {"below_0.01": sum(int((s.abs() < 0.01).sum()) for s in scales),
                               "all": sum(len(s) for s in scales)}
        return model

    @staticmethod
    def _scales(model: nn.Module, ctx: Context) -> list[Tensor]:
        from torch import nn

        scales: list[Tensor] = [m.weight for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
                  and m.weight is not None and m.weight.requires_grad]
        if not scales:
            raise LissomError(f"{ctx.where}: the network has no batch-norm scales to make small")
        return scales
