"""Layers left in float stay in float in the runtimes, between integer layers, and the count of
float layers gives the reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import Net, conv, images, seasoned
from torch import Tensor, nn

from lissom import apply
from lissom.exporting.float_reasons import why_float_in_onnxruntime
from lissom.exporting.onnx.graph import makers_and_users
from lissom.language.target import Fused
from lissom.running.integer_share import share_in_integers
from lissom.running.plan import one_target
from lissom.surgery.count import layer_macs


def residual() -> nn.Module:
    """Return a network in which `a` has a ReLU behind it, `c` has none, and `fc` lies between others."""

    def forward(net: Any, x: Tensor) -> Any:
        x = net.stem(x).relu()
        x = (net.b(net.a(x).relu()) + x).relu()
        return net.head(net.fc(net.c(x).mean((2, 3))).relu())

    torch.manual_seed(0)
    return Net(
        forward,
        stem=conv(3, 16),
        a=conv(16, 16),
        b=conv(16, 16),
        c=conv(16, 16),
        fc=nn.Linear(16, 16),
        head=nn.Linear(16, 4),
    )


def flat() -> nn.Module:
    """Return a network whose first linear layer reads what was rounded before a max-pooling and a reshape."""
    torch.manual_seed(0)
    return nn.Sequential(
        conv(3, 4),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def shared() -> nn.Module:
    """Return a network that calls one convolution twice, with a ReLU between."""
    torch.manual_seed(0)
    return Net(
        lambda net, x: net.head(
            net.twice(net.twice(net.stem(x).relu()).relu()).relu().mean((2, 3))
        ),
        stem=conv(3, 8),
        twice=conv(8, 8),
        head=nn.Linear(8, 4),
    )


def transposed() -> nn.Module:
    """Return a network with a transposed convolution and a plain one that read the same."""
    torch.manual_seed(0)
    return Net(
        lambda net, x: net.head(
            (net.up(y := net.stem(x).relu()).relu() + net.upper(net.side(y).relu()).relu()).mean(
                (2, 3)
            )
        ),
        stem=conv(3, 8),
        up=nn.ConvTranspose2d(8, 8, 2, 2),
        side=conv(8, 8),
        upper=nn.ConvTranspose2d(8, 8, 2, 2),
        head=nn.Linear(8, 4),
    )


LAYERS = {"stem", "a", "b", "c", "fc", "head"}
# the network, the recipe, and what ONNX Runtime has to leave in float
CASES: dict[str, tuple[Any, str, set[str]]] = {
    "a convolution and a ReLU": (residual, 'quantize(8, keep="a")', {"a"}),
    "all weights": (residual, "quantize(32, 8)", LAYERS),
    "all weights, in 16 bits": (residual, 'cast("fp16") | quantize(32, 8)', LAYERS),
    "the last linear layer": (seasoned, 'quantize(8, keep="head")', {"head"}),
    "behind a reshape": (flat, "quantize(32, 8)", {"0", "4", "6"}),
    "weights of two calls": (shared, "quantize(32, 8)", {"stem", "twice", "head"}),
    "a transposed convolution": (transposed, 'quantize(8, keep="up")', {"up", "upper"}),
}


def layers(names: tuple[str, ...]) -> set[str]:
    return {name.split("/")[0].removeprefix("fused ") for name in names}


def exported(made: Any, recipe: str, runtime: str, path: Path) -> tuple[Any, float]:
    """Return what a runtime counts in a network's file, and how far (rms) an image's answers are
    from the simulation.

    The image is the median of eight: a float layer that were rounded would change them all, while a
    sum that lies between two steps falls to the other side in one or two of them, whatever stays
    float.
    """
    target: Any = one_target(runtime)
    if target.missing():
        pytest.skip(target.missing())
    # some say what stays float
    small, _ = apply(recipe, made().eval(), images(1), images(), notes=True)
    target.export(small.eval(), path, (3, 16, 16), {})
    with torch.no_grad():
        wanted = small(images(8)).numpy()
    found = target.load(path, 1)(images(8).numpy())
    gaps = np.sqrt(np.square(found - wanted).mean(1) / np.square(wanted).mean(1))
    assert gaps.max() < 0.02, "some steps of one activation"
    return target.fused(path), float(np.median(gaps))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_was_left_float_is_float_in_the_runtime(
    case: str, runtime: str, tmp_path: Path
) -> None:
    made, recipe, wanted = CASES[case]
    fused, gap = exported(made, recipe, runtime, tmp_path / "m.onnx")
    print(f"left float, {case}, {runtime}: {fused} {fused.rest}, rms {gap:.1e}")
    assert gap < 1e-5
    if runtime == "onnxruntime":
        assert layers(fused.rest) == wanted
    assert not [name for name in fused.rest if "its output" in name]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_reason_follows_the_name(runtime: str, tmp_path: Path) -> None:
    fused, _ = exported(residual, 'quantize(8, keep="a")', runtime, tmp_path / "m.onnx")
    assert [re.sub(r".*\((.*)\)", r"\1", name) for name in fused.rest] == ["its weights are float"]
    fused, _ = exported(residual, 'quantize(8, keep="b")', runtime, tmp_path / "m.onnx")
    reasons = {name.split("/")[0]: name.partition(" (")[2] for name in fused.rest}
    assert reasons.pop("b") == "it reads floats)"
    assert reasons == ({"a": "its output is not rounded)"} if runtime == "onnxruntime" else {})


def test_only_layers_left_float_have_scales_of_their_own(tmp_path: Path) -> None:
    """A file in integers throughout is what it was."""
    counts = {}
    for recipe in ("quantize(8)", 'quantize(8, keep="a")'):
        exported(residual, recipe, "onnxruntime", tmp_path / "m.onnx")
        graph = onnx.load(tmp_path / "m.onnx").graph
        sizes, made = (
            {t.name: list(t.dims) for t in graph.initializer},
            {name for n in graph.node for name in n.output},
        )
        counts[recipe] = [
            n.name
            for n in graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in made and sizes[n.input[1]]
        ]
    assert counts == {"quantize(8)": [], 'quantize(8, keep="a")': ["a/dq"]}


def test_one_channel_has_no_scale_of_its_own(tmp_path: Path) -> None:
    """Scales along an axis of size 1 count as a scalar, so that they lie along the next."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        return Net(
            lambda net, x: net.head(net.b(net.a(net.stem(x).relu()).relu()).relu().mean((2, 3))),
            stem=conv(3, 1),
            a=conv(1, 8),
            b=conv(8, 8),
            head=nn.Linear(8, 4),
        )

    fused, gap = exported(made, "quantize(32, 8)", "onnxruntime", tmp_path / "m.onnx")
    assert layers(fused.rest) == {"stem", "a", "b", "head"} and gap < 1e-5


