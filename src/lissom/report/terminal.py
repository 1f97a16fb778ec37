"""A console that prints text unchanged: names and recipes may contain brackets, which Rich would
read as markup.
"""

from __future__ import annotations

from rich.console import Console


def terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console for any text; `width` in columns, by default that of the terminal.

    >>> terminal().print("[/red] [bold]")
    [/red] [bold]
    """
    return Console(stderr=stderr, width=width, highlight=False, markup=False)
