"""The settings that every step which learns has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.step import Step
from ..language.training import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True, kw_only=True)
class Learning(Step):
    """The settings that every step which learns has, each given by name."""

    learning: ClassVar[bool] = True

    lr: float = arg("peak learning rate; adamw wants a hundredth of sgd's", 0.2, above=0, high=10)
    batch: int = arg("images in a batch", 128, low=1, high=65_536)
    schedule: Literal["onecycle", "cosine", "step", "constant"] = arg("how the learning rate moves", "onecycle")
    momentum: float = arg("momentum: of SGD Nesterov's, of AdamW its first beta", 0.9, low=0, below=1)
    decay: float = arg("weight decay; batch-norm and biases are spared", 5e-4, low=0, below=1)
    clip: float | None = arg("largest norm of the gradient, None for no limit", None, above=0)
    cutout: int = arg("side in pixels of a square hidden in each image, 0 for none", 0, low=0)
    augment: Literal["auto", "none", "crop", "flip", "crop+flip"] = arg(
        "shift images by up to an eighth and mirror them; auto mirrors where the data allows it", "auto")
    norm_momentum: float | None = arg("how far the statistics of batch-norm move with each batch, 0.1 in most networks; "
                                      "None for their own", None, above=0, high=1, late=True)
    freeze: Literal["none", "gamma", "norm", "ranges", "norm+ranges"] = arg(
        "what stays as it is: gamma, the scales of batch-norm; norm, all of it, its statistics too; ranges, the scales and "
        "zero points of a quantized network; norm+ranges, both", "none", late=True)
    optimizer: Literal["sgd", "adamw"] = arg("what turns gradients into steps; adamw suits attention and signs", "sgd",
                                             late=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer == "adamw" and self.lr > 0.1:
            raise LissomError(f"{self.name()}(lr=...): {self.lr:g} suits sgd; with adamw about 0.003 fits, at most 0.1")

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Learning changes no layer: the network itself goes on. Raise where what is to stay is not there."""
        from .batchnorm import hold_norms

        try:
            hold_norms(model, None, self.freeze)()
        except LissomError as error:
            raise LissomError(f"{ctx.where}: {error}") from None
        return model

    def train_settings(self, epochs: int, smoothing: float = 0.0) -> TrainSettings:
        """Return the settings in the form that `fit` takes."""
        return TrainSettings(epochs, self.lr, self.batch, self.schedule, self.momentum, self.decay, smoothing,
                             self.clip, self.cutout, self.augment, self.norm_momentum, self.freeze, self.optimizer)
