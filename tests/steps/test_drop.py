"""Dropping residual blocks: which are found, which go first, and that the network is the one whose
blocks are bypassed.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.language.context import SurgeryContext
from lissom.models import factory
from lissom.steps.drop import Drop
from lissom.store.snapshot import restore
from lissom.surgery.count import macs, parameters
from lissom.surgery.depth import DroppedBlock, residual_blocks, runs_without

X = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """x + scale * f(x)."""

    def __init__(self, width: int = 8, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.norm(self.conv(x)).relu()


def stack(*scales: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *(Block(scale=s) for s in scales), nn.Flatten()
    ).eval()


def context(images: Any = X) -> SurgeryContext:
    return SurgeryContext(images[:1], lambda count: [images[:count]], where="drop")


def dropped_in(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, DroppedBlock)]


def test_the_blocks_of_known_networks_are_those_with_an_identity_shortcut() -> None:
    resnet = torchvision.models.resnet18()
    expected = [f"layer{k}.1" for k in range(1, 5)]
    assert residual_blocks(resnet, torch.randn(1, 3, 64, 64)) == ["layer1.0", *expected]
    mobile = torchvision.models.mobilenet_v2()
    with_shortcut = [
        f"features.{k}" for k, m in enumerate(mobile.features) if getattr(m, "use_res_connect", 0)
    ]
    assert residual_blocks(mobile, torch.randn(1, 3, 64, 64)) == with_shortcut
    convnext = torchvision.models.convnext_tiny()
    assert len(residual_blocks(convnext, torch.randn(1, 3, 64, 64))) == 3 + 3 + 9 + 3
    vit = torchvision.models.vit_b_32(image_size=64)
    assert len(residual_blocks(vit, torch.randn(1, 3, 64, 64))) == 12


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "shufflenet_v2_x0_5"])
def test_networks_without_residual_sums_are_refused(name: str) -> None:
    net = getattr(torchvision.models, name)()
    with pytest.raises(LissomError, match="has no residual block"):
        lissom.apply("drop(0.3)", net, torch.randn(1, 3, 64, 64), torch.randn(2, 3, 64, 64))


class Odd(nn.Module):
    """Modules that look like residual blocks and are none."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps_shape = nn.Conv2d(3, 3, 3, padding=1)  # its input is added, but outside of it
        self.twice = Block(3)  # runs twice
        self.doubles = Doubles()
        self.two = Block(3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.keeps_shape(x)
        x = self.twice(self.twice(x))
        return self.two(self.doubles(x))


class Doubles(nn.Module):
    """Adds something else than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + y.relu()


def test_only_modules_that_add_their_own_input_and_run_once_are_blocks() -> None:
    assert residual_blocks(Odd().eval(), X) == ["two"]


class Own(nn.Sequential):
    """A residual block that is a Sequential with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + super().forward(x)
        return out


class Positions(nn.Module):
    """Adds a learned position to its input, which is no shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 8, 16, 16))
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x + self.position)
        return out


class Several(nn.Module):
    """Blocks of many kinds, the first with two names and one that changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.named = nn.ModuleList([Block(), Block(scale=0.5)])
        self.again = nn.Sequential(*self.named)
        self.own = Own(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.positions = Positions()
        self.changes = Changes()
        self.scripted = torch.jit.script(Changes())

    def forward(self, x: Tensor) -> Tensor:
        x = self.positions(self.own(self.again(self.stem(x))))
        out: Tensor = self.scripted(self.changes(x))
        return out


class Changes(nn.Module):
    """Applies ReLU to its input in place, then adds it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu_(x))
        return x + y


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_blocks_of_many_kinds_are_dropped_wherever_they_are_named() -> None:
    torch.manual_seed(0)
    net = Several().eval()
    assert residual_blocks(net, X) == ["named.0", "named.1", "own", "changes"]
    small = lissom.apply("drop(1, recalibrate=False)", net, X[:1], X)
    assert isinstance(small.again[0], DroppedBlock) and small.again[0] is small.named[0]
    with torch.no_grad():
        wanted = net.scripted(net.positions(net.stem(X)))
        assert torch.allclose(small(X), wanted, atol=1e-5)


def test_a_block_that_the_network_also_holds_without_a_name_is_left_in() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block(3)
            self.calls = [self.block]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.calls[0](x)
            return out

    with pytest.raises(LissomError, match="calls it where it has no name"):
        lissom.apply("drop(1)", Hidden().eval(), X[:1], X)


class Tokens(nn.Module):
    """A block that flattens positions first and has more arguments, some of them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, *, scale: float, shift: Tensor | None = None) -> Tensor:
        flat = x.flatten(2).transpose(1, 2)
        flat = flat + scale * self.linear(flat)
        flat = flat if shift is None else flat + shift
        return flat.transpose(1, 2).unflatten(2, x.shape[2:])


class Caller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(Tokens() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x=x, scale=0.5, shift=torch.ones(1))
        return x


def test_inputs_in_another_form_and_arguments_by_name_are_understood() -> None:
    net = Caller().eval()
    assert residual_blocks(net, X) == ["blocks.0", "blocks.1", "blocks.2"]
    small = lissom.apply("drop(0.6)", net, X[:1], X)
    assert len(dropped_in(small)) == 2 and small(X).shape == net(X).shape


def test_a_block_that_the_network_reads_is_left_in_with_the_reason() -> None:
    layers = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layers, 3, enable_nested_tensor=False).eval()
    x = torch.randn(4, 5, 8)
    blocks = residual_blocks(net, x)
    assert blocks == ["layers.0", "layers.1", "layers.2"]
    reasons = [runs_without(net, name, x) for name in blocks]
    assert "does not run without it" in str(reasons[0]) and reasons[1:] == [None, None]
    assert dropped_in(net) == []  # trying changes nothing
    ctx = context(x)
    small = Drop(1.0)(copy.deepcopy(net), ctx)
    assert dropped_in(small) == ["layers.1", "layers.2"] and list(ctx.facts["kept"]) == ["layers.0"]


