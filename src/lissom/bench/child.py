"""The process that runs one file: it reads orders, one JSON object per line, and answers likewise.

The first order is {target, path, threads, inputs, cpus}; the answer is {load_ms, resident_mib}.
Then, until the input ends: {"seconds": s} runs noise for about s seconds and answers with the
milliseconds of each call, and the joules of all; {given, made} runs the arrays of one .npz file and
writes the outputs to another; {"profile": n} answers with the layers and their ms, medians of n
runs. Only the target's own library is imported here, so that memory and load time are those of the
file and the runtime.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from .energy import Meter
from .memory import peak_mib, resident_mib
from .threads import wait_for_threads


def main() -> None:
    """Serve orders from standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a runtime prints must not mix with the answers

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    if job["cpus"]:  # before importing anything that starts threads
        psutil.Process().cpu_affinity(job["cpus"])
    import numpy as np

    from ..language.parse_methods import method_of
    from .inputs import Input, noise

    noise_inputs = noise([Input.of(each) for each in job["inputs"]])
    start = time.perf_counter()
    target: Any = method_of("targets", job["target"])
    import_module(target.module)
    before = resident_mib()
    run = target.load(Path(job["path"]), job["threads"])
    run(noise_inputs)
    load_ms = 1000 * (time.perf_counter() - start)
    after = resident_mib()
    answer(
        {
            "load_ms": load_ms,
            "resident_mib": None if after is None or before is None else after - before,
        }
    )
    meter = Meter()
    for line in sys.stdin:
        order = json.loads(line)
        if "given" in order:
            with np.load(order["given"], allow_pickle=False) as arrays:
                outputs = run([arrays[name] for name in arrays.files])
            np.savez(order["made"], *outputs)
            answer({})
            continue
        if "profile" in order:
            answer(
                {
                    "layers": target.profile(
                        Path(job["path"]), noise_inputs, job["threads"], order["profile"]
                    )
                }
            )
            continue
        answer(
            time_calls(partial(run, noise_inputs), order["seconds"], meter)
            | {"peak_mib": peak_mib()}
        )


def time_calls(
    run: Callable[[], object],
    seconds: float,
    meter: Meter,
    wait: Callable[[], object] = wait_for_threads,
) -> dict[str, Any]:
    """Call `run` for about some seconds; return the ms of each call, and the joules of all calls,
    None if unknown. Then call `wait`; its time does not count.
    """
    times: list[float] = []
    meter.joules()
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begin))
    joules = meter.joules()
    wait()
    return {"times_ms": times, "joules": joules}


if __name__ == "__main__":
    main()
