"""Runs that no chapter has time for: one command trains them and publishes their numbers.

``python -m vaelib.long_runs`` trains what is not published yet, seed by seed, so that it can be
stopped and started again. A chapter reads the numbers with :func:`load`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vaelib import experiments, m1_comparison, recipes, scoreboard
from vaelib.experiments import EVERY, NEAREST
from vaelib.models import VAE
from vaelib.objectives import free_bits, importance_weighted
from vaelib.results import PUBLISHED, write_json
from vaelib.schedules import constant, cosine, cyclical, linear, warmup_cosine
from vaelib.supervision import (
    elbo_with_labels,
    labels_alone,
)
from vaelib.triplet import triplet_loss


class LongRun(NamedTuple):
    """A training that is repeated over seeds."""

    train: Callable[[int], tuple[VAE | None, dict[str, Any]]]
    """Maps a seed to the trained model, if there is one, and the numbers of its run."""
    seeds: tuple[int, ...]
    keeps_weights: bool = False
    """Whether the weights of the first seed are published, because a figure needs them."""


BOUND = elbo_with_labels(triplet_loss, 0.0)
LONG_RUNS = {
    "two-dimensional-vae": LongRun(experiments.two_dimensional_vae, seeds=(0, 1, 2)),
    **{
        f"gaussian-{scale:g}": LongRun(partial(experiments.gaussian, scale=scale), seeds=(0,))
        for scale in (1.0, 0.4, 0.3, 0.1, 0.05, 0.03)
    },
    "gaussian-learned": LongRun(
        partial(experiments.gaussian, scale=0.1, learned=True), seeds=(0, 1, 2)
    ),
    "gaussian-optimal": LongRun(partial(experiments.gaussian, optimal=True), seeds=(0, 1, 2)),
    "project-d": LongRun(
        partial(experiments.project_d, lr=constant(2e-3), epochs=100), seeds=(0, 1)
    ),
    "project-d-one-cycle": LongRun(
        partial(experiments.project_d, lr=warmup_cosine(2e-3), epochs=40), seeds=(0, 1, 2)
    ),
    "project-b-beta-0.005": LongRun(
        partial(experiments.project_b, scale="softplus-logvar", beta=0.005), seeds=(0, 1)
    ),
    "project-b-softplus": LongRun(
        partial(experiments.project_b, scale="softplus-logvar"), seeds=(0, 1)
    ),
    "project-b-plain": LongRun(partial(experiments.project_b, scale="exp"), seeds=(0, 1)),
    **{
        f"project-e-{name}": LongRun(partial(experiments.project_e, **settings), seeds)
        for name, settings, seeds in (
            ("constant-1e-4", {"lr": constant(1e-4)}, (0,)),
            ("constant-2e-3", {"lr": constant(2e-3)}, (0,)),
            ("cosine-2e-3", {"lr": cosine(2e-3)}, (0, 1, 2)),
            ("one-cycle-4e-3", {"lr": warmup_cosine(4e-3)}, (0,)),
            ("beta-0.82", {"lr": cosine(2e-3), "beta": 0.82}, (0, 1, 2)),
        )
    },
    **{
        f"comparison-{family}-{budget // 1000}k-{latent_dim}d": LongRun(
            partial(experiments.comparison, family=family, budget=budget, latent_dim=latent_dim),
            (0, 1, 2),
        )
        for (family, budget), latent_dim in product(recipes.AROUND_MORE, (2, 16, 32))
    },
    **{
        f"project-c-{beta:g}": LongRun(
            partial(experiments.project_c, beta=beta), seeds, keeps_weights
        )
        for beta, seeds, keeps_weights in (
            (0.0, (0, 1, 2), True),
            (0.3, (0,), False),
            (8.0, (0, 1, 2), False),
            (12.0, (0, 1, 2), True),
            (80.0, (0,), False),
            (120.0, (0,), False),
            (200.0, (0, 1, 2), True),
        )
    },
    **{
        f"project-c-{beta:g}-100-epochs": LongRun(
            partial(experiments.project_c_for_long, beta=beta), (0,)
        )
        for beta in (0.3, 12.0)
    },
    "beta-sweep-16d": LongRun(experiments.beta_sweep, seeds=(0, 1, 2)),
    **{
        f"{setting}-{name}": LongRun(partial(train, **remedy), (0, 1, 2))
        for setting, train, beta in (
            ("wide", experiments.wide, 1.0),
            ("project-c-12", experiments.project_c, 12.0),
        )
        for name, remedy in (
            ("annealing", {"beta": linear(0.0, beta, over=0.5)}),
            ("cyclical", {"beta": cyclical(beta)}),
            ("free-bits", {"beta": beta, "objective": free_bits(0.1)}),
        )
    },
    "wide": LongRun(partial(experiments.wide, beta=1.0), seeds=(0, 1, 2)),
    "comparison-learning-rates": LongRun(experiments.learning_rates, seeds=(0,)),
    "small-conv": LongRun(experiments.small_conv, seeds=(0,), keeps_weights=True),
    "tutorial-conv": LongRun(experiments.tutorial_conv, seeds=(0, 1), keeps_weights=True),
    "tutorial-conv-triplets": LongRun(
        partial(experiments.tutorial_conv, weight=1.0), seeds=(0,), keeps_weights=True
    ),
    "2d-plain": LongRun(experiments.conv_to_mlp, (0, 1, 2)),
    **{
        f"2d-{mining}-{weight:g}": LongRun(
            partial(
                experiments.conv_to_mlp, loss=partial(triplet_loss, mining=mining), weight=weight
            ),
            seeds,
        )
        for mining, weight, seeds in (
            ("easy-positive", 10.0, (0,)),
            ("easy-positive", 100.0, (0, 1, 2)),
            ("easy-positive", 1000.0, (0,)),
            ("batch-hard", 1.0, (0,)),
            ("batch-hard", 10.0, (0, 1, 2)),
            ("batch-hard", 100.0, (0,)),
            ("semi-hard", 10.0, (0,)),
        )
    },
    **{
        f"2d-classifier-{weight:g}": LongRun(
            partial(experiments.classifier_head, weight=weight), seeds
        )
        for weight, seeds in ((10.0, (0, 1, 2)), (100.0, (0,)))
    },
    **{
        f"2d-easy-positive-100-with-{n}-labels": LongRun(
            partial(experiments.conv_to_mlp, loss=NEAREST, weight=100.0, n_labels=n), seeds
        )
        for n, seeds in ((100, (0, 1)), (1000, (0, 1, 2)))
    },
    "2d-easy-positive-100-shuffled-labels": LongRun(
        partial(experiments.conv_to_mlp, loss=NEAREST, weight=100.0, shuffled=True), (0,)
    ),
    "2d-plain-60-epochs": LongRun(partial(experiments.conv_to_mlp, epochs=60), (0,)),
    "2d-easy-positive-100-60-epochs": LongRun(
        partial(experiments.conv_to_mlp, loss=NEAREST, weight=100.0, epochs=60), (0,)
    ),
    "2d-fashion-plain": LongRun(partial(experiments.conv_to_mlp, dataset="fashion-mnist"), (0, 1)),
    "2d-fashion-easy-positive-100": LongRun(
        partial(experiments.conv_to_mlp, loss=NEAREST, weight=100.0, dataset="fashion-mnist"),
        (0, 1),
    ),
    "16d-plain": LongRun(partial(experiments.conv_to_mlp, latent_dim=16), (0, 1, 2)),
    **{
        f"16d-batch-all-{weight:g}": LongRun(
            partial(experiments.conv_to_mlp, latent_dim=16, loss=EVERY, weight=weight), seeds
        )
        for weight, seeds in ((3.0, (0,)), (10.0, (0, 1, 2)), (30.0, (0, 1, 2)))
    },
    **{
        f"16d-fashion-{name}": LongRun(
            partial(experiments.conv_to_mlp, latent_dim=16, dataset="fashion-mnist", **options),
            (0,),
        )
        for name, options in (
            ("plain", {}),
            ("batch-all-30", {"loss": EVERY, "weight": 30.0}),
        )
    },
    **{
        f"m1-project-b-{beta:g}": LongRun(partial(m1_comparison.project_b, beta=beta), (0,))
        for beta in (0.005, 1.0)
    },
    "m1-no-softplus": LongRun(partial(m1_comparison.project_b_repaired, decay=True), (0,)),
    **{
        f"m1-no-decay-{beta:g}": LongRun(partial(m1_comparison.project_b_repaired, beta=beta), (0,))
        for beta in (1.0, 0.1, 0.005)
    },
    **{
        f"m1-{dataset}{name}": LongRun(
            partial(m1_comparison.m1, dataset=dataset, warped=warped), (0,)
        )
        for dataset, name, warped in (
            ("fashion-mnist", "", "input"),
            ("fashion-mnist", "-augmented", "image"),
            ("fashion-mnist", "-uncorrupted", None),
            ("mnist", "", "input"),
            ("mnist", "-uncorrupted", None),
        )
    },
    "m1-swapped": LongRun(m1_comparison.swapped, (0,)),
    "m1-swapped-untrained": LongRun(partial(m1_comparison.swapped, trained=False), (0,)),
    **{
        f"without-vae-{dataset}": LongRun(partial(m1_comparison.without_vae, dataset=dataset), (0,))
        for dataset in ("fashion-mnist", "mnist")
    },
    **{
        f"supervised-{dataset}{name}": LongRun(
            partial(m1_comparison.supervised, dataset=dataset, corruption=corruption), (0,)
        )
        for dataset in ("fashion-mnist", "mnist")
        for name, corruption in (("", None), ("-warped", recipes.m1_warp(dataset)))
    },
    "burda-vae": LongRun(
        partial(experiments.burda, epochs=200, all_images=True), (0,), keeps_weights=True
    ),
    "burda-iwae-50": LongRun(
        partial(
            experiments.burda,
            epochs=55,
            samples=50,
            objective=importance_weighted(doubly_reparameterized=True),
            all_images=True,
        ),
        (0,),
        keeps_weights=True,
    ),
    "burda-vae-100-epochs": LongRun(partial(experiments.burda, epochs=100), (0,)),
    "burda-vae-100-epochs-static": LongRun(
        partial(experiments.burda, epochs=100, static=True), (0,)
    ),
    **{
        f"scoreboard-{name}": LongRun(partial(scoreboard.scored, name=name), (0,))
        for name in scoreboard.ENTRIES
    },
    **{
        f"four-legs-{name}": LongRun(partial(experiments.four_legs, objectives=objectives), (0,))
        for name, objectives in (
            ("in-turns", (BOUND, labels_alone(triplet_loss))),
            ("jointly", (elbo_with_labels(triplet_loss, 1.0),) * 2),
            ("bound-alone", (BOUND, BOUND)),
        )
    },
}


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
        return [{"seed": seed, **run.train(seed)[1]} for seed in run.seeds]
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
        vae, numbers = run.train(seed)
        done[seed] = {"seed": seed, **numbers}
        if run.keeps_weights and seed == run.seeds[0]:
            _write_weights(path.with_suffix(".safetensors"), vae)
        write_json(path, [done[s] for s in sorted(done)])


def weights(name: str) -> dict[str, Tensor]:
    """Return the published weights of a long run's first seed, for ``model.load_state_dict``.

    Raises
    ------
    ValueError
        If there is no long run of this name, or it keeps no weights.
    FileNotFoundError
        If the weights are not published.
    """
    if not _find(name).keeps_weights:
        raise ValueError(f"the long run {name!r} publishes numbers, but no weights.")
    return load_file(_path(name, PUBLISHED).with_suffix(".safetensors"))


def _write_weights(path: Path, model: nn.Module) -> None:
    # By way of a second name: a file that is there is whole.
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, part)
    part.replace(path)


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
