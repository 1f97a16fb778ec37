"""The API for surgery: errors are one line that says what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import images, seasoned
from torch import Tensor, nn

import lissom
from lissom import LissomError, LissomWarning


def test_an_example_that_the_network_does_not_take_is_said_with_its_shape() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    said = (
        r"^apply: the network does not run on `example`, of shape \(3, 8, 9\); expected one input "
    )
    with pytest.raises(LissomError, match=said):
        lissom.apply("quantize(8)", net, torch.randn(3, 8, 9))


def test_a_quantized_network_is_not_cut() -> None:
    seen = images(8, 16)
    small = lissom.apply("quantize(8)", seasoned(), seen[:1], seen)
    with pytest.raises(
        LissomError,
        match=r"prune\(0.5\): a quantized network is not cut; prune "
        r"before quantize",
    ):
        lissom.apply("prune(0.5)", small, seen[:1], seen)


def test_ranges_that_have_not_settled_make_one_note_that_names_the_worst() -> None:
    from lissom.language.context import SurgeryContext
    from lissom.language.parse_methods import method_of

    def note(count: int) -> str:
        seen = torch.cat([0.1 * images(32, 16), 40 * images(32, 16)])
        ctx = SurgeryContext(
            seen[:1], lambda wanted: list(seen[:wanted].split(8)), seed=0, where="quantize"
        )
        method_of("steps", f"quantize(8, samples={count}, range='minmax')")(seasoned(), ctx)
        (found,) = [note for note in ctx.notes if "not settled" in note]
        return found

    assert " ranges of 64 images have not settled: what " in note(64)
    assert "with half the images" in note(64) and "; and " in note(64)
    # more can be asked for only where there are more
    assert note(64).endswith("; more samples= or a percentile would help")
    assert note(512).endswith("; a percentile would help")


def test_a_copied_network_is_what_deepcopy_makes() -> None:
    from lissom.tasks.user_network import copied_module

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.gru = nn.Linear(4, 4), nn.GRU(4, 4)
            self.two, self.again = nn.Linear(4, 4), self.one
            self.two.weight = self.one.weight
            self.cache: dict[str, Tensor] = {"bias": self.one.bias}
            self.seen = [self.cache]
            self.register_buffer("most", torch.ones(2), persistent=False)
            # computed, of which deepcopy takes no copy
            self.seen_once = self.two.seen_once = 2 * self.one.weight

    net = Tied().train()
    twin: Any = copied_module(net, {})
    assert twin.two.weight is twin.one.weight is not net.one.weight and twin.again is twin.one
    assert twin.cache["bias"] is twin.one.bias and twin.seen[0] is twin.cache is not net.cache
    assert all(a is b for a, b in zip(twin.gru._flat_weights, twin.gru.parameters(), strict=True))
    assert twin.seen_once is twin.two.seen_once is not net.seen_once and torch.equal(
        twin.seen_once, net.seen_once
    )
    assert (
        twin.training
        and list(twin.state_dict()) == list(net.state_dict())
        and torch.equal(twin.most, net.most)
    )
    twin.one.register_forward_hook(lambda *_: None)
    assert not net.one._forward_hooks


def test_a_module_that_says_how_it_is_copied_is_copied_so() -> None:
    from lissom.tasks.user_network import copied_module

    class Own(nn.Linear):
        def __getstate__(self) -> dict[str, Any]:
            return {**vars(self), "session": None}

    class Kept(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return self

    net = nn.Sequential(Own(4, 4), Kept(4, 4))
    net[0].session = open  # type: ignore[assignment]
    twin = copied_module(net, {})
    assert twin.get_submodule("0").session is None and twin.get_submodule("1") is net[1]


def test_the_random_numbers_of_the_caller_go_on() -> None:
    model = seasoned()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    lissom.apply("prune(0.3) | quantize(8)", model, images(2, 16), images(40, 16))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.filterwarnings("ignore::lissom.LissomWarning")
@pytest.mark.parametrize(
    "recipe",
    [
        "quantize(8)",
        "quantize(4, 4)",
        'quantize(8, "dynamic")',
        "quantize(2, 2)",
        "quantize(8, correct=True)",
        'quantize(4, rounding="learned", steps=5)',
        'quantize(4, rounding="blocks", steps=5)',
        "equalize | quantize(8)",
        "quantize(8, smooth=False)",
    ],
)
def test_a_part_that_no_sample_reaches_stays_float_and_takes_nothing_and_something(
    recipe: str,
) -> None:
    """As the second stage of a detector that found nothing."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)
            self.mix = nn.Linear(8, 8)
            self.score = nn.Linear(8, 1)
            self.norm = nn.LayerNorm(8)
            self.box = nn.Linear(8, 8)
            self.out = nn.Linear(8, 4)
            self.register_buffer("least", torch.tensor(1e3))

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.relu(self.stem(x)).mean((2, 3))
            rows = torch.relu(self.mix(rows))
            found = rows[self.score(rows)[:, 0] > self.least]
            return self.out(torch.relu(self.box(self.norm(found))))

    torch.manual_seed(0)
    model = Detector().eval()
    with torch.no_grad():
        model.score.bias.fill_(10)
    seen = images(32, 8)
    changed = lissom.apply(recipe, model, seen[:2], seen)
    assert changed(seen).shape == (0, 4)
    changed.get_buffer("network.least").fill_(0)
    assert changed(seen).shape == (32, 4)
    assert changed(seen).isfinite().all()
    assert len(changed(seen).unique(dim=0)) > 3  # not all rounded to the same


def test_a_linear_layer_with_batchnorm_beside_a_normalization_is_corrected_rightly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.LayerNorm(16), nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
    )
    draw = torch.randn(256, 16)
    for _ in range(30):
        model(3 + draw)
    with torch.no_grad():
        model[2].running_var.mul_(0.05)  # type: ignore[union-attr, operator]
    model.eval()
    seen = 3 + draw
    corrected = lissom.apply("quantize(8)", model, seen[:2], seen)
    plain = lissom.apply("quantize(8, correct=False)", model, seen[:2], seen)
    with torch.no_grad():
        size = model(seen).square().mean()
        errors = [
            float((net(seen) - model(seen)).square().mean() / size) for net in (corrected, plain)
        ]
    assert errors[0] < 1.5 * errors[1] < 0.01


def test_ranges_of_the_example_alone_are_a_warning() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.randn(16, 3, 8, 8)
    with pytest.warns(LissomWarning, match="measured on `example` alone, of 1 inputs"):
        lissom.apply("quantize(8)", net, x[:1])
    lissom.apply("quantize(8)", net, x)  # sixteen are few, and not forgotten
    lissom.apply("quantize(8, 32)", net, x[:1])  # without ranges


@pytest.mark.parametrize("shape", [(3, -1, -1), (3, 0, 8)])
def test_open_sizes_of_a_file_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="expected sizes of at least 1"):
        lissom.export(nn.Conv2d(3, 4, 3), "onnxruntime", tmp_path / "net.onnx", shape)
