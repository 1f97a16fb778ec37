"""What every score must do; and each of them against naive loops."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from lissom import LissomError
from lissom.menu import menu
from lissom.models import factory
from lissom.surgery.groups import Group, Groups, Member, groups_of

SCORES = list(menu("scores"))


def lively(net: nn.Module) -> tuple[Groups, dict[str, Tensor]]:
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.weight.copy_(torch.randn(layer.weight.shape))
    tensors = dict([*net.named_parameters(), *net.named_buffers()])
    return groups_of(net, torch.zeros(1, 3, 16, 16)), tensors


@pytest.fixture(scope="module", params=["resnet8", "preresnet11", "vgg11"])
def network(request: pytest.FixtureRequest) -> tuple[Groups, dict[str, Tensor]]:
    torch.manual_seed(0)
    return lively(factory(request.param)(num_classes=4))


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_one_finite_number_for_each_unit(name: str, network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    for group in groups:
        found = menu("scores").make(name)(group, tensors)
        assert found.shape == (group.size,) and found.dtype == torch.float32 and torch.isfinite(found).all()
        assert not found.requires_grad and (found >= 0).all()


@pytest.mark.parametrize("name", SCORES)
def test_a_score_does_not_depend_on_the_order_of_members(name: str, network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    score = menu("scores").make(name)
    for group in groups:
        members = list(group.members)
        random.Random(0).shuffle(members)
        torch.testing.assert_close(score(Group(group.name, group.size, members), tensors), score(group, tensors))


@pytest.mark.parametrize("name", SCORES)
def test_a_score_follows_the_channels_when_they_change_places(name: str) -> None:
    groups, tensors = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)))
    (group,) = groups.free
    score, order = menu("scores").make(name), torch.randperm(8)
    moved = [Member(m.tensor, m.axis, m.role, order[m.unit]) for m in group.members]
    torch.testing.assert_close(score(Group(group.name, 8, moved), tensors)[order], score(group, tensors))


@pytest.mark.parametrize("name", SCORES)
def test_a_score_changes_no_tensor(name: str, network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    before = {k: v.detach().clone() for k, v in tensors.items()}
    menu("scores").make(name)(groups.free[0], tensors)
    assert all(torch.equal(before[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_score_takes_any_precision(name: str, dtype: torch.dtype, network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    other = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    score = menu("scores").make(name)
    torch.testing.assert_close(score(groups.free[0], other), score(groups.free[0], tensors), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_score_does_not_depend_on_the_device(name: str, network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    there = {k: v.cuda() for k, v in tensors.items()}
    score = menu("scores").make(name)
    torch.testing.assert_close(score(groups.free[0], there), score(groups.free[0], tensors))


@pytest.mark.parametrize("name", ["l1", "bn"])
def test_a_dead_channel_scores_lowest(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    groups, tensors = lively(net)
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5], net[1].weight[5], net[1].bias[5] = 0, 0, 0, 0
    assert int(menu("scores").make(name)(groups.free[0], tensors).argmin()) == 5


def test_l1_against_loops(network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    for group in groups:
        wanted, makers = [0.0] * group.size, [m for m in group.members if m.role == "out"]
        for member in makers:
            sizes = [0.0] * group.size
            for k, unit in enumerate(member.unit.tolist()):
                if unit >= 0:
                    sizes[unit] += float(tensors[member.tensor][k].detach().double().abs().sum())
            for unit in range(group.size):
                wanted[unit] += sizes[unit] / (sum(sizes) / group.size) / len(makers)
        torch.testing.assert_close(menu("scores").make("l1")(group, tensors), torch.tensor(wanted))


def test_bn_against_loops(network: tuple[Groups, dict[str, Tensor]]) -> None:
    groups, tensors = network
    for group in groups:
        scales = [m for m in group.members if m.role == "scale"]
        found: list[list[float]] = [[] for _ in range(group.size)]
        for member in scales:
            for k, unit in enumerate(member.unit.tolist()):
                if unit >= 0:
                    found[unit].append(abs(float(tensors[member.tensor][k].detach())))
        wanted = [sum(f) / len(f) for f in found]
        torch.testing.assert_close(menu("scores").make("bn")(group, tensors), torch.tensor(wanted))


def test_bn_of_a_channel_that_a_norm_sees_at_many_positions_is_their_mean() -> None:
    member = Member("n.weight", 0, "scale", torch.tensor([0, 0, 0, 1, 1, 1]))
    group = Group("c", 2, [Member("c.weight", 0, "out", torch.arange(2)), member])
    tensors = {"n.weight": torch.tensor([1.0, -2.0, 3.0, 0.5, 0.5, 0.5]), "c.weight": torch.ones(2, 1)}
    assert menu("scores").make("bn")(group, tensors).tolist() == [2.0, 0.5]


def test_bn_without_a_norm_is_an_error() -> None:
    groups, tensors = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)))
    with pytest.raises(LissomError, match="no batch-norm"):
        menu("scores").make("bn")(groups.free[0], tensors)
