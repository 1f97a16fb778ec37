"""Layers are recognised by what they compute: a forward that pads or computes its weight before
convolving is a convolution for every step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv, head
from networks import images as noise
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import lissom
from lissom import LissomWarning, apply, load, save
from lissom.language.context import SurgeryContext
from lissom.language.recipe import Recipe
from lissom.surgery.plain_layers import make_plain


def images(count: int = 8, size: int = 9) -> Tensor:
    return noise(count, size)


class Dynamic(nn.Conv2d):
    """Zeros as TensorFlow's "same" adds them, which depend on the size of the input."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            more = max((math.ceil(n / s) - 1) * s + k - n, 0)
            pads += [more // 2, more - more // 2]
        return F.conv2d(
            F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class Fixed(nn.Conv2d):
    """Zeros on one side alone, by a layer of its own."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.zeros = nn.ZeroPad2d((0, 1, 0, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.zeros(x), self.weight, self.bias, self.stride)


class Standard(nn.Conv2d):
    """A weight that is standardised first, with a gain that is learned."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(
            x, (self.weight - mean) / (var + 1e-5).sqrt() * self.gain, self.bias
        )


class Functional(nn.Module):
    """No subclass of a convolution at all."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = (
            nn.Parameter(torch.randn(8, 8, 3, 3) / 9),
            nn.Parameter(torch.randn(8)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.shift, padding="same")


def pruned() -> nn.Module:
    layer: nn.Module = prune.l1_unstructured(conv(8, 8), "weight", 0.5)
    return layer


KINDS: dict[str, Callable[[], nn.Module]] = {
    "dynamic": lambda: Dynamic(8, 8, 3, stride=2),
    "fixed": lambda: Fixed(8, 8, (2, 3), stride=2),
    "standard": lambda: Standard(8, 8, 3, padding=1, bias=False),
    "functional": Functional,
    "weight_norm": lambda: parametrizations.weight_norm(conv(8, 8)),
    "spectral_norm": lambda: parametrizations.spectral_norm(conv(8, 8)),
    "old spectral_norm": lambda: spectral_norm(conv(8, 8, groups=2)),
    "torch's prune": pruned,
}


def network(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        KINDS[kind](),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        head(8),
    )
    for _ in range(4):
        net.train()(images())
    net.eval()(images(1))
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_comes_to_a_convolution_becomes_one_and_no_output_changes(kind: str) -> None:
    net = network(kind)
    with torch.no_grad():
        wanted = {size: net(images(2, size)) for size in (7, 8, 9, 12)}
    found = make_plain(net, images(1))
    assert list(found.done) == ["3"] and not found.not_plain
    assert type(net[3]).__name__ == "CompressedConv2d" and set(dict(net[3].named_parameters())) <= {
        "weight",
        "bias",
    }
    with torch.no_grad():
        assert all(torch.equal(net(images(2, size)), outputs) for size, outputs in wanted.items())


@pytest.mark.parametrize(
    "recipe",
    [
        "fold",
        "mask(0.5) | cast('bf16')",
        "equalize",
        "cast('bf16') | quantize(4)",
        "prune(0.5, multiple=2) | quantize(8)",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_takes_it_and_the_network_comes_back_bit_equal(
    kind: str, recipe: str, tmp_path: Path
) -> None:
    net = network(kind)
    small, notes = apply(recipe, net, images(1), images(), notes=True)
    assert not any(" stay" in note and "layers" in note for note in notes), notes
    save(small, tmp_path)
    with torch.no_grad():
        wanted = small(images())
        assert torch.equal(load(tmp_path, network(kind))(images()), wanted)
    small.train()(images()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


def test_what_is_baked_is_said() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        Standard(3, 8, 3),
        nn.ReLU(),
        Standard(8, 8, 3),
        parametrizations.weight_norm(conv(8, 8)),
        Dynamic(8, 8, 3),
        head(8),
    )
    _, notes = apply("quantize(8)", net, images(1), images(), notes=True)
    later = "which takes no part in later training"
    assert notes[:2] == [
        f"quantize(8): 2 layers hold their weights as Standard computed them, {later}",
        f"quantize(8): 1 layer holds its weight as WeightNorm computed it, {later}",
    ]


def test_a_network_whose_weights_hooks_compute_is_copied_and_stays_as_it_is() -> None:
    with pytest.warns(FutureWarning):
        net = nn.Sequential(weight_norm(conv(3, 8)), nn.ReLU(), weight_norm(conv(8, 8)), head(8))
    wanted = net(images())
    assert net[0].weight.grad_fn is not None
    small = apply("fold", net, images(1), images())
    assert net[0].weight.grad_fn is not None and torch.equal(net(images()), wanted)
    torch.testing.assert_close(small(images()), wanted)
    assert not small.get_submodule("0")._forward_pre_hooks and len(net[0]._forward_pre_hooks) == 1


class Odd(nn.Conv2d):
    """Padding that follows the size of its input, but not as TensorFlow's does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (x.shape[-1] % 2, 1, 1, 1)), self.weight, self.bias)


def calling(call: Callable[[Any, Tensor], Any]) -> type[nn.Conv2d]:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = call(self, x)
            return found

    return Own


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (calling(lambda s, x: s._conv_forward(x, s.weight, s.bias).relu()), "also calls relu"),
        (calling(lambda s, x: s._conv_forward(x * 2, s.weight, s.bias)), "also calls mul"),
        (
            calling(lambda s, x: s._conv_forward(F.pad(x, (1, 1), value=1.0), s.weight, s.bias)),
            "other values than zeros",
        ),
        (
            calling(lambda s, x: s._conv_forward(F.pad(x, [1] * 4, "reflect"), s.weight, s.bias)),
            "other values than zeros",
        ),
        (
            calling(lambda s, x: s._conv_forward(x, s.weight * x.mean(), s.bias)),
            "depends on what it reads",
        ),
        (
            calling(lambda s, x: s._conv_forward(x, s.weight * torch.rand(()), s.bias)),
            "changes from call to call",
        ),
        (
            calling(
                lambda s, x: s._conv_forward(
                    torch.from_numpy(x.detach().numpy() + 1), s.weight, s.bias
                )
            ),
            "also calls numpy",
        ),
        (Odd, "in a way of its own"),
    ],
)
def test_what_comes_to_no_convolution_is_left_with_its_true_reason(
    kind: type[nn.Conv2d], why: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 8), nn.ReLU(), kind(8, 8, 3), head(8)).eval()
    before = copy.deepcopy(net)
    found = make_plain(net, images(1))
    assert (
        not found.done
        and why in found.not_plain["2"]
        and found.not_plain["2"].startswith(f"{kind.__name__}, whose ")
    )
    assert type(net[2]) is kind
    torch.manual_seed(1)
    wanted = before(images())
    torch.manual_seed(1)
    assert torch.equal(net(images()), wanted)


