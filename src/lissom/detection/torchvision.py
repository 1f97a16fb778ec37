"""torchvision's detectors with outputs of a fixed shape: boxes and logits of all places.

The selection of detections and non-maximum suppression are left out. Between the two stages of
Faster R-CNN a fixed number of proposals is selected.

torchvision's own forward returns as many boxes as an image has objects. A file of fixed shapes
cannot hold that, and the selection has nothing to prune or to quantize. Layers have the names of
torchvision's networks, so their weights fit. Inputs have the size and the normalisation that the
network was trained with: `transform`, which torchvision runs first, is left to the preprocessing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import wrap_torch_function

from ..errors import LissomError
from .boxes import areas

ONE_STAGE = ("SSD", "RetinaNet", "FCOS")
TWO_STAGES = "FasterRCNN"
# Rounds of suppression: chains of overlapping proposals up to this length get the same result as
# one by one. With 2 rounds a few detections in a thousand differ from torchvision's.
SUPPRESSION_ROUNDS = 4
MIN_SIDE_PX = 1e-3  # pixels of a proposal, as in torchvision
SUPPRESSED_SCORE = -1e9  # score of a suppressed proposal
BACKGROUND_LOGIT = 10.0  # background logit of a place without a proposal; its class logits are 0


def without_selection(network: nn.Module) -> nn.Module:
    """Return a network of a torchvision detector's layers that returns boxes and logits of places.

    Boxes (n p 4) are x1 y1 x2 y2 in pixels of the input. Logits (n p ...) are for a softmax with
    the background first for SSD and Faster R-CNN, and for sigmoids for RetinaNet and FCOS. Raises
    LissomError for other networks: masks and keypoints depend on the number of objects.
    """
    name = type(network).__name__
    if name == TWO_STAGES:
        return TwoStages(network)
    if name not in ONE_STAGE:
        raise LissomError(
            f"model: expected {', '.join(ONE_STAGE)} or {TWO_STAGES} of torchvision's detectors, got "
            f"{name}; lissom.apply prunes and quantizes it whole, for a loop of your own"
        )
    return OneStage(network)


def is_detector(network: nn.Module) -> bool:
    """Return whether a network is one of torchvision's own detectors."""
    return type(network).__module__.startswith("torchvision.models.detection.")


