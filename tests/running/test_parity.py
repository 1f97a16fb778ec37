"""Comparing a file with the simulation: what passes, and the note on a processor that saturates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor

import lissom
from lissom import LissomError
from lissom.data.data import Data
from lissom.language.target import Target
from lissom.running.entries import load_key
from lissom.running.parity import (
    MAX_INTEGER_ERROR,
    MAX_OTHER_ROWS,
    OutputDifference,
    ParityError,
    differences_from,
    prove,
)
from lissom.running.plan import one_target
from lissom.store.store import Store
from lissom.targets.onnxruntime import Onnxruntime
from lissom.tasks.task import Task
from lissom.trees import Tree


def checked(
    outputs: Tree, wanted: Tree, target: Target, *, quantized: bool, **more: Any
) -> dict[str, Any]:
    difference = OutputDifference(MAX_INTEGER_ERROR if quantized else MAX_OTHER_ROWS)
    difference.add(outputs, wanted)
    return difference.check(target, quantized=quantized, **more)


@pytest.mark.parametrize("vnni", [False, True])
def test_a_file_far_from_its_simulation_is_an_error_that_names_saturation_where_it_may_be(
    vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.surgery.quantization.bits.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: vnni)
    target, wanted = (
        one_target("onnxruntime"),
        torch.randn(50, 10, generator=torch.Generator().manual_seed(0)),
    )
    assert checked(1.05 * wanted, wanted, target, quantized=True)["difference"] == pytest.approx(
        0.05, rel=1e-3
    )
    with pytest.raises(LissomError, match=r"differ by 0\.2 of their size") as raised:
        checked(1.2 * wanted, wanted, target, quantized=True, has_8_bit_weights=True)
    assert ("no VNNI" in str(raised.value)) == (not vnni)
    for other, eight in ((target, False), (one_target("mnn(8)"), True)):
        with pytest.raises(LissomError, match="rms") as raised:
            checked(1.2 * wanted, wanted, other, quantized=True, has_8_bit_weights=eight)
        assert "VNNI" not in str(raised.value)
    with pytest.raises(LissomError, match="exported = PyTorch") as raised:
        checked(1.2 * wanted, wanted, target, quantized=False)
    assert "VNNI" not in str(raised.value)


def test_batches_and_several_outputs_are_compared_each_by_its_own_size() -> None:
    """Boxes in pixels would hide what happens to scores."""
    boxes = 640 * torch.rand(50, 4)
    scores = torch.randn(50, 3)
    difference = OutputDifference()
    for part in (slice(20), slice(20, 50)):
        difference.add((boxes[part], 1.2 * scores[part]), (boxes[part], scores[part]))
    assert difference.rms == pytest.approx(0.2) and difference.peak == pytest.approx(0.2)
    difference.add((boxes, scores), (boxes, scores.fill_(torch.nan)))
    with pytest.raises(ParityError, match="differ by nan"):
        difference.check(one_target("onnxruntime"), quantized=False)
    classes = OutputDifference()
    classes.add(torch.arange(3), torch.zeros(3).long())
    assert classes.rms == 0, "numbers of classes are the task's to judge"


def picked(count: int = 100) -> dict[str, Tensor]:
    """Return what a network gives that picks the best rows and says which they are."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(1000, generator=rng)[:count] for _ in range(3)])
    return {
        "boxes": 640 * torch.rand(3, count, 4, generator=rng),
        "logits": torch.randn(3, count, 5, generator=rng),
        "row_ids": ids,
    }


def test_rows_that_a_network_picks_are_compared_whatever_their_order() -> None:
    wanted = picked()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    other = {name: values[:, order] for name, values in wanted.items()}
    target = one_target("onnxruntime")
    assert checked(other, wanted, target, quantized=False)["difference"] == 0
    louder = {**other, "logits": 1.2 * other["logits"]}
    with pytest.raises(ParityError, match=r"differ by 0\.2"):
        checked(louder, wanted, target, quantized=False)
    difference = OutputDifference()
    difference.add(list(louder.values()), wanted)  # as a file gives them
    assert difference.rms == pytest.approx(0.2)
    unnamed = (wanted["boxes"], wanted["logits"])
    with pytest.raises(ParityError):
        checked((other["boxes"], other["logits"]), unnamed, target, quantized=False)


@pytest.mark.parametrize(("quantized", "others"), [(False, 0.02), (True, 0.1)])
def test_a_few_of_the_rows_may_be_others_and_no_more(quantized: bool, others: float) -> None:
    wanted = picked()
    target = one_target("onnxruntime")
    few = {name: values.clone() for name, values in wanted.items()}
    count = round(300 * others)
    few["row_ids"][0, :count] = 2000 + torch.arange(count)
    few["logits"][0, :count] = 99
    assert checked(few, wanted, target, quantized=quantized)["difference"] == 0
    few["row_ids"][1, 0] = 3000
    with pytest.raises(ParityError, match="differ by inf"):
        checked(few, wanted, target, quantized=quantized)
    spoilt = {name: values.clone() for name, values in wanted.items()}
    spoilt["logits"][0, 0] = torch.nan
    with pytest.raises(ParityError, match="differ by nan"):
        checked(spoilt, wanted, target, quantized=quantized)


def test_rows_that_hold_nothing_have_one_id() -> None:
    wanted = picked()
    wanted["row_ids"][:, 50:] = -1
    for name in ("boxes", "logits"):
        wanted[name][:, 50:] = 7
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    other = {name: values[:, order] for name, values in wanted.items()}
    assert checked(other, wanted, one_target("onnxruntime"), quantized=False)["difference"] == 0


