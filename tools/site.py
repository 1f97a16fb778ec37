"""Pages of the documentation that are made: the first from the README, those of the methods from
their declarations.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from lissom.language.menu import WORDS
from lissom.report.methods import method_rows

ROOT = Path(__file__).parents[1]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    readme = (
        (ROOT / "README.md")
        .read_text()
        .replace("](docs/", "](")
        .replace("](results)", "](results/README.md)")
    )
    made = {"index.md": readme}
    for folder in WORDS:
        made[f"methods/{folder}.md"] = page(folder)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to what is no page, such as recipes and tests, into plain text."""
    return re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+(?:recipes|benchmarks|tests|src)/[^)]*\)", r"`\1`", markdown
    )


def page(folder: str) -> str:
    """Return the page of a menu: each method, what it does, and its settings."""
    parts = [
        f"# {folder}\n\nAs `lissom list {folder}` prints them; to add one, add a file to "
        f"`src/lissom/{folder}`."
    ]
    for row in method_rows(folder):
        first, *rest = row["does"].splitlines()
        parts.append(f"\n## {row['name']}\n\n{first}\n")
        if any(rest):
            parts.append("```text\n" + "\n".join(rest).strip("\n") + "\n```\n")
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
