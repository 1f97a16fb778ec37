"""A tensor split between two layers stays in integers, and the file gives the outputs of the
simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Net, conv, images
from torch import Tensor, nn

from lissom import apply
from lissom.running.plan import one_target


def halves(net: Any, y: Tensor) -> Tensor:
    one, two = y.chunk(2, 1)
    return net.b(one) + net.c(two)


def rows(net: Any, y: Tensor) -> Tensor:
    return net.c(net.b(y[:, :8]).relu().split([10, 6], 2)[0])


def half_returned(net: Any, y: Tensor) -> Tensor:
    one, two = net.b(y[:, :8]).relu().chunk(2, 2)
    return net.c(one) + two


@pytest.mark.parametrize("forward", [halves, rows, half_returned])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_parts_stay_in_integers(
    forward: Callable[[Any, Tensor], Tensor], runtime: str, tmp_path: Path
) -> None:
    target: Any = one_target(runtime)
    torch.manual_seed(0)
    made = Net(
        lambda net, x: net.head(forward(net, net.a(x).relu()).mean((2, 3))),
        a=conv(3, 16),
        b=conv(8, 8),
        c=conv(8, 8),
        head=nn.Linear(8, 4),
    )
    model = apply("quantize(8)", made.eval(), images(1), images())
    target.export(model, tmp_path / "m.onnx", (3, 16, 16), {})
    assert target.fused(tmp_path / "m.onnx").rest == ()
    with torch.no_grad():
        wanted = model(images(32)).numpy()
    answers = target.load(tmp_path / "m.onnx", 1)(images(32).numpy())
    differences = np.abs(answers - wanted).max(1) / np.abs(wanted).max()
    # a value on the border of two codes falls to either side, by processor
    assert np.median(differences) < 1e-5
    assert differences.max() < 0.02
