"""Masks: which weights become zero, that they stay zero in training, and what is reported."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, conv, head
from torch import Tensor, nn
from torch.nn.utils import prune as oracle

import lissom
from lissom import LissomError, Recipe, Task
from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.context import Context, SurgeryContext
from lissom.language.training import TrainSettings
from lissom.learning.fit import fit
from lissom.learning.training_run import TrainingRun
from lissom.steps.mask import Mask
from lissom.surgery.fold import fold_batchnorms
from lissom.surgery.layers import CompressedConv2d, compress
from lissom.surgery.patterns import Pattern, smallest
from lissom.surgery.quantization.network import QuantizedNetwork
from lissom.surgery.sizes import sizes
from lissom.surgery.weights.mask import Mask as Transform


def images(count: int = 8, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def net(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(16)] if norm else [nn.Identity(), nn.Identity()]
    return nn.Sequential(
        conv(3, 8), norms[0], nn.ReLU(), conv(8, 16, groups=2), norms[1], nn.ReLU(), head(16)
    ).eval()


def layers(model: nn.Module) -> dict[str, Any]:
    return {k: m for k, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {k: m.weight.detach() == 0 for k, m in layers(model).items()}


def masked(text: str, model: nn.Module | None = None) -> tuple[nn.Module, Context]:
    step, x = Recipe(text).steps[0], images()
    ctx = SurgeryContext(x[:1], lambda count: [x[:count]], where=str(step))
    return step(copy.deepcopy(net() if model is None else model), ctx), ctx


def data(size: int = 8) -> Data:
    draw = torch.Generator().manual_seed(0)
    part = Images(
        torch.randint(0, 256, (24, 3, size, size), dtype=torch.uint8, generator=draw),
        torch.arange(24) % 5,
    )
    return Data(
        "tiny",
        part,
        part,
        part,
        tuple("abcde"),
        3,
        (size, size),
        (0.5,) * 3,
        (0.25,) * 3,
        False,
        "tiny",
    )


def learnt(model: nn.Module, epochs: int = 2) -> nn.Module:
    settings = TrainSettings(epochs, lr=0.05, batch=8, decay=0.1)
    fit(TrainingRun(model, data(), settings, seed=0, device=torch.device("cpu")))
    return model


# which weights


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    amount=st.floats(0.001, 0.999),
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    levels=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_exactly_the_amount_becomes_zero_smallest_and_first_ones_first(
    amount: float, shapes: Any, levels: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    # many are equal
    weights = [
        torch.randint(-levels, levels + 1, shape, generator=draw).float() for shape in shapes
    ]
    gone = torch.cat([g.flatten() for g in smallest(weights, Pattern(), amount)])
    flat = torch.cat([w.flatten() for w in weights]).abs()
    wanted = sorted(range(len(flat)), key=lambda k: (float(flat[k]), k))[
        : round(amount * len(flat))
    ]
    assert sorted(gone.nonzero().flatten().tolist()) == sorted(wanted)


@pytest.mark.parametrize("amount", [0.1, 0.35, 0.5, 0.9, 0.99])
def test_a_local_mask_is_that_of_pytorch(amount: float) -> None:
    found, ctx = masked(f"mask({amount})")
    for (name, layer), other in zip(layers(found).items(), layers(net()).values(), strict=True):
        oracle.l1_unstructured(other, "weight", amount)
        assert torch.equal(layer.weight, other.weight), name
        assert int((layer.weight == 0).sum()) == round(amount * layer.weight.numel())
    assert [g["difference"] for g in ctx.gates] == [0, 0]


@pytest.mark.parametrize("amount", [0.1, 0.35, 0.5, 0.9, 0.99])
def test_a_global_mask_is_that_of_pytorch(amount: float) -> None:
    found, other = layers(masked(f'mask({amount}, scope="global")')[0]), layers(net())
    oracle.global_unstructured(
        [(m, "weight") for m in other.values()], oracle.L1Unstructured, amount=amount
    )
    assert all(torch.equal(found[k].weight, other[k].weight) for k in found)
    assert sum(int((m.weight == 0).sum()) for m in found.values()) == round(
        amount * sum(m.weight.numel() for m in found.values())
    )


def test_a_mask_of_n_in_m_keeps_the_largest_of_neighbouring_inputs() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 8, 3, 3)
    (gone,) = smallest([weight], Pattern(4, 1, 2), 0)
    w, g = weight.numpy(), gone.numpy()
    for o, i, y, x in np.ndindex(6, 2, 3, 3):
        of = slice(4 * i, 4 * i + 4)
        assert set(np.flatnonzero(~g[o, of, y, x])) == set(np.argsort(np.abs(w[o, of, y, x]))[2:])


@pytest.mark.parametrize(
    ("text", "keep", "of"),
    [("2:4", 2, 4), ("1:4", 1, 4), ("3:4", 3, 4), ("4:8", 4, 8), ("1:2", 1, 2)],
)
def test_every_group_of_m_inputs_holds_n_weights(text: str, keep: int, of: int) -> None:
    model = nn.Sequential(
        conv(3, 16), conv(16, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    found, ctx = masked(f'mask(pattern="{text}")', model)
    for name in ("1", "5"):
        weight = layers(found)[name].weight
        counts = (weight != 0).movedim(1, -1).reshape(-1, of).sum(1)
        assert (counts == keep).all()
    assert (
        "its 3 inputs are no multiple of" in ctx.facts["left_whole"]["0"]
        and type(found[0]) is nn.Conv2d
    )
    assert ctx.facts["sparsity"]["layers"] == pytest.approx(1 - keep / of)


@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_block_goes_as_one_and_the_smallest_mean_goes_first(block: int, scope: str) -> None:
    found, ctx = masked(f'mask(0.4, scope="{scope}", pattern="block", block={block})')
    before, means, gone = layers(net()), {}, {}
    for name in ("0", "3"):
        zero = layers(found)[name].weight == 0
        blocks = zero.view(-1, block, *zero.shape[1:])
        assert torch.equal(blocks.any(1), blocks.all(1))
        gone[name] = blocks.all(1).flatten()
        means[name] = (
            before[name].weight.detach().abs().view(-1, block, *zero.shape[1:]).mean(1).flatten()
        )
    groups = [["0", "3"]] if scope == "global" else [["0"], ["3"]]
    for group in groups:
        mean, out = torch.cat([means[k] for k in group]), torch.cat([gone[k] for k in group])
        assert int(out.sum()) == round(0.4 * len(out)) and mean[out].max() <= mean[~out].min()
    assert "its 5 outputs are no multiple" in ctx.facts["left_whole"]["6.2"]


def test_a_block_does_not_reach_over_two_groups_of_filters() -> None:
    model = nn.Sequential(conv(3, 8), conv(8, 12, groups=2), head(12))
    assert (
        "its 6 outputs are no multiple of 4"
        in masked('mask(0.5, pattern="block")', model)[1].facts["left_whole"]["1"]
    )


def test_ties_are_broken_by_position() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    nn.init.constant_(model[1].weight, 0.5)
    weight = masked("mask(0.25)", model)[0][1].weight.flatten()
    assert (weight[:96] == 0).all() and (weight[96:] != 0).all()


# which layers


def test_only_and_keep_choose_layers_by_name() -> None:
    def chosen(text: str) -> list[str]:
        return [row["name"] for row in masked(text)[1].facts["masked"]]

    assert chosen("mask(0.5)") == ["0", "3", "6.2"]
    assert chosen("mask(0.5, only='6.*')") == ["6.2"] and chosen("mask(0.5, only='3, 0')") == [
        "0",
        "3",
    ]
    assert chosen("mask(0.5, keep='6.*,0')") == ["3"] and chosen(
        "mask(0.5, only='?', keep='3')"
    ) == ["0"]
    assert masked("mask(0.5, keep='0')")[1].facts["left_whole"] == {"0": "it was not chosen"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "mask(0.5, only='stemm')",
            "only: no layer is called 'stemm'; did you mean 'stem'? There are: ",
        ),
        ("mask(0.5, keep='stem, lst*')", "keep: no layer is called 'lst*'; did you mean 'last'?"),
        ("mask(0.5, only='bn')", "no layer is called 'bn'"),
        ("mask(0.5, keep='*')", "no weight can be set to zero (stem: it was not chosen; body: "),
        (
            "mask(pattern='3:7')",
            "no weight can be set to zero (stem: its 3 inputs are no multiple of 7",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest(text: str, said: str) -> None:
    model = Net(
        lambda n, x: n.last(n.bn(n.body(n.stem(x))).mean((2, 3))),
        stem=conv(3, 8),
        body=conv(8, 8),
        bn=nn.BatchNorm2d(8),
        last=nn.Linear(8, 5),
    )
    with pytest.raises(LissomError) as caught:
        masked(text, model)
    assert said in str(caught.value)


class Own(nn.Conv2d):
    """A convolution of the user's own, which is none alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


