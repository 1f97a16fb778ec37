"""Convert the aten calls of an exported program to layers of torch.nn and functions of torch."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_T = torch.Tensor
# calls that check assumptions of the exporter and compute nothing
CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async")
# aten's name of a call -> function that builds its layer; some occur only in decomposed programs
LAYERS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), "convolution"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "convolution"),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), "batch_norm"),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), "layer_norm"),
    **dict.fromkeys(("linear", "addmm", "mm"), "linear"),
    **dict.fromkeys(("dropout", "dropout_"), "dropout"),
    "group_norm": "group_norm",
    "embedding": "embedding",
}
TURNS = ("t", "permute", "transpose")  # before the weight of a linear layer in decomposed programs
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(where, name)
    for where, names in {
        F: "avg_pool2d adaptive_avg_pool2d linear pad scaled_dot_product_attention",
        _T: "add_ mul_ view contiguous expand repeat",
        torch: """
            add sub mul div matmul addmm mm cat stack relu relu_ sigmoid tanh softmax prelu mean sum
            amax max_pool2d conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
            batch_norm pixel_shuffle pixel_unshuffle channel_shuffle flatten unflatten reshape
            permute transpose swapaxes movedim squeeze unsqueeze chunk split unbind narrow select
            index_select flip roll detach clone sqrt rsqrt reciprocal log log2 log10
            """,
    }.items()
    for name in names.split()
} | {"sym_size": _T.size, "split_with_sizes": torch.split, "lift_fresh_copy": torch.clone}
# functions with an argument `inplace`; aten has a second name that ends with _ instead
ACTIVATIONS = "silu hardswish hardsigmoid gelu leaky_relu elu mish hardtanh relu6".split()
RESIZES = {
    "upsample_nearest2d": "nearest",
    "upsample_bilinear2d": "bilinear",
    "upsample_bicubic2d": "bicubic",
}


class Call:
    """A call of a graph with its arguments by name."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        packet = getattr(node.target, "overloadpacket", None)
        self.name = str(packet.__name__) if packet else ""

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """All arguments of aten's schema by name, with defaults for those that are not given."""
        if not self.name:
            return {}
        schema = self.node.target._schema.arguments  # type: ignore[union-attr]
        names = [argument.name for argument in schema]
        given = dict(zip(names, self.node.args, strict=False))
        defaults = {argument.name: argument.default_value for argument in schema}
        return {**defaults, **given, **self.node.kwargs}

    def get(self, name: str) -> Any:
        """Return an argument, None if there is none."""
        return self.arguments.get(name)


@dataclass(frozen=True)
class Layer:
    """A layer with its name, its input node, and its tensors (name in the program -> field)."""

    name: str
    module: nn.Module
    reads: fx.Node
    holds: dict[str, str]

    def same(self, other: Layer) -> bool:
        """Return whether two calls are calls of the same layer."""
        return self.holds == other.holds and repr(self.module) == repr(other.module)


def layer_of(call: Call, tensors: Mapping[fx.Node, Tensor]) -> Layer | None:
    """Return the layer whose forward is this call, None if the call is not that of a layer."""
    kind = LAYERS.get(call.name)
    if kind is None:
        return None
    reads = next(iter(call.arguments.values()))
    nodes = {f: call.get(f) for f in ("weight", "bias", "running_mean", "running_var")}
    if kind == "embedding":
        reads = call.get("indices")
    if call.name in ("addmm", "mm"):
        reads, weight = (call.get(f) for f in ("mat1" if call.name == "addmm" else "self", "mat2"))
        turned = Call(weight).name in TURNS and weight.args[0] in tensors
        if not turned or call.get("beta") not in (None, 1) or call.get("alpha") not in (None, 1):
            return None
        bias = call.get("self") if call.name == "addmm" else None
        nodes = {"weight": weight.args[0], "bias": bias}
    held = {f: node for f, node in nodes.items() if node is not None}
    if any(node not in tensors for node in held.values()):
        return None  # the weights are computed, not stored
    weights = {f: tensors[node] for f, node in held.items()}
    with torch.device("meta"):
        module = MAKERS[kind](call, weights)
    if module is None:
        return None
    for f, tensor in weights.items():
        if f in module._buffers:
            module._buffers[f] = tensor
        elif isinstance(tensor, nn.Parameter):
            module.register_parameter(f, tensor)
        else:
            return None
    if "num_batches_tracked" in module._buffers:
        module._buffers["num_batches_tracked"] = torch.tensor(0)
    return Layer(name_of(call, held), module, reads, {n.target: f for f, n in held.items()})


