"""Weights are rounded as they are in the file: multiplied by the sign of batch-norm's scale, or by
the whole scale.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from networks import images
from torch import Tensor, nn

import lissom
from lissom import apply
from lissom.running.plan import one_target
from lissom.surgery.fold import fold_batchnorms


def normed() -> nn.Sequential:
    """Return three convolutions with batch-norm, whose factors are of either sign and of many
    sizes, and a linear layer.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (3, 8, 8):
        layers += [nn.Conv2d(inputs, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.2, 3)
            nn.init.normal_(layer.bias)
    for _ in range(30):
        net(images())
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight[::3] *= -1
    return net.eval()


def outputs(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(images())


def turned_over(net: Any) -> Any:
    """Change the sign of half of batch-norm's factors, as learning may."""
    for layer in net.layers():
        if layer.norm is not None:
            layer.norm.weight.data[::2] *= -1
    return net


@pytest.mark.parametrize("recipe", ["quantize(4)", "quantize(2)", "quantize(4, 4)"])
def test_integers_keep_their_bits_when_a_factor_changes_its_sign(
    recipe: str, tmp_path: Path
) -> None:
    small: Any = apply(recipe, normed(), images(1), images())
    for net in (small, turned_over(copy.deepcopy(small))):
        for layer in net.layers():
            low, high = layer.rounding.grid.ends(layer.rounding.bits)
            codes = layer.integers()[0]
            assert float(codes.min()) >= low and float(codes.max()) <= high
        one_target("openvino").export(net, tmp_path / "m.xml", (3, 16, 16), {})
        few = [
            op
            for op in ov.Core().read_model(tmp_path / "m.xml").get_ops()
            if op.get_type_name() == "Constant"
            and op.get_element_type() == ov.Type.i4
            and len(op.get_output_shape(0)) == 4
        ]
        assert len(few) == 2, "between the first layer and the last"
        found = one_target("openvino").load(tmp_path / "m.xml", 1)(images().numpy())
        wanted = outputs(net).numpy()
        assert np.square(found - wanted).mean() < 1e-3 * np.square(wanted).mean()


@pytest.mark.parametrize(
    "recipe",
    [
        "quantize(4)",
        "quantize(2)",
        "quantize('ternary')",
        "quantize('binary')",
        "quantize(4, grid='uniform(\"tensor\")')",
    ],
)
def test_training_computes_with_the_weights_of_inference(recipe: str) -> None:
    net: Any = turned_over(apply(recipe, normed(), images(1), images()))
    for layer in net.layers():
        if layer.norm is None:
            continue
        factor = layer.normed()[0]
        with torch.no_grad():
            learned = layer.from_grid_form(layer.rounding(layer.to_grid_form(layer.weight)))
            wanted, _ = layer.in_inference()
        torch.testing.assert_close(
            learned.double() * factor.view(-1, 1, 1, 1), wanted.double(), rtol=1e-4, atol=1e-6
        )


def test_one_scale_for_a_layer_is_that_of_its_folded_weights() -> None:
    plain = normed()
    small: Any = apply("quantize(6, grid='uniform(\"tensor\")')", plain, images(1), images())
    merged = copy.deepcopy(plain)
    fold_batchnorms(merged, images(1))
    for layer, source in zip(
        small.layers(), [m for m in merged if isinstance(m, (nn.Conv2d, nn.Linear))], strict=True
    ):
        codes, scale, _ = layer.integers()
        top = 2 ** (layer.rounding.bits - 1) - 1
        step = float(source.weight.detach().abs().max()) / top
        np.testing.assert_allclose(scale.numpy(), step, rtol=1e-5)
        wanted = (source.weight.detach() / step).round()
        assert (
            float((codes != wanted).double().mean()) < 0.01
            and float((codes - wanted).abs().max()) <= 1
        )


def test_one_scale_for_a_layer_stays_one_through_learning_saving_and_export(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    small: Any = apply(
        "quantize(8, grid='uniform(\"tensor\")')", normed(), images(1), images()
    ).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        small(images()).square().mean().backward()
        optimizer.step()
    lissom.save(small.eval(), tmp_path)
    again: Any = lissom.load(tmp_path, normed())
    assert torch.equal(outputs(again), outputs(small))
    for layer in again.layers():
        scale = layer.integers()[1]
        assert float(scale.max() - scale.min()) <= 1e-6 * float(scale.max())
    lissom.export(again, "onnxruntime", tmp_path / "m.onnx", (3, 16, 16))
    scales = [
        numpy_helper.to_array(t)
        for t in onnx.load(str(tmp_path / "m.onnx")).graph.initializer
        if t.name.endswith("weight_scale")
    ]
    assert len(scales) == 4 and all(np.ptp(scale) <= 1e-6 * scale.max() for scale in scales)
    found = one_target("onnxruntime").load(tmp_path / "m.onnx", 1)(images().numpy())
    wanted = outputs(small).numpy()
    assert np.square(found - wanted).mean() < 1e-3 * np.square(wanted).mean()


def test_learned_rounding_beats_the_nearest_whatever_the_sign_of_factors() -> None:
    plain, gaps = normed(), []
    for more in ("", ", rounding='learned', steps=200"):
        small = apply(f"quantize(3, grid='uniform'{more})", plain, images(1), images(64))
        gaps.append(float((outputs(small) - outputs(plain)).square().mean()))
    assert gaps[1] < 0.7 * gaps[0]


def test_with_one_scale_it_is_the_same_to_fold_before() -> None:
    recipe = "quantize(3, grid='uniform(\"tensor\")', rounding='learned', steps=30)"
    one, two = (
        apply(f"{before}{recipe}", normed(), images(1), images(64)) for before in ("", "fold | ")
    )
    torch.testing.assert_close(outputs(one), outputs(two), rtol=1e-4, atol=1e-4)
