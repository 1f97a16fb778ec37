"""Pruning: how many channels are removed, which ones, and the errors if that is impossible."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, conv, head
from torch import Tensor, nn

from lissom import LissomError, LissomWarning, apply
from lissom.data.data import Data
from lissom.language.context import Context, SurgeryContext
from lissom.models import factory
from lissom.running.context import TaskContext
from lissom.steps.prune import Prune
from lissom.surgery.channels.budget import widths_of
from lissom.surgery.channels.choose import lowest
from lissom.surgery.channels.group import Group
from lissom.surgery.channels.recalibrate import recalibrate_batchnorms
from lissom.surgery.count import macs, parameters
from lissom.tasks.task import Task


def images(count: int = 2, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def chain(*widths: int, norm: bool = True) -> nn.Sequential:
    """Return convolutions of the given widths, each with a batch-norm, and a linear layer."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            *([nn.BatchNorm2d(outputs)] if norm else []),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4)
    ).eval()


def convs(net: nn.Module) -> list[nn.Conv2d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


def pruned(step: Prune, net: nn.Module, x: Tensor | None = None) -> tuple[nn.Module, Context]:
    x = images() if x is None else x
    ctx = SurgeryContext(x[:1], lambda count: [x[:count]], where=str(step))
    return step(copy.deepcopy(net), ctx), ctx


@pytest.mark.parametrize("multiple", [1, 4, 8, 16])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_layers_keep_multiples(multiple: int, scope: Any) -> None:
    small, _ = pruned(Prune(0.4, scope=scope, multiple=multiple), chain(48, 64, 32))
    for before, layer in zip((48, 64, 32), convs(small), strict=True):
        assert layer.out_channels % multiple == 0 or layer.out_channels == before
        assert layer.out_channels >= max(multiple, 0.1 * before)


@pytest.mark.parametrize("floor", [0.0, 0.25, 0.5])
def test_each_layer_keeps_its_floor(floor: float) -> None:
    net = chain(64, 64, 64)
    with torch.no_grad():
        convs(net)[1].weight[:60] *= 1e-3  # a ranking that would empty the layer
    small, _ = pruned(Prune(0.3, floor=floor), net)
    assert min(layer.out_channels for layer in convs(small)) >= max(8, floor * 64)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(size=st.integers(1, 600), multiple=st.integers(1, 64), floor=st.floats(0, 0.99))
def test_the_widths_allowed_are_the_multiples_above_the_floor(
    size: int, multiple: int, floor: float
) -> None:
    found = widths_of(Group("", size), multiple, floor)
    fits = [w for w in range(multiple, size, multiple) if w >= floor * size - 1e-9]
    assert found == [size, *reversed(fits)]


@pytest.mark.parametrize("of", ["channels", "params", "macs"])
@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize("name", ["resnet14", "nin_gc", "densenet16"])
def test_what_is_removed_is_what_was_asked_within_one_multiple(
    of: Any, scope: Any, name: str
) -> None:
    """Counted on the network that comes out, against what cutting one multiple less or more could change."""
    torch.manual_seed(0)
    net, x = factory(name)(num_classes=4).eval(), images(2, 16)
    for amount in (0.2, 0.6):
        small, ctx = pruned(
            Prune(amount, of=of, scope=scope, multiple=4, floor=0.05, recalibrate=False), net, x
        )
        removed = ctx.facts["amount"]["removed"]
        if of != "channels":
            count = parameters if of == "params" else lambda m: macs(m, x)
            assert removed == pytest.approx(1 - count(small) / count(net), abs=1e-6)
        if scope != "local" or of != "channels":
            assert abs(removed - amount) < (0.08 if name == "nin_gc" else 0.01)


def test_layers_of_one_kind_are_ranked_together_and_others_apart() -> None:
    """The depthwise pair scores a hundredth: global takes it, isomorphic as much of either kind."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 1),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.BatchNorm2d(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()
    with torch.no_grad():
        for k, scale in ((1, 1.0), (3, 4.0), (6, 0.01)):
            net[k].weight.copy_(scale * torch.linspace(1, 2, 32))
    kept = {
        scope: [c.out_channels for c in convs(pruned(Prune(1 / 3, by="bn", scope=scope), net)[0])][
            :3
        ]
        for scope in ("global", "isomorphic", "local")
    }
    assert kept == {"global": [24, 32, 8], "isomorphic": [8, 32, 24], "local": [24, 24, 24]}


@pytest.mark.parametrize("rounds", [2, 3])
def test_rounds_end_where_one_cut_would(rounds: int) -> None:
    net = chain(64, 96, 64)
    small, ctx = pruned(Prune(0.5, of="params", multiple=2, rounds=rounds), net)
    assert 1 - parameters(small) / parameters(net) == pytest.approx(0.5, abs=0.02)
    for row, layer, before in zip(ctx.facts["groups"], convs(small), (64, 96, 64), strict=True):
        assert row["before"] == before and row["after"] == layer.out_channels == len(layer.kept)


def test_layers_named_by_a_pattern_are_kept_or_alone_cut() -> None:
    net = chain(32, 32, 32)
    widths = [c.out_channels for c in convs(pruned(Prune(0.25, keep="3"), net)[0])]
    assert widths[1] == 32 and min(widths) < 32
    small, ctx = pruned(Prune(0.5, only="0,6"), net)
    assert convs(small)[1].out_channels == 32 and convs(small)[0].out_channels < 32
    assert ctx.facts["left_whole"]["3"] == "only='0,6'"


@pytest.mark.parametrize("step", [Prune(0.5, keep="layer1.*"), Prune(0.5, only="conv9")], ids=str)
def test_a_pattern_that_matches_nothing_is_an_error(step: Prune) -> None:
    with pytest.raises(LissomError, match="no layer is called"):
        pruned(step, chain(32, 32))


def test_statistics_are_measured_anew_after_the_cut() -> None:
    torch.manual_seed(0)
    net, x = chain(32, 32), images(64, 8) * 3 + 1
    small, ctx = pruned(Prune(0.5), net, x)
    assert ctx.facts["recalibrated"] == {"norms": 2, "before": None, "after": None}
    seen = small[0](x)
    torch.testing.assert_close(small[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small[1].running_var, seen.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    kept, ctx = pruned(Prune(0.5, recalibrate=False), net, x)
    assert "recalibrated" not in ctx.facts and torch.equal(
        kept[1].running_mean, torch.zeros_like(kept[1].running_mean)
    )


def test_few_images_leave_the_statistics_alone() -> None:
    small, ctx = pruned(Prune(0.5), chain(32, 32), images(8))
    assert "recalibrated" not in ctx.facts and float(small[1].running_mean.abs().max()) == 0


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    parts=st.sampled_from([(2, 3), (3, 2), (4, 2)]), keep=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_the_best_even_choice_against_all_choices(
    parts: tuple[int, int], keep: int, seed: int
) -> None:
    """Two ways to divide units into blocks at once, every subset tried."""
    one, two = parts
    size = one * two * 2
    scores = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    blocks = [torch.arange(size) * one // size, torch.arange(size) % two]
    keep = min(keep * one * two, size)
    gone = lowest(scores, size - keep, blocks)
    even = [
        list(c)
        for c in itertools.combinations(range(size), keep)
        if all(
            len(set(b[list(c)].bincount(minlength=int(b.max()) + 1).tolist())) == 1 for b in blocks
        )
    ]
    best = max(float(scores[c].sum()) for c in even)
    assert int((~gone).sum()) == keep and float(scores[~gone].sum()) == pytest.approx(
        best, abs=1e-6
    )
    assert all(len(set(b[~gone].bincount().tolist())) == 1 for b in blocks)


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_about_as_much_is_removed_as_was_asked(amount: float, scope: Any, name: str) -> None:
    torch.manual_seed(0)
    _, ctx = pruned(
        Prune(amount, scope=scope, multiple=2), factory(name)(num_classes=4), images(2, 16)
    )
    before, after = (sum(g[k] for g in ctx.facts["groups"]) for k in ("before", "after"))
    assert 1 - after / before == pytest.approx(amount, abs=0.03)
    assert ctx.facts["amount"]["removed"] == pytest.approx(1 - after / before, abs=1e-4)
    assert ctx.gates[0]["name"] == "sliced = masked" and ctx.gates[0]["difference"] < 1e-3


def test_local_takes_the_same_share_of_every_layer() -> None:
    small, _ = pruned(Prune(0.25, scope="local"), chain(32, 64, 96))
    assert [layer.out_channels for layer in convs(small)] == [24, 48, 72]


def test_global_takes_more_from_the_layer_that_ranks_lower() -> None:
    net = chain(32, 32)
    with torch.no_grad():
        net[1].weight.fill_(1.0)
        net[4].weight.copy_(torch.linspace(0.01, 0.2, 32))
    small, _ = pruned(Prune(0.25, by="bn"), net)
    assert [layer.out_channels for layer in convs(small)] == [32, 16]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_channels_with_the_largest_filters_are_kept(scope: Any) -> None:
    net = chain(32, 48)
    small, _ = pruned(Prune(0.5, scope=scope), net)
    for before, after in zip(convs(net), convs(small), strict=True):
        sizes = [float(before.weight[k].detach().abs().sum()) for k in range(len(before.weight))]
        best = sorted(sorted(range(len(sizes)), key=lambda k: -sizes[k])[: after.out_channels])
        assert after.kept == best


def test_the_channels_with_the_largest_scales_are_kept() -> None:
    net = chain(32, 48)
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.weight.copy_(torch.randn(norm.weight.shape))
    small, _ = pruned(Prune(0.5, by="bn"), net)
    for norm, after in zip((net[1], net[4]), convs(small), strict=True):
        scales = norm.weight.abs().tolist()
        assert after.kept == sorted(
            sorted(range(len(scales)), key=lambda k: -scales[k])[: after.out_channels]
        )


def test_coupled_layers_keep_the_same_channels() -> None:
    torch.manual_seed(0)
    small, ctx = pruned(Prune(0.5, multiple=4), factory("resnet20")(num_classes=4), images(2, 16))
    for group in ctx.facts["groups"]:
        kept = [
            small.get_submodule(name).kept
            for name in group["layers"]
            if hasattr(small.get_submodule(name), "kept")
        ]
        assert len(kept) in (0, len(group["layers"])) and all(k == kept[0] for k in kept)
        assert all(len(k) == group["after"] for k in kept)


def test_of_equal_scores_the_last_go() -> None:
    assert lowest(torch.tensor([1.0, 1.0, 0.5, 1.0]), 2).tolist() == [False, False, True, True]
    assert lowest(torch.ones(3), 0).tolist() == [False, False, False]


def test_layers_not_wider_than_one_multiple_stay() -> None:
    small, _ = pruned(Prune(0.4), chain(8, 64, 6))
    widths = [layer.out_channels for layer in convs(small)]
    assert widths[0] == 8 and widths[2] == 6 and widths[1] < 64


@pytest.mark.parametrize(
    "step",
    [
        Prune(0.99),
        Prune(0.95, floor=0.5),
        Prune(0.9, multiple=16, scope="local"),
        Prune(0.01),
        Prune(0.5, multiple=64),
    ],
    ids=str,
)
def test_what_cannot_be_removed_is_one_clear_line(step: Prune) -> None:
    with pytest.raises(LissomError, match="cannot be removed") as caught:
        pruned(step, chain(32, 32))
    assert "\n" not in str(caught.value) and f"multiple={step.multiple}" in str(caught.value)


def test_a_near_miss_is_noted() -> None:
    small, ctx = pruned(Prune(0.35, scope="local"), chain(32, 32))
    assert [layer.out_channels for layer in convs(small)] == [24, 24]
    assert "0.250 of the channels were removed" in ctx.notes[0]


def test_a_layer_that_cannot_be_ranked_is_left_whole_with_the_reason() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    ).eval()
    small, ctx = pruned(Prune(0.5, by="bn"), net)
    assert small[0].out_channels == 16 and small[5].out_features == 32
    assert "no batch-norm follows 5" in ctx.facts["left_whole"]["5"]


def test_per_cost_takes_what_saves_most_for_its_score() -> None:
    """Two layers of one size and equal scores, one at four times the positions: per cost it goes first."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()
    with torch.no_grad():
        for k in (1, 4):
            net[k].weight.copy_(torch.linspace(1, 1.1, 32))
    x = torch.randn(2, 8, 16, 16)
    ctx = SurgeryContext(x[:1], lambda count: [x], where="prune")
    order = {
        per: [
            chunk.group
            for chunk in Prune(0.4, of="macs", by="bn", per=per, multiple=8)
            .width_search(net, ctx, [])
            .steps
        ]
        for per in ("channel", "cost")
    }
    assert order == {"channel": [0, 1, 0, 1, 0, 1], "cost": [0, 0, 0, 1, 1, 1]}


def test_a_loss_of_the_tasks_own_is_what_the_gradients_are_of() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = factory("resnet8")(num_classes=10, in_channels=1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.net(x)}

    def own(network: nn.Module, batch: Any) -> Tensor:
        return batch.outputs["out"].square().mean()

    task = dataclasses.replace(Task.of("resnet8", Data.of("digits")), loss=own)
    ctx = TaskContext(task.data.example(), task.data.calibration, where="prune", task=task)
    step = Prune(0.3, by="fisher", recalibrate=False)
    assert all(
        float(s.max()) > 0 for s in step.width_search(Wrapped().eval(), ctx, ctx.labelled(8)).scores
    )
    step.rehearse(Wrapped().eval(), ctx)  # which must not fall back on cross-entropy


def test_ranking_by_batch_norm_needs_one() -> None:
    with pytest.raises(LissomError, match="no batch-norm follows 0"):
        pruned(Prune(0.5, by="bn"), chain(32, 32, norm=False))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
        nn.Sequential(nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Flatten(), nn.Linear(288, 4)),
    ],
    ids=["one layer", "no layers", "mixed"],
)
def test_a_network_in_which_nothing_can_be_cut_is_one_clear_line(net: nn.Module) -> None:
    with pytest.raises(LissomError, match="nothing in this network can be cut"):
        pruned(Prune(0.5), net)


