"""Render the staged sources into ``_build/html``; a warning is an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from book.accessible import mend_all


class RenderError(RuntimeError):
    """Jupyter Book found an error or a warning."""


def render(stage: Path, html: Path) -> None:
    """Build beside and then swap: a book that fails to build leaves the old one in place.

    Raises
    ------
    RenderError
        If Jupyter Book reports an error or a warning.
    """
    print("rendering ...", flush=True)
    work, old = html.with_name("html.new"), html.with_name("html.old")
    for leftover in (work, old):
        shutil.rmtree(leftover, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    # -n: a reference that leads nowhere is a warning; --keep-going: report all of them.
    options = ["--path-output", work, "-W", "-n", "--keep-going", "-q"]
    # Warnings come on stderr; stdout only announces a path that is about to move.
    done = subprocess.run([jupyter_book, "build", stage, *options], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise RenderError(f"the book has errors or warnings (above); {html} stays as it was")
    fresh = work / "_build" / "html"
    # 14 MB of other bundles of the same parts; the menu of a formula may still load the parts.
    for bundle in (fresh / "_static" / "mathjax").glob("*.js"):
        if bundle.name != "tex-chtml.js":
            bundle.unlink()
    mend_all(fresh)
    if html.exists():
        html.rename(old)
    fresh.rename(html)
    for leftover in (work, old):
        shutil.rmtree(leftover, ignore_errors=True)
