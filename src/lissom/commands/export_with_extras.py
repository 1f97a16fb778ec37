"""Export files that hold more than the network: preprocessing, or non-maximum suppression."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..bench.inputs import Input
from ..bench.process import file_process
from ..data.data import AS_GIVEN
from ..data.own_splits import STANDARDIZE
from ..detection.boxes import Detections, count_shared_boxes
from ..errors import LissomError
from ..exporting.detector_with_nms import DetectorWithNms
from ..exporting.network_with_preprocessing import NetworkWithPreprocessing
from ..kinds.detect import Detect
from ..language.preprocess import Preprocess
from ..language.target import Target
from ..running.baked import metadata, preprocessed, shown_preprocess
from ..running.measure import inputs_in
from ..running.parity import OutputDifference, ParityError
from ..tasks.kinds import is_own_kind, kind_named
from ..trees import Tree, put_in, run_on_copied_inputs

# share of detections that a file with non-maximum suppression must have in common with one without
MIN_SHARED_DETECTIONS = 0.98
MIN_IOU = 0.9
# (height, width) of the images on which a file is tried: wide, high, small
TRIAL_SIZES = ((375, 500), (640, 427), (97, 61))


def nms_kind(record: dict[str, Any], target: Target, kind_text: str | None) -> Detect:
    """Return the kind that picks the detections. Raises LissomError if a file cannot do so."""
    text = kind_text or str(record["task"]["kind"])
    if kind_text is None and is_own_kind(text):
        raise LissomError(
            f"--nms: the network's kind of task, {text}, is your own code; --kind names it, as in "
            "--kind file.py:name"
        )
    kind = kind_named(text)[0]
    if not isinstance(kind, Detect) or type(kind).decode is not Detect.decode:
        raise LissomError(
            f"--nms: expected a network of kind detect, or of one that says where its boxes are "
            f"(`places`), got {kind}"
        )
    if not target.suppresses:
        raise LissomError(
            f"--nms: {target} has nothing that picks boxes; onnxruntime and openvino have"
        )
    if record["task"]["inputs"]:
        raise LissomError("--nms: expected a network with one input, got several")
    return kind


def preprocess_inside(record: dict[str, Any], target: Target) -> Preprocess:
    """Return the preprocessing to put into a file. Raises LissomError if that is impossible."""
    if not target.pictures:
        raise LissomError(
            f"--pictures: {target} cannot resize images as Pillow does; onnxruntime and openvino can"
        )
    text = shown_preprocess(record, bake=True)
    if text == AS_GIVEN:
        raise LissomError(
            "--pictures: inputs are taken as the data set gives them; there is nothing to put into "
            f"the file; {STANDARDIZE}"
        )
    preprocess = Preprocess.of(text)
    wanted = tuple(record["task"]["shape"][:0:-1])
    for height, width in TRIAL_SIZES:
        placements = preprocess.placements((width, height))
        size = placements[-1].size if placements else (width, height)
        if size != wanted:
            raise LissomError(
                f"--pictures: an image of {height}x{width} becomes one of {size[1]}x{size[0]} by "
                f"'{preprocess}', and the network takes {wanted[1]}x{wanted[0]}; expected a "
                "preprocessing that makes one size of all, such as "
                f"resize({wanted[1]}, {wanted[0]}), when the network was made"
            )
    return preprocess


def export_with_extras(
    model: nn.Module,
    record: dict[str, Any],
    target: Target,
    kind: Detect | None,
    preprocess: Preprocess | None,
    path: Path,
    plain: Path,
    *,
    bake: bool,
) -> None:
    """Write a file with non-maximum suppression as in `kind`, and with `preprocess`, to `path`;
    either may be None.

    Raises ParityError unless its outputs match those of the `plain` file with the same operations
    done outside of it.
    """
    shape = tuple(record["task"]["shape"])
    whole = preprocessed(model, record, bake)
    facts = metadata(record, bake)
    with torch.no_grad():
        example_outputs = run_on_copied_inputs(model, torch.zeros(1, *shape))
    if kind is not None:
        whole = DetectorWithNms(whole, kind, kind.classes(example_outputs))
        facts |= {"nms": "true", "kind": str(kind)}
    if preprocess is not None:
        whole = NetworkWithPreprocessing(whole, preprocess)
        facts |= {"pictures": "true", "input": "images of any size (n height width c), 8 bits"}
    target.export(whole, path, shape, facts)
    if not path.suffix.startswith(".onnx"):
        path.with_name(path.name + ".json").write_text(json.dumps(facts, indent=1), "utf-8")
    inputs = pictures_and_pixels(preprocess, shape)
    if preprocess is None:
        noise = inputs_in(record, 2, pixels=bake)[0].noise(np.random.default_rng(0))
        inputs = [(noise, noise)]
    outputs = outputs_of_file(target, path, [given for given, _ in inputs])
    expected = [
        put_in(example_outputs, each)
        for each in outputs_of_file(target, plain, [seen for _, seen in inputs])
    ]
    if kind is None:
        check_outputs(target, [put_in(example_outputs, each) for each in outputs], expected)
        return
    picks = [torch.zeros(0)] * 3
    detections = [*chain.from_iterable(kind.decode(put_in(picks, each)) for each in outputs)]
    expected_detections = [*chain.from_iterable(kind.decode(each) for each in expected)]
    if preprocess is not None:
        expected_detections = [
            to_original_image(each, preprocess, (width, height))
            for each, (height, width) in zip(expected_detections, TRIAL_SIZES, strict=True)
        ]
    check_detections(target, detections, expected_detections)


def check_outputs(target: Target, outputs: Sequence[Tree], expected: Sequence[Tree]) -> None:
    """Raise ParityError if outputs differ by more than the noise allowed to a quantized file.

    Pixels may be rounded differently by 1 of 255.
    """
    difference = OutputDifference()
    for ours, theirs in zip(outputs, expected, strict=True):
        difference.add(ours, theirs)
    difference.check(target, quantized=True, input_text="images; nothing was written")


def check_detections(
    target: Target, detections: Sequence[Detections], expected: Sequence[Detections]
) -> None:
    """Raise ParityError unless a file finds the detections picked from the plain file's outputs."""
    shared = sum(
        count_shared_boxes(one, two, MIN_IOU) for one, two in zip(detections, expected, strict=True)
    )
    count = max(sum(len(boxes) for boxes, _, _ in each) for each in (detections, expected))
    if shared < MIN_SHARED_DETECTIONS * count:
        raise ParityError(
            f"--nms: {target}: the file finds other boxes than are picked of the answers of the file "
            f"without it: {shared} of {count} are the same; nothing was written"
        )


