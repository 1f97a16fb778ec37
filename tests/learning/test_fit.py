"""The training loop: learning rates, parameter groups, seeds, memory layouts and errors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import bright
import pytest
import torch
from torch import Tensor, nn

from lissom import LissomError, apply
from lissom.data.augment import cutout, draw_mirrors, draw_shifts, mirror_images, shift_images
from lissom.data.data import Data
from lissom.data.split import Images
from lissom.language.context import SurgeryContext
from lissom.language.parse_methods import method_of
from lissom.language.training import Batch, Progress, TrainSettings
from lissom.learning.fit import fit
from lissom.learning.loss import cross_entropy
from lissom.learning.optimizer import optimizer_of
from lissom.learning.precision import fast_precision, layout_of
from lissom.learning.schedule import rate
from lissom.learning.training_run import TrainingRun
from lissom.models import factory

CPU = torch.device("cpu")


def data(count: int = 70, size: int = 8) -> Data:
    """Return images whose class is how bright they are."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (count,), generator=draw)
    pixels = torch.randint(0, 60, (count, 3, size, size), generator=draw) + 90 * labels.view(
        -1, 1, 1, 1
    )
    split = Images(pixels.byte(), labels)
    return Data(
        "bright",
        split,
        split,
        split,
        ("a", "b", "c"),
        3,
        (size, size),
        (0.5,) * 3,
        (0.25,) * 3,
        True,
        "x",
    )


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def trained(
    model: nn.Module, settings: TrainSettings | None = None, *, seed: int = 0, **more: Any
) -> list[dict[str, Any]]:
    settings = replace(settings or TrainSettings(2, lr=0.1, batch=16), precision="fp32")
    return fit(TrainingRun(model, data(), settings, seed=seed, device=CPU, **more))


def test_weight_decay_spares_norms_and_biases() -> None:
    model = net()
    model[6].weight.requires_grad_(False)
    optimizer = optimizer_of(model, TrainSettings(1, lr=0.3, momentum=0.8, decay=0.01))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {name: decay.get(id(p)) for name, p in model.named_parameters()} == {
        "0.weight": 0.01,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "6.weight": None,
        "6.bias": 0.0,
    }
    assert all(
        g["nesterov"] and g["momentum"] == 0.8 and g["lr"] == 0.3 for g in optimizer.param_groups
    )


def test_momentum_may_be_zero_and_groups_may_be_empty() -> None:
    optimizer = optimizer_of(nn.Linear(3, 3, bias=False), TrainSettings(1, momentum=0.0))
    assert len(optimizer.param_groups) == 1 and not optimizer.param_groups[0]["nesterov"]


def test_adamw_takes_decay_and_its_first_beta_from_the_pace_and_learns() -> None:
    optimizer = optimizer_of(
        net(), TrainSettings(1, lr=0.01, momentum=0.8, decay=0.02, optimizer="adamw")
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.02, 0.0]
    assert all(g["betas"] == (0.8, 0.999) for g in optimizer.param_groups)
    rows = trained(net(), TrainSettings(6, lr=0.01, batch=16, optimizer="adamw"))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_adamw_with_a_rate_of_sgd_is_refused() -> None:
    with pytest.raises(
        LissomError, match=r"train\(lr=...\): expected at most 0.1 with adamw, about 0.003, got 0.2"
    ):
        method_of("steps", 'train(2, optimizer="adamw")')


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", {0: 1, 0.5: 1, 0.99: 1}),
        ("cosine", {0: 1, 0.25: (1 + math.sqrt(0.5)) / 2, 0.5: 0.5, 1: 0}),
        ("step", {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 0.99: 0.01}),
        ("onecycle", {0: 0.1, 0.125: 0.55, 0.25: 1, 0.625: 0.5, 1: 0}),
    ],
)
def test_the_rate_follows_its_schedule(schedule: Any, wanted: dict[float, float]) -> None:
    settings = TrainSettings(1, lr=0.4, schedule=schedule)
    for progress, share in wanted.items():
        assert rate(settings, progress) == pytest.approx(0.4 * share, abs=1e-12)
    assert all(0 <= rate(settings, k / 100) <= 0.4 + 1e-12 for k in range(101))