def test_a_file_that_failed_is_made_anew_and_one_that_passed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, task = Store(tmp_path / "store"), Task.of("resnet8", Data.of("digits", size=(8, 8)))
    plain = Onnxruntime.export

    def spoilt(self: Any, model: Any, path: Path, *rest: Any) -> None:
        plain(self, model, path, *rest)
        proto = onnx.load(path)
        weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = bytes(len(weight.raw_data))
        onnx.save(proto, path)

    monkeypatch.setattr(Onnxruntime, "export", spoilt)
    with pytest.raises(LissomError, match="the gate 'exported = PyTorch' failed"):
        lissom.run("fold", task, kept, targets="onnxruntime")
    monkeypatch.setattr(Onnxruntime, "export", plain)
    (record,) = lissom.run("fold", task, kept, targets="onnxruntime")
    file = Path(record["targets"]["onnxruntime"]["artefact"])

    def unlike(*_: Any, **__: Any) -> None:
        raise ParityError("unlike")

    monkeypatch.setattr(OutputDifference, "check", unlike)
    with pytest.raises(LissomError, match="unlike"):
        lissom.run("fold", task, kept, targets="openvino")
    assert file.is_file(), "it is what the other runtime's numbers are of"


NEAR = "artefact = simulated, from float (rms)"


@pytest.mark.parametrize(
    ("simulated", "file", "passes"),
    [
        (0.3, 0.3, True),
        (0.3, 0.31, True),
        (0.3, 0.36, False),
        (0.02, 0.3, False),
        (0.7, 0.7, False),
    ],
)
def test_a_file_may_be_as_far_from_float_as_its_simulation_is(
    simulated: float, file: float, passes: bool
) -> None:
    """Two ways of rounding the same, in a network that makes much of it."""
    draw = torch.Generator().manual_seed(0)
    floats, one, two = (torch.randn(200, 10, generator=draw) for _ in range(3))
    wanted = floats + simulated * one
    outputs = floats + file * two
    target = one_target("onnxruntime")

    def from_float() -> tuple[OutputDifference, OutputDifference]:
        return differences_from(floats, outputs, wanted)

    if passes:
        gate = checked(outputs, wanted, target, quantized=True, from_float=from_float)
        assert gate["name"] == NEAR and gate["difference"] == pytest.approx(file, rel=0.1)
    else:
        with pytest.raises(ParityError, match=r"the gate 'artefact = simulated \(rms\)' failed"):
            checked(outputs, wanted, target, quantized=True, from_float=from_float)
    with pytest.raises(ParityError, match="exported = PyTorch"):
        checked(outputs, wanted, target, quantized=False, from_float=from_float)


def test_a_run_and_an_export_hold_a_file_that_is_far_from_its_simulation_against_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAX_INTEGER_ERROR", "MAX_ERROR_ON_NOISE"):  # no file is so near
        monkeypatch.setattr(f"lissom.running.parity.{name}", 1e-7)
    monkeypatch.setattr(
        OutputDifference.check, "__defaults__", (False, 1e-7, "the test images", None)
    )
    task = Task.of("resnet8", Data.of("digits"))
    kept = Store(tmp_path / "store")
    (record,) = lissom.run("quantize(8, samples=64)", task, kept, targets="openvino")
    (gate,) = record["targets"]["openvino"]["gates"]
    assert gate["name"] == NEAR
    assert 0 < gate["difference"] <= gate["tolerance"] <= 1.1 * 0.5
    model = load_key(record["key"], kept)
    images = task.data.example(4)
    lissom.export(model, "openvino", tmp_path / "m.onnx", task.data.shape, images)
    monkeypatch.setattr("lissom.running.parity.NEAR_FACTOR", 0.5)
    with pytest.raises(LissomError, match=r"artefact = simulated \(rms\)' failed"):
        lissom.export(model, "openvino", tmp_path / "n.onnx", task.data.shape, images)


def test_probabilities_near_0_may_differ_by_what_sigmoids_of_runtimes_do() -> None:
    target = one_target("onnxruntime")
    wanted = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 3e-7
    for quantized in (False, True):
        assert checked(wanted + 1.5e-7, wanted, target, quantized=quantized)["difference"] == 0
        for outputs, reference in (
            (wanted + 3e-7, wanted),
            (-wanted, -2 * wanted),  # which no sigmoid gives
        ):
            with pytest.raises(ParityError):
                checked(outputs, reference, target, quantized=quantized)


def test_a_file_that_answers_wrongly_to_a_single_sample_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO 2026.4 answers so for EfficientViM: two samples rightly, and each of them wrongly."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)).eval()
    wrong = 0.0

    class Answers:
        def run(self, arrays: list[Any]) -> list[Any]:
            outputs = net(torch.from_numpy(arrays[0])).detach().numpy()
            return [outputs + (wrong if len(outputs) == 1 else 0.0)]

    @contextmanager
    def loaded(*_: Any, **__: Any) -> Iterator[Answers]:
        yield Answers()

    monkeypatch.setattr("lissom.running.parity.file_process", loaded)
    prove(one_target("openvino"), tmp_path / "model.onnx", net, (3, 2, 2))
    wrong = 1.0
    with pytest.raises(LissomError, match="on 2 inputs of noise one by one; nothing was written"):
        prove(one_target("openvino"), tmp_path / "model.onnx", net, (3, 2, 2))
