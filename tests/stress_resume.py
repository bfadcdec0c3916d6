"""Kill a training with SIGKILL at random moments, go on with it, and compare the last bit.

``python tests/stress_resume.py`` kills twenty times; ``test_runs.py`` runs a short version.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from small_runs import SMALL, small_run
from tqdm import tqdm

# Short epochs: a good part of the time goes into writing.
CONFIG = replace(SMALL, epochs=40)
# A server that has imported torch, and computed nothing, gives every training a fresh process.
PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = ["vaelib.runs", "torch._dynamo"]


def train(folder: Path, ready: Connection) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # and none between processes, which a kill would leave behind
    with TemporaryDirectory() as elsewhere:
        small_run(Path(elsewhere), replace(CONFIG, epochs=1))  # first calls are slow
    ready.send(True)
    small_run(folder, CONFIG, resume=True)


def run(folder: Path, *, seconds: float | None = None) -> bool:
    """Train in a process of its own; return whether it was killed after so many seconds."""
    ready, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=train, args=(folder, sender))
    process.start()
    ready.recv()
    process.join(seconds)
    process.kill()  # does nothing if it has ended
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a training in {folder} failed; its traceback stands above.")
    return process.exitcode != 0


def bits(folder: Path) -> dict[str, bytes]:
    with safe_open(folder / "checkpoint.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def lines(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def seconds_of(folder: Path) -> float:
    """How long a training took, from its first file to its last."""
    ends = [(folder / name).stat().st_mtime for name in ("config.json", "checkpoint.safetensors")]
    return ends[1] - ends[0]


def main(kills: int, *, seed: int = 0) -> int:
    """Return how many of the killed trainings did not end as the one that was left alone."""
    PROCESSES.set_forkserver_preload(IMPORTED)
    rng, killed, good = random.Random(seed), 0, 0
    with TemporaryDirectory() as folder:
        run(Path(folder, "truth"))
        truth, duration = bits(Path(folder, "truth")), seconds_of(Path(folder, "truth"))
        while killed < kills:
            trial = Path(folder, f"{rng.random()}")
            if not run(trial, seconds=rng.uniform(0, duration)):
                continue  # it was faster
            killed += 1
            writing = " while a file was written" * any(trial.glob(".*.part"))
            print(f"killed with {lines(trial)} epochs{writing}", flush=True)
            run(trial)
            good += bits(trial) == truth and lines(trial) == CONFIG.epochs
    print(f"{good} of {kills} ended with the same bits as the run that was left alone")
    return kills - good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(main(options.kills, seed=options.seed) > 0)
