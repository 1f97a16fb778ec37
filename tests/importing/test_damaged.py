"""Malicious and damaged files: hidden operators, paths outside the folder, huge sizes. Each is
read, or refused in one line.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lissom import LissomError, from_onnx

from .graphs import PICTURES, ROWS, floats, model_of, node

MUTANTS = 300


def several() -> Any:
    nodes = [
        node("NonZero", ["x"], ["a"], name="places"),
        node("Frobnicate", ["x"], ["b"], domain="my.own"),
        node("Relu", ["x"], ["y"]),
    ]
    return model_of(nodes, ROWS, ["y"])


def branching() -> Any:
    then = onnx.helper.make_graph(
        [node("Relu", ["x"], ["a"])], "t", [], [onnx.helper.make_empty_tensor_value_info("a")]
    )
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["c"], to=9),
        node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=then),
    ]
    return model_of(nodes, ROWS, ["y"])


def lying() -> Any:
    model = model_of([node("Conv", ["x", "w"], ["y"])], PICTURES, ["y"], w=floats(2, 4, 3, 3))
    model.graph.initializer[0].dims[0] = 2**40
    return model


def outside(location: str) -> Callable[[], Any]:
    def make() -> Any:
        model = model_of([node("Add", ["x", "w"], ["y"])], ROWS, ["y"], w=floats(8))
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return model

    return make


def giant(nodes: list[Any], **tensors: Any) -> Callable[[], Any]:
    return lambda: model_of(nodes, ROWS, ["y"], **tensors)


FAR = np.array([2**20, 2**20, 2**10])
REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "operators": (several, r"2 operators are not known: NonZero \(node 'places'\).*Frobnicate"),
    "a branch": (branching, r"If \(node 'choice'\): which branch it takes depends on the input"),
    "sizes that lie": (lying, r"'w' says \d+ bytes and holds 288"),
    "up": (outside("../w.bin"), r"expected a file in the folder"),
    "absolute": (outside("/etc/passwd"), r"expected a file in the folder"),
    "a link": (outside("link.bin"), r"expected a file in the folder"),
    "no weights": (outside("none.bin"), r"there is no such file beside it"),
    "short weights": (outside("short.bin"), r"lies behind the end"),
    "a giant constant": (
        giant([node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])], s=FAR),
        r"is larger than",
    ),
    "a giant repeat": (giant([node("Tile", ["x", "s"], ["y"])], s=FAR), r"is larger than"),
    "a giant range": (
        giant(
            [node("Range", ["a", "b", "c"], ["r"]), node("Add", ["x", "r"], ["y"])],
            a=np.float32(0),
            b=np.float32(1e12),
            c=np.float32(1),
        ),
        r"is larger than",
    ),
    "a giant one-hot row": (
        giant(
            [
                node("Cast", ["x"], ["i"], to=7),
                node("OneHot", ["i", "d", "v"], ["y"]),
            ],
            d=np.array(10**11),
            v=np.array([0, 1], np.float32),
        ),
        r"OneHot .*is larger than",
    ),
    "giant parts": (
        giant([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2**40)]),
        r"Split .*expected num_outputs=2, got 1099511627776",
    ),
    "a giant table of scales": (
        giant(
            [node("DequantizeLinear", ["q", "s"], ["w"], axis=1), node("Add", ["x", "w"], ["y"])],
            q=np.zeros((2**20, 1), np.int8),
            s=np.ones(2**20, np.float32),
        ),
        r"DequantizeLinear .*expected 1 numbers for axis 1, got 1048576",
    ),
    "giant places": (
        giant(
            [node("Expand", ["i", "n"], ["e"]), node("GatherND", ["x", "e"], ["y"])],
            i=np.array([[0]]),
            n=np.array([1, 2**26]),
        ),
        r"GatherND .*67108864 places for 3 axes",
    ),
    "giant places to write to": (
        giant(
            [node("Expand", ["i", "n"], ["e"]), node("ScatterND", ["x", "e", "i"], ["y"])],
            i=np.array([[0]]),
            n=np.array([1, 2**26]),
        ),
        r"ScatterND .*67108864 places for 3 axes",
    ),
    "an old opset": (
        lambda: model_of([node("Add", ["x", "x"], ["y"], broadcast=1)], ROWS, ["y"], opset=6),
        r"'broadcast' is not known; its opset is 6, older than 9: convert it",
    ),
    "a mask": (
        lambda: model_of([node("Dropout", ["x"], ["d", "y"])], ROWS, ["y"]),
        r"its output 'y' is read, which is not known",
    ),
    "an attribute": (
        giant([node("Relu", ["x"], ["y"], slope=2.0)]),
        r"its attribute 'slope' is not known",
    ),
    "a giant batch": (
        lambda: model_of(
            [node("Conv", ["x", "w"], ["y"])], {"x": (2**40, 4, 9, 7)}, ["y"], w=floats(2, 4, 3, 3)
        ),
        r"for the batch of 1099511627776 that it was made for, 'x' is larger than",
    ),
    "a batch of none": (
        lambda: model_of(
            [
                node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
                node("GRU", ["t", "w", "r"], ["o", "y"], hidden_size=3),
            ],
            {"x": (0, 5, 8)},
            ["y", "o"],
            w=floats(1, 9, 8),
            r=floats(1, 9, 3),
        ),
        r"input 'x' has sizes \[0, 5, 8\], none of them may be 0",  # ONNX Runtime's process ends
    ),
    "an input of nobody": (giant([node("Relu", ["z"], ["y"])]), r"it reads 'z', which nothing"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_taken_is_one_line(name: str, tmp_path: Path) -> None:
    make, said = REFUSALS[name]
    folder = tmp_path / "net"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(floats(8).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "short.bin").write_bytes(b"1234")
    (folder / "net.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(LissomError, match=said) as raised:
        from_onnx(folder / "net.onnx")
    assert "\n" not in str(raised.value) and "onnx:" in str(raised.value)


def test_many_constants_out_of_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.importing.build.MOST_FOLDED", 100)
    many = [node("ConstantOfShape", ["s"], [f"c{k}"]) for k in range(4)]
    outputs = ["c0", "c1", "c2", "c3", "y"]
    model = model_of([*many, node("Relu", ["x"], ["y"])], ROWS, outputs, s=np.array([40]))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(LissomError, match=r"'c2'.: what it computes of constants is more than 108"):
        from_onnx(tmp_path / "net.onnx")


def test_weights_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"12345678" + floats(8).tobytes())
    model = outside("w.bin")()
    model.graph.initializer[0].external_data.add(key="offset", value="8")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    from_onnx(tmp_path / "net.onnx")  # or its outputs are not ONNX Runtime's


def test_names_of_a_file_become_no_code(tmp_path: Path) -> None:
    name = 'a"]; import os; os.abort(); x["'
    nodes = [node("MatMul", [name, f"{name}.weight"], ["m"], name=name), node("Relu", ["m"], ["y"])]
    model = model_of(nodes, {name: ("batch", 8)}, ["y"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(floats(8, 3), f"{name}.weight"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    network = from_onnx(tmp_path / "net.onnx")
    assert network.input_names == (name,)


def small_files() -> list[bytes]:
    """Return files whose bytes are changed: a convolution, sizes, a recurrent layer."""
    convolution = [
        node("Conv", ["x", "conv.weight"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    weights = {
        "conv__weight": floats(5, 4, 3, 3),
        "fc__weight": floats(3, 5),
        "fc__bias": floats(3),
    }
    sizes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["c"], axis=0),
        node("Reshape", ["x", "c"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        node("Softmax", ["t"], ["y"], axis=-1),
    ]
    rest = {"zero": np.array([0]), "rest": np.array([2, -1])}
    return [
        model_of(convolution, PICTURES, ["y"], **weights).SerializeToString(),
        model_of(sizes, ROWS, ["y"], **rest).SerializeToString(),
    ]


def mutant(rng: random.Random, files: list[bytes]) -> bytes:
    """Return a file with bytes flipped, cut off, left out or taken from another place."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 8)]
        elif kind == 3:
            other = rng.choice(files)
            begin = rng.randrange(len(other))
            data[at : at + 8] = other[begin : begin + 8]
        elif rng.random() < 0.2:
            del data[at:]
        if not data:
            return b""
    return bytes(data)


def said_of(path: Path) -> str:
    """Return why a file is refused, "" where it is read."""
    try:
        from_onnx(path)
    except LissomError as error:
        return str(error)
    return ""


def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = random.Random(0)
    files = small_files()
    path = tmp_path / "net.onnx"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(MUTANTS):
        path.write_bytes(mutant(rng, files))
        said = said_of(path)
        refused += bool(said)
        assert "\n" not in said and len(said) <= 1000
    assert 0 < refused < MUTANTS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2 << 20  # KiB
