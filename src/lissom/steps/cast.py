"""Store weights in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True)
class Cast(Step):
    """Store weights of convolutions, linear layers and embeddings in 16 bits.

    bf16: 8 bits of precision, the range of float32
    fp16: 11 bits of precision, values up to 65504

    Files take half the bytes; computation, biases and activations stay float32. Batch-norm is
    folded into the preceding layer first. To compute in 16 bits, use a setting of the target, as in
    openvino(precision="bf16").

    Before a learning step: training continues in float32, and the forward pass uses the rounded
    weights. The gradient is that of the float32 weight (straight-through estimator).
    Raises LissomError if a weight is too large for fp16.

    Also known as: half precision, 16-bit weights, fp16 weights, float16 weights, bf16 weights,
    bfloat16 weights.
    Source: Micikevicius et al. 2017, Mixed Precision Training, https://arxiv.org/abs/1710.03740,
    section 3.1.
    """

    version: ClassVar[int] = 3
    leaves: ClassVar[str] = "cast"
    cannot_follow: ClassVar = {
        "quantized": "the weights are integers of 8 bits or fewer already; leave cast out, or put "
        "it before quantize",
        "cast": "the weights are stored in 16 bits already; one cast with keep= or only= is enough",
    }

    to: Literal["bf16", "fp16"] = arg("16-bit format of the weights")
    keep: str = arg("layers to keep float32: glob patterns, comma-separated", "")
    only: str = arg("layers to cast: glob patterns, comma-separated; empty = all", "")

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        from ..surgery.coverage import tell_left_out
        from ..surgery.layers import compress
        from ..surgery.states import check_states
        from ..surgery.transformable import chosen_layers
        from ..surgery.weights.cast import Cast as Transform

        check_states(self, model, ctx.where)
        ctx = ctx.in_float32(model)
        ctx.finite(model)
        layers, left = chosen_layers(model, ctx, self.only, self.keep, fold=True)
        for name, owners in layers.items():
            weight = model.get_parameter(f"{name}.weight").detach()
            if self.to == "fp16" and float(weight.abs().max()) > 65504:
                raise LissomError(
                    f"{ctx.where}: {name} has a weight of "
                    f"{float(weight.abs().max()):.3g}, and fp16 ends at "
                    f"65504; bf16 holds it, or keep='{name}' leaves the layer float32"
                )
            transform = Transform(self.to)
            for layer in owners:
                compress(layer).add_transform(transform)
        if not layers:
            why = "; ".join(f"{k}: {v}" for k, v in list(left.items())[:3])
            raise LissomError(
                f"{ctx.where}: no layer can be stored in 16 bits ({why or 'there are none'})"
            )
        tell_left_out(ctx, layers, left, "float32")
        ctx.facts.update(cast=list(layers), left_float=left)
        return model
