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
from ..bench.process import file_process
from ..errors import LissomError
from ..language.target import Target
from ..surgery.quantization.bits import saturates
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.noise import rounding_only
from ..trees import (
    ROW_IDS,
    Tree,
    concatenated,
    first,
    in_float,
    mapped,
    output_named,
    run_on_copied_inputs,
    shapes,
    tensors_in,
)

# largest error of an integer file against its simulation: RMS of the difference over RMS of the
# outputs
MAX_INTEGER_ERROR = 0.1
MAX_ERROR_ON_NOISE = 0.3  # the same on noise, which the ranges were not calibrated for
# Share of the rows that a network picks in which a float file may differ, since scores at the edge
# of the best nearly tie. The scores of an integer file are noisier: its share is the allowed noise.
MAX_OTHER_ROWS = 0.02
PARITY_INPUTS = 2  # on which an exported file is tried
# Some networks amplify every rounding error: two ways of rounding lie as far from each other as
# from the float network. Such a file passes if it is as near to the float network as the simulation
# is.
NEAR_FACTOR = 1.1  # times the distance of the simulation
# Absolute error of the sigmoids of runtimes. If a detector sees nothing, as on noise, its
# probabilities are no larger than this.
SIGMOID_ERROR = 2e-7
# a simulation that is farther than this from the float network proves nothing
MAX_FLOAT_DISTANCE = 0.5


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
        images = noise((PARITY_INPUTS, *shape), pixels)
        if not runs_on(model, shape):  # it takes integers, as the export found
            images = torch.zeros(PARITY_INPUTS, *shape, dtype=torch.long)
    inputs = mapped(lambda t: t.detach().cpu(), in_float(few_of(images)))
    with torch.no_grad():
        wanted = run_on_copied_inputs(copy.deepcopy(model).cpu().float().eval(), inputs)
    arrays = [t.contiguous().numpy() for t in tensors_in(inputs)]
    shown = [Input.like(array) for array in arrays]
    try:
        with file_process(str(target), path, shown) as process:
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
    max_error = MAX_INTEGER_ERROR if seen else MAX_ERROR_ON_NOISE
    check = partial(check_answers, target, model, inputs, wanted, max_error)
    check(outputs, f"{where}; nothing was written")
    if shapes(alone) == shapes(wanted):  # runtimes choose other kernels for a single sample
        check(alone, f"{where} one by one; nothing was written")


def check_answers(
    target: Target,
    model: nn.Module,
    inputs: Tree,
    wanted: Tree,
    max_error: float,
    answers: list[Tensor],
    input_text: str,
) -> None:
    """Raise ParityError if `answers` of a file are too far from the network's, `wanted`."""
    inner = next((part for part in model.modules() if isinstance(part, QuantizedNetwork)), None)
    quantized = inner is not None or target.rounds()

    def from_float() -> tuple[OutputDifference, OutputDifference]:
        assert inner is not None
        whole = copy.deepcopy(model).cpu().float().eval()
        part = next(part for part in whole.modules() if isinstance(part, QuantizedNetwork))
        with rounding_only(part, []), torch.no_grad():
            floats = run_on_copied_inputs(whole, inputs)
        return differences_from(floats, answers, wanted)

    difference = OutputDifference(max_error if quantized else MAX_OTHER_ROWS)
    difference.add(answers, wanted)
    difference.check(
        target,
        quantized=quantized,
        has_8_bit_weights=inner is not None and has_8_bit_weights(inner),
        max_error=max_error,
        input_text=input_text,
        from_float=from_float if inner is not None else None,
    )


def one_by_one(
    run: Callable[[list[np.ndarray]], list[np.ndarray]], arrays: list[np.ndarray]
) -> list[Tensor]:
    """Return the outputs of a file that is run on one sample at a time, concatenated; [] if some
    input or output has no batch axis.
    """
    if any(array.ndim == 0 or len(array) != PARITY_INPUTS for array in arrays):
        return []
    parts = [run([array[k : k + 1] for array in arrays]) for k in range(PARITY_INPUTS)]
    if not all(array.ndim for array in parts[0]):
        return []
    return [torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)]


def differences_from(
    floats: Tree, outputs: Tree, simulated: Tree
) -> tuple[OutputDifference, OutputDifference]:
    """Return how far a file's and its simulation's outputs are from those of the float network."""
    differences = OutputDifference(MAX_INTEGER_ERROR), OutputDifference(MAX_INTEGER_ERROR)
    for difference, answers in zip(differences, (outputs, simulated), strict=True):
        difference.add(answers, floats)
    return differences


