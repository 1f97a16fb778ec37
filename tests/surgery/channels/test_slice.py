"""Removing channels gives exactly the outputs of setting them to zero, in every network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net, conv, head
from torch import Tensor, nn

from lissom import LissomError, apply
from lissom.models import factory
from lissom.surgery.channels.choose import lowest
from lissom.surgery.channels.network_groups import NetworkGroups, groups_of
from lissom.surgery.channels.rules import RULES
from lissom.surgery.channels.slice import (
    Cut,
    slice_channels,
    zero_channels,
    zero_channels_alike,
)
from lissom.surgery.channels.trial_cut import cuttable, trial_stages
from lissom.surgery.compare import network_difference

EXACT = 1e-9  # everything here is computed in float64


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch-norms numbers that matter, everything in float64."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._NormBase):
                for tensor, low, high in (
                    (layer.weight, -1.5, 1.5),
                    (layer.bias, -1, 1),
                    (layer.running_mean, -1, 1),
                    (layer.running_var, 0.5, 2),
                ):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
    return model.double().eval()


def images(count: int = 4, size: int = 8, channels: int = 3) -> Tensor:
    return torch.randn(
        count, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


def random_cut(groups: NetworkGroups, seed: int) -> Cut:
    """Choose units at random of every group, never all of them, as many of each block as of the others."""
    draw = torch.Generator().manual_seed(seed)
    cut: Cut = []
    for group in groups:
        step = group.step(1)
        count = int(torch.randint(0, group.size // step, (1,), generator=draw)) * step
        cut.append((group, lowest(torch.rand(group.size, generator=draw), count, group.blocks)))
    return cut


def check_exact(model: nn.Module, x: Tensor, seed: int = 0) -> nn.Module:
    """Slice and mask the same random units; the two must compute the same."""
    lively(model, seed)
    cut = random_cut(cuttable(model, x), seed)
    zeroed, small = copy.deepcopy(model), copy.deepcopy(model)
    zero_channels(zeroed, cut)
    slice_channels(small, cut)
    with torch.no_grad():
        assert small(x).shape == model(x).shape
    assert network_difference(zeroed, small, x) < EXACT
    return small


def check_dead(model: nn.Module, x: Tensor, seed: int = 0) -> None:
    """Make random units exactly dead where they are made, and leave those who read them alone:
    cutting changes nothing.
    """
    lively(model, seed)
    groups = cuttable(model, x)
    cut = random_cut(groups, seed)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for group, units in cut:
            for member in group.members:
                if member.role != "in" and "running" not in member.tensor:
                    kill(
                        tensors[member.tensor],
                        member.axis,
                        (member.unit >= 0) & units[member.unit.clamp_min(0)],
                    )
    small = copy.deepcopy(model)
    slice_channels(small, cut)
    assert network_difference(model, small, x) < EXACT


def kill(tensor: Tensor, axis: int, dead: Tensor) -> None:
    """Zero what is dead along an axis, element by element of the blocks of a grouped convolution."""
    for block, part in enumerate(tensor.chunk(len(dead)) if dead.ndim == 2 else [tensor]):
        part.index_fill_(axis, (dead[block] if dead.ndim == 2 else dead).nonzero().flatten(), 0)


class Residual(nn.Module):
    def __init__(self, width: int, inner: int, inplace: bool) -> None:
        super().__init__()
        self.one, self.bn, self.two = (
            conv(width, inner),
            nn.BatchNorm2d(inner),
            conv(inner, width, bias=False),
        )
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.relu(self.bn(self.one(x))))
        if self.inplace:
            y += x
            return F.relu_(y)
        return F.relu(x + y)


class Concat(nn.Module):
    def __init__(self, width: int, grown: int) -> None:
        super().__init__()
        self.bn, self.one = nn.BatchNorm2d(width), conv(width, grown)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(F.relu(self.bn(x))), x], 1)


class Excite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 3), nn.Linear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Spatial(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = conv(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.one(x))


class Twice(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.one(F.relu(self.one(x))))


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Draw a small network of blocks that couple channels in every way known here."""
    torch.manual_seed(draw(st.integers(0, 99)))
    width = draw(st.integers(2, 7))
    layers: list[nn.Module] = [
        conv(3, width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=draw(st.booleans())),
    ]
    for kind in draw(
        st.lists(
            st.sampled_from(
                [
                    "conv",
                    "residual",
                    "concat",
                    "depthwise",
                    "excite",
                    "spatial",
                    "twice",
                    "pool",
                    "grouped",
                    "dropout",
                ]
            ),
            min_size=1,
            max_size=5,
        )
    ):
        if kind == "conv":
            wider = draw(st.integers(2, 7))
            stride = draw(st.integers(1, 3))
            layers += [
                nn.Conv2d(width, wider, draw(st.sampled_from([1, 3])), stride, padding=1),
                nn.ReLU(),
            ]
            width = wider
        elif kind == "residual":
            layers.append(Residual(width, draw(st.integers(1, 5)), draw(st.booleans())))
        elif kind == "concat":
            grown = draw(st.integers(1, 4))
            layers.append(Concat(width, grown))
            width += grown
        elif kind == "depthwise":
            layers += [
                conv(width, width, groups=width, bias=draw(st.booleans())),
                nn.BatchNorm2d(width),
                nn.ReLU6(),
            ]
        elif kind == "grouped" and width % 2 == 0:
            layers.append(conv(width, 4, groups=2))
            width = 4
        elif kind == "pool":
            layers.append(
                draw(
                    st.sampled_from(
                        [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2, 2, 1), nn.Upsample(scale_factor=2)]
                    )
                )
            )
        elif kind == "dropout":
            layers.append(nn.Dropout2d(0.5))
        elif kind in ("excite", "spatial", "twice"):
            layers.append({"excite": Excite, "spatial": Spatial, "twice": Twice}[kind](width))
    net = nn.Sequential(*layers).eval()
    if draw(st.booleans()):
        return nn.Sequential(net, head(width))
    with torch.no_grad():
        size = net(torch.zeros(1, 3, 6, 6))[0].numel()
    return nn.Sequential(net, nn.Flatten(), nn.Linear(size, 6), nn.ReLU(), nn.Linear(6, 4))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(model=networks(), seed=st.integers(0, 99))