def test_the_block_that_does_least_goes_first() -> None:
    net = stack(1.0, 0.01, 0.5, 0.1)
    order = [["2"], ["2", "4"], ["2", "3", "4"]]
    for amount, expected in zip((0.25, 0.5, 0.75), order, strict=True):
        assert dropped_in(lissom.apply(f"drop({amount})", net, X[:1], X)) == expected


def test_errors_are_those_of_the_network_without_the_blocks() -> None:
    net = stack(1.0, 0.01, 0.5, 0.1)
    ctx = context()
    Drop(0.5, recalibrate=False)(copy.deepcopy(net), ctx)
    with torch.no_grad():
        outputs = net(X)
        for k in range(2):
            by_hand = copy.deepcopy(net)
            for row in ctx.facts["dropped_blocks"][: k + 1]:
                by_hand[int(row["block"])] = nn.Identity()
            error = (by_hand(X) - outputs).square().mean() / outputs.square().mean()
            assert ctx.facts["dropped_blocks"][k]["error"] == pytest.approx(float(error), rel=1e-5)


@pytest.mark.parametrize("of", ["blocks", "params", "macs"])
def test_the_amount_is_a_fraction_of_what_it_says(of: str) -> None:
    torch.manual_seed(0)
    net = factory("resnet20")(num_classes=4).eval()
    small, ctx = copy.deepcopy(net), context()
    Drop(0.3, of=of)(small, ctx)  # type: ignore[arg-type]
    counted = {
        "blocks": len(dropped_in(small)) / len(residual_blocks(net, X)),
        "params": 1 - parameters(small) / parameters(net),
        "macs": 1 - macs(small, X) / macs(net, X),
    }
    assert ctx.facts["amount"]["removed"] == pytest.approx(counted[of], abs=1e-5)
    assert abs(counted[of] - 0.3) < 0.12


def test_amounts_out_of_reach_are_refused_before_anything_is_trained() -> None:
    net = factory("resnet20")(num_classes=4).eval()
    with pytest.raises(LissomError, match=r"0\.95 of the macs cannot be removed; this network can"):
        Drop(0.95, of="macs").rehearse(net, context())
    # later steps may name any block, so none is dropped yet
    assert dropped_in(Drop(0.3).rehearse(net, context())) == []
    with pytest.raises(LissomError, match=r"amount=.*expected a value > 0"):
        Drop(0.0)


def test_patterns_choose_blocks() -> None:
    net = stack(1.0, 0.01, 0.5, 0.1)
    assert dropped_in(lissom.apply('drop(1, keep="2")', net, X[:1], X)) == ["1", "3", "4"]
    assert dropped_in(lissom.apply('drop(0.5, only="1,3")', net, X[:1], X)) == ["3"]
    with pytest.raises(LissomError, match="no layer is called 'six'"):
        lissom.apply('drop(0.5, keep="six")', net, X[:1], X)
    with pytest.raises(LissomError, match="no block can be dropped"):
        lissom.apply('drop(0.5, keep="*")', net, X[:1], X)


def test_a_network_with_dropped_blocks_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = factory("resnet20")(num_classes=4)
    small = lissom.apply(
        'drop(0.4) | prune(0.4, of="macs", multiple=4) | quantize(8)', net, X[:1], X
    )
    assert len(dropped_in(small)) == 3
    lissom.save(small, tmp_path / "small")
    torch.manual_seed(5)
    again = restore(factory("resnet20")(num_classes=4), tmp_path / "small")
    assert dropped_in(again) == dropped_in(small)
    with torch.no_grad():
        assert torch.equal(again(X), small(X))


