"""A file that selects detections itself finds the same ones as the task does from raw outputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import lissom
from lissom import LissomError, Store
from lissom.bench.inputs import images
from lissom.bench.process import file_process
from lissom.cli.main import main
from lissom.commands import export_with_extras
from lissom.commands.accuracy import file_metrics
from lissom.commands.export import ExportOptions, export_key
from lissom.data.data import Data
from lissom.exporting.detector_with_nms import DetectorWithNms
from lissom.exporting.onnx.export import export_onnx
from lissom.kinds.detect import Detect
from lissom.learning.evaluate import network_outputs
from lissom.running.entries import load_key
from lissom.running.parity import ParityError
from lissom.tasks.task import Task

COLOURS = ((200, 40, 40), (40, 40, 200))


class Given(nn.Module):
    """Boxes (n p 4), or (n p classes 4) where each class has its `own`, and logits (n p classes) out
    of numbers (n p*(4+classes)).
    """

    def __init__(self, places: int, classes: int, *, own: bool = False) -> None:
        super().__init__()
        self.places = places
        self.classes = classes
        self.own = own

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.view(-1, self.places, 4 + self.classes)
        corner, size = x[..., :2], x[..., 2:4].abs()
        boxes = torch.cat([corner, corner + size], -1)
        if self.own:
            boxes = boxes[:, :, None] + torch.arange(self.classes).view(-1, 1)
        return boxes, x[..., 4:]


def numbers(seed: int, count: int, places: int, classes: int) -> Tensor:
    """Boxes that overlap often, and logits that never tie: which of two stays would be a toss-up."""
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.randint(0, 8, (count, places, 4), generator=draw).float() * 4
    logits = torch.randn(count, places * classes, generator=draw).argsort(1).argsort(1).float()
    logits = (logits / logits.shape[1] * 6 - 3).view(count, places, classes)
    return torch.cat([boxes, logits], -1).flatten(1)


def same(outputs: list[Tensor], kind: Detect, raw: tuple[Tensor, Tensor]) -> bool:
    """Whether outputs hold exactly what is picked, in any order where scores tie."""
    boxes, scores, classes = outputs
    for picture, (box, score, label) in enumerate(kind.decode(raw)):
        real = classes[picture] >= 0
        rows = [
            sorted(torch.cat([b, s[:, None], c[:, None].float()], 1).tolist())
            for b, s, c in (
                (boxes[picture][real], scores[picture][real], classes[picture][real]),
                (box, score, label),
            )
        ]
        if len(rows[0]) != len(rows[1]) or not np.allclose(rows[0], rows[1], atol=1e-5):
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    places=st.integers(1, 40),
    classes=st.integers(1, 4),
    threshold=st.sampled_from([0.05, 0.3, 0.7]),
    iou=st.sampled_from([0.1, 0.5, 1.0]),
    own=st.booleans(),
)
def test_a_network_that_picks_finds_what_the_kind_finds(
    seed: int, places: int, classes: int, threshold: float, iou: float, own: bool
) -> None:
    kind = Detect(threshold=threshold, iou=iou, most=200)
    network = Given(places, classes, own=own)
    x = numbers(seed, 2, places, classes)
    outputs = DetectorWithNms(network, kind, classes)(x)
    assert list(outputs) == ["boxes", "scores", "classes"]
    assert same(list(outputs.values()), kind, network(x))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_files_pick_as_the_network_does(runtime: str, scores: Any, tmp_path: Path) -> None:
    kind = Detect(scores=scores, threshold=0.2, iou=0.43, most=60)
    network = Given(30, 3)
    x = numbers(7, 3, 30, 3)
    path = tmp_path / "picked.onnx"
    export_onnx(
        DetectorWithNms(network, kind, 3 - (scores == "softmax")), path, tuple(x.shape[1:]), {}
    )
    with file_process(runtime, path, images((1, *x.shape[1:]))) as process:
        for rows in (x[:1], x):
            outputs = [torch.from_numpy(array) for array in process.run([rows.numpy()])]
            assert outputs[2].dtype == torch.int64 and len(outputs[0]) == len(rows)
            found = kind.decode(network(rows))
            assert all(2 < len(boxes) < 60 for boxes, _, _ in found)  # some are, some are not
            assert same(outputs, kind, network(rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A detector of two kinds of squares, trained a little, in a store."""
    root = tmp_path_factory.mktemp("made")
    draw = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 24), ("test", 8)):
        pictures = np.full((count, 64, 64, 3), 90, np.uint8)
        boxes = torch.full((count, 1, 5), -1.0)
        for k, picture in enumerate(pictures):
            x, y, side = (int(v) for v in draw.integers((4, 4, 16), (36, 36, 26)))
            picture[y : y + side, x : x + side] = COLOURS[k % 2]
            boxes[k, 0] = torch.tensor([x, y, x + side, y + side, k % 2], dtype=torch.float32)
        parts[part] = (torch.from_numpy(pictures).permute(0, 3, 1, 2), boxes)
    for k, picture in enumerate(parts["test"][0]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(root / f"{k}.png")
    data = Data.of_dataset(
        train=parts["train"], test=parts["test"], preprocess='normalize("half")', classes=["r", "b"]
    )
    store = Store(root / "store")
    recipe = 'train(30, lr=0.01, batch=8, optimizer="adamw") | quantize(8)'
    task = Task.of("tiny_detect", data)
    (record,) = lissom.run(recipe, task, store, targets="onnxruntime")
    return {"root": root, "store": store, "record": record, "data": data}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_with_what_picks_has_the_metrics_of_the_one_without(
    made: dict[str, Any], runtime: str, tmp_path: Path
) -> None:
    key, store = made["record"]["key"], made["store"]
    files = [tmp_path / "plain.onnx", tmp_path / "nms.onnx"]
    for file in files:
        export_key(key, store, runtime, file, ExportOptions(nms=file.stem == "nms"))
    plain, picked = (file_metrics(file, runtime, made["data"]) for file in files)
    assert plain["mAP50"] is not None and plain["mAP50"] > 0.5
    assert picked == pytest.approx(plain, abs=1e-3)


def test_the_script_of_such_a_file_prints_its_detections(
    made: dict[str, Any], tmp_path: Path
) -> None:
    key, store = made["record"]["key"], made["store"]
    words = ["--bake", "--nms", "--snippet", "--kind", "detect(threshold=0.3)"]
    place = ["--store", str(made["root"] / "store"), "-o", str(tmp_path / "net.onnx")]
    with pytest.raises(SystemExit) as ended:
        main(["export", key, "--to", "onnxruntime", *words, *place])
    assert ended.value.code == 0
    picture = str(made["root"] / "1.png")
    done = subprocess.run(
        [sys.executable, "net.py", picture],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs, _ = network_outputs(load_key(key, store), made["data"], made["data"].test)
    found = Detect(threshold=0.3).decode(outputs)[1]
    lines = done.stdout.splitlines()
    assert len(lines) == len(found[0]) > 0
    assert [line.split()[0] for line in lines] == [["r", "b"][int(k)] for k in found[2]]


def test_a_file_that_picks_otherwise_is_not_written(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fewer(DetectorWithNms):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            found = super().forward(x)
            return {**found, "boxes": found["boxes"] + 40}

    monkeypatch.setattr(export_with_extras, "DetectorWithNms", Fewer)
    wanted = ExportOptions(nms=True, kind="detect(threshold=0.001)")
    with pytest.raises(
        ParityError,
        match=r"the file finds other boxes than are picked .*: \d of \d{3} are the same",
    ):
        export_key(made["record"]["key"], made["store"], "onnxruntime", tmp_path / "m.onnx", wanted)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("to", "wanted", "said"),
    [
        (
            "torch",
            ExportOptions(nms=True),
            "torch has nothing that picks boxes; onnxruntime and openvino",
        ),
        (
            "onnxruntime",
            ExportOptions(nms=True, kind="classify"),
            "expected a network of kind detect",
        ),
    ],
)
def test_what_cannot_pick_says_so(
    made: dict[str, Any], to: str, wanted: ExportOptions, said: str, tmp_path: Path
) -> None:
    with pytest.raises(LissomError, match=said):
        export_key(made["record"]["key"], made["store"], to, tmp_path / "m", wanted)