def test_sliced_is_masked_on_random_networks(model: nn.Module, seed: int) -> None:
    check_exact(model, images(3, 6), seed)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(model=networks(), seed=st.integers(0, 99))
def test_cutting_dead_channels_changes_nothing_on_random_networks(
    model: nn.Module, seed: int
) -> None:
    check_dead(model, images(3, 6), seed)


@pytest.mark.parametrize(
    "name", ["resnet20", "preresnet11", "vgg11", "nin-half", "nin_gc-half", "densenet13"]
)
def test_cutting_dead_channels_changes_nothing(name: str) -> None:
    check_dead(factory(name)(num_classes=10), images(2, 16))


@pytest.mark.parametrize("name", ["resnet20", "preresnet11", "vgg11"])
def test_sliced_is_masked(name: str) -> None:
    check_exact(factory(name)(num_classes=10), images(2, 16))


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        "densenet121",
        "squeezenet1_1",
        "efficientnet_b0",
        "mnasnet0_5",
        "resnet18",
        "shufflenet_v2_x0_5",
        "mobilenet_v3_small",
    ],
)
def test_sliced_is_masked_on_known_networks(name: str) -> None:
    import torchvision.models as known

    small = check_exact(getattr(known, name)(num_classes=10), images(2, 32))
    assert any(hasattr(layer, "kept") for layer in small.modules())


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "convnext_tiny",
        "swin_v2_t",
        "regnet_y_400mf",
        "segmentation/lraspp_mobilenet_v3_large",
        "detection/fasterrcnn_mobilenet_v3_large_fpn",
    ],
)
def test_cutting_dead_channels_of_known_networks_changes_nothing(name: str) -> None:
    from torchvision.models import get_model

    family, _, plain = name.rpartition("/")
    model = get_model(plain, weights=None, **({"weights_backbone": None} if family else {}))
    check_dead(model.backbone if family == "detection" else model, images(2, 64))


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


