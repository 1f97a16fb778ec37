"""A console that prints text as it is: names and recipes may hold brackets, which Rich would take
for markup.
"""

from __future__ import annotations

from rich.console import Console


def terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console for text of any kind; `width` in columns, that of the terminal if None.

    >>> terminal().print("[/red] [bold]")
    [/red] [bold]
    """
    return Console(stderr=stderr, width=width, highlight=False, markup=False)
