"""Put the sources of the book together: pages, chapters with their provenance, numbers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from book.badges import ROW
from book.layout import Layout
from book.ledger import claims_page, mutants_page
from book.models import with_cards
from book.pictures import mark_ink
from book.tables import markdown_table

NUMBERS = """# All numbers

Every number that the chapters report, as the published run wrote it: the mean over `n` seeds
or draws, and the standard deviation between them.
"""
BENCHMARKS: dict[str, dict[str, tuple[str, str]]] = {
    "training": {
        "loop": ("contender", ""),
        "network": ("network", ""),
        "batch": ("batch_size", "d"),
        "images/s": ("images_per_second", ",.0f"),
        "±": ("spread", ",.0f"),
        "× example": ("ratio", ".1f"),
        "of matrix product": ("share_of_peak", ".0%"),
        "MiB": ("peak_bytes", "MiB"),
        "test −ELBO": ("test_negative_elbo", ".1f"),
    },
    "ladder": {
        "loop": ("rung", ""),
        "images/s": ("images_per_second", ",.0f"),
        "±": ("spread", ",.0f"),
    },
    "scoring": {
        "library": ("library", ""),
        "images": ("n", "d"),
        "samples": ("k", "d"),
        "images/s": ("images_per_second", ",.1f"),
        "±": ("spread", ",.1f"),
        "MiB": ("peak_bytes", "MiB"),
    },
    "growth": {
        "what grows": ("what", ""),
        "images": ("n", ",d"),
        "batch": ("batch_size", "d"),
        "D": ("latent_dim", "d"),
        "K": ("samples", "d"),
        "images/s": ("images_per_second", ",.0f"),
        "±": ("spread", ",.0f"),
        "MiB": ("peak_bytes", "MiB"),
    },
    "sweep": {
        "precision": ("precision", ""),
        "way": ("way", ""),
        "images/s over all models": ("images_per_second", ",.0f"),
        "±": ("spread", ",.0f"),
    },
}
"""Table of a benchmark -> heading -> key of a row, and how its value is written."""
DIGITS = """\
> **Computed on scikit-learn's digits, not on MNIST.** What this page computed, figures and printed
> numbers, comes from the profile `quick`: small data, short training. The prose quotes the
> published run in the profile `full`, on MNIST and Fashion-MNIST, and its numbers differ.
> `make book PROFILE=full` runs the chapters in full; `make html` shows the published outputs."""
CAPTION = (
    " *Profile quick: what this run computed on images, it computed on scikit-learn's digits.*"
)
"""Not every figure shows images, and some show weights of the published run: true of all."""
COLUMNS = ["quantity", "value", "± sd", "n", "unit", "better", "prior work", "protocol"]


def stage(layout: Layout, *, committed: bool) -> None:
    """Fill ``_build/stage`` with everything that Jupyter Book renders.

    Parameters
    ----------
    layout
        The checkout.
    committed
        Whether to take the committed outputs only. Otherwise a chapter that was executed comes
        with those outputs.
    """
    shutil.rmtree(layout.stage, ignore_errors=True)
    no_code = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(layout.root / "book", layout.stage / "book", ignore=no_code)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(layout.root / name, layout.stage)
    (layout.stage / "notebooks").mkdir()
    for source in layout.chapters():
        record = layout.results / f"{source.stem}.json"
        executed = layout.executed / source.name
        if executed.exists() and not committed:
            source, record = executed, executed.with_suffix(".json")
        notebook = nbformat.read(source, as_version=4)
        run = _read_json(record).get("provenance")
        add_provenance(notebook, run)
        mark_ink(notebook)
        if run and run["profile"] == "quick":
            add_digits_note(notebook)
        nbformat.write(notebook, layout.stage / "notebooks" / source.name)
    pages = layout.stage / "book"
    (pages / "numbers.md").write_text(numbers(layout.results), "utf-8")
    (pages / "claims.md").write_text(claims_page(layout.results, titles(layout)), "utf-8")
    (pages / "mutants.md").write_text(mutants_page(layout.results), "utf-8")
    models = pages / "models.md"
    if models.exists():
        models.write_text(with_cards(models.read_text("utf-8")), "utf-8")
    speed = pages / "speed.md"
    if speed.exists():
        speed.write_text(with_benchmarks(speed.read_text("utf-8"), layout.results), "utf-8")


def titles(layout: Layout) -> dict[str, str]:
    """Return the title of each chapter, by the name of its notebook."""
    found = {}
    for chapter in layout.chapters():
        first = nbformat.read(chapter, as_version=4).cells[0].source
        found[chapter.stem] = first.splitlines()[0].removeprefix("# ")
    return found


def add_provenance(notebook: nbformat.NotebookNode, run: Mapping[str, Any] | None) -> None:
    """Add, under the badge row, a line that says what the chapter was run on."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    line = f"> **Run on** {describe_run(run, code)}" if run else "> **Run on:** not recorded."
    first = notebook.cells[0]
    first.source = ROW.sub(lambda row: f"{row.group()}\n\n{line}", first.source, count=1)


