"""Files run in separate processes: a process that dies gives one clear error, and the rest goes on."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import lissom
from lissom import LissomError
from lissom.bench.inputs import images
from lissom.bench.process import Process, file_process
from lissom.data.data import Data
from lissom.errors import Unmeasured
from lissom.exporting import isolated
from lissom.running.measurement_notes import measurement_notes
from lissom.store.store import Store
from lissom.system.processes import ended
from lissom.tasks.task import Task

SHAPE = (1, 3, 8, 8)
SHOWN = images(SHAPE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return lissom.export(nn.Conv2d(3, 4, 3), "onnxruntime", tmp_path / "net.onnx", SHAPE[1:])


def test_it_answers_as_the_file_does_and_is_gone_afterwards(file: Path) -> None:
    torch.manual_seed(0)
    wanted = nn.Conv2d(3, 4, 3)
    seen = torch.randn(5, *SHAPE[1:])
    with file_process("onnxruntime", file, SHOWN) as process, torch.no_grad():
        (outputs,) = process.run([seen.numpy()])
        np.testing.assert_allclose(outputs, wanted(seen).numpy(), atol=1e-5)
        assert process.ms(0.01) > 0 and process.run([seen[:1].numpy()])[0].shape == (1, 4, 6, 6)
        folder = process.folder
    assert process.process.returncode is not None and not folder.exists()


def test_a_process_that_is_killed_is_one_line(file: Path) -> None:
    with file_process("onnxruntime", file, SHOWN) as process:
        process.process.kill()
        process.process.wait()
        with pytest.raises(
            LissomError,
            match=r"^onnxruntime: the process .* was killed by "
            r"SIGKILL",
        ) as caught:
            process.run([np.zeros(SHAPE, np.float32)])
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no network")
    said = r"^onnxruntime: the process .* ended with status 1; its last words: ."
    with pytest.raises(LissomError, match=said), file_process("onnxruntime", path, SHOWN):
        pass


def test_a_runtime_that_dies_leaves_the_others_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Process.run

    def dies(self: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.target == "onnxruntime":
            self.process.kill()
        return real(self, inputs)

    monkeypatch.setattr(Process, "run", dies)
    store, task = Store(tmp_path), Task.of("resnet8", Data.of("digits", size=(8, 8)))
    with pytest.raises(
        Unmeasured,
        match=r"onnxruntime: .* killed by SIGKILL.*; 1 more .* "
        r"everything else is",
    ) as caught:
        lissom.run("{fold, quantize(8, samples=16)}", task, store, targets="onnxruntime,openvino")
    assert [sorted(record["targets"]) for record in caught.value.records] == [
        ["openvino"],
        ["openvino"],
    ]
    assert all(store.record(record["key"])["finished"] for record in caught.value.records)


def test_a_file_that_is_slower_than_float_or_a_busy_machine_is_said() -> None:
    def found(
        own: tuple[float, float, float], other: tuple[float, float, float], agreement: float = 1.0
    ) -> dict[str, Any]:
        return {
            "agreement": agreement,
            "not_fused": ["stem"],
            **{
                name: dict(zip(("low", "median", "high"), ms, strict=True))
                for name, ms in (("latency_ms", own), ("float_latency_ms", other))
            },
        }

    assert measurement_notes(found((1.0, 1.1, 1.2), (1.1, 1.2, 1.3))) == []
    (slow,) = measurement_notes(found((2.0, 2.1, 2.2), (1.0, 1.0, 1.1)))
    assert (
        "slower than the uncompressed network, 2.1 ms to 1;" in slow
        and "not in integers: stem" in slow
    )
    assert slow.endswith("faster: the uncompressed file")
    (slow,) = measurement_notes(
        found((2.0, 2.1, 2.2), (1.0, 1.0, 1.1)), {"torch": 3, "openvino": 0.5}
    )
    assert slow.endswith("faster: openvino, 0.5 ms")
    unlike, busy = measurement_notes(found((2.0, 2.1, 2.2), (1.0, 1.0, 3.1), 0.9))
    assert "agree on 90.00%" in unlike and "busy" in busy


def test_files_of_the_current_folder_are_not_imported(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child runs as `python -m`, which puts the current folder in front of the standard library."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("random", "numpy", "json"):
        (here / f"{name}.py").write_text(
            f"open({str(here / 'executed')!r}, 'w')\nraise SystemExit('{name}')\n"
        )
    monkeypatch.chdir(here)
    for path in ("", os.pathsep, f"{os.pathsep}elsewhere"):
        monkeypatch.setenv("PYTHONPATH", path)
        with file_process("onnxruntime", file, SHOWN) as process:
            assert process.ms(0.01) > 0
        isolated.smoke_test(
            "onnxruntime", Path(shutil.copy(file, here)), SHAPE[1:], (4, 6, 6), "here", ""
        )
    assert not (here / "executed").exists()


def test_the_end_of_a_process_is_told_on_any_system() -> None:
    assert [ended(code) for code in (-9, 1, 3221225477, -300)] == [
        "was killed by SIGKILL",
        "ended with status 1",
        "ended with status 3221225477",
        "was killed by signal 300",
    ]


def test_a_runtime_that_prints_much_does_not_hang(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output goes to a file: nobody reads a pipe while it runs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor _ in range(9000):\n    print('a warning ' * 4, file=sys.stderr)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = threading.Event()

    def ended_in_time() -> None:
        if not done.wait(60):
            for child in psutil.Process().children(recursive=True):
                child.kill()

    threading.Thread(target=ended_in_time, daemon=True).start()
    try:
        with file_process("onnxruntime", file, SHOWN) as process:
            assert process.ms(0.01) > 0
            process.process.kill()
            with pytest.raises(LissomError, match="its last words: a warning a warning"):
                process.run([np.zeros(SHAPE, np.float32)])
    finally:
        done.set()
