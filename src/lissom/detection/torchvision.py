"""torchvision's detectors up to what depends on the picture: boxes and logits of a fixed number of
places, before detections are picked and overlapping ones left out.

As torchvision has them they return as many boxes as a picture has objects. No file of fixed shapes
can hold that, and what picks boxes has nothing to prune or to quantize. Names of layers are those
of torchvision's own networks, so that their weights fit. Pictures are given in the size and with
the normalisation that the network was made for: `transform`, which torchvision puts first, is left
to the preprocessing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError

ONE_STAGE = ("SSD", "RetinaNet", "FCOS")


def places_of(network: nn.Module) -> nn.Module:
    """Return a detector of torchvision as a network that returns boxes (n p 4), x1 y1 x2 y2 in
    pixels of its input, and logits (n p ...); it shares its layers.

    Logits are those of a softmax with the background first for SSD, and of sigmoids for RetinaNet
    and FCOS. Raises LissomError for networks of other kinds: the second stage of Faster R-CNN reads
    as many places as a picture has.
    """
    name = type(network).__name__
    if name not in ONE_STAGE:
        raise LissomError(
            f"model: expected a detector of one stage, {', '.join(ONE_STAGE)}, got {name}; "
            "lissom.apply prunes and quantizes it whole, for a loop of your own"
        )
    return OneStage(network)


def is_detector(network: nn.Module) -> bool:
    """Return whether a network is one of torchvision's detectors as torchvision builds it."""
    return type(network).__module__.startswith("torchvision.models.detection.")


class OneStage(nn.Module):
    """SSD, RetinaNet or FCOS: every place of the feature maps predicts boxes and their classes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.head = network.head
        self.anchor_generator = network.anchor_generator
        self.kind = type(network).__name__
        # what box codes are divided by: of distances from the centre none
        self.weights = tuple(getattr(network.box_coder, "weights", ()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        found = self.head(maps)
        anchors = anchors_in(self.anchor_generator, x, maps)
        codes = found["bbox_regression"]
        logits = found["cls_logits"]
        if self.kind == "FCOS":
            boxes = by_distances(codes, anchors)
            logits = centred(logits, found["bbox_ctrness"])
        else:
            boxes = by_shift_and_scale(codes, anchors, self.weights)
        if self.kind != "SSD":  # class 0 is the background, which sigmoids do not need
            logits = logits[..., 1:]
        return inside(boxes, x), logits


def anchors_in(generator: nn.Module, x: Tensor, maps: list[Tensor]) -> Tensor:
    """Return the anchors (p 4) of pictures (n c h w), which all pictures share."""
    from torchvision.models.detection.image_list import ImageList

    anchors: Tensor = generator(ImageList(x, [(x.shape[2], x.shape[3])]), maps)[0]
    return anchors.to(x)


def by_shift_and_scale(codes: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Return boxes (n p 4) of codes (n p 4) for anchors (p 4).

    centre = anchor's centre + code / weight * anchor's size
    size   = anchor's size * exp(code / weight)

    Source: Girshick et al. 2014, R-CNN, https://arxiv.org/abs/1311.2524
    """
    sizes = anchors[..., 2:] - anchors[..., :2]
    centres = anchors[..., :2] + sizes / 2
    codes = codes / codes.new_tensor(weights)
    middle = centres + codes[..., :2] * sizes
    half = sizes * codes[..., 2:].clamp(max=math.log(1000 / 16)).exp() / 2
    return torch.cat([middle - half, middle + half], -1)


def by_distances(codes: Tensor, anchors: Tensor) -> Tensor:
    """Return boxes (n p 4) of distances (n p 4) from the centres of anchors (p 4), in their size."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sizes / 2
    first = centres - codes[..., :2] * sizes
    return torch.cat([first, centres + codes[..., 2:] * sizes], -1)


def centred(logits: Tensor, centreness: Tensor) -> Tensor:
    """Return logits (n p classes) of the scores of FCOS: sqrt(sigmoid(logits) * sigmoid(centreness))."""
    scores = (logits.sigmoid() * centreness.sigmoid()).sqrt()
    return torch.logit(scores, 1e-6)


def inside(boxes: Tensor, x: Tensor) -> Tensor:
    """Return boxes (n p 4) cut off at the edges of pictures x (n c h w)."""
    edges = boxes.new_tensor([x.shape[3], x.shape[2], x.shape[3], x.shape[2]])
    return torch.minimum(boxes.clamp_min(0), edges)
