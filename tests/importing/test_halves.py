"""Files of 16-bit floats are read in float32, and equal the file up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from onnxruntime.transformers import float16
from torch import nn

import lissom
from lissom import LissomError, from_onnx
from lissom.importing import halves, onnx_network

from .graphs import PICTURES, ROWS, floats, model_of, node
from .test_networks import resnet18
from .test_networks import written as exported


@pytest.mark.parametrize("keep_io_types", [True, False])
@pytest.mark.parametrize("kept", [[], ["Conv"]])
def test_a_file_made_float16_becomes_its_float_network(
    keep_io_types: bool, kept: list[str], tmp_path: Path
) -> None:
    images = torch.randn(3, 3, 64, 64)
    path = exported(resnet18(), images[:2], tmp_path / "net.onnx")
    half = float16.convert_float_to_float16(
        onnx.load(str(path)), keep_io_types=keep_io_types, op_block_list=kept
    )
    out = tmp_path / "half.onnx"
    onnx.save(half, str(out))
    network = from_onnx(out)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    names = {name for name, _ in resnet18().named_parameters()}
    assert {name for name, p in network.named_parameters() if p.ndim > 1} <= names
    kind = np.float32 if keep_io_types else np.float16
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"input": images.numpy().astype(kind)})
    with torch.no_grad():
        given = network(images)
    assert (given - torch.from_numpy(wanted).float()).abs().max() < 0.02 * given.abs().max()
    (note,) = network.notes
    assert "the file has 16-bit floats, and the network computes in float32" in note
    assert ("input 'input' is float16 in the file" in note) is not keep_io_types
    assert ("output 'scores' is float16 in the file" in note) is not keep_io_types
    if not keep_io_types and not kept:
        lissom.apply("quantize(8)", network, images[:1], images, notes=True)


def test_weights_beside_a_file_may_be_float16(tmp_path: Path) -> None:
    model = model_of([node("Conv", ["x", "conv.weight"], ["y"])], PICTURES, ["y"], opset=17)
    weight = floats(300, 4, 3, 3).astype(np.float16)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "conv.weight"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin")
    assert (tmp_path / "w.bin").is_file()
    network = from_onnx(path)
    held = network.get_parameter("conv.weight").detach().numpy()
    assert np.array_equal(held, weight.astype(np.float32))


def bfloat(tensor: str, array: np.ndarray[Any, Any]) -> Any:
    """Return a tensor of a file in bfloat16."""
    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    return onnx.helper.make_tensor(
        tensor, TensorProto.BFLOAT16, array.shape, bits.tobytes(), raw=True
    )


def test_weights_of_bfloat16_are_read(tmp_path: Path) -> None:
    nodes = [
        node(
            "Cast",
            [
                "w",
            ],
            ["f"],
            to=1,
        ),
        node("MatMul", ["x", "f"], ["y"]),
    ]
    model = model_of(nodes, ROWS, ["y"])
    model.graph.initializer.append(bfloat("w", floats(8, 3)))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    (note,) = from_onnx(path).notes
    assert "16-bit floats" in note


def test_a_network_of_bfloat16_is_compared_in_32_bits(tmp_path: Path) -> None:
    model = model_of(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])], PICTURES, ["y"], opset=22
    )
    model.graph.initializer.append(bfloat("w", floats(2, 4, 3, 3)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    notes = from_onnx(path).notes
    assert "input 'x' is bfloat16 in the file" in notes[0]
    assert "compared with the file in 32 bits only" in notes[1]


def test_a_file_that_is_widened_wrongly_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(tensor: Any) -> None:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([3]), tensor.name))

    monkeypatch.setattr(onnx_network, "CHECKED", {})
    monkeypatch.setattr(halves, "widen_number", wrong)
    value = onnx.numpy_helper.from_array(np.float16([2]))
    nodes = [
        node("ConstantOfShape", ["s"], ["c"], value=value),
        node("Mul", ["x", "c"], ["y"]),
    ]
    model = model_of(nodes, ROWS, ["y"], s=np.array([8]))
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        LissomError, match=r"converted to 32 bits.*, more than rounding to 16 bits explains"
    ):
        from_onnx(path)


def test_weights_that_are_inputs_and_graphs_in_nodes_are_widened(tmp_path: Path) -> None:
    branch = onnx.helper.make_graph(
        [node("Mul", ["x", "w"], ["inner"])],
        "branch",
        [],
        [onnx.helper.make_empty_tensor_value_info("inner")],
    )
    nodes = [node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    model = model_of(nodes, ROWS, ["y"], yes=np.array(True), w=floats(8).astype(np.float16))
    listed = onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT16, [8])
    model.graph.input.append(listed)
    for each in (model.graph.input[0], *model.graph.output):
        each.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    network = from_onnx(path)
    assert network.input_names == ("x",)
    assert isinstance(network, nn.Module)
