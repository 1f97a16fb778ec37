"""Generate the documentation pages of methods, commands and functions from their declarations."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from lissom.language.menu import WORDS
from lissom.report.methods import method_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

# mkdocs does not put this folder on the path
from docs_commands import commands_page  # noqa: E402
from docs_prose import prose  # noqa: E402
from docs_python import python_page  # noqa: E402


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    made = {"commands.md": commands_page(), "python.md": python_page()}
    for folder in WORDS:
        made[f"methods/{folder}.md"] = page(folder)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files without a page, such as recipes and tests, into code."""
    return re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+(?:recipes|benchmarks|tests|src)/[^)]*\)", r"`\1`", markdown
    )


def page(folder: str) -> str:
    """Return the page of a menu as Markdown: each method with its docstring and settings."""
    parts = [
        f"# {folder}\n\nAs `lissom list {folder}` prints them; to add one, add a file to "
        f"`src/lissom/{folder}`."
    ]
    for row in method_rows(folder):
        first, *rest = row["does"].splitlines()
        parts.append(f"\n## {row['name']}\n\n{first}\n")
        if any(rest):
            parts.append(prose("\n".join(rest)) + "\n")
        if row["settings"]:
            parts.append("| setting | default | what it may be | what it is |\n|---|---|---|---|")
            for s in row["settings"]:
                default = "required" if s["required"] else f"`{s['default']!r}`"
                cells = [
                    f"`{s['name']}`",
                    default,
                    ", ".join(filter(None, [s["type"], s["bounds"]])),
                    s["help"],
                ]
                parts.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(parts) + "\n"
