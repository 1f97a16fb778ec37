"""Whatever calls a network makes, every layer reads values on a calibrated grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import Net, images, seasoned
from torch import Tensor, nn

from lissom import apply, export
from lissom.language.context import SurgeryContext
from lissom.language.parse_methods import method_of
from lissom.surgery.quantization.dataflow import input_name_of, trace_dataflow
from lissom.surgery.quantization.site_ranges import SiteRanges

KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "unflatten": lambda y: y.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
    "shuffle": lambda y: nn.functional.channel_shuffle(y, 2),
    "swapaxes": lambda y: y.swapaxes(2, 3),
    "movedim": lambda y: y.movedim(2, 3),
    "flip": lambda y: y.flip(2),
    "roll": lambda y: torch.roll(y, 1, 2),
    "unbind": lambda y: torch.stack(y.unbind(0)),
}
UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda y: y.sort(2).values,
    "cumsum": lambda y: 3 * y.cumsum(2),
    "pad": lambda y: nn.functional.pad(y, (1, 1)),
    "of numbers": lambda y: (
        torch.linspace(-5, 5, y[0].numel()).view_as(y[:1]).expand_as(y) * y.amax()
    ),
}


def between(call: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a network that makes a call between a ReLU and a convolution, on values of up to 40."""
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(s.second(call(s.first(x).relu())).mean((2, 3))),
        first=nn.Conv2d(3, 8, 3),
        second=nn.Conv2d(8, 8, 1),
        head=nn.Linear(8, 4),
    )
    with torch.no_grad():
        net.get_submodule("first").weight.mul_(12)  # type: ignore[operator, union-attr]
    return net.eval()


@pytest.mark.parametrize("call", [*KNOWN.values(), *UNKNOWN.values()], ids=[*KNOWN, *UNKNOWN])
def test_quantizing_changes_little_whatever_is_called_between_layers(
    call: Callable[[Tensor], Tensor],
) -> None:
    net, seen = between(call), images()
    small = apply("quantize(8, range='minmax')", net, seen[:1], seen)
    with torch.no_grad():
        plain, rounded = net(seen), small(seen)
    assert (rounded - plain).norm() < 0.03 * plain.norm()


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "unbind"])
def test_what_only_moves_values_keeps_their_grid(name: str) -> None:
    flow = trace_dataflow(between(KNOWN[name]), images()[:1])
    assert flow.inputs["second"] == "relu1" and not flow.layers_without_site


def test_of_a_call_that_is_not_known_it_is_measured_what_the_layer_reads() -> None:
    flow = trace_dataflow(between(UNKNOWN["sort"]), images()[:1])
    assert (
        flow.layers_without_site == {"second"} and input_name_of("second") in flow.sources["second"]
    )


def test_layers_of_almost_the_same_name_have_ranges_of_their_own() -> None:
    """`a.0` and `a_0` read values of unknown calls, one of them 500 times as large."""
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.a_0((500 * s.a(x.tanh().cumsum(1))).cumsum(1)),
        a=nn.Sequential(nn.Linear(8, 8)),
        a_0=nn.Linear(8, 4),
    ).eval()
    seen = torch.randn(64, 8)
    small = apply("quantize(8)", net, seen[:1], seen)
    with torch.no_grad():
        plain, rounded = net(seen), small(seen)
    assert (rounded - plain).norm() < 0.05 * plain.norm()


@pytest.mark.parametrize("name", ["nin_gc-quarter", "shufflenet"])
def test_networks_with_shuffles_answer_as_before(name: str) -> None:
    if name == "shufflenet":
        from torchvision.models import shufflenet_v2_x0_5

        torch.manual_seed(0)
        net: nn.Module = shufflenet_v2_x0_5(num_classes=4)
        for _ in range(5):
            net(images())
        net.eval()
    else:
        net = seasoned(name)
    small = apply("quantize(8)", net, images()[:1], images())
    with torch.no_grad():
        plain, rounded = net(images()), small(images())
    assert (rounded - plain).norm() < 0.15 * plain.norm()


@pytest.mark.parametrize("wrong", [False, True])
def test_ranges_that_ruin_the_outputs_are_noted(
    wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong:
        monkeypatch.setattr(SiteRanges, "of", lambda self, site, spec: (0.0, 0.01))
    ctx = SurgeryContext(images(1), lambda count: [images()])
    method_of("steps", "quantize(8)")(seasoned(), ctx)
    assert any("far more than it should" in note for note in ctx.notes) == wrong


def boxes_around(distances: Tensor) -> Tensor:
    """Boxes in pixels, as detectors decode them: 8 bits for 256 pixels would move them by one."""
    places = torch.linspace(4, 252, distances[0, 0].numel()).view(1, 1, *distances.shape[2:])
    sides = 4 * distances.sigmoid()
    return torch.cat([places - sides, places + sides], 1)


def test_what_only_leads_to_the_outputs_is_not_rounded() -> None:
    torch.manual_seed(0)
    net = Net(
        lambda s, x: torch.cat([boxes_around(s.sides(s.stem(x).relu())) for _ in range(2)], 1),
        stem=nn.Conv2d(3, 8, 3),
        sides=nn.Conv2d(8, 2, 1),
    ).eval()
    seen = images()
    small = apply("quantize(8)", net, seen[:1], seen)
    with torch.no_grad():
        assert float((small(seen) - net(seen)).abs().max()) < 0.2, "pixels"


def test_additions_before_a_layer_are_rounded_and_a_network_of_features_runs_in_integers() -> None:
    net = seasoned()
    assert any(len(tied) > 1 for tied in trace_dataflow(net, images()).sums), (
        "a residual network adds in integers"
    )
    body = Net(
        lambda s, x: s.one(x) + s.two(x), one=nn.Conv2d(3, 8, 1), two=nn.Conv2d(3, 8, 1)
    ).eval()
    assert {"conv1", "conv2"} <= set(trace_dataflow(body, images()).sites), (
        "what layers make stays rounded, for runtimes that need that to compute in integers"
    )


class SharedBias(nn.Module):
    """Tokens whose linear layer is called by its weight with a bias put together, as in BEiT and Swin v2."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48, bias=own)
        self.bias = nn.Parameter(torch.randn(16))
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        bias = torch.cat([self.bias, torch.zeros_like(self.bias), self.bias])
        y = nn.functional.linear(tokens, bias=bias, weight=self.qkv.weight)
        return self.head(y.mean(1))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("recipe", ["quantize(8)", "quantize(8, correct=True)"])
def test_a_layer_that_code_calls_by_its_weight_is_rounded(
    recipe: str, own: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, seen = SharedBias(own).eval(), images()
    small, notes = apply(recipe, net, seen[:1], seen, notes=True)
    assert not notes
    with torch.no_grad():
        plain, rounded = net(seen), small(seen)
        assert (rounded - plain).norm() < 0.03 * plain.norm()
    export(small, "openvino", tmp_path / "model.onnx", (3, 16, 16), seen)
    fused = method_of("targets", "openvino").fused(tmp_path / "model.onnx")
    assert fused.done == 3
    assert not any("qkv" in name and "MatMul" in name for name in fused.rest)
