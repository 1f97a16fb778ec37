"""Generate the documentation pages of methods and commands from their declarations."""

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
from docs_commands import commands_page  # noqa: E402  (mkdocs does not put this folder on the path)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    made = {"commands.md": commands_page()}
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


LONG = 70  # a longer line is part of a sentence, unless it is a formula
LABELS = ("Also known as:", "Source:", "Differs:")


def prose(text: str) -> str:
    """Return a docstring without its first line as Markdown: sentences flow, formulas keep their
    columns, and labels are bold.
    """
    parts = []
    for lines in paragraphs(text):
        if is_formula(lines):
            parts.append("```text\n" + "\n".join(lines) + "\n```")
            continue
        said = escaped(" ".join(line.strip() for line in lines))
        said = re.sub(r"(https?://[^\s,;]+[^\s,;.)])", r"<\1>", said)
        for label in LABELS:
            if said.startswith(label):
                said = f"**{label}**{said.removeprefix(label)}"
        parts.append(said)
    return "\n\n".join(parts)


def paragraphs(text: str) -> list[list[str]]:
    """Return the lines of each paragraph; labels, and formulas beside sentences, begin a new one."""
    found: list[list[str]] = [[]]
    for line in text.strip("\n").splitlines():
        if not line.strip():
            found.append([])
            continue
        if line.startswith((*LABELS, "Raises")) or (
            found[-1]
            and is_formula([line]) != is_formula(found[-1])
            and (is_formula([line]) or line[0].isupper() or len(line) > LONG)
        ):
            found.append([])
        found[-1].append(line)
    return [lines for lines in found if lines]


def is_formula(lines: list[str]) -> bool:
    """Return whether lines are formulas or columns, whose layout must be kept."""
    if lines[0].startswith(LABELS):
        return False
    return any(
        "  " in line.strip()
        or re.match(r"\s*[\w\[\]()'.|]+( \([^)]*\))? ?= ", line)
        or re.match(r"[\w:]{1,12}: +\S", line)
        or line.startswith("    ")
        for line in lines
    )


def escaped(text: str) -> str:
    """Return text with Markdown's asterisks escaped and settings such as a=1 as code."""
    return re.sub(r"(?<![\w`])(\w+=(?:\"[^\"]*\"|[\w.]+))", r"`\1`", text).replace("*", r"\*")
