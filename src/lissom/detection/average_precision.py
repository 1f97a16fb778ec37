"""COCO's mean average precision of detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import LissomError, silent
from ..language.tally import Tally
from ..trees import Tree
from .boxes import Detections


class AveragePrecision(Tally):
    """Collect detections and true boxes image by image, and compute mAP over all of them.

    `decode` turns outputs into detections; only these are kept.

    mAP   = mean over the classes and the IoUs 0.5, 0.55 ... 0.95 of the average precision
    mAP50 = mean over the classes of the average precision at IoU 0.5

    average precision = mean over the recalls 0, 0.01 ... 1 of the best precision from there on

    A detection is correct if its IoU with a true box of its class is at least the threshold, and no
    detection with a larger score has that box already. At most 100 detections of a class count in a
    image. Classes without a true box do not count.

    Source: Lin et al. 2014, Microsoft COCO, https://arxiv.org/abs/1405.0312
    """

    def __init__(self, decode: Callable[[Tree], Sequence[Detections]]) -> None:
        library()  # raises now if it is missing
        self.decode = decode
        self.image_count = 0
        self.true_annotations = list[dict[str, Any]]()
        self.found_annotations = list[dict[str, Any]]()

    @property
    def names(self) -> tuple[str, ...]:
        return ("mAP", "mAP50")

    def add(self, outputs: Tree, targets: Tensor) -> None:
        for detections, rows in zip(self.decode(outputs), targets, strict=True):
            self.add_image(detections, rows)

    def add_image(self, detections: Detections, targets: Tensor) -> None:
        """Add the detections in an image, and its targets (k 5), rows [x1, y1, x2, y2, class]."""
        self.image_count += 1
        rows = targets.detach().double().cpu()
        rows = rows[rows[:, 4] >= 0]
        boxes, scores, classes = (part.detach().double().cpu().numpy() for part in detections)
        self.true_annotations += self._annotations(
            rows[:, :4].numpy(), rows[:, 4].numpy(), len(self.true_annotations)
        )
        annotations = self._annotations(boxes, classes, len(self.found_annotations))
        for annotation, score in zip(annotations, scores.tolist(), strict=True):
            self.found_annotations.append({**annotation, "score": score})

    def _annotations(
        self, boxes: np.ndarray[Any, Any], classes: np.ndarray[Any, Any], before: int
    ) -> list[dict[str, Any]]:
        """Return boxes (k 4) of the last image in COCO's format.

        Ids count from 1, because 0 stands for a box without a match.
        """
        corners = boxes[:, :2]
        sizes = np.maximum(boxes[:, 2:] - corners, 0)
        return [
            {
                "id": before + number,
                "image_id": self.image_count,
                "category_id": int(label),
                "bbox": [*corner, *size],
                "area": size[0] * size[1],
                "iscrowd": 0,
            }
            for number, (label, corner, size) in enumerate(
                zip(classes, corners.tolist(), sizes.tolist(), strict=True), 1
            )
        ]

    def values(self) -> dict[str, float]:
        """Return mAP and mAP50 over all images, NaN if there is no true box."""
        if not self.true_annotations:
            return {"mAP": float("nan"), "mAP50": float("nan")}
        evaluation = library().COCOeval_faster(
            self._dataset(self.true_annotations),
            self._dataset(self.found_annotations),
            "bbox",
            print_function=silent,
        )
        # boxes of all sizes together: COCO's three size classes would take three times as long
        evaluation.params.areaRng = [[0.0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        # of (thresholds recalls classes sizes limits), at the largest limit
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        return {"mAP": float(precision.mean()), "mAP50": float(precision[0].mean())}

    def _dataset(self, annotations: Sequence[dict[str, Any]]) -> Any:
        """Return annotations in the library's form, with only the classes that have true boxes."""
        classes = sorted({box["category_id"] for box in self.true_annotations})
        return library().COCO(
            {
                "images": [{"id": number} for number in range(1, self.image_count + 1)],
                "categories": [{"id": number} for number in classes],
                "annotations": list(annotations),
            },
            print_function=silent,
        )


def library() -> Any:
    """Return the library for COCO's metrics. Raises LissomError if it is not installed."""
    try:
        import faster_coco_eval
    except ImportError:
        raise LissomError(
            "detect: faster-coco-eval, which computes mAP, is not installed: "
            "pip install 'lissom[detection]'"
        ) from None
    return faster_coco_eval
