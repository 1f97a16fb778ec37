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
    arguments: Sequence[str | Path],
    folder: Path,
    output_file: Path,
    where: str,
    hint: str,
    **environment: str,
) -> None:
    """Run a command that must write `output_file`, with `environment` as further variables.

    Raises LissomError if the command fails, is killed or writes no file. The message begins with
    `where` and ends with `hint`.
    """
    process = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=folder,
        env=surroundings(**environment),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if process.returncode == 0 and output_file.is_file():
        return
    outcome = ended(process.returncode) if process.returncode else "left no file"
    lines = chain(
        *(text.replace("\r", "\n").splitlines() for text in (process.stdout, process.stderr))
    )
    messages = [line for line in lines if line.strip()]
    last_words = messages[-1].strip()[:200] if messages else "none"
    raise LissomError(f"{where} {outcome}; its last words: {last_words}; {hint}")


def child_command(*arguments: str | Path) -> list[str]:
    """Return the command that passes `arguments` to `main` in a new process."""
    return command("lissom.exporting.isolated", *arguments)


def smoke_test(
    target: str, path: Path, shape: Sequence[int], outputs: Sequence[int], where: str, hint: str
) -> None:
    """Load a file and run it on batches of 1 and 2 images of `shape` in a process of its own.

    `outputs` is the expected shape of one image's output. Raises LissomError if the run fails or
    the shapes differ.
    """
    sizes = [",".join(map(str, size)) for size in (shape, outputs)]
    run_isolated(
        child_command("try", target, path.resolve(), *sizes), path.parent, path, where, hint
    )


def output_shape(model: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a network's first output for one image of `shape`, without the batch. It
    runs in float32, whatever its dtype.
    """
    import torch

    with torch.no_grad():
        output = copy.deepcopy(model).cpu().float().eval()(torch.zeros(1, *shape))
    while not isinstance(output, torch.Tensor):  # a file returns the first of several outputs
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return tuple(output.shape[1:])


def main() -> None:
    """Test a file, or call the MNN converter that the first word names."""
    name, *arguments = sys.argv[1:]
    if name != "try":
        import _tools

        getattr(_tools, name)([name, *arguments])
        return
    import numpy as np

    from ..language.parse_methods import method_of

    run = method_of("targets", arguments[0]).load(Path(arguments[1]), 1)
    shape, outputs = (
        [int(size) for size in argument.split(",") if size] for argument in arguments[2:]
    )
    for count in (1, 2):
        output = run(np.zeros((count, *shape), np.float32))
        if output.shape != (count, *outputs):
            raise SystemExit(
                f"{count} images gave outputs of shape {output.shape}, the network's "
                f"is {(count, *outputs)}"
            )


if __name__ == "__main__":
    main()