def test_layers_that_cannot_hold_zeros_are_left_with_the_reason() -> None:
    model = Net(
        lambda n, x: F.linear(n.up(n.normed(n.own(n.plain(x)))).mean((2, 3)), n.read.weight),
        plain=conv(3, 4),
        own=Own(4, 4, 1),
        normed=nn.utils.parametrizations.weight_norm(conv(4, 4)),
        up=nn.ConvTranspose2d(4, 4, 2),
        read=nn.Linear(4, 5),
        unused=nn.Linear(4, 4),
    )
    found, ctx = masked("mask(0.5)", model)
    left = ctx.facts["left_whole"]
    assert [row["name"] for row in ctx.facts["masked"]] == ["plain", "normed", "up"] and type(
        found.own
    ) is Own
    assert left["own"] == "Own, whose forward also calls tanh"
    assert "not called as a layer" in left["read"] and "not called as a layer" in left["unused"]


def test_layers_that_share_a_weight_are_masked_together_or_not_at_all() -> None:
    def shared(other: nn.Module) -> tuple[Any, Context]:
        model = Net(
            lambda n, x: n.other(F.relu(n.one(x))).mean((2, 3)), one=conv(3, 3), other=other
        )
        model.other.weight = model.one.weight
        return masked("mask(0.5)", Net(lambda n, x: n.two(n.first(x)), first=conv(3, 3), two=model))

    found, ctx = shared(conv(3, 3))
    assert (
        type(found.two.one) is type(found.two.other) is CompressedConv2d
        and found.two.one.weight is found.two.other.weight
    )
    assert [row["name"] for row in ctx.facts["masked"]] == ["first", "two.one"]
    assert "tanh" in shared(Own(3, 3, 3, padding=1))[1].facts["left_whole"]["two.other"]
    assert (
        "a layer of another kind"
        in shared(Own(3, 3, 3, padding=1))[1].facts["left_whole"]["two.one"]
    )


