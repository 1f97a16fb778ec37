"""What a file would answer, and how fast, on a processor without the newer instructions."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

from ..language.target import Target
from .cores import quiet_cores
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
SECONDS = 0.2  # that a file is timed


def capped(
    target: Target, path: Path, images: np.ndarray, cap: str
) -> tuple[np.ndarray, float] | None:
    """Return outputs for `images` (n c h w) and the median ms of one image, as with no more than `cap`.

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
    with loaded(
        str(target), path, (1, *images.shape[1:]), cpus=quiet_cores(1), more=settings
    ) as process:
        outputs = np.concatenate(
            [process.run(images[k : k + 250]) for k in range(0, len(images), 250)]
        )
        process.ms(SECONDS / 4)  # which warms up
        return outputs, process.ms(SECONDS)
