"""The built-in networks: their known sizes, the images they take, their widths, and surgery on
them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.detection.loss import detection_loss
from lissom.models import ALL_NAMES, CLASSIFIERS, DETECTORS, KNOWN, check_name, factory
from lissom.models.nin import Unit
from lissom.surgery.count import macs, parameters

SMALL = [
    name
    for name in ALL_NAMES
    if name.startswith(CLASSIFIERS) and int("0" + re.sub(r"\D", "", name)) < 60
]


def built(name: str, *given: int) -> nn.Module:
    """Return a network that has shapes and no numbers."""
    with torch.device("meta"):
        return factory(name)(
            **dict(zip(("num_classes", "in_channels"), given, strict=False))
        ).eval()


def of_convolutions(net: nn.Module) -> int:
    return sum(parameters(m) for m in net.modules() if isinstance(m, nn.Conv2d))


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (
            "preresnet38",
            404_954,
        ),  # network slimming's 38-layer network, without its channel selection
        # 269,722 with the shortcuts of option A, and 2,752 for those of option B
        ("resnet20", 272_474),
        ("densenet40", 1_059_298),
    ],
)  # network slimming's 1.07 M hold 9,360 entries of channel selection
def test_a_built_in_network_has_the_parameters_it_is_known_by(name: str, count: int) -> None:
    assert parameters(built(name, 10, 3)) == count


def test_vgg_with_three_linear_layers_has_the_parameters_it_is_known_by() -> None:
    # biases before batch-norm, which change nothing
    assert parameters(built("vgg19_fc", 100)) == 39_327_652 - 5_504


@pytest.mark.parametrize(
    ("name", "count", "work"), [("nin", 966_986, 222_486_528), ("nin_gc", 582_666, 157_679_616)]
)
def test_network_in_network_has_the_convolutions_it_is_known_by(
    name: str, count: int, work: int
) -> None:
    net = built(name, 10, 3)
    assert of_convolutions(net) == count
    assert macs(factory(name)(), torch.zeros(1, 3, 32, 32)) == work
    assert len(convolutions(net)) == 9 and not any(isinstance(m, nn.Linear) for m in net.modules())


def test_grouped_network_in_network_has_its_groups() -> None:
    net = built("nin_gc")
    assert [c.groups for c in convolutions(net)] == [1, 2, 2, 16, 4, 4, 32, 8, 1]
    assert [c.out_channels for c in convolutions(net)] == [
        256,
        256,
        256,
        512,
        512,
        512,
        1024,
        1024,
        10,
    ]
    assert [m.mixed for m in net.features if isinstance(m, Unit)] == [1, 1, 2, 2, 16, 4, 4, 32, 1]


def test_a_unit_shuffles_the_channels_of_the_groups_before_it() -> None:
    torch.manual_seed(0)
    unit, x = Unit(6, 4, 1, groups=2, mixed=3, relu=True).eval(), torch.randn(2, 6, 5, 5)
    order = [0, 2, 4, 1, 3, 5]  # the first of each of three groups of two, then the second
    torch.testing.assert_close(unit(x), F.relu(unit.bn(unit.conv(x[:, order]))), rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_classifier_takes_images_of_any_channels_and_sizes(name: str) -> None:
    model = built(name, 7, 2)
    for size in ((32, 32), (64, 48)):
        assert model(torch.zeros(2, 2, *size, device="meta")).shape == (2, 7)
    depth = sum(
        isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in key
        for key, m in model.named_modules()
    )
    # VGG counts three linear layers
    linear = 2 if name.startswith("vgg") and "_fc" not in name else 0
    stated = re.sub(r"\D", "", name)
    assert depth + linear == (int(stated) if stated else 9)


@pytest.mark.parametrize("name", KNOWN)
def test_half_and_quarter_have_that_share_of_the_channels(name: str) -> None:
    whole = convolutions(built(name))
    for width, share in (("", 1), ("-half", 2), ("-quarter", 4)):
        for one, other in zip(whole, convolutions(built(name + width)), strict=True):
            # what predicts 10 classes or the 4 sides of a box stays as wide
            of_outputs = one.out_channels in (4, 10)
            assert other.out_channels == one.out_channels // (1 if of_outputs else share)
            assert other.groups == one.groups and other.kernel_size == one.kernel_size


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_predicts_boxes_around_the_places_of_its_grids(name: str) -> None:
    assert parameters(built(name, 20)) == 787_648
    for size, places in (((192, 256), 24 * 32 + 12 * 16), ((64, 48), 8 * 6 + 4 * 3)):
        boxes, logits = built(name, 7, 2)(torch.zeros(2, 2, *size, device="meta"))
        assert boxes.shape == (2, places, 4) and logits.shape == (2, places, 7)
    torch.manual_seed(0)
    net = factory(name)(7).eval()
    with torch.no_grad():
        boxes, logits = net(images())
    # 2 x 2 cells of 8 pixels, then one of 16; x runs first
    centres = torch.tensor([[4.0, 4], [12, 4], [4, 12], [12, 12], [8, 8]])
    strides = torch.tensor([8.0, 8, 8, 8, 16])[:, None]
    near = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert ((near - centres).abs() < strides / 2).all()
    assert ((boxes[..., 2:] - boxes[..., :2] - 4 * strides).abs() < strides).all()
    assert (logits.sigmoid() < 0.02).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vgg16-hlaf", "did you mean 'vgg16-half'"),
        ("vgg12-half", "vgg has the depths 11, 13, 16 and 19"),
        ("densenet41", "a depth of densenet is 3n+4; near 41 are 37, 40, 43"),
        ("densenet4", "3n+4; near 4 are 7, 10"),
        ("nin20", "did you mean 'nin'"),
        ("nin-gc", "no built-in network"),
        ("nin_gx", "did you mean 'nin_gc'"),
        ("resnet20-halfquarter", "no built-in network"),
        ("vgg16-", "did you mean 'vgg16'"),
        ("tiny_detec", "did you mean 'tiny_detect'"),
    ],
)
def test_a_network_or_width_that_does_not_exist_is_refused_with_what_does(
    name: str, said: str
) -> None:
    with pytest.raises(LissomError) as caught:
        check_name(name)
    assert said in str(caught.value)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name",
    [
        "nin-quarter",
        "nin_gc-quarter",
        "nin_bac-quarter",
        "nin_gc_bac-quarter",
        "densenet10-half",
        "vgg11-quarter",
    ],
)
def test_surgery_works_on_a_narrow_network(name: str) -> None:
    torch.manual_seed(0)
    net = factory(name)(5).eval()
    # some stay whole
    small, _ = lissom.apply(
        "prune(0.3, multiple=1) | quantize(8)", net, images(1), images(), notes=True
    )
    assert parameters(small) < parameters(net)
    with torch.no_grad():
        assert small(images()).shape == (4, 5)


@pytest.mark.parametrize(
    "name",
    ["nin-quarter", "nin_gc-quarter", "nin_bac-quarter", "nin_gc_bac-quarter", "densenet10-half"],
)
def test_a_new_network_learns(name: str) -> None:
    torch.manual_seed(0)
    net, labels = factory(name)(4).train(), torch.arange(8) % 4
    x = images(8) + labels[:, None, None, None]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(
        p.grad is not None and p.grad.abs().max() > 0
        for k, p in net.named_parameters()
        if k.endswith("conv.weight")
    )


def test_surgery_and_export_work_on_a_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = factory("tiny_detect-quarter")(5).eval()
    shown = torch.cat([images(), images().flip(3)])
    small, notes = lissom.apply("prune(0.3, multiple=1)", net, shown[:1], shown, notes=True)
    assert parameters(small) < 0.75 * parameters(net)
    # what predicts sides of boxes cannot be narrower
    assert "small.sides, large.sides" in notes[0]
    rounded = lissom.apply("quantize(8)", small, shown[:1], shown)
    with torch.no_grad():
        boxes, logits = small(shown)
        near_boxes, near_logits = rounded(shown)
    assert boxes.shape == (8, 5, 4) and logits.shape == (8, 5, 5)
    assert (boxes - near_boxes).abs().max() < 1  # of 32 and 64 pixels
    assert (logits - near_logits).abs().max() < 0.1
    lissom.export(rounded, "onnxruntime", tmp_path / "net.onnx", (3, 16, 16))


def test_a_new_detector_learns() -> None:
    torch.manual_seed(0)
    net = factory("tiny_detect-quarter")(2).train()
    targets = torch.tensor([[[4.0, 4, 28, 28, 0]], [[8.0, 8, 16, 16, 1]]]).repeat(4, 1, 1)
    x = torch.randn(8, 3, 32, 32)
    x[0::2, :, 4:28, 4:28] += 3
    x[1::2, :, 8:16, 8:16] -= 3
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = detection_loss(*net(x), targets, "sigmoid")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
