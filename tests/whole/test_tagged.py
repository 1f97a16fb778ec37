"""A network that names each token of a sequence, through a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lissom
from lissom import LissomError, Store
from lissom.cli.main import main
from lissom.data.data import Data
from lissom.tasks.task import Task

CODE = """
import torch
from torch import nn

WORDS = 30
LONG = 10


class Tagger(nn.Module):
    def __init__(self, num_classes=3, width=48):
        super().__init__()
        self.words = nn.Embedding(WORDS, 32)
        self.near = nn.Conv1d(32, width, 3, padding=1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, ids):
        x = self.near(self.words(ids).transpose(1, 2)).relu()
        return self.head(x.transpose(1, 2))


def samples(count, seed):
    "A token is 1 after a smaller one, 2 after a larger one, 0 at the beginning; the end is padding."
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = torch.randint(0, WORDS, (LONG,), generator=draw)
        tags = torch.zeros(LONG, dtype=torch.int64)
        tags[1:] = torch.where(ids[1:] >= ids[:-1], 1, 2)
        tags[-2:] = -100
        yield ids, tags


data = {"train": list(samples(1500, 0)), "test": list(samples(200, 1))}
"""


def test_each_token_is_named_in_the_exported_files(tmp_path: Path) -> None:
    (tmp_path / "tags.py").write_text(CODE)
    words = ["run", "train(8, lr=0.2, batch=32) | distill('kd', 2) | quantize(8)"]
    words += ["--model", f"{tmp_path}/tags.py:Tagger", "--data", f"{tmp_path}/tags.py:data"]
    words += ["--to", "onnxruntime,openvino", "--store", str(tmp_path / "store")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    store = Store(tmp_path / "store")
    (record,) = [each for each in map(store.record, store) if each["finished"]]
    assert record["scores"]["test"]["tokens"] > 0.8
    assert record["scores"]["test"]["sequences"] <= record["scores"]["test"]["tokens"]
    for target in ("onnxruntime", "openvino"):
        measured = record["targets"][target]
        assert abs(measured["tokens"] - record["scores"]["test"]["tokens"]) < 0.02
        assert measured["agreement"] > 0.97


class Reader(nn.Module):
    """A network that reads letters from left to right: (n positions classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, (16, 4), stride=(16, 4))
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).relu().flatten(2).transpose(1, 2))  # type: ignore[no-any-return]


def test_images_without_labels_are_read_letter_by_letter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "read.onnx"
    lissom.export(Reader().eval(), "onnxruntime", path, shape=(3, 16, 32))
    (tmp_path / "lines").mkdir()
    draw = np.random.default_rng(0)
    for k in range(40):
        pixels = draw.integers(0, 255, (16, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "lines" / f"{k:02}.png")
    data = Data.of(f"images:{tmp_path}/lines", preprocess='normalize("half")')
    with pytest.raises(LissomError, match="--kind tag"):
        Task.of(f"onnx:{path}", data)
    task = Task.of(f"onnx:{path}", data, kind="tag")
    assert tuple(task.data.test.labels.shape[1:]) == (8,)
