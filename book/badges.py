"""Badge rows and set-up cells, derived from the address in ``_config.yml``."""

from __future__ import annotations

import re

import nbformat

from book.layout import Layout, Repository

ROW = re.compile(r"<!-- badges -->.*?<!-- /badges -->", re.DOTALL)
INSTALL = re.compile(r"vaelib @ git\+[^\"']*")


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


def refresh(
    notebook: nbformat.NotebookNode, name: str, repository: Repository
) -> nbformat.NotebookNode:
    """Rewrite the badge row and the pip line of a chapter in place, and return it.

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
    requirement = f"vaelib @ git+{repository.url}@{repository.branch}"
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = INSTALL.sub(lambda _: requirement, cell.source)
    return notebook


def refresh_all(layout: Layout) -> list[str]:
    """Rewrite every chapter whose links are out of date, and return their names."""
    changed = []
    for path in layout.chapters():
        before = path.read_text(encoding="utf-8")
        notebook = refresh(nbformat.reads(before, as_version=4), path.name, layout.repository())
        after = nbformat.writes(notebook) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path.stem)
    return changed
