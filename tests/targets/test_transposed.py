"""Transposed convolutions with rounded weights in the runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from lissom import apply
from lissom.exporting.float_reasons import GROUPS, NO_KERNEL, ZERO_POINT
from lissom.running.integer_share import share_in_integers
from lissom.running.plan import one_target
from lissom.surgery.quantization.bits import saturates

CONVS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RUNTIMES = ["onnxruntime", "openvino"]


class UpDown(nn.Module):
    """Down once and up twice; the last convolution's output is rounded nowhere."""

    def __init__(self, groups: int, axes: int = 2, act: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv, up = CONVS[axes - 1], TRANSPOSED[axes - 1]
        self.stem = conv(3, 16, 3, stride=2, padding=1)
        self.up = up(16, 8, 3, stride=2, padding=1, output_padding=1, groups=groups)
        self.last = up(8, 8, 2, stride=2, groups=groups, bias=False)
        self.head = conv(8, 2, 1)
        self.act = act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.last(self.act(self.up(self.act(self.stem(x)))))))


def shown(count: int = 16, axes: int = 2) -> Tensor:
    return torch.randn(count, 3, *[8] * axes, generator=torch.Generator().manual_seed(0))


def exported(small: nn.Module, runtime: str, folder: Path, axes: int = 2) -> tuple[Any, Path]:
    """Return a target and the file that it wrote."""
    target: Any = one_target(runtime)
    if target.missing():
        pytest.skip(target.missing())
    path = folder / f"m.{target.ending}"
    target.export(small.eval(), path, (3, *[8] * axes), {})
    return target, path


def gap(target: Any, path: Path, small: nn.Module, x: Tensor) -> float:
    """Return the rms of what a file answers otherwise than its simulation, over that of its outputs."""
    with torch.no_grad():
        wanted = small(x).numpy()
    found = target.load(path, 1)(x.numpy())
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("recipe", "groups"),
    [
        ("quantize(8)", 1),
        ("quantize(8)", 2),
        ("quantize(8)", 8),
        ("quantize(8, 32)", 1),
        ("quantize(8, 32)", 2),
        ("quantize(4, 4)", 1),
        ('quantize("ternary")', 2),
        ('quantize(8, grid="uniform(asymmetric_weights=True)")', 1),
        ('quantize(8, 32, grid="uniform(asymmetric_weights=True)")', 2),
        ("prune(0.3, multiple=2) | quantize(8)", 1),
        ("prune(0.3, multiple=2) | quantize(8)", 2),
    ],
)
def test_a_file_answers_like_its_simulation(
    recipe: str, groups: int, runtime: str, tmp_path: Path
) -> None:
    small, _ = apply(recipe, UpDown(groups).eval(), shown(1), shown(), notes=True)
    target, path = exported(small, runtime, tmp_path)
    # one value that falls on another step is 1e-3
    assert gap(target, path, small, shown(4)) < 1e-3


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 3])
def test_over_one_and_three_axes_as_well(
    axes: int, groups: int, runtime: str, tmp_path: Path
) -> None:
    small = apply("quantize(8)", UpDown(groups, axes).eval(), shown(1, axes), shown(axes=axes))
    target, path = exported(small, runtime, tmp_path, axes)
    assert gap(target, path, small, shown(4, axes)) < 1e-3


@pytest.mark.parametrize("groups", [1, 2])
def test_the_file_holds_the_integers_of_the_simulation(groups: int, tmp_path: Path) -> None:
    small: Any = apply("quantize(8)", UpDown(groups).eval(), shown(1), shown())
    path = exported(small, "onnxruntime", tmp_path)[1]
    graph = onnx.load(str(path)).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    assert not any(t.dtype == np.float32 and t.ndim > 1 for t in tensors.values())
    for name in ("up", "last"):
        layer = small.network.get_submodule(name)
        (stored,) = (
            t
            for key, t in tensors.items()
            if key.startswith(f"{name}.") and t.dtype == np.int8 and t.ndim > 1
        )
        codes = layer.integers()[0]
        wanted = codes if groups > 1 else layer.as_held(codes)
        assert np.array_equal(stored, wanted.numpy())


@pytest.mark.parametrize("groups", [1, 2])
def test_onnx_runtime_is_said_to_compute_them_in_float(groups: int, tmp_path: Path) -> None:
    small = apply("quantize(8)", UpDown(groups).eval(), shown(1), shown())
    target, path = exported(small, "onnxruntime", tmp_path)
    fused = target.fused(path)
    assert set(fused.rest) >= {f"{name}/ConvTranspose ({NO_KERNEL})" for name in ("up", "last")}


@pytest.mark.skipif(saturates(), reason="this processor has no integer kernels for them")
def test_openvino_computes_those_of_one_group_in_integers(tmp_path: Path) -> None:
    small = apply("quantize(8)", UpDown(1).eval(), shown(1), shown())
    target, path = exported(small, "openvino", tmp_path)
    fused = target.fused(path)
    assert (fused.done, fused.rest) == (4, ())
    assert share_in_integers(small, shown(1), fused, path) == 1


@pytest.mark.parametrize(
    ("groups", "act", "reason"), [(2, nn.ReLU(), GROUPS), (1, nn.LeakyReLU(0.5), ZERO_POINT)]
)
def test_openvino_is_said_to_compute_others_in_float_and_their_share_is_not_counted(
    groups: int, act: nn.Module, reason: str, tmp_path: Path
) -> None:
    small = apply("quantize(8)", UpDown(groups, act=act).eval(), shown(1), shown())
    target, path = exported(small, "openvino", tmp_path)
    fused = target.fused(path)
    assert set(fused.rest) == {
        f"up/ConvTranspose/WithoutBiases ({reason})",
        f"last/ConvTranspose ({reason})",
    }
    share = share_in_integers(small, shown(1), fused, path)
    # the file for OpenVINO leaves out the rounding before a leaky ReLU
    assert gap(target, path, small, shown(4)) < 1e-2
    stem, head = 16 * 27 * 16, 2 * 8 * 256
    up, last = 16 * 8 * 9 * 16 // groups, 8 * 8 * 4 * 64 // groups
    assert share == round((stem + head) / (stem + head + up + last), 4)


@pytest.mark.parametrize("runtime", ["mnn", "ncnn", "executorch", "torch"])
def test_others_get_the_values_on_the_grid(runtime: str, tmp_path: Path) -> None:
    small = apply("quantize(8, 32)", UpDown(1).eval(), shown(1), shown())
    target, path = exported(small, runtime, tmp_path)
    assert gap(target, path, small, shown(4)) < 1e-3
