"""Converters that may abort, each in a process of its own, so that an abort is one clear error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import LissomError


def surroundings(**more: str) -> dict[str, str]:
    """Return the environment of a new process that can import this package, with `more` variables."""
    source = str(Path(__file__).parents[2])
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}


def apart(command: Sequence[str | Path], folder: Path, makes: Path, where: str, hint: str, **more: str) -> None:
    """Run a command in `folder`, with `more` environment variables, which is to leave a file `makes`.

    Raises LissomError, which begins with `where` and ends with `hint`, if it fails, is killed or leaves no file.
    """
    done = subprocess.run([str(word) for word in command], cwd=folder, env=surroundings(**more), capture_output=True,
                          text=True, errors="replace", check=False)
    if done.returncode == 0 and makes.is_file():
        return
    code = done.returncode
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else "left no file"
    if code > 0:
        end = f"ended with status {code}"
    said = [line for text in (done.stdout, done.stderr) for line in text.replace("\r", "\n").splitlines() if line.strip()]
    raise LissomError(f"{where} {end}; its last words: {said[-1].strip()[:200] if said else 'none'}; {hint}")


def child(*words: str | Path) -> list[str | Path]:
    """Return the command that hands `words` to `main` in a new process."""
    return [sys.executable, "-m", "lissom.targets._child", *words]


def tried(target: str, path: Path, shape: Sequence[int], where: str, hint: str) -> None:
    """Load a file and run it on one image and on two in a process of its own; raise LissomError if that fails."""
    apart(child("try", target, path.resolve(), *map(str, shape)), path.parent, path, where, hint)


def main() -> None:
    """Try a file, or call one of MNN's converters, whose first word is the name it goes by."""
    name, *words = sys.argv[1:]
    if name != "try":
        import _tools

        getattr(_tools, name)([name, *words])
        return
    import numpy as np

    from ..menu import menu

    run = menu("targets").make(words[0]).load(Path(words[1]), 1)  # type: ignore[attr-defined]
    for count in (1, 2):
        found = run(np.zeros((count, *map(int, words[2:])), np.float32))
        if len(found) != count:
            raise SystemExit(f"{count} images gave outputs of shape {found.shape}")


if __name__ == "__main__":
    main()
