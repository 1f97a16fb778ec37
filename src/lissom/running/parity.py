"""Prove that an exported file answers as the network it was made from, in its own runtime."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bench.process import loaded
from ..errors import LissomError, cause_of
from ..language.target import Target
from ..surgery.quantization.bits import saturates
from ..surgery.quantization.network import QuantizedNetwork
from ..trees import Tree, called, concatenated, first, in_float, tensors_in, values_in

# of an integer file against its simulation: root mean square of the difference over that of the
# outputs
NOISE = 0.1
UNSEEN = 0.3  # the same on noise, which no range was made for
FEW = 2  # inputs that an exported file is tried on


class ParityError(LissomError):
    """Say that a file answers otherwise than the network it was made from."""


def prove(
    target: Target,
    path: Path,
    model: nn.Module,
    shape: tuple[int, ...],
    images: Tree | None = None,
    *,
    pixels: bool = False,
) -> None:
    """Run a file in a process of its own on a few inputs (n, *shape) and compare it with the network.

    The inputs are the first of `images`, noise if None; `pixels`: of 0..255. Raises LissomError if
    the file cannot be opened or run, and ParityError if it answers otherwise.
    """
    # it takes integers, and the export has found so
    if images is None and not runs_on(model, shape):
        images = torch.zeros(FEW, *shape, dtype=torch.long)
    if images is not None and not (isinstance(images, Tensor) and images.is_floating_point()):
        prove_as_given(target, path, model, in_float(images))
        return
    some = noise((FEW, *shape), pixels) if images is None else images[:FEW].detach().cpu().float()
    with torch.no_grad():
        wanted = next(tensors_in(copy.deepcopy(model).cpu().float().eval()(some.clone())))
    shape = tuple(some.shape[1:])
    try:
        with loaded(str(target), path, (1, *shape), pixels=pixels) as process:
            outputs = torch.from_numpy(process.run(some.numpy()))
    except LissomError as error:
        raise LissomError(
            f"export: {target} cannot run the file that was made; nothing was written. {error}"
        ) from None
    if outputs.shape != wanted.shape:
        raise ParityError(
            f"export: {target}: the file gives outputs of shape {tuple(outputs.shape)} "
            f"for {len(some)} inputs, the "
            f"network {tuple(wanted.shape)}; nothing was written"
        )
    inner = next((part for part in model.modules() if isinstance(part, QuantizedNetwork)), None)
    parity(
        outputs.float(),
        wanted.float(),
        target,
        quantized=inner is not None or target.rounds(),
        eight=inner is not None and in_eight_bits(inner),
        noise=NOISE if images is not None else UNSEEN,
        on=f"{len(some)} inputs{'' if images is not None else ' of noise'}; nothing was written",
    )


def runs_on(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Return whether a network takes floats of a shape."""
    try:
        with torch.no_grad():
            copy.deepcopy(model).cpu().float().eval()(torch.zeros(FEW, *shape))
    except Exception:  # whatever the network's own code raises
        return False
    return True


def prove_as_given(target: Target, path: Path, model: nn.Module, inputs: Tree) -> None:
    """Run a file that takes integers or several inputs in this process, and compare all its floats
    with the network's.
    """
    if target.ending != "onnx":
        return  # PyTorch's own file is the program that was exported
    inputs = first(concatenated([inputs, inputs]), FEW)
    with torch.no_grad():
        wanted = values_in(called(copy.deepcopy(model).cpu().float().eval(), inputs))
    try:
        found = target.load(path, 1)([t.detach().cpu().numpy() for t in tensors_in(inputs)])
    except Exception as error:  # a runtime has errors of its own
        raise LissomError(
            f"export: {target} cannot run the file that was made; nothing was "
            f"written. {cause_of(error)}"
        ) from None
    answers = found if isinstance(found, list) else [found]
    outputs = values_in([torch.from_numpy(answer) for answer in answers])
    if len(outputs) != len(wanted):
        raise ParityError(
            f"export: {target}: the file answers with {len(outputs)} numbers, the "
            f"network with {len(wanted)}; "
            "nothing was written"
        )
    inner = next((part for part in model.modules() if isinstance(part, QuantizedNetwork)), None)
    parity(
        outputs,
        wanted,
        target,
        quantized=inner is not None or target.rounds(),
        noise=UNSEEN,
        eight=inner is not None and in_eight_bits(inner),
        on="the example; nothing was written",
    )


def noise(shape: tuple[int, ...], pixels: bool) -> Tensor:
    """Return the same noise at every call: normal, or even over 0..255."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=draw) * 255 if pixels else torch.randn(shape, generator=draw)


def in_eight_bits(model: QuantizedNetwork) -> bool:
    """Return whether some weights of a network have 8 bits."""
    return any(layer.rounding is not None and layer.rounding.bits == 8 for layer in model.layers())


def parity(
    outputs: Tensor,
    simulated: Tensor,
    target: Target,
    quantized: bool,
    eight: bool = False,
    noise: float = NOISE,
    on: str = "the test images",
) -> dict[str, Any]:
    """Compare the outputs of a file with PyTorch's; raise if they are too far apart.

    A float file may differ by `target.precise` of the largest output. Integer arithmetic rounds
    ties its own way, so a quantized file is held to the noise it adds (rms, at most 0.1 of the
    outputs on images); how often its answers agree is in the record. `eight`: some of its weights
    have 8 bits. `on` names the inputs.
    """
    gap = outputs - simulated
    if quantized:
        name = "artefact = simulated (rms)"
        tolerance = noise
        found = float(gap.square().mean().sqrt() / simulated.square().mean().sqrt().clamp_min(1e-9))
    else:
        name = "exported = PyTorch"
        tolerance = target.precise
        found = float(gap.abs().max() / simulated.abs().max().clamp_min(1e-9))
    if not np.isfinite(found) or found > tolerance:
        why = (
            (
                "; this processor has no VNNI, and sums of 8-bit weights saturate on it: "
                "quantize(..., reduce_range=True) "
                "keeps them from it"
            )
            if eight and target.ending == "onnx" and saturates()
            else ""
        )
        raise ParityError(
            f"{target}: the gate '{name}' failed: outputs differ by {found:.2g} of their "
            "size, at most "
            f"{tolerance:g} is allowed, on {on}{why}"
        )
    return {"name": name, "difference": found, "tolerance": tolerance}