def test_a_saved_network_that_drops_what_the_built_one_lacks_is_refused(tmp_path: Path) -> None:
    lissom.save(lissom.apply("drop(0.5)", stack(1.0, 0.5), X[:1], X), tmp_path / "small")
    with pytest.raises(LissomError, match="has no layer"):
        restore(nn.Sequential(nn.Conv2d(3, 8, 3)), tmp_path / "small")


def test_dropping_twice_and_learning_in_between_works() -> None:
    net = stack(1.0, 0.01, 0.5, 0.1)
    small = lissom.apply("drop(0.25)", net, X[:1], X)
    optimizer = torch.optim.SGD(small.parameters(), 0.01)
    small.train()
    small(X).square().mean().backward()
    optimizer.step()
    smaller = lissom.apply("drop(0.34)", small.eval(), X[:1], X)
    assert len(dropped_in(smaller)) == 2 and len(dropped_in(small)) == 1


def test_quantized_networks_are_refused() -> None:
    net = lissom.apply("quantize(8)", stack(1.0, 0.5), X[:1], X)
    with pytest.raises(LissomError, match="drop before quantize"):
        lissom.apply("drop(0.5)", net, X[:1], X)


@settings(max_examples=20, deadline=None)
@given(
    scales=st.lists(st.floats(0.01, 2), min_size=1, max_size=5),
    amount=st.floats(0.05, 1),
    of=st.sampled_from(["blocks", "params", "macs"]),
)
def test_any_stack_loses_the_nearest_amount_that_blocks_allow(
    scales: list[float], amount: float, of: str
) -> None:
    net, ctx = stack(*scales), context(X[:4])
    step = Drop(amount, of=of, recalibrate=False)  # type: ignore[arg-type]
    cost = {"blocks": len, "params": parameters, "macs": lambda net: macs(net, X)}[of]
    whole = len(scales) if of == "blocks" else cost(net)
    share = (cost(stack(1)) - cost(stack())) / whole  # of each block
    if amount > share * (len(scales) + 0.5):
        with pytest.raises(LissomError, match="cannot be removed"):
            step(net, ctx)
        return
    count = len(dropped_in(step(copy.deepcopy(net), ctx)))
    errors = [abs(k * share - amount) for k in range(1, len(scales) + 1)]
    assert 1 <= count <= len(scales) and errors[count - 1] <= min(errors) + 1e-9


class CountingClock:
    """A clock for which every block of a stack takes 1 ms, and block 2 takes 4 ms."""

    def latencies(self, models: Any, example: Tensor) -> list[float]:
        return [
            2.0 + sum(4 if name == "2" else 1 for name, m in net.named_children() if is_block(m))
            for net in models
        ]


def is_block(module: nn.Module) -> bool:
    return isinstance(module, Block)


def test_latency_is_measured_before_and_after() -> None:
    ctx = context()
    ctx.clock = lambda target: CountingClock()  # type: ignore[assignment,return-value]
    small = Drop(0.4, of="latency")(stack(1.0, 1.0, 1.0), ctx)
    assert dropped_in(small) == ["2"]  # half of 8 ms: it saves most for its error
    assert ctx.facts["amount"] == {
        "of": "latency", "asked": 0.4, "removed": 0.5, "most": 0.75, "predicted": 0.5,
        "before_ms": 8.0, "after_ms": 4.0,
    }  # fmt: skip
    assert "0.500 of the latency were removed instead of 0.4" in ctx.notes[0]
    with pytest.raises(LissomError, match="latency is measured by"):
        Drop(0.4, of="latency")(stack(1.0, 1.0), context())


def test_the_latency_of_a_real_network_is_measured() -> None:
    small, notes = lissom.apply('drop(0.1, of="latency")', stack(1.0), X[:1], X, notes=True)
    assert dropped_in(small) == ["1"] and all("of the latency were removed" in n for n in notes)


def test_blocks_of_unequal_cost_bring_the_result_as_near_as_they_can() -> None:
    class Wide(Block):
        def __init__(self) -> None:
            super().__init__(scale=0.01)
            self.more = nn.Conv2d(8, 8, 9, padding=4)

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.001 * self.more(self.norm(self.conv(x)))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), Wide(), Block(scale=0.5)).eval()
    ctx = context()
    Drop(0.9, of="params")(net, ctx)
    rows = ctx.facts["dropped_blocks"]
    assert rows[0]["block"] == "2"  # nearly no error, and most of the parameters
    distances = [abs(row["removed"] - 0.9) for row in rows]
    assert distances == sorted(distances, reverse=True)
