"""Learning-rate schedules."""

from __future__ import annotations

import math

from ..language.training import TrainSettings

EPOCH_TOLERANCE = (
    1e-9  # of an epoch; progress * epochs is a whole number at an epoch's start, up to rounding
)


def rate(settings: TrainSettings, progress: float) -> float:
    """Return the learning rate at `progress`, the share of all updates already taken (0 to 1).

    onecycle:   linear from 0.1 of lr to lr over the first quarter, then linear to 0
    cosine:     lr * (1 + cos(pi * progress)) / 2
    step:       lr, a tenth of it after 1/2, a hundredth after 3/4
    milestones: lr * factor^(number of milestones that are reached), in whole epochs

    In the first `warmup` epochs it rises linearly from 0.1 of lr to lr. cosine begins after them;
    step and milestones count them.
    Source: as LinearLR, CosineAnnealingLR and MultiStepLR in torch.optim.lr_scheduler.
    """
    lr = settings.lr
    warm = settings.warmup / settings.epochs
    if progress < warm:
        return lr * (0.1 + 0.9 * progress / warm)
    if settings.schedule == "constant":
        return lr
    if settings.schedule == "cosine":
        if warm:
            progress = (progress - warm) / (1 - warm)
        return lr * (1 + math.cos(math.pi * progress)) / 2
    if settings.schedule == "step":
        return lr * (1 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    if settings.schedule == "milestones":
        epoch = math.floor(progress * settings.epochs + EPOCH_TOLERANCE)
        reached = sum(milestone <= epoch for milestone in settings.milestones or ())
        return lr * settings.factor**reached
    if progress < 0.25:
        return lr * (0.1 + 0.9 * progress / 0.25)
    return lr * max(0.0, 1 - progress) / 0.75
