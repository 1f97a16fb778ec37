"""The contract of importance scores, and each of them against naive loops or finite differences."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom import LissomError
from lissom.language.menu import menu
from lissom.language.parse_methods import method_of
from lissom.models import factory
from lissom.surgery.channels.evidence import Evidence
from lissom.surgery.channels.group import Group, Member
from lissom.surgery.channels.network_groups import NetworkGroups, groups_of
from lissom.surgery.loss import cross_entropy

SCORES = list(menu("importance"))
MEASURED = {"taylor", "fisher", "activation"}


def lively(net: nn.Module, size: int = 16) -> tuple[NetworkGroups, Evidence]:
    """Give batch-norms numbers that matter; return the groups and what scores look at."""
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.weight.copy_(torch.randn(layer.weight.shape))
    groups = groups_of(net.eval(), torch.zeros(1, 3, size, size).to(next(net.parameters())))
    return groups, evidence(net, groups, size)


def evidence(net: nn.Module, groups: NetworkGroups, size: int = 16) -> Evidence:
    draw, like = torch.Generator().manual_seed(1), next(net.parameters())
    batches = [
        (
            torch.randn(6, 3, size, size, generator=draw).to(like),
            (torch.arange(6) % 4).to(like.device),
        )
        for _ in range(2)
    ]
    return Evidence(net, groups.cuttable_groups, lambda: list(batches), loss=loss)


def loss(images: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(2).mean(2) if outputs.ndim > 2 else outputs, labels)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


@pytest.fixture(
    scope="module", params=["resnet8", "preresnet11", "vgg11-quarter", "nin_gc-quarter"]
)
def network(request: pytest.FixtureRequest) -> tuple[NetworkGroups, Evidence]:
    torch.manual_seed(0)
    return lively(factory(request.param)(num_classes=4))


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_one_finite_number_for_each_unit(
    name: str, network: tuple[NetworkGroups, Evidence]
) -> None:
    groups, net = network
    for group in groups:
        found = method_of("importance", name)(group, net)
        assert (
            found.shape == (group.size,)
            and found.dtype == torch.float32
            and torch.isfinite(found).all()
        )
        assert not found.requires_grad and (found >= 0).all() and len(found.unique()) > 1


@pytest.mark.parametrize("name", [n for n in SCORES if n != "random"])
def test_a_score_does_not_depend_on_the_order_of_members(
    name: str, network: tuple[NetworkGroups, Evidence]
) -> None:
    groups, net = network
    score = method_of("importance", name)
    for group in groups:
        members = list(group.members)
        random.Random(0).shuffle(members)
        torch.testing.assert_close(
            score(Group(group.name, group.size, members), net), score(group, net)
        )


@pytest.mark.parametrize("name", [n for n in SCORES if n != "random"])
def test_a_score_follows_the_channels_when_they_change_places(name: str) -> None:
    groups, net = lively(small())
    (group,) = groups.cuttable_groups
    score, order = method_of("importance", name), torch.randperm(8)
    moved = [Member(m.tensor, m.axis, m.role, order[m.unit]) for m in group.members]
    torch.testing.assert_close(score(Group(group.name, 8, moved), net)[order], score(group, net))


@pytest.mark.parametrize("name", SCORES)
def test_a_score_changes_no_tensor(name: str, network: tuple[NetworkGroups, Evidence]) -> None:
    groups, net = network
    before = {k: v.detach().clone() for k, v in net.tensors.items()}
    method_of("importance", name)(groups.cuttable_groups[0], evidence(net.model, groups))
    assert all(torch.equal(before[k], v) for k, v in net.tensors.items())
    assert not net.model.training and all(p.grad is None for p in net.model.parameters())
    assert not any(m._forward_hooks for m in net.model.modules())


@pytest.mark.parametrize("name", [n for n in SCORES if n != "random"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_score_takes_any_precision(name: str, dtype: torch.dtype) -> None:
    if name in MEASURED and dtype == torch.bfloat16:
        pytest.skip("what is measured in bfloat16 is another measurement")
    groups, net = lively(small())
    other = evidence(copy.deepcopy(net.model).to(dtype), groups)
    score = method_of("importance", name)
    torch.testing.assert_close(
        score(groups.cuttable_groups[0], other),
        score(groups.cuttable_groups[0], net),
        rtol=0.02,
        atol=0.02,
    )


@pytest.mark.parametrize("name", [n for n in SCORES if n != "random"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_score_does_not_depend_on_the_device(name: str) -> None:
    groups, net = lively(small())
    there = evidence(copy.deepcopy(net.model).cuda(), groups)
    score = method_of("importance", name)
    torch.testing.assert_close(
        score(groups.cuttable_groups[0], there),
        score(groups.cuttable_groups[0], net),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("name", [n for n in SCORES if n not in ("random", "fpgm")])
def test_a_dead_channel_scores_lowest(name: str) -> None:
    net = small()
    groups, found = lively(net)
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5], net[1].weight[5], net[1].bias[5] = 0, 0, 0, 0
    assert int(method_of("importance", name)(groups.cuttable_groups[0], found).argmin()) == 5


def test_the_same_seed_draws_the_same_scores() -> None:
    groups, net = lively(small())
    draws = [
        method_of("importance", "random")(
            groups.cuttable_groups[0], Evidence(net.model, groups.cuttable_groups, list, seed=seed)
        )
        for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def rows_of(group: Group, net: Evidence) -> list[list[list[float]]]:
    """Return for each layer that makes channels the numbers of each unit's filters, collected one by one."""
    layers = []
    for member in group.members:
        if member.role == "out":
            assert member.axis == 0 and member.unit.ndim == 1
            units: list[list[float]] = [[] for _ in range(group.size)]
            for k, unit in enumerate(member.unit.tolist()):
                if unit >= 0:
                    units[unit] += (
                        net.tensors[member.tensor][k].detach().double().flatten().tolist()
                    )
            layers.append(units)
    return layers


