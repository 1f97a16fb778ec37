"""Errors and notes of quantization and folding: settings without effect, NaN, layers left in float."""

from __future__ import annotations

import pytest
import torch
from networks import Net, chain, conv, images, seasoned
from torch import nn

from lissom import LissomError, apply
from lissom.language.context import SurgeryContext
from lissom.language.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('quantize("binary", grid="ternary")', 'weights of "binary" are a grid of their own'),
        ('quantize("ternary", grid="dorefa")', 'weights of "ternary" are a grid of their own'),
        ('quantize(8, "binary", inputs_grid="lsq")', 'inputs of "binary" are a grid of their own'),
        (
            'quantize(8, "dynamic", inputs_grid="uniform")',
            'inputs of "dynamic" are a grid of their own',
        ),
        ('quantize(8, 32, inputs_grid="pact")', "inputs of 32 bits are not rounded"),
        ('quantize(8, 32, range="mse")', "inputs of 32 bits are not rounded"),
        ('quantize(32, 8, grid="pow2")', "weights of 32 bits are not rounded"),
        ("quantize(32, 8, correct=True)", "weights of 32 bits are not rounded"),
        ('quantize(32, 8, rounding="learned")', "weights of 32 bits are not rounded"),
        ("quantize(8, steps=100)", "the nearest value needs none"),
        ("quantize(4, reduce_range=True, first=32, last=32)", "no layer has integers of 8 bits"),
        ("quantize(8, 32, reduce_range=True)", "no layer has integers of 8 bits"),
        ("quantize(8) | fold", "batch-norm is in the quantized layers already"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Recipe(text)


@pytest.mark.parametrize(
    "text",
    [
        'quantize("binary", "binary", grid="binary(scale=False)", inputs_grid="binary(zero=True)")',
        'quantize(4, grid="pact")',
        'quantize("ternary", 4, inputs_grid="lsq")',
        'quantize(32, 8, grid="uniform")',
        'quantize(8, inputs_grid="dynamic")',
        "quantize(4, first=4)",
        "quantize(8, first=4)",
        "quantize(4, reduce_range=True)",
        "quantize('auto', 32, size=0.2, samples=64)",
        "quantize(4, 32, rounding='learned', steps=9, samples=64)",
        "quantize(8, reduce_range=False)",
        "quantize('binary', first=32)",
    ],
)
def test_settings_that_count_are_taken(text: str) -> None:
    Recipe(text)


def test_weights_that_meet_floats_keep_their_8_bits_on_any_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.surgery.quantization.bits.saturates", lambda: True)
    for recipe, bits in (
        ("quantize(8, 32)", {8}),
        ("quantize('ternary', 32)", {2, 8}),
        ("quantize('auto', 32, size=0.24)", {8, 6}),
        ("quantize(8)", {7}),
        ("quantize(8, 'dynamic')", {7}),
    ):
        ctx = SurgeryContext(images(1), lambda count: [images(8)])
        Recipe(recipe).steps[0](chain(), ctx)
        assert {row["weights"]["bits"] for row in ctx.facts["layers"]} - {32} == bits, recipe
        assert bool([note for note in ctx.notes if "became 7" in note]) == (bits == {7})


def test_learned_rounding_of_no_layer_is_an_error() -> None:
    with pytest.raises(LissomError, match="no layer has weights of equal steps"):
        apply(
            'quantize("ternary", first=32, last=32, rounding="learned", steps=2)',
            chain(),
            images(1),
            images(8),
        )


@pytest.mark.parametrize("recipe", ["quantize(8)", "fold", "equalize", "cast('bf16')"])
@pytest.mark.parametrize("what", ["running_mean", "running_var", "weight"])
def test_numbers_that_are_none_are_named(recipe: str, what: str) -> None:
    net = seasoned()
    norm = next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    getattr(norm, what).data[0] = float("nan" if what == "running_var" else "inf")
    with pytest.raises(LissomError, match=rf"{what} holds NaN or infinity"):
        apply(recipe, net, images(1), images(8))


@pytest.mark.parametrize("recipe", ["quantize(8)", "fold"])
def test_images_that_are_no_numbers_are_not_called_a_bug(recipe: str) -> None:
    given = images(8)
    given[3, 0, 0, 0] = float("nan")
    with pytest.raises(
        LissomError,
        match=r"NaN or infinity on the calibration images|NaN or "
        r"infinite",
    ) as raised:
        apply(recipe, seasoned(), images(1), given)
    assert "bug" not in str(raised.value)


def test_all_that_stays_float_is_named() -> None:
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(s.mix(s.table.weight[:8] + s.stem(x).mean((2, 3))[:, None])[0].mean(1)),
        stem=conv(3, 8),
        table=nn.Embedding(9, 8),
        mix=nn.LSTM(8, 8, batch_first=True),
        head=nn.Linear(8, 4),
    ).eval()
    ctx = SurgeryContext(images(1), lambda count: [images(8)])
    Recipe("quantize(8)").steps[0](net, ctx)
    assert ctx.facts["left_float"] == {
        "table": "it is not called as a layer",
        "mix": "LSTM multiplies by its weights within its own operation, not in layers",
    }


def notes(recipe: str, count: int, net: nn.Module | None = None) -> list[str]:
    ctx = SurgeryContext(images(1), lambda _: [images(count)])
    Recipe(recipe).steps[0](net or seasoned(), ctx)
    return ctx.notes


def test_ranges_that_cannot_be_known_to_have_settled_are_said_once() -> None:
    assert sum("ranges of one image" in note for note in notes("quantize(8)", 1)) == 1
    assert not [note for note in notes("quantize(8)", 32) if "one image" in note]


def test_rounding_that_loses_the_network_is_said() -> None:
    assert [
        n
        for n in notes("quantize('ternary', grid='ternary(scale=False)')", 32)
        if "moved the outputs by" in n
    ]
    assert not [n for n in notes("quantize('ternary')", 32) if "moved the outputs by" in n]


def test_folding_nothing_is_said() -> None:
    assert ["nothing was folded" in note for note in notes("fold", 8, chain())] == [True]


def test_layers_that_stay_float_are_named_in_the_order_of_the_network() -> None:
    net = seasoned()
    ctx = SurgeryContext(images(1), lambda _: [images(32)])
    Recipe('quantize(8, "dynamic")').steps[0](net, ctx)
    names = list(ctx.facts["left_float"])
    assert len(names) > 5
    assert names == [name for name, _ in net.named_modules() if name in names]