def add_digits_note(notebook: nbformat.NotebookNode) -> None:
    """Say on top of a chapter and under its figures that a quick run shows other data."""
    first = notebook.cells[0]
    first.source = re.sub(
        r"^> \*\*Run on.*$",
        lambda line: f"{line.group()}\n\n<!-- -->\n\n{DIGITS}",
        first.source,
        count=1,
        flags=re.MULTILINE,
    )
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "caption" in figure:
            figure["caption"] = figure["caption"].rstrip() + CAPTION


def describe_run(run: Mapping[str, Any], code: str) -> str:
    """Say in one line on which data and device a chapter was run, and how long it took."""
    data = "scikit-learn's digits"
    if run["profile"] == "full":
        data = " and ".join(n for n in ("MNIST", "Fashion-MNIST") if f'"{n.lower()}"' in code)
    minutes, seconds = divmod(round(run["wall_time_s"]), 60)
    duration = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    precision = f" in {run['auto_precision']}" if "auto_precision" in run else ""
    return (
        f"{data or 'no data set'} (profile `{run['profile']}`), {_device(run)}{precision}, torch "
        f"{run['torch']}, {duration}, {run['date']}."
    )


def numbers(results: Path) -> str:
    """Return the page that shows every number of the published run."""
    page = NUMBERS
    files = sorted(set(results.glob("*.json")) - {results / "mutants.json"})
    for file in files:
        content = _read_json(file)
        run = content["provenance"]
        page += (
            f"\n## {file.stem}\n\nProfile `{run['profile']}`, {_device(run)}, {run['date']}.\n\n"
        )
        page += markdown_table(COLUMNS, map(_row, content["results"]))
    return page if files else page + "\nThere is no published run yet.\n"


def with_benchmarks(page: str, results: Path) -> str:
    """Put the measured tables in the places that a page names ``<!-- benchmarks: TABLE -->``."""
    files = sorted((results / "benchmarks").glob("*.json"))
    runs = [_read_json(file) for file in files]

    def tables(mark: re.Match[str]) -> str:
        name = mark.group(1)
        measured = [_benchmark_table(name, run[name]) for run in runs if name in run]
        return "\n".join(measured) or "Not measured yet."

    return re.sub(r"<!-- benchmarks: (\w+) -->", tables, page)


def _benchmark_table(name: str, table: Mapping[str, Any]) -> str:
    columns = BENCHMARKS[name]
    rows = [[_show(row.get(key), form) for key, form in columns.values()] for row in table["rows"]]
    peaks = table["matrix_product"]
    rates = " and ".join(f"{rate / 1e9:,.0f} in {dtype}" for dtype, rate in peaks.items())
    heading = f"{_device(table['provenance'])}; a large matrix product: {rates}, in GFLOP/s.\n\n"
    return heading + markdown_table(list(columns), rows, numbers=True)


def _show(value: Any, form: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return format(value / 2**20 if form == "MiB" else value, ",.0f" if form == "MiB" else form)


def _device(run: Mapping[str, Any]) -> str:
    if run["device"] != "cpu":
        return run["device"]
    threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
    return f"{run.get('processor', 'CPU')} with {threads}"


def _row(entry: Mapping[str, Any]) -> list[str]:
    prior = f"{entry['reference']:.4g} ({entry['source']})" if "reference" in entry else ""
    value, sd = ("" if entry[key] is None else f"{entry[key]:.4g}" for key in ("value", "sd"))
    words = [entry["name"], value, sd, str(entry["n"]), entry["unit"], entry["better"], prior]
    return [*words, entry["protocol"]]


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
