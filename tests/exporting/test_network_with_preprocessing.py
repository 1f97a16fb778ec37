"""A file that takes whole images preprocesses them as the network's preprocessing does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from PIL import Image
from torch import Tensor, nn

import lissom
from lissom import LissomError, Store
from lissom.cli.main import main
from lissom.commands.accuracy import file_metrics
from lissom.commands.bench import bench
from lissom.commands.export import ExportOptions, export_key
from lissom.commands.export_with_extras import preprocess_inside, to_original_image
from lissom.data.data import Data
from lissom.exporting.network_with_preprocessing import NetworkWithPreprocessing
from lissom.exporting.onnx.export import export_onnx
from lissom.exporting.onnx.preprocessing_nodes import prepend_preprocessing
from lissom.exporting.openvino_ir import convert_to_ir
from lissom.language.parse_methods import method_of
from lissom.language.preprocess import Preprocess
from lissom.running.parity import ParityError
from lissom.running.plan import one_target
from lissom.tasks.task import Task

TEXTS = [
    "resize(24)",
    'resize(24, "bicubic") | center_crop(20)',
    "resize(17, 31)",
    'resize(24, "nearest")',
    "resize(24, antialias=False)",
    'resize(24, "bicubic", antialias=False)',
    "center_crop(32, 25)",
    "center_crop(40, fill=7)",
    "letterbox(40)",
    'letterbox(24, 50, fill=3, interpolation="nearest")',
    "resize(20) | pad(3, fill=9) | center_crop(25)",
    "bgr() | resize(24)",
    "gray() | letterbox(30)",
]


def sight(height: int, width: int, seed: int) -> Image.Image:
    """An image with edges and smooth parts."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (3 + seed % 5, 4, 3)).astype(np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    picture[: height // 3, : width // 2] = draw.integers(0, 256, 3)
    return Image.fromarray(picture)


def file_of(text: str, height: int, width: int, path: Path) -> Path:
    """A file that returns the pixels that its network would see."""
    channels = Preprocess.of(text).channels(3)
    shape = ["batch", channels, height, width]
    node = helper.make_node("Identity", ["images"], ["outputs"])
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("images", 1, shape)],
        [helper.make_tensor_value_info("outputs", 1, shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    prepend_preprocessing(proto, Preprocess.of(text))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))
    return path


def seen_by(runtime: str, path: Path, picture: Image.Image) -> np.ndarray:
    """The pixels (height width c) that a file makes of an image."""
    given = np.asarray(picture)[None]
    (pixels,) = method_of("targets", runtime).load(path, 1)([given])
    return np.asarray(pixels[0].transpose(1, 2, 0))