def test_the_loop_takes_the_steps_and_rates_it_says() -> None:
    seen: list[Progress] = []
    rows = trained(net(), TrainSettings(3, lr=0.1, batch=16, schedule="cosine"), watch=seen.append)
    steps = 5 * 3
    assert [r["epoch"] for r in rows] == [1, 2, 3] and (seen[-1].done, seen[-1].total) == (
        steps,
        steps,
    )
    for k, row in enumerate(rows):
        assert row["lr"] == pytest.approx(0.05 * (1 + math.cos(math.pi * (5 * k + 4) / steps)))
        assert math.isfinite(row["loss"]) and 0 <= row["top1"] <= 1 and row["seconds"] > 0


def test_one_step_is_that_of_nesterov_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    before, found = copy.deepcopy(model), []

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        found.append(batch)
        return batch.outputs.square().mean()

    trained(model, TrainSettings(1, lr=0.1, batch=70, schedule="constant", decay=0.01), loss=loss)
    before(found[0].images).square().mean().backward()
    for (name, p), q in zip(before.named_parameters(), model.parameters(), strict=True):
        grad = p.grad + (0.01 * p.detach() if name == "1.weight" else 0)
        torch.testing.assert_close(q, p.detach() - 0.1 * (grad + 0.9 * grad))


def test_training_learns() -> None:
    rows = trained(net(), TrainSettings(12, lr=0.1, batch=16))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["top1"] > 0.8


def test_terms_are_added_to_the_loss() -> None:
    slow = TrainSettings(1, lr=1e-6, batch=16)
    plain = trained(net(), slow)
    more = trained(
        net(), slow, terms=[lambda m, b: torch.tensor(2.0), lambda m, b: torch.tensor(0.5)]
    )
    assert more[0]["loss"] == pytest.approx(plain[0]["loss"] + 2.5, abs=1e-3)


def test_the_norm_of_the_gradient_is_limited() -> None:
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    trained(
        model,
        TrainSettings(1, lr=1.0, batch=70, schedule="constant", momentum=0.0, decay=0.0, clip=1e-3),
    )
    moved = math.sqrt(
        sum(
            float((a - b).detach().square().sum())
            for a, b in zip(before, model.parameters(), strict=True)
        )
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 7])
def test_a_loss_that_is_no_number_names_epoch_and_step(value: float, at: int) -> None:
    count = 0

    def loss(m: nn.Module, batch: Batch) -> Tensor:
        nonlocal count
        count += 1
        return cross_entropy()(m, batch) + (value if count == at else 0.0)

    with pytest.raises(LissomError, match=rf"here: epoch {1 + (at > 5)}, step \d") as caught:
        trained(net(), loss=loss, where="here")
    assert "lower lr" in str(caught.value)


def test_a_rate_too_high_is_an_error_and_not_a_network_of_nan() -> None:
    with pytest.raises(LissomError, match="epoch"):
        trained(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Linear(32, 3)),
            TrainSettings(5, lr=10, batch=4, schedule="constant"),
        )


@pytest.mark.parametrize("name", ["resnet8", "small"])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    found = []
    for again in range(2):
        torch.manual_seed(0)
        model = factory(name)(num_classes=3) if name != "small" else net()
        torch.manual_seed(again)  # what was drawn before must not matter
        trained(model, TrainSettings(1, batch=16, lr=0.1, cutout=3), seed=5)
        found.append(model.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


def test_another_seed_gives_another_network() -> None:
    one, two = net(), net()
    trained(one, seed=1)
    trained(two, seed=2)
    assert not torch.equal(one[0].weight, two[0].weight)


def test_the_network_comes_back_in_eval_mode_and_contiguous() -> None:
    model = net()
    trained(model)
    assert not model.training and all(p.is_contiguous() for p in model.parameters())


def test_frozen_parameters_stay() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    trained(model)
    assert torch.equal(before, model[0].weight)


def test_an_empty_split_is_an_error() -> None:
    empty = data()
    empty.train = Images(
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.long)
    )
    with pytest.raises(LissomError, match="empty"):
        fit(TrainingRun(net(), empty, TrainSettings(1), seed=0, device=CPU))


