"""Prepare a network for a learning step: trained parameters, stochastic depth, checkpointing."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..errors import LissomError
from ..language.training import TrainSettings
from .batchnorm import configure_batchnorm
from .drop_path import set_drop_path
from .parameters import parameters_named

Undo = Callable[[], None]


def prepare_network(
    model: nn.Module, settings: TrainSettings, learner: nn.Module | None = None
) -> Undo:
    """Set frozen parameters, stochastic depth and recomputation of a network in training mode.

    Returns a function that undoes it; call it once the network is back in inference mode. `learner`
    is the network with the modules that are trained with it. Raises LissomError if the network
    lacks something that a setting needs.
    """
    undoes = [configure_batchnorm(learner or model, settings.norm_momentum, settings.freeze)]
    if settings.only is not None:
        undoes.append(hold_others(model, settings.only))
    if settings.drop_path is not None:
        undoes.append(set_drop_path(model, settings.drop_path))
    if settings.recompute:
        undoes.append(recompute_activations(model))

    def undo() -> None:
        for each in reversed(undoes):
            each()

    return undo


def hold_others(model: nn.Module, only: str) -> Undo:
    """Freeze all parameters except those that a text names; batch-norm statistics still update."""
    names = parameters_named(model, only, "only")
    still = [p for name, p in model.named_parameters() if name not in names and p.requires_grad]
    if not any(p.requires_grad for name, p in model.named_parameters() if name in names):
        raise LissomError(f"only={only!r}: expected parameters that learn, got none")
    for parameter in still:
        parameter.requires_grad_(False)

    def undo() -> None:
        for parameter in still:
            parameter.requires_grad_(True)

    return undo


def recompute_activations(model: nn.Module) -> Undo:
    """Make a network recompute activations for the gradient instead of keeping them.

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost,
    https://arxiv.org/abs/1604.06174. Raises LissomError if the network cannot.
    """
    if callable(switch := getattr(model, "set_grad_checkpointing", None)):  # timm
        try:
            switch(True)
            return lambda: switch(False)
        except AssertionError:  # timm's error for networks that cannot
            pass
    if callable(enable := getattr(model, "gradient_checkpointing_enable", None)):  # transformers
        enable()
        disable: Undo = getattr(model, "gradient_checkpointing_disable")  # noqa: B009
        return disable
    raise LissomError(
        "recompute: this network cannot compute activations again; timm's with "
        "set_grad_checkpointing and transformers' with gradient_checkpointing_enable can. accumulate "
        "saves memory, too"
    )
