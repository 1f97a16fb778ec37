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
from .threads import settle


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

    shown = noise([Input.of(each) for each in job["inputs"]])
    start = time.perf_counter()
    target: Any = method_of("targets", job["target"])
    import_module(target.module)
    before = resident_mib()
    run = target.load(Path(job["path"]), job["threads"])
    run(shown)
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
            with np.load(order["given"], allow_pickle=False) as held:
                outputs = run([held[name] for name in held.files])
            np.savez(order["made"], *outputs)
            answer({})
            continue
        if "profile" in order:
            answer(
                {
                    "layers": target.profile(
                        Path(job["path"]), shown, job["threads"], order["profile"]
                    )
                }
            )
            continue
        answer(timed(partial(run, shown), order["seconds"], meter) | {"peak_mib": peak_mib()})


def timed(
    run: Callable[[], object],
    seconds: float,
    meter: Meter,
    rest: Callable[[], object] = settle,
) -> dict[str, Any]:
    """Call `run` for about some seconds; return the ms of each call, and the joules of all calls,
    None if unknown. Then wait with `rest`, which does not count.
    """
    times: list[float] = []
    meter.joules()
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begin))
    joules = meter.joules()
    rest()
    return {"times_ms": times, "joules": joules}


if __name__ == "__main__":
    main()
