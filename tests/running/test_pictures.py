"""The network and each file get the same few samples, and images cost no extra measurement."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

import lissom
from lissom.commands.store import verify_store
from lissom.data.data import Data
from lissom.kinds.classify import Classify
from lissom.language.kind import Kind
from lissom.language.parse_methods import method_of
from lissom.running import pictures
from lissom.running.pictures import Album, MemorySplit, answers_of, enlarged, jpeg_of, samples_of
from lissom.store.pictures import Answer, read_answers
from lissom.store.store import Store
from lissom.tasks.task import Task


def kind(text: str) -> Kind:
    found: Kind = method_of("kinds", text)
    return found


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own_data(inputs: Tensor, targets: Tensor, **more: Any) -> Data:
    return Data.of_dataset((inputs, targets), (inputs, targets), (inputs, targets), **more)


def shown(answer: Answer) -> np.ndarray:
    assert answer.jpeg is not None
    return np.asarray(Image.open(BytesIO(answer.jpeg))).astype(int)


def test_samples_are_evenly_spread_and_always_the_same() -> None:
    values = torch.arange(60.0).view(60, 1)
    held = samples_of(own_data(values, torch.arange(60) // 30))
    assert held.inputs.flatten().tolist() == [0, 10, 20, 30, 40, 50]
    assert held.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(held) == 6
    few = samples_of(own_data(values[:3], torch.arange(3)))
    assert few.inputs.flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("size", "zoom"),
    [((8, 8), 16), ((32, 40), 4), ((100, 300), 2), ((500, 400), 1), ((8, 2000), 1)],
)
def test_small_pictures_are_enlarged_by_a_whole_factor(size: tuple[int, int], zoom: int) -> None:
    pixels = (noise(2, 3, *size) * 60 + 128).clamp(0, 255).to(torch.uint8)
    made, factor = enlarged(pixels, own_data(pixels, torch.arange(2)))
    assert factor == zoom and made[0].size == (zoom * size[1], zoom * size[0])
    back = torch.tensor(np.asarray(made[1])[::zoom, ::zoom]).movedim(2, 0)
    assert torch.equal(back, pixels[1])


def test_blue_first_is_shown_red_first() -> None:
    red = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    for text, wanted in (
        ("bgr | normalize(mean=0.5, std=0.5)", (0, 0, 255)),
        ("normalize(mean=0.5, std=0.5)", (255, 0, 0)),
    ):
        data = own_data(red, torch.arange(2), preprocess=text)
        # what its split holds lies as the network sees it
        (picture, *_), _ = enlarged(red, data)
        assert picture.getpixel((3, 3)) == wanted


def test_numbers_are_stretched_from_the_least_to_the_largest_of_each_sample() -> None:
    inputs = torch.stack([torch.linspace(-3, 5, 64).view(1, 8, 8), torch.full((1, 8, 8), 2.0)])
    made, _ = enlarged(inputs, own_data(inputs, torch.arange(2)))
    assert made[0].mode == "L" and made[0].getextrema() == (0, 255)
    assert made[1].getextrema() == (0, 0)
    inputs[0, 0, 0, 0] = float("nan")
    assert enlarged(inputs, own_data(inputs, torch.arange(2)))[0]


@pytest.mark.parametrize(
    "inputs",
    [
        noise(4, 3, 50),
        torch.zeros(4, 9, dtype=torch.int64),
        noise(4, 2, 8, 8),
        noise(4, 1, 1, 99),
        torch.zeros(4, 3, 8, 8, dtype=torch.int64),
        (noise(4, 3, 8, 8), noise(4, 3, 8, 8)),
        {"x": noise(4, 3, 8, 8)},
    ],
)
def test_what_is_no_picture_has_captions_alone(inputs: Any) -> None:
    data = own_data(noise(4, 3), torch.arange(4))
    assert enlarged(inputs, data) == ([], 1)
    held = MemorySplit(inputs, torch.tensor([0, 1, 2, 3]))
    rows = answers_of(Classify(), data, held, {"truth": None, "file": torch.eye(4)}).rows
    assert [answer.caption for answer in rows["truth"]] == ["0", "1", "2", "3"]
    assert all(answer.jpeg is None for row in rows.values() for answer in row)


def test_large_pictures_are_shrunk_and_noise_stays_small() -> None:
    static = (noise(3, 900, 1200) * 90 + 128).clamp(0, 255).to(torch.uint8)
    jpeg = jpeg_of(Image.fromarray(static.movedim(0, 2).contiguous().numpy()))
    assert jpeg.startswith(b"\xff\xd8\xff") and len(jpeg) <= 200_000
    assert Image.open(BytesIO(jpeg)).size == (320, 240)
    black_or_full = (static[:, :320, :320] > 128).to(torch.uint8) * 255
    noisy = Image.fromarray(black_or_full.movedim(0, 2).contiguous().numpy())
    assert 50_000 < len(jpeg_of(noisy)) <= 200_000
    gray = Image.fromarray(static[0, :320, :320].contiguous().numpy())
    assert gray.mode == "L" and len(jpeg_of(gray)) <= 200_000


def test_a_wrong_class_is_marked_and_the_picture_shown_once() -> None:
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    data = own_data(pixels, torch.tensor([0, 1, 1]), classes=["cat", "dog"])
    held = MemorySplit(pixels, torch.tensor([0, 1, 1]))
    outputs = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    found = answers_of(Classify(), data, held, {"truth": None, "network": outputs})
    assert [(a.caption, a.wrong) for a in found.rows["truth"]] == [
        ("cat", None),
        ("dog", None),
        ("dog", None),
    ]
    assert [(a.caption, a.wrong) for a in found.rows["network"]] == [
        ("cat 95\N{NO-BREAK SPACE}%", False),
        ("cat 95\N{NO-BREAK SPACE}%", True),
        ("cat 50\N{NO-BREAK SPACE}%", True),
    ]
    assert all(a.jpeg for a in found.rows["truth"])
    assert not any(a.jpeg for a in found.rows["network"])


def test_numbers_are_not_called_wrong_and_labels_are() -> None:
    values = noise(2, 4)
    data = own_data(values, torch.tensor([0, 1]))
    numbers = MemorySplit(values, torch.tensor([1.5, 2.0]))
    (first, _) = answers_of(
        kind("regress"), data, numbers, {"file": torch.tensor([[1.5], [9.0]])}
    ).rows["file"]
    assert first == Answer("1.5", None)
    labels = MemorySplit(values, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    outputs = torch.tensor([[2.0, -1.0], [2.0, -1.0]])
    row = answers_of(kind("multilabel"), data, labels, {"file": outputs}).rows["file"]
    assert [(a.caption, a.wrong) for a in row] == [("0", False), ("0", True)]


def test_masks_are_drawn_before_a_picture_is_shrunk_with_the_metric_of_each_sample() -> None:
    pixels = torch.full((2, 3, 16, 640), 90, dtype=torch.uint8)
    truth = torch.zeros(2, 16, 640, dtype=torch.uint8)
    truth[:, :, 320:] = 1
    truth[1] = 255
    data = own_data(pixels, torch.tensor([0, 1]), classes=["road", "sky"])
    outputs = torch.stack([torch.ones(2, 16, 640), torch.zeros(2, 16, 640)], 1)
    found = answers_of(
        kind("segment"), data, MemorySplit(pixels, truth), {"truth": None, "file": outputs}
    )
    half, nothing = found.rows["truth"]
    assert shown(half).shape == (16 * 320 // 640, 320, 3)
    assert np.abs(shown(half)[4, 40] - shown(half)[4, 280]).max() > 50
    assert np.abs(shown(nothing) - 90).max() <= 2
    assert [a.caption for a in found.rows["file"]] == ["mIoU 0.25", ""]
    assert {a.wrong for a in found.rows["file"]} == {None}
    assert list(found.colours) == ["road", "sky"]
    other = MemorySplit(pixels, torch.stack([torch.ones(16, 640), torch.zeros(16, 640)]).byte())
    assert list(answers_of(kind("segment"), data, other, {"truth": None}).colours) == [
        "road",
        "sky",
    ]


# in the store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Store, dict[str, Any]]:
    store = Store(tmp_path_factory.mktemp("store"))
    task = Task.of("resnet8", Data.of("digits", size=(16, 16)))
    (record,) = lissom.run("train(1) | quantize(8)", task, store, targets="onnxruntime")
    return task, store, record


def read(store: Store, key: str, name: str) -> dict[str, list[Answer]]:
    found = read_answers(store.folder(key) / "artefacts" / name)
    assert found is not None
    return found.rows


def test_the_very_file_answers_the_samples(run: tuple[Task, Store, dict[str, Any]]) -> None:
    task, store, record = run
    held = samples_of(task.data)
    session = onnxruntime.InferenceSession(record["targets"]["onnxruntime"]["artefact"])
    (outputs,) = session.run(
        None, {session.get_inputs()[0].name: task.data.normalised(held.inputs).numpy()}
    )
    wanted = [str(number) for number in outputs.argmax(1)]
    row = read(store, record["key"], "pictures-onnxruntime")["file"]
    assert [answer.caption.split()[0] for answer in row] == wanted
    assert [answer.wrong for answer in row] == (outputs.argmax(1) != held.labels.numpy()).tolist()


def test_the_uncompressed_network_has_the_truth_and_its_own_answers(
    run: tuple[Task, Store, dict[str, Any]],
) -> None:
    task, store, record = run
    rows = read(store, record["float"]["key"], "pictures")
    assert [a.caption for a in rows["truth"]] == [
        str(n) for n in samples_of(task.data).labels.tolist()
    ]
    assert [len(rows[name]) for name in ("truth", "network")] == [6, 6]
    assert rows["truth"][0].size == (128, 128)
    assert all("%" in answer.caption for answer in rows["network"])


def test_they_are_no_exported_files_and_are_verified(
    run: tuple[Task, Store, dict[str, Any]],
) -> None:
    _, store, record = run
    key = record["key"]
    assert [path.name for path in store.pictures(key)] == ["pictures-onnxruntime"]
    assert [path.name for path in store.artefacts(key)] == ["onnx"]
    assert store.is_trusted_artefact(key, "pictures-onnxruntime")
    found = verify_store(store)
    assert found["wrong"] == [] and found["artefacts"] == 2
    captions = store.pictures(key)[0] / "captions.json"
    before = captions.read_bytes()
    captions.write_bytes(before + b" ")
    (line,) = verify_store(store)["wrong"]
    captions.write_bytes(before)
    assert "pictures-onnxruntime: captions.json is not what was written" in line
    assert f"delete {captions.parent}" in line


def test_a_network_is_asked_once(
    run: tuple[Task, Store, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, store, record = run
    monkeypatch.setattr(pictures, "restore", None)
    said: list[str] = []
    album = Album(task, store, said.append)
    album.save_network(record["float"]["key"])
    assert said == []
    album.save_network(record["key"])
    assert len(said) == 1 and "cannot be shown as images" in said[0]


def test_what_goes_wrong_with_pictures_costs_no_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def words(*_: Any) -> str:
        raise RuntimeError("no words")

    monkeypatch.setattr(Classify, "words", words)
    task = Task.of("resnet8", Data.of("digits", size=(16, 16)))
    said: list[str] = []
    store = Store(tmp_path)
    (record,) = lissom.run("quantize(8)", task, store, targets="onnxruntime", say=said.append)
    assert record["targets"]["onnxruntime"]["top1"] is not None
    assert sum("images (no words)" in line for line in said) == 2
    assert store.pictures(record["key"]) == [] == store.pictures(record["float"]["key"])


def test_a_file_that_dies_over_the_samples_is_told(run: tuple[Task, Store, dict[str, Any]]) -> None:
    task, store, record = run
    said: list[str] = []
    album = Album(task, store, said.append)

    def dies(_: Any) -> Any:
        raise lissom.LissomError("the process was killed")

    album.look("openvino", dies)
    album.save_file(record["key"], "openvino")
    assert len(said) == 1 and "openvino" in said[0] and "was killed" in said[0]
    assert not (store.folder(record["key"]) / "artefacts" / "pictures-openvino").exists()


def test_a_task_of_no_kind_has_no_pictures(run: tuple[Task, Store, dict[str, Any]]) -> None:
    task, store, record = run
    other = Task.of("resnet8", task.data)
    other.kind = None
    album = Album(other, store, pytest.fail)
    album.look("openvino", pytest.fail)
    album.save_file(record["key"], "openvino")
    album.save_network(record["key"])
    assert [path.name for path in store.pictures(record["key"])] == ["pictures-onnxruntime"]
