"""Global average pooling in the form that each runtime computes correctly."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .graph import shapes_in


class GlobalPoolingAsMean(TorchFunctionMode):
    """While active, compute adaptive average pooling to size 1 as a mean.

    With channels last in memory PyTorch keeps that layout in the result, and its exporter writes it
    as a Gather of single values by indices that depend on the batch. OpenVINO 2026.4 then mixes up
    the samples of a batch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is F.adaptive_avg_pool2d:
            named.update(zip(("input", "output_size"), args, strict=False))
            if named["output_size"] in (1, (1, 1), [1, 1]):
                return torch.mean(named["input"], (-2, -1), keepdim=True)
            args = ()
        return func(*args, **named)


def pool_by_window(proto: Any) -> None:
    """Replace means over the whole image by average pooling if the size is known, in place.

    MNN 3.6 needs it: its quantizer crashes on a mean with the method kl, and its converter gets
    GlobalAveragePool wrong in the layout that the quantizer requires.
    """
    from onnx import helper, numpy_helper

    shapes = shapes_in(proto)
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        shape = shapes.get(node.input[0], []) if node.input else []
        is_global = node.op_type == "GlobalAveragePool" or (
            node.op_type == "ReduceMean"
            and len(node.input) > 1
            and node.input[1] in constants
            and sorted(axis % 4 for axis in constants[node.input[1]].tolist()) == [2, 3]
        )
        if not is_global or len(shape) != 4 or not all(shape[2:]):
            nodes.append(node)
            continue
        drops_axes = any(a.name == "keepdims" and a.i == 0 for a in node.attribute)
        pooled = node.output[0] + "_pooled" if drops_axes else node.output[0]
        nodes.append(
            helper.make_node(
                "AveragePool",
                [node.input[0]],
                [pooled],
                name=pooled,
                kernel_shape=shape[2:],
                strides=shape[2:],
                pads=[0, 0, 0, 0],
            )
        )
        if drops_axes:
            nodes.append(
                helper.make_node("Flatten", [pooled], [node.output[0]], name=node.output[0], axis=1)
            )
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
