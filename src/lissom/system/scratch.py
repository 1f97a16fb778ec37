"""Folders for what is not finished yet, and files that are there whole or not at all.

A folder is named after the machine and the process that made it, so that the next process can tell
whether a killed one left it behind. It lies beside what it will become, so that one rename finishes
it.
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
OWN: set[str] = set()  # the names of those that this process uses


def machine_mark() -> str:
    """Return six digits that tell one machine from another."""
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
    """Give an empty folder under `root` that is gone afterwards, whatever happened."""
    with _held(".new", root, f"{where}: {root}", "", cure) as folder:
        yield folder


@contextmanager
def temporary() -> Iterator[Path]:
    """Give an empty folder in the system's place for temporary files that is gone afterwards."""
    cure = "TMPDIR names another folder"
    with _held("lissom", None, "temporary files", f"; {cure}", cure) as folder:
        yield folder


@contextmanager
def written(path: Path, where: str) -> Iterator[Path]:
    """Give a path of the same name in a folder beside `path`; what is written there takes its place
    if the block ends well.

    Files that the block writes beside it go along. Raises LissomError, which begins with `where`,
    for what the system refuses. A full disk or a kill leaves the file that was at `path`.
    """
    goal = path.resolve()  # of a link what it leads to
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
            # the file itself comes last
            for part in sorted(folder.iterdir(), key=lambda part: part.name == goal.name):
                os.replace(part, goal.with_name(part.name))
    except Exception as error:
        # libraries have exceptions of their own for it
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
    """Return whether the process that made a scratch folder has ended; of another machine's,
    whether it is a day old.
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
        return True  # in a container each process may have the same number
    if not alive(int(match[2])):
        return True
    try:
        begun = psutil.Process(int(match[2])).create_time()
    except (psutil.Error, OverflowError):  # there it is, but nothing tells since when
        return old
    return old and begun > changed + 60  # the number has gone to another process since


def alive(pid: int) -> bool:
    """Return whether there is a process of this number; on POSIX the kernel is asked, since psutil
    wants /proc for it.
    """
    if os.name != "posix":
        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
