"""Check in its runtime that an exported file gives the same outputs as its network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bench.inputs import Input
from ..bench.process import loaded
from ..errors import LissomError
from ..language.target import Target
from ..surgery.quantization.bits import saturates
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.noise import rounding_only
from ..trees import (
    ROW_IDS,
    Tree,
    called,
    concatenated,
    first,
    in_float,
    mapped,
    output_named,
    shapes,
    tensors_in,
)

# largest error of an integer file against its simulation: RMS of the difference over RMS of the
# outputs
NOISE = 0.1
UNSEEN = 0.3  # the same on noise, which the ranges were not calibrated for
# Share of the rows that a network picks in which a float file may differ, since scores at the edge
# of the best nearly tie. The scores of an integer file are noisier: its share is the allowed noise.
OTHERS = 0.02
FEW = 2  # inputs on which an exported file is tried
# Some networks amplify every rounding error: two ways of rounding lie as far from each other as
# from the float network. Such a file passes if it is as near to the float network as the simulation
# is.
AS_NEAR = 1.1  # times the distance of the simulation
# Absolute error of the sigmoids of runtimes. If a detector sees nothing, as on noise, its
# probabilities are no larger than this.
SIGMOID = 2e-7
SPOILT = 0.5  # a simulation that is farther than this from the float network proves nothing


class ParityError(LissomError):
    """Say that the outputs of a file differ from those of the network it was made from."""


def prove(
    target: Target,
    path: Path,
    model: nn.Module,
    shape: tuple[int, ...],
    images: Tree | None = None,
    *,
    pixels: bool = False,
) -> None:
    """Run a file in its own process on a few inputs and compare its outputs with the network's.

    The inputs are the first of `images`, a tree as the network takes it. If None, they are noise
    (n, *shape), in 0..255 if `pixels`. Raises LissomError if the file cannot be opened or run, and
    ParityError if its outputs differ.
    """
    seen = images is not None
    if images is None:
        images = noise((FEW, *shape), pixels)
        if not runs_on(model, shape):  # it takes integers, as the export found
            images = torch.zeros(FEW, *shape, dtype=torch.long)
    inputs = mapped(lambda t: t.detach().cpu(), in_float(few_of(images)))
    with torch.no_grad():
        wanted = called(copy.deepcopy(model).cpu().float().eval(), inputs)
    arrays = [t.contiguous().numpy() for t in tensors_in(inputs)]
    shown = [Input.like(array) for array in arrays]
    try:
        with loaded(str(target), path, shown) as process:
            outputs = [torch.from_numpy(array) for array in process.run(arrays)]
            alone = one_by_one(process.run, arrays)
    except LissomError as error:
        raise LissomError(
            f"export: {target} cannot run the file that was made; nothing was written. {error}"
        ) from None
    if shapes(outputs) != shapes(wanted):
        raise ParityError(
            f"export: {target}: the file gives outputs of shape {shapes(outputs)} for "
            f"{len(arrays[0])} inputs, the network {shapes(wanted)}; nothing was written"
        )
    where = f"{len(arrays[0])} inputs{'' if seen else ' of noise'}"
    check = partial(check_answers, target, model, inputs, wanted, NOISE if seen else UNSEEN)
    check(outputs, f"{where}; nothing was written")
    if shapes(alone) == shapes(wanted):  # runtimes choose other kernels for a single sample
        check(alone, f"{where} one by one; nothing was written")


def check_answers(
    target: Target,
    model: nn.Module,
    inputs: Tree,
    wanted: Tree,
    noise_allowed: float,
    answers: list[Tensor],
    on: str,
) -> None:
    """Raise ParityError if `answers` of a file are too far from the network's, `wanted`."""
    inner = next((part for part in model.modules() if isinstance(part, QuantizedNetwork)), None)
    quantized = inner is not None or target.rounds()

    def from_float() -> tuple[Gap, Gap]:
        assert inner is not None
        whole = copy.deepcopy(model).cpu().float().eval()
        part = next(part for part in whole.modules() if isinstance(part, QuantizedNetwork))
        with rounding_only(part, []), torch.no_grad():
            floats = called(whole, inputs)
        return gaps_from(floats, answers, wanted)

    gap = Gap(noise_allowed if quantized else OTHERS)
    gap.add(answers, wanted)
    gap.check(
        target,
        quantized=quantized,
        eight=inner is not None and in_eight_bits(inner),
        noise=noise_allowed,
        on=on,
        from_float=from_float if inner is not None else None,
    )


