"""Helpers to read the graph of an OpenVINO model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

NUMPY_TYPES = {"f32", "f64", "i8", "u8", "i32", "i64", "boolean"}  # types that NumPy has too
PRODUCTS = {
    "Convolution",
    "ConvolutionBackpropData",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
    "MatMul",
}
BIASED = "/WithoutBiases"  # the front end appends this to the name of a convolution with bias


def constant(value: Any) -> np.ndarray | None:
    """Return the value of an output that depends only on constants, None for other outputs."""
    import numpy as np
    import openvino as ov

    node = value.get_node()
    if node.get_type_name() == "Constant":
        return (
            np.array(node.data) if node.get_element_type().get_type_name() in NUMPY_TYPES else None
        )
    inputs = [constant(v) for v in node.input_values()]
    if not inputs or any(i is None for i in inputs):
        return None
    results = [ov.Tensor(o.get_element_type(), ov.Shape()) for o in node.outputs()]
    done = node.evaluate(results, [ov.Tensor(np.ascontiguousarray(i)) for i in inputs])
    return np.array(results[value.get_index()].data) if done else None
