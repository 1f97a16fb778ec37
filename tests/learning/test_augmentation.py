"""Augmentations as text: their effect on images and targets, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from bright import data, net, plain, trained
from torch import Tensor
from torchvision.transforms import v2

import lissom
from lissom import LissomError
from lissom.kinds.classify import Classify
from lissom.kinds.multilabel import Multilabel
from lissom.kinds.segment import Segment
from lissom.language.augmentation import Augmentations
from lissom.language.kind import Kind
from lissom.language.parse_methods import method_of
from lissom.language.training import TrainSettings
from lissom.learning.augmentation import augmented
from lissom.tasks.task import Task


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vary(text: str, pictures: Tensor, targets: Tensor | None = None, kind: Kind | None = None):
    """Apply one augmentation."""
    return method_of("augmentations", text)(pictures, targets, rng(), kind, 3)


def test_a_text_is_read_once_and_says_itself() -> None:
    assert str(Augmentations.of(" auto + rotate(15)+mixup ")) == "auto+rotate(15.0)+mixup"
    assert str(Augmentations.of("none")) == "none" and not Augmentations.of("none").parts
    step = method_of("steps", 'train(2, augment="auto + randaugment(magnitude=5)")')
    assert str(step) == 'train(2, augment="auto+randaugment(magnitude=5)")'
    assert method_of("steps", str(step)) == step
    with pytest.raises(
        LissomError, match=r"train\(augment=...\): there is no augmentation 'rotat'; did"
    ):
        method_of("steps", 'train(2, augment="crop+rotat(3)")')
    with pytest.raises(LissomError, match=r"expected a.* augmentation, as in"):
        method_of("steps", 'train(2, augment="2*crop")')


def test_settings_and_versions_of_augmentations_are_in_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def identity() -> str:
        return method_of("steps", 'train(2, augment="crop+rotate(3)")').identity()

    before = identity()
    monkeypatch.setattr(type(method_of("augmentations", "rotate(3)")), "version", 2)
    assert identity() != before and method_of("steps", "train(2)").identity()[-1] == "]"


def test_the_turn_is_about_the_centre_and_within_its_degrees() -> None:
    pictures = torch.zeros(200, 1, 33, 33)
    pictures[:, :, 15:18, 27:30] = 255  # 12 pixels to the right of the centre
    turned, _ = vary("rotate(30)", pictures)
    spots = turned[:, 0] / turned.sum((1, 2, 3)).view(-1, 1, 1)
    places = torch.arange(33.0) - 16
    y, x = (spots.sum(2) * places).sum(1), (spots.sum(1) * places).sum(1)
    torch.testing.assert_close((x * x + y * y).sqrt(), torch.full((200,), 12.0), atol=0.1, rtol=0)
    angles = torch.atan2(y, x) * 180 / math.pi
    assert 25 < angles.max() < 30.5 and -30.5 < angles.min() < -25 and abs(angles.mean()) < 4


def test_the_resized_part_is_an_enlarged_part() -> None:
    """Of a ramp: it stays one, less steep by the share of the width that is left."""
    ramp = torch.arange(64.0).expand(1, 64, 64) * 2
    pictures = torch.cat([ramp, ramp.mT])[None].repeat(300, 1, 1, 1)
    cropped, _ = vary("resized_crop(0.25)", pictures)
    inner = cropped[:, :, 8:-8, 8:-8]
    steep = torch.stack([inner[:, 0].diff(dim=2), inner[:, 1].mT.diff(dim=2)])
    mean = steep.mean((2, 3))
    assert (steep - mean[..., None, None]).abs().max() < 1e-3 and cropped.shape == pictures.shape
    width, height = mean / 2
    area = width * height
    assert area.min() > 0.22 and area.max() <= 1.001 and 0.55 < area.mean() < 0.7
    assert (width / height).min() > 0.72 and (width / height).max() < 1.4


def test_randaugment_is_that_of_torchvision_and_leaves_the_generators_alone() -> None:
    pictures = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    torch.manual_seed(5)
    found, _ = vary("randaugment(3, 12)", pictures)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "drawing images must not change what layers draw"
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng())))
    theirs = v2.RandAugment(3, 12)
    assert torch.equal(found, torch.stack([theirs(picture) for picture in pictures]))
    assert not torch.equal(found, pictures)


def test_mixup_blends_pictures_and_classes_by_one_share() -> None:
    labels = torch.tensor([0, 1, 2, 1, 0, 2])
    pictures = torch.randn(6, 3, 4, 4)
    mixed, targets = vary("mixup(1.0)", pictures, labels, Classify())
    assert torch.allclose(targets.sum(1), torch.ones(6)) and 0 < targets[0].max() < 1
    hot = torch.nn.functional.one_hot(labels, 3).float()
    shares = set()
    for k in range(6):
        share = min(
            (
                s
                for o in range(6)
                for s in [blend(mixed[k], pictures[k], pictures[o])]
                if s is not None
            ),
        )
        shares.add(round(share, 4))
        other = next(o for o in range(6) if blend(mixed[k], pictures[k], pictures[o]) is not None)
        torch.testing.assert_close(targets[k], share * hot[k] + (1 - share) * hot[other])
    assert len(shares - {1.0}) == 1


def blend(mixed: Tensor, a: Tensor, b: Tensor) -> float | None:
    """Return s where mixed = s * a + (1 - s) * b, None where it is no such blend."""
    if torch.equal(a, b):
        return 1.0 if torch.allclose(mixed, a) else None
    share = float(((mixed - b) * (a - b)).sum() / (a - b).square().sum())
    return share if torch.allclose(mixed, share * a + (1 - share) * b, atol=1e-5) else None


def test_cutmix_gives_each_class_the_area_it_has() -> None:
    labels = torch.arange(3).repeat(8)
    pictures = labels.view(-1, 1, 1, 1).float().expand(-1, 1, 16, 16).contiguous()
    areas = []
    for seed in range(20):
        cut = method_of("augmentations", "cutmix")
        mixed, targets = cut(pictures, labels, rng(seed), Classify(), 3)
        shares = torch.stack([(mixed == c).float().mean((1, 2, 3)) for c in range(3)], 1)
        torch.testing.assert_close(shares, targets)
        foreign = (mixed != pictures).any(0)[0]  # of all images: the box
        rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
        if len(rows):
            box = foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert bool(box.all())
        areas.append(float(foreign.float().mean()))
    assert min(areas) < 0.1 and max(areas) > 0.6


def test_several_labels_are_mixed_by_shares() -> None:
    pictures, labels = torch.randn(4, 3, 4, 4), torch.tensor([[1, 0], [1, 0], [1, 0], [1, 0]])
    _, targets = vary("mixup", pictures, labels, Multilabel())
    torch.testing.assert_close(targets, labels.float())


def test_of_two_mixings_one_is_drawn_for_each_batch() -> None:
    some = data()
    labels = torch.arange(70) % 3
    pixels = (80 * labels).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).byte().contiguous()
    settings = TrainSettings(1, augment="mixup(1.0) + cutmix(1.0)")
    blended = 0
    for seed in range(40):
        images, targets = augmented(pixels, labels, some, settings, rng(seed), Classify())
        torch.testing.assert_close(targets.sum(1), torch.ones(70))
        blended += len(images.unique()) > 3
    assert 10 < blended < 30


PIXELS = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
MASKS = torch.zeros(2, 8, 8).long()


@pytest.mark.parametrize(
    ("name", "pixels", "kind", "said"),
    [
        ("rotate(9)", PIXELS, Segment(), "^rotate: expected targets without places.*of segment"),
        ("resized_crop", PIXELS, Segment(), "^resized_crop: expected targets without places"),
        ("randaugment", PIXELS, Segment(), "^randaugment: expected targets without places"),
        ("mixup", PIXELS, Segment(), r"^mixup: expected classes .* segment are not"),
        ("cutmix", PIXELS, Segment(), r"^cutmix: expected classes .* segment are not"),
        ("randaugment", PIXELS.float(), Classify(), "expected pixels of 8 bits, got float32"),
        ("cutmix", PIXELS, None, r"^cutmix: expected a kind of task .* see --kind"),
        ("mixup", torch.zeros(2, 5), Classify(), r"^augment='mixup': expected images \(n c h w\)"),
    ],
)
def test_what_an_augmentation_cannot_see_or_move_is_refused(
    name: str, pixels: Tensor, kind: Kind | None, said: str
) -> None:
    with pytest.raises(LissomError, match=said):
        augmented(pixels, MASKS, data(), TrainSettings(1, augment=name), rng(), kind)


def test_a_network_learns_from_mixed_samples() -> None:
    settings = TrainSettings(
        6, lr=0.02, batch=16, augment="auto+rotate(10)+mixup(0.4)", smoothing=0.1
    )
    rows = trained(net(), settings, kind=Classify(), loss=None)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["top1"] is None


def test_a_loss_of_classes_is_not_taught_with_mixed_samples(tmp_path) -> None:
    task = Task(plain, data(), "plain")
    with pytest.raises(LissomError, match="dkd needs the class of each sample, which mixup blends"):
        lissom.run('train(1) | distill("kd + dkd", 1, augment="mixup")', task, tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_other_channels_than_those_of_an_operation_are_refused(channels: int) -> None:
    from dataclasses import replace

    pixels = torch.zeros(4, channels, 8, 8, dtype=torch.uint8)
    half = (0.5,) * channels
    images = replace(data(), channels=channels, mean=half, std=half)
    settings = TrainSettings(1, augment="crop+rotate(5)+resized_crop+randaugment", colour=0.4)
    if channels in (1, 3):
        augmented(pixels, torch.zeros(4).long(), images, settings, rng(), Classify())
        return
    said = rf"^randaugment: expected images of 1 or 3 channels, got {channels}$"
    with pytest.raises(LissomError, match=said):
        augmented(pixels, torch.zeros(4).long(), images, settings, rng(), Classify())
    others = replace(settings, augment="crop+rotate(5)+resized_crop")
    augmented(pixels, torch.zeros(4).long(), images, others, rng(), Classify())