HARD: dict[str, Callable[[], nn.Module]] = {
    "grouped and shuffled": lambda: Net(
        lambda s, x: s.head(s.d(F.relu(s.c(shuffled(s.b(s.a(x)), 4))))),
        a=conv(3, 16),
        b=conv(16, 64, groups=4),
        c=conv(64, 16, groups=8),
        d=conv(16, 8),
        head=head(8),
    ),
    "grouped": lambda: nn.Sequential(
        conv(3, 16), nn.ReLU(), conv(16, 24, groups=4), nn.ReLU(), conv(24, 12, groups=3), head(12)
    ),
    "group norm": lambda: nn.Sequential(
        conv(3, 16), nn.GroupNorm(4, 16), nn.ReLU(), conv(16, 8), head(8)
    ),
    "transposed and grouped": lambda: nn.Sequential(
        conv(3, 8), nn.ConvTranspose2d(8, 12, 2, 2, groups=4), conv(12, 8), head(8)
    ),
    "attention with a hidden layer": lambda: Net(
        lambda s, x: s.head(s.m(s.a(x).flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)),
        a=conv(3, 8),
        m=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        head=head(8),
    ),
    "positions learned": lambda: positions(),
    "the same twice": lambda: Net(
        lambda s, x: s.head(torch.cat([y := s.a(x), y], 1)), a=conv(3, 8), head=head(16)
    ),
    "shuffled": lambda: Net(
        lambda s, x: s.head(s.b(shuffled(s.a(x), 4))), a=conv(3, 16), b=conv(16, 8), head=head(8)
    ),
    "split at a number": lambda: Net(
        lambda s, x: s.head(s.b((y := s.a(x))[:, :6]) + s.c(y[:, 6:])),
        a=conv(3, 16),
        b=conv(6, 8),
        c=conv(10, 8),
        head=head(8),
    ),
    "some channels alone": lambda: Net(
        lambda s, x: s.head(s.a(x)[:, 2:14]), a=conv(3, 16), head=head(12)
    ),
    "one channel alone": lambda: Net(
        lambda s, x: s.head((y := s.a(x)) * y[:, 3:4]), a=conv(3, 16), head=head(16)
    ),
    "halves": lambda: Net(
        lambda s, x: s.head(s.b((y := s.a(x).chunk(2, 1))[0]) + s.c(y[1])),
        a=conv(3, 16),
        b=conv(8, 8),
        c=conv(8, 8),
        head=head(8),
    ),
    "halves change places": lambda: Net(
        lambda s, x: s.head(s.b(torch.cat(s.a(x).chunk(2, 1)[::-1], 1))),
        a=conv(3, 16),
        b=conv(16, 8),
        head=head(8),
    ),
    "split in pieces of five": lambda: Net(
        lambda s, x: s.head(sum(f(y) for f, y in zip(s.b, s.a(x).split(5, 1), strict=True))),
        a=conv(3, 15),
        b=nn.ModuleList([conv(5, 8) for _ in range(3)]),
        head=head(8),
    ),
    "gated by the other half": lambda: Net(
        lambda s, x: s.head(F.glu(s.a(x), 1)), a=conv(3, 16), head=head(8)
    ),
    "written into a part": lambda: Net(
        lambda s, x: s.head(doubled(s.a(x))), a=conv(3, 16), head=head(16)
    ),
    "written over the other half": lambda: Net(
        lambda s, x: s.head(other_half(s.a(x))), a=conv(3, 16), head=head(16)
    ),
    "a constant mixes places": lambda: Net(
        lambda s, x: s.out(F.relu(s.mix @ s.a(x).flatten(2).transpose(1, 2)).mean(1)),
        a=conv(3, 16),
        mix=nn.Buffer(torch.rand(64, 64)),
        out=nn.Linear(16, 4),
    ),
    "places mixed from the right": lambda: Net(
        lambda s, x: s.out(
            F.relu(s.a(x).flatten(2) @ torch.eye(64, dtype=x.dtype).roll(3, 1)).mean(2)
        ),
        a=conv(3, 16),
        out=nn.Linear(16, 4),
    ),
    "einsum with a layer's weight": lambda: Net(
        lambda s, x: s.head(torch.einsum("bchw,oc->bohw", F.relu(s.a(x)), s.b.weight)),
        a=conv(3, 16),
        b=nn.Linear(16, 8),
        head=head(8),
    ),
    "normalised embedding": lambda: Net(
        lambda s, x: s.out(F.normalize(F.relu(s.a(x)).mean((2, 3)), dim=-1)),
        a=conv(3, 16),
        out=nn.Linear(16, 4),
    ),
    "normalised behind a sigmoid": lambda: Net(
        lambda s, x: s.out(F.normalize(s.a(x).mean((2, 3)).sigmoid(), dim=-1)),
        a=conv(3, 16),
        out=nn.Linear(16, 4),
    ),
    "divided by the sum of all": lambda: Net(
        lambda s, x: s.head((y := F.relu(s.a(x))) / (1 + y.sum(1, keepdim=True))),
        a=conv(3, 16),
        head=head(16),
    ),
    "view of fixed size": lambda: Net(
        lambda s, x: s.out(s.a(x).view(-1, 16 * 64)), a=conv(3, 16), out=nn.Linear(1024, 4)
    ),
    "rolled": lambda: Net(
        lambda s, x: s.head(s.b(s.a(x).roll(5, 1))), a=conv(3, 16), b=conv(16, 8), head=head(8)
    ),
    "every other channel": lambda: Net(
        lambda s, x: s.head(s.a(x)[:, ::2]), a=conv(3, 16), head=head(8)
    ),
    "chosen by index": lambda: Net(
        lambda s, x: s.head(s.a(x)[:, [1, 5, 3]]), a=conv(3, 16), head=head(3)
    ),
    "channels one by one": lambda: Net(
        lambda s, x: s.head(s.b((y := s.a(x)).reshape(-1, 1, *y.shape[2:])).view(y.shape)),
        a=conv(3, 16),
        b=conv(1, 1),
        head=head(16),
    ),
    "depth multiplier": lambda: nn.Sequential(
        conv(3, 16), nn.ReLU(), conv(16, 8), conv(8, 16, groups=8), conv(16, 8), head(8)
    ),
    "instance norm": lambda: nn.Sequential(
        conv(3, 16), nn.InstanceNorm2d(16, affine=True), conv(16, 8), head(8)
    ),
    "batch norm with computed scales": lambda: Net(
        lambda s, x: s.head(
            F.batch_norm(s.a(x), s.n.running_mean, s.n.running_var, s.n.weight.abs(), s.n.bias)
        ),
        a=conv(3, 16),
        n=nn.BatchNorm2d(16),
        head=head(16),
    ),
    "batch norm of the batch": lambda: nn.Sequential(
        conv(3, 16), nn.BatchNorm2d(16, track_running_stats=False), head(16)
    ),
    "bias that is computed": lambda: Net(
        lambda s, x: s.head(F.conv2d(x, s.a.weight, s.a.bias * 2)), a=conv(3, 16), head=head(16)
    ),
    "weights read backwards": lambda: Net(
        lambda s, x: s.out(F.linear(F.relu(s.w(s.a(x).mean((2, 3)))), s.w.weight.t()).relu()),
        a=conv(3, 16),
        w=nn.Linear(16, 8),
        out=nn.Linear(16, 4),
    ),
    "one dimension": lambda: Net(
        lambda s, x: s.head(s.c(F.relu(s.b(s.a(x.flatten(2))))).unsqueeze(3)),
        a=nn.Conv1d(3, 16, 3),
        b=nn.Conv1d(16, 16, 3, groups=16),
        c=nn.Conv1d(16, 8, 3),
        head=head(8),
    ),
    "three dimensions": lambda: Net(
        lambda s, x: s.head(s.b(s.a(x.unsqueeze(2))).flatten(2, 3)),
        a=nn.Conv3d(3, 16, (1, 3, 3)),
        b=nn.Conv3d(16, 16, 1, groups=16),
        head=head(16),
    ),
    "odd strides": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, (3, 2)), nn.Conv2d(8, 8, (1, 2), (1, 2), dilation=(1, 2)), head(8)
    ),
    "transposed convolution": lambda: nn.Sequential(
        conv(3, 8), nn.ConvTranspose2d(8, 6, 2, 2), conv(6, 8), head(8)
    ),
    "prelu": lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 8), head(8)),
    "circular": lambda: nn.Sequential(
        conv(3, 8), conv(8, 8, padding_mode="circular"), conv(8, 8), head(8)
    ),
    "into a buffer": lambda: Net(
        lambda s, x: s.head(s.b(filled(s.a(x)))), a=conv(3, 8), b=conv(12, 8), head=head(8)
    ),
    "batch norm after flatten": lambda: nn.Sequential(
        conv(3, 4), nn.Flatten(), nn.BatchNorm1d(256), nn.Linear(256, 4)
    ),
    "shuffled by PyTorch": lambda: nn.Sequential(
        conv(3, 16), nn.ChannelShuffle(4), conv(16, 8), head(8)
    ),
    "patches": lambda: Net(
        lambda s, x: s.l(F.unfold(F.relu(s.a(x)), 2, stride=2).mean(2)),
        a=conv(3, 8),
        l=nn.Linear(32, 5),
    ),
    "pooled and put back": lambda: Net(
        lambda s, x: s.head(
            s.c(
                F.max_unpool2d(s.b((y := F.max_pool2d(s.a(x), 2, return_indices=True))[0]), y[1], 2)
            )
        ),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 8),
        head=head(8),
    ),
    "blurred": lambda: Net(
        lambda s, x: s.head(
            F.conv2d(
                y := s.a(x),
                torch.ones(1, 1, 3, 3, dtype=x.dtype).repeat(y.shape[1], 1, 1, 1),
                groups=y.shape[1],
            )
        ),
        a=conv(3, 8),
        head=head(8),
    ),
    "scales that are mapped": lambda: Net(
        lambda s, x: s.head(s.a(x) * torch.sigmoid(s.n.weight) + F.softplus(s.n.bias)),
        a=conv(3, 8),
        n=holder(weight=(1, 8, 1, 1), bias=(1, 8, 1, 1)),
        head=head(8),
    ),
    "matrices by hand": lambda: Net(
        lambda s, x: s.out(F.relu(s.a(x).mean((2, 3)) @ s.n.one.T) @ s.n.two),
        a=conv(3, 16),
        n=holder(one=(12, 16), two=(12, 8)),
        out=nn.Linear(8, 4),
    ),
    "read by an LSTM": lambda: Net(
        lambda s, x: s.out(s.r(s.a(x).flatten(2).transpose(1, 2))[0][:, -1]),
        a=conv(3, 8),
        r=nn.LSTM(8, 6, 2, batch_first=True),
        out=nn.Linear(6, 4),
    ),
    "read by a GRU": lambda: Net(
        lambda s, x: s.out(s.r(s.a(x).flatten(2).transpose(1, 2))[0][:, -1]),
        a=conv(3, 8),
        r=nn.GRU(8, 6, batch_first=True, bidirectional=True),
        out=nn.Linear(12, 4),
    ),
    "instance norm without scales": lambda: nn.Sequential(
        conv(3, 16), nn.InstanceNorm2d(16), conv(16, 8), nn.InstanceNorm2d(8), head(8)
    ),
    "attention": lambda: Net(
        lambda s, x: s.head(
            s.m(*[s.a(x).flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).unsqueeze(3)
        ),
        a=conv(3, 8),
        m=nn.MultiheadAttention(8, 2, batch_first=True),
        head=head(8),
    ),
}