def test_what_is_left_whole_is_recorded_with_the_reason() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1)

    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        Odd(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()
    small, ctx = pruned(Prune(0.5), net)
    assert [layer.out_channels for layer in convs(small)] == [16, 16]
    assert "'cumsum' is not followed" in ctx.facts["left_whole"]["0"]
    with pytest.warns(
        LissomWarning, match=r"1 of 2 layers; 1 stays whole: 'cumsum' is not followed \(0\)"
    ):
        apply("prune(0.5)", net, torch.randn(1, 3, 8, 8))


def test_no_images_is_one_clear_line() -> None:
    with pytest.raises(LissomError, match="no calibration images"):
        Prune(0.5)(chain(32, 32), SurgeryContext(images(1), lambda count: []))


def test_the_network_given_is_not_changed() -> None:
    net = chain(32, 32)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    apply("prune(0.5)", net, images(1))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()) and not hasattr(
        net[0], "kept"
    )


def test_pruning_after_quantizing_is_refused() -> None:
    with pytest.raises(LissomError, match="prune before quantize"):
        apply("quantize(8) | prune(0.5)", chain(32, 32), images(1))


def test_a_step_that_learns_is_refused_without_data() -> None:
    with pytest.raises(LissomError, match="learns and needs data"):
        apply("train(1)", chain(32, 32), images(1))


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("rounds", [4, 10])
def test_rounds_finer_than_one_multiple_wait_for_the_next(rounds: int, scope: Any) -> None:
    _, ctx = pruned(Prune(0.4, rounds=rounds, scope=scope), chain(32, 32, 32))
    before, after = (sum(g[k] for g in ctx.facts["groups"]) for k in ("before", "after"))
    assert ctx.facts["amount"]["asked"] == 0.4
    assert (
        ctx.facts["amount"]["removed"]
        == pytest.approx(1 - after / before, abs=1e-5)
        == pytest.approx(0.4, abs=0.05)
    )


