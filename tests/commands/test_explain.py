"""`lissom explain`: stages add up, the damaged layer is named, remedies run, older processors are
shown.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lissom
from lissom import LissomError
from lissom.bench.capped import run_capped
from lissom.bench.machine import machine
from lissom.cli.main import main
from lissom.commands.explain import Explainer
from lissom.commands.remedies import remedies
from lissom.commands.try_remedies import try_remedies
from lissom.language.parse_methods import method_of
from lissom.language.recipe import Recipe
from lissom.report.explanation import conclusions, remedy_conclusion
from lissom.report.page import decompressed
from lissom.running.entries import task_of_entry
from lissom.running.measure import export_if_missing
from lissom.running.plan import one_target
from lissom.store.manifest import seal
from lissom.store.store import Store
from lissom.surgery.quantization.noise import layers_of

RECIPE = "train(1) | {quantize(8, samples=64), quantize(3, 3, first=3, samples=64)}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Store, list[dict[str, Any]]]:
    store = Store(tmp_path_factory.mktemp("explain") / "store")
    task = lissom.Task.of("resnet8", lissom.Data.of("digits", size=(16, 16)))
    return task, store, lissom.run(RECIPE, task, store)


def test_the_stages_add_up(runs: Any) -> None:
    task, store, (eight, three) = runs
    found = Explainer(task, store, three["key"]).findings([one_target("onnxruntime")], 100)
    by = {row["name"]: row for row in found["stages"]}
    assert by["float"]["score"] == pytest.approx(three["float"]["scores"]["test"]["top1"])
    assert by["both, simulated"]["score"] == pytest.approx(three["scores"]["test"]["top1"])
    assert (
        by["folded"]["noise"] < 1e-5 < by["weights only"]["noise"] < by["both, simulated"]["noise"]
    )
    lost = by["both, simulated"]["lost"] - by["both, simulated"]["won"]
    assert by["float"]["score"] - by["both, simulated"]["score"] == pytest.approx(
        lost / found["images"]["stages"]
    )
    assert (
        found["targets"]["onnxruntime"]["agreement"] > 0.98
        and found["targets"]["onnxruntime"]["capped"] == []
    )
    assert {row["name"] for row in found["layers"]} == set(
        layers_of(Explainer(task, store, three["key"]).network)
    )
    small = Explainer(task, store, eight["key"]).findings([], 100)
    assert small["stages"][-1]["noise"] < found["stages"][-1]["noise"] / 3
    json.dumps(found, allow_nan=False)


def test_the_layer_that_was_spoiled_is_named(runs: Any) -> None:
    task, store, (eight, _) = runs
    this = Explainer(task, store, eight["key"])
    layer = layers_of(this.network)["blocks.1.conv2"]
    assert layer.rounding is not None
    with torch.no_grad():
        layer.rounding.scale.mul_(40)  # type: ignore[operator]
    found = this.findings([], 100)
    assert found["worst"][0] == "blocks.1.conv2"
    assert any("blocks.1.conv2 (" in sentence for sentence in found["said"])
    assert "weights" in found["said"][1]


def test_what_was_left_float_is_said(runs: Any) -> None:
    task, store, (eight, _) = runs
    assert Explainer(task, store, eight["key"]).float_layers_note() == []
    (row,) = lissom.run('train(1) | quantize(8, "dynamic", samples=64)', task, store)
    this = Explainer(task, store, row["key"])
    (said,) = this.float_layers_note()
    assert (
        "1 of 10 layers" in said
        and "9 stay float: ranges at run time are for linear layers" in said
    )
    assert said in this.findings([], 100)["said"]


def test_remedies_are_run_and_compared(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task, store, (_, three) = runs
    this = Explainer(task, store, three["key"])
    found = this.findings([], 100)
    proposed = remedies(this.steps, this.quantize_at, found)
    names = [what for what, _ in proposed]
    assert {"range=minmax", "learned rounding", "corrected biases", "the worst layer float"} <= set(
        names
    )
    assert len(names) == len({str(recipe) for _, recipe in proposed})
    few = [each for each in proposed if each[0] in ("range=minmax", "the worst three layers float")]
    monkeypatch.setattr("lissom.commands.try_remedies.remedies", lambda *_: few)
    rows = try_remedies(this, found, [], torch.device("cpu"))
    assert {row["what"] for row in rows} == {
        "as it is",
        "range=minmax",
        "the worst three layers float",
    }
    assert [row["valid"] for row in rows] == sorted((row["valid"] for row in rows), reverse=True)
    as_is = next(row for row in rows if row["what"] == "as it is")
    assert as_is["key"] == three["key"] and as_is["test"] == three["scores"]["test"]["top1"]


def test_remedies_of_dynamic_ranges_leave_out_what_the_step_refuses() -> None:
    (step,) = Recipe('quantize(8, "dynamic")').steps
    proposed = remedies([step], 0, {"worst": ["head"], "targets": {}})
    names = [what for what, _ in proposed]
    assert "the worst layer float" in names and not any("range=" in what for what in names)


def test_it_is_said_where_there_is_nothing_to_explain(runs: Any) -> None:
    task, store, (eight, _) = runs
    with pytest.raises(LissomError, match="is quantized"):
        Explainer(task, store, eight["float"]["key"])


def test_pictures_of_another_size_than_the_network_takes_are_refused(runs: Any) -> None:
    task, store, (eight, _) = runs
    other = replace(task, data=lissom.Data.of("digits", size=(8, 8)))
    with pytest.raises(LissomError, match=r"seen as \(1, 16, 16\); --data, .* \(1, 8, 8\)"):
        Explainer(other, store, eight["key"])


@pytest.mark.parametrize("words", [["explain"], ["inspect", "--sensitivity"]])
def test_targets_of_another_kind_are_one_clean_line(
    runs: Any, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    _, store, (eight, _) = runs
    key = eight["key"] if words == ["explain"] else eight["float"]["key"]
    options = ["--data", "digits", "--size", "16", "--model", "resnet8", "--kind", "segment"]
    with pytest.raises(SystemExit) as ended:
        main([*words, key, *options, "--store", str(store.root)])
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "segment: expected targets (n h w) of whole numbers" in said


def test_a_loss_within_chance_is_called_that() -> None:
    stages = [
        {"name": name, "score": score, "noise": noise, "lost": lost, "won": 5}
        for name, score, noise, lost in (
            ("float", 0.9, 0.0, 0),
            ("folded", 0.9, 0.0, 0),
            ("weights only", 0.9, 0.03, 5),
            ("inputs only", 0.9, 0.04, 5),
            ("both, simulated", 0.897, 0.05, 8),
        )
    ]
    found = {"images": {"stages": 1000}, "stages": stages, "worst": [], "layers": [], "targets": {}}
    assert "no more than chance might (±0.71)" in conclusions(found)[0] and conclusions(found)[
        1
    ].startswith("64% of the noise")
    stages[-1]["lost"], stages[-1]["score"] = 105, 0.8
    assert (
        "Rounding costs 10.00 points of 90.00" in conclusions(found)[0]
        and "beyond chance (±2.06)" in conclusions(found)[0]
    )


def test_what_was_learned_since_is_no_cost_of_rounding(runs: Any) -> None:
    task, store, _ = runs
    (record,) = lissom.run(
        "train(1) | quantize(3, 3, first=3, samples=64) | train(1, lr=0.02)", task, store
    )
    found = Explainer(task, store, record["key"]).findings([], 50)
    by = {row["name"]: row for row in found["stages"]}
    learned, both = by["learned, not rounded"], by["both, simulated"]
    assert learned["noise"] == learned["lost"] == learned["won"] == 0 and "folded" not in by
    lost = both["lost"] - both["won"]
    assert learned["score"] - both["score"] == pytest.approx(lost / found["images"]["stages"])
    took, cost = found["said"][:2]
    assert f"from {100 * by['float']['score']:.2f} to {100 * both['score']:.2f} points" in took
    assert f"points of {100 * learned['score']:.2f}" in cost


def test_what_was_tried_is_weighed_against_chance() -> None:
    rows = [
        {"what": "as it is", "valid": 0.5},
        {"what": "range=mse", "valid": 0.52},
        {"what": "failed", "failed": "why"},
    ]
    assert remedy_conclusion(rows, 75, counted=True) == [
        "Nothing tried is better than chance might make it: the best, range=mse, gives "
        "+2.00 points on 75 validation images (±16.00)."
    ]
    assert remedy_conclusion(rows, 10_000, counted=True) == [
        "Of what was tried, range=mse gives +2.00 points on 10000 validation images, beyond "
        "chance (±1.39)."
    ]
    assert remedy_conclusion(rows[:1], 75, counted=True) == []


def test_chance_is_that_of_counted_images_alone() -> None:
    rows = [{"what": "as it is", "valid": -0.5}, {"what": "range=mse", "valid": 0.52}]
    assert remedy_conclusion(rows, 75, counted=False) == [
        "Of what was tried, the best, range=mse, gives +1.0200 on 75 validation images."
    ]
    rows[1]["valid"] = -0.5
    assert remedy_conclusion(rows, 75, counted=False) == [
        "Nothing tried is better: the best, range=mse, gives +0.0000 on 75 validation images."
    ]
    digits = lissom.Data.of("digits", size=(8, 8))
    task = lissom.Task.of("resnet8", digits)
    assert task.counts_samples and replace(task, labels_itself=True).counts_samples
    assert not replace(task, metrics={"top1": lambda *_: 0.5}).counts_samples
    assert not replace(task, kind=method_of("kinds", "multilabel")).counts_samples


@pytest.mark.skipif(
    platform.machine() != "x86_64" or one_target("openvino").missing() is not None,
    reason="x86 alone",
)
def test_an_older_processor_saturates_unless_weights_have_7_bits(runs: Any) -> None:
    task, store, (eight, _) = runs
    (seven,) = lissom.run("train(1) | quantize(8, samples=64, reduce_range=True)", task, store)
    assert all(row["weights"]["bits"] == 7 for row in seven["facts"]["layers"])
    target, images = one_target("openvino"), [task.data.example(64).numpy()]
    gaps = {}
    for record in (eight, seven):
        path = export_if_missing(store, record["key"], target, False, task.fresh)
        now, old = (run_capped(target, Path(path), images, cap) for cap in ("", "AVX2"))
        assert now is not None and old is not None and now[1] > 0
        beyond = run_capped(target, Path(path), images, "AVX512_CORE_VNNI")
        assert (beyond is None) == ("avx512_vnni" not in machine()["isa"]), (
            "what this processor does not have, caps nothing"
        )
        gaps[record["key"]] = float(abs(now[0][0] - old[0][0]).max() / abs(now[0][0]).max())
    assert gaps[seven["key"]] < 1e-3
    assert torch.cpu._is_vnni_supported() is False or gaps[eight["key"]] > gaps[seven["key"]]


def test_the_words_on_the_command_line(
    runs: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, store, (_, three) = runs
    words = [
        "explain",
        three["key"][:6],
        "--store",
        str(store.root),
        "--images",
        "50",
        "--to",
        "onnxruntime",
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "both, simulated" in text and "Rounding costs" in text and "blocks.2.conv2" in text
    ends = store.record(three["key"])["explanation"]["ends"]
    test, valid = (text.index(part) for part in ("test, 360 images\n", "validation, 50 images: "))
    assert test < text.index("both, simulated") < valid < text.index("blocks.2.conv2")
    assert (
        f"nothing rounded {ends['float']:.4f}, all rounded {ends['rounded']:.4f}\n" in text[valid:]
    )
    (legend,) = [line for line in text.splitlines() if line.startswith("dB: ")]
    assert all(f"{name}: " in legend for name in ("use", "beyond", "alone, without"))
    with pytest.raises(SystemExit):
        main(["report", three["key"], "--store", str(store.root), "-o", str(tmp_path / "r.html")])
    page = (tmp_path / "r.html").read_text()
    assert "Most of it enters at" in decompressed(page.split('id="data">')[1].split("</script>")[0])


@pytest.mark.parametrize(
    ("origin", "signed", "message"),
    [
        ({"data": {"name": "data.py:make"}, "kind": None}, True, "data.py:make, code"),
        ({"data": {"name": "digits"}, "kind": "own.py:Kind"}, True, "own.py:Kind, code"),
        ({"data": {"name": "digits"}, "kind": None}, False, "nothing shows that your"),
        ({"data": []}, False, "nothing shows that your"),
    ],
)
def test_the_task_of_an_entry_is_taken_only_from_what_is_signed(
    origin: dict[str, Any],
    signed: bool,
    message: str,
    runs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data and kinds of task may be code, and the path of that code is not signed."""
    _, store, (eight, _) = runs
    monkeypatch.chdir(tmp_path)
    for name in ("data.py", "own.py"):
        (tmp_path / name).write_text("raise SystemExit('imported')")
    copied = Store(tmp_path / "store")
    folder = copied.folder(eight["key"])
    shutil.copytree(store.folder(eight["key"]), folder)
    record = json.loads((folder / "record.json").read_text())
    record["task"]["origin"] = {"model": "resnet8", **origin}
    (folder / "record.json").write_text(json.dumps(record))
    if signed:
        seal(folder, eight["key"])
    with pytest.raises(LissomError, match=message):
        task_of_entry(eight["key"], copied)
