"""Non-maximum suppression as ONNX's own node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..detector_with_nms import Suppression
from .layers import write_node


class OnnxSuppression(Suppression):
    """Non-maximum suppression as a NonMaxSuppression node, whose indices become a mask.

    The number of indices depends on the image. The shapes below say 1, which does no harm: only
    nodes written here read them, and the mask has a fixed shape.
    """

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        all_classes = torch.arange(self.classes)[None, :, None]
        by_class = torch.where(
            classes[:, None] == all_classes, scores[:, None], 0.0
        )  # (n classes k)
        inputs = [
            boxes,
            by_class,
            torch.tensor([scores.shape[1]]),
            torch.tensor([self.iou]),
            # scores below the threshold are 0; runtimes differ on whether they keep an equal score
            torch.tensor([self.threshold / 2]),
        ]
        kept_boxes = write_node(
            "NonMaxSuppression", inputs, torch.int64, [1, 3]
        )  # image, class, place
        image_and_place = write_node(
            "Gather", [kept_boxes, torch.tensor([0, 2])], torch.int64, [1, 2], attrs={"axis": 1}
        )
        place = write_node(
            "Gather", [kept_boxes, torch.tensor(2)], torch.int64, [1], attrs={"axis": 1}
        )
        ones = write_node(
            "Cast",
            [write_node("Equal", [place, place], torch.bool, [1])],
            torch.float32,
            [1],
            attrs={"to": 1},
        )
        return write_node(
            "ScatterND",
            [torch.zeros_like(scores), image_and_place, ones],
            torch.float32,
            scores.shape,
        )


def write_suppression(network: nn.Module) -> None:
    """Make a network write its non-maximum suppression as ONNX's own node, in place."""
    for layer in network.modules():
        if isinstance(layer, Suppression):
            layer.__class__ = OnnxSuppression
