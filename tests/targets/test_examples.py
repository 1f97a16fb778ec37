"""Files of networks with integer inputs, several inputs or outputs, or parts that cannot be
exported.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.running.plan import one_target


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.one, self.two = nn.Embedding(50, 16), nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, ids: Tensor, keep: Tensor) -> dict[str, Tensor]:
        found = torch.relu(self.one((self.emb(ids) * keep[..., None]).mean(1)))
        return {"logits": self.two(found), "pooled": found}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_integers_and_several_inputs_run_under_their_own_names(
    runtime: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, ids, keep = Text().eval(), torch.randint(0, 50, (4, 12)), torch.rand(4, 12) > 0.3
    small, _ = lissom.apply("quantize(8)", net, (ids, keep), (ids, keep), notes=True)
    path = lissom.export(small, runtime, tmp_path / "m.onnx", example={"ids": ids, "keep": keep})
    session = onnxruntime.InferenceSession(str(path))
    assert [part.name for part in session.get_inputs()] == ["ids", "keep"]
    assert [part.name for part in session.get_outputs()] == ["logits", "pooled"]
    logits, pooled = one_target(runtime).load(path, 1)([ids[:3].numpy(), keep[:3].numpy()])  # type: ignore[attr-defined]
    with torch.no_grad():
        wanted = small(ids[:3], keep[:3])
    assert np.abs(logits - wanted["logits"].numpy()).max() < 0.02 * wanted["logits"].abs().max()
    assert np.abs(pooled - wanted["pooled"].numpy()).max() < 0.02 * wanted["pooled"].abs().max()


def test_a_shape_does_where_the_network_takes_integers(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(48, 4)).eval()
    path, ids = (
        lissom.export(net, "onnxruntime", tmp_path / "m.onnx", (12,)),
        torch.randint(0, 50, (3, 12)),
    )
    with torch.no_grad():
        assert (
            np.abs(
                one_target("onnxruntime").load(path, 1)(ids.numpy())  # type: ignore[attr-defined]
                - net(ids).numpy()
            ).max()
            < 1e-5
        )


class Starred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, *images: Tensor) -> Tensor:
        out: Tensor = self.conv(images[0])
        return out


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_a_quantized_network_takes_float_samples_by_its_place(target: str, tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8)
    for number, net in enumerate(
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), Starred())
    ):
        small = lissom.apply("quantize(8)", net.eval(), x[:1], x)
        assert lissom.export(small, target, tmp_path / f"m{number}", (3, 8, 8), x).is_file()


@dataclass
class Answer:
    heat: Tensor
    boxes: list[Tensor]


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Answer:
        found = self.conv(x)
        return Answer(found.sigmoid(), [found.mean((2, 3)), found.amax((2, 3))])


def test_outputs_have_the_names_of_fields_and_half_precision_becomes_float32(
    tmp_path: Path,
) -> None:
    path = lissom.export(Many().half().eval(), "onnxruntime", tmp_path / "m.onnx", (3, 8, 8))
    outputs = onnxruntime.InferenceSession(str(path)).get_outputs()
    assert [part.name for part in outputs] == ["heat", "boxes_0", "boxes_1"]
    assert {part.type for part in outputs} == {"tensor(float)"}


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 0:
            return x + 1
        return x - 1


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_a_failed_export_tells_its_cause_and_the_line_in_one_line(
    target: str, tmp_path: Path
) -> None:
    with pytest.raises(
        LissomError,
        match=r"cannot convert this network: .*\(test_examples.py, "
        r"line \d+\)$",
    ) as caught:
        lissom.export(Branching(), target, tmp_path / "m.onnx", (3, 8, 8))
    said = str(caught.value)
    assert (
        "\x1b" not in said
        and "\n" not in said
        and "Failed to export" not in said
        and len(said) < 500
    )
    assert "data-dependent" in said or "guard" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "the shape of an input without the batch is missing"),
        ({"shape": (4, 8, 8)}, "does not run on zeros of shape.*; on integers: "),
        (
            {"example": torch.zeros(1, 4, 8, 8)},
            r"does not run on `example`, of shape \(1, 4, 8, 8\)",
        ),
    ],
)
def test_an_input_that_does_not_fit_is_said(
    more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(LissomError, match=said):
        lissom.export(Many(), "onnxruntime", tmp_path / "m.onnx", **more)


def test_targets_of_float_samples_refuse_others(tmp_path: Path) -> None:
    for target in ("mnn", "ncnn", "executorch"):
        with pytest.raises(LissomError, match="its files take one tensor of floats"):
            one_target(target).export(
                Many(), tmp_path / "m", (), {}, None, torch.zeros(1, 3, dtype=torch.long)
            )  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["mnn", "ncnn", "executorch", "onnxruntime", "torch"])
def test_any_dtype_and_an_example_instead_of_a_shape_are_exported(
    target: str, tmp_path: Path
) -> None:
    where: Any = one_target(target)
    if where.missing():
        pytest.skip(where.missing())
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = net(images).numpy()
    for number, dtype in enumerate((torch.float32, torch.float16, torch.float64)):
        path = tmp_path / f"{number}.{where.ending}"
        given = {"shape": (3, 8, 8)} if number == 2 else {"example": images.to(dtype)}
        lissom.export(copy.deepcopy(net).to(dtype), target, path, **given)  # type: ignore[arg-type]
        found = where.load(path, 1)(images.numpy())
        assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        out: Tensor = self.one(x) * rate
        return out


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "torch"])
def test_an_input_without_axes_is_exported(target: str, tmp_path: Path) -> None:
    where: Any = one_target(target)
    net, x, rate = Scaled().eval(), torch.randn(2, 4), torch.tensor(2.0)
    path = lissom.export(net, target, tmp_path / f"m.{where.ending}", example=(x, rate.numpy()))
    (found,) = where.load(path, 1)([x.numpy(), rate.numpy()])
    with torch.no_grad():
        assert np.abs(found - net(x, rate).numpy()).max() < 1e-5