def holder(**shapes: tuple[int, ...]) -> nn.Module:
    """Return a module that holds parameters of these shapes and does nothing."""
    module = nn.Module()
    for name, shape in shapes.items():
        module.register_parameter(name, nn.Parameter(torch.randn(shape)))
    return module


def positions() -> nn.Module:
    """Add a learned number for each channel and place, scale by one for each channel, join a
    learned token.
    """

    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.one(x).flatten(2).transpose(1, 2)  # n places channels
        y = torch.cat([s.token.expand(len(y), -1, -1), y], 1) + s.place
        return s.head(F.gelu(y).mean(1) * s.scale[None])

    net = Net(forward, one=conv(3, 8), head=nn.Linear(8, 4))
    net.token, net.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 65, 8))
    net.scale = nn.Parameter(torch.randn(8))
    return net


def doubled(x: Tensor) -> Tensor:
    x[:, :8] = x[:, :8] * 2
    return x


def other_half(x: Tensor) -> Tensor:
    one, two = x.clone().chunk(2, 1)
    one[:] = one * two
    return torch.cat([one, two], 1)


def filled(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 12, *x.shape[2:], dtype=x.dtype)
    out[:, 2:10] = x
    return out


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_cut_is_exact_or_left_whole(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    check_exact(HARD[name](), images(3), seed)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("grouped and shuffled", "d"),
        ("grouped and shuffled", "a"),
        ("grouped and shuffled", "c"),
        ("grouped", "2"),
        ("shuffled", "a"),
        ("halves", "a"),
        ("halves change places", "a"),
        ("group norm", "0"),
        ("prelu", "0"),
        ("transposed convolution", "1"),
        ("transposed and grouped", "1"),
        ("attention with a hidden layer", "m.linear1"),
        ("positions learned", "one"),
        ("depth multiplier", "0"),
        ("depth multiplier", "4"),
        ("one dimension", "a"),
        ("one dimension", "c"),
        ("three dimensions", "a"),
        ("odd strides", "0"),
        ("transposed convolution", "2"),
        ("shuffled by PyTorch", "0"),
        ("patches", "a"),
        ("pooled and put back", "a"),
        ("blurred", "a"),
        ("scales that are mapped", "a"),
        ("matrices by hand", "a"),
        ("matrices by hand", "n"),
        ("read by an LSTM", "a"),
        ("read by a GRU", "a"),
        ("instance norm without scales", "0"),
        ("gated by the other half", "a"),
        ("written over the other half", "a"),
        ("a constant mixes places", "a"),
        ("places mixed from the right", "a"),
        ("einsum with a layer's weight", "a"),
        ("einsum with a layer's weight", "b"),
        ("normalised embedding", "a"),
        ("divided by the sum of all", "a"),
        ("circular", "1"),
        ("batch norm after flatten", "0"),
        ("batch norm of the batch", "0"),
        ("instance norm", "2"),
    ],
)
def test_what_can_be_cut_is_not_left_whole(name: str, layer: str) -> None:
    model = lively(HARD[name]())
    assert any(layer in group.layers("out") for group in cuttable(model, images()))