def test_the_floor_holds_over_all_rounds() -> None:
    net = chain(32, 32, 32)
    with torch.no_grad():
        for k, scale in ((1, 0.01), (4, 1.0), (7, 1.0)):
            net[k].weight.copy_(scale * (1 + torch.rand(32)))
    small, _ = pruned(Prune(0.3, by="bn", multiple=1, rounds=8, floor=0.5), net)
    assert convs(small)[0].out_channels == 16
    with pytest.raises(
        LissomError, match=r"0\.8 of the channels cannot be removed.* to 0\.5 of them"
    ):
        pruned(Prune(0.8, multiple=1, rounds=4, floor=0.5), net)


def test_an_amount_below_one_multiple_of_every_layer_is_taken_from_some() -> None:
    small, _ = pruned(Prune(0.1, scope="local"), chain(32, 32, 32))
    assert sorted(layer.out_channels for layer in convs(small)) == [24, 32, 32]


def test_parameters_of_a_module_of_ones_own_are_cut_kept_and_named() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.randn(32, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.one) @ self.two

    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Own()).eval()
    small, ctx = pruned(Prune(0.5, scope="local"), net)
    assert small[3].one.shape == (16, 16) and small[3].two.shape == (16, 4)
    assert ctx.facts["left_whole"] == {"3": "in part: an output of the network"}
    kept, ctx = pruned(Prune(0.25, keep="3"), net)
    assert kept[3].one.shape[1] == 32 and ctx.facts["left_whole"]["3"] == "keep='3'"
    for by in ("taylor", "activation"):
        _, ctx = pruned(Prune(0.25, by=by), net)
        assert (
            "3 was not called as a module that returns only its channels"
            in ctx.facts["left_whole"]["3"]
        )