def name_of(call: Call, held: Mapping[str, fx.Node]) -> str:
    """Return the name of a layer: that of its weight, or of the module that made the call."""
    for node in (held[f] for f in ("weight", "running_mean") if f in held):
        return re.sub(r"[._](weight|running_mean)$", "", str(node.target))
    makers = [("", ""), *call.node.meta.get("nn_module_stack", {}).values()]  # outermost first
    path, kind = makers[-1]
    own = path and str(kind).startswith("torch.nn.modules.")
    return re.sub(r"@\d+", "", path) if own else call.node.name


def convolution(call: Call, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """Build a convolution."""
    weight = weights["weight"]
    transposed = call.get("transposed") or "transpose" in call.name
    groups = call.get("groups")
    settings = {name: call.get(name) for name in ("stride", "padding", "dilation")}
    if transposed:
        settings["output_padding"] = call.get("output_padding")
    shape = (weight.shape[0], weight.shape[1] * groups)
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{weight.ndim - 2}d")
    return kind(
        *(shape if transposed else shape[::-1]),
        tuple(weight.shape[2:]),
        groups=groups,
        bias="bias" in weights,
        **{n: v if isinstance(v, str) else tuple(v) for n, v in settings.items()},
    )


def linear(_: Call, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """Build a linear layer."""
    outputs, inputs = weights["weight"].shape
    return nn.Linear(inputs, outputs, bias="bias" in weights)


def batch_norm(call: Call, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """Build a batch-norm for the exported number of axes; None without running statistics."""
    if "running_mean" not in weights or ("weight" in weights) != ("bias" in weights):
        return None
    axes = max(1, call.get("input").meta["val"].ndim - 2)
    return getattr(nn, f"BatchNorm{axes}d")(
        len(weights["running_mean"]),
        call.get("eps"),
        # None (a mean over all batches) is exported as 0 in eval mode
        call.get("momentum") or None,
        affine="weight" in weights,
    )


def layer_norm(call: Call, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """Build a layer normalisation."""
    shape = call.get("normalized_shape")
    given = {"elementwise_affine": "weight" in weights, "bias": "bias" in weights}
    return nn.LayerNorm(shape, call.get("eps"), **given)


def group_norm(call: Call, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """Build a group normalisation, or None if it has no scale or no bias."""
    if len(weights) < 2:
        return None
    return nn.GroupNorm(call.get("num_groups"), len(weights["weight"]), call.get("eps"))


def embedding(call: Call, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """Build an embedding."""
    padding = call.get("padding_idx")
    rows, width = weights["weight"].shape
    return nn.Embedding(
        rows,
        width,
        padding_idx=None if padding < 0 else padding,
        scale_grad_by_freq=call.get("scale_grad_by_freq"),
        sparse=call.get("sparse"),
    )


def dropout(call: Call, _: Mapping[str, Tensor]) -> nn.Module | None:
    """Build dropout, so that it can be switched on and off again."""
    return nn.Dropout(call.get("p"), inplace=call.name.endswith("_"))


MAKERS: dict[str, Callable[[Call, Mapping[str, Tensor]], nn.Module | None]] = {
    made.__name__: made
    for made in (convolution, linear, batch_norm, layer_norm, group_norm, embedding, dropout)
}


def use_function(call: Call) -> None:
    """Replace an aten call by the public function that it stands for, if there is one."""
    node = call.node
    name = call.name.removesuffix("_")
    if name in ACTIVATIONS and not (name == "elu" and len(node.args) > 2):
        node.target = getattr(F, name)
        if name != call.name:
            node.kwargs = {**node.kwargs, "inplace": True}
    elif call.name in RESIZES and call.get("input") is not None:
        sizes = {"size": call.get("output_size"), "scale_factor": call.get("scale_factors")}
        corners = (
            {} if name == "upsample_nearest2d" else {"align_corners": call.get("align_corners")}
        )
        node.target = F.interpolate
        node.args = (call.get("input"),)
        node.kwargs = {**sizes, "mode": RESIZES[call.name], **corners}
    elif call.name == "slice":
        at = call.get("dim")
        part = slice(*(call.get(bound) for bound in ("start", "end", "step")))
        if at >= 0:
            node.target = operator.getitem
            node.args = (call.get("self"), (*[slice(None)] * at, part))
            node.kwargs = {}
    elif call.name in FUNCTIONS:
        node.target = FUNCTIONS[call.name]
