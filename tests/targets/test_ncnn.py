"""A network exported for ncnn gives PyTorch's outputs, from one file that contains ncnn's two."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.exporting import isolated
from lissom.language.parse_methods import method_of
from lissom.targets.ncnn import Ncnn

SHAPE = (3, 9, 7)
pytestmark = pytest.mark.skipif(Ncnn().missing() is not None, reason=Ncnn().missing() or "")


class Net(nn.Module):
    """A residual network that answers with classes, or with a map of them."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head, self.whole = nn.Linear(32, 10), whole

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.block(x) + x)
        return x if self.whole else self.head(x.mean((2, 3)))


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count))


def exported(net: nn.Module, path: Path, text: str = "ncnn") -> np.ndarray:
    """Export a network and return what the file answers for three images."""
    target = method_of("targets", text)
    assert isinstance(target, Ncnn)
    target.export(net, path, SHAPE, {})
    return target.load(path, 1)(images(3).numpy())


def wanted(net: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return net(images(3)).numpy()


@pytest.mark.parametrize("whole", [False, True])
def test_a_float_file_answers_like_pytorch_image_by_image(whole: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(whole).eval()
    found, right = exported(net, tmp_path / "m.ncnn"), wanted(net)
    assert found.shape == right.shape and found.dtype == np.float32
    assert np.abs(found - right).max() < 1e-5 * np.abs(right).max()
    assert not Ncnn().rounds()


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    exported(net, tmp_path / "f32.ncnn")
    found, right = exported(net, tmp_path / "f16.ncnn", 'ncnn("f16")'), wanted(net)
    assert 1e-6 < np.abs(found - right).max() / np.abs(right).max() < 5e-3
    assert (tmp_path / "f16.ncnn").stat().st_size < 0.6 * (tmp_path / "f32.ncnn").stat().st_size
    half = method_of("targets", 'ncnn("f16")')
    assert isinstance(half, Ncnn) and half.rounds() and half.plain() == Ncnn()
    assert half.file(False, False) != Ncnn().file(False, False)


def test_the_file_is_the_two_of_ncnn_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    torch.manual_seed(0)
    net = Net().eval()
    path = tmp_path / "out" / "m.ncnn"
    exported(net, path)
    with zipfile.ZipFile(path) as pack:
        assert pack.namelist() == ["model.param", "model.bin"] and pack.read(
            "model.param"
        ).startswith(b"7767517")
        held = sum(part.file_size for part in pack.infolist())
    assert held < path.stat().st_size < held + 400, (
        "not compressed: the bytes are those of the two files"
    )
    first = path.read_bytes()
    exported(net, path)
    assert path.read_bytes() == first
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.ncnn"] and list(
        (tmp_path / "scratch").iterdir()
    ) == []


def test_a_quantized_network_computes_in_float_near_its_simulation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(280, 4)).eval()
    small = lissom.apply("quantize(8)", plain, images(1), images(16))
    found, right = exported(small, tmp_path / "m.ncnn"), wanted(small)
    assert np.sqrt(np.square(found - right).mean() / np.square(right).mean()) < 0.05


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(x[:, :, :3, :3])


def test_a_network_that_ncnn_cannot_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="onnxruntime may run this network") as caught:
        exported(Unknown(), tmp_path / "m.ncnn")
    assert "\n" not in str(caught.value) and not (tmp_path / "m.ncnn").exists()


def test_a_converter_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = isolated.run_isolated

    def dies(command: list[object], *rest: Any, **texts: str) -> None:
        real([sys.executable, "-c", "import os; os.abort()"], *rest, **texts)

    monkeypatch.setattr(isolated, "run_isolated", dies)
    with pytest.raises(
        LissomError,
        match=r"^ncnn: pnnx, the converter, was killed by SIGABRT; "
        r".*onnxruntime",
    ):
        exported(Net().eval(), tmp_path / "m.ncnn")
    assert not (tmp_path / "m.ncnn").exists()


def test_a_file_that_ncnn_cannot_load_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.ncnn", "w") as pack:
        pack.writestr("model.param", "7767517\n1 1\nNothing x 0 1 out0\n")
        pack.writestr("model.bin", "")
    with pytest.raises(LissomError, match=r"cannot load m\.ncnn"):
        Ncnn().load(tmp_path / "m.ncnn", 1)


class Tokens(nn.Module):
    """A network that takes the mean over tokens, which ncnn answers in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.head = nn.Conv2d(3, 8, 3, stride=3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cut(x).flatten(2).transpose(1, 2).mean(1, keepdim=True)).squeeze(1)


def test_a_file_that_answers_in_another_shape_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "output_shape", lambda model, shape: (7,))
    said = r"1 images gave outputs of shape \(1, 10\), the network's is \(1, 7\); onnxruntime may"
    with pytest.raises(LissomError, match=said):
        exported(Net().eval(), tmp_path / "m.ncnn")
    monkeypatch.undo()
    torch.manual_seed(0)
    net = Tokens().eval()
    with pytest.raises(LissomError, match=r"the network's is \(1, 4\)"):
        exported(net, tmp_path / "m.ncnn")
