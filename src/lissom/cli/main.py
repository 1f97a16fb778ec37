"""The entry point of the command line: an error becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import typer

from ..errors import LissomError
from . import make, search, show, write
from .app import app

FAMILIES = (make, search, show, write)  # importing each adds its commands to `app`
USAGE: Any = typer.BadParameter.__mro__[2]  # the base class of typer's errors about arguments


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line. A user's error gives one line and status 2; --debug a traceback."""
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