def test_openvino_says_how_many_layers_compute_in_single_bits(tmp_path: Path) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        parts = [
            nn.Sequential(nn.BatchNorm2d(16), conv(16, 16, groups=groups)) for groups in (1, 4, 1)
        ]
        net = nn.Sequential(
            conv(3, 16), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
        )
        net(images())
        return net

    fused, _ = exported(made, "quantize('binary', 'binary')", "openvino", tmp_path / "m.ir")
    assert fused.single == 2 and fused.rest == () and str(fused) == "5/5 (2 in single bits)", (
        "one has groups"
    )


def test_the_share_in_integers_leaves_out_a_last_layer_named_after_the_output(
    tmp_path: Path,
) -> None:
    model = apply("quantize(8)", residual().eval(), images(1), images())
    one_target("openvino").export(model, tmp_path / "m.onnx", (3, 16, 16), {})
    counts = layer_macs(model, images(1))
    whole = share_in_integers(model, images(1), Fused(6, 6, ()), tmp_path / "m.onnx")
    without = share_in_integers(
        model, images(1), Fused(5, 6, ("outputs (it reads floats)",)), tmp_path / "m.onnx"
    )
    assert whole - without == pytest.approx(counts["network.head"] / counts[""], abs=1e-4)


def test_a_bias_added_to_what_integers_gave_is_no_layer(tmp_path: Path) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, 4),
            nn.Flatten(2),
            nn.Linear(16, 16),
            nn.GELU(),
            nn.Linear(16, 8),
            nn.Flatten(),
            nn.Linear(64, 4),
        )

    fused, _ = exported(made, "quantize(8)", "onnxruntime", tmp_path / "m.onnx")
    assert fused.rest == () and fused.total == 4


@pytest.mark.parametrize(
    ("readers", "reason"),
    [
        (
            [("QuantizeLinear", "one"), ("QuantizeLinear", "two")],
            "its output is rounded to several grids",
        ),
        (
            [("QuantizeLinear", "one"), ("Softmax", "two")],
            "others read its output before it is rounded",
        ),
        ([("Relu", "one"), ("QuantizeLinear", "two")], None),
    ],
)
def test_who_reads_a_layer_is_told(readers: list[tuple[str, str]], reason: str | None) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes_w", "s", "z"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    chained = readers[0][0] == "Relu"
    nodes += [
        helper.make_node(kind, ["one" if chained and name == "two" else "y"], [name])
        for kind, name in readers
    ]
    made, users = makers_and_users(helper.make_graph(nodes, "g", [], []))
    assert why_float_in_onnxruntime(nodes[2], made, users, {"codes_w", "s", "z"}) == reason
