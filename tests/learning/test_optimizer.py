"""Schedules, optimizers and parameter groups compared with those of torch and timm."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from bright import trained
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from lissom import LissomError, Recipe, apply
from lissom.language.context import SurgeryContext
from lissom.language.parse_methods import method_of
from lissom.language.training import TrainSettings
from lissom.learning.optimizer import optimizer_of
from lissom.learning.parameters import depths, parameters_named
from lissom.learning.schedule import rate

EACH = 7  # updates in an epoch


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def theirs(schedule: str, optimizer: torch.optim.Optimizer, epochs: int, warmup: int) -> Any:
    """Return torch's scheduler, stepped at each update."""
    after = {
        "milestones": lambda: MultiStepLR(
            optimizer, [EACH * (m - warmup) for m in (5, 8)], gamma=0.2
        ),
        "cosine": lambda: CosineAnnealingLR(optimizer, EACH * (epochs - warmup)),
        "constant": lambda: MultiStepLR(optimizer, []),
    }[schedule]
    if not warmup:
        return after()
    first = LinearLR(optimizer, 0.1, total_iters=EACH * warmup)
    return SequentialLR(optimizer, [first, after()], [EACH * warmup])


@pytest.mark.filterwarnings("ignore:Detected call of", "ignore:The epoch parameter")
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("schedule", ["milestones", "cosine", "constant"])
def test_rates_are_those_of_the_schedulers_of_torch(schedule: Any, warmup: int) -> None:
    settings = TrainSettings(
        10, lr=0.4, schedule=schedule, milestones=(5, 8), factor=0.2, warmup=warmup
    )
    optimizer = torch.optim.SGD(net().parameters(), lr=0.4)
    scheduler = theirs(schedule, optimizer, 10, warmup)
    for update in range(10 * EACH):
        wanted = optimizer.param_groups[0]["lr"]
        assert rate(settings, update / (10 * EACH)) == pytest.approx(wanted, abs=1e-12), update
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("epochs", "each", "milestones"), [(160, 391, (80, 120)), (90, 98, (13, 26))]
)
def test_milestones_fall_exactly_between_two_epochs(
    epochs: int, each: int, milestones: tuple[int, ...]
) -> None:
    """As CIFAR-10 in batches of 128; and where the share of all updates is rounded."""
    settings = TrainSettings(epochs, lr=0.1, schedule="milestones", milestones=milestones)
    total = epochs * each
    rates = (rate(settings, k / total) for k in range(total))
    changes = [update for update, (a, b) in enumerate(pairwise(rates), 1) if a != b]
    assert changes == [milestone * each for milestone in milestones]
    assert rate(settings, 1 - 1 / total) == pytest.approx(0.1 ** (1 + len(milestones)))


@pytest.mark.parametrize(
    ("settings", "oracle"),
    [
        ({"nesterov": False}, lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01)),
        ({}, lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01, nesterov=True)),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.01)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.01)),
    ],
)
def test_updates_with_decay_on_all_are_those_of_the_optimizer_of_torch(
    settings: dict[str, Any], oracle: Any
) -> None:
    ours, reference = net(), net()
    optimizers = (
        optimizer_of(ours, TrainSettings(1, lr=0.05, decay=0.01, decay_on="all", **settings)),
        oracle(reference.parameters()),
    )
    x = torch.randn(8, 3, 4, 4)
    for _ in range(4):
        for model, optimizer in zip((ours, reference), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("all", {"0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"}),
        ("weights", {"0.weight", "4.weight"}),
        ("norm", {"1.weight", "1.bias"}),
        ("bias", {"0.bias", "1.bias", "4.bias"}),
        ("head", {"4.weight", "4.bias"}),
        ("norm, bias, head", {"0.bias", "1.weight", "1.bias", "4.weight", "4.bias"}),
        ("0", {"0.weight", "0.bias"}),
        ("[14].w*", {"1.weight", "4.weight"}),
    ],
)
def test_a_text_names_parameters(text: str, wanted: set[str]) -> None:
    assert parameters_named(net(), text, "here") == wanted
    groups = optimizer_of(net(), TrainSettings(1, decay=0.1, decay_on=text)).param_groups
    decaying = sum(len(group["params"]) for group in groups if group["weight_decay"])
    assert decaying == len(wanted)


def test_a_word_that_names_no_parameter_is_an_error_before_the_first_epoch() -> None:
    context = SurgeryContext(torch.zeros(1, 3, 4, 4), lambda _: [], where="train(1)")
    with pytest.raises(
        LissomError, match=r"^train\(1\): decay_on: expected .* got 'wieghts'.*'weights'"
    ):
        method_of("steps", 'train(1, decay_on="wieghts")').rehearse(net(), context)


