"""Recover the accuracy that rounding cost: by learned rounding and corrected biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import nn

from ...errors import LissomError
from ...trees import Tree
from .dataflow import DataFlow
from .network import QuantizedNetwork
from .reconstruct import correct_biases, learn_rounding
from .rows import correct_means, linear_inputs

if TYPE_CHECKING:
    from ...language.context import Context


class Settings(Protocol):
    """The settings of the step `quantize` that `recover` reads."""

    @property
    def rounding(self) -> str:
        """How weights are rounded: nearest, learned or blocks."""

    @property
    def steps(self) -> int:
        """Number of updates for learning the rounding."""

    @property
    def correct(self) -> bool | None:
        """Whether to correct biases; None: only those of linear layers in a network of tokens."""


def recover(
    quantized: QuantizedNetwork,
    before: nn.Module,
    flow: DataFlow,
    batches: Sequence[Tree],
    ctx: Context,
    settings: Settings,
) -> None:
    """Learn rounding and correct biases on calibration batches, in place; record how many layers.

    `before` is the float network. Raises LissomError if no rounding can be learned.
    """
    names = [name for name in flow.inputs if name not in flow.bypassed]
    nearest = settings.rounding == "nearest"
    if not nearest:
        by_block = settings.rounding == "blocks"
        done = learn_rounding(
            quantized, before, names, batches, settings.steps, ctx.seed, by_block=by_block
        )
        if not done:
            raise LissomError(
                f"{ctx.where}: no layer has weights of equal steps, whose rounding could be learned; "
                'rounding="nearest" is what its grid has'
            )
        ctx.facts["rounded"] = done
    if settings.correct:
        ctx.facts["corrected"] = correct_biases(quantized, before, names, batches)
    elif settings.correct is None and nearest and flow.of_tokens and batches[0] is not ctx.example:
        read = linear_inputs(before, batches, flow.bypassed)
        ctx.facts["corrected"] = correct_means(quantized, before, read, batches)
