"""What the builder writes into chapters: links and set-up cell from the address, reading time."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

import vaelib
from book.layout import Layout, Repository
from book.reading import write_time

ROW = re.compile(r"<!-- badges -->.*?<!-- /badges -->", re.DOTALL)
PAGES = ("_config.yml", "README.md", "CITATION.cff", "book/intro.md")
"""Files beside the chapters that name the address."""
PLACE = re.compile(r"^(  url: |repository-code: |git clone )\S+(?:(\ncd )\S+)?", re.MULTILINE)
"""Where they name it, with the folder that a clone makes."""
SETUP = """# @title Set-up: install vaelib where it is missing, and nothing else
try:
    import vaelib
except ModuleNotFoundError as error:
    if error.name != "vaelib":
        raise  # vaelib is there, and lacks something that it needs
    import subprocess
    import sys

    package = "vaelib @ git+{url}@v{version}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    if subprocess.call([*pip, package]):
        hint = "Is there a network, and that tag? In a clone: pip install -e ."
        raise RuntimeError(f"pip could not install {{package}}. {{hint}}") from None
    import vaelib"""
"""The set-up cell. ``--no-deps``: Colab's own versions of everything else stay as they are."""
HIDDEN = {"cellView": "form", "jupyter": {"source_hidden": True}}
"""How JupyterLab and Colab are told to collapse a cell; the book goes by the tag hide-input."""


def badge_row(name: str, repository: Repository) -> str:
    """Return the links on top of a chapter: text, because an image would load from elsewhere."""
    path = f"{repository.branch}/notebooks/{name}"
    colab = repository.url.replace("github.com", "colab.research.google.com/github")
    links = (
        f"[Open in Colab]({colab}/blob/{path})",
        f"[View on GitHub]({repository.url}/blob/{path})",
        f"[Download]({repository.url}/raw/{path})",
    )
    return "<!-- badges -->\n" + " · ".join(links) + "\n<!-- /badges -->"


def with_address(text: str, url: str) -> str:
    """Return a page that names this address, whichever it named before."""
    folder = url.rsplit("/", 1)[1]
    return PLACE.sub(lambda place: place[1] + url + (place[2] + folder if place[2] else ""), text)


def refresh(
    notebook: nbformat.NotebookNode, name: str, repository: Repository
) -> nbformat.NotebookNode:
    """Rewrite badge row, set-up cell and reading time of a chapter in place, and return it.

    Parameters
    ----------
    notebook
        The chapter.
    name
        Its file name.
    repository
        The public address.
    """
    first = notebook.cells[0]
    first.source = ROW.sub(lambda _: badge_row(name, repository), first.source)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "setup" in tags:
            cell.source = SETUP.format(url=repository.url, version=vaelib.__version__)
            cell.metadata |= {**HIDDEN, "tags": sorted({*tags, "hide-input"})}
    write_time(notebook)
    return notebook


def refresh_all(layout: Layout, url: str | None = None) -> list[str]:
    """Rewrite address and reading times everywhere, and return the files that were out of date.

    Parameters
    ----------
    layout
        The checkout.
    url
        A new address; by default that of ``_config.yml`` stays.
    """
    changed = []
    url = url or layout.repository().url
    for path in (layout.root / name for name in PAGES if (layout.root / name).exists()):
        changed += _rewrite(path, with_address(path.read_text(encoding="utf-8"), url))
    for path in layout.chapters():
        notebook = nbformat.read(path, as_version=4)
        refresh(notebook, path.name, layout.repository())
        changed += _rewrite(path, nbformat.writes(notebook) + "\n")
    return changed


def _rewrite(path: Path, text: str) -> list[str]:
    """Write a file if its text is new; return its name if so."""
    if path.read_text(encoding="utf-8") == text:
        return []
    path.write_text(text, encoding="utf-8")
    return [path.name]
