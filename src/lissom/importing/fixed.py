"""Replace inputs of an ONNX file by constants, such as the sample rate of a speech model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import LissomError, unknown
from .openings import dims_of


def with_fixed(proto: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a model whose inputs named in `values` are constants; itself without any.

    Raises LissomError if the model has no such input, a value does not fit it, or no input is left.
    """
    import onnx

    if not values:
        return proto
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    graph = fixed.graph
    inputs = {value.name: value for value in graph.input}
    for name, value in values.items():
        if name not in inputs:
            raise unknown("--model-args", "input of the file", name, inputs)
        constant = onnx.numpy_helper.from_array(array_for(inputs[name], value), name)
        graph.input.remove(inputs[name])
        for default in [tensor for tensor in graph.initializer if tensor.name == name]:
            graph.initializer.remove(default)
        graph.initializer.append(constant)
    if not graph.input:
        raise LissomError("--model-args: every input is fixed; leave one open for the samples")
    return fixed


def array_for(declared: Any, value: Any) -> np.ndarray:
    """Return a value as an array of an input's type. Raises LissomError if it does not fit."""
    import onnx

    kind = declared.type.tensor_type
    try:
        array = np.asarray(value).astype(
            onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), casting="same_kind"
        )
    except (TypeError, ValueError, KeyError) as error:
        raise LissomError(f"--model-args: {declared.name}={value!r:.60}: {error}") from None
    if not kind.HasField("shape"):
        return array
    sizes = [size if isinstance(size, int) else None for size in dims_of(declared)]
    fits = len(sizes) == array.ndim and all(
        size is None or size == own for size, own in zip(sizes, array.shape, strict=True)
    )
    if not fits:
        wanted = "a number" if not sizes else f"shape ({', '.join(str(s or 'n') for s in sizes)})"
        raise LissomError(
            f"--model-args: {declared.name}: expected {wanted}, got shape {array.shape}"
        )
    return array