def test_a_layer_of_which_the_network_uses_more_keeps_its_class() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight, self.bias)

        def scale(self) -> float:
            return 0.5

    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(s.a(x) * s.a.scale() + s.b(x)),
        a=Scaled(3, 8, 1),
        b=Scaled(3, 8, 1),
        head=head(8),
    ).eval()
    wanted = net(images())
    found = make_plain(net, images(1))
    assert list(found.done) == ["b"] and found.not_plain == {
        "a": "Scaled, of which the network uses more than its output"
    }
    assert torch.equal(net(images()), wanted)


def test_parameters_that_are_shared_stay_shared() -> None:
    torch.manual_seed(0)
    one, two = Dynamic(3, 3, 3), Dynamic(3, 3, 3)
    two.weight = one.weight
    net = nn.Sequential(one, nn.ReLU(), two, head(3)).eval()
    assert list(make_plain(net, images(1)).done) == ["0", "2"] and net[0].weight is net[2].weight
    three, four = Standard(3, 3, 3), Standard(3, 3, 3)
    four.gain = three.gain
    net = nn.Sequential(three, nn.ReLU(), four, head(3)).eval()
    assert all("another layer has" in why for why in make_plain(net, images(1)).not_plain.values())
    assert net[0].gain is net[2].gain  # type: ignore[union-attr]


