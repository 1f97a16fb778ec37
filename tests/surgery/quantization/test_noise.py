"""Quantization noise of each tensor against plain NumPy, and networks that are only partly rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import images, seasoned
from torch import Tensor, nn

from lissom import apply
from lissom.surgery.fold import fold_batchnorms
from lissom.surgery.quantization.network import QuantizedNetwork
from lissom.surgery.quantization.noise import (
    Tally,
    layer_noise,
    layers_of,
    rounding_only,
    roundings,
    weight_noise,
)
from lissom.surgery.quantization.prepare import prepare_layers


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return seasoned()


def outputs(net: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = net(images())
    return found


def everything(quantized: QuantizedNetwork) -> tuple[list[Any], list[Any]]:
    return (
        [r for layer in layers_of(quantized).values() for r in roundings(layer, "weights")],
        [quantized.grid_of(site) for site in quantized.grids],
    )


def test_with_nothing_rounded_it_is_the_folded_network(net: nn.Module) -> None:
    quantized: Any = apply("quantize(4, 4)", net, images(1), images())
    before = outputs(quantized)
    with rounding_only(quantized, []):
        assert torch.allclose(outputs(quantized), outputs(net), atol=1e-5)
    assert torch.equal(outputs(quantized), before)
    with rounding_only(quantized, [r for part in everything(quantized) for r in part]):
        assert torch.equal(outputs(quantized), before)
    with pytest.raises(KeyError), rounding_only(quantized, []):
        raise KeyError
    assert torch.equal(outputs(quantized), before)


def test_weights_alone_is_the_network_with_weights_put_on_their_grid(net: nn.Module) -> None:
    # as beside floats they never need be
    quantized: Any = apply("quantize(4, 4, reduce_range=False)", net, images(1), images())
    alone: Any = apply("quantize(4, 32)", net, images(1), images())
    with rounding_only(quantized, everything(quantized)[0]):
        assert torch.allclose(outputs(quantized), outputs(alone), atol=1e-5)


def test_learned_rounding_and_corrected_biases_are_put_back(net: nn.Module) -> None:
    quantized: Any = apply(
        "quantize(3, 4, rounding='learned', steps=40, correct=True)", net, images(1), images()
    )
    before, after = net, outputs(quantized)
    import copy

    copied = copy.deepcopy(before)
    prepare_layers(copied, images(1))
    floats: Any = {
        name: layer for name, layer in copied.named_modules() if name in layers_of(quantized)
    }
    with rounding_only(quantized, []):
        assert not torch.allclose(outputs(quantized), outputs(net), atol=1e-3)
    with rounding_only(quantized, [], floats):
        assert torch.allclose(outputs(quantized), outputs(net), atol=1e-5)
    assert torch.equal(outputs(quantized), after)
    some = next(iter(layers_of(quantized)))
    assert quantized.network.get_submodule(some).weight is not floats[some].weight


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_tally_is_what_numpy_counts(symmetric: bool) -> None:
    quantized: Any = apply(
        f"quantize(8, 5, first=8, grid='uniform(symmetric={symmetric})', range='percentile')",
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(),
        images(1),
        images(),
    )
    rounding, x = quantized.grid_of("input"), images() * 1.3
    tally = Tally()
    for part in x.split(10):
        tally.add(part, rounding)
    codes = rounding.input_codes()
    scale, values = float(codes.scale), x.numpy().astype(np.float64)
    q = np.round(x.numpy() / np.float32(scale)) + codes.zero
    found = (np.clip(q, 0, codes.top) - codes.zero) * scale
    row = tally.row()
    wanted = 10 * np.log10(np.square(values).sum() / np.square(values - found).sum())
    assert row["sqnr_db"] == pytest.approx(wanted, abs=0.02)
    assert row["saturated"] == pytest.approx(((q < 0) | (q > codes.top)).mean(), abs=1e-6)
    low, high = np.quantile(np.clip(q, 0, codes.top), [0.001, 0.999])
    assert row["use"] == pytest.approx((high - low) / codes.top, abs=2 / codes.top)


def test_weights_against_the_layers_own_values(net: nn.Module) -> None:
    import copy

    quantized: Any = apply("quantize(4)", net, images(1), images())
    flat = copy.deepcopy(net)
    fold_batchnorms(flat, images(1))
    for name, layer in layers_of(quantized).items():
        row = weight_noise(layer, layer.weight)
        # batch-norm multiplied in: the same SQNR per filter
        weight = flat.get_submodule(name).weight.detach().double()
        rounded = layer.in_inference()[0].double()
        per_filter = (
            weight.flatten(1).square().sum(1) / (weight - rounded).flatten(1).square().sum(1)
        ).log10() * 10
        assert per_filter.min() - 0.1 <= row["sqnr_db"] <= per_filter.max() + 0.1
        assert 0 < row["use"] <= 1 and 0 <= row["saturated"] < 0.1


def test_more_bits_less_noise_and_exact_layers_have_none(net: nn.Module) -> None:
    rows = {
        bits: layer_noise(apply(f"quantize({bits}, {bits})", net, images(1), images()), [images()])  # type: ignore[arg-type]
        for bits in (2, 4, 8)
    }
    for two, four, eight in zip(*rows.values(), strict=True):
        assert (
            two["weights"]["sqnr_db"] <= four["weights"]["sqnr_db"] <= eight["weights"]["sqnr_db"]
        )
        assert two["inputs"]["sqnr_db"] <= four["inputs"]["sqnr_db"] <= eight["inputs"]["sqnr_db"]
    floats = layer_noise(apply("quantize(4, 32)", net, images(1), images()), [images()])  # type: ignore[arg-type]
    assert all(row["inputs"] is None for row in floats)
    left = layer_noise(apply("quantize(8, keep='head')", net, images(1), images()), [images()])  # type: ignore[arg-type]
    assert {row["name"] for row in left if row["weights"] is None} <= {"head"}
