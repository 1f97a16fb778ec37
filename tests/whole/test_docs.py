"""Every command of the README and the documentation runs on tiny data; the pages build and their
links work.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lissom.bench import latency
from lissom.cli.main import main
from lissom.language.recipe import Space
from lissom.models import factory
from lissom.running.search import search
from lissom.store.store import Store
from lissom.system.processes import surroundings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NETS = """
import torch
from torch import nn
from lissom.models.resnet import Block

def make_net(num_classes=10, in_channels=3):
    first = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
    last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), Block(16, 32, 2), *last)

def make_segmenter(num_classes=11):
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, num_classes, 2, 2)
    )

def make_mixer(num_classes=10, in_channels=3):
    first, last = nn.Linear(16 * 16 * in_channels, 32), nn.Linear(32, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
"""


def commands() -> Iterator[tuple[str, str]]:
    """Yield each command of each page with the page's name, in order."""
    for page in PAGES:
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in re.sub(r" *\\\n\s*", " ", block).splitlines():
                words = re.sub(r"\s{2,}#.*| # .*", "", line).strip()
                detector = "--nms" in words  # tests/exporting/test_detector_with_nms.py
                if words.startswith("lissom ") and "..." not in words and not detector:
                    yield page.name, words


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tiny images, networks and weights, of the names that the documentation uses."""
    folder = tmp_path_factory.mktemp("docs")
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("valid", 4), ("test", 4)):
        for name in ("cat", "dog", "hen"):
            inside = folder / "photos" / split / name
            inside.mkdir(parents=True)
            for k in range(count):
                pixels = torch.randint(
                    0, 256, (16, 16, 3), generator=draw, dtype=torch.uint8
                ).numpy()
                Image.fromarray(pixels).save(inside / f"{k}.png")
    for split, count in (("train", 6), ("test", 2)):
        for name in ("images", "labels"):
            (folder / "scenes" / split / name).mkdir(parents=True)
            for k in range(count):
                labels = torch.randint(0, 12, (16, 16), generator=draw, dtype=torch.uint8).numpy()
                Image.fromarray(labels).save(folder / "scenes" / split / name / f"{k}.png")
    (folder / "net.py").write_text(NETS)
    page = (ROOT / "docs" / "own-data.md").read_text()
    code = re.search(r"^```python\n(# loaders\.py\n.*?)^```", page, re.M | re.S)
    assert code is not None
    (folder / "loaders.py").write_text(code[1])
    torch.manual_seed(0)
    own = dict[str, Any]()
    exec(NETS, own)
    save_file(own["make_net"](3).state_dict(), folder / "net.safetensors")
    save_file(factory("resnet14")(3, 3).state_dict(), folder / "other.safetensors")
    return folder


def tiny(words: str, place: Path) -> list[str]:
    """Return a command for tiny data and one epoch of each step; KEY is the network that was
    finished last.
    """
    words = re.sub(r"--data (?!loaders\.py|masks:)\S+", "--data folder:photos", words)
    words = words.replace("--preprocess imagenet", "--preprocess 'normalize(\"imagenet\")'")
    # the rest: tests/targets
    words = words.replace("torch,onnxruntime,openvino,mnn(8),ncnn,executorch", "mnn(8),ncnn")
    model = "net.py:make_net" if "--weights net" in words else "resnet8"
    words = re.sub(r"--model (?!net\.py)\S+", f"--model {model}", words)
    words = re.sub(
        r"(train\(|sparsify\([\d.e-]+, |distill\((?:\"[^\"]*\"|'[^']*'|\{[^}]*\}), )\d+",
        r"\g<1>1",
        words,
    )
    words = re.sub(r"--budget \S+", "--budget 20s", words)
    words = re.sub(r"--workers \d+", "--workers 2", words)
    if words.startswith("lissom search") and "--model" not in words:
        words += " --data folder:photos --model resnet8"
    if words.startswith("lissom search") and "--trials" not in words:
        words += " --trials 1"
    store = Store(place / ".lissom")
    found = sorted(
        (store.record(key) for key in store if store.record(key).get("finished")),
        key=lambda r: -r["created"],
    )
    rounded = [
        r["key"] for r in found if r["task"]["model"] == "resnet8" and "quantize" in r["recipe"]
    ]
    floats = [
        r["key"]
        for r in found
        if r["task"]["model"] == "resnet8"
        and r["recipe"].startswith("train(1)")
        and "|" not in r["recipe"]
    ]
    if "--teacher" in words:
        words = words.replace("KEY", floats[0])
    words = words.replace("KEY2", (rounded or [""])[-1]).replace("KEY", (rounded or [""])[0])
    if words.startswith("lissom bench") and "other.onnx" in words:
        words = words.replace("other.onnx", "model.onnx")
    return shlex.split(words)[1:]


def test_every_command_of_the_documentation_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(latency, "ROUND_S", 0.002)  # nobody reads how long anything took
    monkeypatch.setattr(search, "PROBES", 2)
    main_words = [
        "run",
        "train(1) | quantize(8, samples=8)",
        "--data",
        "folder:photos",
        "--model",
        "resnet8",
    ]
    for words in (main_words, ["run", "train(1)", "--data", "folder:photos", "--model", "resnet8"]):
        with pytest.raises(SystemExit):
            main(words)
    pages = set()
    for page, words in commands():
        if words.startswith("lissom bench"):
            words += " --no-baselines"
        with pytest.raises(SystemExit) as ended:
            main(tiny(words, place))
        assert ended.value.code == 0, (page, words, capsys.readouterr().err[-600:])
        pages.add(page)
    capsys.readouterr()
    assert pages >= {
        "README.md",
        "first-compression.md",
        "own-model.md",
        "own-data.md",
        "distillation.md",
        "pruning.md",
        "quantization.md",
        "targets.md",
        "report.md",
    }
    assert (place / "lissom-report.html").is_file() and (place / "model.onnx").is_file()


def cells_of(notebook: str) -> list[dict[str, Any]]:
    """Return the cells of a notebook in docs/."""
    return json.loads((ROOT / "docs" / notebook).read_text())["cells"]


QUICK = """
from lissom.bench import latency
latency.ROUND_S = 0.002  # nobody reads how long anything took
"""


def printed_by(notebook: str, folder: Path, smaller: dict[str, str]) -> str:
    """Return what a notebook prints when its cells run in a folder, with some texts replaced."""
    cells = cells_of(notebook)
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for text, other in smaller.items():
        assert text in code, text
        code = code.replace(text, other)
    done = subprocess.run(
        [sys.executable, "-c", QUICK + code],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**surroundings(), "TMPDIR": str(folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout


def test_the_notebook_runs_as_it_is(tmp_path: Path) -> None:
    name = "first-compression.ipynb"
    cells = cells_of(name)
    assert all(cell["cell_type"] == "markdown" or cell["outputs"] == [] for cell in cells)
    smaller = {"train(6, ": "train(1, ", '"kd", 3': '"kd", 1', '"digits"': '"digits", size=(8, 8)'}
    printed = printed_by(name, tmp_path, smaller)
    assert printed.count("openvino") == 2 and "-> " in printed
    assert (tmp_path / "small.onnx").is_file()


def test_the_notebook_of_a_detector_and_a_segmenter_prints_what_it_holds(tmp_path: Path) -> None:
    name = "detector-and-segmenter.ipynb"
    smaller = {
        "train(12,": "train(1,",
        '"kd", 10,': '"kd", 1,',
        '"kd", 6,': '"kd", 1,',
        '"train": 600': '"train": 48',
        '"test": 100': '"test": 8',
    }
    printed = printed_by(name, tmp_path, smaller)
    outputs = [out for cell in cells_of(name) for out in cell.get("outputs", [])]
    held = "".join("".join(out["text"]) for out in outputs if out["output_type"] == "stream")

    def without_numbers(text: str) -> str:
        return re.sub(r"\d+(\.\d+)?", "0", text)

    assert without_numbers(printed) == without_numbers(held)
    pictures = [out["data"]["image/png"] for out in outputs if "data" in out]
    assert len(pictures) == 2 and all(len(text) < 60_000 for text in pictures)


def test_a_notebook_is_small_and_names_no_machine() -> None:
    for file in (ROOT / "docs").glob("*.ipynb"):
        assert file.stat().st_size < 400_000
        cells = cells_of(file.name)
        outputs = [out for cell in cells for out in cell.get("outputs", [])]
        assert all(out["output_type"] in ("stream", "execute_result") for out in outputs)
        assert all(out.get("name") != "stderr" for out in outputs)
        said = json.dumps([out.get("text") or out["data"]["text/plain"] for out in outputs])
        assert not re.search(r"/(tmp|home|root|work|Users)\b| at 0x", said)
        counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
        assert set(counts) == {None} or counts == list(range(1, len(counts) + 1))
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert (file.parent / link).exists(), (file.name, link)


def test_the_pages_build_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "methods" / "grids.html").read_text()
    assert all(f'id="{name}"' in text for name in ("binary", "lsq", "uniform"))
    text = (tmp_path / "commands.html").read_text()
    assert all(f'id="{name}"' in text for name in ("run", "search", "bench", "network-and-data"))
    assert "--worker-threads" in text and "resnet20, preresnet38" in text
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page.name, link)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "recipes").glob("*.txt")), ids=lambda file: file.stem
)
def test_a_recipe_file_is_read_and_says_how_it_is_run_where_it_ran_and_what_comes_out(
    file: Path,
) -> None:
    lines = file.read_text().splitlines()
    text = [line for line in lines if not line.startswith("#")]
    head = "\n".join(line for line in lines if line.startswith("#"))
    assert len(text) == 1 and len(Space(text[0])) >= 1
    for word in ("command:", "machine:", "expected:"):
        assert f"# {word} " in head, word
    for words in re.findall(r"lissom run [^\n]*(?:\\\n[^\n]*)*", head):
        model = re.search(r"--model (\S+)", words)
        assert model is not None and f"recipes/{file.name}" in head
        family, _, name = model[1].rpartition(":")
        if family == "timm":
            assert pytest.importorskip("timm").is_model(name)
        else:
            assert factory(model[1])


def test_the_lines_of_python_in_the_readme_run_on_an_own_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    made = {"net": factory("resnet8")(10).eval(), "images": torch.randn(16, 3, 32, 32)}
    exec(lines, made)
    assert (tmp_path / "small.onnx").stat().st_size < 200_000
