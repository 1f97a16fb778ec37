"""Concatenating boxes and scores: if their ranges differ much, the concatenation has no grid of its
own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Net, images
from torch import Tensor, nn

from lissom import apply
from lissom.running.plan import one_target


def detector(factor: float, relu: bool = False) -> nn.Module:
    """Return a network that joins boxes, times `factor`, and scores from 0 to 1, and mixes them."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.first(x).relu()
        boxes = net.boxes(y).sigmoid() * factor
        scores = net.scores(y).sigmoid()
        both = torch.cat([boxes, scores], 1)
        return net.last(both.relu() if relu else both)

    torch.manual_seed(0)
    net = Net(
        forward,
        first=nn.Conv2d(3, 16, 3, 2, 1),
        boxes=nn.Conv2d(16, 4, 1),
        scores=nn.Conv2d(16, 8, 1),
        last=nn.Conv2d(12, 12, 1, bias=False),
    )
    with torch.no_grad():
        net.last.weight.copy_(torch.eye(12)[:, :, None, None])
    return net.eval()


def best(outputs: Tensor) -> Tensor:
    """Return the best class at each place."""
    return outputs[:, 4:].argmax(1)


@pytest.mark.parametrize("relu", [False, True])
def test_scores_beside_boxes_keep_their_classes(relu: bool) -> None:
    net = detector(640, relu)
    small, notes = apply("quantize(8)", net, images(1), images(32), notes=True)
    x = images(32)
    with torch.no_grad():
        agreed = (best(net(x)) == best(small(x))).float().mean()
    assert agreed > 0.9
    (note,) = [note for note in notes if "concatenation" in note]
    assert "1 concatenation of parts whose ranges differ by up to" in note
    assert "so did the inputs of last" in note


def test_parts_of_like_size_share_a_grid() -> None:
    small, notes = apply("quantize(8)", detector(10), images(1), images(32), notes=True)
    assert not [note for note in notes if "concatenation" in note]
    assert small.network.last.site in small.grids


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_file_answers_as_simulated(runtime: str, tmp_path: Path) -> None:
    small, _ = apply("quantize(8)", detector(640), images(1), images(32), notes=True)
    target: Any = one_target(runtime)
    target.export(small, tmp_path / "m.onnx", (3, 16, 16), {})
    with torch.no_grad():
        wanted = small(images(16)).numpy()
    answers = target.load(tmp_path / "m.onnx", 1)(images(16).numpy())
    for part in (slice(0, 4), slice(4, 12)):
        differences = np.abs(answers[:, part] - wanted[:, part]) / np.abs(wanted[:, part]).max()
        assert np.median(differences) < 1e-5 and differences.mean() < 2e-3
