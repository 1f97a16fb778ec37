"""A network of real size through a whole run after pruning: loaded by another process, trained
further, exported, compressed.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import numpy_helper
from torch import Tensor, nn

from lissom import apply, export, load, save
from lissom.surgery.channels.slice import slice_channels
from lissom.surgery.channels.trial_cut import cuttable

READ = """
import sys, torch, torchvision, lissom
model = lissom.load(sys.argv[1], torchvision.models.resnet50(num_classes=10))
with torch.inference_mode():
    torch.save(model(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet50(num_classes=10).eval()


@pytest.fixture(scope="module")
def small(whole: nn.Module, images: Tensor) -> nn.Module:
    return apply('prune(0.5, of="params", multiple=8)', whole, images[:1], images)


def test_half_of_the_parameters_are_gone(whole: nn.Module, small: nn.Module) -> None:
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in whole.parameters())
    assert share == pytest.approx(0.5, abs=0.002)
    assert all(m.out_channels % 8 == 0 for m in small.modules() if isinstance(m, nn.Conv2d))


def test_another_process_reads_it_back_bit_for_bit(
    small: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    save(small, tmp_path / "net")
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == [
        "model.safetensors",
        "structure.json",
    ]
    torch.save(images, tmp_path / "in.pt")
    words = [sys.executable, "-c", READ, tmp_path / "net", tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run(
        words, check=True, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    with torch.inference_mode():
        assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), small(images))


def test_it_trains_on(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    save(small, tmp_path)
    model = load(tmp_path, torchvision.models.resnet50(num_classes=10)).train()
    steps = torch.optim.SGD(model.parameters(), 0.01)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(images), torch.tensor([1, 2]))
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_its_onnx_file_shrinks_in_proportion(
    whole: nn.Module, small: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    files = [
        export(m, "onnxruntime", tmp_path / f"{k}.onnx", (3, 64, 64))
        for k, m in enumerate((whole, small))
    ]
    sizes, params = (
        [f.stat().st_size for f in files],
        [sum(p.numel() for p in m.parameters()) for m in (whole, small)],
    )
    assert sizes[1] / sizes[0] == pytest.approx(params[1] / params[0], abs=0.01)
    weights = [numpy_helper.to_array(t) for t in onnx.load(files[1]).graph.initializer]
    kept = sorted(
        tuple(m.weight.shape) for m in small.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    )
    assert sorted(w.shape for w in weights if w.ndim in (2, 4)) == kept  # no trace of what was cut
    with torch.no_grad():
        wanted = small(images).numpy()
    session = onnxruntime.InferenceSession(files[1])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


def test_tracing_and_cutting_take_about_a_second(whole: nn.Module) -> None:
    model, begin = copy.deepcopy(whole), time.process_time()
    groups = cuttable(model, torch.zeros(1, 3, 224, 224))
    slice_channels(model, [(g, torch.arange(g.size) < g.size // 2) for g in groups])
    assert time.process_time() - begin < 5  # of all cores; about 1 where nothing else runs
