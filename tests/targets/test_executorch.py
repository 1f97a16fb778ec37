"""A network exported for ExecuTorch gives PyTorch's outputs, in integers if every activation has 8
bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import conv, images, residual
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.targets.executorch import Executorch

pytestmark = pytest.mark.skipif(
    Executorch().missing() is not None, reason=Executorch().missing() or ""
)


def answers(net: nn.Module, path: Path, seen: Tensor) -> tuple[Tensor, int]:
    """Export a network; return what the file answers, and its bytes."""
    file = path / "net.pte"
    Executorch().export(net, file, tuple(seen.shape[1:]), {})
    return torch.from_numpy(Executorch().load(file, 1)(seen.numpy())), file.stat().st_size


@pytest.mark.parametrize(
    ("recipe", "smaller"),
    [
        ("fold", 1),
        ("quantize(8)", 3),
        ("quantize(4)", 3),
        ("quantize(4, 4)", 1),
        ('cast("fp16")', 1),
        ('quantize("ternary", 32)', 1),
        ("prune(0.5) | quantize(8)", 6),
    ],
)
def test_files_answer_like_pytorch(recipe: str, smaller: float, tmp_path: Path) -> None:
    net, seen = residual(), images(20, 16)
    whole = sum(p.numel() * 4 for p in net.parameters())
    small = lissom.apply(recipe, net, seen[:1], seen)
    found, size = answers(small, tmp_path, seen)
    with torch.no_grad():
        wanted = small(seen)
    assert found.shape == wanted.shape
    # the former run in integers
    most = 0.03 if recipe.endswith(("quantize(8)", "quantize(4)")) else 1e-5
    assert float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < most
    assert size < 1.5 * whole / smaller


def test_convolutions_over_one_axis_run_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(4, 64, 3, padding=1),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Conv1d(64, 64, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).eval()
    seen = torch.randn(24, 4, 32)
    small = lissom.apply("quantize(8)", net, seen[:1], seen)
    found, size = answers(small, tmp_path, seen)
    with torch.no_grad():
        wanted = small(seen)
    assert float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.03
    assert size < 0.6 * sum(p.numel() * 4 for p in net.parameters())


def test_any_number_of_images_goes_in_and_answers_stay(tmp_path: Path) -> None:
    net, seen = residual(), images(19, 16)
    Executorch().export(net, tmp_path / "net.pte", tuple(seen.shape[1:]), {})
    run = Executorch().load(tmp_path / "net.pte", 2)
    once = run(seen.numpy())
    kept = once.copy()
    for count in (1, 8, 9):
        np.testing.assert_allclose(run(seen[:count].numpy()), once[:count], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(once, kept)


def test_a_convolution_that_the_network_returns_runs_in_float_and_the_others_in_integers(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    net, seen = (
        nn.Sequential(conv(3, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 4)).eval(),
        images(20, 16),
    )
    small = lissom.apply("quantize(8)", net, seen[:1], seen)
    found, size = answers(small, tmp_path, seen)
    with torch.no_grad():
        wanted = small(seen)
    assert float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.03
    assert size < sum(p.numel() * 4 for p in net.parameters()) / 2.5


def test_a_network_it_cannot_convert_is_one_line(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > 0].sum()[None] if x.sum() > 0 else x[:, 0, 0, :4]

    with pytest.raises(
        LissomError,
        match=r"^export: ExecuTorch cannot convert this network: .+; "
        r"onnxruntime may run it$",
    ):
        lissom.export(Odd(), "executorch", tmp_path / "net.pte", (3, 4, 4))
    assert list(tmp_path.iterdir()) == []
