"""The settings that all learning steps share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.augmentation import Augmentations
from ..language.method import arg
from ..language.step import Step
from ..language.training import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True, kw_only=True)
class Learning(Step):
    """Hold the settings that all learning steps share; each is given by name."""

    learning: ClassVar[bool] = True

    lr: float = arg(
        "peak learning rate; adamw needs about a hundredth of sgd's", 0.2, above=0, high=10
    )
    batch: int = arg("samples per batch", 128, low=1, high=65_536)
    schedule: Literal["onecycle", "cosine", "step", "milestones", "constant"] = arg(
        "learning-rate schedule", "onecycle"
    )
    momentum: float = arg("momentum of sgd; first beta of adamw and adam", 0.9, low=0, below=1)
    decay: float = arg("weight decay, on the parameters that decay_on names", 5e-4, low=0, below=1)
    clip: float | None = arg("maximum gradient norm; None = no clipping", None, above=0)
    cutout: int = arg("side of the square hidden in each image, in pixels; 0 = none", 0, low=0)
    augment: str = arg(
        "none, or a sum of what 'lissom list augmentations' shows; auto = crop, and flip if the data "
        "allow it",
        "auto",
    )
    norm_momentum: float | None = arg(
        "batch-norm momentum; None = that of each layer",
        None,
        above=0,
        high=1,
        late=True,
    )
    freeze: Literal["none", "gamma", "norm", "ranges", "norm+ranges"] = arg(
        "freeze batch-norm scales (gamma), all of batch-norm, or quantization ranges",
        "none",
        late=True,
    )
    optimizer: Literal["sgd", "adamw", "adam"] = arg(
        "optimizer; adamw suits transformers and binary networks", "sgd", late=True
    )
    colour: float = arg(
        "largest relative change of brightness, contrast and saturation; 0.4 is usual",
        0.0,
        low=0,
        high=1,
        late=True,
    )
    mosaic: float = arg(
        "share of images that are composed of four, for boxes and label images",
        0.0,
        low=0,
        high=1,
        late=True,
    )

    nesterov: bool = arg("Nesterov's momentum; False = the plain one", True, late=True)
    milestones: tuple[int, ...] | None = arg(
        'epochs after which the rate is multiplied by factor, for schedule="milestones"',
        None,
        low=1,
        late=True,
    )
    factor: float = arg("factor of the rate at each milestone", 0.1, above=0, below=1, late=True)
    warmup: int = arg("epochs of linear warm-up, from a tenth of lr to lr", 0, low=0, late=True)
    decay_on: str = arg(
        "parameters that decay: all, weights (of 2 or more dimensions), norm, bias, head, or patterns",
        "weights",
        late=True,
    )
    layer_decay: float = arg(
        "learning rate of each layer, as a share of the next layer's; 1 = all equal",
        1.0,
        above=0,
        high=1,
        late=True,
    )

    only: str | None = arg(
        "parameters that learn: norm, bias, head, weights, or patterns of names; None = all",
        None,
        late=True,
    )
    until: Literal["epochs", "plateau"] = arg(
        "plateau = until the validation metric has not improved in patience epochs; keeps the best",
        "epochs",
        late=True,
    )
    patience: int = arg('epochs without a better metric, for until="plateau"', 10, low=1, late=True)
    keep_optimizer: bool = arg(
        "save the momentum for a next step with resume=True", False, late=True
    )
    resume: bool = arg(
        "start from the momentum of the previous step, which needs keep_optimizer=True",
        False,
        late=True,
    )
    ema: float | None = arg(
        "decay of a moving average of weights and statistics, the step's result; 0.999 is usual",
        None,
        above=0,
        below=1,
        late=True,
    )
    accumulate: int = arg(
        "parts in which a batch is computed, to save memory; the gradient is that of the batch",
        1,
        low=1,
        high=65_536,
        late=True,
    )
    drop_path: float | None = arg(
        "how often the last block is skipped (stochastic depth); the first never is; "
        "None = the network's own rates",
        None,
        low=0,
        below=1,
        late=True,
    )
    recompute: bool = arg(
        "recompute activations for the gradient (gradient checkpointing), to save memory",
        False,
        late=True,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = arg(
        "precision of training; auto = bf16 if that is faster; fp16 scales the loss",
        "auto",
        late=True,
    )
    compile: bool = arg("compile the network with torch.compile first", False, late=True)
    sync_norm: bool = arg(
        "batch-norm uses the whole batch if several processes train, not each its part",
        False,
        late=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        augmentations = Augmentations.of(self.augment, f"{self.name()}(augment=...)")
        object.__setattr__(self, "augment", str(augmentations))
        if self.optimizer != "sgd" and self.lr > 0.1:
            raise LissomError(
                f"{self.name()}(lr=...): expected at most 0.1 with {self.optimizer}, about 0.003, "
                f"got {self.lr:g}, which suits sgd"
            )
        if (self.schedule == "milestones") != (self.milestones is not None):
            raise LissomError(
                f'{self.name()}: expected schedule="milestones" and milestones=(80, 120) together, '
                f"got schedule={self.schedule!r} and milestones={self.milestones}"
            )
        if self.warmup and self.schedule == "onecycle":
            raise LissomError(
                f"{self.name()}(warmup=...): onecycle has a warm-up of its own, a quarter of the "
                'step; expected another schedule, such as "cosine"'
            )
        if self.warmup >= (epochs := getattr(self, "epochs", self.warmup + 1)):
            raise LissomError(
                f"{self.name()}(warmup=...): expected fewer than the {epochs} epochs of the step, "
                f"got {self.warmup}"
            )

    def identity(self) -> str:
        """Return the settings, each augmentation with its own version and settings."""
        return super().identity() + Augmentations.of(self.augment).identity()

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        last = earlier[-1] if earlier else None
        if self.resume and not (isinstance(last, Learning) and last.keep_optimizer):
            return (
                "resume=True takes up the optimizer of the step before, which is to be one that "
                f"learns with keep_optimizer=True; it is {last or 'no step at all'}"
            )
        if self.resume and isinstance(last, Learning) and last.optimizer != self.optimizer:
            return f"resume=True: the step before has {last.optimizer}, this one {self.optimizer}"
        return super().refuses(earlier)

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Return the network itself: learning changes no layer.

        Raises LissomError if a setting names something that the network lacks.
        """
        from .optimizer import optimizer_of
        from .prepare import prepare_network

        settings = self.train_settings(1)
        try:
            with ExitStack() as undone:
                undone.callback(prepare_network(model, settings))
                optimizer_of(model, settings)
        except LissomError as error:
            raise LissomError(f"{ctx.where}: {error}") from None
        return model

    def train_settings(self, epochs: int, smoothing: float = 0.0) -> TrainSettings:
        """Return the settings for `fit`."""
        shared = {
            f.name: getattr(self, f.name) for f in fields(TrainSettings) if hasattr(self, f.name)
        }
        return TrainSettings(**{**shared, "epochs": epochs, "smoothing": smoothing})
