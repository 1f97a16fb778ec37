"""Which layers of a file run in integers, and their share of the multiply-adds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from ..exporting.onnx.names import layer_lookup
from ..exporting.onnx.operands import products_in
from ..language.target import Fused, Target
from ..surgery.count import layer_macs
from ..surgery.quantization.layers import QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..trees import Tree


def in_integers(
    model: QuantizedNetwork | None, target: Target, path: Path, example: Tree
) -> dict[str, Any]:
    """Return which layers of a file run in integers, which do not, and the share of multiply-adds
    in integers; None if nothing is quantized or the runtime does not say.
    """
    fused = None if model is None else target.fused(path)
    if model is None or fused is None:
        return {"fused": None, "macs_in_integers": None, "not_fused": []}
    return {
        "fused": str(fused),
        "macs_in_integers": share_in_integers(model, example, fused, path),
        "not_fused": list(fused.rest),
    }


def share_in_integers(model: nn.Module, example: Any, fused: Fused, path: Path) -> float:
    """Return the share of all multiply-adds that run in integers in a file. Products of two
    activations, as in attention, count as well.
    """
    named = layer_lookup(path)
    # without the reasons in parentheses; the last layer may appear under the name of the output
    rest = [name.partition(" (")[0] for name in fused.rest]
    floats = Counter(named(name, "") for name in rest)
    products = products_in(path)
    float_products = Counter(name.rpartition("/")[0] for name in rest if "MatMul" in name)
    counts = layer_macs(model, example)
    done = 0.0
    for path_of, layer in model.named_modules():
        name = "" if path_of == "network" else path_of.removeprefix("network.")
        if isinstance(layer, QuantizedLayer):
            if layer.rounding is not None and not floats[name]:
                done += counts.get(path_of, 0)
        elif read := products.get(name):
            products_only = counts.get(path_of, 0) - sum(
                counts.get(f"{path_of}.{child}".lstrip("."), 0)
                for child, _ in layer.named_children()
            )
            done += products_only * min(sum(read), len(read) - float_products[name]) / len(read)
    return round(done / max(counts[""], 1), 4)
