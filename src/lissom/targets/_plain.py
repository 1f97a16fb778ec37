"""One float ONNX file for the converters of other formats, which do not read Q/DQ nodes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def plain_onnx(model: nn.Module, path: Path, shape: tuple[int, ...]) -> Any:
    """Write `model`, which takes (n, *shape), as ONNX in float, and return what was written.

    Of a quantized network the weights keep the values of their grid; activations are not rounded.
    """
    import onnx

    from ..surgery.quantized import Quantized
    from ._onnx import export_onnx

    model = copy.deepcopy(model).cpu().eval()
    for layer in list(model.modules()):
        if isinstance(layer, Quantized):
            layer.freeze_weights()
    export_onnx(model, path, shape, {})
    proto = onnx.load(str(path))
    drop_rounding(proto.graph)
    onnx.save(proto, str(path))
    return proto


def drop_rounding(graph: Any) -> None:
    """Take every pair of Q and DQ nodes out of an ONNX graph, in place."""
    kept = {value.name for value in graph.output}
    rounded = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    instead = {n.output[0]: rounded[n.input[0]] for n in graph.node
               if n.op_type == "DequantizeLinear" and n.input[0] in rounded and n.output[0] not in kept}

    def source(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    nodes = [n for n in graph.node if not (n.op_type == "DequantizeLinear" and n.output[0] in instead)]
    for node in nodes:
        node.input[:] = [source(name) for name in node.input]
    read = {name for node in nodes for name in node.input} | kept
    nodes = [n for n in nodes if n.op_type != "QuantizeLinear" or n.output[0] in read]
    read = {name for node in nodes for name in node.input} | kept
    tensors = [t for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def pool_by_window(proto: Any) -> None:
    """Turn means over the whole image into average pooling, where the size is known, in place.

    MNN 3.6 needs it: its quantizer dies over a mean with the method kl, and its converter gets a GlobalAveragePool
    wrong in the layout that the quantizer wants.
    """
    from onnx import helper, numpy_helper, shape_inference

    inferred = shape_inference.infer_shapes(proto).graph
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.input)}
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        size = sizes.get(node.input[0], []) if node.input else []
        whole = node.op_type == "GlobalAveragePool" or (
            node.op_type == "ReduceMean" and len(node.input) > 1 and node.input[1] in constants
            and sorted(axis % 4 for axis in constants[node.input[1]].tolist()) == [2, 3])
        if not whole or len(size) != 4 or not all(size[2:]):
            nodes.append(node)
            continue
        flat = any(a.name == "keepdims" and a.i == 0 for a in node.attribute)
        pooled = node.output[0] + "_pooled" if flat else node.output[0]
        nodes.append(helper.make_node("AveragePool", [node.input[0]], [pooled], name=pooled, kernel_shape=size[2:],
                                      strides=size[2:], pads=[0, 0, 0, 0]))
        if flat:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], name=node.output[0], axis=1))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
