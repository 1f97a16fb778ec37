"""The optimizer of a step: parameter groups with their learning rates and weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import LissomError
from ..language.training import TrainSettings
from .parameters import depths, parameters_named


def optimizer_of(
    model: nn.Module, settings: TrainSettings, extra: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer of a network and of the modules `extra`, which are trained with it.

    Weight decay applies to the parameters that `decay_on` names, and to the weights of `extra`. The
    learning rate of a group is `share` times that of the schedule: share = layer_decay^(layers
    behind it). sgd and adam add decay * weight to the gradient; adamw subtracts lr * decay * weight
    from the weight. Raises LissomError if all parameters of the network are frozen.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise LissomError(
            "expected a network with parameters that learn, got no parameter with "
            "requires_grad=True; model.requires_grad_(True) lets all learn"
        )
    where = "decay_on"
    decaying = {f"0.{name}" for name in parameters_named(model, settings.decay_on, where)}
    shares = {f"0.{name}": share for name, share in shares_of(model, settings).items()}
    if extra is not None:
        decaying |= {f"1.{name}" for name, value in extra.named_parameters() if value.ndim > 1}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, value in nn.ModuleList(filter(None, (model, extra))).named_parameters():
        if value.requires_grad:
            groups.setdefault((shares.get(name, 1.0), name in decaying), []).append(value)
    # groups with weight decay come first; the optimizer states in checkpoints rely on this order
    rows: list[dict[str, Any]] = [
        {
            "params": values,
            "weight_decay": settings.decay if decays else 0.0,
            "share": share,
        }
        for (share, decays), values in sorted(
            groups.items(), key=lambda each: (-each[0][0], not each[0][1])
        )
    ]
    beta = settings.momentum
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(rows, lr=settings.lr, betas=(beta, 0.999))
    if settings.optimizer == "adam":
        return torch.optim.Adam(rows, lr=settings.lr, betas=(beta, 0.999))
    nesterov = settings.nesterov and beta > 0
    return torch.optim.SGD(rows, lr=settings.lr, momentum=beta, nesterov=nesterov)


def shares_of(model: nn.Module, settings: TrainSettings) -> dict[str, float]:
    """Return each parameter's share of the learning rate: smaller, the farther from the output."""
    if settings.layer_decay == 1:
        return {}
    deep = depths(model)
    last = max(deep.values())
    return {name: settings.layer_decay ** (last - depth) for name, depth in deep.items()}
