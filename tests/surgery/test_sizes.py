"""Sizes in bits and packed bytes of networks that can be counted by hand."""

from __future__ import annotations

from math import ceil, log2
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lissom import apply
from lissom.models import factory
from lissom.surgery.packing import pack
from lissom.surgery.quantization.layers import QuantizedLayer
from lissom.surgery.sizes import sizes

FIRST, MIDDLE, LAST = 8 * 3 * 9, 16 * 8 * 9, 10 * 16  # weights


def images(count: int = 32) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> Any:
    """Return three layers: 8 filters with batch-norm, 16 with batch-norm and no bias, 10 outputs
    with bias.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    net(images())
    nn.init.normal_(net[1].weight)
    return net.eval()


def of(recipe: str) -> tuple[dict[str, int], Any]:
    model = apply(recipe, network(), images(1), images())
    return sizes(model), model


def layers(model: nn.Module) -> list[QuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, QuantizedLayer)]


def scales_in(model: Any) -> int:
    return sum(bool(grid.names) for grid in model.grids.values())


def test_a_float_network_takes_32_bits_for_each_number() -> None:
    count = FIRST + MIDDLE + LAST + 8 + 10 + 2 * (8 + 16)
    assert sizes(network()) == {"theory_bytes": 4 * count, "packed_bytes": 4 * count}


@pytest.mark.parametrize(
    ("bits", "each"),
    [("8", 8), ("4", 4), ("3", 3), ("2", 2), ("'ternary'", log2(3)), ("'binary'", 1)],
)
def test_rounded_weights_take_the_bits_of_their_grid(bits: str, each: float) -> None:
    found, model = of(f"quantize({bits}, 8, reduce_range=False)")
    scales = biases = 8 + 16 + 10  # batch-norm is in both
    wanted = 8 * (FIRST + LAST) + each * MIDDLE + 32 * (scales + biases + scales_in(model))
    assert scales_in(model) >= 3 and found["theory_bytes"] == ceil(wanted / 8)
    weights = sum(
        len(pack(layer.integers()[0].to(torch.int8).numpy())[1]) for layer in layers(model)
    )
    assert found["packed_bytes"] == weights + 4 * (scales + biases + scales_in(model))
    assert abs(found["packed_bytes"] - found["theory_bytes"]) < 0.06 * wanted / 8


def test_float_inputs_and_float_layers_have_no_scales() -> None:
    found, _ = of("quantize('ternary', 32, first=32, last=32)")
    wanted = 32 * (FIRST + 8 + LAST + 10) + log2(3) * MIDDLE + 32 * (16 + 16)
    assert found["theory_bytes"] == ceil(wanted / 8)


def test_a_batch_norm_of_its_own_counts_as_its_parameters() -> None:
    found, model = of("quantize(8, fold=False, reduce_range=False)")
    scales, biases, norms = 8 + 16 + 10, 8 + 10, 2 * (8 + 16)
    assert found["theory_bytes"] == FIRST + MIDDLE + LAST + 4 * (
        scales + biases + norms + scales_in(model)
    )


def test_of_a_mask_the_rest_counts_and_a_bit_for_each_weight() -> None:
    found, model = of("mask(0.75)")
    rest = [FIRST // 4, MIDDLE // 4, LAST // 4]
    assert [int(model[k].weight.count_nonzero()) for k in (0, 3, 8)] == rest
    wanted = (FIRST + MIDDLE + LAST) // 8 + 4 * sum(rest) + 4 * (8 + 10 + 2 * (8 + 16))
    assert found == {"theory_bytes": wanted, "packed_bytes": wanted}
    few, _ = of("mask(0.005, only='0')")
    assert few == sizes(network()), "a bitmap that spares nothing is left out"


# of ternary what is not 0 is a sign
@pytest.mark.parametrize(("bits", "each"), [("8", 8), ("4", 4), ("'ternary'", 1)])
def test_masked_and_rounded(bits: str, each: int) -> None:
    found, model = of(f"mask(0.75) | quantize({bits}, reduce_range=False)")
    full = [int(layer.integers()[0].count_nonzero()) for layer in layers(model)]
    assert full[1] <= MIDDLE // 4
    wanted = (
        FIRST
        + MIDDLE
        + LAST
        + 8 * (full[0] + full[2])
        + each * full[1]
        + 32 * (2 * 34 + scales_in(model))
    )
    assert found["theory_bytes"] == ceil(wanted / 8)
    assert 0.94 * wanted / 8 < found["packed_bytes"] < wanted / 8 + 50, (
        "small layers do not use all values of 8 bits"
    )


def test_a_shared_weight_counts_once() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[2].weight = net[0].weight  # type: ignore[assignment]
    assert sizes(net)["theory_bytes"] == 4 * (36 + 6 + 6)
    masked = apply("mask(0.5)", net, torch.randn(1, 6))
    assert sizes(masked)["theory_bytes"] == ceil(36 / 8 + 4 * 18 + 4 * 12)


def test_counting_changes_nothing_and_bits_come_in_order() -> None:
    torch.manual_seed(0)
    net = factory("resnet8")(num_classes=10)
    net(images())
    found = []
    for bits in ("'binary'", "'ternary'", "2", "3", "4", "8"):
        model = apply(f"quantize({bits})", net.eval(), images(1), images())
        before = {k: v.clone() for k, v in model.state_dict().items()}
        found.append(sizes(model)["theory_bytes"])
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert found == sorted(found) and found[-1] < sizes(net)["theory_bytes"] / 3.5