@pytest.mark.filterwarnings("ignore::lissom.LissomWarning")
@pytest.mark.parametrize("name", HARD)
def test_prune_of_a_hard_network_works_or_says_why_not(name: str) -> None:
    model, x = lively(HARD[name]()), images(3)
    said, small = "", model
    try:
        small = apply("prune(0.4, multiple=1)", model, x[:1], x)
    except LissomError as error:
        said = str(error)
    assert not said or "nothing in this network can be cut" in said or "cannot be removed" in said
    with torch.no_grad():
        assert small(x).shape == model(x).shape


@pytest.mark.filterwarnings("ignore::lissom.LissomWarning")
def test_a_branch_that_begins_at_zero_is_cut_right_too() -> None:
    """What multiplies a branch by zero hides from the outputs that it was cut wrongly; training
    would uncover it.
    """
    model = lively(
        Net(
            lambda s, x: s.head((y := F.relu(s.stem(x))) + s.bn(s.two(s.one(y).roll(5, 1)))),
            stem=conv(3, 16),
            one=conv(16, 32),
            two=conv(32, 16),
            bn=nn.BatchNorm2d(16),
            head=head(16),
        )
    )
    with torch.no_grad():
        model.bn.weight.zero_()
    small = apply("prune(0.3, multiple=1)", model, images(1), images())
    with torch.no_grad():
        for layer in ("stem", "one"):
            kept = getattr(getattr(small, layer), "kept", None)
            if kept is not None:
                gone = [k for k in range(getattr(model, layer).out_channels) if k not in kept]
                getattr(model, layer).weight[gone], getattr(model, layer).bias[gone] = 0, 0
                if layer == "stem":
                    for tensor in (
                        model.two.weight,
                        model.two.bias,
                        model.bn.bias,
                        model.bn.running_mean,
                    ):
                        tensor[gone] = 0
        for net in (small, model):
            net.bn.weight.fill_(1)
        torch.testing.assert_close(small(images()), model(images()))


