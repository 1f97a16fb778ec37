"""Images without labels: the user's own network labels them, and is the reference for others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..data.data import Data
from ..data.split import CPU, Split
from ..errors import LissomError
from ..language.kind import Kind
from ..trees import Tree, run_network, shapes
from .code import call_user_code

OF_AXES = {  # how many axes outputs have -> the kind that they may be of
    3: "if these are (batch, positions, classes), add --kind tag",
    4: "if these are (batch, classes, height, width), add --kind segment",
}


def check_unlabelled(data: Data, weights: str, *, trained: bool) -> None:
    """Raise LissomError for an untrained network, or for weights without stated preprocessing."""
    if not trained:
        raise LissomError(
            f"data: {data.name} has no labels, which a trained network has to give; expected "
            "--weights or a --model that is trained"
        )
    if weights and not data.stated:
        raise LissomError(
            f"preprocess: {weights} was trained elsewhere, and without labels lissom cannot "
            "find out how the network sees images; expected --preprocess, as in "
            "--preprocess imagenet"
        )


def labelled_by(model: nn.Module, data: Data, kind: Kind, name: str, kind_text: str) -> Data:
    """Return data with the predictions of a network as labels.

    The metric is then how often another network predicts the same.
    """
    wide = 0

    def said(outputs: Tree) -> tuple[int, Tensor]:
        if kind.name() == "classify" and (answer := kind.answer(outputs)).ndim != 2:
            other = OF_AXES.get(answer.ndim)
            raise LissomError(
                f"model {name}: expected outputs (batch, classes) for images without labels, "
                f"got {shapes(answer)}; {other or 'for others, --kind says what they are'}"
            )
        return kind.classes(outputs), kind.answers(outputs)

    @torch.inference_mode()
    def answers(split: Split) -> Tensor:
        nonlocal wide
        found: list[Tensor] = []
        for pixels, _ in split.batches(128, CPU):
            inputs = data.normalised(pixels)
            outputs = call_user_code(partial(run_network, model, inputs), f"model {name}: it")
            classes, labels = call_user_code(partial(said, outputs), f"--kind {kind_text}")
            wide = max(wide, classes)
            found.append(labels)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)

    labelled = data.labelled_by(answers)
    if len(labelled.test.labels.unique()) < 2:
        labelled.notes.append(
            f"{name} gives the same answer for all test images, so fidelity says little: is it "
            "trained, and is the preprocessing that of its training?"
        )
    return replace(labelled, classes=tuple(map(str, range(wide))))
