"""Sums of a binary convolution and another value, where the sum is binarised next.

OpenVINO's CPU plugin would fuse such a sum into the convolution and wrongly binarise the other
value too.
"""

from __future__ import annotations

from typing import Any

from .openvino_graph import PRODUCTS, constant


def separate_sums(model: Any) -> None:
    """Insert an operation that changes no number between such sums and their readers, in place."""
    import numpy as np
    from openvino import opset8 as op

    for node in model.get_ordered_ops():
        total = node.output(0)
        if (
            node.get_type_name() == "Add"
            and adds_binary_convolution(node)
            and is_binarised_next(total)
        ):
            readers = total.get_target_inputs()
            same = op.maximum(total, op.constant(np.float32(-np.inf)))
            for reader in readers:
                reader.replace_source_output(same.output(0))


def adds_binary_convolution(add: Any) -> bool:
    """Return whether a sum adds a scaled binary convolution and a value that is not constant."""
    for product, other in (add.input_values(), add.input_values()[::-1]):
        node = product.get_node()
        while (
            node.get_type_name() in ("Add", "Multiply")
            and constant(node.input_value(1)) is not None
        ):
            node = node.input_value(0).get_node()
        if node.get_type_name() == "BinaryConvolution" and constant(other) is None:
            return True
    return False


def is_binarised_next(value: Any) -> bool:
    """Return whether every reader of a value binarises it, directly or after operations that are
    not layers and read nothing else.

    Several readers count as one: the plugin merges equal ones.
    """
    readers = [reader.get_node() for reader in value.get_target_inputs()]
    return bool(readers) and all(
        int(node.get_attributes()["levels"]) == 2
        if node.get_type_name() == "FakeQuantize"
        else node.get_type_name() not in {*PRODUCTS, "BinaryConvolution"}
        and sum(constant(v) is None for v in node.input_values()) == 1
        and is_binarised_next(node.output(0))
        for node in readers
    )
