"""How far rounding shifted the outputs of a network, and when to note it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ...errors import LissomError
from ...trees import Tree
from ..compare import network_difference

if TYPE_CHECKING:
    from ...language.context import Context

# relative to the largest output; 8 bits usually shift outputs by a tenth of it
MAX_SHIFT_8_BITS = 0.5
MAX_SHIFT_FEW_BITS = 2.0  # even untrained 1-bit values shift outputs by less


def check_output_shift(
    before: nn.Module, after: nn.Module, inputs: Tree, ctx: Context, *, eight: bool
) -> None:
    """Note it if rounding shifted the outputs far more than it should.

    `eight` says whether all bits are 8. Raises LissomError if the outputs are not finite.
    """
    shift = network_difference(before, after, inputs)
    if shift != shift:  # the float network's outputs are finite, as the last gate checked
        raise LissomError(
            f"{ctx.where}: expected finite outputs, got infinity or NaN; a value that the network's code "
            "divides by may have been rounded to 0; keep= leaves the layers before it float"
        )
    if not shift <= (MAX_SHIFT_8_BITS if eight else MAX_SHIFT_FEW_BITS):
        ctx.notes.append(
            f"{ctx.where}: rounding moved the outputs by {shift:.0%} of the largest, which is far more "
            "than it should; `lissom explain` names the layers at fault, and learning may mend them"
        )
