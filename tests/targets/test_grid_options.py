"""Every setting of a grid: trained with, saved and loaded bit by bit, and exported as simulated."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lissom
from lissom import apply
from lissom.running.plan import one_target
from lissom.surgery.quantization.network import QuantizedNetwork

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*ranges at run time are for linear layers:lissom.LissomWarning"
)

ASYMMETRIC = [
    "quantize(8, grid='uniform(asymmetric_weights=True)')",
    "quantize(8, grid='uniform(granularity=\"tensor\", asymmetric_weights=True)')",
    "quantize(4, 4, grid='uniform(asymmetric_weights=True)')",
    "quantize(8, 32, grid='uniform(asymmetric_weights=True)')",
    "quantize(8, 'dynamic', grid='uniform(asymmetric_weights=True)')",
    "quantize(4, 8, grid='uniform(asymmetric_weights=True, weights_momentum=0.1)')",
    "quantize(4, 8, grid='uniform(asymmetric_weights=True)', rounding='learned', steps=20)",
]
OTHERS = [
    "quantize(8, grid='uniform(weights_momentum=0.1)')",
    "quantize('ternary', 'ternary', grid='ternary(centre=True, gradient=\"soft\")', "
    "inputs_grid='ternary(gradient=\"ste\")')",
    "quantize('ternary', 8, grid='ternary(gradient=\"ste\", through_scale=True)')",
    "quantize(4, 4, grid='dorefa(gradient=\"soft\")')",
    "quantize('binary', 8, grid='binary(gradient=\"ste\", through_scale=True)')",
    "quantize('binary', 'binary', grid='binary(through_scale=True)', "
    "inputs_grid='binary(gradient=\"soft\")')",
]


def samples(count: int = 24) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def fresh() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [
        part
        for k, groups in ((0, 1), (1, 1), (2, 2))
        for part in (
            nn.Conv2d(16 if k else 3, 16, 3, padding=1, groups=groups, bias=k != 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


@cache
def network(recipe: str) -> Any:
    """Return a small quantized network after three steps of learning, whose filters lean to one
    side or the other.
    """
    net = fresh()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                lean = torch.linspace(-2, 2, len(layer.weight)).view(
                    -1, *[1] * (layer.weight.ndim - 1)
                )
                layer.weight += layer.weight.std() * lean
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.copy_(torch.linspace(-1, 1.5, 16))
        net(samples())
    found = apply(recipe, net.eval(), samples(1), samples())
    optimizer = torch.optim.SGD(found.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        found.train()(samples()).square().mean().backward()
        optimizer.step()
    return found.eval()


@pytest.mark.parametrize("recipe", [*ASYMMETRIC, *OTHERS])
def test_saved_and_loaded_to_the_last_bit(recipe: str, tmp_path: Path) -> None:
    whole = network(recipe)
    lissom.save(whole, tmp_path / "net")
    again = lissom.load(tmp_path / "net", fresh())
    with torch.no_grad():
        assert torch.equal(again(samples()), whole(samples()))


@pytest.mark.parametrize("recipe", [*ASYMMETRIC, *OTHERS])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_the_file_answers_as_the_simulation_does(recipe: str, runtime: str, tmp_path: Path) -> None:
    target: Any = one_target(runtime)
    whole = network(recipe)
    with torch.no_grad():
        wanted = whole(samples()).numpy()
    target.export(whole, tmp_path / "model", (3, 8, 8), {"baked": "false"})
    found = target.load(tmp_path / "model", 1)(samples().numpy())
    assert float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())) < 0.015
    fused = target.fused(tmp_path / "model")
    if fused is None or "32" in recipe or "'binary', 'binary'" in recipe:
        return
    if runtime == "onnxruntime" and "dynamic" not in recipe:
        assert fused.rest == (), "zero points are no reason to compute in float"
    if runtime == "openvino" and "asymmetric" not in recipe:
        assert fused.rest == ()


@pytest.mark.parametrize("recipe", ASYMMETRIC)
def test_asymmetric_weights_have_zero_points(recipe: str) -> None:
    whole = network(recipe)
    assert isinstance(whole, QuantizedNetwork)
    zeros = [layer.rounding.zeros() for layer in whole.layers() if layer.rounding is not None]
    assert all(found is not None for found in zeros) and any(
        bool((found.abs() > 2).any()) for found in zeros
    )