class NormAct(nn.BatchNorm2d):
    """Batch-norm that holds the activation behind it."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


class Twice(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)", "cast('bf16') | quantize(8)"])
def test_a_batch_norm_that_holds_its_activation_is_folded_and_leaves_that(
    recipe: str, tmp_path: Path
) -> None:
    def net(norm: type[NormAct]) -> nn.Sequential:
        torch.manual_seed(0)
        made = nn.Sequential(conv(3, 8), norm(8), Dynamic(8, 8, 3), norm(8), head(8))
        for _ in range(4):
            made.train()(images())
        return made.eval()

    small = apply(recipe, net(NormAct), images(1), images())
    inner = small.get_submodule("network") if hasattr(small, "network") else small
    assert [type(layer).__name__ for layer in inner[1].modules()] == ["Rest", "Identity", "ReLU"]  # type: ignore[index]
    save(small, tmp_path)
    with torch.no_grad():
        wanted = net(NormAct)(images())
        assert (small(images()) - wanted).abs().max() < 0.03 * wanted.abs().max()
        assert torch.equal(load(tmp_path, net(NormAct))(images()), small(images()))
    small.train()(images()).mean().backward()
    other = apply(recipe, net(Twice), images(1), images())
    assert any(type(layer) is Twice for layer in other.modules())


# what stays float is said


def test_what_stays_float_is_a_warning_and_a_note_with_counts_and_causes() -> None:
    torch.manual_seed(0)
    tanh = calling(lambda s, x: s._conv_forward(x, s.weight, s.bias).tanh())
    relu = calling(lambda s, x: s._conv_forward(x, s.weight, s.bias).relu())
    net = nn.Sequential(conv(3, 8), tanh(8, 8, 3), nn.ReLU(), tanh(8, 8, 3), relu(8, 8, 3), head(8))
    said = (
        "quantize(8): 2 of 5 layers; 2 stay float: Own, whose forward also calls tanh (1, 3); "
        "1 stays float: Own, whose forward also calls relu (4)"
    )
    with pytest.warns(LissomWarning) as warned:
        apply("quantize(8)", net, images(1), images())
    assert [str(w.message) for w in warned] == [said]
    assert warned[0].filename == __file__  # where apply was called
    assert said in apply("quantize(8)", net, images(1), images(), notes=True)[1]


@pytest.mark.parametrize(
    "recipe",
    [
        "quantize(8, keep='1,3,4')",
        "quantize(8, only='0')",
        "mask(0.5, only='0')",
        "cast('bf16', keep='1,3,4')",
        "quantize(8, first=32, keep='1,3,4')",
    ],
)
def test_what_the_user_kept_is_no_news(recipe: str) -> None:
    torch.manual_seed(0)
    tanh = calling(lambda s, x: s._conv_forward(x, s.weight, s.bias).tanh())
    net = nn.Sequential(
        conv(3, 8), tanh(8, 8, 3), nn.ReLU(), tanh(8, 8, 3), nn.ConvTranspose2d(8, 8, 2), head(8)
    )
    assert not any(
        "stay" in note for note in apply(recipe, net, images(1), images(), notes=True)[1]
    )
    apply(recipe, net, images(1), images())  # a warning would be an error


def test_layers_that_multiply_within_themselves_are_counted() -> None:
    """So are products with a parameter of one's own; a parameter that is added is no layer."""
    torch.manual_seed(0)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(4, 8), nn.Parameter(torch.randn(9, 8))
            self.attend, self.mix = (
                nn.MultiheadAttention(8, 2, batch_first=True),
                nn.Parameter(torch.randn(8, 8)),
            )
            self.gru, self.out = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed((x[:, 0] > 0).long().sum(1) % 4) + self.place
            x = self.attend(x, x, x)[0] @ self.mix.t()
            return self.out(self.gru(x)[0].mean(1))

    ctx = SurgeryContext(images(1), lambda _: [images()], where="quantize(8)")
    Recipe("quantize(8)").steps[0](Mixed().eval(), ctx)
    assert set(ctx.facts["left_float"]) == {"", "gru"}
    # the embedding, and the four layers that attention is made of, too
    assert ctx.facts["quantized"] == 6
    assert ctx.warnings[0].startswith("quantize(8): 6 of 8 layers; ")
    assert "Mixed, whose forward also calls getitem (the network itself)" in ctx.warnings[0]