def one_by_one(
    run: Callable[[list[np.ndarray]], list[np.ndarray]], arrays: list[np.ndarray]
) -> list[Tensor]:
    """Return the outputs of a file that is run on one sample at a time, concatenated; [] if some
    input or output has no batch axis.
    """
    if any(array.ndim == 0 or len(array) != FEW for array in arrays):
        return []
    parts = [run([array[k : k + 1] for array in arrays]) for k in range(FEW)]
    if not all(array.ndim for array in parts[0]):
        return []
    return [torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)]


def gaps_from(floats: Tree, outputs: Tree, simulated: Tree) -> tuple[Gap, Gap]:
    """Return the gaps of a file's and of its simulation's outputs to those of the float network."""
    gaps = Gap(NOISE), Gap(NOISE)
    for gap, answers in zip(gaps, (outputs, simulated), strict=True):
        gap.add(answers, floats)
    return gaps


def few_of(images: Tree) -> Tree:
    """Return FEW samples; repeat them if there are fewer."""
    return first(concatenated([first(images, FEW)] * FEW), FEW)


def runs_on(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a network takes floats of a shape."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).cpu().float().eval()(torch.zeros(FEW, *shape))
    except Exception:  # whatever the network's own code raises
        return False
    return True


def noise(shape: tuple[int, ...], pixels: bool) -> Tensor:
    """Return the same noise at every call: standard normal, or uniform over 0..255 for pixels."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=draw) * 255 if pixels else torch.randn(shape, generator=draw)


def in_eight_bits(model: QuantizedNetwork) -> bool:
    """Return whether some weights of a network have 8 bits."""
    return any(layer.rounding is not None and layer.rounding.bits == 8 for layer in model.layers())


class Gap:
    """The difference between the outputs of a file and PyTorch's, over all batches, tensor by
    tensor.

    The worst output tensor counts: otherwise boxes in pixels would hide errors of scores. If a
    network picks rows and says which (an output `row_ids`), rows with the same id are compared,
    except for the share `others` that differs most.
    """

    def __init__(self, others: float = OTHERS) -> None:
        self.others = others
        self.squares = list[tuple[float, float]]()  # sums of squares: difference, reference
        self.largest = list[tuple[float, float]]()

    def add(self, outputs: Tree, reference: Tree) -> None:
        """Compare a batch. Integer outputs, such as classes, are left to the task's metrics."""
        pairs = list(zip(tensors_in(outputs), tensors_in(reference), strict=True))
        if (ids := output_named(reference, ROW_IDS)) is not None:
            pairs = rows_of_one_id(pairs, ids, self.others)
        for place, (ours, theirs) in enumerate(pairs):
            if place == len(self.squares):
                self.squares.append((0.0, 0.0))
                self.largest.append((0.0, 0.0))
            if not theirs.is_floating_point() or not theirs.numel():
                continue
            gap = ours - theirs
            if gap.abs().max() <= SIGMOID and are_tiny_probabilities(theirs):
                gap = torch.zeros_like(gap)
            differ, size = self.squares[place]
            self.squares[place] = (
                differ + float(gap.double().square().sum()),
                size + float(theirs.double().square().sum()),
            )
            most, high = self.largest[place]
            self.largest[place] = (
                maximum(most, float(gap.abs().max())),
                maximum(high, float(theirs.abs().max())),
            )

    @property
    def rms(self) -> float:
        """The root mean square of the difference, divided by that of the reference."""
        return worst([math.sqrt(gap) / max(math.sqrt(size), 1e-9) for gap, size in self.squares])

    @property
    def most(self) -> float:
        """The largest difference, divided by the largest output of the reference."""
        return worst([gap / max(size, 1e-9) for gap, size in self.largest])

    def check(
        self,
        target: Target,
        quantized: bool,
        eight: bool = False,
        noise: float = NOISE,
        on: str = "the test images",
        from_float: Callable[[], tuple[Gap, Gap]] | None = None,
    ) -> dict[str, Any]:
        """Return the gate with the difference of the outputs. Raises ParityError if it is too big.

        A float file may differ by `target.precise` of the largest output. Integer arithmetic rounds
        ties differently, so a quantized file is judged by the noise it adds (RMS, at most `noise`
        of the outputs); the record says how often its answers agree. `eight`: some of its weights
        have 8 bits. `on` names the inputs. `from_float` measures how far the file and its
        simulation are from the float network: the file passes if it is as near as the simulation.
        """
        name = "artefact = simulated (rms)" if quantized else "exported = PyTorch"
        difference = self.rms if quantized else self.most
        tolerance = noise if quantized else target.precise
        if quantized and tolerance < difference < math.inf and from_float is not None:
            ours, theirs = (gap.rms for gap in from_float())
            if theirs <= SPOILT and ours <= AS_NEAR * theirs:
                return {
                    "name": "artefact = simulated, from float (rms)",
                    "difference": ours,
                    "tolerance": AS_NEAR * theirs,
                }
        if not math.isfinite(difference) or difference > tolerance:
            why = (
                (
                    "; this processor has no VNNI, and sums of 8-bit weights saturate on it: "
                    "quantize(..., reduce_range=True) keeps them from it"
                )
                if eight and target.ending == "onnx" and saturates()
                else ""
            )
            raise ParityError(
                f"{target}: the gate '{name}' failed: outputs differ by {difference:.2g} of their "
                f"size, at most {tolerance:g} is allowed, on {on}{why}"
            )
        return {"name": name, "difference": difference, "tolerance": tolerance}


def rows_of_one_id(
    pairs: list[tuple[Tensor, Tensor]], ids: Tensor, others: float
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of outputs (n k ...) as rows (m ...) with the same id, without the share
    `others` that differs most.

    If the file lacks the id (n k) of a row, the difference of that row is infinite.
    """
    file_ids = next(ours for ours, theirs in pairs if theirs is ids)
    found, order = file_ids.sort(1)
    at = order.gather(1, torch.searchsorted(found, ids).clamp_max(ids.shape[1] - 1))
    known = (file_ids.gather(1, at) == ids).flatten()
    picture = torch.arange(len(ids))[:, None]
    rows = [
        (ours[picture, at].flatten(0, 1), theirs.flatten(0, 1))
        for ours, theirs in pairs
        if theirs.is_floating_point()
    ]
    for ours, _ in rows:
        ours[~known] = math.inf
    gaps = [
        (ours - theirs).abs().flatten(1).amax(1) / theirs.abs().max().clamp_min(1e-9)
        for ours, theirs in rows
    ]
    # NaN is sorted first and so kept: it must not pass as a row that was picked differently
    largest = torch.stack(gaps).amax(0).nan_to_num(-1.0, posinf=math.inf)
    kept = largest.argsort()[: math.ceil(len(largest) * (1 - others))]
    return [(ours[kept], theirs[kept]) for ours, theirs in rows]


def are_tiny_probabilities(outputs: Tensor) -> bool:
    """Return whether all outputs are near 0 and not negative, as those of a sigmoid may be."""
    return bool(outputs.min() >= 0) and bool(outputs.max() < 1e3 * SIGMOID)


def maximum(value: float, other: float) -> float:
    """Return the larger of two numbers, NaN if either is NaN."""
    return math.nan if math.isnan(value) or math.isnan(other) else max(value, other)


def worst(values: Sequence[float]) -> float:
    """Return the largest of some numbers: NaN if one is NaN, 0 if there are none."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)