def naive(name: str, units: list[list[float]]) -> list[float]:
    """Return the score of one layer in plain Python."""
    squares = [sum(v * v for v in u) for u in units]
    found = {
        "l1": lambda: [sum(map(abs, u)) for u in units],
        "l2": lambda: [s**0.5 for s in squares],
        "fpgm": lambda: [sum(math.dist(u, v) for v in units) for u in units],
        "lamp": lambda: [s / sum(t for t in squares if t >= s) for s in squares],
    }[name]()
    return found if name == "lamp" else [f / (sum(found) / len(found)) for f in found]


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "lamp"])
@pytest.mark.parametrize("model", ["resnet8", "preresnet11"])
def test_scores_of_filters_against_loops(name: str, model: str) -> None:
    groups, net = lively(factory(model)(num_classes=4))
    for group in groups.cuttable_groups[:4]:
        layers = [naive(name, units) for units in rows_of(group, net)]
        wanted = torch.tensor([sum(values) / len(layers) for values in zip(*layers, strict=True)])
        torch.testing.assert_close(
            method_of("importance", name)(group, net), wanted, rtol=1e-4, atol=1e-6
        )


def test_bn_against_loops(network: tuple[NetworkGroups, Evidence]) -> None:
    groups, net = network
    for group in groups:
        found: list[list[float]] = [[] for _ in range(group.size)]
        for member in group.members:
            for k, unit in enumerate(
                member.unit.flatten().tolist() if member.role == "scale" else []
            ):
                if unit >= 0:
                    found[unit].append(abs(float(net.tensors[member.tensor][k].detach())))
        wanted = [sum(f) / len(f) for f in found]
        torch.testing.assert_close(method_of("importance", "bn")(group, net), torch.tensor(wanted))


