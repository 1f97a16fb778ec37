"""Run one exported file in a process of its own, so that a crash affects nothing else.

Both accuracy and latency are measured in such a process. If a runtime crashes, that is one line of
error, and the rest of the grid is still measured. Arrays go through .npz files, so that the process
loads nothing but numpy and the runtime.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from ..errors import LissomError
from ..system.processes import command, ended, surroundings
from ..system.scratch import temporary
from .inputs import Input

OUTPUT_FILE = "said.txt"  # what the process and its runtime print
TAIL_BYTES = 1 << 14  # bytes of it that are read if the process dies


class Process:
    """A process that `file_process` started: runs the file and returns outputs and times."""

    def __init__(self, target: str, process: subprocess.Popen[str], folder: Path) -> None:
        self.target = target
        self.process = process
        self.folder = folder
        self.load_ms = 0.0
        self.peak_mib: float | None = None  # if unknown
        self.resident_mib: float | None = None
        self.joules: float | None = None  # of the last calls of `times`, all processes together

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send an order and return the answer. Raises LissomError if the process dies."""
        stdin = self.process.stdin
        stdout = self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            output = tail_of(self.folder / OUTPUT_FILE).strip().splitlines() or ["none"]
            raise LissomError(
                f"{self.target}: the process that runs the file "
                f"{ended(self.process.returncode)}; its last "
                f"words: {output[-1].strip()[:200]}"
            )
        return dict(json.loads(line))

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return all outputs (n ...) of the file for all its inputs (n ...)."""
        input_file = self.folder / "given.npz"
        output_file = self.folder / "made.npz"
        np.savez(input_file, *inputs)
        self.ask({"given": str(input_file), "made": str(output_file)})
        with np.load(output_file, allow_pickle=False) as outputs:
            return [outputs[name] for name in outputs.files]

    def times(self, seconds: float) -> list[float]:
        """Run one batch of noise for some seconds and return the ms of each call. Waits until the
        runtime's threads sleep; the energy in `joules` is without that wait.
        """
        answer = self.ask({"seconds": seconds})
        self.joules = answer["joules"]
        self.peak_mib = answer["peak_mib"]
        return list(answer["times_ms"])

    def ms(self, seconds: float) -> float:
        """Run one batch of noise for some seconds and return the median ms of a call."""
        return median(self.times(seconds))

    def layers(self, times: int) -> list[tuple[str, float]] | None:
        """Return name and ms of each layer, medians of `times` runs; None if it cannot be profiled."""
        times_ms = self.ask({"profile": times})["layers"]
        return times_ms if times_ms is None else [(name, ms) for name, ms in times_ms]


@contextmanager
def file_process(
    target: str,
    path: Path,
    inputs: Sequence[Input],
    *,
    threads: int = 1,
    cpus: Sequence[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Start a process that loads a file and runs it once on noise, and end it afterwards.

    It runs only on the processors `cpus`, or on any if None. `environment` has further environment
    variables. Raises LissomError if the process dies, now or during any order.
    """
    variables = surroundings(
        OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), **(environment or {})
    )
    # Files are timed with the runtime's own way of waiting for threads. If threads sleep while they
    # wait, as training on a busy machine sets it, PyTorch takes twice as long on two threads, and
    # the other runtimes would look better than they are.
    variables.pop("OMP_WAIT_POLICY", None)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary())
        # not a pipe: nobody reads while the process runs, and a full pipe stops a runtime that prints
        output = stack.enter_context((folder / OUTPUT_FILE).open("wb"))
        process = subprocess.Popen(
            command("lissom.bench.child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=variables,
        )
        for pipe in filter(None, (process.stdin, process.stdout)):
            stack.callback(_close, pipe)
        stack.callback(process.wait)
        stack.callback(process.kill)
        running = Process(target, process, folder)
        answer = running.ask(
            {
                "target": target,
                "path": str(path.resolve()),
                "threads": threads,
                "inputs": [each.json() for each in inputs],
                "cpus": cpus,
            }
        )
        running.load_ms = answer["load_ms"]
        running.resident_mib = answer["resident_mib"]
        yield running


def tail_of(file: Path) -> str:
    """Return the end of a text file, which may be of any length."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return opened.read().decode("utf-8", errors="replace")


def _close(pipe: IO[str]) -> None:
    with suppress(BrokenPipeError):
        pipe.close()
