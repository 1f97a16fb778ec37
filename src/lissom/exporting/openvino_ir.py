"""OpenVINO's own format (IR) in one file, with weights of few bits packed.

Below 5 bits, OpenVINO gets such a file instead of an ONNX file: ONNX has no single bits that
OpenVINO can read, and 4-bit weights from ONNX stay float. Weights are packed in the file, and 4-bit
weights are widened to 8 bits when the file is read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from ..system.scratch import temporary
from .openvino_graph import BIASED

TRANSPOSED = {"ConvolutionBackpropData", "GroupConvolutionBackpropData"}


def convert_to_ir(source: Path, path: Path) -> None:
    """Convert an ONNX file to OpenVINO's xml and bin.

    They are one zip file at `path`, or two files side by side if `path` ends in .xml.

    Binary convolutions get one-bit weights. Other integer weights that fit in 4 bits are stored in
    4 bits. A model with one-bit weights has a fixed batch of 1, because OpenVINO refuses a dynamic
    batch there; `reshape` changes it.
    """
    import openvino as ov

    from .openvino_bits import use_binary_convolutions

    model, _, _ = use_binary_convolutions(ov.Core().read_model(str(source)))
    resize_as_pillow(model)
    if has_binary_convolutions(model):
        model.reshape([1, *list(model.input(0).get_partial_shape())[1:]])
    for node in constants(model, ov.Type.i8):
        narrow_weight(node)
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
    """Make the model resize images as Pillow does, in place.

    For ONNX's antialias option OpenVINO averages differently: at edges it differs from Pillow by 10
    of 255 and more. OpenVINO's Pillow modes are within 1 of 255.
    """
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes()["antialias"]:
            continue
        attributes = node.get_attributes()
        linear = attributes["mode"].startswith("linear")
        inputs = [source.get_source_output() for source in node.inputs()]
        resized = opset13.interpolate(
            inputs[0],
            inputs[1],
            mode="bilinear_pillow" if linear else "bicubic_pillow",
            shape_calculation_mode=attributes["shape_calculation_mode"],
            pads_begin=attributes["pads_begin"],
            pads_end=attributes["pads_end"],
            cube_coeff=attributes["cube_coeff"],
            axes=inputs[2] if len(inputs) > 2 else None,
        )
        node.output(0).replace(resized.output(0))


def extract_ir(source: Path, path: Path) -> None:
    """Extract the two files that `convert_to_ir` put into one.

    The .xml is written to `path`, the .bin beside it.
    """
    with zipfile.ZipFile(source) as archive:
        path.write_bytes(archive.read("model.xml"))
        path.with_suffix(".bin").write_bytes(archive.read("model.bin"))


def constants(model: Any, kind: Any) -> list[Any]:
    """Return the constants of a model whose element type is `kind`."""
    return [
        op
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and op.get_element_type() == kind
    ]


def narrow_weight(node: Any) -> None:
    """Replace an int8 constant by an int4 constant, two weights in a byte, if its values fit."""
    import numpy as np
    import openvino as ov

    values = node.data.reshape(-1)
    if not len(values) or values.min() < -8 or values.max() > 7:
        return
    low = np.append(values, np.zeros(len(values) % 2, np.int8)).astype(np.uint8) & 15
    pairs = low[::2] | low[1::2] << 4
    # with shared memory the constant would point into NumPy's memory
    narrow = ov.op.Constant(ov.Tensor(pairs, ov.Shape(node.shape), ov.Type.i4), shared_memory=False)
    narrow.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(narrow.output(0))


def widen_weight(node: Any) -> None:
    """Undo `narrow_weight`. OpenVINO 2026.4 computes convolutions with int4 weights in float, and with
    int8 weights in integers.
    """
    import numpy as np
    import openvino as ov

    pairs = node.data.view(np.uint8).reshape(-1)
    nibbles = (
        np.stack([pairs & 15, pairs >> 4], 1)
        .reshape(-1)[: int(np.prod(node.shape))]
        .astype(np.int8)
    )
    values = np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(list(node.shape))
    wide = ov.op.Constant(values, shared_memory=False)
    wide.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(wide.output(0))


def read_model(path: Path) -> Any:
    """Read a model, an ov.Model, from an ONNX file or from one that `convert_to_ir` wrote."""
    import openvino as ov

    core = ov.Core()
    if not zipfile.is_zipfile(path):
        model = core.read_model(str(path))
    else:
        with zipfile.ZipFile(path) as archive:
            model = core.read_model(archive.read("model.xml"), archive.read("model.bin"))
        for node in constants(model, ov.Type.i4):
            widen_weight(node)
    name_transposed(model)
    return model


def name_transposed(model: Any) -> None:
    """Name each transposed convolution with a bias after its layer, in place.

    OpenVINO does so for other convolutions. For transposed ones it names only the sum.
    """
    for node in model.get_ops():
        readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
        if (
            node.get_type_name() in TRANSPOSED
            and node.get_friendly_name().startswith(node.get_type_name())
            and [reader.get_type_name() for reader in readers] == ["Add"]
        ):
            node.set_friendly_name(f"{readers[0].get_friendly_name()}{BIASED}")


def has_binary_convolutions(model: Any) -> bool:
    """Return whether a model computes some convolutions in single bits."""
    return any(op.get_type_name() == "BinaryConvolution" for op in model.get_ops())
