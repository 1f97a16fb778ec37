"""Turn docstrings into Markdown."""

from __future__ import annotations

import re

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
    """Return text with Markdown's asterisks escaped and settings such as a=1 as code.

    What stands between backticks is left as it is.
    """
    parts = text.split("`")
    for k in range(0, len(parts), 2):
        plain = re.sub(r"(?<!\w)(\w+=(?:\"[^\"]*\"|[\w.]+))", r"`\1`", parts[k])
        parts[k] = plain.replace("*", r"\*")
    return "`".join(parts)