@pytest.mark.parametrize(
    "wrap", [lambda y, z: (y, z), lambda y, z: {"one": y, "two": [z]}], ids=["tuple", "dict"]
)
@pytest.mark.parametrize("recipe", ["prune(0.5)", "fold"])
def test_networks_may_return_more_than_one_tensor(
    wrap: Callable[[Tensor, Tensor], Any], recipe: str
) -> None:
    model = lively(
        Net(
            lambda s, x: wrap(s.head(y := s.bn(s.two(F.relu(s.one(x))))), y),
            one=conv(3, 16),
            two=conv(16, 16),
            bn=nn.BatchNorm2d(16),
            head=head(16),
        )
    )
    small = apply(recipe, model, images(1), images(4))
    if recipe == "fold":
        for a, b in zip(_flat(small(images(2))), _flat(model(images(2))), strict=True):
            torch.testing.assert_close(a, b)
    else:
        assert small.one.weight.shape[0] == 8 and small.two.weight.shape[0] == 16


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in (value.values() if isinstance(value, dict) else value) for t in _flat(v)]


def test_a_branch_that_only_training_runs_still_runs_after_a_cut() -> None:
    def forward(s: Any, x: Tensor) -> Any:
        y = F.relu(s.one(x))
        return (s.head(y), s.extra(y)) if s.training else s.head(y)

    model = lively(Net(forward, one=conv(3, 16), head=head(16), extra=head(16)))
    small = apply("prune(0.5)", model, images(1), images(4))
    assert small.one.out_channels == 8
    assert [len(out) for out in small.train()(images(2))] == [2, 2]


def test_what_is_kept_composes_over_two_cuts() -> None:
    model = lively(nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 12), head(12)))
    first = copy.deepcopy(model)
    for seed in (3, 4):
        slice_channels(model, random_cut(cuttable(model, images()), seed))
    for k in (0, 2):
        kept, layer = model[k].kept, model[k]
        assert (
            kept == sorted(set(kept))
            and len(kept) == layer.out_channels == len(layer.weight) < first[k].out_channels
        )
        read = range(3) if k == 0 else model[0].kept
        torch.testing.assert_close(
            layer.weight, first[k].weight[kept][:, list(read)], rtol=0, atol=0
        )
        torch.testing.assert_close(layer.bias, first[k].bias[kept], rtol=0, atol=0)


@pytest.mark.parametrize("name", HARD)
def test_a_trial_zeroes_the_same_in_tensors_of_its_own(name: str) -> None:
    """Apart from one factor of each tensor, and without a change of the numbers that were there."""
    model = lively(HARD[name]()).float()
    groups = cuttable(model, images().float())
    for cut in (
        random_cut(groups, 0),
        [(group, units[1]) for group, units in trial_stages(groups.cuttable_groups)],
    ):
        zeroed, alike = copy.deepcopy(model), copy.deepcopy(model)
        shared = {key: tensor.data for key, tensor in alike.state_dict().items()}
        zero_channels(zeroed, cut)
        zero_channels_alike(alike, cut)
        for key, tensor in alike.state_dict().items():
            torch.testing.assert_close(shared[key], model.state_dict()[key], rtol=0, atol=0)
            expected = zeroed.state_dict()[key]
            factor = tensor.abs().max() / expected.abs().max().clamp_min(1e-12)
            torch.testing.assert_close(tensor, expected * factor if factor else expected)


@pytest.mark.parametrize("units", [range(8), range(8, 16), range(0, 16, 2)])
def test_what_is_left_keeps_no_memory_of_what_went(units: range) -> None:
    """Units that lie side by side and those that do not."""
    model = lively(nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), conv(16, 12), head(12)))
    before = copy.deepcopy(model)
    group = next(g for g in cuttable(model, images()) if g.size == 16)
    slice_channels(model, [(group, torch.isin(torch.arange(16), torch.tensor(units)))])
    stay = [k for k in range(16) if k not in units]
    torch.testing.assert_close(model[0].weight, before[0].weight[stay], rtol=0, atol=0)
    torch.testing.assert_close(model[2].weight, before[2].weight[:, stay], rtol=0, atol=0)
    for tensor in model.state_dict().values():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_the_widths_that_layers_state_follow_their_tensors() -> None:
    small = check_exact(
        nn.Sequential(
            conv(3, 8),
            conv(8, 8, groups=8),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.Linear(512, 6),
            nn.Linear(6, 4),
        ),
        images(),
        2,
    )
    first, depth, norm, _, one, two = small
    width = first.weight.shape[0]
    assert (first.in_channels, first.out_channels, first.groups) == (3, width, 1)
    assert (depth.in_channels, depth.out_channels, depth.groups) == (width, width, width)
    assert norm.num_features == width and one.in_features == 64 * width
    assert one.out_features == two.in_features == len(one.bias) and two.out_features == 4


def test_layers_that_share_a_weight_go_on_sharing_it() -> None:
    model = Net(
        lambda s, x: s.head(torch.cat([s.one(y := s.stem(x)), s.two(F.relu(y))], 1)),
        stem=conv(3, 8),
        one=conv(8, 6),
        two=conv(8, 6),
        head=head(12),
    )
    model.two.weight = model.one.weight
    small = check_exact(model, images(), 2)
    assert small.one.weight is small.two.weight and small.one.weight.shape[0] < 6
    assert small.two.out_channels == small.one.out_channels


