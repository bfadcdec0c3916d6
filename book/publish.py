"""The maintainers' run: full profile, cleaned, copied back to the committed notebooks.

The ledger of the claims is kept for both profiles.
"""

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
            _copy_ledger(results, layout, notebook, "full")
    went_through = [notebook for notebook in notebooks if notebook.stem not in failed]
    return failed + record_claims(layout, went_through, profile="quick")


def record_claims(layout: Layout, notebooks: Sequence[Path], *, profile: str) -> list[str]:
    """Run chapters and keep their ledgers only, in ``results/claims/<profile>``.

    Parameters
    ----------
    layout
        The checkout.
    notebooks
        The chapters to run; they stay as they are.
    profile
        ``quick`` or ``full``.

    Returns
    -------
    list of str
        The names of the chapters that failed; their ledgers stay as they are.
    """
    out = layout.published / f"claims_{profile}"
    failed = execute(notebooks, out, profile=profile, results=out / "results", force=True)
    for notebook in notebooks:
        if notebook.stem not in failed:
            _copy_ledger(out / "results", layout, notebook, profile)
    return failed


def _copy_ledger(results: Path, layout: Layout, notebook: Path, profile: str) -> None:
    ledger = Path("claims", profile, f"{notebook.stem}.json")
    (layout.results / ledger).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(results / ledger, layout.results / ledger)


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