# in runtimes


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_it_runs_in_integers(target: str, tmp_path: Path) -> None:
    from lissom.running.plan import one_target

    torch.manual_seed(0)
    net = nn.Sequential(
        Dynamic(3, 16, 3, stride=2),
        nn.ReLU(),
        Fixed(16, 16, (2, 3)),
        nn.ReLU(),
        Standard(16, 16, 3, padding=1),
        nn.ReLU(),
        parametrizations.weight_norm(conv(16, 16)),
        nn.ReLU(),
        head(16),
    )
    small = apply("quantize(8, reduce_range=True)", net, images(1, 16), images(16, 16))
    path = lissom.export(small, target, tmp_path / "net.onnx", (3, 16, 16))
    runtime = one_target(target)
    fused = runtime.fused(path)
    assert fused is not None and not fused.rest, str(fused)
    with torch.no_grad():
        wanted = small(images(16, 16))
    found = torch.from_numpy(runtime.load(path, 1)(images(16, 16).numpy()))
    assert (found - wanted).square().mean().sqrt() < 0.05 * wanted.square().mean().sqrt()


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_over_one_and_three_axes_run_in_integers(
    axes: int, target: str, tmp_path: Path
) -> None:
    from lissom.running.plan import one_target

    torch.manual_seed(0)
    kind, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[axes]
    shape, left = (2, *[9] * axes), 4**axes

    def net() -> nn.Sequential:
        return nn.Sequential(
            kind(2, 16, 3, stride=2, padding=1),
            norm(16),
            nn.ReLU(),
            kind(16, 8, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * left, 5),
        )

    given, x = net().eval(), torch.randn(16, *shape)
    small, notes = apply("quantize(8, reduce_range=True)", given, x[:1], x, notes=True)
    assert not notes and type(small.get_submodule("network.0")).__name__ == f"QuantizedConv{axes}d"
    with torch.no_grad():
        wanted = small(x)
        assert (given(x) - wanted).square().mean().sqrt() < 0.05 * wanted.square().mean().sqrt()
    save(small, tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, net())(x), wanted)
    path = lissom.export(small, target, tmp_path / "net.onnx", shape)
    fused = one_target(target).fused(path)
    assert fused is not None and str(fused) == "3/3"
    found = torch.from_numpy(one_target(target).load(path, 1)(x.numpy()))
    assert (found - wanted).square().mean().sqrt() < 0.02 * wanted.square().mean().sqrt()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolutions_are_masked_and_cast(axes: int, tmp_path: Path) -> None:
    """Against the values of the weight itself, rounded; the size of the output is asked for by name
    and by place.
    """

    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
            self.one, self.two = kind(3, 6, 3, stride=2), kind(6, 4, 2, stride=2, groups=2)

        def forward(self, x: Tensor) -> Any:
            y = self.one(x, output_size=[2 * n + 2 for n in x.shape[2:]])
            return self.two(y, [2 * n + 1 for n in y.shape[2:]])

    torch.manual_seed(0)
    net, x = Up().eval(), torch.randn(2, 3, *[4] * axes)
    small, notes = apply("mask(0.5) | cast('bf16')", net, x[:1], x, notes=True)
    assert not any(" stay" in note for note in notes)
    for layer in (wanted := copy.deepcopy(net)).children():
        weight = layer.weight.data  # type: ignore[union-attr]
        weight[
            weight.abs() <= weight.abs().flatten().sort().values[round(0.5 * weight.numel()) - 1]
        ] = 0
        layer.weight.data = weight.bfloat16().float()  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(small(x), wanted(x))
    save(small, tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, Up())(x), wanted(x))
    small.train()(x).square().mean().backward()
    assert all(
        (p.grad == 0)[p == 0].all()
        for name, p in small.named_parameters()
        if name.endswith("weight")
    )
    with pytest.warns(LissomWarning, match="inputs where others have their outputs"):
        apply(
            "mask(0.5, pattern=block, block=2)",
            nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 4, 2)),
            images(1),
        )


def test_a_layer_that_does_more_after_its_product_is_left_as_soon_as_that_shows() -> None:
    done: list[str] = []

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.kernel).relu()
            done.append("the rest")
            return x.sigmoid()

    net = nn.Sequential(Block(), nn.ReLU())
    found = make_plain(net, images(1))
    assert found.not_plain == {"0": "Block, whose forward also calls relu"} and not found.done
    assert done == ["the rest"]  # once, where the network ran


class ToAMultiple(nn.Conv2d):
    """Zeros on the right and below up to a multiple of the stride, as patches of images need."""

    def forward(self, x: Tensor) -> Tensor:
        more = [-n % s for n, s in zip(x.shape[:1:-1], self.stride[::-1], strict=True)]
        return F.conv2d(F.pad(x, (0, more[0], 0, more[1])), self.weight, self.bias, self.stride)


@pytest.mark.parametrize("layer", [Dynamic, ToAMultiple])
@pytest.mark.parametrize("recipe", ["quantize(8, 32)", "mask(0.01)"])
def test_padding_that_is_0_at_the_size_of_the_example_stays(layer: Any, recipe: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer(3, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    changed = apply(recipe, model, noise(1, 8), noise(8, 8))
    for size in (8, 9):
        assert changed(noise(1, size)).shape == model(noise(1, size)).shape