# zeros stay


@pytest.mark.parametrize(
    "text",
    ["mask(0.7)", "mask(0.7, scope='global')", "mask(0.5, pattern=block)", "mask(pattern='1:2')"],
)
def test_zeros_stay_zero_while_the_network_learns_and_all_else_moves(text: str) -> None:
    model = masked(text)[0]
    before, was = zeros(model), copy.deepcopy(model.state_dict())
    learnt(model)
    for name, gone in zeros(model).items():
        assert torch.equal(gone, before[name]), name
        assert (
            not gone.all()
            and (layers(model)[name].weight != was[f"{name}.weight"])[~gone].float().mean() > 0.9
        )


def test_a_mask_multiplies_in_training_and_is_not_there_in_inference() -> None:
    layer: Any = nn.Linear(6, 4)
    compress(layer).add_transform(Transform())
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    assert not list(layer.eval().named_buffers()) and set(layer.state_dict()) == {"weight", "bias"}
    layer.train()
    assert [k for k, _ in layer.named_buffers()] == ["mask.mask"] and set(layer.state_dict()) == {
        "weight",
        "bias",
    }
    with torch.no_grad():
        layer.weight += 1  # whatever happens to a zero, it is not used
    x = torch.randn(3, 6)
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer(x), F.linear(x[:, 1::2], layer.weight[:, 1::2], layer.bias))
    assert (layer.weight.grad[:, ::2] == 0).all() and (layer.weight.grad[:, 1::2] != 0).all()
    again = copy.deepcopy(layer)
    torch.testing.assert_close(again(x), layer(x), rtol=0, atol=0)


