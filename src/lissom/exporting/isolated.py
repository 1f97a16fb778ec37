"""Converters that may abort, each in a process of its own, so that an abort is one clear error.

The file that they made is tried in a process of its own too, before it is kept.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LissomError
from ..system.processes import command, ended, surroundings

if TYPE_CHECKING:
    from torch import nn


def run_isolated(
    words: Sequence[str | Path], folder: Path, makes: Path, where: str, hint: str, **more: str
) -> None:
    """Run a command in `folder`, with `more` environment variables, which is to leave a file `makes`.

    Raises LissomError, which begins with `where` and ends with `hint`, if it fails, is killed or
    leaves no file.
    """
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=surroundings(**more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode == 0 and makes.is_file():
        return
    end = ended(done.returncode) if done.returncode else "left no file"
    lines = chain(*(text.replace("\r", "\n").splitlines() for text in (done.stdout, done.stderr)))
    said = [line for line in lines if line.strip()]
    raise LissomError(
        f"{where} {end}; its last words: {said[-1].strip()[:200] if said else 'none'}; {hint}"
    )


def child(*words: str | Path) -> list[str]:
    """Return the command that hands `words` to `main` in a new process."""
    return command("lissom.exporting.isolated", *words)


def smoke_test(
    target: str, path: Path, shape: Sequence[int], outputs: Sequence[int], where: str, hint: str
) -> None:
    """Load a file and run it on one image of `shape` and on two in a process of its own.

    Raises LissomError if that fails, or makes anything but `outputs`, the shape of one answer.
    """
    sizes = [",".join(map(str, size)) for size in (shape, outputs)]
    run_isolated(child("try", target, path.resolve(), *sizes), path.parent, path, where, hint)


def output_shape(model: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of what a network answers to one image of `shape`."""
    import torch

    with torch.no_grad():
        answer = copy.deepcopy(model).cpu().eval()(torch.zeros(1, *shape))
    while not isinstance(answer, torch.Tensor):  # of several outputs a file answers with the first
        answer = next(iter(answer.values())) if isinstance(answer, dict) else answer[0]
    return tuple(answer.shape[1:])


def main() -> None:
    """Try a file, or call one of MNN's converters, whose first word is the name it goes by."""
    name, *words = sys.argv[1:]
    if name != "try":
        import _tools

        getattr(_tools, name)([name, *words])
        return
    import numpy as np

    from ..language.method import method_of

    run = method_of("targets", words[0]).load(Path(words[1]), 1)
    shape, outputs = ([int(size) for size in word.split(",") if size] for word in words[2:])
    for count in (1, 2):
        answer = run(np.zeros((count, *shape), np.float32))
        if answer.shape != (count, *outputs):
            raise SystemExit(
                f"{count} images gave outputs of shape {answer.shape}, the network's "
                f"is {(count, *outputs)}"
            )


if __name__ == "__main__":
    main()
