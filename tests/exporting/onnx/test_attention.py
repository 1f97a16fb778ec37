"""Attention over three and five axes is exported, and files give PyTorch's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Net, images
from torch import Tensor, nn

from lissom import apply
from lissom.running.plan import one_target


def windows(net: Any, x: Tensor) -> Tensor:
    y = net.patches(x).flatten(2).transpose(1, 2).unflatten(1, (4, 16))
    q, k, v = net.qkv(y).unflatten(3, (3, 2, 8)).permute(3, 0, 4, 1, 2, 5).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=net.mask)
    return net.head(mixed.mean((2, 3)).flatten(1))


def heads_in_the_batch(net: Any, x: Tensor) -> Tensor:
    y = net.patches(x).flatten(2).transpose(1, 2)
    q, k, v = net.qkv(y).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
    bias = (q @ k.transpose(1, 2)).abs()
    mixed = F.scaled_dot_product_attention(q, k, value=v, attn_mask=bias)
    return net.head(mixed.mean(1).view(-1, 16))


@pytest.mark.parametrize("forward", [windows, heads_in_the_batch])
def test_other_axes_than_four_are_exported(forward: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(
        forward,
        patches=nn.Conv2d(3, 16, 2, 2),
        qkv=nn.Linear(16, 48),
        head=nn.Linear(16, 4),
        mask=nn.Parameter(torch.randn(4, 16, 16)),  # type: ignore[arg-type]
    ).eval()
    small = apply("quantize(8, reduce_range=True)", net, images(1), images(), notes=True)[0]
    for runtime in ("onnxruntime", "openvino"):
        target: Any = one_target(runtime)
        for model, tolerance in ((net, 1e-4), (small, 0.03)):
            target.export(model, tmp_path / "m.onnx", (3, 16, 16), {})
            with torch.no_grad():
                wanted = model(images(8)).numpy()
            difference = np.abs(target.load(tmp_path / "m.onnx", 1)(images(8).numpy()) - wanted)
            assert difference.max() < tolerance * np.abs(wanted).max()


def causal(net: Any, x: Tensor) -> Tensor:
    y = net.patches(x).flatten(2).transpose(1, 2)
    q, k, v = net.qkv(y).chunk(3, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, None, 0.0, True)
    return net.head(mixed[:, 3])


def test_arguments_by_place_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(
        causal, patches=nn.Conv2d(3, 16, 2, 2), qkv=nn.Linear(16, 48), head=nn.Linear(16, 4)
    ).eval()
    target: Any = one_target("onnxruntime")
    target.export(net, tmp_path / "m.onnx", (3, 16, 16), {})
    with torch.no_grad():
        wanted = net(images(8)).numpy()
    found = target.load(tmp_path / "m.onnx", 1)(images(8).numpy())
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
