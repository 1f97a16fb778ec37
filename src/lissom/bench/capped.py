"""What a file would answer, and how fast, on a processor without the newer instructions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..language.target import Target
from .cores import quiet_cores
from .inputs import Input
from .machine import machine
from .process import loaded

# oneDNN's words, and the instructions that a processor has which they name
CAPS = {
    "": "",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE": "avx512f",
    "AVX2": "avx2",
    "SSE41": "",
}
BATCH = 250  # samples that are run at once
SECONDS = 0.2  # that a file is timed


def capped(
    target: Target, path: Path, samples: Sequence[np.ndarray], cap: str
) -> tuple[list[np.ndarray], float] | None:
    """Return all outputs for samples, all inputs (n ...) of a file, and the median ms of one
    sample, as with no more than `cap`.

    oneDNN, which OpenVINO computes with, reads the cap from ONEDNN_MAX_CPU_ISA; 8-bit products
    saturate without VNNI as they would there; no cap is the processor as it is. None where the cap
    means nothing: on processors that are not x86, or do not have so much themselves.
    """
    if cap and platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    isa = machine()["isa"]
    if isa and CAPS[cap] and CAPS[cap] not in isa:
        return None
    settings = {"ONEDNN_MAX_CPU_ISA": cap} if cap else {}
    inputs = [Input((1, *part.shape[1:]), str(part.dtype)) for part in samples]
    with loaded(str(target), path, inputs, cpus=quiet_cores(1), more=settings) as process:
        batches = [
            process.run([part[k : k + BATCH] for part in samples])
            for k in range(0, len(samples[0]), BATCH)
        ]
        outputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        process.ms(SECONDS / 4)  # which warms up
        return outputs, process.ms(SECONDS)
