"""Ranges that are updated in training, as in Google's scheme: moving averages, shared ranges, saved
and exported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import chain, images, seasoned
from torch import nn

import lissom
from lissom import apply
from lissom.grids.uniform import affine
from lissom.running.plan import one_target

MOVING = "quantize({bits}, {bits}, range='ema', grid='uniform(momentum=0.1)', reduce_range=True)"


def trained(net: Any, steps: int = 4) -> Any:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        net(3 * images(seed=step)).square().mean().backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_is_the_moving_average_of_the_ends_of_each_step(symmetric: bool) -> None:
    grid = f"uniform(symmetric={symmetric}, momentum=0.25)"
    small: Any = apply(f"quantize(8, grid='{grid}', range='minmax')", chain(), images(1), images())
    low, high = float(images().min()), float(images().max())
    small.train()
    for step in range(3):
        x = (step + 2) * images(seed=step)
        small(x)
        low, high = low + 0.25 * (float(x.min()) - low), high + 0.25 * (float(x.max()) - high)
        held = small.grid("input").held
        assert float(held["low"]) == pytest.approx(low, rel=1e-5) and float(
            held["high"]
        ) == pytest.approx(high, rel=1e-5)
        top = max(-low, high)
        scale, zero = affine(-top, top) if symmetric else affine(low, high)
        assert (
            float(held["scale"]) == pytest.approx(scale, rel=1e-5)
            and abs(int(held["zero_point"]) - zero) <= 1
        )
    before = {name: value.clone() for name, value in small.state_dict().items()}
    small.eval()(9 * images())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items()), (
        "inference moves nothing"
    )


def test_without_it_ranges_stay() -> None:
    small: Any = apply("quantize(8)", seasoned(), images(1), images())
    before = {site: float(small.grid_of(site).held["scale"]) for site in small.grids}
    trained(small)
    assert before == {site: float(small.grid_of(site).held["scale"]) for site in small.grids}


@pytest.mark.parametrize("bits", [8, 5])
def test_what_is_added_keeps_one_scale_and_files_agree(bits: int, tmp_path: Path) -> None:
    small: Any = apply(MOVING.format(bits=bits), seasoned(), images(1), images())
    start = {site: float(small.grid_of(site).held["scale"]) for site in small.grids}
    trained(small)
    assert all(start[site] != float(small.grid_of(site).held["scale"]) for site in small.grids)
    ties = [
        [small.grid(site).held["scale"] for site in tied if small.grid(site) is not None]
        for tied in small.tied
    ]
    assert any(len(tied) > 1 for tied in ties) and all(
        len({float(s) for s in tied}) == 1 for tied in ties
    )
    assert all(
        small.grid(site).input_codes().zero == 0 for site in small.shared if site.startswith("relu")
    )
    lissom.save(small, tmp_path / "saved")
    again: nn.Module = lissom.load(tmp_path / "saved", seasoned())
    with torch.no_grad():
        wanted = small(images())
        assert torch.equal(again(images()), wanted)
    for runtime in ("onnxruntime", "openvino"):
        path = tmp_path / runtime
        one_target(runtime).export(again, path, (3, 16, 16), {})
        found = one_target(runtime).load(path, 1)(images().numpy())
        assert np.square(found - wanted.numpy()).mean() < 4e-4 * np.square(wanted.numpy()).mean()
        assert one_target(runtime).fused(path).rest == ()
    assert not torch.equal(trained(again)(images()), wanted), "it goes on"
