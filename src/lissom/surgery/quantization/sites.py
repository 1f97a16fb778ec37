"""Sites: places in a forward pass where values are made, found by kind and order as it runs.

A layer is one call, with its own batch-norm and the rounding of its input inside (`convolved`,
`projected`); these make no sites. So sites have the same names as in the user's forward, in
training and in inference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, wrap_torch_function


@wrap_torch_function(lambda x, weight, *_, **__: (x, weight))
def convolved(x: Tensor, weight: Tensor, layer: Any, *more: Any, **named: Any) -> Tensor:  # noqa: ARG001
    """Run a convolution, with its own batch-norm and input rounding, as one call."""
    found: Tensor = layer.forward_quantized(x, *more, **named)
    return found


@wrap_torch_function(lambda x, weight, *_: (x, weight))
def projected(x: Tensor, weight: Tensor, layer: Any, more: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """Run a linear layer, with its own batch-norm and input rounding, as one call.

    `more` is added to its bias.
    """
    found: Tensor = layer.forward_quantized(x)
    return found if more is None else found + more


@wrap_torch_function(lambda x, weight, layer: (x, weight))  # noqa: ARG005
def looked_up(x: Tensor, weight: Tensor, layer: Any) -> Tensor:  # noqa: ARG001
    """Look up rows in an embedding, with its own rounding, as one call."""
    found: Tensor = layer.forward_quantized(x)
    return found


@wrap_torch_function(lambda x, run: (x,))  # noqa: ARG005
def run_without_sites(x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a function whose calls make no sites."""
    return run(x)


_T = torch.Tensor
SITES: dict[Any, str] = {
    kind: word
    for word, kinds in {
        "conv": (
            torch.conv1d,
            torch.conv2d,
            torch.conv3d,
            torch.conv_transpose1d,
            torch.conv_transpose2d,
            torch.conv_transpose3d,
            convolved,
        ),
        "linear": (F.linear, torch.addmm, torch.matmul, _T.matmul, _T.__matmul__, projected),
        "add": (
            torch.add,
            _T.add,
            _T.add_,
            _T.__add__,
            _T.__iadd__,
            _T.__radd__,
            torch.sub,
            _T.__sub__,
        ),
        "mul": (torch.mul, _T.mul, _T.mul_, _T.__mul__, _T.__imul__, _T.__rmul__),
        "cat": (torch.cat, torch.concat, torch.stack),
        "norm": (F.batch_norm, torch.batch_norm, F.layer_norm, F.group_norm),
        "relu": (F.relu, torch.relu, torch.relu_, _T.relu, _T.relu_, F.relu6, F.hardtanh),
        "act": (
            F.silu,
            F.hardswish,
            F.hardsigmoid,
            F.gelu,
            F.leaky_relu,
            F.elu,
            F.prelu,
            F.mish,
            torch.sigmoid,
            _T.sigmoid,
            F.sigmoid,
            torch.tanh,
            _T.tanh,
            F.softmax,
            torch.softmax,
            _T.softmax,
        ),
        "maxpool": (F.max_pool2d, F.adaptive_max_pool2d, torch.max_pool2d),
        "pool": (F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, _T.mean, F.interpolate),
    }.items()
    for kind in kinds
}
# float in every runtime: normalization of the features of each token, and softmax
NORMS = {F.layer_norm, F.rms_norm, torch.rms_norm}
SOFTMAX = {F.softmax, torch.softmax, _T.softmax}
# These make no site: their output is on the grid of the embedding, if it has one, and each reader
# rounds it for itself.
LOOKUPS = {F.embedding, looked_up}
RELU = {F.relu, torch.relu, _T.relu}
PASS_THROUGH: set[Any] = {  # pass values on unchanged: the output has the grid of the input
    F.dropout,
    F.dropout2d,
    F.dropout3d,
    F.channel_shuffle,
    F.pixel_shuffle,
    F.pixel_unshuffle,
    *(getattr(_T, name).__get__ for name in ("T", "mT")),
    *(
        getattr(where, name)
        for where in (torch, _T)
        for name in (
            "flatten",
            "unflatten",
            "view",
            "reshape",
            "permute",
            "transpose",
            "swapaxes",
            "movedim",
            "squeeze",
            "unsqueeze",
            "contiguous",
            "__getitem__",
            "chunk",
            "split",
            "unbind",
            "narrow",
            "select",
            "index_select",
            "expand",
            "repeat",
            "flip",
            "roll",
            "detach",
            "clone",
            "channel_shuffle",
            "dropout",
        )
        if hasattr(where, name)
    ),
}


