"""Temporary changes to a network while a step trains, compared with torch, timm and torchvision."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from bright import CPU, data, net, plain, trained
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lissom import LissomError
from lissom.language.context import SurgeryContext
from lissom.language.parse_methods import method_of
from lissom.language.training import Batch, TrainSettings
from lissom.learning.drop_path import DropPath, set_drop_path
from lissom.learning.fit import fit
from lissom.learning.loss import cross_entropy
from lissom.learning.prepare import prepare_network
from lissom.learning.training_run import TrainingRun

FEW = TrainSettings(1, lr=0.05, batch=16, schedule="constant", augment="none")


def tensors(model: nn.Module) -> list[Tensor]:
    return [value.detach() for value in model.state_dict().values()]


def test_the_average_is_that_of_torch() -> None:
    settings = replace(FEW, epochs=2, ema=0.8)
    seen: list[nn.Module] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(copy.deepcopy(model))  # before each update
        return cross_entropy()(model, batch)

    last = net()
    trained(last, replace(settings, ema=None), loss=loss)
    wanted = AveragedModel(net(), multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    wanted.n_averaged.fill_(1)  # the first of its updates copies otherwise
    batchnorm = net()
    # statistics of batch-norm move in the forward pass, so an update sees those of its own batch
    for before, after in zip(seen, [*seen[1:], last], strict=True):
        with torch.no_grad():
            for name, value in batchnorm.named_parameters():
                value.copy_(after.get_parameter(name))
            for name, value in batchnorm.named_buffers():
                value.copy_(before.get_buffer(name))  # of the batch that has just been seen
        wanted.update_parameters(batchnorm)
    found = net()
    trained(found, settings)
    for name, value in wanted.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(found.state_dict()[name], value, msg=name)
    assert not torch.equal(found[0].weight, last[0].weight)


@pytest.mark.parametrize("parts", [2, 3, 16])
@pytest.mark.parametrize("settings", [{}, {"clip": 0.5}, {"optimizer": "adamw", "lr": 0.01}])
def test_parts_of_a_batch_give_the_gradient_of_the_batch(parts: int, settings: Any) -> None:
    """Without batch-norm; 70 samples in batches of 16 end in a batch of 6."""
    whole, split = plain(), plain()
    one = trained(whole, replace(FEW, epochs=2, augment="auto", **settings))
    two = trained(split, replace(FEW, epochs=2, augment="auto", accumulate=parts, **settings))
    for a, b in zip(tensors(whole), tensors(split), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert [row["top1"] for row in one] == [row["top1"] for row in two]
    assert one[1]["loss"] == pytest.approx(two[1]["loss"], rel=1e-5)


def test_as_many_samples_are_shown_at_once_as_the_parts_say() -> None:
    shown = []
    model = plain()
    model.register_forward_hook(lambda _, inputs, __: shown.append(len(inputs[0])))
    trained(model, replace(FEW, accumulate=3))
    assert shown == [6, 5, 5] * 4 + [2, 2, 2]


def test_only_what_is_named_learns_and_everything_learns_afterwards() -> None:
    model, before = net(), net()
    trained(model, replace(FEW, only="norm,head", freeze="none"))
    moved = {
        name
        for name, value in model.named_parameters()
        if not torch.equal(value, before.get_parameter(name))
    }
    assert moved == {"1.weight", "1.bias", "6.weight", "6.bias"}
    assert not torch.equal(model[1].running_mean, before[1].running_mean)
    assert all(p.requires_grad for p in model.parameters())
    context = SurgeryContext(torch.zeros(1, 3, 8, 8), lambda _: [], where="train(1)")
    with pytest.raises(LissomError, match=r"^train\(1\): only: expected .* got 'hed'.*'head'"):
        method_of("steps", 'train(1, only="hed")').rehearse(net(), context)


def timm_model(name: str, **more: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=3, **more)


def rates(model: nn.Module) -> list[float]:
    return [
        m.rate if isinstance(m, DropPath) else m.drop_prob if hasattr(m, "drop_prob") else m.p
        for m in model.modules()
        if isinstance(m, DropPath) or type(m).__name__ in ("DropPath", "StochasticDepth")
    ]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet18"])
def test_rates_of_stochastic_depth_are_those_of_timm(name: str) -> None:
    wanted = [rate for rate in rates(timm_model(name, drop_path_rate=0.2)) if rate]
    model = timm_model(name)
    keys = list(model.state_dict())
    undo = set_drop_path(model, 0.2)
    found = rates(model)
    assert [rate for rate in found if rate] == pytest.approx(wanted) and len(wanted) > 5
    assert max(found) == pytest.approx(0.2) and min(found) == 0
    undo()
    assert not rates(model) and list(model.state_dict()) == keys
    assert not any(isinstance(m, DropPath) for m in model.modules())


def test_rates_of_stochastic_depth_are_those_of_torchvision() -> None:
    from torchvision.models import convnext_tiny

    wanted = rates(convnext_tiny(stochastic_depth_prob=0.3))
    model = convnext_tiny(stochastic_depth_prob=0.1)
    before = rates(model)
    undo = set_drop_path(model, 0.3)
    assert rates(model) == pytest.approx(wanted)
    undo()
    assert rates(model) == before


def test_a_branch_is_left_out_as_in_timm() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 2, 2)
    y = DropPath(0.25).train()(x)
    left_out = (y == 0).flatten(1).all(1)
    torch.testing.assert_close(y[~left_out], x[~left_out] / 0.75)
    assert 0.22 < left_out.float().mean() < 0.28
    assert torch.equal(DropPath(0.25).eval()(x), x)


class Branching(nn.Module):
    """A network with a place for stochastic depth, as timm's have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Branch() for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.layer(x).relu())


