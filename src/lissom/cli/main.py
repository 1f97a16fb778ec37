"""The entry of the command line: errors become one line and a status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import typer

from ..errors import LissomError
from . import make, search, show, write
from .app import app

FAMILIES = (make, search, show, write)  # of commands, which each adds to `app` when it is imported
USAGE: Any = typer.BadParameter.__mro__[2]  # whatever typer finds wrong with the words themselves


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line: one line and status 2 for what the user can mend, a traceback with --debug."""
    given = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in given
    try:
        status = app(
            [word for word in given if word != "--debug"] or ["--help"],
            standalone_mode=False,
            obj=given,
        )
    except LissomError as error:
        if debug:
            raise
        _end(str(error))
    except USAGE as error:
        _end(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _end(text: str) -> NoReturn:
    typer.echo("lissom: " + " ".join(text.split()), err=True)
    sys.exit(2)