def kind_of(site: str) -> str:
    """Return the kind in the name of a site.

    >>> kind_of("conv12"), kind_of("experts-0:linear1"), kind_of("input_mask")
    ('conv', 'linear', 'input')
    """
    word = site.rpartition(":")[2].rstrip("0123456789")
    return "input" if word.startswith("input_") else word


def paths_of(network: nn.Module) -> dict[nn.Module, str]:
    """Return the modules of a network with their names in the form that sites use."""
    return {module: name.replace(".", "-") for name, module in network.named_modules()}


def in_place(args: tuple[Any, ...], kwargs: Any) -> bool:
    """Return whether a call of F.relu is in place."""
    return bool((kwargs or {}).get("inplace", args[1] if len(args) > 1 else False))


def averaged(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visit: Callable[[Tensor], Tensor],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    enable_gqa: bool = False,
    **_: Any,
) -> Tensor:
    """Return the output of PyTorch's attention for scaled queries (... n width), keys and values.

    `visit` is called with the probabilities, and returns those to go on with.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    probabilities = visit(scores.softmax(-1))
    return F.dropout(probabilities, dropout_p) @ value if dropout_p else probabilities @ value


class Sites(TorchFunctionMode):
    """Call `visit` for every call that makes new values, with its name: conv1, relu1, add1, ...

    Calls are named by kind and order, so the user's forward needs no change and no tracing. If the
    order differs between samples, `paths` names the modules, and a call is named by its module and
    its order in it: experts-0:linear1.
    `visit` returns the value that the network goes on with; `func` is the function being called.
    The operands of attention (scaled queries, keys, values and probabilities) are sites as if calls
    had made them: query1, key1, value1, softmax1; if `inside` is given, only the probabilities in
    it.
    `visit_other` is called with the function, arguments and result of every other call, and of
    attention. `leave` is called with each module that has run, and the counts of its own calls.
    Calls in `skipped` are not made: their input is their result. The same holds for plain ReLUs in
    `clipped`, unless in place: the network may go on with the changed tensor.
    `layers` maps weights to layers. If code passes such a weight to F.linear, past the layer's
    forward, the layer runs all the same.
    """

    def __init__(
        self,
        visit: Callable[[str, tuple[Any, ...], Tensor], Tensor],
        visit_other: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
        skipped: Container[str] = (),
        clipped: Container[str] = (),
        paths: Mapping[nn.Module, str] | None = None,
        leave: Callable[[str, Counter[str]], None] | None = None,
        layers: Mapping[Any, Any] | None = None,
        inside: Container[str] | None = None,
    ) -> None:
        super().__init__()
        self.visit = visit
        self.visit_other = visit_other
        self.counts = Counter[str]()
        self.skipped = skipped
        self.clipped = clipped
        self.paths = paths
        self.leave = leave
        self.layers = layers or {}
        self.inside_attention = inside
        self.func: Any = None
        self.hooks = ExitStack()
        # running modules, outermost first, with the calls that each has made
        self.inside = [("", Counter[str]())]

    def __enter__(self) -> Sites:
        if self.paths is not None:
            for handle in (
                register_module_forward_pre_hook(self._enters),
                register_module_forward_hook(self._leaves, always_call=True),
            ):
                self.hooks.callback(handle.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *what: Any) -> None:
        super().__exit__(*what)  # type: ignore[no-untyped-call]
        self.hooks.close()

    def _enters(self, module: nn.Module, _: Any) -> None:
        if self.paths is not None and module in self.paths:
            self.inside.append((self.paths[module], Counter()))

    def _leaves(self, module: nn.Module, _: Any, __: Any) -> None:
        if self.paths is not None and module in self.paths:
            path, calls = self.inside.pop()
            if self.leave is not None:
                self.leave(path, calls)

    def named(self, kind: str) -> str:
        """Return the name of the next call of a kind."""
        if self.paths is None:
            return f"{kind}{self.counts[kind] + 1}"
        path, calls = self.inside[-1]
        return f"{path}:{kind}{calls[kind] + 1}"

    def entered(self, kind: str, made_of: Tensor, x: Tensor) -> Tensor:
        """Visit an operand of attention; return the value that the network goes on with."""
        name = self.named(kind)
        self.counts[kind] += 1
        self.inside[-1][1][kind] += 1
        return self.visit(name, (made_of,), x)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **named: Any) -> Any:
        """Run attention on visited queries, keys and values, and visit its probabilities.

        If the probabilities are not `inside`, PyTorch's fused attention runs: with its original
        arguments if no operand changed.
        """
        given = named.get("scale")
        scaled = query * (query.shape[-1] ** -0.5 if given is None else given)
        q = self.entered("query", query, scaled)
        k = self.entered("key", key, key)
        v = self.entered("value", value, value)
        name = self.named("softmax")
        if self.inside_attention is None or name in self.inside_attention:
            named.update(zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False))
            out = averaged(q, k, v, lambda p: self.entered("softmax", p, p), **named)
        else:
            self.counts["softmax"] += 1
            self.inside[-1][1]["softmax"] += 1
            if q is scaled and k is key and v is value:
                out = F.scaled_dot_product_attention(query, key, value, *args, **named)
            else:
                named = {**named, "scale": 1.0}
                out = F.scaled_dot_product_attention(q, k, v, *args, **named)
        if self.visit_other is not None:
            self.visit_other(F.scaled_dot_product_attention, (value, *args, *named.values()), out)
        return out

    def through_layer(self, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """Return a call of F.linear as a call of the layer that owns its weight, if one does."""
        named = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        layer = self.layers.get(named["weight"])
        if layer is None:
            return F.linear, args, kwargs
        bias = named.get("bias")
        if bias is not layer.bias and layer.bias is not None:
            bias = -layer.bias if bias is None else bias - layer.bias
        more = None if bias is layer.bias else bias
        return projected, (named["input"], named["weight"], layer, more), {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and self.layers:
            func, args, kwargs = self.through_layer(args, kwargs or {})
        self.func = func
        if func is F.scaled_dot_product_attention:
            return self.attended(*args, **(kwargs or {}))
        kind = SITES.get(func)
        name = "" if kind is None else self.named(kind)
        skipped = name in self.skipped or (
            name in self.clipped and func in RELU and not in_place(args, kwargs)
        )
        out = (args[0] if args else kwargs["input"]) if skipped else func(*args, **(kwargs or {}))
        if (
            kind is None
            or not isinstance(out, Tensor)
            or not out.is_floating_point()
            or out.ndim < 2
        ):
            if self.visit_other is not None:
                self.visit_other(func, in_order(args, kwargs), out)
            return out
        self.counts[kind] += 1
        self.inside[-1][1][kind] += 1
        return self.visit(name, in_order(args, kwargs), out)


def in_order(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> tuple[Any, ...]:
    """Return the arguments of a function of PyTorch in its own order, whatever that of the call.

    >>> in_order(("x",), {"bias": "b", "weight": "w"})
    ('x', 'w', 'b')
    """
    named = kwargs or {}
    first = [named[name] for name in ("input", "weight", "other") if name in named]
    rest = [value for name, value in named.items() if name not in ("input", "weight", "other")]
    return (*args, *first, *rest)
