"""The metrics of a file by itself, and the script that runs it on an image."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.cli.main import main
from lissom.commands.accuracy import facts_in, file_metrics, fixed_batch, preprocess_in
from lissom.commands.export import ExportOptions, export_key, script_of
from lissom.exporting.snippet import snippet
from lissom.language.menu import menu
from lissom.language.preprocess import PictureOperation, Preprocess
from lissom.learning.evaluate import network_outputs
from lissom.running.entries import load_key
from lissom.running.plan import one_target

PREPROCESS = 'resize(20, "bicubic") | center_crop(16) | normalize("half")'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small network on a folder of images, its record, and its file for ONNX Runtime."""
    root = tmp_path_factory.mktemp("made")
    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 6)):
        for name, low in (("dark", 0), ("light", 90)):
            (root / "photos" / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(low, low + 160, (24, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "photos" / part / name / f"{k}.png")
    data = Data.of(f"folder:{root / 'photos'}", preprocess=PREPROCESS)
    store = Store(root / "store")
    recipe = "train(20, batch=4, lr=0.05) | fold"
    (record,) = lissom.run(recipe, Task.of("resnet8", data), store, targets="onnxruntime")
    file = root / "model.onnx"
    shutil.copy(record["targets"]["onnxruntime"]["artefact"], file)
    return {"root": root, "data": data, "store": store, "record": record, "file": file}


def test_a_file_is_measured_as_its_record_says(
    made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess_in(made["file"]) == str(made["data"].preprocess)
    words = ["bench", str(made["file"]), "--data", f"folder:{made['root'] / 'photos'}", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["metrics"] == {"top1": made["record"]["targets"]["onnxruntime"]["top1"]}
    assert row["metrics"]["top1"] > 0.9
    with pytest.raises(SystemExit):
        main([*words, "--preprocess", "resize(16, 16) | bgr | scale(0.001)"])
    (wrong,) = json.loads(capsys.readouterr().out)
    assert wrong["metrics"]["top1"] < row["metrics"]["top1"]


def test_a_file_that_does_not_say_how_it_sees_pictures_asks(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(str(made["file"]))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "plain.onnx"))
    assert facts_in(tmp_path / "plain.onnx") == {}
    words = ["bench", str(tmp_path / "plain.onnx"), "--data", f"folder:{made['root'] / 'photos'}"]
    for more, said in (
        ([], "the file does not state the preprocessing of its images; expected --preprocess"),
        (["--preprocess", "resize(9, 9)"], "takes inputs of (3, 16, 16), and folder:photos gives"),
        (["--preprocess", "resise(9)"], "did you mean 'resize'"),
        (
            ["--preprocess", PREPROCESS, "--classes", "gone"],
            "expected imagenet, a number, or a file",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("batch", [1, 5])
def test_a_file_of_one_size_of_batch_is_measured_too(
    made: dict[str, Any], batch: int, tmp_path: Path
) -> None:
    model = onnx.load(str(made["file"]))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    assert fixed_batch(tmp_path / "fixed.onnx") == batch and fixed_batch(made["file"]) is None
    wanted = file_metrics(made["file"], "onnxruntime", made["data"])
    assert file_metrics(tmp_path / "fixed.onnx", "onnxruntime", made["data"]) == wanted


def test_answers_of_another_number_are_refused(made: dict[str, Any]) -> None:
    part = made["data"].test
    data = Data("x", part, part, part, ("a",) * 9, 3, (16, 16), (0.0,), (1.0,), False, "x")
    with pytest.raises(
        LissomError,
        match=r"it answers \(12, 2\) for 12 samples of x; classify: expected .* = \(12, 9\); --classes",
    ):
        file_metrics(made["file"], "onnxruntime", data)


# the script beside a file


@pytest.mark.parametrize("bake", [False, True])
def test_the_script_answers_as_the_network_does(
    made: dict[str, Any], bake: bool, tmp_path: Path
) -> None:
    record = made["record"]
    output = tmp_path / "net.onnx"
    export_key(
        record["key"], made["store"], "onnxruntime", output, ExportOptions(bake), with_code=True
    )
    picture = made["root"] / "photos" / "test" / "light" / "0.png"
    done = subprocess.run(
        [sys.executable, "net.py", str(picture)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs, labels = network_outputs(
        load_key(record["key"], made["store"]), made["data"], made["data"].test
    )
    first = outputs[labels == 1][0]
    name, value = done.stdout.split()
    assert name == ("dark", "light")[int(first.argmax())]
    assert float(value) == pytest.approx(float(first.max()), rel=1e-3)
    assert len((tmp_path / "net.py").read_text().splitlines()) < 30


def test_the_script_takes_no_other_file_s_place(made: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(): ...\n")
    key, output = made["record"]["key"], tmp_path / "net.onnx"
    with pytest.raises(LissomError, match=r"net\.py exists and was not written by --snippet"):
        export_key(key, made["store"], "onnxruntime", output, ExportOptions(), with_code=True)
    assert (tmp_path / "net.py").read_text() == "def make(): ...\n" and not output.exists()
    (tmp_path / "net.py").unlink()
    for _ in range(2):  # its own it may write anew
        export_key(key, made["store"], "onnxruntime", output, ExportOptions(), with_code=True)


def test_each_file_sees_pictures_as_it_says(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"{name}.onnx" for name in ("plain", "baked")}
    for name, file in files.items():
        export_key(
            made["record"]["key"],
            made["store"],
            "onnxruntime",
            file,
            ExportOptions(bake=name == "baked"),
        )
    other = onnx.load(str(files["plain"]))
    for entry in other.metadata_props:
        if entry.key == "classes":
            entry.value = '["light", "dark"]'
    onnx.save(other, str(tmp_path / "other.onnx"))
    data = f"folder:{made['root'] / 'photos'}"
    wanted = made["record"]["targets"]["onnxruntime"]["top1"]
    for order in (("plain", "baked"), ("baked", "plain")):
        with pytest.raises(SystemExit):
            main(["bench", *(str(files[name]) for name in order), "--data", data, "--json"])
        rows = json.loads(capsys.readouterr().out)
        assert [row["metrics"]["top1"] for row in rows] == [wanted, wanted]
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(tmp_path / "other.onnx"), "--data", data])
    said = " in their order (dark, light), got (light, dark); --classes states the file's"
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_baked_file_for_images_in_their_own_size_says_how_it_sees_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, low in (("dark", 0), ("light", 90)):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for k in range(8):
                pixels = draw.integers(low, low + 160, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{k}.png")
    splits = [
        [
            (Image.open(path).convert("RGB"), int(path.parent.name == "light"))
            for path in sorted((tmp_path / "photos" / part).glob("*/*.png"))
        ]
        for part in ("train", "test")
    ]
    data = Data.of_dataset(splits[1], splits[0], preprocess='normalize("half")')
    recipe = "train(20, batch=4, lr=0.05)"
    (record,) = lissom.run(recipe, Task.of("resnet8", data), store, targets="onnxruntime")
    file = tmp_path / "m.onnx"
    export_key(record["key"], store, "onnxruntime", file, ExportOptions(bake=True))
    assert preprocess_in(file) == ""
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(file), "--data", f"folder:{tmp_path / 'photos'}", "--json"])
    assert ended.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["metrics"]["top1"] == record["targets"]["onnxruntime"]["top1"]


def operations() -> list[str]:
    names = [n for n in menu("preprocess") if issubclass(menu("preprocess")[n], PictureOperation)]
    texts = {
        "resize": ["resize(20)", 'resize(33, "bicubic")', 'resize(9, 31, "nearest")'],
        "center_crop": ["center_crop(8)", "center_crop(15, 21)", "center_crop(24, fill=7)"],
        "letterbox": ["letterbox(20)", "letterbox(40, 24, fill=9)"],
        "pad": ["pad(3, fill=200)"],
    }
    return [text for name in names for text in texts.get(name, [name])]


@pytest.mark.parametrize("text", operations())
def test_the_lines_of_an_operation_do_what_it_does(text: str) -> None:
    draw = np.random.default_rng(0)
    for size in ((24, 30), (31, 22), (23, 23), (5, 12), (10, 3)):
        picture = Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8))
        (operation,) = Preprocess.of(text).pictures
        names = {"picture": picture, "Image": Image}
        exec(operation.code(), names)
        assert np.array_equal(np.asarray(names["picture"]), np.asarray(operation(picture)))


def test_a_script_for_what_a_few_lines_cannot_do_is_refused() -> None:
    facts = {"preprocess": "resize(9, 9)", "mean": [0.5], "std": [0.5], "classes": ["a"]}
    assert "import openvino" in snippet("openvino", "m.xml", facts)
    with pytest.raises(LissomError, match="expected a target of onnxruntime, openvino, got mnn"):
        snippet("mnn", "m.mnn", facts)
    numbers = snippet("onnxruntime", "m.onnx", {"preprocess": "as given"})
    assert "np.load" in numbers and "PIL" not in numbers
    with pytest.raises(LissomError, match="no code for resize"):
        snippet("onnxruntime", "m.onnx", {**facts, "preprocess": "resize(9, 9, antialias=False)"})
    many = {**facts, "classes": [f"class {k}" for k in range(1000)]}
    assert "class 5" not in snippet("onnxruntime", "m.onnx", many)


def test_the_script_of_numbers_loads_a_sample(tmp_path: Path) -> None:
    inputs = torch.randn(30, 3, 16, 16)
    data = Data.of_dataset((inputs, torch.arange(30) % 2), name="tensors")
    store = Store(tmp_path / "store")
    (record,) = lissom.run("fold", Task.of("resnet8", data), store, targets="onnxruntime")
    facts = facts_in(Path(record["targets"]["onnxruntime"]["artefact"]))
    assert facts["input"] == "as the data set gives it" and facts["preprocess"] == "as given"
    assert "mean" not in facts
    output = tmp_path / "m.onnx"
    export_key(record["key"], store, "onnxruntime", output, ExportOptions(), with_code=True)
    np.save(tmp_path / "sample.npy", inputs[0].double().numpy())
    done = subprocess.run(
        [sys.executable, "m.py", "sample.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = load_key(record["key"], store)(inputs[:1])[0].detach()
    name, value = done.stdout.split()
    assert int(name) == int(wanted.argmax())
    assert float(value) == pytest.approx(float(wanted.max()), rel=1e-3)
    with pytest.raises(
        LissomError, match=r"--bake: inputs are taken as .* in the network's forward"
    ):
        export_key(
            record["key"], store, "onnxruntime", tmp_path / "m.onnx", ExportOptions(bake=True)
        )


def test_the_script_of_a_segmenter_prints_the_share_of_each_class() -> None:
    facts = {"preprocess": "resize(9, 9)", "mean": [0.5], "std": [0.5], "classes": ["sky", "sea"]}
    code = snippet("onnxruntime", "m.onnx", {**facts, "kind": "segment(ignore=9)"})
    said = io.StringIO()
    outputs = np.zeros((1, 2, 4, 4))
    outputs[0, 1, 0] = 1
    with redirect_stdout(said):
        lines = code[code.index("classes = ") :].splitlines()
        kept = [line for line in lines if "session" not in line]
        exec("\n".join(kept), {"np": np, "outputs": [outputs]})
    assert said.getvalue() == "sky 75.0%\nsea 25.0%\n"
    for kind in ("multilabel", "kinds.py:Mine"):  # names that nothing prints are left out
        assert "classes" not in snippet("onnxruntime", "m.onnx", {**facts, "kind": kind})


TWO = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, one, two):
        return self.layer(torch.cat([one, two], 1))
"""


def test_inputs_that_no_short_script_can_load_have_a_file_and_a_note(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(TWO)
    samples = [((torch.randn(4), torch.randn(4)), k % 2) for k in range(30)]
    store = Store(tmp_path / "store")
    task = Task.of(f"{tmp_path}/net.py:Two", Data.of_dataset(samples))
    (record,) = lissom.run('cast("fp16")', task, store)
    said: list[str] = []
    output = tmp_path / "m.onnx"
    key = record["key"]
    export_key(key, store, "onnxruntime", output, ExportOptions(), say=said.append, with_code=True)
    assert output.is_file() and not output.with_suffix(".py").exists()
    assert [line for line in said if "note: --snippet: there is no script for inputs" in line]


@pytest.mark.parametrize(
    ("made", "name", "said"),
    [
        ("model.ir", "net.ir", r"OpenVINO cannot read net\.ir, .*choose -o net\.xml"),
        ("model.ir", "net", r"OpenVINO cannot read net, .*choose -o net\.xml"),
        ("model.onnx", "net.bin", r"OpenVINO cannot read net\.bin, .*choose -o net\.onnx"),
        ("model.onnx", "net.py", r"net\.py is the file itself; choose another"),
    ],
)
def test_a_script_that_could_not_run_its_file_is_refused(
    made: str, name: str, said: str, tmp_path: Path
) -> None:
    target: Any = one_target("openvino" if name != "net.py" else "onnxruntime")
    with pytest.raises(LissomError, match=said):
        script_of(target, tmp_path / name, tmp_path / made, ExportOptions())