def test_a_mask_begins_where_a_parent_goes_to_training() -> None:
    model = masked("mask(0.5)")[0]
    assert all(not hasattr(m.mask, "mask") for m in layers(model).values())
    model.train()
    assert all(torch.equal(m.mask.mask, m.weight != 0) for m in layers(model).values())
    model.to(torch.float64).to(memory_format=torch.channels_last)
    assert all(m.mask.mask.dtype == torch.bool for m in layers(model).values())
    moved = layers(copy.deepcopy(model).to("meta")).values()
    assert all(m.mask.mask.device == m.weight.device == torch.device("meta") for m in moved)
    model.eval()
    assert all(not hasattr(m.mask, "mask") for m in layers(model).values())


def test_half_precision_keeps_the_zeros() -> None:
    model = masked("mask(0.5)")[0].train()
    before = zeros(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images()).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(gone, before[name]) for name, gone in zeros(model).items())


def test_a_second_mask_only_adds_zeros() -> None:
    once = masked("mask(0.3)")[0]
    twice = masked("mask(0.6)", learnt(copy.deepcopy(once)))[0]
    for name, gone in zeros(twice).items():
        assert (gone | ~zeros(once)[name]).all() and int(gone.sum()) == round(0.6 * gone.numel())
    mixed = masked("mask(pattern='1:2', only='3')", once)[0]
    assert (zeros(mixed)["3"] | ~zeros(once)["3"]).all()
    with pytest.raises(LissomError, match="no weight can be set to zero"):
        masked("mask(0.3)", once)


def test_zeros_survive_folding_quantizing_and_quantization_aware_training() -> None:
    model = masked("mask(0.6)")[0]
    before = zeros(model)
    fold_batchnorms(model, images(1))
    assert all(torch.equal(gone, before[name]) for name, gone in zeros(model).items())
    small: Any = lissom.apply("mask(0.6) | quantize(8)", net(), images(1), images())
    assert isinstance(small, QuantizedNetwork) and len(small.layers()) == 3
    weights = {k: m.weight.detach().clone() for k, m in layers(small.network).items()}
    learnt(small)
    for name, layer in layers(small.network).items():
        assert torch.equal(layer.weight == 0, before[name]) and not torch.equal(
            layer.weight, weights[name]
        )
        with torch.no_grad():
            assert (layer.in_inference()[0][before[name]] == 0).all()


def test_what_was_not_masked_is_not_held_after_quantizing() -> None:
    small: Any = lissom.apply("mask(0.5, only='0') | quantize(8)", net(), images(1), images())
    assert {k: "mask" in m.transforms for k, m in layers(small.network).items()} == {
        "0": True,
        "3": False,
        "6.2": False,
    }
    with torch.no_grad():
        small.network[3].weight[:, 0] = 0
    learnt(small)
    moved = (small.network[3].weight[:, 0] != 0).flatten(1).all(1)
    assert moved.any() and (small.network[0].weight == 0).float().mean() == 0.5


# with other steps, and on disk


