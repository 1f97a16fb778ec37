"""OpenVINO's own format with weights of few bits packed, in one file.

Below 5 bits OpenVINO gets such a file in place of an ONNX one: ONNX has no single bits that
OpenVINO reads, and weights of 4 bits stay float in it. They are packed in the file and widened to 8
bits when it is read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from ..system.scratch import temporary
from .openvino_graph import BIASED

TRANSPOSED = {"ConvolutionBackpropData", "GroupConvolutionBackpropData"}


def packed(source: Path, path: Path) -> None:
    """Write an ONNX file as OpenVINO's xml and bin: in one zip file at `path`, or side by side
    where that ends in .xml.

    Binary convolutions get weights of single bits, other integer weights that fit in 4 bits get
    these. With single bits the file says batches of 1, since OpenVINO refuses them for any batch;
    `reshape` makes it another.
    """
    import openvino as ov

    from .openvino_bits import binarised

    model, _, _ = binarised(ov.Core().read_model(str(source)))
    resize_as_pillow(model)
    if one_bit(model):
        model.reshape([1, *list(model.input(0).get_partial_shape())[1:]])
    for node in constants(model, ov.Type.i8):
        halved(node)
    with temporary() as folder:
        xml = path if path.suffix == ".xml" else Path(folder, "model.xml")
        ov.save_model(model, xml, compress_to_fp16=False)  # a threshold must not be rounded
        if xml == path:
            return
        with zipfile.ZipFile(path, "w") as archive:
            for part in (xml, xml.with_suffix(".bin")):
                archive.writestr(
                    zipfile.ZipInfo(part.name), part.read_bytes(), zipfile.ZIP_DEFLATED
                )


def resize_as_pillow(model: Any) -> None:
    """Let pictures be resized as Pillow does it, in place.

    OpenVINO averages otherwise where ONNX asks for antialias: 10 of 255 and more from Pillow at
    edges. It has Pillow's own ways as well, within 1 of 255.
    """
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes()["antialias"]:
            continue
        how = node.get_attributes()
        linear = how["mode"].startswith("linear")
        inputs = [source.get_source_output() for source in node.inputs()]
        resized = opset13.interpolate(
            inputs[0],
            inputs[1],
            mode="bilinear_pillow" if linear else "bicubic_pillow",
            shape_calculation_mode=how["shape_calculation_mode"],
            pads_begin=how["pads_begin"],
            pads_end=how["pads_end"],
            cube_coeff=how["cube_coeff"],
            axes=inputs[2] if len(inputs) > 2 else None,
        )
        node.output(0).replace(resized.output(0))


def unpacked(source: Path, path: Path) -> None:
    """Write what `packed` has put into one file as OpenVINO's own two: an .xml at `path` and a .bin
    beside it.
    """
    with zipfile.ZipFile(source) as archive:
        path.write_bytes(archive.read("model.xml"))
        path.with_suffix(".bin").write_bytes(archive.read("model.bin"))


def constants(model: Any, kind: Any) -> list[Any]:
    """Return the constants of a model that are of one type."""
    return [
        op
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and op.get_element_type() == kind
    ]


def halved(node: Any) -> None:
    """Put a constant of 4 bits in the place of one of 8 bits, two weights in a byte, where its values fit."""
    import numpy as np
    import openvino as ov

    values = node.data.reshape(-1)
    if not len(values) or values.min() < -8 or values.max() > 7:
        return
    low = np.append(values, np.zeros(len(values) % 2, np.int8)).astype(np.uint8) & 15
    pairs = low[::2] | low[1::2] << 4
    # else NumPy's memory
    fewer = ov.op.Constant(ov.Tensor(pairs, ov.Shape(node.shape), ov.Type.i4), shared_memory=False)
    fewer.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(fewer.output(0))


def widened(node: Any) -> None:
    """Undo `halved`: of weights of 4 bits OpenVINO 2026.4 makes float convolutions, of those of 8
    bits integer ones.
    """
    import numpy as np
    import openvino as ov

    pairs = node.data.view(np.uint8).reshape(-1)
    halves = (
        np.stack([pairs & 15, pairs >> 4], 1)
        .reshape(-1)[: int(np.prod(node.shape))]
        .astype(np.int8)
    )
    values = np.where(halves > 7, halves - 16, halves).astype(np.int8).reshape(list(node.shape))
    whole = ov.op.Constant(values, shared_memory=False)
    whole.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(whole.output(0))


def read(path: Path) -> Any:
    """Read a model, an ov.Model, from an ONNX file or from one that `packed` wrote."""
    import openvino as ov

    core = ov.Core()
    if not zipfile.is_zipfile(path):
        model = core.read_model(str(path))
    else:
        with zipfile.ZipFile(path) as archive:
            model = core.read_model(archive.read("model.xml"), archive.read("model.bin"))
        for node in constants(model, ov.Type.i4):
            widened(node)
    name_transposed(model)
    return model


def name_transposed(model: Any) -> None:
    """Name each transposed convolution after its layer, in place, as OpenVINO names a convolution
    with a bias; of a transposed one it gives that name to the sum only.
    """
    for node in model.get_ops():
        readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
        if (
            node.get_type_name() in TRANSPOSED
            and node.get_friendly_name().startswith(node.get_type_name())
            and [reader.get_type_name() for reader in readers] == ["Add"]
        ):
            node.set_friendly_name(f"{readers[0].get_friendly_name()}{BIASED}")


def one_bit(model: Any) -> bool:
    """Return whether a model computes some convolutions in single bits."""
    return any(op.get_type_name() == "BinaryConvolution" for op in model.get_ops())
