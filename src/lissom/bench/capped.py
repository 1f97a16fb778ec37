"""The outputs and the latency of a file on a processor without the newer instructions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..language.target import Target
from .cores import quiet_cores
from .inputs import Input
from .machine import machine
from .process import file_process

# oneDNN's names of caps, and the instruction set that a processor needs for each
CAPS = {
    "": "",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE": "avx512f",
    "AVX2": "avx2",
    "SSE41": "",
}
BATCH_SAMPLES = 250
TIMING_S = 0.2  # of timing per file


def run_capped(
    target: Target, path: Path, samples: Sequence[np.ndarray], cap: str
) -> tuple[list[np.ndarray], float] | None:
    """Return all outputs for `samples`, the inputs (n ...) of a file, and the median ms of one
    sample, with the instruction sets limited to `cap`.

    oneDNN, which OpenVINO uses, reads the cap from ONEDNN_MAX_CPU_ISA. Without VNNI, 8-bit products
    saturate as they do on an old processor. "" is no cap. Returns None if the cap has no meaning:
    on processors that are not x86, or that lack these instructions themselves.
    """
    if cap and platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    isa = machine()["isa"]
    if isa and CAPS[cap] and CAPS[cap] not in isa:
        return None
    settings = {"ONEDNN_MAX_CPU_ISA": cap} if cap else {}
    inputs = [Input.like(part) for part in samples]
    with file_process(
        str(target), path, inputs, cpus=quiet_cores(1), environment=settings
    ) as process:
        batches = [
            process.run([part[k : k + BATCH_SAMPLES] for part in samples])
            for k in range(0, len(samples[0]), BATCH_SAMPLES)
        ]
        outputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        process.ms(TIMING_S / 4)  # warm-up
        return outputs, process.ms(TIMING_S)
