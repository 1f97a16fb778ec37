"""What a file would answer, and how fast, on a processor without the newer instructions."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from ..targets._child import apart
from ..targets._target import Target

CAPS = ("", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2", "SSE41")  # the first is the processor as it is
CALLS = 30


def capped(target: Target, path: Path, images: np.ndarray, cap: str) -> tuple[np.ndarray, float] | None:
    """Return outputs for `images` (n c h w) and the median ms of one image, as with no more than `cap`.

    oneDNN, which OpenVINO computes with, reads the cap from ONEDNN_MAX_CPU_ISA; 8-bit products saturate without VNNI as
    they would there. None where the cap means nothing: on other processors than x86.
    """
    if cap and platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    settings = {"OMP_NUM_THREADS": "1", **({"ONEDNN_MAX_CPU_ISA": cap} if cap else {})}
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "images.npy"), Path(folder, "outputs.npz")
        np.save(given, images)
        apart([sys.executable, "-m", "lissom.bench.capped", str(target), path.resolve(), given, made], Path(folder), made,
              f"{target}: the file, run {f'with no more than {cap}' if cap else 'alone'},",
              "without openvino in --to nothing is capped", **settings)
        with np.load(made) as found:
            return found["outputs"], float(found["ms"])


def main() -> None:
    """Run a file in this process: target, file, images, where outputs go."""
    from ..plan import one_target

    text, path, given, made = sys.argv[1:]
    images = np.load(given)
    run = one_target(text).load(Path(path), 1)
    outputs = np.concatenate([run(images[k:k + 250]) for k in range(0, len(images), 250)])
    times = []
    for k in range(CALLS + 5):
        begin = time.perf_counter()
        run(images[k % len(images)][None])
        times.append(1000 * (time.perf_counter() - begin))
    np.savez(made, outputs=outputs, ms=median(times[5:]))


if __name__ == "__main__":
    main()
