"""Kill a run again and again, at random, and look whether it ends as if nothing had happened.

Each round runs a small recipe in a fresh store, is killed a few times, runs on to its end, and is compared with a run
that nobody killed: the same files bit by bit, nothing left in the store or among the temporary files, no process left.

    python tools/kills.py --kills 200 --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from lissom.processes import surroundings

RECIPE = ('train(2, batch=128) | prune(0.5, multiple=4) | distill("kd + fmse", 2, batch=128, share=0.5) | '
          "quantize(8, 4, images=64) | train(1, batch=128, lr=0.01)")
SIGNALS = [getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT") if hasattr(signal, name)]
MOST_S = 1200  # that one run may take
PATIENCE_S = 30  # until whatever a killed process started has ended


class Round:
    """A store of its own, a folder of its own for temporary files, and a mark that all its processes carry."""

    def __init__(self, folder: Path, more: tuple[str, ...] = ()) -> None:
        self.store, self.scratch, self.mark = folder / "a store", folder / "tmp", f"{folder.name}-{os.getpid()}"
        self.scratch.mkdir(parents=True)
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.scratch))
        self.variables = surroundings(LISSOM_KILLS=self.mark, OMP_NUM_THREADS="1", **temporary)
        network = ["--data", "digits", "--model", "resnet8", "--size", "16", "--to", "onnxruntime"]
        self.words = [sys.executable, "-m", "lissom.cli", "run", RECIPE, *network, "--checkpoint", "0.0001",
                      "--store", str(self.store), *more]

    def start(self) -> subprocess.Popen[str]:
        """Start the run as the head of a group of its own."""
        return subprocess.Popen(self.words, env=self.variables, start_new_session=True, text=True, encoding="utf-8",
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self) -> float:
        """Run to the end; return the seconds it took."""
        begin = time.monotonic()
        process = self.start()
        _, said = process.communicate(timeout=MOST_S)
        if process.returncode:
            raise SystemExit(f"the run that nobody killed ended with {process.returncode}:\n{said[-3000:]}")
        return time.monotonic() - begin

    def kill(self, draw: random.Random, within_s: float) -> str:
        """Start the run, send a signal somewhere at a random time; return what was done."""
        process, after = self.start(), draw.uniform(0, within_s)
        try:
            process.wait(after)
            outcome = "finished before"
        except subprocess.TimeoutExpired:
            number, whom = draw.choice(SIGNALS), draw.choice(["parent", "child", "group"])
            whom = send(process, number, whom, draw)
            outcome = f"{signal.Signals(number).name} to {whom}"
        process.communicate(timeout=MOST_S)  # with a child killed the run itself goes on
        return outcome

    def left(self) -> list[str]:
        """Return what lies about that should not: folders and files of what was not finished, and processes."""
        end = time.monotonic() + PATIENCE_S
        while (processes := marked(self.mark)) and time.monotonic() < end:
            time.sleep(0.2)
        beside = [str(path) for path in self.store.iterdir() if path.name.startswith(".") and path.name != ".locks"]
        inside = [str(path) for path in self.store.rglob("*") if path.parent.name != ".locks"
                  and (path.name.startswith((".", "checkpoint")) and path.name != ".locks")]
        return sorted({*beside, *inside, *map(str, self.scratch.iterdir()), *processes})

    def content(self) -> dict[str, Any]:
        """Return every file that a run of the same recipe must make again, bit by bit; of logs all but the time."""
        found: dict[str, Any] = {str(path.relative_to(self.store)): path.read_bytes() for path in self.store.rglob("*")
                                 if path.suffix in (".safetensors", ".onnx") or path.name == "structure.json"}
        for path in self.store.rglob("log.jsonl"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[str(path.relative_to(self.store))] = [{**row, "seconds": None} for row in rows]
        return found


def send(process: subprocess.Popen[str], number: int, whom: str, draw: random.Random) -> str:
    """Send a signal to the run, to one of the processes it started, or to all; return to whom."""
    if whom == "child":
        children: list[psutil.Process] = []
        while not children and process.poll() is None:  # the next one that it starts
            children = psutil.Process(process.pid).children(recursive=True) if psutil.pid_exists(process.pid) else []
            time.sleep(0.001)
        if children:
            try:
                draw.choice(children).send_signal(number)
            except psutil.NoSuchProcess:
                return "child that had ended"
            return "child"
        return "child, but there was none"
    if whom == "group" and hasattr(os, "killpg"):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return whom


def marked(mark: str) -> list[str]:
    """Return the processes that a round started and that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LISSOM_KILLS") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid}: {' '.join(process.cmdline())[:100]}")
        except (psutil.Error, OSError):  # another user's, or gone
            continue
    return found


def kills(count: int, seed: int, each: int = 4, say: Any = print) -> Counter[str]:
    """Kill `count` runs, `each` of them in one store before it is let run to its end; return what was sent to whom."""
    draw, done = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        whole = Round(Path(root) / "whole")
        took = whole.finish()
        wanted = whole.content()
        number = 0
        while sum(done.values()) < count:
            number += 1
            this = Round(Path(root) / f"round {number}")
            for _ in range(each):
                outcome = this.kill(draw, took)
                done[outcome] += not outcome.startswith("finished")
            this.finish()
            found, left = this.content(), this.left()
            differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            if differing or left:
                raise SystemExit(f"round {number} (seed {seed}): differing: {differing}; left behind: {left}")
            say(f"{sum(done.values())} kills, {number} stores, all equal, nothing left")
    return +done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for outcome, times in sorted(kills(given.kills, given.seed).items()):
        print(f"{times:4} x {outcome}")
