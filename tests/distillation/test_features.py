"""Where features are, which features of two networks correspond, and which of their channels are
the same.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv, head
from torch import Tensor, nn
from torchvision.models import DenseNet, mobilenet_v2, resnet18, shufflenet_v2_x0_5

import lissom
from lissom import LissomError
from lissom.distillation.features import (
    channel_matcher,
    compared_places,
    module_outputs,
    output_pairs,
    outputs_text,
    record_features,
    same_architecture,
    stage_ends,
    unwrapped,
)
from lissom.models import factory
from lissom.store.snapshot import restore, save
from lissom.surgery.channels.choose import lowest
from lissom.surgery.channels.slice import Cut, slice_channels
from lissom.surgery.channels.trial_cut import cuttable

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def awake(model: nn.Module) -> nn.Module:
    """Give every batch-norm statistics and scales of its own, so that no two channels are alike."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                for tensor in (m.weight, m.bias, m.running_mean):
                    tensor.add_(0.2 * torch.randn(tensor.shape, generator=draw))
    return model.eval()


def branches() -> nn.Module:
    """A concatenation of two branches, the second of which is added to a third; then a shuffle of
    channels.
    """

    def forward(s: Any, x: Tensor) -> Any:
        x = F.relu(s.norm(s.stem(x)))
        y = s.joined(torch.cat([s.one(x), s.two(x) + s.three(x), x], 1))
        y = y.view(len(y), 2, y.shape[1] // 2, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        return s.head(F.relu(s.last(F.max_pool2d(s.mixed(y), 2))))

    return Net(
        forward,
        stem=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        one=conv(8, 6),
        two=conv(8, 10),
        three=conv(8, 10),
        joined=nn.Identity(),
        mixed=nn.Identity(),
        last=conv(24, 12),
        head=head(12),
    )


NETWORKS = {
    "resnet8": lambda: factory("resnet8")(10),
    "branches": branches,
    "resnet18": lambda: resnet18(num_classes=5),
    "densenet": lambda: DenseNet(8, (2, 2), 16, num_classes=5),
    "mobilenet": lambda: mobilenet_v2(num_classes=5),
    "shufflenet": lambda: shufflenet_v2_x0_5(num_classes=5),
}


def cut_of(model: nn.Module, seed: int) -> Cut:
    """Choose about a third of the units of every group."""
    draw, cut = torch.Generator().manual_seed(seed), []
    for group in cuttable(model, IMAGES):
        count = group.size // 3 // group.step(1) * group.step(1)
        cut.append((group, lowest(torch.rand(group.size, generator=draw), count, group.blocks)))
    return cut


def deafened(model: nn.Module, cut: Cut) -> nn.Module:
    """Return the network whole, but reading nothing of what is cut: the channels that stay are as
    in the cut network.
    """
    model = copy.deepcopy(model)
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for group, units in cut:
            for member in group.members:
                if member.role == "in":
                    gone = (member.unit >= 0) & units[member.unit.clamp_min(0)]
                    assert gone.ndim == 1, "no grouped convolutions here"
                    tensors[member.tensor].index_fill_(member.axis, gone.nonzero().flatten(), 0)
    return model


def features(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    made = module_outputs(model, IMAGES)
    with torch.no_grad(), record_features(model, [made[name] for name in names]) as seen:
        model.eval()(IMAGES)
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_the_channels_that_a_cut_network_kept_are_found_in_the_whole_one(name: str) -> None:
    teacher = awake(NETWORKS[name]())
    student, cut = copy.deepcopy(teacher), cut_of(teacher, 0)
    slice_channels(student, cut)
    whole, made, match = (
        module_outputs(teacher, IMAGES),
        module_outputs(student, IMAGES),
        channel_matcher(student, teacher, IMAGES),
    )
    found = {n: match(made[n], whole[n]) for n in made if made[n].calls == 1}
    assert None not in [found[end.name] for end in stage_ends(made)]
    known = [n for n, index in found.items() if index is not None]
    assert len(known) > 0.9 * len(found)
    ours, theirs = features(student, known), features(deafened(teacher, cut), known)
    smaller = 0
    for n in known:
        torch.testing.assert_close(
            ours[n], theirs[n][:, found[n]], rtol=1e-3, atol=1e-3 * float(theirs[n].abs().max())
        )
        smaller += ours[n].shape[1] < theirs[n].shape[1]
    assert smaller > len(known) / 3, "most places lost channels"


def test_what_was_cut_twice_quantized_and_stored_is_found_too(tmp_path: Path) -> None:
    teacher = awake(NETWORKS["resnet8"]())
    first, twice = cut_of(teacher, 0), copy.deepcopy(teacher)
    slice_channels(twice, first)
    deaf = deafened(teacher, first)
    second = cut_of(twice, 1)
    once = copy.deepcopy(twice)
    slice_channels(twice, second)
    save(twice, tmp_path)
    student = restore(NETWORKS["resnet8"](), tmp_path)
    for network in (student, lissom.apply("quantize(8)", student, IMAGES, IMAGES)):
        found = compared_places(network, teacher, IMAGES, None, "here")
        assert [place.how for place in found] == ["kept channels"] * 3
        between = compared_places(twice, once, IMAGES, None, "here")
        names = [place.student.name for place in found]
        ours, middle, theirs = (
            features(network, names),
            features(deafened(once, second), names),
            features(deaf, names),
        )
        for place, near in zip(found, between, strict=True):
            n, size = place.student.name, float(middle[place.student.name].abs().max())
            assert (ours[n] - middle[n][:, near.channels]).abs().mean() < 0.05 * size
            once_there = compared_places(once, teacher, IMAGES, n, "here")[0].channels
            assert torch.equal(place.channels, once_there[near.channels])
            torch.testing.assert_close(
                features(once, [n])[n], theirs[n][:, once_there], rtol=1e-3, atol=1e-3 * size
            )
    assert unwrapped(network) is not network


def test_a_network_that_lost_nothing_is_compared_as_it_is() -> None:
    teacher = factory("resnet8")(10).eval()
    student = lissom.apply("fold", teacher, IMAGES)
    found = compared_places(student, teacher, IMAGES, None, "here")
    assert [(p.student.name, p.how) for p in found] == [
        ("blocks.0", "same"),
        ("blocks.1", "same"),
        ("blocks", "same"),
    ]
    assert (
        compared_places(teacher, teacher, IMAGES, "blocks.0.conv1=blocks.0.conv2", "here")[0].how
        == "adapter"
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda: factory("resnet14")(10),
        lambda: Net(lambda s, x: s.a(x), a=conv(3, 8)),
        lambda: factory("vgg16")(10),
    ],
)
def test_another_architecture_is_not_akin(other: Any) -> None:
    assert not same_architecture(factory("resnet8")(10), other())


def test_a_narrower_network_that_was_not_cut_is_not_akin() -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(conv(3, width), nn.ReLU(), head(width))

    assert same_architecture(net(8), net(8)) and not same_architecture(net(4), net(8))
    cut = net(8)
    slice_channels(cut, cut_of(cut, 0))
    assert (
        same_architecture(cut, net(8))
        and same_architecture(net(8), cut)
        and not same_architecture(cut, net(4))
        and not same_architecture(net(4), cut)
    )
    (place,) = compared_places(net(4), net(8), IMAGES, "1", "here")
    assert place.how == "adapter" and place.channels is None


def test_channels_that_one_network_alone_has_need_an_adapter() -> None:
    """The student kept the first channels of its stem, the teacher the last."""
    whole = nn.Sequential(conv(3, 9), nn.ReLU(), conv(9, 4), head(4)).eval()
    low, high = copy.deepcopy(whole), copy.deepcopy(whole)
    for network, order in ((low, torch.arange(9.0)), (high, -torch.arange(9.0))):
        group = next(g for g in cuttable(network, IMAGES) if g.name == "0")
        slice_channels(network, [(group, lowest(order, 3, group.blocks))])
    assert compared_places(high, low, IMAGES, "1", "here")[0].how == "adapter"
    assert compared_places(high, whole, IMAGES, "1", "here")[0].how == "kept channels"
    assert compared_places(whole, whole, IMAGES, "1", "here")[0].how == "same"


def test_features_that_cannot_be_followed_and_lost_nothing_go_channel_by_channel() -> None:
    net = Net(
        lambda s, x: s.head(s.two(s.seen(torch.cumsum(s.one(x), 1)))),
        one=conv(3, 6),
        seen=nn.Identity(),
        two=conv(6, 9),
        head=head(9),
    )
    cut = copy.deepcopy(net)
    slice_channels(cut, cut_of(net, 0))
    assert len(cut.one.weight) == 6 and len(cut.two.weight) == 6
    assert [p.how for p in compared_places(cut, net, IMAGES, "seen,two", "here")] == [
        "same",
        "kept channels",
    ]


def test_networks_that_lost_nothing_need_not_be_followed() -> None:
    net = Net(
        lambda s, x: s.head(s.seen(F.pixel_shuffle(s.one(x), 2))),
        one=conv(3, 8),
        seen=nn.Identity(),
        head=head(2),
    )
    assert [p.how for p in compared_places(copy.deepcopy(net), net, IMAGES, "seen", "here")] == [
        "same"
    ]


def test_a_channel_that_is_there_twice_is_found_twice_and_is_not_one_that_is_there_once() -> None:
    net = Net(
        lambda s, x: s.head(s.seen(torch.cat([y := s.one(x), y], 1))),
        one=conv(3, 6),
        seen=nn.Identity(),
        head=head(12),
    )
    cut, (group,) = copy.deepcopy(net), cuttable(net, IMAGES)
    slice_channels(cut, [(group, torch.tensor([True, False, False, True, False, False]))])
    (place,) = compared_places(cut, net, IMAGES, "seen", "here")
    assert place.channels is not None and place.channels.tolist() == [1, 2, 4, 5, 7, 8, 10, 11]
    assert [p.how for p in compared_places(cut, net, IMAGES, "one=seen,seen=one", "here")] == [
        "adapter"
    ] * 2


# places


def test_the_last_module_of_each_size_ends_a_stage() -> None:
    names = {
        k: outputs_text(stage_ends(module_outputs(NETWORKS[k](), IMAGES)))
        for k in ("resnet8", "resnet18")
    }
    assert names == {
        "resnet8": "blocks.0 (32x32), blocks.1 (16x16), blocks (8x8)",
        "resnet18": "relu (16x16), layer1 (8x8), layer2 (4x4), layer3 (2x2)",
    }


def test_modules_are_listed_as_they_finish_and_one_that_runs_twice_ends_no_stage() -> None:
    relu = nn.ReLU()
    net = Net(
        lambda s, x: s.head(s.relu(s.two(F.max_pool2d(s.relu(s.one(x)), 2)))),
        relu=relu,
        one=conv(3, 4),
        two=conv(4, 4),
        head=head(4),
    )
    made = module_outputs(net.train(), IMAGES)
    assert list(made) == ["one", "two", "relu", "head.0"] and net.training
    assert made["relu"].calls == 2 and made["relu"].shape == (4, 16, 16)
    assert outputs_text(stage_ends(made)) == "one (32x32), two (16x16)"
    assert not net._forward_hooks and not relu._forward_hooks


def test_features_are_those_of_before_they_were_changed_in_place() -> None:
    net = nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), conv(4, 4), nn.ReLU()).eval()
    made = module_outputs(net, IMAGES)
    assert [made[k].changed for k in "0123"] == [True, False, False, False]
    with torch.inference_mode():
        wanted = net[0](IMAGES)
        with record_features(net, made.values()) as seen:
            net(IMAGES)
    assert torch.equal(seen["0"], wanted) and torch.equal(seen["1"], wanted.relu())


