"""Which channels must be pruned together, which separately, and which must stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from networks import Net, conv, head
from torch import Tensor, nn

from lissom.models import factory
from lissom.surgery.channels.group import Group
from lissom.surgery.channels.network_groups import NetworkGroups, groups_of

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def together(groups: NetworkGroups) -> dict[frozenset[str], int]:
    """Return the sets of layers whose outputs are coupled, with the number of units of each."""
    return {frozenset(group.layers("out")): group.size for group in groups}


def couples(*sets: tuple[str, int]) -> dict[frozenset[str], int]:
    return {frozenset(names.split()): size for names, size in sets}


def reader(groups: NetworkGroups, tensor: str) -> list[list[int]]:
    """Return the units that each group cuts of what a tensor reads."""
    return [
        m.unit.tolist() for g in groups for m in g.members if m.tensor == tensor and m.role == "in"
    ]


def the(groups: NetworkGroups, layer: str) -> Group:
    return next(g for g in groups if layer in g.layers("out"))


def test_layers_of_a_chain_are_cut_one_by_one() -> None:
    net = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, bias=False), nn.ReLU(), head(6)
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("0", 8), ("3", 6))
    assert {(m.tensor, m.role) for m in the(groups, "0").members} == {
        ("0.weight", "out"),
        ("0.bias", "vector"),
        ("1.weight", "scale"),
        ("1.bias", "vector"),
        ("1.running_mean", "vector"),
        ("1.running_var", "vector"),
        ("3.weight", "in"),
    }
    assert reader(groups, "5.2.weight") == [list(range(6))]


def test_the_sides_of_a_residual_add_are_cut_together() -> None:
    net = Net(
        lambda s, x: s.head((y := F.relu(s.stem(x))) + s.two(F.relu(s.one(y)))),
        stem=conv(3, 8),
        one=conv(8, 12),
        two=conv(12, 8),
        head=head(8),
    )
    assert together(groups_of(net, IMAGE)) == couples(("stem two", 8), ("one", 12))


@pytest.mark.parametrize(
    "add",
    [
        lambda y, z: y.__iadd__(z),
        lambda y, z: y.add_(z),
        lambda y, z: torch.add(y, z, alpha=2),
        lambda y, z: y - z,
        lambda y, z: y * z,
        lambda y, z: torch.maximum(y, z),
    ],
    ids=["iadd", "add_", "alpha", "sub", "mul", "maximum"],
)
def test_every_way_to_add_couples(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(
        lambda s, x: s.head(add(s.one(x), s.two(x))), one=conv(3, 8), two=conv(3, 8), head=head(8)
    )
    assert together(groups_of(net, IMAGE)) == couples(("one two", 8))


def test_an_add_in_place_whose_result_is_thrown_away_still_couples() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.one(x)
        y.add_(s.two(x))
        return s.head(y)

    net = Net(forward, one=conv(3, 8), two=conv(3, 8), head=head(8))
    assert together(groups_of(net, IMAGE)) == couples(("one two", 8))


def test_an_add_in_place_into_some_channels_couples_those() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.one(x)
        y[:, 2:6].add_(s.two(x))
        return s.head(y)

    groups = groups_of(Net(forward, one=conv(3, 8), two=conv(3, 4), head=head(8)), IMAGE)
    for group in groups:  # what is cut of `two` is cut of the four channels that it is added to
        units = {m.tensor: m.unit.tolist() for m in group.members if m.role == "out"}
        if "two.weight" in units:
            assert [u for u in units["one.weight"][2:6] if u >= 0] == [
                u for u in units["two.weight"] if u >= 0
            ]


def test_a_depthwise_convolution_passes_its_channels_on() -> None:
    net = nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 8, groups=8), nn.BatchNorm2d(8), conv(8, 4), head(4)
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("0 2", 8), ("4", 4))
    assert ("2.weight", 1) not in {(m.tensor, m.axis) for g in groups for m in g.members}


def test_concatenated_channels_stay_their_makers_own() -> None:
    net = Net(
        lambda s, x: s.head(s.out(torch.cat([s.one(x), s.two(x)], 1))),
        one=conv(3, 4),
        two=conv(3, 6),
        out=conv(10, 5),
        head=head(5),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 4), ("two", 6), ("out", 5))
    assert sorted(reader(groups, "out.weight")) == [
        [-1] * 4 + list(range(6)),
        list(range(4)) + [-1] * 6,
    ]


@pytest.mark.parametrize(
    "flat",
    [lambda x: x.flatten(1), lambda x: x.view(x.shape[0], -1), lambda x: x.reshape(len(x), -1)],
    ids=["flatten", "view", "reshape"],
)
def test_a_linear_layer_after_flatten_reads_each_channel_at_every_position(
    flat: Callable[[Tensor], Tensor],
) -> None:
    net = Net(lambda s, x: s.head(flat(s.one(x))), one=conv(3, 4), head=nn.Linear(4 * 64, 5))
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 4))
    assert reader(groups, "head.weight") == [[k // 64 for k in range(4 * 64)]]


def test_a_squeeze_excitation_gate_is_cut_with_what_it_scales() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.one(x)
        gate = torch.sigmoid(s.up(F.relu(s.down(y.mean((2, 3), keepdim=True)))))
        return s.head(y * gate)

    net = Net(forward, one=conv(3, 8), down=nn.Conv2d(8, 2, 1), up=nn.Conv2d(2, 8, 1), head=head(8))
    assert together(groups_of(net, IMAGE)) == couples(("one up", 8), ("down", 2))


def test_a_gate_made_by_linear_layers_is_cut_with_what_it_scales() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.one(x)
        gate = torch.sigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(y, 1).flatten(1)))))
        return s.head(y * gate.view(*gate.shape, 1, 1))

    net = Net(forward, one=conv(3, 8), down=nn.Linear(8, 2), up=nn.Linear(2, 8), head=head(8))
    assert together(groups_of(net, IMAGE)) == couples(("one up", 8), ("down", 2))


def test_a_gate_of_one_channel_stays_and_what_it_scales_is_free() -> None:
    net = Net(
        lambda s, x: s.head((y := s.one(x)) * torch.sigmoid(s.gate(y))),
        one=conv(3, 8),
        gate=conv(8, 1),
        head=head(8),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 8))
    assert "gates every channel" in groups.left_whole["gate"]


def test_a_layer_used_twice_cuts_what_it_reads_with_what_it_makes() -> None:
    net = Net(
        lambda s, x: s.head(s.twice(F.relu(s.twice(F.relu(s.one(x)))))),
        one=conv(3, 8),
        twice=conv(8, 8),
        head=head(8),
    )
    assert together(groups_of(net, IMAGE)) == couples(("one twice", 8))


def test_layers_that_share_a_weight_are_cut_together() -> None:
    one, two = conv(8, 6), conv(8, 6)
    two.weight = one.weight
    net = Net(
        lambda s, x: s.head(torch.cat([s.one(y := s.stem(x)), s.two(F.relu(y))], 1)),
        stem=conv(3, 8),
        one=one,
        two=two,
        head=head(12),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups)[frozenset({"one"})] == 6
    assert reader(groups, "head.2.weight") == [[*range(6), *range(6)]]


def test_a_learned_scale_of_each_channel_is_cut_with_it() -> None:
    net = Net(lambda s, x: s.head(s.one(x) * s.scale), one=conv(3, 8), head=head(8))
    net.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 8))
    assert ("scale", 1, "vector") in {
        (m.tensor, m.axis, m.role) for m in the(groups, "one").members
    }


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        ("softmax over channels", lambda x: x.softmax(1)),
        ("sum over channels", lambda x: x.cumsum(1)),
        ("group norm", lambda x: F.group_norm(x, 2)),
        ("layer norm", lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)),
        ("matrix product", lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).unsqueeze(3)),
        ("sort", lambda x: x.sort(1).values),
        ("local response norm", lambda x: F.local_response_norm(x, 3)),
        ("mean over channels", lambda x: x - x.mean(1, keepdim=True)),
        ("circular padding", lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")),
    ],
)
def test_channels_that_an_operation_mixes_are_left_whole_with_a_reason(
    name: str, mix: Callable[[Tensor], Tensor]
) -> None:
    with torch.no_grad():
        width = mix(torch.zeros(1, 8, 8, 8)).shape[1]
    net = Net(
        lambda s, x: s.head(mix(s.one(s.stem(x)))),
        stem=conv(3, 6),
        one=conv(6, 8),
        head=head(width),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("stem", 6)), name
    assert groups.left_whole["one"]


def test_weights_that_are_computed_leave_what_they_read_whole() -> None:
    net = Net(
        lambda s, x: s.head(F.conv2d(s.one(x), s.two.weight - s.two.weight.mean(), padding=1)),
        one=conv(3, 8),
        two=conv(8, 8),
        head=head(8),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == {} and "computed" in groups.left_whole["one"]


def test_layers_that_compute_their_weights_are_named() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean(), padding=1)

    net = nn.Sequential(
        conv(3, 8), Standardized(8, 8, 3), nn.ReLU(), Standardized(8, 8, 3), head(8)
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == {} and all(
        "computed" in groups.left_whole[name] for name in ("0", "1", "3")
    )


def test_pixels_shuffled_and_pooled_tie_the_channels_they_came_from() -> None:
    net = Net(
        lambda s, x: s.head(F.max_pool2d(F.pixel_shuffle(s.one(x), 2), 3)),
        one=conv(3, 8),
        head=head(2),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 2))
    assert the(groups, "one").members[0].unit.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_padded_channels_stay_and_those_beside_them_are_free() -> None:
    net = Net(
        lambda s, x: s.head(F.pad(s.one(x), (0, 0, 0, 0, 2, 2))), one=conv(3, 8), head=head(12)
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 8))
    assert reader(groups, "head.2.weight") == [[-1, -1, *range(8), -1, -1]]


def test_a_grouped_convolution_keeps_as_many_channels_in_every_group() -> None:
    net = nn.Sequential(conv(3, 12), conv(12, 8, groups=4), conv(8, 6), head(6))
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("0", 12), ("1", 8), ("2", 6))
    assert [b.tolist() for b in the(groups, "0").blocks] == [[k // 3 for k in range(12)]]
    assert [b.tolist() for b in the(groups, "1").blocks] == [[k // 2 for k in range(8)]]
    assert reader(groups, "1.weight") == [[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]]
    assert [g.step(1) for g in groups] == [4, 4, 1] and [g.step(8) for g in groups] == [8, 8, 8]


def test_a_shuffle_ties_the_channels_that_change_places_together() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.grouped(s.one(x))
        n, c, h, w = y.shape
        return s.head(s.last(s.out(y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w))))

    net = Net(
        forward,
        one=conv(3, 16),
        grouped=conv(16, 32, groups=4),
        out=conv(32, 16, groups=4),
        last=conv(16, 8),
        head=head(8),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 16), ("grouped", 8), ("out", 16), ("last", 8))
    shuffled = the(groups, "grouped")
    # the same place in each of 4 groups
    assert shuffled.members[0].unit.tolist() == [k % 8 for k in range(32)]
    # two of them in each group that reads
    assert [b.tolist() for b in shuffled.blocks] == [[0, 0, 1, 1, 2, 2, 3, 3]]


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8), head(8)),
        lambda: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), head(8)),
    ],
    ids=["group", "instance"],
)
def test_channels_that_are_normalised_together_are_cut_together(
    net: Callable[[], nn.Module],
) -> None:
    model = net()
    (group,) = groups_of(model, IMAGE).cuttable_groups
    assert group.size == (4 if isinstance(model[1], nn.GroupNorm) else 8)
    assert {m.tensor for m in group.members} >= {"0.weight", "1.weight", "1.bias", "2.2.weight"}


def test_a_transposed_convolution_makes_channels_along_its_second_axis() -> None:
    net = nn.Sequential(
        conv(3, 8),
        nn.ConvTranspose2d(8, 6, 2, 2),
        nn.ConvTranspose2d(6, 6, 3, groups=6),
        conv(6, 4),
        head(4),
    )
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("0", 8), ("1 2", 6), ("3", 4))
    assert {(m.tensor, m.axis) for m in the(groups, "1").members if m.role == "out"} == {
        ("1.weight", 1),
        ("2.weight", 0),
    }


def test_the_hidden_width_of_attention_layers_is_free_and_what_is_normalised_over_stays() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    net = Net(
        lambda s, x: s.head(s.layer(s.one(x).flatten(2).transpose(1, 2)).mean(1)),
        one=conv(3, 16),
        layer=layer,
        head=nn.Linear(16, 5),
    )
    groups = groups_of(net, IMAGE)
    assert frozenset({"layer.linear1"}) in together(groups)
    assert "averages over its channels" in groups.left_whole["one"]


def test_halves_of_a_layer_lose_the_same_when_asked_to() -> None:
    net = Net(
        lambda s, x: s.head(s.b((y := s.a(x).chunk(2, 1))[0]) + s.c(y[1])),
        a=conv(3, 16),
        b=conv(8, 8),
        c=conv(8, 8),
        head=head(8),
    )
    free = groups_of(net, IMAGE)
    assert free.split_layers == {"a"} and [g.size for g in free if "a" in g.layers("out")] == [8, 8]
    (tied,) = [g for g in groups_of(net, IMAGE, tied={"a"}) if "a" in g.layers("out")]
    assert tied.members[0].unit.tolist() == [*range(8), *range(8)]


@pytest.mark.parametrize(
    "wrap", [lambda y: y, lambda y: (y, 1), lambda y: {"out": [y]}], ids=["tensor", "tuple", "dict"]
)
def test_what_enters_and_leaves_the_network_stays(wrap: Callable[[Tensor], Any]) -> None:
    net = Net(lambda s, x: wrap(s.last(F.relu(s.one(x)))), one=conv(3, 8), last=conv(8, 8))
    groups = groups_of(net, IMAGE)
    assert together(groups) == couples(("one", 8))
    assert groups.left_whole == {"last": "an output of the network"}
    assert ("one.weight", 1) not in {(m.tensor, m.axis) for g in groups for m in g.members}


def test_what_is_added_to_the_input_stays() -> None:
    net = Net(
        lambda s, x: s.head(s.two(F.relu(s.one(x))) + x),
        one=conv(3, 8),
        two=conv(8, 3),
        head=head(3),
    )
    groups = groups_of(net, IMAGE)
    assert (
        together(groups) == couples(("one", 8))
        and groups.left_whole["two"] == "the input of the network"
    )


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_recurrent_layer_and_what_gates_it_stay(layer: type[nn.RNNBase]) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        states, _ = s.recurrent(F.relu(s.one(x)).transpose(1, 2))
        shares = s.attention(states).softmax(1)
        return s.head((states * shares).sum(1))  # type: ignore[no-any-return]

    net = Net(
        forward,
        one=nn.Conv1d(4, 8, 3),
        recurrent=layer(8, 6, batch_first=True),
        attention=nn.Linear(6, 1),
        head=nn.Linear(6, 3),
    )
    groups = groups_of(net, torch.randn(1, 4, 5))
    assert together(groups) == couples(("one", 8))
    assert "the state of a recurrent layer" in groups.left_whole["recurrent"]
    reason = groups.left_whole["attention"]
    assert "the state of a recurrent layer" in reason or "gates every channel" in reason


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_the_groups_are_those_that_torch_pruning_finds(name: str) -> None:
    net, image = factory(name)(num_classes=10), torch.randn(1, 3, 32, 32)
    known = {layer: key for key, layer in net.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(net, image)
    wanted: dict[frozenset[str], int] = {}
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d]):
        made = {
            known[dep.target.module]
            for dep, _ in group
            if dep.handler.__name__ == "prune_out_channels"
            and isinstance(dep.target.module, nn.Conv2d)
        }
        wanted[frozenset(made)] = len(group[0].idxs)
    assert together(groups_of(net, image)) == wanted


def test_looking_changes_nothing() -> None:
    net = factory("resnet8")(num_classes=10).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    groups_of(net, IMAGE)
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())
