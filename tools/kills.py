"""Kill runs at random times and check that they still finish with the same results.

Each round starts a small recipe in a fresh store, kills it a few times, lets it finish, and
compares it with an undisturbed run: the same files bit by bit, no unfinished files in the store or
the temporary folder, and no process left.

    python tools/kills.py --kills 200 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lissom.system.processes import ended

RECIPE = (
    'train(2, batch=128) | prune(0.5, multiple=4) | distill("kd + fmse", 2, batch=128, share=0.5) | '
    "quantize(8, 4, samples=64) | train(1, batch=128, lr=0.01)"
)
NETWORK = ("--data", "digits", "--model", "resnet8", "--size", "8")
TO = ("--to", "onnxruntime")
SIGNALS = [
    getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT") if hasattr(signal, name)
]
MOST_S = 1200  # time limit of one run
PATIENCE_S = 60  # time limit for the children of a killed process to end
FORK = "fork" in multiprocessing.get_all_start_methods()
# with fork, PyTorch is imported only once
START: Any = multiprocessing.get_context("fork" if FORK else "spawn")


def run(words: list[str], scratch: str, log: str) -> None:
    """Run the command line in this process, as the leader of a new session."""
    if hasattr(os, "setsid"):
        os.setsid()
    os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch), OMP_NUM_THREADS="1")
    tempfile.tempdir = None
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    from lissom.cli.main import main

    main(words)


class Round:
    """A run with its own store and temporary folder, and the sessions of all processes it started."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.store, self.scratch, self.log = folder / "a store", folder / "tmp", folder / "log.txt"
        self.scratch.mkdir(parents=True)
        self.words = [
            "run",
            RECIPE,
            *NETWORK,
            "--checkpoint",
            "0.00001",
            "--store",
            str(self.store),
            *more,
        ]
        self.sessions: set[int] = set()

    def start(self) -> Any:
        """Start the run in a new process and return it."""
        process = START.Process(target=run, args=(self.words, str(self.scratch), str(self.log)))
        process.start()
        self.sessions.add(process.pid)
        return process

    def finish(self) -> float:
        """Run to the end and return the seconds. Raises SystemExit if the run fails."""
        begin, process = time.monotonic(), self.start()
        process.join(MOST_S)
        if process.exitcode != 0:
            said = self.log.read_text(encoding="utf-8", errors="replace")
            raise SystemExit(
                f"a run that nobody killed {ended(process.exitcode or 0)}:\n{said[-3000:]}"
            )
        return time.monotonic() - begin

    def kill(self, draw: random.Random, within_s: float) -> str | None:
        """Start the run and send a signal at a random time; return the signal and its receiver,
        None if the run had ended.
        """
        process = self.start()
        process.join(draw.uniform(0, within_s))
        sent = None if process.exitcode is not None else send(process, draw.choice(SIGNALS), draw)
        process.join(MOST_S)  # if only a child was killed, the run continues
        return sent

    def left(self) -> list[str]:
        """Return what should not be left behind: unfinished files and folders, and processes."""
        end = time.monotonic() + PATIENCE_S
        while (processes := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        begun = [
            path for path in self.store.rglob("*") if path.name.startswith((".", "checkpoint"))
        ]
        return sorted(
            [str(path.relative_to(self.store)) for path in begun if ".locks" not in path.parts]
            + [path.name for path in self.scratch.iterdir()]
            + processes
        )

    def processes(self) -> list[str]:
        """Return the processes of the round that still run, [] if the system has no sessions."""
        found = []
        for process in psutil.process_iter() if hasattr(os, "getsid") else ():
            with contextlib.suppress(psutil.Error, OSError):  # the process has ended
                if (
                    os.getsid(process.pid) in self.sessions
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(f"process {process.pid}: {' '.join(process.cmdline())[:100]}")
        return found

    def content(self) -> dict[str, Any]:
        """Return the content of every file that runs of the same recipe must have in common, bit by
        bit; of logs all except the times.
        """
        found: dict[str, Any] = {
            str(path.relative_to(self.store)): path.read_bytes()
            for path in self.store.rglob("*")
            if path.suffix in (".safetensors", ".onnx") or path.name == "structure.json"
        }
        for path in self.store.rglob("log.jsonl"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[str(path.relative_to(self.store))] = [{**row, "seconds": None} for row in rows]
        return found


def send(process: Any, number: int, draw: random.Random) -> str | None:
    """Send a signal to the run, to one of its child processes, or to all; return the signal and the
    receiver, None if there was no process.
    """
    name, whom = signal.Signals(number).name, draw.choice(["parent", "child", "group"])
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        if whom == "child":
            children: list[psutil.Process] = []
            while not children and process.exitcode is None:  # wait for the next child
                children = psutil.Process(process.pid).children(recursive=True)
                time.sleep(0.001)
            if not children:
                return None
            draw.choice(children).send_signal(number)
        elif whom == "group" and hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        return f"{name} to {whom}"
    return None


def kills(count: int, seed: int, each: int = 5, say: Callable[[str], None] = print) -> Counter[str]:
    """Kill runs `count` times, up to `each` times per store before the run may finish; return
    counts of signals by receiver.

    In every second store the run also exports and measures. Raises SystemExit if results differ or
    anything is left behind.
    """
    draw, done, number = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        took: dict[tuple[str, ...], float] = {}
        wanted: dict[tuple[str, ...], dict[str, Any]] = {}
        usual: list[str] = []
        while sum(done.values()) < count:
            more, number = (TO if number % 2 else ()), number + 1
            if more not in wanted:
                whole = Round(Path(root) / f"whole {number}", *more)
                took[more], wanted[more] = whole.finish(), whole.content()
                usual = whole.left()  # PyTorch makes an empty folder for temporary files
            this = Round(Path(root) / f"round {number}", *more)
            for before in range(min(each, count - sum(done.values()))):
                # a run resumes where it was killed, so less and less time is left
                sent = this.kill(draw, 0.8 * took[more] / (1 + before))
                if sent is None:  # the run had finished
                    break
                done[sent] += 1
            this.finish()
            found, left = this.content(), sorted({*this.left()} - {*usual})
            names = wanted[more].keys() | found.keys()
            differing = sorted(name for name in names if wanted[more].get(name) != found.get(name))
            if differing or left:
                raise SystemExit(
                    f"round {number} (seed {seed}): differing: {differing}; left behind: {left}"
                )
            say(f"{sum(done.values())} kills, {number} stores, all equal, nothing left")
    return done


def warm() -> None:
    """Import the modules that a run needs, once for all forked processes."""
    for name in (
        "onnxscript",
        "torch.onnx",
        "torch._dynamo",  # which optimizers import when they learn
        "lissom.running.execute",
        "lissom.report.live",
        "lissom.report.table",
        "lissom.targets.onnxruntime",
    ):
        importlib.import_module(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Kill runs at random times and compare what they end in."
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if FORK:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        warm()
    for outcome, times in sorted(
        kills(given.kills, given.seed, say=lambda text: print(text, flush=True)).items()
    ):
        print(f"{times:4} x {outcome}")
    sys.exit(0)