def few_of(images: Tree) -> Tree:
    """Return PARITY_INPUTS samples; repeat them if there are fewer."""
    return first(concatenated([first(images, PARITY_INPUTS)] * PARITY_INPUTS), PARITY_INPUTS)


def runs_on(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a network takes floats of a shape."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).cpu().float().eval()(torch.zeros(PARITY_INPUTS, *shape))
    except Exception:  # whatever the network's own code raises
        return False
    return True


def noise(shape: tuple[int, ...], pixels: bool) -> Tensor:
    """Return the same noise at every call: standard normal, or uniform over 0..255 for pixels."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=draw) * 255 if pixels else torch.randn(shape, generator=draw)


def has_8_bit_weights(model: QuantizedNetwork) -> bool:
    """Return whether some weights of a network have 8 bits."""
    return any(layer.rounding is not None and layer.rounding.bits == 8 for layer in model.layers())


class OutputDifference:
    """The difference between the outputs of a file and PyTorch's, over all batches, tensor by
    tensor.

    The worst output tensor counts: otherwise boxes in pixels would hide errors of scores. If a
    network picks rows and says which (an output `row_ids`), rows with the same id are compared,
    except for the share `others` that differs most.
    """

    def __init__(self, others: float = MAX_OTHER_ROWS) -> None:
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
            error = ours - theirs
            if error.abs().max() <= SIGMOID_ERROR and are_tiny_probabilities(theirs):
                error = torch.zeros_like(error)
            squared_error, squared_size = self.squares[place]
            self.squares[place] = (
                squared_error + float(error.double().square().sum()),
                squared_size + float(theirs.double().square().sum()),
            )
            largest_error, largest_size = self.largest[place]
            self.largest[place] = (
                maximum(largest_error, float(error.abs().max())),
                maximum(largest_size, float(theirs.abs().max())),
            )

    @property
    def rms(self) -> float:
        """The root mean square of the difference, divided by that of the reference."""
        return worst(
            [math.sqrt(error) / max(math.sqrt(size), 1e-9) for error, size in self.squares]
        )

    @property
    def peak(self) -> float:
        """The largest difference, divided by the largest output of the reference."""
        return worst([error / max(size, 1e-9) for error, size in self.largest])

    def check(
        self,
        target: Target,
        quantized: bool,
        has_8_bit_weights: bool = False,
        max_error: float = MAX_INTEGER_ERROR,
        input_text: str = "the test images",
        from_float: Callable[[], tuple[OutputDifference, OutputDifference]] | None = None,
    ) -> dict[str, Any]:
        """Return the gate with the difference of the outputs. Raises ParityError if it is too big.

        A float file may differ by `target.precise` of the largest output. Integer arithmetic rounds
        ties differently, so a quantized file is judged by the noise it adds (RMS, at most
        `max_error` of the outputs); the record says how often its answers agree. `input_text` names
        the inputs. `from_float` measures how far the file and its simulation are from the float
        network: the file passes if it is as near as the simulation.
        """
        name = "artefact = simulated (rms)" if quantized else "exported = PyTorch"
        difference = self.rms if quantized else self.peak
        tolerance = max_error if quantized else target.precise
        if quantized and tolerance < difference < math.inf and from_float is not None:
            ours, theirs = (each.rms for each in from_float())
            if theirs <= MAX_FLOAT_DISTANCE and ours <= NEAR_FACTOR * theirs:
                return {
                    "name": "artefact = simulated, from float (rms)",
                    "difference": ours,
                    "tolerance": NEAR_FACTOR * theirs,
                }
        if not math.isfinite(difference) or difference > tolerance:
            why = (
                (
                    "; this processor has no VNNI, and sums of 8-bit weights saturate on it: "
                    "quantize(..., reduce_range=True) keeps them from it"
                )
                if has_8_bit_weights and target.ending == "onnx" and saturates()
                else ""
            )
            raise ParityError(
                f"{target}: the gate '{name}' failed: outputs differ by {difference:.2g} of their "
                f"size, at most {tolerance:g} is allowed, on {input_text}{why}"
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
    return bool(outputs.min() >= 0) and bool(outputs.max() < 1e3 * SIGMOID_ERROR)


def maximum(value: float, other: float) -> float:
    """Return the larger of two numbers, NaN if either is NaN."""
    return math.nan if math.isnan(value) or math.isnan(other) else max(value, other)


def worst(values: Sequence[float]) -> float:
    """Return the largest of some numbers: NaN if one is NaN, 0 if there are none."""
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)