def test_a_last_batch_of_one_image_trains_a_norm_over_one_value() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    trained(model, TrainSettings(1, batch=69, lr=0.1))  # 70 images: 69 and 1


def test_channels_last_is_avoided_where_it_breaks() -> None:
    def layout(*layers: nn.Module, device: str = "cpu") -> torch.memory_format:
        return layout_of(nn.Sequential(*layers), torch.device(device))

    last, contiguous = torch.channels_last, torch.contiguous_format
    assert layout(nn.Conv2d(8, 32, 1, stride=2)) == contiguous
    assert layout(nn.Conv2d(15, 32, 1, stride=(1, 2))) == contiguous
    assert layout(nn.Conv2d(32, 32, 1, stride=2, groups=4)) == contiguous
    assert layout(nn.Conv2d(16, 32, 1, stride=2)) == last
    assert layout(nn.Conv2d(8, 32, 1)) == last
    assert layout(nn.Conv2d(8, 32, 3, stride=2)) == last
    assert layout(nn.Conv2d(8, 32, 1, stride=2), device="cuda") == last


@pytest.mark.parametrize("inputs", [3, 8, 15, 16, 24])
def test_gradients_are_right_in_the_layout_that_is_chosen(inputs: int) -> None:
    """A strided 1x1 convolution of few inputs: the gradient is that of float64."""
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, 16, 1, stride=2, bias=False)
    x = torch.randn(4, inputs, 8, 8)
    wanted = copy.deepcopy(layer).double()
    wanted(x.double()).square().sum().backward()
    layout = layout_of(layer, CPU)
    layer = layer.to(memory_format=layout)
    layer(x.contiguous(memory_format=layout)).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad.double(), wanted.weight.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("cpu", "amx", "wanted"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, False, torch.bfloat16),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False, torch.float32),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, False, torch.float32),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, True, torch.bfloat16),
        (None, False, torch.float32),
    ],
)
def test_training_computes_in_bfloat16_where_that_is_faster(
    cpu: dict | None, amx: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpu is None:  # an older PyTorch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fast_precision(CPU) == wanted


def test_labels_are_smoothed() -> None:
    outputs, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    found = cross_entropy(0.1)(nn.Identity(), Batch(outputs, labels, outputs))
    soft = 0.9 * nn.functional.one_hot(labels, 3) + 0.1 / 3
    torch.testing.assert_close(found, -(soft * outputs.log_softmax(1)).sum(1).mean())


def test_crops_are_shifts() -> None:
    pixels = torch.randint(1, 255, (20, 3, 8, 8), dtype=torch.uint8)
    down, right = draw_shifts(20, 2, torch.Generator().manual_seed(0))
    for image, found in zip(pixels, shift_images(pixels, down, right), strict=True):
        padded = nn.functional.pad(image, (2, 2, 2, 2))
        assert any(
            torch.equal(found, padded[:, y : y + 8, x : x + 8]) for y in range(5) for x in range(5)
        )


def test_flips_mirror_about_half() -> None:
    pixels = torch.randint(0, 255, (200, 1, 4, 4), dtype=torch.uint8)
    found = mirror_images(pixels, draw_mirrors(len(pixels), torch.Generator().manual_seed(0)))
    turned = [torch.equal(f, p.flip(2)) for f, p in zip(found, pixels, strict=True)]
    assert all(m or torch.equal(f, p) for m, f, p in zip(turned, found, pixels, strict=True))
    assert 60 < sum(turned) < 140


def test_cutout_hides_a_square() -> None:
    found = cutout(torch.ones(50, 2, 16, 16), 5, torch.Generator().manual_seed(0))
    hidden = (found == 0).all(1)
    assert torch.equal(hidden, (found == 0).any(1)) and int(hidden.sum((1, 2)).max()) == 25
    assert all(bool(h.any(1).sum() <= 5) and bool(h.any(0).sum() <= 5) for h in hidden)


@pytest.mark.parametrize("freeze", ["none", "gamma", "norm"])
def test_batch_norm_stays_as_it_is_told(freeze: str) -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained(model, TrainSettings(1, lr=0.1, batch=16, freeze=freeze))  # type: ignore[arg-type]
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert (
        same
        == {
            "none": set(),
            "gamma": {"1.weight"},
            "norm": {k for k in before if k.startswith("1.")},
        }[freeze]
    )
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("freeze", ["none", "ranges", "norm+ranges"])
@pytest.mark.parametrize(
    "grids",
    [
        "grid='lsq', inputs_grid='pact'",
        "grid='uniform(momentum=0.1, weights_momentum=0.1)'",
        "grid='uniform(asymmetric_weights=True)'",
    ],
)
def test_ranges_stay_as_they_are_told(freeze: str, grids: str) -> None:
    shown = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = apply(f"quantize(4, 4, first=4, last=4, {grids})", net().eval(), shown[:1], shown)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained(model, TrainSettings(1, lr=0.1, batch=16, freeze=freeze))  # type: ignore[arg-type]
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    ranges = {name for name in before if "rounding." in name or name.startswith("grids.")}
    norms = {name for name in before if ".norm." in name}
    assert (
        ranges
        and norms
        and not any(name.endswith("weight") and ".norm." not in name for name in same)
    )
    if freeze == "none":
        moved = ranges - same
        assert any("rounding." in name for name in moved)
        assert any(name.startswith("grids.") for name in moved) == ("asymmetric" not in grids)
    else:
        assert ranges <= same
    assert (norms <= same) == (freeze == "norm+ranges")
    assert all(p.requires_grad for p in model.parameters()) and not any(
        getattr(m, "still", False) for m in model.modules()
    )


def test_ranges_of_a_network_that_has_none_cannot_stay() -> None:
    with pytest.raises(
        LissomError,
        match=r'freeze="ranges": nothing in this network is '
        r"rounded.*quantize first",
    ):
        trained(net(), TrainSettings(1, batch=16, freeze="ranges"))
    context = SurgeryContext(torch.zeros(1, 3, 8, 8), lambda _: [], where="train(1)")
    with pytest.raises(LissomError, match=r"^train\(1\): freeze="):
        method_of("steps", 'train(1, freeze="norm+ranges")').rehearse(net(), context)  # type: ignore[union-attr]


def test_the_statistics_of_batch_norm_move_by_the_momentum_that_is_given() -> None:
    moved = []
    for momentum in (1e-4, None, 1.0):
        model = net()
        trained(model, TrainSettings(1, lr=1e-6, batch=70, augment="none", norm_momentum=momentum))
        moved.append(float(model[1].running_mean.abs().max()))  # type: ignore[operator, union-attr]
        assert model[1].momentum == 0.1
    assert moved[0] == pytest.approx(1e-3 * moved[1]) and moved[1] == pytest.approx(0.1 * moved[2])


class WritesIntoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.layer(x).chunk(2, 1)
        # which PyTorch lets no network learn through
        return torch.cat([b.mul_(2), a], 1).mean((2, 3))


def test_a_network_that_cannot_learn_is_said_in_one_line_with_the_line_of_its_code() -> None:
    said = r"the network raised an error while it learned: .*\(test_fit.py, line \d+\)"
    with pytest.raises(LissomError, match=said) as caught:
        trained(WritesIntoParts())
    assert "\n" not in str(caught.value)


def test_batches_of_one_sample_are_all_learned_from() -> None:
    """Only a last batch of one sample is left out, since it has no batch statistics."""
    seen = {}
    for count, batch in ((5, 1), (5, 2), (4, 2)):
        model = bright.plain()
        calls: list[int] = []
        model.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(len(args[0])))
        settings = TrainSettings(1, lr=0.01, batch=batch, precision="fp32")
        fit(TrainingRun(model, bright.data(count), settings, seed=0, device=CPU))
        seen[count, batch] = calls
    assert seen == {(5, 1): [1] * 5, (5, 2): [2, 2], (4, 2): [2, 2]}
