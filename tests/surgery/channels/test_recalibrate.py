"""Running statistics of batch-norm measured again, in batches of any size."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import Net, conv
from torch import Tensor, nn

from lissom.surgery.channels.recalibrate import recalibrate_batchnorms


def pooled() -> Net:
    """Return a network with batch-norms over maps, over 1x1 maps, as DeepLab's, and over both."""
    torch.manual_seed(0)

    def forward(s: Any, x: Tensor) -> Tensor:
        maps = s.one(x)
        point = maps.mean((2, 3), keepdim=True)
        return s.wide(maps) + s.narrow(point) + s.both(maps) + s.both(2 * point)

    norms = {name: nn.BatchNorm2d(4) for name in ("wide", "narrow", "both", "unused")}
    model = Net(forward, one=conv(3, 4), **norms)
    with torch.no_grad():
        model(torch.randn(8, 3, 6, 6))
    return model.eval()


def batches(counts: list[int]) -> list[Tensor]:
    """Return batches of different sizes, so that they cannot be joined."""
    draw = torch.Generator().manual_seed(0)
    return [
        k % 3 + torch.randn(count, 3, 6 + k % 2, 6, generator=draw)
        for k, count in enumerate(counts)
    ]


def wanted(calls: list[tuple[int, list[Tensor]]]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of what a norm sees in batches: (samples, inputs of its calls)."""
    measured = []
    for count, inputs in calls:
        seen = [x for x in inputs if x.numel() > x.shape[1]]
        if seen:
            mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
            var = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
            measured.append((count, mean, var))
    total = sum(count for count, *_ in measured)
    means = [count * mean / total for count, mean, _ in measured]
    variances = [count * var / total for count, _, var in measured]
    return torch.stack(means).sum(0), torch.stack(variances).sum(0)


@pytest.mark.parametrize("counts", [[1] * 40, [1, 20, 1, 14], [20, 1, 1, 14]])
def test_a_norm_keeps_its_statistics_where_a_batch_has_none(counts: list[int]) -> None:
    model: Any = pooled()
    before = copy.deepcopy(model)
    images = batches(counts)
    with torch.no_grad():
        maps = [model.one(x) for x in images]
    points = [x.mean((2, 3), keepdim=True) for x in maps]
    calls = {
        "wide": [(len(x), [x]) for x in maps],
        "narrow": [(len(x), [x]) for x in points],
        "both": [(len(x), [x, 2 * point]) for x, point in zip(maps, points, strict=True)],
    }
    changed = ["wide", "narrow", "both"] if max(counts) > 1 else ["wide", "both"]
    assert recalibrate_batchnorms(model, images) == len(changed)
    for name in changed:
        mean, var = wanted(calls[name])
        norm = model.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, mean, msg=name)
        torch.testing.assert_close(norm.running_var, var, msg=name)
    for name in {"wide", "narrow", "both", "unused"}.difference(changed):
        old, new = before.get_submodule(name), model.get_submodule(name)
        assert torch.equal(old.running_mean, new.running_mean)
        assert torch.equal(old.running_var, new.running_var)
    assert not any(m.training or m._forward_hooks for m in model.modules())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_an_error_leaves_the_old_statistics() -> None:
    model: Any = pooled()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        recalibrate_batchnorms(model, [torch.randn(40, 3, 6, 6), torch.randn(40, 2, 6, 6)])
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "tracked" not in k)
    assert not any(m.training or m._forward_hooks for m in model.modules())