def test_group_is_the_norm_of_all_that_a_cut_takes_along(
    network: tuple[NetworkGroups, Evidence],
) -> None:
    """Zero one unit at a time: what the squares of all learned numbers lose is the square of its score."""
    from lissom.surgery.channels.slice import zero_channels

    groups, net = network
    for group in groups.cuttable_groups[:3]:
        found, lost = method_of("importance", "group")(group, net), []
        for unit in range(0, group.size, 5):
            other = copy.deepcopy(net.model)
            zero_channels(other, [(group, torch.arange(group.size) == unit)])
            before, after = (
                sum(float(p.detach().double().square().sum()) for p in m.parameters())
                for m in (net.model, other)
            )
            lost.append(before - after)
        ratio = found[::5].double().square() / torch.tensor(lost, dtype=torch.float64)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_what_the_loss_says_against_finite_differences(name: str) -> None:
    """Scale a channel by 1 + h and 1 - h where it leaves, in every layer that holds it; the loss
    says the rest.
    """
    groups, net = lively(factory("resnet8")(num_classes=4).double())
    h = 1e-5
    for group in groups.cuttable_groups[:2]:
        found = method_of("importance", name)(group, net)
        for unit in (0, group.size // 2, group.size - 1):
            losses = []
            for sign in (1, -1):
                model = copy.deepcopy(net.model)
                with torch.no_grad():
                    for layer in group.layers("scale"):
                        norm = model.get_submodule(layer)
                        norm.weight[unit] *= 1 + sign * h
                        norm.bias[unit] *= 1 + sign * h
                    losses.append(
                        torch.cat(
                            [
                                F.cross_entropy(model(x), y, reduction="none")
                                for x, y in net.images()
                            ]
                        )
                    )
            slope = (losses[0] - losses[1]) / (2 * h)
            wanted = slope.mean().abs() if name == "taylor" else slope.square().mean() / 2
            torch.testing.assert_close(found[unit].double(), wanted, rtol=1e-3, atol=1e-6)


def test_activation_against_the_layer_itself() -> None:
    groups, net = lively(small())
    outs = [net.model[1](net.model[0](x)) for x, _ in net.images()]
    wanted = torch.cat(outs).abs().mean((0, 2, 3)).detach()
    torch.testing.assert_close(
        method_of("importance", "activation")(groups.cuttable_groups[0], net),
        wanted / wanted.mean(),
    )


def test_without_labels_the_networks_own_answers_stand_for_them() -> None:
    groups, net = lively(nn.Sequential(small(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    answers = [(x, net.model(x).argmax(1)) for x, _ in net.images()]
    blind = Evidence(net.model, groups.cuttable_groups, lambda: [(x, None) for x, _ in answers])
    seeing = Evidence(net.model, groups.cuttable_groups, lambda: list(answers))
    score = method_of("importance", "fisher")
    torch.testing.assert_close(
        score(groups.cuttable_groups[0], blind), score(groups.cuttable_groups[0], seeing)
    )


def test_bn_of_a_channel_that_a_norm_sees_at_many_positions_is_their_mean() -> None:
    member = Member("n.weight", 0, "scale", torch.tensor([0, 0, 0, 1, 1, 1]))
    group = Group("c", 2, [Member("c.weight", 0, "out", torch.arange(2)), member])
    net = nn.Module()
    net.n, net.c = nn.Module(), nn.Module()
    net.n.weight, net.c.weight = (
        nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.5, 0.5, 0.5])),
        nn.Parameter(torch.ones(2, 1)),
    )
    assert method_of("importance", "bn")(group, Evidence(net, [group], list)).tolist() == [2.0, 0.5]


def test_bn_without_a_norm_is_an_error() -> None:
    groups, net = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)))
    with pytest.raises(LissomError, match="no batch-norm"):
        method_of("importance", "bn")(groups.cuttable_groups[0], net)


def test_a_layer_that_is_not_called_as_a_module_is_an_error() -> None:
    class Functional(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](F.conv2d(x, self[0].weight, self[0].bias))

    groups, net = lively(Functional(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)))
    with pytest.raises(LissomError, match="was not called as a module"):
        method_of("importance", "taylor")(groups.cuttable_groups[0], net)


