"""Run mutants in a watched child process, and start a new one if it hangs or dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .child import MEMORY, SECONDS

SCRIPT = Path(__file__).parents[1] / "fuzz.py"
FRESH = 20_000  # mutants per child, because caches grow
ASLEEP = 60.0  # a mutant hangs after this many seconds without processor time
EACH = 5  # mutants to keep per fault


@dataclass
class Found:
    """The results of one family: the number of mutants read, the number that worked, and the
    mutants of each fault.
    """

    count: int = 0
    works: int = 0
    faults: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0


def run(
    name: str,
    *,
    seed: int,
    first: int,
    count: int,
    folder: Path,
    kept: Path | None,
    seconds: float = float("inf"),
    say: Callable[[str], None] = print,
) -> Found:
    """Read mutants `first` to `first + count` and write those that break a rule to `kept`."""
    found, begin, number = Found(), time.monotonic(), first
    while number < first + count and time.monotonic() - begin < seconds:
        until = min(first + count, number + FRESH)
        done, faults = watched(name, seed, number, until, folder, begin + seconds)
        for row in faults:
            if row.get("alone"):  # earlier mutants may have contributed to the time or memory
                _, faults_alone = watched(
                    name, seed, row["number"], row["number"] + 1, folder, float("inf")
                )
                row = next(
                    iter(faults_alone), {**row, "fault": row["fault"] + ", but not by itself"}
                )
            numbers = found.faults.setdefault(row["fault"], [])
            numbers.append(row["number"])
            if len(numbers) == 1:
                say(f"{name}: number {row['number']}: {row['fault']}")
            if kept is not None and len(numbers) <= EACH:
                keep(kept, name, seed, row)
        found.count += done["count"]
        found.works += done["works"]
        number += done["count"]
    found.seconds = time.monotonic() - begin
    return found


def keep(folder: Path, name: str, seed: int, row: dict[str, Any]) -> None:
    """Write a mutant to a file for `--replay`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{row['number']}.json").write_text(json.dumps({"seed": seed, **row}))


def watched(
    name: str, seed: int, first: int, last: int, folder: Path, until: float
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Read mutants in one child until all are read, one ends the child, or time is up; return
    counts and rows of faults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "TEMP": str(folder),
        "TMP": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = [
        sys.executable,
        str(SCRIPT),
        "--serve",
        name,
        "--seed",
        str(seed),
        "--first",
        str(first),
        "--count",
        str(last - first),
        "--folder",
        str(folder),
    ]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=folder,
            env={**os.environ, **place},
        ) as child,
    ):
        state: dict[str, Any] = {"at": None, "rows": [], "ready": False}
        reader = threading.Thread(target=_listen, args=(child, state), daemon=True)
        reader.start()
        ended = _wait(child, state, until)
        reader.join()
        child.wait()
        rows, at = state["rows"], state["at"]
        done = next((row for row in rows if "works" in row), None)
        faults = [row for row in rows if "fault" in row]
        for row in faults:
            row["alone"] = last - first > 1 and row["fault"].startswith("it took")
        if done is not None:
            return done, faults
        said.seek(0)
        last_words = said.read().decode(errors="replace").strip().splitlines()[-3:]
        if not state["ready"]:
            raise SystemExit(f"fuzz: the seeds of {name} cannot be read: {' / '.join(last_words)}")
        count = (at if at is not None else first) - first
        if ended != "time":
            faults.append(
                {
                    "number": at if at is not None else first,
                    "fault": ended
                    or f"its process ended with {child.returncode}: {' '.join(last_words)[-100:]}",
                    "alone": bool(ended) and last - first > 1,  # a busy machine may be the cause
                }
            )
            count += 1
        return {"count": count, "works": max(0, count - len(faults))}, faults


def _listen(child: subprocess.Popen[str], state: dict[str, Any]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line[:1] == "{":
            with suppress(ValueError):  # an incomplete line
                state["rows"].append(json.loads(line))
        elif line == "ready\n":
            state["ready"] = True
        elif line.endswith("\n"):
            state["at"] = int(line)


def _wait(child: subprocess.Popen[str], state: dict[str, Any], until: float) -> str:
    """Wait for a child to end; kill it if a mutant takes too much, and return why."""
    process, at, spent, took, since, honest = (
        psutil.Process(child.pid),
        None,
        0.0,
        0.0,
        time.monotonic(),
        0,
    )
    with suppress(psutil.Error):
        while child.poll() is None:
            time.sleep(0.05)
            if not state["ready"]:
                continue
            times, held = process.cpu_times(), process.memory_info().rss
            now, honest = times.user + times.system, honest or held
            if state["at"] != at:
                at, spent = state["at"], now
            if now != took:  # it is not hanging: on a busy machine it waits for its turn
                took, since = now, time.monotonic()
            why = ""
            if now - spent > 1.5 * SECONDS or time.monotonic() - since > ASLEEP:
                why = "it hangs"
            elif held - honest > 3 * MEMORY:
                why = f"it took more than {3 * MEMORY >> 20} MiB"
            elif time.monotonic() > until:
                why = "time"
            if why:
                child.kill()
                return why
    return ""


def summary(name: str, found: Found) -> list[str]:
    """Return the results of a family as lines of text."""
    wrong = sum(map(len, found.faults.values()))
    no = found.count - found.works - wrong
    lines = [
        f"{name}: {found.count:,} mutants in {found.seconds:.0f} s: {found.works:,} work, {no:,} "
        "are refused, "
        f"{wrong:,} break the rule"
    ]
    worst = Counter({fault: len(numbers) for fault, numbers in found.faults.items()}).most_common()
    return lines + [
        f"  {count:6} x {fault}: {', '.join(map(str, found.faults[fault][:EACH]))}"
        for fault, count in worst
    ]
