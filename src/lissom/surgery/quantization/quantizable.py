"""Make the layers of a network quantizable without changing its outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from ...errors import LissomError, listed
from ...trees import Tree, first, some_of
from ..compare import gate_same
from ..coverage import add_unsupported_reasons, coverage_sentence
from ..layers import baked
from ..plain_attention import separate_attention
from ..plain_layers import make_plain_and_note
from .bits import Precision
from .dataflow import DataFlow, data_dependent_modules, trace_dataflow
from .layers import CLASSES, QuantizedLayer
from .prepare import prepare_layers
from .smooth import smooth_network

if TYPE_CHECKING:
    from ...language.context import Context


def make_quantizable(
    model: nn.Module,
    batches: Sequence[Tree],
    ctx: Context,
    fold: bool,
    smooth_for: tuple[Precision | None, Precision | None] | None,
    range: str | None,
) -> tuple[DataFlow, dict[str, str]]:
    """Make layers quantizable, in place; return the data flow, and why other layers stay float.

    `fold` folds each batch-norm into its layer. `smooth_for` are grids of weights and inputs for
    which SmoothQuant evens out channels first, with a `range` of the menu; it is skipped if calls
    depend on the data. Raises LissomError if outputs would change.
    """

    def prepare(network: nn.Module, example: Tree) -> dict[str, str]:
        separate_attention(network, example)
        return prepare_layers(network, example, fold)

    reasons = make_plain_and_note(model, ctx)
    before = copy.deepcopy(model)
    separate_attention(model, ctx.example)
    one = first(ctx.example, 1)
    data_dependent = data_dependent_modules(
        baked(model), [one, first(batches[0], 8), first(batches[-1], 1)]
    )
    # other samples may reach calls that one sample does not
    shown = one if data_dependent is None else some_of(batches)
    if data_dependent is None and smooth_for is not None:
        smooth_network(model, batches, ctx, smooth_for, range)
        before = copy.deepcopy(model)
    left = prepare_layers(model, shown, fold)
    add_unsupported_reasons(model, ctx.example, left, reasons, CLASSES)
    gate_same(ctx, "folded = unfolded", before, model, first(batches[0], 32), prepare, shown)
    if data_dependent:
        parts = listed(name.replace("-", ".") or "the network" for name in sorted(data_dependent))
        ctx.notes.append(
            f"{ctx.where}: the calls that {parts} makes depend on the data, and stay float"
        )
    return trace_dataflow(model, shown, data_dependent), left


def quantizable_layers(
    model: nn.Module, flow: DataFlow, left: dict[str, str], where: str
) -> dict[str, QuantizedLayer]:
    """Return the layers that can be rounded, by name.

    Raises LissomError if there are none, with the reasons in `left`.
    """
    layers = {
        name: layer
        for name in flow.inputs
        if isinstance(layer := model.get_submodule(name), QuantizedLayer)
    }
    if not layers:
        why = (
            coverage_sentence(where, 0, left, "float")
            or f"{where}: there is no convolution, linear layer or embedding"
        )
        raise LissomError(f"{why}; no layer can be quantized")
    return layers
