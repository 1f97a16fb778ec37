"""The documentation page of the commands and their options, made from the command line itself."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import typer

import lissom.cli.main  # noqa: F401  (adds the commands to app)
from lissom.cli.app import app
from lissom.cli.task_options import TaskOptions

SHARED = "Network and data"  # the section of the options that several commands share


def commands_page() -> str:
    """Return a section for each command as Markdown, with its arguments and options."""
    group: Any = typer.main.get_command(app)
    commands = group.commands
    shared = {field.name for field in fields(TaskOptions)}
    parts = [
        "# Commands\n\nAs `lissom COMMAND --help` prints them. With `--debug`, an error comes with its "
        "traceback; `lissom --version` prints the version.",
        f"## {SHARED}\n\nThese options say which network is compressed and on which data. Several "
        "commands take them.",
        _table([each for each in commands["run"].params if each.name in shared]),
    ]
    for name, command in commands.items():
        parts.append(f"## {name}\n\n{command.help}")
        own = [each for each in command.params if each.name != "help"]
        if shared <= {each.name for each in own}:
            parts.append(f"Takes the options of [{SHARED.lower()}](#network-and-data), and:")
            own = [each for each in own if each.name not in shared]
        parts.append(_table(own))
    return "\n\n".join(parts) + "\n"


def _table(params: list[Any]) -> str:
    rows = ["| option | what it is |", "|---|---|"]
    for each in params:
        option = each.param_type_name == "option"
        names = [*each.opts, *each.secondary_opts] if option else [each.name.upper()]
        word = ", ".join(f'<code class="option">{name}</code>' for name in names)
        cells = [word, (each.help or "") + _choices(each) + _default(each)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _choices(each: Any) -> str:
    named = each.type_descriptor.choices
    return f" One of {', '.join(f'`{choice}`' for choice in named)}." if named else ""


def _default(each: Any) -> str:
    if each.required:
        return " *Required.*"
    default = each.default() if callable(each.default) else each.default
    if default is None or isinstance(default, bool) or not str(default):
        return ""
    return f" *By default* `{default}`."
