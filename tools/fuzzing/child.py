"""The process that reads mutants: it prints the number of each before reading it, and its fault."""

from __future__ import annotations

import base64
import json
import os
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from .family import Family, Mutant

FAMILIES = {
    "records": "records",
    "structures": "saved",
    "safetensors": "saved",
    "packed": "packed",
    "weights": "weights",
    "images": "images",
    "onnx": "onnx_files",
    "recipes": "recipes",
    "faulty": "faulty",
}
PACKAGE = str(Path(__file__).parents[2] / "src" / "lissom") + os.sep
SECONDS = 2.0  # limit of processor time for one mutant
MEMORY = 512 << 20  # limit in bytes above the memory that the seeds take
CHANGES = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
    "shutil.move",
}
RUNS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "pty.spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "webbrowser.open",
}


class Escape(Exception):
    """Raised if a reader writes outside its folder or runs something."""


def family_of(name: str, folder: Path) -> Family:
    """Return a family by name. Its seeds are in `folder` and are made if they are missing."""
    module = import_module(f".{FAMILIES[name]}", __package__)
    family: type[Family] = getattr(module, name.capitalize())
    return family(folder / "seed" / (family.seeds or name), folder / "work" / name)


def mutant_of(family: Family, seed: int, number: int) -> Mutant:
    """Return a mutant by number: the same one at every call."""
    return family.mutant(Random(f"{family.name} {seed} {number}"))


def fault(family: Family, mutant: Mutant, escapes: list[str]) -> tuple[str, bool]:
    """Read a mutant and return its fault, "" if it breaks no rule, and whether it is refused."""
    no = False
    begin = time.process_time()
    try:
        no = family.read(mutant)
        said = ""
    except Exception as error:  # any exception is a fault
        said = where(error)
    took = time.process_time() - begin
    if escapes:
        said = escapes[0]
        escapes.clear()
    if not said and took > SECONDS:
        said = f"it took {took:.1f} s"
    return said, no


def where(error: BaseException) -> str:
    """Return the type of an error and the last line of lissom in its traceback."""
    frames = [
        frame
        for frame in traceback.extract_tb((error.__cause__ or error).__traceback__)
        if frame.filename.startswith(PACKAGE)
    ]
    place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:100] if type(error).__name__ in ("Wrong", "Escape") else ""
    return f"{type(error).__name__}{place}{': ' + text if text else ''}"


def serve(name: str, seed: int, first: int, last: int, folder: Path, given: Mutant | None) -> None:
    """Read mutants in order. Stop after one that takes too much memory, since that spoils the
    measurement for later ones.
    """
    say = os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    family = family_of(name, folder)
    escapes: list[str] = []
    sys.addaudithook(guard(folder.resolve(), escapes))
    used = peak()
    honest = used()
    limit_address_space(32 * MEMORY)
    say.write("ready\n")
    count = worked = 0
    for number in range(first, last):
        mutant = given or mutant_of(family, seed, number)
        say.write(f"{number}\n")  # the time of this mutant starts now
        said, no = fault(family, mutant, escapes)
        more = used() - honest
        if more > MEMORY:
            said = said or f"it took {more >> 20} MiB"
        count, worked = count + 1, worked + (not no and not said)
        if said:
            say.write(
                json.dumps({"number": number, "fault": said, "mutant": encoded(mutant)}) + "\n"
            )
        if more > MEMORY:
            break
    say.write(json.dumps({"works": worked, "count": count}) + "\n")


def guard(folder: Path, escapes: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that stops code from writing outside a folder and from running anything."""
    home, devnull = str(folder), os.path.realpath(os.devnull)
    own = tuple(
        os.path.realpath(path)
        for path in (
            sysconfig.get_path("stdlib"),
            sysconfig.get_path("purelib"),
            Path(__file__).parents[2] / "src",
        )
    )

    def inside(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a file descriptor: its file was opened before
        full = os.path.realpath(os.fsdecode(path))
        return full.startswith(home) or full == devnull

    def stop(what: str) -> None:
        escapes.append(what)
        raise Escape(what)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not inside(path):
                stop(f"it writes {path!r}"[:100])
        elif event in CHANGES:
            if not inside(given[0]):
                stop(f"{event} of {given[0]!r}"[:100])
        elif event in RUNS:
            stop(f"it calls {event}")
        elif event == "exec":
            name = getattr(given[0], "co_filename", "<string>")
            # the virtual environment may be a symbolic link
            if not name.startswith("<") and not os.path.realpath(name).startswith(own):
                stop(f"it runs code of {name!r}"[:100])

    return hook


def peak() -> Callable[[], int]:
    """Return a function that returns the peak memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file() and b"VmHWM:" in status.read_bytes():

        def told() -> int:
            with open("/proc/self/status", "rb") as file:
                return int(file.read().partition(b"VmHWM:")[2].split(None, 1)[0]) << 10

        return told
    import psutil

    process = psutil.Process()
    if hasattr(process.memory_info(), "peak_wset"):
        return lambda: int(process.memory_info().peak_wset)
    try:
        import resource
    except ImportError:
        return lambda: int(process.memory_info().rss)
    unit = 1 if sys.platform == "darwin" else 1024
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def limit_address_space(more: int) -> None:
    """Limit the address space of this process to `more` bytes above its current size, if possible."""
    try:
        import resource

        import psutil

        used = psutil.Process().memory_info().vms
        resource.setrlimit(
            resource.RLIMIT_AS, (used + more, resource.getrlimit(resource.RLIMIT_AS)[1])
        )
    except (ImportError, ValueError, OSError):
        pass


def encoded(mutant: Mutant) -> dict[str, str]:
    """Return a mutant in a form that JSON can hold."""
    return {name: base64.b64encode(data).decode() for name, data in mutant.items()}


def decoded(found: dict[str, str]) -> Mutant:
    """Undo `encoded`."""
    return {name: base64.b64decode(data) for name, data in found.items()}