def test_hooks_are_gone_after_an_error() -> None:
    net = nn.Sequential(conv(3, 4), conv(5, 4))
    made = module_outputs(nn.Sequential(conv(3, 4), conv(4, 4)), IMAGES)
    with pytest.raises(RuntimeError), record_features(net, made.values()):
        net(IMAGES)
    with pytest.raises(RuntimeError):
        module_outputs(net, IMAGES)
    assert not any(m._forward_hooks for m in net.modules())


def named(
    at: str | None, student: str = "resnet8", teacher: str = "resnet14"
) -> list[tuple[str, str]]:
    made = [module_outputs(factory(name)(10), IMAGES) for name in (student, teacher)]
    return [(one.name, two.name) for one, two in output_pairs(at, *made, "here")]


@pytest.mark.parametrize(
    ("at", "wanted"),
    [
        (None, [("blocks.0", "blocks.1"), ("blocks.1", "blocks.3"), ("blocks", "blocks")]),
        ("blocks.2", [("blocks.2", "blocks")]),
        ("blocks.2=blocks.4", [("blocks.2", "blocks.4")]),
        ("blocks.1 , bn", [("bn", "bn"), ("blocks.1", "blocks.3")]),
        (
            "blocks.*=blocks.[135]",
            [("blocks.0", "blocks.1"), ("blocks.1", "blocks.3"), ("blocks.2", "blocks.5")],
        ),
        ("blocks.0,blocks.[0]", [("blocks.0", "blocks.0")]),
        ("blo*", [("blocks", "blocks")]),
        (
            "blocks.0=blocks.0,blocks.0=blocks.1",
            [("blocks.0", "blocks.0"), ("blocks.0", "blocks.1")],
        ),
    ],
)
def test_places_are_named_by_patterns_or_found_by_size(
    at: str | None, wanted: list[tuple[str, str]]
) -> None:
    assert named(at) == wanted


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (
            "blocs.2",
            "here: at: no module of the student that makes features (n c h w) is called "
            "'blocs.2'; did you mean 'bl",
        ),
        (
            "head",
            "is called 'head'. Its stages end in blocks.0 (32x32), blocks.1 (16x16), blocks (8x8)",
        ),
        ("", "is called ''"),
        ("blocks.2,", "is called ''"),
        ("blocks.2=", "no module of the teacher"),
        (
            "blocks.2=stage*",
            "no module of the teacher that makes features (n c h w) is called 'stage*'",
        ),
        (
            "blocks.*=blocks.0",
            "at='blocks.*=blocks.0' names 3 modules of the student and 1 of the teacher",
        ),
        (
            "blocks.1=blocks.5",
            "features of the student's 'blocks.1' are 16x16, those of the teacher's 'blocks.5' 8x8",
        ),
    ],
)
def test_a_place_that_is_none_is_refused(at: str, said: str) -> None:
    with pytest.raises(LissomError) as caught:
        named(at)
    assert said in str(caught.value)


def test_networks_without_a_size_in_common_are_refused() -> None:
    one = nn.Sequential(conv(3, 4), head(4))
    two = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), head(4))
    made = [module_outputs(net, IMAGES) for net in (one, two)]
    with pytest.raises(
        LissomError,
        match=r"no features of one size .* end in 0 \(32x32\), the "
        r"teacher's in 0 \(16x16\)",
    ):
        output_pairs(None, *made, "here")
    with pytest.raises(
        LissomError, match=r"no features of one size .* the student's stages end in nothing"
    ):
        output_pairs(None, module_outputs(nn.Flatten(), IMAGES), made[1], "here")
    other = module_outputs(Net(lambda s, x: s.head(s.trunk(x)), trunk=two[0], head=head(4)), IMAGES)
    with pytest.raises(
        LissomError,
        match=r'no such module and no stage of 32x32; .* at="0=NAME" '
        r"names its counterpart",
    ):
        output_pairs("0", made[0], other, "here")
