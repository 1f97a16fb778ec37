"""No library sends telemetry, and files are written only in the store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lissom.system.processes import command, surroundings
from lissom.system.telemetry import OFF

RECIPE = "train(1, batch=256) | prune(0.5) | quantize(8, samples=32)"
TO_LATENCY = 'prune(0.1, of="latency", multiple=32)'
# of which 32 channels can be cut, or none: little has to be measured
NETWORK = """
from torch import nn

def make(num_classes, in_channels):
    wide, last = nn.Conv2d(in_channels, 64, 3), nn.Conv2d(64, 16, 3)
    middle = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(wide, nn.ReLU(), last, nn.ReLU(), *middle, nn.Linear(16, num_classes))
"""


def without_network(words: list[str]) -> list[str]:
    """Return a command that runs where there is no network, on systems that let it."""
    apart = ["unshare", "-n"]
    able = (
        shutil.which("unshare")
        and subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0
    )
    return [*apart, *words] if able else words


def written(*folders: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*")
        if not path.is_dir()
    }


@pytest.fixture
def fresh(tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    """A home, a folder for temporary files, and an environment in which nothing else is set."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir(), scratch.mkdir()
    kept = {
        name: os.environ[name]
        for name in ("PATH", "SYSTEMROOT", "PYTHONPATH")
        if name in os.environ
    }
    homes = {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home)}
    temporary = {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    return (
        home,
        scratch,
        {**kept, **homes, **temporary, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_the_steps_of_the_demo_write_into_the_store_alone(
    fresh: tuple[Path, Path, dict[str, str]], tmp_path: Path
) -> None:
    home, scratch, variables = fresh
    (tmp_path / "net.py").write_text(NETWORK)
    small = ["--data", "digits", "--size", "8", "--model", "resnet8"]
    for words in (
        ["run", RECIPE, *small, "--to", "onnxruntime,openvino"],
        ["run", TO_LATENCY, "--data", "digits", "--model", f"{tmp_path}/net.py:make"],
        ["report"],
    ):
        for _ in range(5):  # on a busy machine it may be measured that nothing becomes faster
            done = subprocess.run(
                without_network([sys.executable, "-m", "lissom", *words, "--store", "s"]),
                cwd=home,
                env=variables,
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=False,
            )
            if "of the latency cannot be removed" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
    found = {
        name for name in written(home, scratch) if not name.startswith(("s/", ".config/lissom/"))
    }
    assert found == {"lissom-report.html"}
    assert len(list((home / "s" / ".layers").iterdir())) == 1


def test_a_process_without_lissoms_switches_would_write(
    fresh: tuple[Path, Path, dict[str, str]],
) -> None:
    """So that the test above would see it: importing OpenVINO makes a file in the home."""
    home, scratch, variables = fresh
    subprocess.run(
        without_network([sys.executable, "-c", "import openvino"]),
        env=variables,
        check=True,
        capture_output=True,
    )
    assert "intel/openvino_ga_cid" in written(home, scratch)


def test_a_child_knows_the_switches_before_it_imports_anything() -> None:
    said = subprocess.run(
        [*command("lissom.bench.child")[:2], "-c", "import os; print(os.environ)"],
        env=surroundings(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(f"'{name}': '{value}'" in said for name, value in OFF.items())


def test_openvino_is_imported_without_its_sender() -> None:
    code = "import lissom, sys, openvino.tools.ovc as ovc; print(type(ovc.telemetry).__module__)"
    said = subprocess.run(
        [sys.executable, "-c", code], env=surroundings(), capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "openvino.tools.ovc.telemetry_stub"
