"""Runs that no chapter has time for: one command trains them and publishes their numbers.

``python -m vaelib.long_runs`` trains what is not published yet, seed by seed, so that it can be
stopped and started again. A chapter reads the numbers with :func:`load`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vaelib import data, recipes
from vaelib.evaluation import evaluate
from vaelib.results import PUBLISHED, provenance, write_json
from vaelib.training import fit


class LongRun(NamedTuple):
    """A training that is repeated over seeds."""

    train: Callable[[int], dict[str, Any]]
    """Maps a seed to the numbers of its run."""
    seeds: tuple[int, ...]


def two_dimensional_vae(seed: int) -> dict[str, Any]:
    """Train the 2-D VAE of chapter 1 on all of MNIST's training images; measure it on test."""
    mnist = data.load("mnist")
    train, test = data.to_float(mnist.train.images), data.to_float(mnist.test.images)
    vae = recipes.two_dimensional_vae(seed=seed)
    training = recipes.two_dimensional_training("full")
    history = fit(vae, train, evaluate_every=training["epochs"], seed=seed, **training)
    on_train, on_test = evaluate(vae, train), evaluate(vae, test)
    return {
        "test_negative_elbo": on_test.negative_elbo,
        "test_distortion": on_test.distortion,
        "test_rate": on_test.rate,
        "train_negative_elbo": on_train.negative_elbo,
        "seconds": history.seconds,
        "provenance": provenance("full", vae.device, history.seconds),
    }


LONG_RUNS = {"two-dimensional-vae": LongRun(two_dimensional_vae, seeds=(0, 1, 2))}


def load(name: str, *, retrain: bool = False) -> list[dict[str, Any]]:
    """Return the numbers of a long run, one dictionary for each seed.

    Parameters
    ----------
    name
        A key of ``LONG_RUNS``.
    retrain
        Whether to train again here instead of reading the published numbers, which stay as
        they are.

    Raises
    ------
    ValueError
        If there is no long run of this name.
    FileNotFoundError
        If its numbers are not published for every seed.
    """
    run = _find(name)
    if retrain:
        return [{"seed": seed, **run.train(seed)} for seed in run.seeds]
    published = _read(_path(name, PUBLISHED))
    if missing := set(run.seeds) - published.keys():
        raise FileNotFoundError(
            f"the numbers of {name!r} are not published for seeds {sorted(missing)}; "
            "train them with `make long-runs`, or here with retrain=True."
        )
    return [published[seed] for seed in run.seeds]


def publish(name: str, folder: Path = PUBLISHED, *, retrain: bool = False) -> None:
    """Train the seeds of a long run that are not in ``folder`` yet, and write their numbers."""
    run, path = _find(name), _path(name, folder)
    done = {} if retrain else _read(path)
    for seed in run.seeds:
        if seed in done:
            print(f"{name}, seed {seed}: published", flush=True)
            continue
        print(f"{name}, seed {seed}: training ...", flush=True)
        done[seed] = {"seed": seed, **run.train(seed)}
        write_json(path, [done[s] for s in sorted(done)])


def _find(name: str) -> LongRun:
    if name not in LONG_RUNS:
        raise ValueError(f"no long run is called {name!r}; expected one of {', '.join(LONG_RUNS)}.")
    return LONG_RUNS[name]


def _path(name: str, folder: Path) -> Path:
    return folder / "long_runs" / f"{name}.json"


def _read(path: Path) -> dict[int, dict[str, Any]]:
    if not path.exists():
        return {}
    return {run["seed"]: run for run in json.loads(path.read_text(encoding="utf-8"))}


def main() -> None:
    """Train and publish from the command line."""
    parser = argparse.ArgumentParser(description="Train the long runs that are not published yet.")
    parser.add_argument("names", nargs="*", default=list(LONG_RUNS), help="which; all by default")
    parser.add_argument("--retrain", action="store_true", help="train published ones again, too")
    arguments = parser.parse_args()
    for name in arguments.names:
        publish(name, retrain=arguments.retrain)


if __name__ == "__main__":
    main()
