"""Concatenated rows and tokens stay in integers in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import Net, conv, images
from torch import Tensor, nn

from lissom import apply
from lissom.running.plan import one_target


def rows(net: Any, x: Tensor) -> Tensor:
    return net.c(torch.cat([net.a(x), net.b(x)], 2)).mean((2, 3))


def columns_read_turned(net: Any, x: Tensor) -> Tensor:
    y = torch.cat([net.a(x), net.b(x)], 3)
    return net.c(y.transpose(2, 3)).mean((2, 3))


def tokens(net: Any, x: Tensor) -> Tensor:
    y = torch.cat([net.a(x).flatten(2), net.token.expand(x.shape[0], -1, -1)], 2)
    return net.line(y.transpose(1, 2)).mean(1)


def channels(net: Any, x: Tensor) -> Tensor:
    return net.wide(torch.cat([net.a(x), net.b(x)], 1)).mean((2, 3))


@pytest.mark.parametrize(
    ("forward", "guarded"),
    [(rows, 1), (columns_read_turned, 1), (tokens, 1), (channels, 0)],
)
def test_what_reads_rows_runs_in_integers(
    forward: Callable[[Any, Tensor], Tensor], guarded: int, tmp_path: Path
) -> None:
    target: Any = one_target("openvino")
    torch.manual_seed(0)
    net = Net(
        forward,
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 8),
        wide=conv(16, 8),
        line=nn.Linear(8, 8),
        token=nn.Parameter(torch.randn(1, 8, 1)),  # type: ignore[arg-type]
    )
    model = apply("quantize(8, reduce_range=True)", net.eval(), images(1), images(), notes=True)[0]
    path = tmp_path / "m.onnx"
    target.export(model, path, (3, 16, 16), {})
    assert target.fused(path).rest == ()
    assert [n.op_type for n in onnx.load(str(path)).graph.node].count("MaxPool") == guarded
    with torch.no_grad():
        wanted = model(images(8)).numpy()
    difference = np.abs(target.load(path, 1)(images(8).numpy()) - wanted)
    assert difference.max() < 0.02 * np.abs(wanted).max()
