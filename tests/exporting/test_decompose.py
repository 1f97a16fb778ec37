"""Decomposing operators one by one gives the same file as PyTorch's exporter, even with in-place
writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

import lissom
from lissom.exporting import decompose
from lissom.exporting.decompose import NeedsFullDecomposition
from lissom.exporting.onnx.export import export_onnx
from lissom.running.plan import one_target

SHAPE = (4, 6)


class Program(nn.Module):
    """A layer, and then operators that make new tensors of those there, or write into them; returns
    all of them.
    """

    def __init__(self, steps: tuple[tuple[str, int, int], ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(4, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool1d(6)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made = [self.layer(x)]
        for name, a, b in self.steps:
            one, two = made[a % len(made)], made[b % len(made)]
            result = getattr(self, name)(one, two)
            if result is not None:
                made.append(result)
        return tuple(part + 0 for part in made)

    def relu_(self, one: Tensor, two: Tensor) -> None:
        nn.functional.relu_(one)

    def hardtanh_(self, one: Tensor, two: Tensor) -> None:
        nn.functional.hardtanh(one, -0.5, 0.5, inplace=True)

    def silu_(self, one: Tensor, two: Tensor) -> None:
        nn.functional.silu(one, inplace=True)

    def add_(self, one: Tensor, two: Tensor) -> None:
        one += two

    def part_zero(self, one: Tensor, two: Tensor) -> None:
        one[:, 1] = 0

    def half_doubled(self, one: Tensor, two: Tensor) -> None:
        one.chunk(2, 1)[1].mul_(2)

    def copied(self, one: Tensor, two: Tensor) -> None:
        one.copy_(two)

    def sum(self, one: Tensor, two: Tensor) -> Tensor:
        return one + two.double().float()

    def conv(self, one: Tensor, two: Tensor) -> Tensor:
        result: Tensor = self.layer(one)
        return result

    def pooled(self, one: Tensor, two: Tensor) -> Tensor:
        result: Tensor = self.pool(one)
        return result

    def dropout(self, one: Tensor, two: Tensor) -> Tensor:  # in inference it is its input
        return nn.functional.dropout(one, 0.5, training=False)

    def flat(self, one: Tensor, two: Tensor) -> Tensor:
        return one.flatten(1).reshape(one.shape[0], *SHAPE)

    def same(self, one: Tensor, two: Tensor) -> Tensor:
        return one.to(torch.float32)

    def turned(self, one: Tensor, two: Tensor) -> Tensor:
        return one.transpose(1, 2).contiguous().transpose(1, 2)

    def halves(self, one: Tensor, two: Tensor) -> Tensor:
        return torch.cat(one.chunk(2, 1)[::-1], 1)

    def normed(self, one: Tensor, two: Tensor) -> Tensor:
        return nn.functional.layer_norm(one, SHAPE[1:])


NAMES = [
    name
    for name, found in vars(Program).items()
    if callable(found) and name not in ("__init__", "forward")
]
steps = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decomposed") / "m.onnx"


@settings(max_examples=6, deadline=None, derandomize=True)
@given(steps=steps.map(tuple))
@example((("dropout", 0, 0), ("relu_", 1, 0)))
@example((("flat", 0, 0), ("relu_", 0, 0), ("sum", 0, 1)))
@example((("halves", 0, 0), ("half_doubled", 0, 0), ("same", 0, 0), ("hardtanh_", 2, 0)))
def test_a_file_answers_as_pytorch_does(
    path: Path, steps: tuple[tuple[str, int, int], ...]
) -> None:
    model = Program(steps).eval()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(x)
    export_onnx(model, path, SHAPE, {})
    name = onnx.load(path).graph.input[0].name
    answers = onnxruntime.InferenceSession(path).run(None, {name: x.numpy()})
    for number, (answer, value) in enumerate(zip(answers, wanted, strict=True)):
        assert np.allclose(answer, value.numpy(), atol=1e-5), f"tensor {number} of {steps}"


class Turned(nn.Module):
    """Reshape what was turned, by a size that is left open, and, where that is wanted, attend over
    five axes.
    """

    def __init__(self, attends: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attends = attends
        self.layer, self.shares = nn.Linear(4, 12), nn.Linear(12, 24)

    def forward(self, x: Tensor) -> Tensor:  # n 4 6
        y = self.layer(x.transpose(1, 2)).transpose(1, 2).reshape(-1, 3, 2, 12)
        if not self.attends:
            return y.flatten(1)
        q, k, v = (
            self.shares(y[:, None]).unflatten(-1, (3, 2, 4)).permute(4, 0, 1, 2, 5, 3, 6).unbind(0)
        )
        return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "executorch"])
def test_sizes_left_open_and_attention_over_five_axes(runtime: str, tmp_path: Path) -> None:
    images = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    target = one_target(runtime)
    model = Turned(attends=runtime != "executorch").eval()
    # which compares the answers
    lissom.export(model, runtime, tmp_path / f"m.{target.ending}", SHAPE, images)


def whole(monkeypatch: pytest.MonkeyPatch, model: nn.Module, path: Path) -> list[str]:
    """Export a network; return why its graph was traced again as a whole."""
    said = []
    original = decompose.decomposed

    def noted(program: ExportedProgram, table: Any) -> Any:
        try:
            return original(program, table)
        except NeedsFullDecomposition as error:
            said.append(str(error))
            raise

    monkeypatch.setattr(decompose, "decomposed", noted)
    export_onnx(model, path, SHAPE, {})
    return said


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (["relu_", "add_", "pooled", "dropout", "flat", "same", "halves", "normed"], None),
        (["part_zero"], "writes into what is read later"),
        (["half_doubled"], "writes into what is read later"),
    ],
)
def test_only_what_cannot_be_taken_apart_is_traced_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: list[str], why: str | None
) -> None:
    said = whole(monkeypatch, Program(tuple((name, 0, 0) for name in step)).eval(), path)
    assert said == [] if why is None else why in said[0], said
