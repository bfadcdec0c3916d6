"""The numbers that the book reports, and where they came from."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import torch

from vaelib.course.claims import Claims
from vaelib.hardware import pick_precision, processor_name
from vaelib.published import PACKAGE


class Results:
    """Collects the numbers and the claims of one notebook; a publishing run writes them to files.

    Parameters
    ----------
    notebook
        Name of the notebook without its ending.
    profile
        ``"quick"`` or ``"full"``.
    """

    def __init__(self, notebook: str, *, profile: str) -> None:
        self.notebook, self.profile = notebook, profile
        self.entries: list[dict[str, Any]] = []
        self.claims = Claims(profile=profile)
        self.started = time.perf_counter()

    def add(
        self,
        name: str,
        values: float | Sequence[float],
        *,
        protocol: str,
        better: str,
        unit: str = "nats",
        reference: float | None = None,
        source: str | None = None,
    ) -> None:
        """Add a number.

        Parameters
        ----------
        name
            Data set, model and quantity in words: ``"mnist 2-D mlp test -elbo"``.
        values
            The value, or one value for each seed or draw.
        protocol
            What a reader must know to measure the same thing again.
        better
            ``"lower"`` or ``"higher"``.
        unit
            ``"nats"``, or ``"fraction"`` for a value in [0, 1].
        reference, source
            The value of prior work, and whose it is.

        Raises
        ------
        ValueError
            If ``better`` is neither of the two words, or there is no value.
        """
        if better not in ("lower", "higher"):
            raise ValueError(f"better is {better!r}; expected 'lower' or 'higher'.")
        values = [float(v) for v in values] if isinstance(values, Sequence) else [float(values)]
        if not values:
            raise ValueError(f"{name}: there is no value to report.")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name}: {values} holds a value that is not finite.")
        if (reference is None) != (source is None):
            raise ValueError(f"{name}: reference and source go together: give both or neither.")
        entry = {
            "name": name,
            "value": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
            "unit": unit,
            "protocol": protocol,
            "better": better,
        }
        if reference is not None:
            entry |= {"reference": reference, "source": source}
        self.entries.append(entry)

    def save(self, *, device: str | torch.device) -> None:
        """Write the numbers and the ledger into the folder ``VAELIB_RESULTS_DIR``, where it is set.

        They are ``<notebook>.json`` and ``claims/<profile>/<notebook>.json`` there.
        """
        folder = os.environ.get("VAELIB_RESULTS_DIR")
        if not folder:
            return
        record = provenance(self.profile, device, time.perf_counter() - self.started)
        name, claims = f"{self.notebook}.json", self.claims.record()
        write_json(Path(folder) / name, {"provenance": record, "results": self.entries})
        write_json(
            Path(folder) / "claims" / self.profile / name,
            {"provenance": record, "claims": claims},
        )


class Table:
    """A small table: HTML in a notebook, padded text elsewhere.

    Parameters
    ----------
    heading
        One word or phrase for each column.
    rows
        One list of cells for each row. Text is shown as it is; a number has to be written first,
        since only the caller knows how many of its digits mean something.

    Raises
    ------
    ValueError
        If a row has not one cell for each column.
    """

    def __init__(self, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.heading, self.rows = list(heading), [list(row) for row in rows]
        for row in self.rows:
            if len(row) != len(self.heading):
                raise ValueError(
                    f"the row {row} has {len(row)} cells; expected {len(self.heading)}, one for "
                    f"each of {self.heading}."
                )

    def __repr__(self) -> str:
        """Return the table as text, its first column to the left and all others to the right."""
        lines = [self.heading, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if k else cell.ljust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.heading)
        body = "".join(
            f'<tr><th scope="row">{escape(first)}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
            + "</tr>"
            for first, *rest in self.rows
        )
        return f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def over_seeds(runs: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """Return one number of every seed of a long run for which it was measured."""
    return [run[key] for run in runs if key in run]


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation; one value has no spread, which is written as 0."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def write_spread(values: Sequence[float], digits: int = 2) -> str:
    """Write a mean and, of more than one value, the standard deviation: ``"1.20 ± 0.03"``."""
    mean, sd = mean_and_sd(values)
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if len(values) > 1 else "")


def provenance(profile: str, device: str | torch.device, seconds: float) -> dict[str, Any]:
    """Describe a run: profile, hardware, torch, git commit, wall time in seconds and date."""
    device = torch.device(device)
    return {
        "profile": profile,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "auto_precision": pick_precision("auto", device),
        "torch": torch.__version__,
        "commit": _git_commit(),
        "wall_time_s": round(seconds, 1),
        "date": date.today().isoformat(),
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a file that appears whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        pass
    part = Path(file.name)
    try:
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(PACKAGE), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