def test_a_layer_under_two_names_is_cut_once() -> None:
    one = conv(3, 8)
    model = Net(lambda s, x: s.body(x), one=one, body=nn.Sequential(one, nn.ReLU(), head(8)))
    small = check_exact(model, images(), 1)
    assert small.one is small.body[0]


def test_frozen_parameters_stay_frozen() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), head(8))
    model[0].requires_grad_(False)
    small = check_exact(model, images(), 1)
    assert small[0].out_channels < 8
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_the_difference_is_relative_to_the_largest_output() -> None:
    one, two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        one.weight.copy_(4 * torch.eye(3))
        two.weight.copy_(3 * torch.eye(3))
    assert network_difference(one, two, torch.eye(3)) == pytest.approx(0.25)
    assert network_difference(one, one, torch.eye(3)) == 0


def test_the_dead_channels_of_a_grouped_and_shuffled_network_are_cut_without_a_trace() -> None:
    """Every odd channel of conv(groups=4) -> shuffle(4) -> conv(groups=8) is dead; other tools
    change the output.
    """
    torch.manual_seed(0)
    model = lively(
        Net(
            lambda s, x: s.two(shuffled(s.one(x), 4)),
            one=nn.Conv2d(16, 64, 3, padding=1, groups=4),
            two=nn.Conv2d(64, 32, 3, padding=1, groups=8),
        )
    )
    with torch.no_grad():
        model.one.weight[1::2], model.one.bias[1::2] = 0, 0
    x = images(2, channels=16)
    (group,) = [g for g in cuttable(model, x) if "one" in g.layers("out")]
    units = torch.arange(group.size) % 2 == 1
    assert set(group.members[0].unit[1::2].tolist()) == set(units.nonzero().flatten().tolist())
    small = copy.deepcopy(model)
    slice_channels(small, [(group, units)])
    assert small.one.out_channels == small.two.in_channels == 32 and (
        small.one.groups,
        small.two.groups,
    ) == (4, 8)
    assert network_difference(model, small, x) < EXACT


def test_parts_of_one_layer_are_groups_of_different_names() -> None:
    model = lively(HARD["some channels alone"]())
    split = Net(
        lambda s, x: s.head(torch.cat([(y := s.a(x).chunk(2, 1))[0], s.b(y[1]), y[1]], 1)),
        a=conv(3, 16),
        b=conv(8, 8),
        head=head(24),
    )
    for net in (model, lively(split)):
        names = [group.name for group in groups_of(net, images())]
        assert len(names) == len(set(names)) >= 1
    assert "a (2)" in names


def test_an_instance_norm_without_tensors_states_its_width() -> None:
    small = check_exact(HARD["instance norm without scales"](), images(), 1)
    assert (small[1].num_features, small[3].num_features) == (
        small[0].out_channels,
        small[2].out_channels,
    )
    assert small[1].num_features < 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_not_taken_for_a_difference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = lively(factory("resnet20")(num_classes=10)).to(dtype)
    small = apply(
        "prune(0.4, multiple=1, recalibrate=False)",
        model,
        images(1, 16).to(dtype),
        images(4, 16).to(dtype),
    )
    assert small.stem.weight.dtype == dtype and small.head.weight.shape[1] < 64


def test_networks_that_take_whole_numbers_are_cut() -> None:
    model = Net(
        lambda s, x: s.out(F.relu(s.one(s.words(x).transpose(1, 2))).mean(2)),
        words=nn.Embedding(20, 16),
        one=nn.Conv1d(16, 12, 3),
        out=nn.Linear(12, 4),
    )
    words = torch.randint(0, 20, (4, 10))
    assert apply("prune(0.5, multiple=1)", model, words[:1], words).one.out_channels == 6


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_module_is_passed_through() -> None:
    model = nn.Sequential(conv(3, 16), torch.jit.trace(nn.Hardswish(), torch.zeros(1)), head(16))
    assert apply("prune(0.5)", model, images(1).float(), images().float())[0].out_channels == 8


def test_numbers_that_are_not_finite_are_one_clear_line() -> None:
    model = lively(nn.Sequential(conv(3, 16), nn.ReLU(), head(16)))
    with torch.no_grad():
        model[0].weight[3] = float("nan")
    with pytest.raises(LissomError, match=r"0\.weight: expected finite weights, got NaN"):
        apply("prune(0.5)", model, images(1), images())


def test_a_network_with_weights_that_hooks_compute_is_cut() -> None:
    from torch.nn.utils import prune

    model = nn.Sequential(conv(3, 32), nn.ReLU(), head(32))
    prune.l1_unstructured(model[0], "weight", 0.5)
    small, notes = apply("prune(0.5)", model, images(1).float(), images().float(), notes=True)
    assert small.get_submodule("0").weight.shape == (16, 3, 3, 3)
    assert "1 layer holds its weight as L1Unstructured computed it" in notes[0]
    assert not model[0].weight.is_leaf  # that given is as it was


