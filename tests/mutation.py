"""Apply each known error to a copy of the repository, and see which test or claim notices it.

``make mutants`` runs it. A mutant that nothing notices is a hole in the tests, and an exit status
of 1. The table is kept in ``results/mutants.json``.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutants import MUTANTS, Mutant

from vaelib.course.results import provenance, write_json

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "results" / "mutants.json"
NOT_COPIED = shutil.ignore_patterns(".*", "_build", "__pycache__", "dist", "*.egg-info")
SECONDS = 900
"""An error may also make a program run for ever."""


class BrokenRunError(RuntimeError):
    """pytest said neither that all tests passed nor that one failed."""


@contextmanager
def copy_of_repository(mutant: Mutant | None = None) -> Iterator[Path]:
    """Give a copy of the repository for a while, with the error of a mutant in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder, "copy")
        shutil.copytree(ROOT, root, ignore=NOT_COPIED)
        if mutant is not None:
            mutant.apply(root)
        yield root


def environment(root: Path) -> dict[str, str]:
    """Return an environment in which Python, and the kernels it starts, import from ``root``."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "VAELIB_RESULTS"))}
    # PYTHONPATH goes before an editable install. The rest is as in conftest.py, which comes too
    # late for the process that reads it.
    return ours | {
        "PYTHONPATH": str(root),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "VAELIB_PROFILE": "quick",
    }


def first_failure(root: Path, *what: str) -> str | None:
    """Run pytest in a copy of the repository up to the first failure.

    Parameters
    ----------
    root
        The copy.
    what
        Arguments of pytest: test files, or ``--nbval`` and a notebook.

    Returns
    -------
    str or None
        The claim that did not hold, or the name of the test or cell that failed, or that the time
        was up; None if all passed.

    Raises
    ------
    BrokenRunError
        If pytest could not run.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *what]
    try:
        run = subprocess.run(
            command, cwd=root, env=environment(root), capture_output=True, text=True,
            timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"did not end within {SECONDS} seconds"
    if run.returncode == 0:
        return None
    printed = re.sub(r"\x1b\[[\d;]*m", "", run.stdout)  # a kernel colours its tracebacks
    # With the name of the error: the traceback also shows the source that makes the sentence.
    claim = re.search(r"ClaimError: the claim does not hold: (.+)", printed)
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", printed, re.MULTILINE)
    if run.returncode != 1 or not failed:
        raise BrokenRunError(f"{' '.join(command)}\n{printed}\n{run.stderr}")
    # In the output of a unit test a claim is one that the test itself has put up.
    return (claim if claim and "--nbval" in what else failed).group(1).strip()


def notebook(chapter: str) -> tuple[str, str]:
    """Return the arguments with which pytest runs a chapter."""
    return "--nbval", f"notebooks/{chapter}.ipynb"


def check_control(mutants: Sequence[Mutant], only: str | None) -> None:
    """Exit with a message unless the repository itself passes what the mutants should fail."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    chapters = sorted({mutant.chapter for mutant in mutants if mutant.chapter})
    with copy_of_repository() as root:
        for what in [
            *([tests] if only != "chapters" else []),
            *map(notebook, chapters if only != "tests" else []),
        ]:
            failure = first_failure(root, *what)
            print(f"control  {' '.join(what)}: {failure or 'passes'}", flush=True)
            if failure:
                sys.exit("The repository fails without any mutant: repair that first.")


def try_mutant(mutant: Mutant, only: str | None) -> dict[str, str | None]:
    """Return which test, and which claim of its chapter, catches a mutant; None: it survived."""
    caught: dict[str, str | None] = {}
    with copy_of_repository(mutant) as root:
        if only != "chapters":
            caught["test"] = first_failure(root, *mutant.tests)
        if mutant.chapter and only != "tests":
            caught["claim"] = first_failure(root, *notebook(mutant.chapter))
    return caught


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of the mutants of the list as they are now, by name."""
    found = json.loads(path.read_text(encoding="utf-8"))["mutants"] if path.exists() else []
    known = {row["name"]: row for row in found}
    return {
        mutant.name: known[mutant.name]
        for mutant in MUTANTS
        if mutant.name in known and entry(mutant).items() <= known[mutant.name].items()
    }


def entry(mutant: Mutant) -> dict[str, Any]:
    """Return what a row says of a mutant itself."""
    return {key: value for key, value in asdict(mutant).items() if key != "tests"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the names of mutants; default: all")
    parser.add_argument("--only", choices=("tests", "chapters"), help="leave the others out")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table; kept rows stay")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.names or any(n in m.name for n in options.names)]
    if not chosen:
        parser.error(f"no mutant has a name with {' or '.join(options.names)} in it.")

    started = time.perf_counter()
    check_control(chosen, options.only)
    table, survivors = rows(options.out), []
    for mutant in chosen:
        row = table.get(mutant.name, entry(mutant) | {"test": None, "claim": None})
        row |= try_mutant(mutant, options.only)
        table[mutant.name] = row
        by = " and ".join(filter(None, (row["test"], row["claim"])))
        if not by:
            survivors.append(mutant.name)
        print(f"{'caught' if by else 'SURVIVED':8} {mutant.name}: {by or 'nothing'}", flush=True)
        # Written after each, so that an interruption loses nothing.
        in_order = [table[m.name] for m in MUTANTS if m.name in table]
        record = provenance("quick", "cpu", time.perf_counter() - started)
        write_json(options.out, {"provenance": record, "mutants": in_order})
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants were caught.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
