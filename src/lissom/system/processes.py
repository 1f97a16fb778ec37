"""Start processes of this package, and describe how they ended."""

from __future__ import annotations

import os
import signal
import site
import sys
from pathlib import Path

from .telemetry import OFF

SOURCE = Path(__file__).parents[2]  # the folder that this package is in


def surroundings(**more: str) -> dict[str, str]:
    """Return the environment of a new process that can import this package, with `more` variables.

    The process imports nothing from its current folder, sends no telemetry, and uses UTF-8.
    """
    settings = {
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "PYTHONPATH": os.pathsep.join(search_path()),
    }
    return {**os.environ, **OFF, **settings, **more}


def search_path() -> list[str]:
    """Return the folders of PYTHONPATH as absolute paths, and the folder of this package unless
    Python finds it anyway.
    """
    folders = [
        os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part
    ]
    installed = [*site.getsitepackages(), site.getusersitepackages()]
    return folders if str(SOURCE) in (*folders, *installed) else [*folders, str(SOURCE)]


def command(module: str, *words: str | Path) -> list[str]:
    """Return the command that runs a module of this package in a new process.

    Without -P, `python -m` searches the current folder before the standard library: a file named
    random.py there would be run.
    """
    return [sys.executable, "-P", "-m", module, *map(str, words)]


def ended(code: int) -> str:
    """Return as text how a process ended.

    >>> ended(3)
    'ended with status 3'
    """
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal, or a number of another system
        return f"was killed by signal {-code}"