@pytest.mark.parametrize(
    "recipe", ["mask(0.5)", "mask(pattern='2:4')", "mask(0.5) | fold", "mask(0.5) | quantize(8)"]
)
def test_a_masked_network_comes_back_bit_equal_and_goes_on_holding_zeros(
    recipe: str, tmp_path: Path
) -> None:
    small, _ = lissom.apply(recipe, net(), images(1), images(), notes=True)
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, net())
    with torch.no_grad():
        assert torch.equal(again(images(3)), small(images(3)))
    assert [type(m) for m in again.modules()] == [type(m) for m in small.modules()]
    before = zeros(again)
    assert sum(int(gone.sum()) for gone in before.values()) > 50
    learnt(again)
    assert all(torch.equal(gone, before[name]) for name, gone in zeros(again).items())


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16), nn.ReLU(), head(16)
    ).eval()


def test_pruning_a_masked_network_takes_the_zeros_along(tmp_path: Path) -> None:
    model = chain()
    small: Any = lissom.apply("mask(0.5) | prune(0.5)", model, images(1), images())
    assert all(list(m.transforms) == ["mask"] for m in layers(small).values())
    masks, kept = zeros(masked("mask(0.5)", model)[0]), small[0].kept
    assert small[0].out_channels == 8 and torch.equal(zeros(small)["0"], masks["0"][kept])
    assert torch.equal(zeros(small)["3"], masks["3"][small[3].kept][:, kept])
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, chain())
    with torch.no_grad():
        assert torch.equal(again(images()), small(images()))
    before = zeros(again)
    learnt(again)
    assert all(torch.equal(gone, before[name]) for name, gone in zeros(again).items())


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
@pytest.mark.parametrize("recipe", ["mask(0.5)", "mask(0.5) | quantize(8)"])
def test_an_exported_masked_network_answers_the_same(
    target: str, recipe: str, tmp_path: Path
) -> None:
    from lissom.running.plan import one_target

    small = lissom.apply(recipe, net(), images(1), images())
    path = lissom.export(small, target, tmp_path / "net", (3, 8, 8))
    found = one_target(target).load(path, 1)(images().numpy())
    with torch.no_grad():
        np.testing.assert_allclose(
            found, small(images()).numpy(), rtol=1e-3, atol=0.02 if "quantize" in recipe else 1e-5
        )


def test_a_recipe_with_masks_runs_and_its_record_says_how_many_weights_are_zero(
    tmp_path: Path,
) -> None:
    recipe = "train(1) | 2 * mask(0.5, keep='0')"
    task = Task(net, data())
    # found before the first epoch
    with pytest.raises(LissomError, match="no weight can be set to zero"):
        lissom.run(recipe, task, tmp_path)
    assert not list(tmp_path.rglob("record.json"))
    (record,) = lissom.run(
        "mask(0.5) | train(1) | mask(0.8) | train(1) | quantize(8) | train(1)", task, tmp_path
    )
    model = lissom.running.execute.Run(task, lissom.Store(tmp_path)).load(record["key"])
    assert all(
        float(gone.float().mean()) == pytest.approx(0.8, abs=0.01) for gone in zeros(model).values()
    )


# what is said


