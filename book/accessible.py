"""Mend what Sphinx and its extensions write, so that everybody can use the pages.

These are edits of single tags, not of a parsed page: everything else stays as it was written.
"""

from __future__ import annotations

import re
from pathlib import Path

# A signature over several lines: a definition list without a term, inside of a term.
SIGNATURE = re.compile(r"<dl>\n(?P<lines>(?:<dd>(?:(?!<d[dlt]\b).)*?</dd>\n?)+)</dl>", re.DOTALL)
# The role stands in a list, and lists know list items only; it was withdrawn from ARIA as well.
REFERENCE = re.compile(r'(<div class="citation"[^>]*) role="doc-biblioentry"')
# What scrolls sideways on a narrow screen: the keyboard scrolls only what it can reach. Formulas
# are not among them, because MathJax makes them focusable itself. Where scripts run, the theme
# takes those code blocks out of the order again that do not scroll (see book.js).
SCROLLABLE = re.compile(r'<(?:pre|div class="pst-scrollable-table-container")(?=>)')


def mend(page: str) -> str:
    """Return the HTML of a page with its faults of accessibility mended."""
    page = SIGNATURE.sub(_lines, page)
    page = REFERENCE.sub(r'\1 role="listitem"', page)
    return SCROLLABLE.sub(r'\g<0> tabindex="0"', page)


def mend_all(html: Path) -> None:
    """Mend every page of a rendered book in place."""
    for file in html.rglob("*.html"):
        before = file.read_text(encoding="utf-8")
        if (after := mend(before)) != before:
            file.write_text(after, encoding="utf-8")


def _lines(signature: re.Match[str]) -> str:
    lines = signature["lines"].replace("<dd>", '<div class="sig-line">').replace("</dd>", "</div>")
    return f"<div>\n{lines}</div>"
