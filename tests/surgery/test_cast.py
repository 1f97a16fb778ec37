"""Weights stored in 16 bits: their values, what stays unchanged, that they train, and which steps
may follow.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, conv
from networks import grouped as fresh
from networks import grouped_and_seen as net
from torch import Tensor, nn

import lissom
from lissom import LissomError, Recipe, apply
from lissom.language.context import Context, SurgeryContext
from lissom.surgery.fold import fold_batchnorms
from lissom.surgery.layers import CompressedLayer, bake_transforms, compress
from lissom.surgery.weights.cast import Cast, kinds_of, rounded

KINDS = ["bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cast(text: str, model: nn.Module) -> tuple[Any, Context]:
    step = Recipe(text).steps[0]
    ctx = SurgeryContext(images(1), lambda count: [images()[:count]], where=str(step))
    return step(copy.deepcopy(model), ctx), ctx


def is_cast(layer: nn.Module) -> bool:
    return isinstance(layer, CompressedLayer) and "cast" in layer.transforms


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


def nearest(value: float, kind: str) -> float:
    """Round to the nearest of 16 bits in arithmetic of whole numbers, of two as near the even one."""
    if value == 0:
        return 0.0
    digits, least = (8, -126) if kind == "bf16" else (11, -14)
    power = max(int(np.floor(np.log2(abs(value)))), least)
    step = 2.0 ** (power - digits + 1)
    return float(np.rint(value / step) * step)


# which values


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=st.floats(-60000, 60000, width=32))
def test_a_weight_is_rounded_to_the_nearest_of_16_bits(kind: Any, value: float) -> None:
    if 0 < abs(value) < 1e-37:
        value = 0.0
    assert float(rounded(torch.tensor([value]), kind)) == nearest(value, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_with_its_rounded_weights_and_nothing_else_changes(kind: str) -> None:
    plain = net()
    fold_batchnorms(plain, images(1))
    small, ctx = cast(f"cast('{kind}')", net())
    for layer in plain.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.data = layer.weight.data.to(TYPES[kind]).float()
    assert torch.equal(outputs(small), outputs(plain))
    assert (
        0
        < float((outputs(small) - outputs(net())).abs().max())
        < 0.02 * float(outputs(net()).abs().max())
    )
    assert (
        ctx.facts["cast"] == ["0", "3", "6.2"]
        and ctx.facts["left_float"] == {}
        and ctx.facts["folded"] == ["0", "3"]
    )
    assert [g["name"] for g in ctx.gates] == ["folded = unfolded"]
    assert is_cast(small[0]) and is_cast(small[6][2]) and isinstance(small[1], nn.Identity)
    assert all(p.dtype == torch.float32 for p in small.parameters())


def test_fp16_loses_less_than_bf16() -> None:
    plain = outputs(net())
    off = [
        float((outputs(cast(f"cast('{kind}')", net())[0]) - plain).abs().max()) for kind in KINDS
    ]
    assert off[1] < off[0] / 4


# what is left alone


def test_only_and_keep_choose_layers() -> None:
    small, ctx = cast("cast('bf16', keep='6.*')", net())
    assert ctx.facts["cast"] == ["0", "3"] and ctx.facts["left_float"] == {
        "6.2": "it was not chosen"
    }
    assert type(small[6][2]) is nn.Linear
    _, ctx = cast("cast('bf16', only='3')", net())
    assert ctx.facts["cast"] == ["3"] and set(ctx.facts["left_float"]) == {"0", "6.2"}
    with pytest.raises(LissomError, match=r"no layer is called 'stem'.*There are: 0, 3, 6\.2"):
        cast("cast('bf16', keep='stem')", net())


def test_layers_that_cannot_be_are_named_with_the_reason() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = Net(
        lambda s, x: (
            F.linear(s.up(s.own(x)).flatten(1), s.bare.weight) @ s.raw.weight + s.two(x).mean()
        ),
        own=Own(3, 4, 1),
        up=nn.ConvTranspose2d(4, 4, 1),
        bare=nn.Linear(256, 5),
        raw=nn.Linear(5, 5),
        two=conv(3, 2),
    )
    _, ctx = cast("cast('bf16')", model.eval())
    assert ctx.facts["cast"] == ["up", "two"] and set(ctx.facts["left_float"]) == {
        "own",
        "bare",
        "raw",
    }
    assert (
        "Own" in ctx.facts["left_float"]["own"]
        and "not called as a layer" in ctx.facts["left_float"]["bare"]
    )


def test_a_weight_that_an_embedding_shares_is_rounded_for_both(tmp_path: Path) -> None:
    model = Net(
        lambda s, x: s.out(s.words((x[:, 0, 0] > 0).long())) + s.more(x).mean(),
        words=nn.Embedding(2, 6),
        out=nn.Linear(6, 2),
        more=conv(3, 2),
    )
    model.out.weight = model.words.weight
    small, ctx = cast("cast('bf16')", model.eval())
    assert ctx.facts["cast"] == ["words", "more"] and is_cast(small.words) and is_cast(small.out)
    assert small.words.weight is small.out.weight
    lissom.save(small, tmp_path)
    assert torch.equal(outputs(lissom.load(tmp_path, copy.deepcopy(model))), outputs(small))


def test_layers_that_share_a_weight_go_on_sharing_it() -> None:
    model = Net(lambda s, x: s.two(s.one(x)).mean((2, 3)), one=conv(3, 3), two=conv(3, 3))
    model.two.weight = model.one.weight
    small, ctx = cast("cast('bf16')", model.eval())
    assert ctx.facts["cast"] == ["one"] and is_cast(small.one) and is_cast(small.two)
    wanted = outputs(small)
    assert kinds_of(small) == {"bf16"}
    bake_transforms(small)
    assert (
        not kinds_of(small)
        and small.one.weight is small.two.weight
        and type(small.two) is nn.Conv2d
    )
    assert torch.equal(outputs(small), wanted)


@pytest.mark.parametrize("value", [65505.0, -1e6])
def test_a_weight_that_fp16_does_not_hold_is_an_error_that_names_the_layer(value: float) -> None:
    model = net()
    model[6][2].weight.data[0, 0] = value
    with pytest.raises(LissomError, match=r"6\.2 has a weight of .* 65504; bf16 holds it"):
        cast("cast('fp16')", model)
    assert "6.2" in cast("cast('bf16')", model)[1].facts["cast"]
    assert cast("cast('fp16', keep='6.2')", model)[1].facts["cast"] == ["0", "3"]
    model[6][2].weight.data[0, 0] = 65504.0 if value > 0 else -65504.0
    assert torch.isfinite(outputs(cast("cast('fp16')", model)[0])).all()


@pytest.mark.parametrize("recipe", ["cast('bf16', keep='*')", "cast('fp16', only='0', keep='0')"])
def test_casting_nothing_is_an_error(recipe: str) -> None:
    with pytest.raises(
        LissomError, match=r"no layer can be stored in 16 bits \(0: it was not chosen"
    ):
        cast(recipe, net())
    with pytest.raises(LissomError, match="there are none"):
        cast("cast('bf16')", nn.Sequential(nn.ReLU(), nn.Flatten()))


def test_weights_that_are_no_numbers() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4)).eval()
    model[2].weight.data[0] = float("nan")
    with pytest.raises(LissomError, match="NaN"):
        cast("cast('bf16')", model)


def test_weights_of_16_bits_keep_their_values() -> None:
    half = nn.Sequential(conv(3, 4)).to(torch.bfloat16).eval()
    weight = half[0].weight.detach().float()
    ctx = SurgeryContext(images(1).bfloat16(), lambda count: [images().bfloat16()])
    small: Any = Recipe("cast('bf16')").steps[0](half, ctx)
    assert is_cast(small[0]) and torch.equal(rounded(small[0].weight, "bf16"), weight)
    assert any("float32" in note for note in ctx.notes)


# learning


@pytest.mark.parametrize("kind", KINDS)
def test_small_steps_add_up_in_float32_and_what_is_computed_with_is_rounded(kind: str) -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data.fill_(1.0)
    compress(layer).add_transform(Cast(kind))  # type: ignore[arg-type]
    layer.train()
    step = 2.0**-13  # less than half of what either can add to 1
    seen = []
    for _ in range(40):
        layer.weight.grad = None
        out = layer(torch.ones(1, 4))
        out.sum().backward()
        assert torch.equal(layer.weight.grad, torch.ones(1, 4)), (
            "the gradient is that of the weight itself"
        )
        seen.append(float(out.detach()) / 4)
        layer.weight.data += step * layer.weight.grad
    assert float(layer.weight.detach()[0, 0]) == 1 + 40 * step
    assert seen[0] == 1.0 and seen[1] == 1.0 and seen[-1] > 1.0
    assert all(v == nearest(v, kind) for v in seen)


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_what_is_saved_comes_back(kind: str, tmp_path: Path) -> None:
    small, _ = cast(f"cast('{kind}')", net())
    before = float(outputs(small).square().mean())
    train(small, 20)
    assert float(outputs(small).square().mean()) < 0.5 * before
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, fresh())
    assert torch.equal(outputs(again), outputs(small))
    assert [type(m) for m in again.modules()] == [type(m) for m in small.modules()]
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), small.parameters(), strict=True)
    )
    assert all(m.kind == kind for m in again.modules() if isinstance(m, Cast))
    train(again, 2)
    train(small, 2)
    assert torch.equal(outputs(again), outputs(small)), "what was loaded learns as what was saved"


def train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
    model.eval()


def test_training_and_inference_compute_with_the_same_weights() -> None:
    small, _ = cast("cast('fp16')", net())
    weight = small[3].weight
    trained, used = small.train()[3].transformed(), small.eval()[3].transformed()
    assert torch.equal(trained, used) and not torch.equal(used, weight)


# with masks, quantize, prune and others


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_layer_keeps_its_zeros(kind: str, tmp_path: Path) -> None:
    small = apply(f"mask(0.6) | cast('{kind}')", net(), images(1), images())
    layers = [m for m in small.modules() if is_cast(m)]
    zeros = [m.weight.detach() == 0 for m in layers]
    assert (
        len(layers) == 3
        and all(list(m.transforms) == ["mask", "cast"] for m in layers)
        and 0.55 < float(zeros[1].float().mean()) < 0.65
    )
    lissom.save(small, tmp_path)
    for model in (small, lissom.load(tmp_path, fresh())):
        train(model, 3)
        for layer, zero in zip([m for m in model.modules() if is_cast(m)], zeros, strict=True):
            assert (
                torch.equal(layer.weight.detach() == 0, zero)
                and not layer.transforms["mask"]._buffers
            )
            assert bool((layer.transformed()[zero] == 0).all())
    assert set(small.state_dict()) == set(apply("mask(0.6) | fold", net(), images(1)).state_dict())


def test_quantize_takes_the_values_on() -> None:
    plain = net()
    fold_batchnorms(plain, images(1))
    for layer in plain.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.data = layer.weight.data.bfloat16().float()
    wanted = outputs(apply("quantize(4)", plain, images(1), images()))
    assert torch.equal(
        outputs(apply("cast('bf16') | quantize(4)", net(), images(1), images())), wanted
    )
    found: Any = apply("mask(0.6) | cast('bf16') | quantize(8)", net(), images(1), images())
    assert all("mask" in layer.transforms for layer in found.layers())
    zeros = [layer.weight.detach() == 0 for layer in found.layers()]
    train(found, 2)
    assert all(
        torch.equal(layer.weight.detach() == 0, zero)
        for layer, zero in zip(found.layers(), zeros, strict=True)
    )


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        ("quantize(8)", "cast('bf16')", "integers"),
        ("cast('bf16')", "cast('fp16')", "16 bits already"),
        ("cast('bf16')", "prune(0.5)", "prune before cast"),
        ("cast('bf16')", "mask(0.5)", "mask before cast"),
    ],
)
def test_what_cannot_follow_is_one_clear_line(one: str, two: str, says: str) -> None:
    with pytest.raises(LissomError, match=says):
        apply(f"{one} | {two}", net(), images(1), images())
    between = apply(one, net(), images(1), images())
    with pytest.raises(LissomError, match=says):
        apply(two, between, images(1), images())


def test_a_pruned_network_is_cast_and_saved(tmp_path: Path) -> None:
    small: Any = apply("prune(0.5, multiple=1) | cast('fp16')", net(), images(1), images())
    assert small[0].out_channels == 4
    lissom.save(small, tmp_path)
    assert torch.equal(outputs(lissom.load(tmp_path, fresh())), outputs(small))


def test_features_of_a_cast_network_are_found_and_compared() -> None:
    from lissom.distillation.features import compared_places

    cut = apply("prune(0.5, multiple=1)", net(), images(1), images())
    wanted = compared_places(cut, net(), images(1), None, "distill")
    found = compared_places(
        apply("cast('bf16')", cut, images(1), images()), net(), images(1), None, "distill"
    )
    assert {p.how for p in wanted} != {"adapter"} and [p.how for p in found] == [
        p.how for p in wanted
    ]