def test_layers_are_as_deep_as_they_are_called() -> None:
    from torchvision.models import resnet18, vit_b_16

    deep = depths(resnet18())
    assert [deep[n] for n in ("conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "fc.bias")] == [
        0,
        0,
        1,
        9,
    ]
    assert deep["layer2.0.conv1.weight"] == deep["layer2.0.downsample.1.weight"] == 3
    deep = depths(vit_b_16())
    assert deep["class_token"] == deep["conv_proj.weight"] == 0
    assert deep["encoder.layers.encoder_layer_11.mlp.0.weight"] == 12
    assert deep["heads.head.weight"] == 13


def test_layer_decay_is_that_of_timm() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    names = {id(p): name for name, p in model.named_parameters()}
    wanted = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(model, 0.05, layer_decay=0.65)
        for p in group["params"]
    }
    settings = TrainSettings(1, decay=0.05, layer_decay=0.65)
    found = {
        names[id(p)]: (group["share"], group["weight_decay"])
        for group in optimizer_of(model, settings).param_groups
        for p in group["params"]
    }
    assert found == wanted and len({share for share, _ in found.values()}) == 14


def test_the_loop_gives_each_group_its_share_of_the_rate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False), nn.Linear(4, 3, bias=False))
    settings = {"batch": 70, "lr": 0.1, "schedule": "constant", "decay": 0.0, "augment": "none"}
    moved = []
    for share in (1.0, 0.25):
        one = copy.deepcopy(model)
        trained(one, TrainSettings(1, layer_decay=share, **settings))  # type: ignore[arg-type]
        moved.append([a - b for a, b in zip(one.parameters(), model.parameters(), strict=True)])
    torch.testing.assert_close(moved[1][0], 0.25 * moved[0][0])
    torch.testing.assert_close(moved[1][1], moved[0][1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('train(9, schedule="milestones")', "milestones=.80, 120. together, got .*None"),
        ("train(9, milestones=(3, 5))", "together, got schedule='onecycle'"),
        ("train(9, warmup=2)", "onecycle has a warm-up of its own"),
        ('train(9, warmup=9, schedule="cosine")', "fewer than the 9 epochs"),
        ('train(9, optimizer="adam")', "at most 0.1 with adam"),
        ('train(9, schedule="milestones", milestones=(0, 5))', ">= 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        method_of("steps", text)


# identities as they were before the later settings came: keys of networks in stores
BEFORE = {
    "train(2)": ["train", 1, {"epochs": 2, "smoothing": 0.0, "lr": 0.2}],
    'train(2, augment="crop+flip")': ["train", 1, {"epochs": 2, "augment": "crop+flip"}],
    'sparsify(1e-4, 2, schedule="step")': ["sparsify", 4, {"schedule": "step"}],
    'distill("kd", 2, momentum=0.8)': ["distill", 1, {"momentum": 0.8}],
}
NAMES = set("augment batch clip cutout decay lr momentum schedule epochs".split())


@pytest.mark.parametrize("text", BEFORE)
def test_settings_that_came_late_leave_keys_as_they_were(text: str) -> None:
    name, version, values = json.loads(method_of("steps", text).identity())
    assert [name, version] == BEFORE[text][:2] and values.items() >= BEFORE[text][2].items()
    own = {"train": {"smoothing"}, "sparsify": {"weight", "on"}}.get(
        name, set("loss alpha temperature share at teacher".split())
    )
    assert set(values) == NAMES | own


def test_the_keys_of_recipes_are_those_they_were() -> None:
    text = 'train(2) | sparsify(1e-4, 2) | distill("kd", 3, augment="crop", optimizer="adamw", lr=0.01)'
    assert Recipe(text).keys("root") == KEYS


KEYS = ["d39037e1c3a7", "6d0991b09fd9", "f6f317a571c5"]


@pytest.mark.parametrize("text", ["train(1)", 'train(1, freeze="norm")'])
def test_a_network_that_has_nothing_to_learn_is_an_error_before_the_first_epoch(text: str) -> None:
    model = net().requires_grad_(False)
    model[1].requires_grad_("freeze" in text)
    learned = [p.requires_grad for p in model.parameters()]
    context = SurgeryContext(torch.zeros(1, 3, 4, 4), lambda _: [], where=text)
    step = method_of("steps", text)
    with pytest.raises(LissomError, match=r"^train\(.*\): .*no parameter.*requires_grad") as caught:
        step.rehearse(model, context)
    assert "\n" not in str(caught.value)
    assert [p.requires_grad for p in model.parameters()] == learned
    with pytest.raises(LissomError, match=r"no parameter"):
        trained(model, step.train_settings(1))


def test_the_head_of_a_clustered_network_is_its_layer_with_the_codebook() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    clustered = apply("cluster(4)", model, torch.randn(2, 8), torch.randn(8, 8))
    head = {"2.weight", "2.bias", "2.cluster.centroids"}
    assert parameters_named(clustered, "head", "only") == head
    assert parameters_named(nn.Linear(3, 2), "head", "only") == {"weight", "bias"}
