"""Fold batch-norm into the layers before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True)
class Fold(Step):
    """Fold each batch-norm into the convolution or linear layer before it.

    w' = w * gamma / sqrt(var + eps)
    b' = beta + (b - mean) * gamma / sqrt(var + eps)

    The outputs stay the same up to float rounding; this is checked on real samples. A batch-norm is
    folded only if nothing else reads the output of the layer; layers that run more than once stay
    as they are. In the file that OpenVINO computes in single bits, a batch-norm before a sign
    becomes one threshold per channel instead.

    Also known as: batch-norm folding, batch-norm fusion, BN folding, BN fusion.
    Source: Jacob et al. 2017, Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, https://arxiv.org/abs/1712.05877, section 3.2.
    """

    version: ClassVar[int] = 2
    cannot_follow: ClassVar = {
        "quantized": "batch-norm is in the quantized layers already; leave fold out, or put it "
        "before quantize",
        "cluster": "batch-norm would change clustered weights; cluster has folded what it could",
    }

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.compare import gate_same
        from ..surgery.fold import fold_batchnorms
        from ..surgery.plain_layers import make_plain_and_note
        from ..surgery.states import check_states

        check_states(self, model, ctx.where)
        ctx = ctx.in_float32(model, double=False)
        ctx.finite(model)
        make_plain_and_note(model, ctx)
        before = copy.deepcopy(model)
        if not (done := fold_batchnorms(model, ctx.example)):
            ctx.notes.append(
                f"{ctx.where}: no batch-norm alone reads a convolution or linear "
                "layer; nothing was folded"
            )
        ctx.facts["folded"] = done
        gate_same(ctx, "folded = unfolded", before, model, ctx.batch(32), fold_batchnorms)
        return model