def test_a_network_learns_with_stochastic_depth_and_keeps_its_layers() -> None:
    one, two = Branching(), Branching()
    layers = str(one)
    trained(one, FEW)
    trained(two, replace(FEW, drop_path=0.5))
    assert str(two) == layers and not torch.equal(one.head.weight, two.head.weight)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("drop_path=0.1", "drop_path: this network has no place for stochastic depth"),
        ("recompute=True", "recompute: this network cannot compute activations again"),
    ],
)
def test_what_a_network_has_no_place_for_is_refused_before_the_first_epoch(
    setting: str, said: str
) -> None:
    context = SurgeryContext(torch.zeros(1, 3, 8, 8), lambda _: [], where="train(1)")
    with pytest.raises(LissomError, match=rf"^train\(1\): {said}"):
        method_of("steps", f"train(1, {setting})").rehearse(net(), context)


def test_gradients_are_the_same_with_activations_computed_again() -> None:
    model = timm_model("vit_tiny_patch16_224", img_size=32, depth=2)
    x = torch.randn(2, 3, 32, 32)
    calls = [0]
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

    def gradients() -> list[Tensor]:
        calls[0] = 0
        model.zero_grad()
        model.train()(x).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    wanted = gradients()
    undo = prepare_network(model, TrainSettings(1, recompute=True))
    found = gradients()
    assert calls[0] == 2, "once more for the gradient"
    undo()
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(a, b)
    gradients()
    assert calls[0] == 1


@pytest.mark.parametrize(("name", "wanted"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_network_computes_in_the_precision_that_is_asked_for(name: Any, wanted: Any) -> None:
    kinds = set()
    model = plain()
    model[0].register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    fit(TrainingRun(model, data(), replace(FEW, precision=name), seed=0, device=CPU))
    assert kinds == {wanted} and model[0].weight.dtype == torch.float32


def test_in_fp16_the_loss_is_scaled_so_that_small_gradients_count() -> None:
    """The gradients of this loss are below what fp16 can hold; scaled they are not, and updates are
    about those of float32. An update whose gradient is infinite is left out.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy()(model, batch) * 1e-6

    torch.manual_seed(0)
    moved = {}
    for precision in ("fp32", "fp16"):
        model = plain()
        before = model[0].weight.detach().clone()
        settings = replace(FEW, precision=precision, lr=10, momentum=0.0, decay=0.0)
        fit(TrainingRun(model, data(), settings, seed=0, device=CPU, loss=loss))
        moved[precision] = model[0].weight.detach() - before
    gap = (moved["fp16"] - moved["fp32"]).norm() / moved["fp32"].norm()
    assert 0 < gap < 0.02, gap


def test_a_compiled_network_learns_what_it_would_learn_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="aot_eager"))
    one, two = plain(), plain()
    trained(one, FEW)
    trained(two, replace(FEW, compile=True))
    for a, b in zip(tensors(one), tensors(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert list(two.state_dict()) == list(one.state_dict())


def test_a_compiler_that_is_not_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nmore lines")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=raising))
    with pytest.raises(
        LissomError, match=r"^compile: torch.compile .* leave compile out$"
    ) as caught:
        trained(plain(), replace(FEW, compile=True))
    assert "\n" not in str(caught.value)