class OneStage(nn.Module):
    """SSD, RetinaNet or FCOS: every place of the feature maps predicts boxes and their classes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.head = network.head
        self.anchor_generator = network.anchor_generator
        self.kind = type(network).__name__
        # divisors of box codes; FCOS, with distances from the centre, has none
        self.weights = tuple(getattr(network.box_coder, "weights", ()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        predictions = self.head(maps)
        anchors = anchors_in(self.anchor_generator, x, maps)
        codes = predictions["bbox_regression"]
        logits = predictions["cls_logits"]
        if self.kind == "FCOS":
            boxes = decode_distances(codes, anchors)
            logits = logits_with_centreness(logits, predictions["bbox_ctrness"])
        else:
            boxes = decode_shift_and_scale(codes, anchors, self.weights)
        if self.kind != "SSD":  # class 0 is the background, which sigmoids do not use
            logits = logits[..., 1:]
        return clip_to_image(boxes, x), logits


class TwoStages(nn.Module):
    """Faster R-CNN: anchors give proposals, and the second stage refines the best k of them.

    Returns boxes (n k classes 4), because each class has its own, logits (n k 1+classes), and
    row_ids (n k), the anchor of each place. Places are sorted by score. In another runtime, scores
    may differ in their last digits, which changes the order: match places by their ids.

    k is the largest number of proposals that torchvision keeps. Proposals that overlap a better one
    (non-maximum suppression), are empty or score too low are dropped; an unused place has the id
    -1, an empty box and the logits of the background. Detections from these places are those of
    torchvision's own network: all 617 boxes in 12 images of a trained one, paired by an IoU of
    0.5. Without the suppression, 79 % were.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.rpn = network.rpn
        self.roi_heads = network.roi_heads

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        scores, codes = self.rpn.head(list(maps.values()))
        boxes, ids = as_one_call([*scores, *codes], partial(self.proposals, x, list(maps.values())))
        box_features = self.roi_heads.box_head(self.pooled_features(maps, boxes, x))
        logits, codes = self.roi_heads.box_predictor(box_features)
        logits = logits.unflatten(0, ids.shape)
        background = torch.zeros_like(logits[0, 0])
        background[0] = BACKGROUND_LOGIT
        logits = torch.where(ids[..., None] >= 0, logits, background)
        boxes = as_one_call([codes, boxes, x], self.refined_boxes)
        return {"boxes": boxes, "logits": logits, "row_ids": ids}

    def proposals(self, x: Tensor, maps: list[Tensor], *predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals (n k 4) and their anchors (n k), from the scores and codes of all maps.

        A place without a proposal has the anchor -1 and an empty box.
        """
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        by_map = list(predicted[: len(maps)])
        scores, codes = concat_box_prediction_layers(by_map, list(predicted[len(maps) :]))
        anchors = anchors_in(self.rpn.anchor_generator, x, maps)
        scores = scores.view(-1, len(anchors))
        codes = codes.view(-1, len(anchors), 4)
        boxes = clip_to_image(decode_shift_and_scale(codes, anchors, self.rpn.box_coder.weights), x)
        candidates = []
        start = 0
        for part in by_map:
            count = part[0].numel()
            max_count = min(self.rpn._pre_nms_top_n["testing"], count)
            values, ids = scores[:, start : start + count].topk(max_count, 1)
            ids = ids + start
            candidates.append((values, ids, self.nms_mask(at_rows(boxes, ids), values)))
            start += count
        values, ids, is_kept = (torch.cat(parts, 1) for parts in zip(*candidates, strict=True))
        max_count = min(self.rpn._post_nms_top_n["testing"], ids.shape[1])
        rows = values.masked_fill(~is_kept, SUPPRESSED_SCORE).topk(max_count, 1).indices
        ids = ids.gather(1, rows)
        is_kept = is_kept.gather(1, rows)
        return at_rows(boxes, ids) * is_kept[..., None], ids.where(is_kept, -1)

    def nms_mask(self, boxes: Tensor, values: Tensor) -> Tensor:
        """Return a mask (n m) of the boxes (n m 4), sorted by falling logits (n m), that NMS keeps.

        A kept box overlaps no kept box before it. Each round corrects the one before: a dropped box
        suppresses nothing.

        Source: Zheng et al. 2020, Enhancing Geometric Factors, https://arxiv.org/abs/2005.03572
        """
        sides = boxes[..., 2:] - boxes[..., :2]
        is_candidate = (sides >= MIN_SIDE_PX).all(-1) & (values.sigmoid() >= self.rpn.score_thresh)
        shared, union, _ = areas(boxes, boxes)
        overlaps = shared > self.rpn.nms_thresh * union
        overlaps = overlaps & torch.ones_like(overlaps[0]).triu(1)
        is_kept = is_candidate
        for _ in range(SUPPRESSION_ROUNDS):
            is_kept = is_candidate & ~(overlaps & is_kept[..., None]).any(1)
        return is_kept

    def pooled_features(self, maps: Mapping[str, Tensor], boxes: Tensor, x: Tensor) -> Tensor:
        """Return the pooled features (n*k c rows columns) of boxes (n k 4) from maps (n c h w).

        Each box is pooled from the map that suits its size.
        """
        from torchvision.ops import roi_align

        pool = self.roi_heads.box_roi_pool
        used_maps = [values for name, values in maps.items() if name in pool.featmap_names]
        powers = [round(math.log2(x.shape[-1] / values.shape[-1])) for values in used_maps]
        places, level = as_one_call([boxes.detach()], self.pooling_boxes)
        features = [
            roi_align(values, places, pool.output_size, 2.0**-power, pool.sampling_ratio)
            for values, power in zip(used_maps, powers, strict=True)
        ]
        result = features[0]
        # maps of the same size count as one, as in torchvision
        for values, power in zip(features[1:], range(powers[0] + 1, powers[-1] + 1), strict=False):
            result = torch.where(level >= power, values, result)
        return result

    def refined_boxes(self, codes: Tensor, boxes: Tensor, x: Tensor) -> Tensor:
        """Return boxes (n k classes 4), decoded from codes, of all classes but the background."""
        codes = codes.view(*boxes.shape[:2], -1, 4)[:, :, 1:]
        weights = self.roi_heads.box_coder.weights
        return clip_to_image(decode_shift_and_scale(codes, boxes[:, :, None], weights), x)

    def pooling_boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (n*k 5) of image index and box, and the map level of each (n*k 1 1 1).

        The level is the number of times that a map of suitable size is halved.
        """
        pool = self.roi_heads.box_roi_pool
        picture = torch.arange(boxes.shape[0], device=boxes.device).to(boxes)
        picture = picture[:, None, None].expand(-1, boxes.shape[1], 1)
        size = (boxes[..., 2:] - boxes[..., :2]).prod(-1).clamp_min(1).sqrt()
        level = pool.canonical_level + torch.log2(size / pool.canonical_scale) + 1e-6
        return torch.cat([picture, boxes], 2).flatten(0, 1), level.view(-1, 1, 1, 1)


@wrap_torch_function(lambda tensors, run: tensors)  # noqa: ARG005
def as_one_call(tensors: Sequence[Tensor], run: Callable[..., Any]) -> Any:
    """Run a function on tensors as one traced call, so that quantization rounds nothing inside it.

    Its values are pixel coordinates and image indices, not features, and must not be rounded to 8
    bits.
    """
    return run(*tensors)


def at_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows (n k c) of values (n p c) at indices (n k)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def anchors_in(generator: nn.Module, x: Tensor, maps: list[Tensor]) -> Tensor:
    """Return the anchors (p 4) for images (n c h w); all images share them."""
    from torchvision.models.detection.image_list import ImageList

    anchors: Tensor = generator(ImageList(x, [(x.shape[2], x.shape[3])]), maps)[0]
    return anchors.to(x)


def decode_shift_and_scale(codes: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Return boxes (n p 4) decoded from codes (n p 4) for anchors (p 4).

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


def decode_distances(codes: Tensor, anchors: Tensor) -> Tensor:
    """Return boxes (n p 4) from distances (n p 4) to anchor centres, in units of anchors (p 4)."""
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sizes / 2
    first = centres - codes[..., :2] * sizes
    return torch.cat([first, centres + codes[..., 2:] * sizes], -1)


def logits_with_centreness(logits: Tensor, centreness: Tensor) -> Tensor:
    """Return logits (n p classes) of FCOS's scores sqrt(sigmoid(logits) * sigmoid(centreness))."""
    scores = (logits.sigmoid() * centreness.sigmoid()).sqrt()
    return torch.logit(scores, 1e-6)


def clip_to_image(boxes: Tensor, x: Tensor) -> Tensor:
    """Return boxes (n p 4) clipped to images x (n c h w)."""
    edges = boxes.new_tensor([x.shape[3], x.shape[2], x.shape[3], x.shape[2]])
    return torch.minimum(boxes.clamp_min(0), edges)
