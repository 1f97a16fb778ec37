"""How far rounding moved the outputs of a network, and when to note it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ...errors import LissomError
from ...trees import Tree
from ..compare import difference

if TYPE_CHECKING:
    from ...language.context import Context

FAR = 0.5  # relative to the largest output: 8 bits move outputs by a tenth of that
LOST = 2.0  # likewise: even untrained 1-bit values move them by less


def check_moved(
    before: nn.Module, after: nn.Module, inputs: Tree, ctx: Context, *, eight: bool
) -> None:
    """Note it if rounding moved the outputs far more than it should.

    `eight` says whether all bits are 8. Raises LissomError if the outputs are not finite.
    """
    moved = difference(before, after, inputs)
    if moved != moved:  # the float network's outputs are finite, as the last gate checked
        raise LissomError(
            f"{ctx.where}: expected finite outputs, got infinity or NaN; a value that the network's code "
            "divides by may have been rounded to 0; keep= leaves the layers before it float"
        )
    if not moved <= (FAR if eight else LOST):
        ctx.notes.append(
            f"{ctx.where}: rounding moved the outputs by {moved:.0%} of the largest, which is far more "
            "than it should; `lissom explain` names the layers at fault, and learning may mend them"
        )
