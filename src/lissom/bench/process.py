"""A process that has loaded one file: what the file does to it, it does to nothing else.

Every exported file runs in such a process, for its accuracy as for its latency: a runtime that dies
is one line, and the rest of the grid is measured. Arrays go through .npz files, so that nothing but
numpy and the runtime is loaded there.
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


class Process:
    """Answers and milliseconds, from the process that `loaded` starts."""

    def __init__(self, target: str, process: subprocess.Popen[str], folder: Path) -> None:
        self.target = target
        self.process = process
        self.folder = folder
        self.load_ms = 0.0
        self.peak_mib: float | None = None  # where the system does not say
        self.resident_mib: float | None = None

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send an order and return the answer; raise if the process died over it."""
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
            errors: IO[str] | None = self.process.stderr
            said = (errors.read().strip().splitlines() if errors else []) or ["none"]
            raise LissomError(
                f"{self.target}: the process that runs the file "
                f"{ended(self.process.returncode)}; its last "
                f"words: {said[-1].strip()[:200]}"
            )
        return dict(json.loads(line))

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return all outputs (n ...) of the file for all its inputs (n ...)."""
        given = self.folder / "given.npz"
        made = self.folder / "made.npz"
        np.savez(given, *inputs)
        self.ask({"given": str(given), "made": str(made)})
        with np.load(made, allow_pickle=False) as held:
            return [held[name] for name in held.files]

    def times(self, seconds: float) -> list[float]:
        """Run one batch of noise for a while and return the ms of each call; no thread of it runs
        afterwards.
        """
        answer = self.ask({"seconds": seconds})
        self.peak_mib = answer["peak_mib"]
        return list(answer["times_ms"])

    def ms(self, seconds: float) -> float:
        """Run one batch of noise for a while and return the median of the calls, in ms."""
        return median(self.times(seconds))

    def layers(self, times: int) -> list[tuple[str, float]] | None:
        """Return the ms of each layer by name, medians of so many runs; None where the runtime does
        not say.
        """
        times_ms = self.ask({"profile": times})["layers"]
        return times_ms if times_ms is None else [(name, ms) for name, ms in times_ms]


@contextmanager
def loaded(
    target: str,
    path: Path,
    inputs: Sequence[Input],
    *,
    threads: int = 1,
    cpus: Sequence[int] | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Start a process that has loaded a file and run it once on noise for its `inputs`; end it
    afterwards.

    `cpus`: it runs on these processors alone. `more` are environment variables.
    Raises LissomError if it dies, then or over any order.
    """
    settings = surroundings(
        OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), **(more or {})
    )
    # Files are timed with threads as their runtime has them. If threads sleep while they wait, as
    # training on a busy machine wants it, PyTorch takes twice the time on two of them: the other
    # runtimes would look better beside it than they are.
    settings.pop("OMP_WAIT_POLICY", None)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary())
        process = subprocess.Popen(
            command("lissom.bench.child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=settings,
        )
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
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


def _close(pipe: IO[str]) -> None:
    with suppress(BrokenPipeError):
        pipe.close()