def test_a_trial_that_passes_by_chance_is_not_taken_for_a_proof() -> None:
    """Both halves of what is split lose the same where all groups are as narrow, or where the
    pattern of a trial fits.
    """
    narrow = Net(
        lambda s, x: s.head(torch.cat([(y := shuffled(s.a(x), 2).chunk(2, 1))[0], s.b(y[1])], 1)),
        a=conv(3, 8),
        b=conv(4, 4),
        head=head(8),
    )
    wide = Net(
        lambda s, x: s.head(
            s.d((y := torch.cat([s.a(x), s.b(x), s.c(x)], 1).chunk(2, 1))[0]) + s.e(y[1])
        ),
        a=conv(3, 4),
        b=conv(3, 8),
        c=conv(3, 4),
        d=conv(8, 8),
        e=conv(8, 8),
        head=head(8),
    )
    for model in (narrow, wide):
        for seed in range(3):
            check_exact(copy.deepcopy(model), images(), seed)


@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_missed_coupling_among_many_groups_is_found(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All groups are tried at once: the one whose channels are not where labels say is left whole,
    and no other.
    """

    def forward(s: Any, x: Tensor) -> Tensor:
        for k, layer in enumerate(s.layers):
            x = F.relu(layer(x))
            x = x.flip(1) if k == place else x
        return s.head(x)

    model = lively(
        Net(
            forward,
            layers=nn.ModuleList([conv(3 if k == 0 else 16, 16) for k in range(7)]),
            head=head(16),
        )
    )
    every = [f"layers.{k}" for k in range(7)]
    assert [group.name for group in cuttable(model, images())] == every
    # which says that channels stay where they are
    monkeypatch.setitem(RULES, "flip", RULES["relu"])
    groups = cuttable(model, images())
    assert [group.name for group in groups] == [name for name in every if name != f"layers.{place}"]
    assert groups.left_whole[f"layers.{place}"] == "the network's code does not follow a cut"


def test_the_line_that_does_not_follow_a_cut_is_named() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        x = F.relu(s.b(F.relu(s.a(x))))
        return s.head(x.view(len(x), 16, *x.shape[2:]) + s.c(x))

    model = lively(Net(forward, a=conv(3, 8), b=conv(8, 16), c=conv(16, 16), head=head(16)))
    groups, line = cuttable(model, images()), forward.__code__.co_firstlineno + 2
    assert [group.name for group in groups] == ["a"]
    assert (
        groups.left_whole["b"]
        == f"the network's code does not follow a cut (test_slice.py, line {line})"
    )


@pytest.mark.parametrize("units", [2, 3, 16])
@pytest.mark.parametrize("last", [False, True])
def test_either_end_of_a_group_is_tried(units: int, last: bool) -> None:
    """A channel that the code reads by its number is found at the first place and at the last."""
    number = units - 1 if last else 0
    model = lively(
        Net(
            lambda s, x: s.head(s.a(x) * s.b(x)[:, number : number + 1].sigmoid()),
            a=conv(3, units),
            b=conv(3, units),
            head=head(units),
        )
    )
    assert all(
        "b" not in group.layers("out") or group.size < units for group in cuttable(model, images())
    )


def test_a_trial_leaves_the_network_as_it_was() -> None:
    model = lively(nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), head(16)))
    before = copy.deepcopy(model).state_dict()
    held = [(m, m.__class__, dict(vars(m))) for m in model.modules()]
    cuttable(model, images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for module, kind, attributes in held:
        assert module.__class__ is kind and vars(module).keys() == attributes.keys()
        assert all(vars(module)[key] is value for key, value in attributes.items())


def test_a_forward_that_rounds_to_16_bits_is_cut() -> None:
    """What it computes differs by its rounding after a cut; in float64, which autocast lets alone,
    by nothing.
    """

    def forward(s: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return s.head(F.relu(s.b(F.relu(s.a(x))))).float()

    model = Net(forward, a=conv(3, 16), b=conv(16, 16), head=head(16)).float()
    small = apply("prune(0.5)", model, images(1).float(), images().float())
    assert (small.a.out_channels, small.b.out_channels) == (8, 8)


def test_a_network_that_chooses_nothing_is_cut_elsewhere() -> None:
    """As a detector that finds no box: what channel 0 decides keeps its place."""

    def forward(s: Any, x: Tensor) -> Any:
        y = F.relu(s.b(F.relu(s.a(x)))).mean((2, 3))
        return s.out(y), s.box(y[y[:, 0] > 1e9])

    model = lively(
        Net(forward, a=conv(3, 16), b=conv(16, 16), out=nn.Linear(16, 4), box=nn.Linear(16, 4))
    )
    groups = cuttable(model, images())
    assert [group.name for group in groups] == ["a"] and "b" in groups.left_whole


def test_what_is_read_from_regions_is_cut() -> None:
    from torchvision.ops import roi_align

    boxes = torch.tensor([[0.0, 0, 0, 4, 4], [0, 2, 2, 7, 7]])
    model = lively(
        Net(
            lambda s, x: s.head(roi_align(F.relu(s.a(x)), boxes.to(x.dtype), 3)),
            a=conv(3, 16),
            head=head(16),
        )
    )
    check_exact(model, images(2), 1)
    assert [group.name for group in cuttable(model, images())] == ["a"]
