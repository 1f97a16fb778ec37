"""Kill a run again and again, at random, and look whether it ends as if nothing had happened.

Each round runs a small recipe in a fresh store, is killed a few times, runs on to its end, and is
compared with a run that nobody killed: the same files bit by bit, nothing left in the store or
among the temporary files, no process left.

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
MOST_S = 1200  # that one run may take
PATIENCE_S = 60  # until whatever a killed process started has ended
FORK = "fork" in multiprocessing.get_all_start_methods()
# forked, PyTorch is imported once for all
START = multiprocessing.get_context("fork" if FORK else "spawn")


def run(words: list[str], scratch: str, log: str) -> None:
    """Be a run of the command line, at the head of a session of its own."""
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
    """A store of its own, a folder of its own for temporary files, and the processes that it began with."""

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
        """Start the run."""
        process = START.Process(target=run, args=(self.words, str(self.scratch), str(self.log)))
        process.start()
        self.sessions.add(process.pid)
        return process

    def finish(self) -> float:
        """Run to the end; return the seconds it took."""
        begin, process = time.monotonic(), self.start()
        process.join(MOST_S)
        if process.exitcode != 0:
            said = self.log.read_text(encoding="utf-8", errors="replace")
            raise SystemExit(
                f"a run that nobody killed {ended(process.exitcode or 0)}:\n{said[-3000:]}"
            )
        return time.monotonic() - begin

    def kill(self, draw: random.Random, within_s: float) -> str | None:
        """Start the run and send a signal somewhere at a random time; return which and to whom,
        None if it was too late.
        """
        process = self.start()
        process.join(draw.uniform(0, within_s))
        sent = None if process.exitcode is not None else send(process, draw.choice(SIGNALS), draw)
        process.join(MOST_S)  # with a child killed the run itself goes on
        return sent

    def left(self) -> list[str]:
        """Return what lies about that should not: folders and files of what was not finished, and
        processes.
        """
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
        """Return what still runs of all that the round started; nothing where the system knows no
        sessions.
        """
        found = []
        for process in psutil.process_iter() if hasattr(os, "getsid") else ():
            with contextlib.suppress(psutil.Error, OSError):  # gone
                if (
                    os.getsid(process.pid) in self.sessions
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(f"process {process.pid}: {' '.join(process.cmdline())[:100]}")
        return found

    def content(self) -> dict[str, Any]:
        """Return every file that a run of the same recipe must make again, bit by bit; of logs all
        but the time.
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
    """Send a signal to the run, to a process that it started, or to all; return which to whom, None
    if nobody was there.
    """
    name, whom = signal.Signals(number).name, draw.choice(["parent", "child", "group"])
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        if whom == "child":
            children: list[psutil.Process] = []
            while not children and process.exitcode is None:  # the next one that it starts
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
    """Kill `count` runs, about `each` of them in one store before it is let run to its end; return
    what was sent to whom.

    Every second store is that of a run which exports and measures, too. Raises SystemExit for what
    differs or is left.
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
                # it goes on where it was: less and less is left
                sent = this.kill(draw, 0.8 * took[more] / (1 + before))
                if sent is None:  # it was done before
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
    """Import what a run does, once for all that are forked."""
    for name in (
        "onnxscript",
        "torch.onnx",
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
