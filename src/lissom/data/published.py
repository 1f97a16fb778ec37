"""How the networks that libraries publish see pictures, as the libraries say it."""

from __future__ import annotations

import importlib
import math
from typing import Any

from ..errors import LissomError, nearest
from ..language.preprocess import Preprocess

LIBRARIES = ("torchvision", "timm")


def preprocess_of(text: str) -> Preprocess:
    """Return the preprocessing that a text says, or that the network it names was published with.

    `torchvision:resnet50` is how torchvision's ResNet-50 with its newest weights sees pictures.
    """
    library, colon, name = text.strip().partition(":")
    if library not in LIBRARIES:
        return Preprocess.of(text)
    if not colon or not name:
        raise LissomError(
            f"preprocess: expected {library}:NAME, as in {library}:resnet50, or just {library} "
            f"beside --model {library}:NAME; got {text!r}"
        )
    return Preprocess.of(published_preprocess(library, name))


def published_preprocess(library: str, name: str) -> str:
    """Return the preprocessing of a network of torchvision or timm, as text."""
    where = f"preprocess: {library}:{name:.60}"
    try:
        module = importlib.import_module(
            "torchvision.models" if library == "torchvision" else "timm"
        )
    except ImportError:
        raise LissomError(
            f"{where}: {library} is not installed here; pip install {library}"
        ) from None
    if name.partition(".")[0] not in (known := module.list_models()):
        close = nearest(name, known)
        raise LissomError(f"{where} is unknown" + (f"; did you mean '{close}'?" if close else ""))
    if library == "torchvision":
        return torchvision_text(module.get_model_weights(name), where)
    return timm_text(module, name, where)


def torchvision_text(weights: Any, where: str) -> str:
    """Return what the newest weights of torchvision's networks of one name want."""
    transform: Any = weights.DEFAULT.transforms() if len(weights) else None
    if type(transform).__name__ != "ImageClassification":
        raise LissomError(
            f"{where}: torchvision does not say how it sees pictures as a classifier does"
        )
    return written(
        transform.resize_size[0],
        transform.crop_size[0],
        str(transform.interpolation.value),
        tuple(transform.mean),
        tuple(transform.std),
    )


def timm_text(timm: Any, name: str, where: str) -> str:
    """Return what timm's configuration of a network says."""
    found = timm.models.get_pretrained_cfg(name)
    if found is None:
        raise LissomError(f"{where}: timm has no weights for it, and so no preprocessing")
    resolve = importlib.import_module("timm.data").resolve_data_config
    config = resolve(pretrained_cfg=found.to_dict(), verbose=False)
    _, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    if height != width or mode not in ("center", "squash"):
        raise LissomError(
            f"{where}: timm crops pictures to {height}x{width} in the mode '{mode}'; say it as a text"
        )
    side = height if mode == "squash" else math.floor(height / config["crop_pct"])
    numbers = (tuple(config["mean"]), tuple(config["std"]))
    return written(side, height, config["interpolation"], *numbers, squash=mode == "squash")


def written(
    side: int,
    crop: int,
    interpolation: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    squash: bool = False,
) -> str:
    """Return the text of a classifier's usual preprocessing."""
    shape = (
        f"resize({side}, {side}, {interpolation!r})"
        if squash
        else f"resize({side}, {interpolation!r})"
    )
    crops = [] if squash else [f"center_crop({crop})"]
    return " | ".join([shape, *crops, f"normalize(mean={mean}, std={std})"])