def halfway(size: int, resized: int, frame: int) -> Any:
    """Which pixels of a resized axis in a frame lie just between two: either may be the nearest."""
    places = (np.arange(resized) + 0.5) * size / resized
    found = np.zeros(frame, bool)
    begin = (frame - resized) // 2
    found[begin : begin + resized] = np.abs(places - places.round()) < 1e-4
    return found


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    height=st.integers(12, 90),
    width=st.integers(12, 90),
    seed=st.integers(0, 99),
)
def test_onnx_runtime_sees_what_pillow_sees(
    text: str, height: int, width: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    picture = sight(height, width, seed)
    wanted = np.asarray(Preprocess.of(text).shown(picture), np.float32)
    wanted = wanted.reshape(*wanted.shape[:2], -1)
    path = file_of(text, *wanted.shape[:2], tmp_path_factory.mktemp("file") / "model.onnx")
    pixels = seen_by("onnxruntime", path, picture)
    gap = np.abs(pixels - wanted)
    if "nearest" in text:
        high, wide = wanted.shape[:2]
        ratio = min(high / height, wide / width)
        rows, columns = high, wide
        if "letterbox" in text:
            rows, columns = (max(1, round(ratio * side)) for side in (height, width))
        clear = ~halfway(height, rows, high)[:, None] & ~halfway(width, columns, wide)
        assert np.array_equal(pixels[clear], wanted[clear])
        return
    # Pillow may go along columns first, and rounds in between
    assert gap.max() <= 2 and gap.mean() <= 0.2
    if "resize" not in text and "letterbox" not in text:
        assert np.array_equal(pixels, wanted)


@pytest.mark.parametrize("text", TEXTS)
def test_openvino_sees_nearly_what_pillow_sees(text: str, tmp_path: Path) -> None:
    picture = sight(67, 91, 3)
    wanted = np.asarray(Preprocess.of(text).shown(picture), np.float32)
    wanted = wanted.reshape(*wanted.shape[:2], -1)
    path = file_of(text, *wanted.shape[:2], tmp_path / "model.onnx")
    convert_to_ir(path, tmp_path / "model.xml")
    pixels = seen_by("openvino", tmp_path / "model.xml", picture)
    assert np.abs(pixels - wanted).max() <= 1
    assert np.abs(pixels - wanted).mean() <= 0.05


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A classifier of images of several sizes in a store, and an image."""
    root = tmp_path_factory.mktemp("made")
    for part, count in (("train", 6), ("test", 3)):
        for label in ("dark", "bright"):
            folder = root / "photos" / part / label
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = np.asarray(sight(30 + 7 * k, 50 - 3 * k, k)).astype(float)
                pixels = pixels / 2 + (120 if label == "bright" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    preprocess = 'resize(36) | center_crop(32) | normalize("half")'
    data = Data.of(f"folder:{root / 'photos'}", preprocess=preprocess)
    task = Task.of("resnet8", data)
    store = Store(root / "store")
    (record,) = lissom.run("train(2, batch=4) | quantize(8)", task, store)
    return {"root": root, "store": store, "key": record["key"], "data": data}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_and_its_script_take_a_picture_as_it_is(
    made: dict[str, Any], runtime: str, tmp_path: Path
) -> None:
    """The plain file with a script that prepares the image prints the same class."""
    printed = []
    for words in (["--pictures"], []):
        home = tmp_path / ("whole" if words else "plain")
        home.mkdir()
        name = "model.onnx" if runtime == "onnxruntime" or not words else "model.xml"
        place = ["--store", str(made["root"] / "store"), "-o", str(home / name)]
        with pytest.raises(SystemExit) as ended:
            main(["export", made["key"], "--to", runtime, *words, "--snippet", *place])
        assert ended.value.code == 0
        script = (home / "model.py").read_text(encoding="utf-8")
        assert ("resize" in script) == (not words)
        for photo in sorted((made["root"] / "photos" / "test").rglob("*.png")):
            done = subprocess.run(
                [sys.executable, "model.py", str(photo)],
                cwd=home,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            label, value = done.stdout.split()
            printed.append((label, float(value)))
    half = len(printed) // 2
    assert [label for label, _ in printed[:half]] == [label for label, _ in printed[half:]]
    values = np.array([value for _, value in printed]).reshape(2, half)
    assert np.allclose(*values, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("to", "preprocess", "said"),
    [
        (
            "torch",
            None,
            "torch cannot resize images as Pillow does; onnxruntime and openvino can",
        ),
        (
            "onnxruntime",
            "resize(32)",
            "becomes one of 32x42 by 'resize.32.', and the network takes",
        ),
        ("onnxruntime", "as given", "inputs are taken as the data set gives them"),
    ],
)
def test_what_cannot_take_pictures_says_so(
    made: dict[str, Any], to: str, preprocess: str | None, said: str
) -> None:
    record = made["store"].record(made["key"])
    if preprocess is not None:
        record["task"]["preprocessing"]["preprocess"] = preprocess
    with pytest.raises(LissomError, match=said):
        preprocess_inside(record, one_target(to))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_such_a_file_is_timed_with_pictures_of_a_size(
    made: dict[str, Any], runtime: str, tmp_path: Path
) -> None:
    path = tmp_path / ("model.onnx" if runtime == "onnxruntime" else "model.xml")
    export_key(made["key"], made["store"], runtime, path, ExportOptions(pictures=True))
    (row,) = bench([str(path)], made["store"], runtime, (3, 60, 80), [1], [1])
    assert row["latency_ms"]["median"] > 0
    with pytest.raises(LissomError, match="expected the file that was exported without --pictures"):
        file_metrics(path, runtime, made["data"])


def test_a_file_that_sees_pictures_otherwise_is_not_written(
    made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(proto: Any, _: Preprocess) -> None:
        prepend_preprocessing(proto, Preprocess.of("resize(90) | center_crop(32)"))

    monkeypatch.setattr("lissom.exporting.onnx.preprocessing_nodes.prepend_preprocessing", other)
    with pytest.raises(ParityError, match=r"outputs differ by .* on images; nothing was written"):
        export_key(
            made["key"],
            made["store"],
            "onnxruntime",
            tmp_path / "m.onnx",
            ExportOptions(pictures=True),
        )
    assert not (tmp_path / "m.onnx").exists()


def test_boxes_are_those_of_the_picture(tmp_path: Path) -> None:
    """A network that always finds one box: the file gives it in pixels of each image."""

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            none = (x * 0).sum((1, 2, 3))[:, None]
            box = torch.tensor([[4.0, 6, 20, 30], [0, 0, 0, 0]]) + none[:, :, None]
            scores = torch.tensor([[0.9, 0.0]]) + none
            return {"boxes": box, "scores": scores, "classes": (scores > 0).long() * 2 - 1}

    preprocess = Preprocess.of("letterbox(32, 40) | center_crop(30, 36)")
    path = tmp_path / "model.onnx"
    export_onnx(NetworkWithPreprocessing(Fixed(), preprocess), path, (3, 30, 36), {})
    one = torch.tensor([[4.0, 6, 20, 30]])
    for height, width in ((50, 70), (80, 33)):
        boxes, scores, classes = method_of("targets", "onnxruntime").load(path, 1)(
            [np.asarray(sight(height, width, 1))[None]]
        )
        picked = (one, torch.tensor([0.9]), torch.tensor([1]))
        wanted, _, _ = to_original_image(picked, preprocess, (width, height))
        assert np.allclose(boxes[0, 0], wanted[0], atol=1e-3)
        assert boxes[0, 1].tolist() == [0, 0, 0, 0] and classes[0].tolist() == [1, -1]
        assert scores[0].tolist() == pytest.approx([0.9, 0])