def test_statistics_of_a_norm_that_runs_twice_are_those_of_both_runs() -> None:
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(torch.relu(s.bn(y := s.one(x)))) + s.head(torch.relu(s.bn(5 * y + 3))),
        one=conv(3, 8),
        bn=nn.BatchNorm2d(8),
        head=head(8),
    )
    x = images(40)
    assert recalibrate_batchnorms(net, [x]) == 1
    torch.testing.assert_close(net.bn.running_mean, (3 * net.one(x) + 1.5).mean((0, 2, 3)))


@pytest.mark.parametrize("sizes", [(1,) * 40, (39, 1)])
def test_a_batch_of_one_image_is_measured_with_others(sizes: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    x = images(sum(sizes))
    assert recalibrate_batchnorms(net, x.split(list(sizes))) == 1
    torch.testing.assert_close(
        net[2].running_mean, net[1](x.flatten(1)).mean(0), rtol=1e-4, atol=1e-5
    )


def test_layers_that_are_never_cut_may_be_kept_by_name() -> None:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 16, 3)
            self.gru = nn.GRU(16, 8, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.gru(self.conv(x).transpose(1, 2))[0]
            return out

    x = torch.randn(4, 4, 12)
    recipe = 'prune(0.5, multiple=4, keep="gru")'
    small, _ = apply(recipe, Sound().eval(), x[:1], x, notes=True)
    assert small.conv.out_channels == 8 and small.gru.hidden_size == 8
