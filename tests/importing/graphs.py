"""ONNX graphs written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

node = onnx.helper.make_node
PICTURES = {"x": ("batch", 4, 9, 7)}
ROWS = {"x": ("batch", 5, 8)}


def model_of(
    nodes: list[Any], inputs: Any, outputs: list[str], opset: int = 17, **tensors: Any
) -> Any:
    """Return a graph as a model; `tensors` are its constants by name, with __ for a dot."""
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [
            numpy_helper.from_array(np.asarray(array), name.replace("__", "."))
            for name, array in tensors.items()
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def written(path: Path, *graph: Any, **tensors: Any) -> Path:
    """Write a graph."""
    onnx.save(model_of(*graph, **tensors), str(path))
    return path


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return noise, the same at every call."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
