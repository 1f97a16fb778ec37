"""Pruning to a latency: the table of layer times, its predictions, and their correction by
measuring the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lissom import LissomError
from lissom.bench.clock import EMPTY_LAYER, LayerClock
from lissom.bench.layer_file import Layer, layer_of
from lissom.language.context import SurgeryContext
from lissom.models import factory
from lissom.steps.prune import Prune
from lissom.surgery.channels.group import Group
from lissom.surgery.channels.trial_cut import cuttable
from lissom.surgery.count import macs
from lissom.surgery.trace import traced


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


LAYERS = [
    nn.Conv2d(6, 8, 3, 2, 1),
    nn.Conv2d(6, 12, 3, groups=3),
    nn.Conv2d(6, 6, 5, padding=2, groups=6),
    nn.Conv2d(6, 8, 1, dilation=1),
    nn.Conv2d(6, 8, 3, dilation=2),
    nn.Conv2d(6, 8, 3, padding=2, dilation=2),
    nn.ConvTranspose2d(6, 8, 2, 2),
    nn.ConvTranspose2d(6, 8, 3, groups=2),
    nn.Linear(9, 4),
]


def input_of(layer: nn.Module) -> Tensor:
    return torch.randn(1, 9) if isinstance(layer, nn.Linear) else torch.randn(1, 6, 9, 9)


def recorded(layer: nn.Module) -> Layer:
    return next(layer_of(op) for _, _, op in traced(layer, input_of(layer)).products())


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_file_has_the_shapes_of_the_layer(
    layer: nn.Module, bits: int, tmp_path: Path
) -> None:
    x = input_of(layer)
    found = replace(recorded(layer), bits=bits)
    (tmp_path / "layer.onnx").write_bytes(found.onnx_file())
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    assert found.random_input().shape == tuple(x.shape)
    assert session.run(None, {"x": found.random_input()})[0].shape == tuple(layer(x).shape)
    halved = found.with_widths(3, 4)
    (tmp_path / "half.onnx").write_bytes(halved.onnx_file())
    onnxruntime.InferenceSession(tmp_path / "half.onnx").run(None, {"x": halved.random_input()})


def test_layers_of_8_bits_run_in_integers(tmp_path: Path) -> None:
    from lissom.targets.onnxruntime import Onnxruntime

    for layer in (nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 6, 5, padding=2, groups=6)):
        row = replace(recorded(layer), bits=8)
        row = replace(row, copies=3) if row.repeatable else row
        (tmp_path / "layer.onnx").write_bytes(row.onnx_file())
        fused = Onnxruntime().fused(tmp_path / "layer.onnx")
        assert fused is not None and fused.done == fused.total == row.copies


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers_that_keep_the_number_of_positions_follow_each_other(
    layer: nn.Module, tmp_path: Path
) -> None:
    found = recorded(layer)
    x = input_of(layer)
    keeps = isinstance(layer, nn.Linear) or layer(x).shape[2:] == x.shape[2:]
    assert found.repeatable == keeps
    if keeps:
        row = replace(found, copies=4)  # an even number ends with the widths of the input
        (tmp_path / "row.onnx").write_bytes(row.onnx_file())
        session = onnxruntime.InferenceSession(tmp_path / "row.onnx")
        assert session.run(None, {"x": row.random_input()})[0].shape == tuple(x.shape)


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


class Blocks(Table):
    """A clock whose runtime computes channels in blocks, of other sizes in float and in 8 bits."""

    def __init__(self, float_block: int, integer_block: int) -> None:
        super().__init__()
        self.block = {32: float_block, 8: integer_block}

    def _measure_ms(self, layer: Layer) -> float:
        block = self.block[layer.bits]
        full = [-(-width // block) * block for width in (layer.inputs, layer.outputs)]
        return 5.0 + layer.copies * replace(layer, inputs=full[0], outputs=full[1]).macs


@pytest.mark.parametrize(
    ("float_block", "integer_block", "expected"),
    [(1, 1, 1), (8, 8, 8), (8, 16, 16), (16, 1, 16), (4, 8, 8)],
)
def test_multiples_suit_both_float_and_8_bits(
    float_block: int, integer_block: int, expected: int
) -> None:
    net = factory("resnet20")(num_classes=4).eval()
    assert Blocks(float_block, integer_block).multiple(net, images(1)) == expected


def test_multiples_that_leave_most_of_the_work_whole_are_not_chosen() -> None:
    net = factory("resnet20")(num_classes=4).eval()  # two thirds of it in 16 and 32 channels
    assert Blocks(32, 32).multiple(net, images(1)) <= 16


def test_multiples_of_a_network_of_linear_layers_are_timed_too() -> None:
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    clock = Blocks(16, 4)
    assert clock.multiple(net, torch.randn(1, 64)) == 16
    assert Blocks(8, 8).multiple(nn.Sequential(nn.Identity()), torch.randn(1, 64)) == 8
    narrow = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 9))  # nearly all in one channel
    assert Blocks(8, 8).multiple(narrow, torch.randn(1, 1, 16, 16)) == 8


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
