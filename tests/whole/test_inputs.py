"""Networks with several inputs, integer inputs or several outputs, through all of lissom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lissom
from lissom.cli.main import main
from lissom.store.store import Store
from lissom.tasks.kinds import kind_named

CODE = """
import torch
from torch import nn

WORDS = 40


class Reviews(nn.Module):
    def __init__(self, num_classes=2, width=32):
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.one = nn.Linear(16 + 3, width)
        self.two = nn.Linear(width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids, keep, facts):
        text = (self.words(ids) * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        x = torch.relu(self.one(torch.cat([text, facts], 1)))
        x = torch.relu(self.two(x))
        return {"pooled": x, "logits": self.head(x)}


def samples(count, seed):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = torch.randint(0, WORDS, (12,), generator=draw)
        keep = torch.rand(12, generator=draw) > 0.2
        facts = torch.randn(3, generator=draw)
        good = (ids[keep] < WORDS // 2).float().mean() + facts[0] > 0.5
        yield {"ids": ids, "keep": keep, "facts": facts}, int(good)


data = {"train": list(samples(600, 0)), "test": list(samples(200, 1))}
"""


def called(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("reviews")
    (root / "text.py").write_text(CODE)
    words = ["run", "train(12, lr=0.3, batch=32) | prune(0.3) | distill('kd', 2) | quantize(8)"]
    words += ["--model", f"{root}/text.py:Reviews", "--data", f"{root}/text.py:data"]
    words += ["--to", "onnxruntime,openvino,torch", "--store", str(root / "store"), "--json"]
    called(words)
    store = Store(root / "store")
    (record,) = [each for each in map(store.record, store) if each["finished"]]
    return {"root": root, "record": record, "key": record["key"]}


def test_several_inputs_go_through_a_whole_run(made: dict[str, Any]) -> None:
    record = made["record"]
    assert record["task"]["form"] == {"ids": 0, "keep": 1, "facts": 2}
    types = [(each["dtype"], each["low"], each["high"]) for each in record["task"]["inputs"]]
    assert types == [("int64", 0, 39), ("bool", 0, 1), ("float32", None, None)]
    assert record["float"]["scores"]["test"]["top1"] > 0.85
    for target in ("onnxruntime", "openvino", "torch"):
        measured = record["targets"][target]
        assert abs(measured["top1"] - record["scores"]["test"]["top1"]) < 0.03
        assert measured["agreement"] > 0.97 and measured["latency_ms"]["median"] > 0


def test_the_store_exports_and_times_it_without_the_data(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(made["root"] / "store")]
    called(["export", made["key"], "--to", "onnxruntime", "-o", str(tmp_path / "m.onnx"), *store])
    capsys.readouterr()
    called(
        ["bench", str(tmp_path / "m.onnx"), made["key"], "--to", "onnxruntime", "--json", *store]
    )
    rows = json.loads(capsys.readouterr().out)
    assert {"m.onnx", made["key"]} <= {Path(row["name"]).name for row in rows}
    data = ["--data", f"{made['root']}/text.py:data"]
    words = ["bench", str(tmp_path / "m.onnx"), "--to", "onnxruntime,openvino", "--json"]
    called([*words, *store, *data])
    record = Store(made["root"] / "store").record(made["key"])
    for row in json.loads(capsys.readouterr().out):
        assert row["metrics"]["top1"] == pytest.approx(
            record["targets"]["onnxruntime"]["top1"], abs=0.02
        )


def test_targets_of_float_samples_say_what_they_cannot_do(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", made["key"], "--store", str(made["root"] / "store")]
    for target in ("mnn", "ncnn", "executorch"):
        with pytest.raises(SystemExit):
            main([*words, "--to", target, "-o", str(tmp_path / "m")])
        said = capsys.readouterr().err
        missing = "is not installed" in said
        assert missing or "its files take one tensor of floats and return one" in said, said


def test_a_dict_is_handed_over_by_name_and_a_tuple_by_place(tmp_path: Path) -> None:
    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.layer(x - y),)

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, 4, generator=draw)
    targets = (x[:, 0] > y[:, 0]).long()
    by_place = [((x[k], y[k]), int(targets[k])) for k in range(60)]
    by_name = [({"y": y[k], "x": x[k]}, int(targets[k])) for k in range(60)]
    found = []
    for samples in (by_place, by_name):
        data = lissom.Data.of_dataset(samples[40:], train=samples[:40])
        task = lissom.Task(Sum, data, "sum")
        (record,) = lissom.run("train(2)", task, tmp_path, targets="onnxruntime")
        found.append(record["scores"]["test"]["top1"])
        assert record["targets"]["onnxruntime"]["agreement"] == 1
    assert found[0] == found[1]


KIND = """
import torch.nn.functional as F
from lissom.kinds.classify import Classify


class Both(Classify):
    \"\"\"Name a class, and say a number.\"\"\"

    def answer(self, outputs):
        return outputs["kind"]

    def suits(self, targets):
        return set(targets) == {"kind", "size"}

    def misfit(self, outputs, targets, classes):
        return None if self.suits(targets) else "targets kind and size"

    def loss(self, outputs, targets, smoothing=0.0):
        return F.cross_entropy(outputs["kind"], targets["kind"]) + F.mse_loss(
            outputs["size"], targets["size"]
        )

    def tally(self, classes):
        inner = super().tally(classes)
        add = inner.add
        inner.add = lambda outputs, targets: add(outputs, targets["kind"])
        return inner
"""


def test_targets_are_a_dict_where_a_kind_of_the_users_own_says_what_they_are(
    tmp_path: Path,
) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Linear(6, 16)
            self.kind = torch.nn.Linear(16, 2)
            self.size = torch.nn.Linear(16, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = torch.relu(self.body(x))
            return {"size": self.size(x)[:, 0], "kind": self.kind(x)}

    (tmp_path / "kind.py").write_text(KIND)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=draw)
    samples = [(x[k], {"kind": int(x[k, 0] > 0), "size": float(x[k].sum())}) for k in range(200)]
    data = lissom.Data.of_dataset(samples[150:], train=samples[:150], classes=2)
    kind, _ = kind_named(f"{tmp_path}/kind.py:Both")
    task = lissom.Task(Two, data, "two", kind=kind)
    (record,) = lissom.run(
        "train(20, lr=0.02, batch=16) | quantize(8)",
        task,
        tmp_path / "store",
        targets="onnxruntime",
    )
    assert record["targets"]["onnxruntime"]["top1"] > 0.85
