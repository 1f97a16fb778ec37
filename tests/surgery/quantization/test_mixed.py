"""Mixed precision: the assignment of bits is optimal, budgets hold, and impossible budgets are
reported.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import images, seasoned
from torch import nn

import lissom
from lissom import LissomError, apply
from lissom.language.context import SurgeryContext
from lissom.language.recipe import Recipe
from lissom.surgery.quantization.assign import assigned, layer_bytes, noises
from lissom.surgery.quantization.bits import saturates
from lissom.surgery.quantization.layers import QuantizedLayer


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return seasoned()


@given(
    st.lists(
        st.tuples(st.integers(10, 400), st.lists(st.floats(0, 1), min_size=3, max_size=3)),
        min_size=1,
        max_size=5,
    ),
    st.floats(0.05, 1.2),
)
@settings(max_examples=60, deadline=None)
def test_the_assignment_is_the_best_of_all(
    layers: list[tuple[int, list[float]]], part: float
) -> None:
    noise = {
        f"l{k}": dict(zip((8, 4, 2), sorted(values), strict=True))
        for k, (_, values) in enumerate(layers)
    }
    size = {f"l{k}": count for k, (count, _) in enumerate(layers)}
    budget = part * sum(8 * count for count in size.values())
    found = assigned(noise, lambda name, bits: size[name] * bits, budget)
    every = [
        dict(zip(noise, bits, strict=True))
        for bits in itertools.product((8, 4, 2), repeat=len(noise))
    ]

    def price(bits: dict[str, int]) -> float:
        return sum(size[name] * count for name, count in bits.items())

    fits = [bits for bits in every if price(bits) <= budget]
    if found is None:  # nothing fits once costs are rounded up
        assert not [bits for bits in every if price(bits) <= budget * (1 - len(noise) / 4000)]
        return
    assert price(found) <= budget * (1 + 1e-9)
    least = min(
        sum(noise[name][count] for name, count in bits.items())
        for bits in fits
        if price(bits) <= budget * (1 - len(noise) / 4000) or bits == found
    )
    assert sum(noise[name][count] for name, count in found.items()) <= least + 1e-9


@pytest.mark.parametrize(("size", "top"), [(0.14, 8), (0.2, 8), (0.25, 8), (0.14, 7), (0.2, 7)])
def test_the_weights_take_no_more_than_asked(net: nn.Module, size: float, top: int) -> None:
    small: Any = apply(
        f"quantize('auto', size={size}, reduce_range={top == 7})", net, images(1), images()
    )
    layers = [
        (layer, layer.rounding.bits)
        for layer in small.network.modules()
        if isinstance(layer, QuantizedLayer)
        if layer.rounding is not None
    ]
    share = sum(layer_bytes(layer, bits) for layer, bits in layers) / sum(
        layer_bytes(layer, 32) for layer, _ in layers
    )
    assert size - 0.03 < share <= size
    assert len({bits for _, bits in layers[1:-1]}) > 1 and layers[0][1] == layers[-1][1] == top


def test_it_errs_less_than_the_same_bytes_spent_evenly(net: nn.Module) -> None:
    def gap(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(images()) - net(images())).square().mean())

    even: Any = apply("quantize(4, grid='uniform')", net, images(1), images())
    layers = even.layers()
    share = sum(layer_bytes(x, x.rounding.bits) for x in layers) / sum(
        layer_bytes(x, 32) for x in layers
    )
    assert gap(
        apply(f"quantize('auto', size={share}, grid='uniform')", net, images(1), images())
    ) < gap(even)


def test_noise_is_that_of_one_layer_alone(net: nn.Module) -> None:
    from lissom.surgery.quantization.bits import precision_of
    from lissom.surgery.quantization.prepare import prepare_layers

    ready = copy.deepcopy(net)
    prepare_layers(ready, images(1))
    found = noises(
        ready,
        {"blocks.1.conv1": [precision_of(bits, None, "weights", "") for bits in (8, 2)]},
        images(),
    )
    with torch.no_grad():
        plain = net(images())
        alone = apply("quantize(2, 32, only='blocks.1.conv1')", net, images(1), images())(images())
    wanted = float((alone - plain).square().mean() / plain.square().mean())
    assert found["blocks.1.conv1"][2] == pytest.approx(wanted, rel=1e-3)
    assert found["blocks.1.conv1"][8] < found["blocks.1.conv1"][2] / 100
    assert all(
        layer.rounding is None for layer in ready.modules() if isinstance(layer, QuantizedLayer)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantize('auto')", "size and drop"),
        ("quantize(4, size=0.2)", "size and drop"),
        ("quantize('auto', size=0.2, drop=0.1)", "size and drop"),
        ("quantize('auto', size=0.01)", "cannot be reached; with 2 bits"),
        ("quantize('auto', drop=0.01)", "validation images"),
        ("quantize('auto', size=0.2, only='stem')", "no layer between"),
    ],
)
def test_what_cannot_be_had_is_said(net: nn.Module, text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        apply(text, net, images(1), images())


@pytest.mark.parametrize("top", [8, 7])
def test_the_noise_of_a_layer_is_that_of_the_bits_it_gets(net: nn.Module, top: int) -> None:
    ctx = SurgeryContext(images(1), lambda count: [images(count)])
    Recipe(f"quantize('auto', size=0.25, reduce_range={top == 7})").steps[0](
        copy.deepcopy(net), ctx
    )
    mixed = ctx.facts["mixed"]
    assert all(set(row) == {str(top), "6", "5", "4", "3", "2"} for row in mixed["alone"].values())
    bits = {row["name"]: row["weights"]["bits"] for row in ctx.facts["layers"]}
    assert (
        all(bits[name] == count for name, count in mixed["bits"].items())
        and max(bits.values()) == top
    )


def test_an_allowed_loss_is_kept_to(tmp_path: Any) -> None:
    task = lissom.Task.of("resnet8", lissom.Data.of("digits", size=(8, 8)))
    (record,) = lissom.run(
        "train(4, batch=32) | quantize('auto', drop=0.02, samples=64)", task, tmp_path / "store"
    )
    facts = record["facts"]
    assert (
        record["float"]["scores"]["valid"]["top1"] - record["scores"]["valid"]["top1"]
        <= 0.02 + 1e-6
    )
    assert facts["mixed"]["share"] < 0.2 and set(facts["mixed"]["bits"].values()) <= {
        2,
        3,
        4,
        5,
        6,
        7 if saturates() else 8,
    }
    said = f"measured on {len(task.data.valid)} validation images"
    assert any(said in note for note in record["notes"]), "too few for 0.02"
    bits = {row["name"]: row["weights"]["bits"] for row in facts["layers"]}
    assert all(bits[name] == count for name, count in facts["mixed"]["bits"].items())
