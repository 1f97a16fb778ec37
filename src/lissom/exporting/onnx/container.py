"""Write packed ONNX files, which `importing/packed.py` reads.

The file is cut as bytes, not as a graph, so loading restores the original file bit by bit.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from ...errors import LissomError
from ...importing.packed import FORMAT, TYPES, WHOLE, most

MIN_BYTES_SAVED = (
    16  # bytes that packing a tensor must save, since its line in the index takes some
)


def write(source: Path, path: Path) -> None:
    """Pack the ONNX file `source` into `path`. Equal files give equal bytes.

    Raises LissomError if it packs so well that reading it would be refused.
    """
    import onnx
    from numpy import frombuffer

    from ...surgery.packing import pack

    data = source.read_bytes()
    types = {
        onnx.TensorProto.INT8: "int8",
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.FLOAT16: "uint16",
        onnx.TensorProto.BFLOAT16: "uint16",
    }
    graph = list[bytes]()
    weights = list[bytes]()
    rows = list[list[Any]]()
    end = 0
    for tensor in onnx.load_model_from_string(data).graph.initializer:
        raw = tensor.raw_data
        type_name = types.get(tensor.data_type)
        if type_name is None or len(raw) <= MIN_BYTES_SAVED:
            continue
        values = frombuffer(raw, TYPES[type_name][0])
        method, packed = pack(values, tensor.dims[0] if tensor.dims else 1)
        if len(packed) + MIN_BYTES_SAVED < len(raw):
            begin = data.index(raw, end)  # any equal bytes will do
            graph.append(data[end:begin])
            weights.append(packed)
            rows.append([type_name, len(values), method, len(packed), begin])
            end = begin + len(raw)
    index = json.dumps({"format": FORMAT, "tensors": rows}, separators=(",", ":")).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in (
            ("index.json", index),
            ("graph", b"".join([*graph, data[end:]])),
            ("weights", b"".join(weights)),
        ):
            info = zipfile.ZipInfo(name)  # its date is always 1980, so the file holds no time
            info.create_system = 3
            archive.writestr(info, part, zipfile.ZIP_DEFLATED, 9)
    if len(data) > most(path.stat().st_size, WHOLE):
        raise LissomError(
            f"onnxruntime: {len(data)} bytes of nearly nothing but zeros became "
            f"{path.stat().st_size}; such a "
            "file would be refused when it is read"
        )
