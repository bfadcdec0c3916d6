"""The maintainers' run: full profile, cleaned, copied back to the committed notebooks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat

from book.execute import execute
from book.layout import Layout


def publish(layout: Layout, notebooks: Sequence[Path]) -> list[str]:
    """Run chapters in full; copy those that went through, with their numbers.

    Parameters
    ----------
    layout
        The checkout.
    notebooks
        The chapters to run.

    Returns
    -------
    list of str
        The names of the chapters that failed; their committed files stay as they are.
    """
    results = layout.published / "results"
    shutil.rmtree(layout.published, ignore_errors=True)
    failed = execute(notebooks, layout.published, profile="full", results=results)
    for notebook in notebooks:
        numbers = results / f"{notebook.stem}.json"
        if notebook.stem not in failed and not numbers.exists():
            print(f"{notebook.stem}: went through, but reported no results")
            failed.append(notebook.stem)
        if notebook.stem not in failed:
            executed = nbformat.read(layout.published / notebook.name, as_version=4)
            nbformat.write(cleaned(executed), notebook)
            shutil.copy(numbers, layout.results)
    return failed


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop, in place, what differs from run to run without meaning anything."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook
