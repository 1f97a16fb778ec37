"""Binary inputs: signs are taken before a ReLU, and a layer whose input would be constant is
refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom import LissomError, apply, load, save
from lissom.models import factory


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def chain(pool: bool = False, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for _ in range(20):
        net(images())
    return net.eval()


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_signs_are_those_of_what_comes_before_the_relu(pool: bool, inplace: bool) -> None:
    net = chain(pool, inplace)
    small: Any = apply("quantize('binary', 'binary', first=32, last=32)", net, images(1), images())
    assert small.skipped == {"relu1"}
    with torch.no_grad():
        x = net[1](net[0](images()))
        x = net[3](torch.where(x >= 0, 1.0, -1.0))
        scale = net[4].weight.abs().mean((1, 2, 3), keepdim=True)
        x = F.relu(net[5](F.conv2d(x, net[4].weight.sign() * scale, net[4].bias)))
        wanted = net[9](x.mean((2, 3)))
        assert torch.allclose(small(images()), wanted, atol=2e-2 * float(wanted.abs().max()))


def test_the_layer_reads_both_signs_in_training_too() -> None:
    small: Any = apply("quantize('binary', 'binary')", chain(), images(1), images())
    seen = []
    layer = small.network[4]
    layer.own_input_rounding.register_forward_hook(
        lambda _, __, out: seen.append(out.detach().unique())
    )
    small.train()(images())
    small.eval()(images())
    assert [found.tolist() for found in seen] == [[-1, 1], [-1, 1]]


def test_a_relu_that_others_read_too_is_refused() -> None:
    net = factory("resnet8")(num_classes=4).eval()
    with pytest.raises(
        LissomError, match=r"inputs of blocks\.0\.conv1 are never negative.*inputs=1"
    ):
        apply("quantize('binary', 'binary')", net, images(1), images())
    apply("quantize('binary', 1)", net, images(1), images())


def test_it_is_saved(tmp_path: Path) -> None:
    net = chain()
    small: Any = apply("quantize('binary', 'binary')", net, images(1), images())
    save(small, tmp_path)
    again: Any = load(tmp_path, chain())
    assert again.skipped == small.skipped == {"relu1"}
    with torch.no_grad():
        assert torch.equal(again(images()), small(images()))


def test_other_inputs_keep_their_relus() -> None:
    for recipe in (
        "quantize('binary', 8)",
        "quantize(1, 1)",
        "quantize('ternary', 'ternary')",
        "quantize(2, 2)",
    ):
        small: Any = apply(recipe, chain(), images(1), images())
        assert small.skipped == frozenset()
