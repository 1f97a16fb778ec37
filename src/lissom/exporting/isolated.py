"""Run converters that may abort in a process of their own, so that an abort is one clear error.

The converted file is also tested in a process of its own before it is kept.
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
    """Run a command that must write the file `makes`, with `more` environment variables.

    Raises LissomError if the command fails, is killed or writes no file. The message begins with
    `where` and ends with `hint`.
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
    """Return the command that passes `words` to `main` in a new process."""
    return command("lissom.exporting.isolated", *words)


def smoke_test(
    target: str, path: Path, shape: Sequence[int], outputs: Sequence[int], where: str, hint: str
) -> None:
    """Load a file and run it on batches of 1 and 2 images of `shape` in a process of its own.

    `outputs` is the expected shape of one image's output. Raises LissomError if the run fails or
    the shapes differ.
    """
    sizes = [",".join(map(str, size)) for size in (shape, outputs)]
    run_isolated(child("try", target, path.resolve(), *sizes), path.parent, path, where, hint)


def output_shape(model: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a network's first output for one image of `shape`, without the batch. It
    runs in float32, whatever its dtype.
    """
    import torch

    with torch.no_grad():
        answer = copy.deepcopy(model).cpu().float().eval()(torch.zeros(1, *shape))
    while not isinstance(answer, torch.Tensor):  # a file returns the first of several outputs
        answer = next(iter(answer.values())) if isinstance(answer, dict) else answer[0]
    return tuple(answer.shape[1:])


def main() -> None:
    """Test a file, or call the MNN converter that the first word names."""
    name, *words = sys.argv[1:]
    if name != "try":
        import _tools

        getattr(_tools, name)([name, *words])
        return
    import numpy as np

    from ..language.parse_methods import method_of

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
