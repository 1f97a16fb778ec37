"""Pruning to a latency: the table of layer times, its predictions, and their correction by
measuring the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lissom import LissomError
from lissom.bench.clock import EMPTY_LAYER, Layer, LayerClock, layer_of
from lissom.language.context import SurgeryContext
from lissom.models import factory
from lissom.steps.prune import Prune
from lissom.surgery.channels.group import Group
from lissom.surgery.channels.trial_cut import cuttable
from lissom.surgery.count import macs
from lissom.surgery.trace import traced


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3, 2, 1),
        nn.Conv2d(6, 12, 3, groups=3),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv2d(6, 8, 1, dilation=1),
        nn.Conv2d(6, 8, 3, dilation=2),
        nn.ConvTranspose2d(6, 8, 2, 2),
        nn.ConvTranspose2d(6, 8, 3, groups=2),
    ],
    ids=str,
)
def test_a_layer_file_has_the_shapes_of_the_layer(layer: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(1, 6, 9, 9)
    found = layer_of(next(op for op in traced(layer, x).ops if op.name == "convolution"))
    (tmp_path / "layer.onnx").write_bytes(found.onnx_file())
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    assert found.random_input().shape == tuple(x.shape)
    assert session.run(None, {"x": found.random_input()})[0].shape == tuple(layer(x).shape)
    halved = found.with_widths(3, 4)
    (tmp_path / "half.onnx").write_bytes(halved.onnx_file())
    onnxruntime.InferenceSession(tmp_path / "half.onnx").run(None, {"x": halved.random_input()})


class Table(LayerClock):
    """A clock whose layers take inputs times outputs, and whose call takes nothing."""

    asked: int

    def __init__(self) -> None:
        self.table, self.asked, self.path = {repr(EMPTY_LAYER): 0.0}, 0, Path("/dev/null/none")

    def _measure_ms(self, layer: Layer) -> float:
        self.asked += 1
        return float(layer.inputs * layer.outputs) / layer.groups


def test_times_between_the_points_are_interpolated_and_points_are_measured_once() -> None:
    clock, layer = Table(), Layer(64, 32, (3, 3), (8, 8), (1, 1), (1, 1), (1, 1))
    assert (
        clock.interpolated_ms(layer, 64, 32) == 2048
        and clock.interpolated_ms(layer, 48, 24) == 1152
    )
    assert clock.interpolated_ms(layer, 40, 20) == pytest.approx(
        800
    )  # bilinear, so exact for a product
    assert clock.asked == 16
    assert clock.interpolated_ms(layer, 1, 1) > 0


def test_the_predictor_adds_up_the_layers_at_the_widths_kept() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Flatten(), nn.Linear(16 * 144, 4)
    ).eval()
    groups = cuttable(net, images()).cuttable_groups
    cost = Table().predictor(net, images(), groups)
    assert cost([32, 16]) == pytest.approx(3 * 32 + 32 * 16 + 16 * 144 * 4)
    assert cost([16, 8]) == pytest.approx(3 * 16 + 16 * 8 + 8 * 144 * 4)


class Wrong:
    """A clock that takes a network's latency for its multiply-adds, and whose table errs."""

    def __init__(self, error: float) -> None:
        self.error, self.measured = error, 0

    def multiple(self, model: nn.Module, example: Tensor) -> int:
        return 4

    def predictor(
        self, model: nn.Module, example: Tensor, groups: Sequence[Group]
    ) -> Callable[[Sequence[int]], float]:
        whole = sum(g.size for g in groups)
        return lambda kept: (sum(kept) / whole) ** self.error

    def latencies(self, models: Sequence[nn.Module], example: Tensor) -> list[float]:
        self.measured += 1
        return [macs(m, example) / 1e6 for m in models]


@pytest.mark.parametrize("error", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("amount", [0.3, 0.6])
def test_a_table_that_errs_is_put_right_by_measuring(error: float, amount: float) -> None:
    torch.manual_seed(0)
    net, clock = factory("resnet20")(num_classes=4).eval(), Wrong(error)
    ctx = SurgeryContext(
        images(1), lambda n: [images(2)], where="prune", clock=lambda target: clock
    )
    small = Prune(amount, of="latency", multiple="auto")(net, ctx)
    found = ctx.facts["amount"]
    fresh = factory("resnet20")(num_classes=4)
    assert 1 - macs(small, images()) / macs(fresh, images()) == pytest.approx(
        found["removed"], abs=1e-3
    )
    assert abs(found["removed"] - amount) < 0.03 and clock.measured == found["measured"] <= 8
    assert ctx.facts["multiple"] == 4


def test_what_is_out_of_reach_is_refused_before_anything_is_trained() -> None:
    net = factory("resnet8")(num_classes=4).eval()
    ctx = SurgeryContext(
        images(1), lambda n: [images(2)], where="prune", clock=lambda target: Wrong(1.0)
    )
    with pytest.raises(LissomError, match=r"0\.97 of the latency cannot be removed"):
        Prune(0.97, of="latency").rehearse(net, ctx)
    with pytest.raises(LissomError, match="latency is measured by"):
        Prune(0.3, of="latency").rehearse(
            net, SurgeryContext(images(1), lambda n: [images(2)], where="prune")
        )


def test_layers_are_timed_for_real_and_the_table_is_kept(tmp_path: Path) -> None:
    small, large = (
        Layer(n, n, (3, 3), (size, size), (1, 1), (1, 1), (1, 1)) for n, size in ((8, 16), (96, 32))
    )
    clock = LayerClock("onnxruntime", home=tmp_path)
    assert 0 < clock.ms(small) < clock.ms(large)
    clock.write_table()
    again = LayerClock("onnxruntime", home=tmp_path)
    assert again.table == clock.table and len(list(tmp_path.iterdir())) == 1
    again.table, clock.table = {"one": 1.0}, {"another": 2.0}
    again.write_table(), clock.write_table()  # neither forgets what the other measured
    assert {"one", "another"} <= set(LayerClock("onnxruntime", home=tmp_path).table)
    for broken in ("{broken", '{"ms": {"one": -1}}', '{"ms": {"one": NaN}}', "[]"):
        next(tmp_path.iterdir()).write_text(broken)
        assert LayerClock("onnxruntime", home=tmp_path).table == {}


def test_without_a_store_the_table_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    clock = LayerClock("onnxruntime")
    assert clock.ms(Layer(8, 8)) > 0
    clock.write_table()
    assert LayerClock("onnxruntime").table is clock.table and list(tmp_path.iterdir()) == []


def test_a_target_without_onnx_files_is_refused() -> None:
    with pytest.raises(LissomError, match="layers are timed as ONNX files"):
        LayerClock("torch")
