"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False
) -> str:
    """Return a table; with ``numbers``, all columns but the first are set to the right."""
    rule = ["---"] + ["--:" if numbers else "---"] * (len(heading) - 1)
    lines = [heading, rule, *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)
