"""The preprocessing of an exported file: inside the network, or described in its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.data import AS_GIVEN
from ..data.own_splits import STANDARDIZE
from ..errors import LissomError
from ..language.preprocess import Preprocess
from ..language.target import Images


class Baked(nn.Module):
    """A network with its preprocessing inside: it takes pixels in 0..255 (n c h w)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels - self.mean) / self.std)


def metadata(record: dict[str, Any], bake: bool) -> dict[str, Any]:
    """Return the metadata of an exported file. It has mean and standard deviation only if the file
    does not normalise its inputs itself.
    """
    preprocessing = record["task"]["preprocessing"]
    rest = {key: value for key, value in preprocessing.items() if key not in ("mean", "std")}
    if preprocessing.get("mean") and not bake:
        rest.update(mean=preprocessing["mean"], std=preprocessing["std"])
    if preprocessing.get("preprocess") == AS_GIVEN:
        expects = "as the data set gives it"
    elif bake:
        expects = "pixels 0..255"
    else:
        expects = "(pixels / 255 - mean) / std"
    return {
        "key": record["key"],
        "recipe": record["recipe"],
        "model": record["task"]["model"],
        "baked": "true" if bake else "false",
        "input": expects,
        **rest,
        "kind": record["task"]["kind"],
        "preprocess": shown_preprocess(record, bake),
    }


def shown_preprocess(record: dict[str, Any], bake: bool) -> str:
    """Return as text the preprocessing that the user of a file must do."""
    shape = record["task"]["shape"]
    # records of earlier versions have only the size
    text = record["task"]["preprocessing"].get("preprocess") or "resize({1}, {2})".format(*shape)
    if text == AS_GIVEN or not bake:
        return str(text)
    return str(replace(Preprocess.of(text), numbers=()))


def as_pixels(images: Images, record: dict[str, Any]) -> Images:
    """Return the function that gives the pixels (n c h w), 0..255, of images (n c h w) which
    `images` gives as (pixels / 255 - mean) / std: a file with its normalisation inside takes them.
    """
    preprocessing = record["task"]["preprocessing"]
    mean = torch.tensor(preprocessing["mean"]).view(1, -1, 1, 1) * 255
    std = torch.tensor(preprocessing["std"]).view(1, -1, 1, 1) * 255

    def pixels(count: int) -> list[Tensor]:
        return [batch * std.to(batch) + mean.to(batch) for batch in images(count)]

    return pixels


def preprocessed(model: nn.Module, record: dict[str, Any], bake: bool) -> nn.Module:
    """Return the network to export: with its normalisation inside if `bake`.

    Raises LissomError if there is no normalisation to bake.
    """
    if not bake:
        return model
    preprocessing = record["task"]["preprocessing"]
    if not preprocessing.get("mean"):
        raise LissomError(
            "--bake: inputs are taken as the data set gives them; there is nothing to put into the "
            f"file; {STANDARDIZE}"
        )
    return Baked(model, preprocessing["mean"], preprocessing["std"])
