"""A network that misses its known accuracy is not compressed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lissom import Data, LissomError, Store, Task, run
from lissom.commands.store import verify_store
from lissom.running.expected import chance_note, expected_in
from lissom.store.manifest import LATER


def test_what_is_expected_is_a_gate_of_the_uncompressed_network(tmp_path: Path) -> None:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    store = Store(tmp_path / "store")
    (first,) = run("train(1)", task, store)
    reached = first["scores"]["test"]["top1"]
    (record,) = run("train(1) | fold", task, store, expect=f"top1={reached + 0.004}, top5=0.1")
    gates = {gate["name"]: gate for gate in store.record(first["key"])["gates"]}
    gate = gates[f"reaches top1 {reached + 0.004:g}"]
    assert gate["difference"] == pytest.approx(0.004) and gate["tolerance"] == 0.005
    assert gates["reaches top5 0.1"]["difference"] == 0
    assert not [gate for gate in record["gates"] if gate["name"].startswith("reaches")]
    with pytest.raises(
        LissomError, match=r"reaches top1 0\.\d+ on the test set of digits, expected"
    ):
        run("train(1) | prune(0.5)", task, store, expect=f"top1={reached + 0.006}")
    assert len(list(store)) == 2, "nothing was pruned"
    with pytest.raises(LissomError, match=r"top1 is a share from 0 to 1, as in top1=0.9; got 90"):
        run("train(1) | fold", task, store, expect="top1=90")
    run("train(1) | fold", task, store, expect="top1=0")
    assert len([g for g in store.record(first["key"])["gates"] if "reaches" in g["name"]]) == 1


@pytest.mark.parametrize(
    ("reached", "classes", "test", "is_chance"),
    [
        (0.1560, 8, 250, True),  # 1.5 standard deviations above 12.5 %
        (0.1875, 8, 250, True),
        (0.19, 8, 250, False),  # more than 3
        (0.19, 8, 25, True),  # a small test set says less
        (0.0019, 1000, 50_000, False),
        (0.148, 8, 100_000, True),  # a bias to a frequent class is no skill either
        (0.6, 1, 250, False),
    ],
)
def test_an_accuracy_within_three_deviations_of_chance_is_told(
    reached: float, classes: int, test: int, is_chance: bool
) -> None:
    record = {
        "scores": {"test": {"top1": reached}},
        "task": {"classes": classes, "test": test, "preprocessing": {}},
    }
    store: Any = SimpleNamespace(record=lambda _: record)
    note = chance_note(store, "")
    assert bool(note) == is_chance
    if note:
        assert f"right on {reached:.2%} of the {test} test samples" in note
        assert "which is chance among 8 classes" in note


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top2=0.5", "there is no metric 'top2'; did you mean 'top"),
        ("top1", "expected name=value"),
        ("top1=90%", "expected name=value, name=value, got 'top1=90%'"),
        ("top1='a'", "top1: expected a number"),
        (f"top1={10**400}", "top1: expected a number"),
        ("top1=True", "top1: expected a number"),
        ("0.852", "expected name=value, name=value, got '0.852'; an example: top1=0.852"),
        ("top1:0.8", "got 'top1:0.8'; an example: top1=0.9"),
        ("top1={0.1, 0.2}", "top1: expected one value, got 2"),
    ],
)
def test_what_cannot_be_expected_is_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        expected_in(text, ["top1", "top5"])


def test_of_an_error_less_than_expected_is_enough(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(64, 8, generator=draw)
    data = Data.of_dataset((x[:32], x[:32].sum(1)), (x, x.sum(1)))
    task = Task(lambda: nn.Linear(8, 1), data, "sum")
    (record,) = run("train(1)", task, Store(tmp_path))
    mae = record["scores"]["test"]["mae"]
    run("train(1) | fold", task, Store(tmp_path), expect=f"mae={2 * mae}")
    with pytest.raises(LissomError, match=r"reaches mae [0-9.]+ on the test set"):
        run("train(1) | fold", task, Store(tmp_path), expect=f"mae={mae / 2}")


def test_a_metric_has_no_name_of_something_else_that_is_measured(tmp_path: Path) -> None:
    task = Task.of("resnet8", Data.of("digits"))
    task.metrics = {"agreement": lambda outputs, _: float(len(outputs) > 0)}
    with pytest.raises(LissomError, match="its metric 'agreement' has the name of something else"):
        run("train(1)", task, tmp_path / "store")


@pytest.mark.parametrize("sealed", ["gates", ""])
def test_what_is_expected_of_an_entry_of_somebody_else_leaves_it_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: str
) -> None:
    later = [name for name in LATER if name != sealed]  # earlier versions sealed the gates
    monkeypatch.setattr("lissom.store.manifest.LATER", later)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "one"))
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    store = Store(tmp_path / "store")
    (first,) = run("train(1)", task, store)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "two"))
    run("train(1)", task, store, expect="top1=0")
    assert verify_store(store)["wrong"] == []
    named = [gate["name"] for gate in store.record(first["key"])["gates"]]
    assert ("reaches top1 0" in named) == (sealed == "")


def test_a_clock_that_goes_back_leaves_a_record_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    now = [1.8e9]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr("lissom.running.execute.time.time", back)
    (record,) = run("train(1)", task, tmp_path / "store")
    assert record["seconds"] >= 0
