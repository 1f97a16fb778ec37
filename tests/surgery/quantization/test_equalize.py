"""Equalized networks give the same outputs, with equal ranges on both sides; other layers stay
unchanged.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, conv, head
from torch import Tensor, nn

import lissom
from lissom import LissomError, apply
from lissom.language.context import SurgeryContext
from lissom.language.menu import menu
from lissom.models import factory
from lissom.surgery.quantization.equalize import equalize_pairs, pairs


def images(count: int = 8, channels: int = 4, side: int = 8) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def uneven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give filters and inputs ranges that differ by a hundred, biases and norms numbers that matter."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw))
                for axis in (0, 1):
                    shape = [-1 if a == axis else 1 for a in range(layer.weight.ndim)]
                    layer.weight *= 10 ** torch.empty(layer.weight.shape[axis]).uniform_(
                        -1, 1, generator=draw
                    ).view(shape)
                if layer.bias is not None:
                    layer.bias.copy_(torch.randn(layer.bias.shape, generator=draw))
            elif isinstance(layer, nn.BatchNorm2d):
                layer.running_var.uniform_(0.5, 2, generator=draw)  # type: ignore[union-attr]
                layer.running_mean.uniform_(-1, 1, generator=draw)  # type: ignore[union-attr]
    return model.eval()


def names(model: nn.Module, x: Tensor | None = None) -> list[tuple[str, str]]:
    return [(p.first, p.second) for p in pairs(model, images() if x is None else x)]


def made(layer: Any) -> Tensor:
    """Return the range of each filter (out), the plain way."""
    return torch.stack([filter.detach().abs().max() for filter in layer.weight])


def read(layer: Any) -> Tensor:
    """Return the range of what reads each input (in), the plain way."""
    if isinstance(layer, nn.Linear):
        return torch.stack([column.abs().max() for column in layer.weight.detach().T])
    found, per = [], layer.in_channels // layer.groups
    for i in range(layer.in_channels):
        group, place = divmod(i, per)
        found.append(layer.weight.detach().chunk(layer.groups)[group][:, place].abs().max())
    return torch.stack(found)


def check(
    model: nn.Module, wanted: list[tuple[str, str]], x: Tensor | None = None, sweeps: int = 200
) -> Any:
    """Equalize in float64: just the pairs wanted are found, outputs stay, and both ranges of each
    pair are equal.
    """
    x = (images() if x is None else x).double()
    model = uneven(model).double()
    found = pairs(model, x)
    assert [(p.first, p.second) for p in found] == wanted
    after = copy.deepcopy(model)
    rows = equalize_pairs(after, found, sweeps)
    assert [tuple(row[:2]) for row in rows] == wanted and all(row[2] >= 1 for row in rows)
    with torch.no_grad():
        torch.testing.assert_close(after(x), model(x), rtol=1e-9, atol=1e-9)
    for pair in found:
        one, two = after.get_submodule(pair.first), after.get_submodule(pair.second)
        repeat = len(read(two)) // len(made(one))  # inputs that a channel has after flattening
        torch.testing.assert_close(read(two).view(-1, repeat).amax(1), made(one), rtol=1e-2, atol=0)
    moved = {name for pair in wanted for name in pair}
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert torch.equal(after.get_submodule(name).weight, layer.weight) == (
                name not in moved
            ), name  # type: ignore[arg-type]
    return after


def vgg() -> nn.Module:
    return nn.Sequential(
        conv(4, 8),
        nn.ReLU(inplace=True),
        conv(8, 6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        conv(6, 8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(10, 3),
    )


def mobile(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
            nn.BatchNorm2d(inputs),
            act(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            act(),
        ]

    return nn.Sequential(
        conv(4, 8, bias=False), nn.BatchNorm2d(8), act(), *block(8, 12), *block(12, 6), head(6)
    )


def test_a_network_like_vgg() -> None:
    check(vgg(), [("0", "2"), ("2", "5"), ("5", "9"), ("9", "12")])


@pytest.mark.parametrize("act", [nn.ReLU, nn.PReLU, nn.LeakyReLU])
def test_a_network_of_depthwise_convolutions(act: type[nn.Module]) -> None:
    from lissom.surgery.fold import fold_batchnorms

    model = uneven(mobile(act))
    fold_batchnorms(model, images())
    check(model, [("0", "3"), ("3", "6"), ("6", "9"), ("9", "12"), ("12", "15.2")])


@pytest.mark.parametrize("groups", [(1, 2), (2, 1), (4, 2), (2, 4), (4, 8)])
def test_grouped_convolutions(groups: tuple[int, int]) -> None:
    one, two = groups
    check(nn.Sequential(conv(4, 8, groups=one), nn.ReLU(), conv(8, 16, groups=two)), [("0", "2")])


def test_a_shuffle_between_grouped_convolutions_hands_each_channel_to_its_reader() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = F.relu(s.a(x))
        y = y.view(y.size(0), 2, 4, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
        return s.b(y)

    model = uneven(Net(forward, a=conv(4, 8, groups=2), b=conv(8, 8, groups=2))).double()
    [pair] = pairs(model, images().double())
    assert pair.owner.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    after = copy.deepcopy(model)
    equalize_pairs(after, [pair])
    with torch.no_grad():
        torch.testing.assert_close(
            after(images().double()), model(images().double()), rtol=1e-9, atol=1e-9
        )
    torch.testing.assert_close(read(after.b), made(after.a)[pair.owner], rtol=1e-9, atol=0)


KEEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda y: y,
    "relu_": F.relu_,
    "method": lambda y: y.relu(),
    "inplace": lambda y: F.leaky_relu(y, 0.2, True),
    "max": lambda y: F.max_pool2d(y, 3, 2, 1),
    "avg": lambda y: F.avg_pool2d(y, 2),
    "adaptive": lambda y: F.adaptive_max_pool2d(y, 3),
    "larger": lambda y: F.interpolate(y, scale_factor=2),
    "pad": lambda y: F.pad(y, (1, 1, 1, 1)),
    "reflect": lambda y: F.pad(y, (1, 1, 1, 1), "reflect"),
    "part": lambda y: y[:, :, 1:],
    "there and back": lambda y: y.transpose(2, 3).transpose(2, 3),
    "asked": lambda y: y if y.shape[0] and y.dtype else -y,
}


@pytest.mark.parametrize("between", KEEPS.values(), ids=KEEPS)
def test_what_keeps_a_factor(between: Callable[[Tensor], Tensor]) -> None:
    check(Net(lambda s, x: s.b(between(s.a(x))), a=conv(), b=conv()), [("a", "b")])


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda y: y.mean((2, 3)),
    "twice": lambda y: torch.mean(y, dim=-1).mean(-1),
    "kept": lambda y: y.mean((2, 3), keepdim=True).flatten(1),
    "largest": lambda y: y.amax(dim=(2, 3)),
    "pool": lambda y: F.adaptive_avg_pool2d(y, 1).squeeze(-1).squeeze(-1),
    "view": lambda y: F.adaptive_avg_pool2d(y, 1).view(y.size(0), -1),
    "sum": lambda y: y.sum([2, 3]),
}


@pytest.mark.parametrize("between", MEANS.values(), ids=MEANS)
def test_what_keeps_a_factor_on_the_way_to_a_linear_layer(
    between: Callable[[Tensor], Tensor],
) -> None:
    check(Net(lambda s, x: s.b(between(s.a(x).relu())), a=conv(), b=nn.Linear(4, 5)), [("a", "b")])


def test_linear_layers_over_every_position() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        return s.b(F.relu(s.a(x.flatten(2).transpose(1, 2)))).mean(1)

    check(Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3)), [("a", "b")])


BREAKS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "softmax": lambda y: y.softmax(1),
    "clamp": lambda y: y.clamp(0, 1),
    "shift": lambda y: y + 1,
    "shift in place": lambda y: y.add_(1),
    "square": lambda y: y * y,
    "norm": lambda y: F.layer_norm(y, [8, 8]),
    "pad": lambda y: F.pad(y, (1, 1, 1, 1), value=0.5),
    "another channel": lambda y: F.pad(y[:, :1], (0, 0, 0, 0, 1, 2)),
    "two parts": lambda y: torch.cat([y[:, :2], y[:, 2:]], 1),
    "mean of channels": lambda y: y.mean(1, keepdim=True).expand(-1, 4, -1, -1),
    "mixed": lambda y: y.permute(0, 2, 3, 1).reshape(y.shape),
    "form not known": lambda y: y.mean((2, 3), keepdim=True, dtype=y.dtype),
    "mixed pool": lambda y: F.avg_pool2d(y.transpose(1, 2), 3, 1, 1).transpose(1, 2),
}


@pytest.mark.parametrize("between", BREAKS.values(), ids=BREAKS)
def test_what_does_not_keep_a_factor_parts_the_layers(between: Callable[[Tensor], Tensor]) -> None:
    check(Net(lambda s, x: s.b(between(s.a(x))), a=conv(), b=conv()), [])


@pytest.mark.parametrize("act", [nn.ReLU6, nn.Hardswish, nn.Sigmoid, nn.GELU])
def test_layers_of_other_activations_are_left_alone(act: type[nn.Module]) -> None:
    check(nn.Sequential(conv(), act(), conv()), [])


class Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.square()


def again(read_too: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = F.relu(s.a(x))
        return s.b(y).mean() + read_too(s, y).mean()

    return forward


@pytest.mark.parametrize(
    "read_too",
    [
        lambda s, y: y,
        lambda s, y: s.c(y),
        lambda s, y: y.flatten(1),
        lambda s, y: Written.apply(y),
        lambda s, y: s.script(y),
        lambda s, y: torch.stack([y, y]),
        lambda s, y: y if y.max() > 0 else -y,
        lambda s, y: y.new_full((1,), float(y.sum())),
        lambda s, y: torch.as_tensor(y.tolist()),
    ],
    ids=["add", "layer", "view", "autograd", "script", "list", "asked", "number", "numbers"],
)
def test_what_is_read_twice_is_left_alone(read_too: Callable[[Any, Tensor], Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated
        script = torch.jit.script(nn.Sigmoid())
    model = uneven(Net(again(read_too), a=conv(), b=conv(), c=conv(), script=script))
    assert names(model) == []


def test_what_is_returned_as_well_is_left_alone() -> None:
    def forward(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        return {"whole": s.b(y), "parts": [y]}

    assert names(Net(forward, a=conv(), b=conv())) == []


def test_a_change_of_part_of_a_value_is_a_read() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        y[:, 1] = 0.5
        return s.b(y)

    check(Net(forward, a=conv(), b=conv()), [])


def test_in_residual_networks_only_pairs_within_a_branch() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = F.relu(s.stem(x))
        x = F.relu(x + s.two(F.relu(s.one(x))))
        return s.head(x)

    check(Net(forward, stem=conv(), one=conv(4, 6), two=conv(6, 4), head=head(4)), [("one", "two")])
    model = factory("resnet20")(num_classes=4)
    found = names(apply("fold", model, images(2, 3, 16)), images(2, 3, 16))
    assert len(found) == 9 and all(
        one.rpartition(".")[0] == two.rpartition(".")[0] for one, two in found
    )


def test_layers_called_twice_or_with_a_shared_parameter_are_left_alone() -> None:
    check(Net(lambda s, x: s.b(F.relu(s.a(F.relu(s.a(x))))), a=conv(), b=conv()), [])
    check(Net(lambda s, x: s.b(F.relu(s.a(x))) + s.b(x), a=conv(), b=conv()), [])
    tied = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
    tied[6].weight = tied[0].weight
    check(tied, [("2", "4")])
    alias = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv())
    alias[4].weight = nn.Parameter(torch.empty(0))
    alias[4].weight.data = alias[0].weight.data
    assert names(alias) == []
    bias = nn.Sequential(conv(), nn.ReLU(), conv())
    bias[2].bias = bias[0].bias
    check(bias, [])


def test_weights_that_are_read_otherwise_are_left_alone() -> None:
    check(Net(lambda s, x: s.b(F.relu(s.a(x))) * s.b.weight.mean(), a=conv(), b=conv()), [])
    check(Net(lambda s, x: s.b(F.relu(s.a(x))) * s.a.bias.mean(), a=conv(), b=conv()), [])
    check(
        Net(
            lambda s, x: s.b(F.relu(F.conv2d(x, s.a.weight / s.a.weight.norm(), padding=1))),
            a=conv(),
            b=conv(),
        ),
        [],
    )
    check(
        Net(
            lambda s, x: s.b(F.relu(F.conv2d(x, s.a.weight, s.c.bias, padding=1))),
            a=conv(),
            b=conv(),
            c=conv(),
        ),
        [],
    )
    check(
        Net(
            lambda s, x: s.b(F.conv2d(x, s.a.weight, s.c.bias, padding=1)),
            a=conv(bias=False),
            b=conv(),
            c=conv(),
        ),
        [],
    )
    check(Net(lambda s, x: s.b(s.n(s.a(x)).relu()), a=conv(), b=conv(), n=nn.GroupNorm(2, 4)), [])
    check(
        Net(
            lambda s, x: s.b(s.n(s.a(x)).relu()),
            a=conv(),
            b=nn.ConvTranspose2d(4, 4, 2),
            n=nn.Identity(),
        ),
        [],
    )


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2)


def test_a_convolution_of_its_own_kind_is_taken_for_what_it_calls() -> None:
    check(nn.Sequential(conv(), nn.ReLU(), Twice(4, 4, 3), nn.ReLU(), conv()), [("2", "4")])


def test_of_one_pair_the_ranges_are_those_of_the_formula_and_one_sweep_does() -> None:
    model = uneven(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))).double()
    wanted, bias = (
        (made(model[0]) * read(model[2])).sqrt(),
        model[0].bias / (made(model[0]) / read(model[2])).sqrt(),
    )
    largest = float(
        torch.maximum(made(model[0]) / read(model[2]), read(model[2]) / made(model[0])).sqrt().max()
    )
    x = torch.randn(3, 5, dtype=torch.float64)
    assert equalize_pairs(model, pairs(model, x), 1) == [
        ["0", "2", pytest.approx(largest, rel=1e-6)]
    ]
    torch.testing.assert_close(made(model[0]), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(read(model[2]), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(model[0].bias, bias, rtol=1e-6, atol=0)


def test_channels_without_weights_stay_and_zeros_stay_zero() -> None:
    model = uneven(nn.Sequential(conv(), nn.ReLU(), conv()))
    with torch.no_grad():
        model[0].weight[1], model[2].weight[:, 2] = 0, 0
        model[0].weight[0, :, 0], model[2].weight[3, 0] = 0, 0
    after: Any = apply("equalize", model, images(1), images())
    assert all(torch.equal(after[k].weight == 0, model[k].weight == 0) for k in (0, 2))
    for channel, same in ((0, False), (1, True), (2, True), (3, False)):
        assert torch.equal(after[0].weight[channel], model[0].weight[channel]) == same
        assert torch.equal(after[0].bias[channel], model[0].bias[channel]) == same
        assert torch.equal(after[2].weight[:, channel], model[2].weight[:, channel]) == same


def test_a_masked_layer_keeps_its_zeros() -> None:
    small: Any = apply("mask(0.5) | equalize", uneven(vgg()), images(1), images())
    plain: Any = apply("mask(0.5)", uneven(vgg()), images(1), images())
    for name, weight in plain.named_parameters():
        assert torch.equal(small.get_parameter(name) == 0, weight == 0), name
        assert type(small.get_submodule(name.rpartition(".")[0])) is type(
            plain.get_submodule(name.rpartition(".")[0])
        )


@st.composite
def chains(draw: st.DrawFn) -> tuple[nn.Module, int]:
    """Return a chain of layers with calls between them, and how many follow each other with nothing
    in the way.
    """
    keeps = st.sampled_from(
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.LeakyReLU(0.3),
            nn.MaxPool2d(3, 1, 1),
            nn.Dropout(),
            nn.AvgPool2d(3, 1, 1),
            nn.Identity(),
            nn.ZeroPad2d(1),
        ]
    )
    parts = st.sampled_from([nn.ReLU6(), nn.Sigmoid(), nn.Hardswish(), nn.GroupNorm(2, 4)])
    layers: list[nn.Module] = []
    width, count, free = 4, 0, False
    for _ in range(draw(st.integers(2, 5))):
        groups = draw(st.sampled_from([1, 2, width]))
        wider = draw(st.sampled_from([1, 2])) * width if width < 16 else width
        layers.append(conv(width, wider, groups=groups, bias=draw(st.booleans())))
        count, width, free = count + free, wider, True
        for _ in range(draw(st.integers(0, 2))):
            layers.append(copy.deepcopy(draw(keeps)))
        if draw(st.booleans()) and draw(st.booleans()):
            layers.append(copy.deepcopy(draw(parts)) if width == 4 else nn.Tanh())
            free = False
    layers += draw(
        st.sampled_from([[nn.AdaptiveAvgPool2d(2)], [nn.AdaptiveMaxPool2d(2), nn.ReLU()]])
    )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width, 3)), count + free


@given(chains(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_chains_of_any_kind_compute_what_they_did(chain: tuple[nn.Module, int], seed: int) -> None:
    model, count = uneven(chain[0], seed).double(), chain[1]
    x = images(2).double()
    found, after = pairs(model, x), copy.deepcopy(model)
    assert len(found) == count
    equalize_pairs(after, found)
    with torch.no_grad():
        torch.testing.assert_close(after(x), model(x), rtol=1e-8, atol=1e-8)


def error(small: nn.Module, net: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((small(x) - net(x)).square().mean() / net(x).square().mean())


@pytest.mark.parametrize("build", [vgg, mobile])
def test_with_one_scale_for_a_tensor_spoiled_ranges_are_restored(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    net: Any = apply("fold", build().eval(), images(1), images())
    x, draw = images(64), torch.Generator().manual_seed(2)
    tensor = """quantize(8, grid="uniform('tensor')")"""
    unspoiled = error(apply(tensor, net, x[:1], x), net, x)
    with torch.no_grad():
        for pair in pairs(net, x):
            one, two = net.get_submodule(pair.first), net.get_submodule(pair.second)
            factor = 10 ** torch.empty(len(one.weight)).uniform_(-1, 1, generator=draw)
            one.weight *= factor.view(-1, *[1] * (one.weight.ndim - 1))
            one.bias *= factor
            if isinstance(two, nn.Conv2d) and two.groups > 1:
                two.weight /= factor.view(-1, 1, 1, 1)
            else:
                two.weight /= factor[pair.owner].view(-1, *[1] * (two.weight.ndim - 2))
    for bits in (tensor, "quantize(8)"):  # inputs have one scale for all channels in any case
        spoiled, restored = apply(bits, net, x[:1], x), apply(f"equalize | {bits}", net, x[:1], x)
        assert error(restored, net, x) < error(spoiled, net, x) / 10
        assert error(restored, net, x) < 3 * unspoiled


def step(**settings: Any) -> Any:
    return menu("steps")["equalize"](**settings)


def test_the_step_records_what_it_did_and_its_gate() -> None:
    model = uneven(mobile())
    ctx = SurgeryContext(images(1), lambda count: [images(count)], where="equalize")
    step()(model, ctx)
    assert ctx.facts["folded"] == ["0", "3", "6", "9", "12"] and not ctx.notes
    assert [row[:2] for row in ctx.facts["equalized"]] == [
        ["0", "3"],
        ["3", "6"],
        ["6", "9"],
        ["9", "12"],
        ["12", "15.2"],
    ]
    assert all(1 < row[2] < 1e4 for row in ctx.facts["equalized"])
    assert [g["name"] for g in ctx.gates] == ["equalized = unequalized"] and ctx.gates[0][
        "difference"
    ] <= 1e-4


def test_where_there_is_no_pair_a_note_says_so() -> None:
    model = uneven(nn.Sequential(conv(), nn.ReLU6(), conv()))
    before, ctx = (
        copy.deepcopy(model),
        SurgeryContext(images(1), lambda count: [images(count)], where="equalize"),
    )
    step()(model, ctx)
    assert (
        ctx.facts["equalized"] == [] and "no two layers follow each other through" in ctx.notes[0]
    )
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )


def test_what_is_quantized_or_not_finite_is_refused() -> None:
    with pytest.raises(LissomError, match="equalize before quantize"):
        apply("quantize(8) | equalize", vgg().eval(), images(1), images())
    small = apply("quantize(8)", vgg().eval(), images(1), images())
    with pytest.raises(LissomError, match="equalize before quantize"):
        apply("equalize", small, images(1), images())
    broken = uneven(vgg())
    with torch.no_grad():
        broken[0].weight[0, 0, 0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(LissomError, match="NaN or infinity"):
        apply("equalize", broken, images(1), images())


@pytest.mark.parametrize(
    "recipe", ["equalize", "equalize | quantize(8)", "equalize(3) | prune(0.3)"]
)
def test_what_is_saved_loads_again(recipe: str, tmp_path: Path) -> None:
    small = apply(recipe, uneven(mobile()), images(1), images())
    lissom.save(small, tmp_path)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path, mobile())(images()), small(images()))


def test_parameters_change_values_alone_and_the_mode_stays() -> None:
    model = uneven(vgg()).train()
    shapes, ids = (
        {k: v.shape for k, v in model.state_dict().items()},
        [id(p) for p in model.parameters()],
    )
    found = pairs(model, images())
    assert model.training and len(found) == 4
    equalize_pairs(model, found)
    assert {k: v.shape for k, v in model.state_dict().items()} == shapes and [
        id(p) for p in model.parameters()
    ] == ids
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())