@pytest.mark.parametrize("by", ["taylor", "fisher"])
@pytest.mark.parametrize(
    "wrap",
    [lambda y: (y, y), lambda y: {"out": y}, lambda y: y[:, 0], lambda y: y[:, :1]],
    ids=["tuple", "dict", "one number", "one column"],
)
def test_outputs_that_are_no_answers_are_one_clear_line(
    by: str, wrap: Callable[[Tensor], Any]
) -> None:
    class Wrapped(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return wrap(super().forward(x))

    groups, net = lively(
        Wrapped(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    )
    net.loss = cross_entropy
    with pytest.raises(LissomError, match="a number for each class"):
        method_of("importance", by)(groups.cuttable_groups[0], net)


class Two(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.out((self.one(left) + self.two(right)).relu().mean((2, 3)))


@pytest.mark.parametrize("name", sorted(MEASURED))
@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_are_measured_by_position_or_by_name(name: str, named: bool) -> None:
    torch.manual_seed(0)
    net, x = Two().eval(), torch.randn(6, 3, 8, 8)
    inputs: Any = {"right": 2 * x, "left": x} if named else (x, 2 * x)
    groups = groups_of(net, (x[:1], x[:1]))
    labels = torch.arange(6) % 4
    found = Evidence(net, groups.cuttable_groups, lambda: [(inputs, labels)], loss=loss)
    one = nn.Module()
    one.forward = lambda x: net(x, 2 * x)  # type: ignore[method-assign]
    one.net = net
    members = [
        Member(f"net.{m.tensor}", m.axis, m.role, m.unit) for m in groups.cuttable_groups[0].members
    ]
    alone = [Group("c", groups.cuttable_groups[0].size, members)]
    wanted = Evidence(one, alone, lambda: [(x, labels)], loss=loss)
    score = method_of("importance", name)
    torch.testing.assert_close(score(groups.cuttable_groups[0], found), score(alone[0], wanted))


class Aside(nn.Module):
    """A network with an output that the loss does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.aux = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x).relu()
        return {"out": self.out(x), "aux": self.aux(x)}


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_an_output_that_is_not_in_the_loss_counts_nothing(name: str) -> None:
    groups, net = lively(Aside())
    net.loss = lambda images, labels, outputs: loss(images, labels, outputs["out"])
    scores = {
        g.layers("out")[0]: method_of("importance", name)(g, net) for g in groups.cuttable_groups
    }
    assert (scores["stem"] > 0).all() and (scores["aux.0"] == 0).all()


def test_a_loss_that_depends_on_no_layer_is_an_error() -> None:
    groups, net = lively(small())
    net.loss = lambda images, labels, outputs: outputs.detach().sum()
    with pytest.raises(LissomError, match=r"the loss depends on no layer.*l1"):
        method_of("importance", "taylor")(groups.cuttable_groups[0], net)


class Rows(nn.Module):
    """A layer that runs on one row for each sample, then on `each` rows, or on a row for all."""

    def __init__(self, each: float) -> None:
        super().__init__()
        self.each, self.layer, self.out = each, nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.layer(x.mean((2, 3)))
        if self.each < 0:
            return self.out(middle * self.layer(x[0].mean((1, 2))))
        if self.each < 1:
            return self.out(middle + self.layer(x[:2].mean((2, 3))).sum(0))
        rows = x[:, :, : int(self.each), 0].mT.flatten(0, 1)
        return self.out(middle * self.layer(rows).unflatten(0, (len(x), -1)).sum(1))


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_a_layer_with_several_numbers_of_rows_is_measured_for_each_sample(name: str) -> None:
    """As finite differences of the loss of each sample."""
    torch.manual_seed(0)
    net = Rows(3).double().eval()
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    labels = torch.arange(6) % 4
    (group,) = groups_of(net, x[:1]).cuttable_groups
    found = method_of("importance", name)(
        group, Evidence(net, [group], lambda: [(x, labels)], loss=loss)
    )
    for unit in range(8):
        losses = []
        for sign in (1, -1):
            other = copy.deepcopy(net)
            with torch.no_grad():
                other.layer.weight[unit] *= 1 + sign * 1e-5
                other.layer.bias[unit] *= 1 + sign * 1e-5
                losses.append(F.cross_entropy(other(x), labels, reduction="none"))
        slope = (losses[0] - losses[1]) / 2e-5
        wanted = slope.mean().abs() if name == "taylor" else slope.square().mean() / 2
        torch.testing.assert_close(found[unit].double(), wanted, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("each", [0.5, -1])
def test_rows_that_are_of_no_sample_are_an_error(each: float) -> None:
    net = Rows(each).eval()
    x = torch.randn(6, 3, 8, 8)
    (group,) = groups_of(net, x[:4]).cuttable_groups
    net_evidence = Evidence(net, [group], lambda: [(x, torch.arange(6) % 4)], loss=loss)
    with pytest.raises(LissomError, match=r"layer was not called .* samples"):
        method_of("importance", "taylor")(group, net_evidence)
    assert (method_of("importance", "activation")(group, net_evidence) > 0).all()


def test_the_mean_activation_is_that_of_all_samples_whatever_their_batches() -> None:
    groups, net = lively(small())
    whole = torch.cat([x for x, _ in net.images()])
    net.images = lambda: [(whole[:11], None), (9 * whole[11:], None)]
    with torch.no_grad():
        outs = [net.model[1](net.model[0](x)) for x, _ in net.images()]
    wanted = torch.cat(outs).abs().mean((0, 2, 3))
    torch.testing.assert_close(
        method_of("importance", "activation")(groups.cuttable_groups[0], net),
        wanted / wanted.mean(),
    )
