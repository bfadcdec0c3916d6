"""Measure everything side by side in one run, print the tables and write results/benchmarks.

Jobs take turns, so that a change of the machine's speed hits all of them; the median of the turns
is reported, and half their range beside it. The share of the machine relates the operations that
training needs, as PyTorch counts them, to the rate of a large matrix product in the same type.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.contenders import CONTENDERS, NETWORKS
from benchmarks.jobs import Numbers, in_process
from benchmarks.ladder import LADDER
from vaelib.course.results import provenance, write_json
from vaelib.published import PUBLISHED


def in_turns(jobs: list[dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """Run every job as often as asked, in turns; return the arguments with the medians."""
    found: list[list[Numbers]] = [[] for _ in jobs]
    for _ in range(repeats):
        for numbers, job in zip(tqdm(found, desc=jobs[0]["job"]), jobs, strict=True):
            numbers.append(in_process(**job))
    rows = []
    for job, numbers in zip(jobs, found, strict=True):
        row = job | {key: statistics.median(n[key] for n in numbers) for key in numbers[0]}
        rates = [n["images_per_second"] for n in numbers]
        rows.append(row | {"spread": (max(rates) - min(rates)) / 2})
    return rows


def training_jobs(device: str) -> list[dict[str, Any]]:
    """Return the comparison of contenders: networks by batch sizes by contenders."""
    sizes = {"mlp": {"n": 20_000, "epochs": 2}, "conv": {"n": 8_000, "epochs": 1}}
    return [
        {"job": "training", "network": network, "batch_size": batch_size, "contender": contender}
        | sizes[network]
        | {"device": device}
        for network, batch_size, contender in product(NETWORKS, (128, 1024), CONTENDERS)
    ]


def ladder_jobs(device: str) -> list[dict[str, Any]]:
    """Return the loops between the example's and ours."""
    return [
        {"job": "ladder", "network": "mlp", "rung": rung, "batch_size": 128}
        | {"n": 20_000, "epochs": 2, "device": device}
        for rung in LADDER
    ]


def growth_jobs(device: str) -> list[dict[str, Any]]:
    """Return how the speed of vaelib grows with the size of one thing at a time."""
    usual = {"batch_size": 128, "latent_dim": 20, "samples": 1, "n": 20_000}
    changes = [
        *({"n": n} for n in (5_000, 20_000, 60_000)),
        *({"batch_size": b} for b in (16, 128, 1024, 8192)),
        *({"latent_dim": d} for d in (2, 20, 200)),
        *({"samples": k} for k in (1, 5, 50)),
    ]
    return [
        {"job": "scale", "what": next(iter(change)), **usual, **change, "device": device}
        for change in changes
    ]


def scoring_jobs(device: str) -> list[dict[str, Any]]:
    """Return the comparison of two estimates of log p(x), with 5,000 samples each."""
    return [
        {"job": "scoring", "library": library, "n": 200, "k": 5000, "device": device}
        for library in ("pythae", "vaelib")
    ]


def sweep_jobs(device: str) -> list[dict[str, Any]]:
    """Return twelve models trained together and one by one."""
    return [
        {"job": "sweep", "way": way, "batch_size": 128, "precision": precision}
        | {"n": 5_000, "device": device}
        for precision, way in product(("float32", "bfloat16"), ("one by one", "together"))
    ]


def show(rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    """Print rows as a table; ``columns`` maps keys to formats."""
    print("\n" + "  ".join(f"{key:>18s}" for key in columns))
    for row in rows:
        cells = [
            format(row.get(key, ""), spec if key in row else "") for key, spec in columns.items()
        ]
        print("  ".join(f"{cell:>18s}" for cell in cells))


def add_ratios(rows: list[dict[str, Any]], peaks: dict[str, float]) -> None:
    """Add to each training the ratio to the example's loop and the share of the machine's rate."""
    for row in rows:
        base = next(
            other
            for other in rows
            if other["contender"] == "PyTorch example"
            and all(other[key] == row[key] for key in ("network", "batch_size"))
        )
        row["ratio"] = row["images_per_second"] / base["images_per_second"]
        peak = peaks["bfloat16" if "bfloat16" in row["contender"] else "float32"]
        row["share_of_peak"] = row["images_per_second"] * row["operations_per_image"] / peak


TABLES: dict[str, tuple[Callable[[str], list[dict[str, Any]]], dict[str, str]]] = {
    "training": (
        training_jobs,
        {
            "network": "", "batch_size": "d", "contender": "", "images_per_second": ",.0f",
            "spread": ",.0f", "ratio": ".2f", "share_of_peak": ".0%", "peak_bytes": ",.0f",
            "test_negative_elbo": ".2f", "seconds_around": ".1f",
        },
    ),
    "ladder": (ladder_jobs, {"rung": "", "images_per_second": ",.0f", "spread": ",.0f"}),
    "scoring": (
        scoring_jobs,
        {"library": "", "images_per_second": ",.2f", "spread": ",.2f", "peak_bytes": ",.0f"},
    ),
    "growth": (
        growth_jobs,
        {
            "what": "", "n": "d", "batch_size": "d", "latent_dim": "d", "samples": "d",
            "images_per_second": ",.0f", "spread": ",.0f", "peak_bytes": ",.0f",
        },
    ),
    "sweep": (
        sweep_jobs, {"precision": "", "way": "", "images_per_second": ",.0f", "spread": ",.0f"},
    ),
}  # fmt: skip
"""Table -> its jobs, and its columns with their formats."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--repeats", type=int, default=2, help="turns of the jobs")
    arguments = parser.parse_args()
    device = arguments.device
    peaks = {
        dtype: in_process(job="matrix_product", dtype=dtype, device=device)["operations_per_second"]
        for dtype in ("float32", "bfloat16")
    }
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}"
    )
    print("matrix product: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in peaks.items()))
    for name in arguments.tables or TABLES:
        started = time.perf_counter()
        jobs, columns = TABLES[name]
        rows = in_turns(jobs(device), arguments.repeats)
        if name == "training":
            add_ratios(rows, peaks)
        show(rows, columns)
        # Written table by table, so that an interrupted run keeps what it has measured.
        path = PUBLISHED / "benchmarks" / f"{device}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        run = provenance("full", device, time.perf_counter() - started)
        record = {"provenance": run, "matrix_product": peaks, "rows": rows}
        write_json(path, found | {name: record})


if __name__ == "__main__":
    main()
