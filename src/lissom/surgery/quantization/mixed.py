"""Bits for each layer by the noise of rounding it, within a size or a drop of the metric."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from ...errors import LissomError
from ...language.context import Context
from ...trees import Tree, first
from .assign import assigned, layer_bytes, noises
from .bits import FLOAT_BITS, Precision, PrecisionPlan
from .dataflow import DataFlow
from .layers import QuantizedLayer
from .prepare import insert_rounding

BIT_CHOICES = (8, 6, 5, 4, 3, 2)  # 7 instead of 8 if sums of 8 would saturate
NOISE_SAMPLES = 64  # samples on which noise is measured
MAX_SCORED_SAMPLES = 5000  # validation samples on which a drop is measured, at most
HALVINGS = 6
Bits = dict[str, int]


@dataclass
class Mixture:
    """A prepared network, with cost and noise of each of its layers for each number of bits."""

    plan: PrecisionPlan
    model: nn.Module
    ctx: Context
    specs: Mapping[int, Precision | None]  # number of bits -> the grid of weights
    size: float | None  # allowed bytes of all weights over those in float
    drop: float | None  # allowed drop of the first metric on validation samples

    def __post_init__(self) -> None:
        held: dict[str, QuantizedLayer] = {}
        for name in self.plan.weights:
            layer = self.model.get_submodule(name)
            assert isinstance(layer, QuantizedLayer)
            held[name] = layer
        inner = [name for name, layer in held.items() if not layer.is_table][1:-1]
        free = [name for name in inner if self.plan.weights[name] is not None]
        if not free:
            raise LissomError(
                f"{self.ctx.where}: no layer between the first and the last is free "
                "to have fewer bits"
            )
        grids = [spec for spec in self.specs.values() if spec is not None]
        self.options = dict.fromkeys(free, grids)
        self.choices = [precision.bits for precision in grids]
        self.bytes_of = {
            name: {bits: layer_bytes(held[name], bits) for bits in self.choices} for name in free
        }
        self.float_bytes = sum(layer_bytes(layer, FLOAT_BITS) for layer in held.values())
        self.fixed_bytes = sum(
            layer_bytes(held[name], FLOAT_BITS if precision is None else precision.bits)
            for name, precision in self.plan.weights.items()
            if name not in self.options
        )

    def share(self, bits: Bits) -> float:
        """Return the bytes of all weights with these bits over those in float."""
        return (
            self.fixed_bytes + sum(self.bytes_of[name][count] for name, count in bits.items())
        ) / self.float_bytes

    def all(self, bits: int) -> Bits:
        """Return the same bits for every free layer."""
        return dict.fromkeys(self.options, bits)

    def within(self, share: float) -> Bits | None:
        """Return the bits with the least noise whose bytes are at most `share`, or None."""
        room = share * self.float_bytes - self.fixed_bytes
        return (
            assigned(self.noise, lambda name, bits: self.bytes_of[name][bits], room)
            if room > 0
            else None
        )

    def decide(self, images: Tree, score: Callable[[Bits], float | None]) -> Bits:
        """Return the bits by the step's size or drop; `score` measures a network with such bits.

        Raises LissomError if the size or the drop cannot be met.
        """
        self.noise = noises(self.model, self.options, images)
        if self.size is not None:
            bits = self.within(self.size)
            if bits is None:
                least = self.share(self.all(self.choices[-1]))
                raise LissomError(
                    f"{self.ctx.where}: size={self.size:g} cannot be reached; with "
                    f"{self.choices[-1]} bits wherever that is free the weights "
                    f"take {least:.3f} of "
                    "their bytes in float"
                )
            return bits
        return self.within_drop(score)

    def within_drop(self, score: Callable[[Bits], float | None]) -> Bits:
        """Return the bits with the fewest bytes, to a 64th of the span, within the allowed drop."""
        allowed = self.drop or 0.0
        before = self.ctx.accuracy(self.model, MAX_SCORED_SAMPLES)
        best = self.all(self.choices[0])
        now = score(self.all(self.choices[0]))
        if before is None or now is None:
            raise LissomError(
                f"{self.ctx.where}: drop is measured on validation images, of which "
                "there are none; size "
                "needs none"
            )
        if before - now > allowed:
            raise LissomError(
                f"{self.ctx.where}: with {self.choices[0]} bits everywhere the score falls by "
                f"{before - now:.4f} already; drop={allowed:g} was allowed"
            )
        self.warn(allowed, before)
        low, high = (self.share(self.all(bits)) for bits in (self.choices[-1], self.choices[0]))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            tried = self.within(middle)
            now = score(tried) if tried is not None else None
            if tried is not None and now is not None and before - now <= allowed:
                best = tried
                high = middle
                self.ctx.facts["dropped"] = round(before - now, 6)
            else:
                low = middle
        return best

    def warn(self, allowed: float, before: float) -> None:
        """Note if there are too few validation samples to tell the allowed drop from chance."""
        count = min(self.ctx.validation_count(), MAX_SCORED_SAMPLES)
        chance = 1.96 * math.sqrt(max(0.0, before * (1 - before)) / count)
        if chance > allowed:
            self.ctx.notes.append(
                f"{self.ctx.where}: the fall is measured on {count} validation "
                "images, of which chance "
                f"alone moves a score by {chance:.3f}; the test score may fall "
                f"by more than {allowed:g}"
            )


def mix_bits(
    mixture: Mixture,
    flow: DataFlow,
    images: Tree,
    bounds_of: Callable[[str, Precision], tuple[float, float]],
    of_bits: Callable[[int], Precision | None],
) -> None:
    """Write the bits of inner layers into the plan, and the reasons into the record.

    Inner layers are those between the first and the last.
    """
    plan = mixture.plan
    model = mixture.model
    ctx = mixture.ctx

    def write(bits: Bits) -> None:
        plan.weights.update({name: of_bits(count) for name, count in bits.items()})

    def score(bits: Bits) -> float | None:
        write(bits)
        return ctx.accuracy(
            insert_rounding(copy.deepcopy(model), flow, plan, bounds_of)[0].eval(),
            MAX_SCORED_SAMPLES,
        )

    bits = mixture.decide(first(images, NOISE_SAMPLES), score)
    write(bits)
    ctx.facts["mixed"] = {
        "bits": bits,
        "share": round(mixture.share(bits), 6),
        "alone": {
            name: {str(count): value for count, value in row.items()}
            for name, row in mixture.noise.items()
        },
    }
