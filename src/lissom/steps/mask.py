"""Set single weights to zero and keep them there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.step import Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..language.context import Context
    from ..surgery.patterns import Pattern


@dataclass(frozen=True)
class Mask(Step):
    """Set the smallest weights to zero and keep them at zero in later training.

    weight: (out in h w)
    element: single weights, smallest |w| first
    block:   `block` adjacent outputs at one input and kernel position, smallest mean |w| first
    N:M:     of every M adjacent inputs at one output and kernel position, the N largest |w| stay

    With element and block, round(amount * n) of n weights or blocks become zero. Of equal ones the
    first are taken, and weights that are zero already count. With N:M, the pattern determines the
    amount. A second mask only adds zeros. With scope="global" weights are compared across all
    layers, without scaling.

    No runtime here is faster with single zeros; files become smaller once they are packed.
    Raises LissomError if no weight can be set to zero.

    Also known as: unstructured pruning, magnitude pruning, weight pruning, block sparsity, N:M
    sparsity, 2:4 sparsity, semi-structured sparsity.
    Source: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks,
    https://arxiv.org/abs/1506.02626; Mishra et al. 2021, Accelerating Sparse Deep Neural Networks,
    https://arxiv.org/abs/2104.08378.
    """

    version: ClassVar[int] = 3
    leaves: ClassVar[str] = "mask"
    cannot_follow: ClassVar = {
        "quantized": "the weights are quantized already; mask before quantize",
        "cast": "the weights are stored in 16 bits already; mask before cast",
        "cluster": "the weights are clustered already, and the zeros of a mask would be one value "
        "more; mask before cluster",
    }

    amount: float | None = arg(
        "fraction of weights to set to zero; leave it out with N:M", None, above=0, below=1
    )
    scope: Literal["local", "global"] = arg(
        "local = the fraction of each layer; global = across all layers", "local"
    )
    pattern: str = arg(
        'element, block, or N:M such as "2:4", which keeps N of every M inputs', "element"
    )
    block: int = arg("outputs in a block", 4, low=2, high=64)
    keep: str = arg("layers to leave unchanged: glob patterns, comma-separated", "")
    only: str = arg("layers to mask: glob patterns, comma-separated; empty = all", "")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern not in ("element", "block") and self.ratio is None:
            raise LissomError(
                "mask(pattern=...): expected 'element', 'block' or N:M with N below M below 100, "
                f"as in '2:4', got {self.pattern!r}"
            )

    @property
    def ratio(self) -> tuple[int, int] | None:
        """Return N and M of an N:M pattern, or None."""
        match = re.fullmatch("([1-9][0-9]?):([1-9][0-9]?)", self.pattern, re.ASCII)
        return (int(match[1]), int(match[2])) if match and int(match[1]) < int(match[2]) else None

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        if reason := super().refuses(earlier):
            return reason
        if self.ratio is None:
            return "the amount is missing, as in mask(0.5)" if self.amount is None else None
        share = 1 - self.ratio[0] / self.ratio[1]
        if self.amount is not None and abs(self.amount - share) > 1e-9:
            return (
                f"{self.pattern} is an amount of {share:g}, and {self.amount:g} was given; "
                "leave the amount out"
            )
        return None

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        import torch

        from ..surgery.compare import network_difference
        from ..surgery.layers import compress
        from ..surgery.patterns import Pattern
        from ..surgery.states import check_states
        from ..surgery.transformable import chosen_layers
        from ..surgery.weights.mask import Mask as Transform

        if reason := self.refuses(()):
            raise LissomError(f"{ctx.where}: {reason}")
        check_states(self, model, ctx.where)
        n, m = self.ratio or (None, self.block if self.pattern == "block" else 1)
        pattern = Pattern(m, 0 if n is None else 1, n)
        layers, left = chosen_layers(model, ctx, self.only, self.keep, misfit=pattern.misfit)
        weights = {name: model.get_parameter(f"{name}.weight").detach() for name in layers}
        if not all(torch.isfinite(w).all() for w in weights.values()):
            raise LissomError(f"{ctx.where}: the weights hold NaN or infinity")
        zeros = self.zeros(weights, pattern)
        if not any(bool((weights[name].cpu()[zero] != 0).any()) for name, zero in zeros.items()):
            why = (
                "; ".join(f"{k}: {v}" for k, v in list(left.items())[:3])
                if not layers
                else "as many are zero already"
            )
            raise LissomError(
                f"{ctx.where}: no weight can be set to zero ({why or 'there are none'})"
            )
        before = copy.deepcopy(model)
        images = ctx.batch(16)
        wrong = 0
        for name, owners in layers.items():
            for weight in (weights[name], before.get_parameter(f"{name}.weight").detach()):
                weight.masked_fill_(zeros[name].to(weight.device), 0)
            transform = Transform()
            for layer in map(compress, owners):
                if "mask" not in layer.transforms:
                    layer.add_transform(transform)
                held = layer.train().transformed()
                wrong += int(((held == 0).cpu() != zeros[name]).sum())
        ctx.gate("zeros = chosen", wrong, 0)
        ctx.gate("masked = zeroed", network_difference(before, model, images), 1e-6)
        self.report(model, weights, left, ctx)
        return model

    def zeros(self, weights: dict[str, Tensor], pattern: Pattern) -> dict[str, Tensor]:
        """Return for each weight a boolean tensor that marks the elements to set to zero."""
        from ..surgery.patterns import smallest

        amount = self.amount or 0.0
        if self.scope == "global":
            marks = smallest([*weights.values()], pattern, amount)
        else:
            marks = [smallest([weight], pattern, amount)[0] for weight in weights.values()]
        return {
            name: mark | (weight == 0).cpu()
            for (name, weight), mark in zip(weights.items(), marks, strict=True)
        }

    def report(
        self, model: nn.Module, weights: dict[str, Tensor], left: dict[str, str], ctx: Context
    ) -> None:
        """Record in `ctx` the number of zeros and the size of the network with and without them."""
        from ..surgery.coverage import tell_left_out
        from ..surgery.sizes import sizes

        zeros = {name: int((w == 0).sum()) for name, w in weights.items()}
        of_layers = sum(zeros.values()) / sum(w.numel() for w in weights.values())
        of_network = sum(zeros.values()) / sum(p.numel() for p in model.parameters())
        dense = sum(p.numel() * p.element_size() for p in model.parameters())
        packed = sizes(model)["packed_bytes"]
        ctx.facts["masked"] = [
            {
                "name": name,
                "weights": w.numel(),
                "zeros": zeros[name],
                "sparsity": round(zeros[name] / w.numel(), 6),
            }
            for name, w in weights.items()
        ]
        ctx.facts["sparsity"] = {"layers": round(of_layers, 6), "network": round(of_network, 6)}
        tell_left_out(ctx, weights, left, "whole")
        ctx.facts.update(left_whole=left, dense_bytes=dense, packed_bytes=packed)
        ctx.notes.append(
            f"{ctx.where}: {of_network:.1%} of all parameters are zero; latency does not change, since no "
            f"runtime here skips single zeros, and {dense} bytes shrink to {packed} only once packed"
        )
        if empty := [name for name, w in weights.items() if zeros[name] == w.numel()]:
            ctx.notes.append(f"{ctx.where}: every weight is zero in {', '.join(empty)}")
