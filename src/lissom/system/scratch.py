"""Folders for unfinished work, and files that are written completely or not at all.

The name of a folder contains the machine and process that made it, so that a later process can tell
whether a killed one left it behind. A folder is made next to its final place, so that one rename
finishes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ..errors import LissomError

NAMED = re.compile(r"(?:\.new|lissom)-([0-9a-f]{6})-([0-9]+)-")
DAY_S = 86_400
FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))
OWN: set[str] = set()  # the names of the folders that this process uses


def machine_mark() -> str:
    """Return six hexadecimal digits that identify this machine."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


@contextmanager
def _held(begin: str, root: Path | None, what: str, refused: str, cure: str) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{begin}-{machine_mark()}-{os.getpid()}-", dir=root))
    except OSError as error:
        raise LissomError(f"{what} cannot be written ({error}){refused}") from None
    OWN.add(folder.name)
    try:
        yield folder
    except OSError as error:
        if error.errno in FULL:
            raise LissomError(
                f"{what if root else folder.parent} is full ({error}); {cure}"
            ) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        OWN.discard(folder.name)


@contextmanager
def scratch(
    root: Path, where: str = "store", cure: str = "`lissom store --prune` frees space"
) -> Iterator[Path]:
    """Yield an empty folder in `root`, which is deleted afterwards in any case."""
    with _held(".new", root, f"{where}: {root}", "", cure) as folder:
        yield folder


@contextmanager
def temporary() -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, which is deleted afterwards."""
    cure = "TMPDIR names another folder"
    with _held("lissom", None, "temporary files", f"; {cure}", cure) as folder:
        yield folder


@contextmanager
def written(path: Path, where: str) -> Iterator[Path]:
    """Yield a path of the same name in a folder next to `path`; the file written there replaces
    `path` if the block succeeds.

    Files that the block writes next to it are moved as well. Raises LissomError, which begins with
    `where`, if the system refuses. After a full disk or a kill, `path` has its old content.
    """
    goal = path.resolve()  # follow links
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        if goal.exists() and not goal.is_file() and not goal.is_dir():  # a device or a pipe
            with temporary() as folder:
                yield folder / path.name
                goal.write_bytes((folder / path.name).read_bytes())
            return
        sweep(goal.parent)
        with scratch(goal.parent, where, "nothing was written") as folder:
            yield folder / goal.name
            # move the file itself last
            for part in sorted(folder.iterdir(), key=lambda part: part.name == goal.name):
                os.replace(part, goal.with_name(part.name))
    except Exception as error:
        # libraries may raise their own exceptions for a full disk
        if isinstance(error, OSError) or "No space left" in str(error):
            raise LissomError(f"{where}: {path} cannot be written ({_line(error)})") from None
        raise


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def sweep(*roots: Path) -> None:
    """Delete the scratch folders in `roots` that killed processes left behind."""
    for root in roots:
        try:
            names = [entry.name for entry in os.scandir(root) if NAMED.match(entry.name)]
        except OSError:
            continue
        for name in names:
            if left_behind(root / name):
                shutil.rmtree(root / name, ignore_errors=True)


def left_behind(folder: Path) -> bool:
    """Return whether the process that made a scratch folder has ended; for a folder of another
    machine, whether it is a day old.
    """
    match = NAMED.match(folder.name)
    if folder.name in OWN:
        return False
    try:
        changed = folder.stat().st_mtime
    except OSError:
        return False
    old = time.time() - changed > DAY_S
    if match is None or match[1] != machine_mark():
        return old
    if int(match[2]) == os.getpid():
        return True  # in containers, every process may have the same number
    if not alive(int(match[2])):
        return True
    try:
        begun = psutil.Process(int(match[2])).create_time()
    except (psutil.Error, OverflowError):  # it exists, but its start time is unknown
        return old
    return old and begun > changed + 60  # another process has the number now


def alive(pid: int) -> bool:
    """Return whether a process with this number exists. On POSIX it asks the kernel, since psutil
    needs /proc.
    """
    if os.name != "posix":
        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it exists and belongs to somebody else
        return True
    return True
