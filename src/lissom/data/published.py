"""The preprocessing that torchvision and timm state for their published networks."""

from __future__ import annotations

import importlib
import math
from typing import Any

from ..errors import LissomError, listed, nearest
from ..language.preprocess import Preprocess

LIBRARIES = ("torchvision", "timm")


def preprocess_of(text: str) -> Preprocess:
    """Return the preprocessing that a text describes, or that a published network was trained with.

    `torchvision:resnet50` stands for the newest weights of torchvision's ResNet-50,
    `torchvision:resnet50:IMAGENET1K_V1` for these weights. Raises LissomError for unknown names.
    """
    library, _, name = text.strip().partition(":")
    if library not in LIBRARIES:
        return Preprocess.of(text)
    if not name:
        raise LissomError(
            f"preprocess: expected {library}:NAME, as in {library}:resnet50, or just {library} "
            f"beside --model {library}:NAME; got {text!r}"
        )
    return Preprocess.of(published_preprocess(library, name))


def published_preprocess(library: str, name: str) -> str:
    """Return the preprocessing of a network of torchvision or timm, as text."""
    name, _, weights = name.partition(":")
    where = f"preprocess: {library}:{name:.60}"
    module = library_module(library, where)
    known = module.list_models()
    # a name of timm may end with a tag of its weights
    plain = name.partition(".")[0] if library == "timm" else name
    if plain not in known:
        close = nearest(name, known)
        raise LissomError(f"{where} is unknown" + (f"; did you mean '{close}'?" if close else ""))
    if library == "timm":
        return timm_text(module, name, where)
    return torchvision_text(module.get_model_weights(name), weights or "DEFAULT", where)


def library_module(library: str, where: str) -> Any:
    """Import the module that lists the networks of a library."""
    try:
        return importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    except ImportError:
        raise LissomError(
            f"{where}: {library} is not installed here; pip install {library}"
        ) from None


def newest_weights(name: str) -> str | None:
    """Return the name of torchvision's newest weights for a network, None if there are none."""
    weights = library_module("torchvision", "weights").get_model_weights(name)
    return str(weights.DEFAULT.name) if len(weights) else None


def classes_of_detector(name: str, weights: str) -> int | None:
    """Return the number of classes, without the background, that weights of torchvision's detector
    know; None for other networks and weights.
    """
    models = library_module("torchvision", "weights")
    if not models.get_model_builder(name).__module__.startswith("torchvision.models.detection."):
        return None
    weights_known = models.get_model_weights(name)
    entry = (
        weights_known.DEFAULT
        if weights == "DEFAULT" and len(weights_known)
        else weights_known.__members__.get(weights)
    )
    return None if entry is None else len(entry.meta["categories"]) - 1


def torchvision_text(weights: Any, name: str, where: str) -> str:
    """Return the preprocessing of torchvision's weights of that name, as text."""
    known = list(weights.__members__)
    if name not in known:
        raise LissomError(f"{where}: expected weights of {listed(known) or 'none'}, got {name}")
    transform: Any = weights[name].transforms()
    if type(transform).__name__ != "ImageClassification":
        raise LissomError(
            f"{where}: torchvision resizes images for it to sizes that depend on them; expected a "
            "text with one size, as in "
            "'resize(320, 320) | normalize(\"half\")' for ssdlite320_mobilenet_v3_large, or "
            "'resize(520, 520) | normalize(\"imagenet\")' for networks that segment"
        )
    return classifier_preprocess(
        transform.resize_size[0],
        transform.crop_size[0],
        str(transform.interpolation.value),
        tuple(transform.mean),
        tuple(transform.std),
    )


def timm_text(timm: Any, name: str, where: str) -> str:
    """Return the preprocessing in timm's configuration of a network, as text."""
    published = timm.models.get_pretrained_cfg(name)
    if published is None:
        raise LissomError(f"{where}: timm has no weights for it, and so no preprocessing")
    resolve = importlib.import_module("timm.data").resolve_data_config
    config = resolve(pretrained_cfg=published.to_dict(), verbose=False)
    _, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    if height != width or mode not in ("center", "squash"):
        raise LissomError(
            f"{where}: timm crops images to {height}x{width} in the mode '{mode}'; say it as a text"
        )
    side = math.floor(height / config["crop_pct"])
    numbers = (tuple(config["mean"]), tuple(config["std"]))
    return classifier_preprocess(
        side, height, config["interpolation"], *numbers, squash=mode == "squash"
    )


def classifier_preprocess(
    side: int,
    crop: int,
    interpolation: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    squash: bool = False,
) -> str:
    """Return a classifier's usual preprocessing as text; `squash` makes images square first."""
    shape = f"{side}, {side}" if squash else f"{side}"
    operations = [f"resize({shape}, {interpolation!r})", f"center_crop({crop})"]
    return " | ".join([*operations, f"normalize(mean={mean}, std={std})"])
