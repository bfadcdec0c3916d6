"""Run chapters headless, each with a record of what it was run on."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

import vaelib
from book.dependencies import files_of
from vaelib import data
from vaelib.course.results import provenance, write_json
from vaelib.hardware import pick_device
from vaelib.published import PUBLISHED

# Outputs depend on these packages: an upgrade of one of them runs the chapters again.
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "matplotlib")


class ParameterError(ValueError):
    """A parameter that a chapter does not know."""


def resolve_profile(profile: str) -> str:
    """Turn ``auto`` into ``full`` where the data is there or can be downloaded, else ``quick``."""
    if profile != "auto":
        return profile
    try:
        for name in ("mnist", "fashion-mnist"):
            _say(f"looking for {name} ...")
            data.load(name)
    except data.DataError as error:
        _say(f"profile quick, because the full one has no data: {error}")
        return "quick"
    return "full"


def check_parameters(notebooks: Sequence[Path], parameters: Mapping[str, Any]) -> None:
    """Raise if a chapter does not know a parameter; papermill alone would only warn.

    Raises
    ------
    ParameterError
        The message names the parameters that the chapter knows.
    """
    if "profile" in parameters:
        raise ParameterError("the profile has its own option: --profile")
    for notebook in notebooks if parameters else ():
        known = papermill.inspect_notebook(str(notebook)).keys() - {"profile"}
        if unknown := sorted(parameters.keys() - known):
            raise ParameterError(
                f"{notebook.stem} has no parameter {', '.join(unknown)}; "
                f"it knows {', '.join(sorted(known)) or 'none'}"
            )


def execute(
    notebooks: Sequence[Path],
    out: Path,
    *,
    profile: str,
    parameters: Mapping[str, Any] | None = None,
    results: Path | None = None,
    force: bool = False,
) -> list[str]:
    """Run the chapters that changed since their last run, and say which ones failed.

    Parameters
    ----------
    notebooks
        The chapters. They are only read.
    out
        The folder of the executed notebooks and their records. A chapter that fails leaves
        ``NAME.partial.ipynb`` there and no ``NAME.ipynb``.
    profile
        ``quick`` or ``full``.
    parameters
        Values for the chapters' ``parameters`` cells.
    results
        The folder into which the chapters write their numbers; none by default.
    force
        Whether to run unchanged chapters as well.

    Returns
    -------
    list of str
        The names of the chapters that failed.
    """
    parameters = parameters or {}
    check_parameters(notebooks, parameters)
    out.mkdir(parents=True, exist_ok=True)
    _set_environment(profile, results)
    failed = []
    for notebook in notebooks:
        key = fingerprint(notebook, profile, parameters)
        if not force and _is_current(out / notebook.name, key):
            _say(f"{notebook.stem}: unchanged")
        elif not _run_chapter(notebook, out / notebook.name, key, profile, parameters):
            failed.append(notebook.stem)
    return failed


def fingerprint(notebook: Path, profile: str, parameters: Mapping[str, Any]) -> str:
    """Return a hash of what a chapter's outputs depend on."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    files = files_of(code, Path(vaelib.__path__[0]).parent, PUBLISHED)
    ingredients = [
        [(cell.cell_type, cell.source, cell.metadata) for cell in cells],
        [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files],
        [version(package) for package in PACKAGES],
        [profile, str(pick_device()), sorted(parameters.items())],
    ]
    return hashlib.sha256(json.dumps(ingredients, default=str).encode()).hexdigest()


def _set_environment(profile: str, results: Path | None) -> None:
    """Tell the kernels, which inherit this environment, how to run."""
    os.environ.update(VAELIB_PROFILE=profile, TQDM_DISABLE="1", PYTHONHASHSEED="0")
    if profile == "quick":  # networks so small that a second thread gains nothing and can lose much
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Kernels draw inline; a back end that the user's shell asks for would show no figure.
    os.environ.pop("MPLBACKEND", None)
    os.environ.pop("VAELIB_RESULTS_DIR", None)
    if results:
        os.environ["VAELIB_RESULTS_DIR"] = str(results.resolve())


def _is_current(executed: Path, key: str) -> bool:
    record = executed.with_suffix(".json")
    if not (executed.exists() and record.exists()):
        return False
    return json.loads(record.read_text(encoding="utf-8"))["key"] == key


def _run_chapter(
    notebook: Path, executed: Path, key: str, profile: str, parameters: Mapping[str, Any]
) -> bool:
    """Run one chapter, report its progress, and return whether it went through."""
    partial, record = executed.with_suffix(".partial.ipynb"), executed.with_suffix(".json")
    for stale in (executed, partial, record):
        stale.unlink(missing_ok=True)
    _say(f"{notebook.stem}: running, profile {profile} ...")
    start = time.monotonic()
    error = _papermill(notebook, partial, parameters)
    seconds = time.monotonic() - start
    if error:
        _say(f"{notebook.stem}: FAILED after {seconds:.0f} s, so far: {partial}\n    {error}")
        return False
    write_json(record, {"key": key, "provenance": provenance(profile, pick_device(), seconds)})
    partial.rename(executed)
    _say(f"{notebook.stem}: done in {seconds:.0f} s")
    return True


def _papermill(notebook: Path, target: Path, parameters: Mapping[str, Any]) -> str | None:
    """Run a notebook in its own folder; return what went wrong, or None."""
    try:
        papermill.execute_notebook(
            str(notebook),
            str(target),
            parameters=dict(parameters),
            cwd=str(notebook.parent),
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            # Kernels warn on the terminal that they listen on a local port.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except PapermillExecutionError as error:
        first_line = error.source.strip().splitlines()[0]
        return f"cell [{error.exec_count}] {first_line}\n    {error.ename}: {error.evalue}"
    except Exception as error:  # a dead kernel, a broken file: the other chapters still run
        return f"{type(error).__name__}: {error}"
    return None


def _say(line: str) -> None:
    print(line, flush=True)