def test_the_record_counts_zeros_and_bytes() -> None:
    model, ctx = masked("mask(0.5, keep='6.*')")
    whole, held = sum(p.numel() for p in model.parameters()), 216 + 576
    assert ctx.facts["masked"] == [
        {"name": "0", "weights": 216, "zeros": 108, "sparsity": 0.5},
        {"name": "3", "weights": 576, "zeros": 288, "sparsity": 0.5},
    ]
    assert ctx.facts["sparsity"] == {
        "layers": 0.5,
        "network": pytest.approx(held / 2 / whole, abs=1e-6),
    }
    assert ctx.facts["dense_bytes"] == 4 * whole
    assert ctx.facts["packed_bytes"] == 4 * (whole - held // 2) + held // 8
    (note,) = ctx.notes
    assert (
        "latency does not change" in note
        and f"shrink to {ctx.facts['packed_bytes']} only once packed" in note
    )


@pytest.mark.parametrize(
    "recipe", ["mask(0.7)", "mask(0.5, pattern='block')", "mask(pattern='2:4')"]
)
def test_one_packer_counts_bytes(recipe: str) -> None:
    model, ctx = masked(recipe)
    assert ctx.facts["packed_bytes"] == sizes(model)["packed_bytes"] < ctx.facts["dense_bytes"]


def test_zeros_are_shown_for_each_layer_after_later_steps_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lissom.cli.main import main
    from lissom.report.page import page_data
    from lissom.report.zeros import zeros_of
    from lissom.store.store import Store

    (record,) = lissom.run(
        "mask(0.7, scope='global', keep='6.*') | train(1) | quantize(8)",
        Task(net, data()),
        tmp_path,
    )
    store = Store(tmp_path)
    found = zeros_of(store.record(record["key"]), store)
    assert found is not None and [row["name"] for row in found["layers"]] == ["0", "3"]
    assert page_data([store.record(record["key"])], store)["runs"][record["key"]]["zeros"] == found
    with pytest.raises(SystemExit, match="0"):
        main(["show", record["key"], "--store", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "69.9% of the weights of 2 layers are zero" in shown and "most in " in shown
    for row in found["layers"]:
        assert re.search(
            rf"{row['name']} +{row['weights']} +{row['zeros']} +{row['sparsity']:.1%}", shown
        )
    assert re.search(r"left whole: 6\.\S+: it was not chosen", shown)
    assert zeros_of(store.record(record["float"]["key"]), store) is None


def test_a_layer_without_weights_is_named() -> None:
    model = net()
    with torch.no_grad():
        model[3].weight *= 1e-3
    assert "every weight is zero in 3" in masked("mask(0.7, scope='global')", model)[1].notes[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mask", "step 1, mask: the amount is missing, as in mask(0.5)"),
        ("mask(pattern=block)", "the amount is missing"),
        (
            "mask(0.4, pattern='2:4')",
            "2:4 is an amount of 0.5, and 0.4 was given; leave the amount out",
        ),
        (
            "mask(0.5, pattern='4:2')",
            "mask(pattern=...): expected 'element', 'block' or N:M with N below M below 100, "
            "as in '2:4', got '4:2'",
        ),
        ("mask(0.5, pattern='2:2')", "got '2:2'"),
        ("mask(0.5, pattern='0:4')", "got '0:4'"),
        ("mask(0.5, pattern='02:4')", "got '02:4'"),
        ("mask(0.5, pattern='2:400')", "got '2:400'"),
        ("mask(0.5, pattern='elements')", "got 'elements'"),
        ("mask(1)", "expected a value < 1, got "),
        ("mask(0)", "expected a value > 0, got "),
        (
            "quantize(8) | mask(0.5)",
            "step 2, mask(0.5): the weights are quantized already; mask before quantize",
        ),
    ],
)
def test_what_cannot_be_a_mask_is_refused_when_the_recipe_is_read(text: str, said: str) -> None:
    with pytest.raises(LissomError) as caught:
        Recipe(text)
    assert said in str(caught.value)


def test_an_amount_that_agrees_with_the_pattern_may_be_given() -> None:
    assert Recipe("mask(0.75, pattern='1:4')").steps == (Mask(0.75, pattern="1:4"),)


@pytest.mark.parametrize("step", [Mask(), Mask(0.4, pattern="2:4")])
def test_a_step_made_by_hand_is_refused_as_well(step: Mask) -> None:
    with pytest.raises(LissomError, match="amount"):
        step(net(), SurgeryContext(images(1), lambda _: [images()], where="mask"))


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    with pytest.raises(LissomError, match="NaN or infinity"):
        masked("mask(0.5)", model)


@pytest.mark.parametrize("pattern", ["block", "1:2"])
def test_a_global_mask_that_fits_no_layer_is_one_clear_line(pattern: str) -> None:
    model = nn.Sequential(conv(3, 5), head(5))
    with pytest.raises(LissomError, match=r"no weight can be set to zero \(0: its .* no multiple"):
        masked(f'mask({0.5}, scope="global", pattern="{pattern}")', model)
    assert smallest([], Pattern(), 0.5) == []