def outputs_of_file(target: Target, path: Path, inputs: Sequence[np.ndarray]) -> list[list[Tensor]]:
    """Return the outputs of a file for each input."""
    first = Input((1, *inputs[0].shape[1:]), str(inputs[0].dtype))
    with file_process(str(target), path, [first]) as process:
        return [list(map(torch.from_numpy, process.run([array]))) for array in inputs]


def pictures_and_pixels(
    preprocess: Preprocess | None, shape: tuple[int, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a few images (1 height width c), each with its preprocessed pixels (1 c h w)."""
    if preprocess is None:
        return []
    channels = 3 if preprocess.channels(3) == shape[0] else shape[0]
    pictures = [synthetic_image(*size, channels) for size in TRIAL_SIZES]
    return [
        (channels_last(picture), channels_first(channels_last(preprocess.shown(picture))))
        for picture in pictures
    ]


def synthetic_image(height: int, width: int, channels: int) -> Image.Image:
    """Return a synthetic image that is smooth like a photograph, with an edge in it."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (200, 60, 20)
    return Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")


def channels_last(picture: Image.Image) -> np.ndarray:
    """Return an image as (1 height width c)."""
    pixels = np.asarray(picture)
    return pixels.reshape(1, *pixels.shape[:2], -1)


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (1 height width c) as floats (1 c height width)."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)


def to_original_image(
    detections: Detections, preprocess: Preprocess, size: tuple[int, int]
) -> Detections:
    """Return detections in pixels of the original image of `size` (width, height)."""
    boxes, scores, classes = detections
    for placement in reversed(preprocess.placements(size)):
        offset = torch.tensor(placement.offset * 2, dtype=boxes.dtype)
        boxes = (boxes - offset) / torch.tensor(placement.scale * 2, dtype=boxes.dtype)
    ends = torch.tensor(size * 2, dtype=boxes.dtype)
    return torch.minimum(boxes.clamp_min(0), ends), scores, classes
