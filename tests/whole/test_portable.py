"""The package runs without Linux-only modules and files (/proc, fcntl, resource), and with spawned
processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lissom
from lissom.bench import cores, machine, memory
from lissom.system.processes import surroundings

ELSEWHERE = """
import builtins, multiprocessing

real, absent = builtins.__import__, {"fcntl", "resource"}

def without(name, globals=None, *rest, **more):
    importer = (globals or {}).get("__name__") or ""
    if name in absent and not importer.startswith("psutil"):  # whose Linux part needs one
        raise ImportError(f"{name} is not there")
    return real(name, globals, *rest, **more)

builtins.__import__ = without
multiprocessing.set_start_method("spawn")
"""
SEVERAL = """
import contextlib, io, json, sys
from lissom.cli.main import main

said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            main(words)
        except SystemExit as ended:
            if ended.code:
                raise
    said.append(json.loads(text.getvalue()))
print(json.dumps(said))
"""
HIDDEN = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which no module of Linux can be imported, nor in any that it starts."""
    blocker = tmp_path / "elsewhere"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(ELSEWHERE)
    found = surroundings(OMP_NUM_THREADS="1")
    return {**found, "PYTHONPATH": os.pathsep.join([str(blocker), found["PYTHONPATH"]])}


def hidden(words: list[str]) -> list[str]:
    """Return a command that runs without /proc, on systems that let it."""
    able = (
        shutil.which("unshare")
        and subprocess.run([*HIDDEN, "true"], capture_output=True, check=False).returncode == 0
    )
    return [*HIDDEN, *words] if able else words


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of images in a folder whose name has a space, other letters, and what looks
    like a drive.
    """
    root, draw = tmp_path / "Fotos für 小" / r"C:\my photos", np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for half, name in enumerate(("oben", "únten")):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[half * 8 : half * 8 + 8] += 100
                Image.fromarray(pixels).save(root / part / name / f"{k}.png")
    return root


def said_in(words: list[str], variables: dict[str, str], cwd: Path) -> Any:
    """Return what a process of Python says in JSON."""
    done = subprocess.run(
        hidden([sys.executable, *words]),
        env=variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_a_store_and_a_benchmark_without_what_linux_alone_has(
    photos: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    store, words = (
        str(tmp_path / r"D:\Läger 2"),
        ["--data", f"folder:{photos}", "--model", "resnet8"],
    )
    recipe = "train(1, batch=16) | quantize(8, samples=16)"
    (record,) = said_in(
        ["-m", "lissom", "run", recipe, *words, "--to", "onnxruntime", "--store", store, "--json"],
        variables,
        tmp_path,
    )
    found = record["targets"]["onnxruntime"]
    assert found["agreement"] >= 0.9 and found["latency_ms"]["median"] > 0
    later = [
        ["bench", record["key"], "--no-baselines"],
        ["store", "--prune", "--yes"],
        ["report", "-o", str(tmp_path / "Bericht für 小.html")],
    ]
    later = [[*each, "--store", store, "--json"] for each in later]
    rows, listed, _ = said_in(["-c", SEVERAL, json.dumps(later)], variables, tmp_path)
    assert rows[0]["latency_ms"]["median"] > 0
    if hidden([]):  # psutil reads /proc, too: nothing is guessed
        assert found["peak_mib"] is None and found["resident_mib"] is None
        assert "memory_gib" not in record["machine"]
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1
    assert record["key"] in {row["key"] for row in listed}


def test_what_a_system_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def silent(*_: Any, **__: Any) -> Any:
        raise psutil.AccessDenied

    wanted = machine.machine()
    for name in ("Process", "virtual_memory", "cpu_times"):
        monkeypatch.setattr(psutil, name, silent)
    for module, name in ((memory, "STATUS"), (machine, "CPU_FILE"), (cores, "LOAD_FILE")):
        monkeypatch.setattr(module, name, Path("/there/is/none"))
    monkeypatch.setattr(machine.platform, "processor", lambda: "a processor")
    found = machine.machine.__wrapped__()
    assert (
        set(wanted) - set(found) == {"memory_gib"}
        and found["cpu"]
        and found["cores"] == os.cpu_count()
    )
    assert memory.peak_mib() is None and memory.resident_mib() is None
    assert cores.quiet_cores(1) is None and cores.used_s() == {} and not cores.others_run()


def test_images_are_read_by_processes_that_are_spawned(
    photos: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    """The start method of macOS and Windows: a split goes to its workers by pickle."""
    code = f"""
import torch
from lissom.data.split import Files
from lissom.language.preprocess import Preprocess
from pathlib import Path
if __name__ == "__main__":
    paths = sorted(Path({str(photos)!r}).rglob("*.png"))[:6]
    split = Files(paths, torch.arange(6), 3, (16, 16), Preprocess.of("resize(16, 16)"))
    print([labels.tolist() for _, labels in split.batches(4, torch.device("cpu"))])
"""
    script = tmp_path / "read.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], env=variables, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[[0, 1, 2, 3], [4, 5]]", done.stderr


def test_a_folder_named_like_a_drive_is_a_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(photos.parent)
    assert len(lissom.Data.of(r"folder:C:\my photos").train) + 5 == 48
    code = "from torch import nn\ndef make(num_classes):\n    return nn.Linear(2, num_classes)\n"
    (tmp_path / r"D:\net.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    task = lissom.Task.of(r"D:\net.py:make", lissom.Data.of("digits"))
    assert task.fresh().out_features == 10
