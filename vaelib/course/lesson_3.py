"""Lesson 3: multilayer perceptrons against convolutions, at equal budgets, and project E.

Project E is ``Ashmit110/COMPUTER-VISION``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from vaelib import data
from vaelib.corruption import RandomBinarization
from vaelib.course import lesson_1
from vaelib.course.protocols import images_of, measured, parts_of, train_and_measure
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import Dataset, to_float
from vaelib.evaluation import evaluate, fixed_subset
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vaelib.schedules import Schedule, constant, cosine, warmup_cosine
from vaelib.training import DivergenceError, fit

NETWORKS_IN_2D: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]] = {
    ("mlp", 70_000): ({"hidden": (37, 37, 37)}, {"hidden": (37, 37, 37)}),
    ("conv", 70_000): (
        {"channels": (8, 16, 32), "hidden": (32, 32, 32), "padding": 1},
        {"hidden": (48, 48, 48, 48, 72), "channels": (8, 16)},
    ),
    ("mlp", 800_000): ({"hidden": (352, 256, 256)}, {"hidden": (128, 128, 128, 352)}),
    ("conv", 800_000): (
        {"channels": (8, 16), "hidden": (256, 128), "padding": 1},
        {"hidden": (128, 128, 128, 300), "channels": (32, 16)},
    ),
}
"""Family and budget -> arguments of encoder and decoder around two latent dimensions."""

NETWORKS_BEYOND_2D: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]] = {
    ("mlp", 70_000): ({"hidden": (40,)}, {"hidden": (40,)}),
    ("conv", 70_000): (
        {"channels": (8, 16, 32), "hidden": (32,), "padding": 1},
        {"hidden": (48,), "channels": (16, 16)},
    ),
    ("mlp", 800_000): ({"hidden": (376, 256)}, {"hidden": (256, 376)}),
    ("conv", 800_000): (
        {"channels": (8, 16), "hidden": (256, 128), "padding": 1},
        {"hidden": (256, 300), "channels": (32, 16)},
    ),
}
"""The same around more than two: wider and less deep, which suits them better."""

OTHER_SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "wide decoder": ({"hidden": (24,)}, {"hidden": (60,)}),
    "wide encoder": ({"hidden": (60,)}, {"hidden": (24,)}),
    "deep": ({"hidden": (37, 37, 37)}, {"hidden": (37, 37, 37)}),
}
"""Other multilayer perceptrons within 70,000 parameters, around more than two dimensions."""


def comparison_vae(
    family: str, budget: int, *, latent_dim: int, seed: int = 0, shape: str | None = None
) -> VAE:
    """Build one of the networks that chapter 3 compares.

    Parameters
    ----------
    family
        ``"mlp"`` or ``"conv"``.
    budget
        Number of parameters, roughly: 70,000 or 800,000.
    latent_dim, seed
        As in :class:`vaelib.networks.MLPEncoder`.
    shape
        One of :data:`OTHER_SHAPES`, in place of the small perceptron's own.

    Raises
    ------
    ValueError
        If there is no such family, budget or shape.
    """
    if (family, budget) not in NETWORKS_BEYOND_2D:
        known = ", ".join(f"{f} {b}" for f, b in NETWORKS_BEYOND_2D)
        raise ValueError(
            f"family and budget are {family!r} and {budget!r}; expected one of {known}."
        )
    if shape is not None and ((family, budget) != ("mlp", 70_000) or shape not in OTHER_SHAPES):
        known = ", ".join(OTHER_SHAPES)
        raise ValueError(f"shape is {shape!r}; expected, of an mlp of 70000, one of {known}.")
    encoder, decoder = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}[family]
    designs = NETWORKS_IN_2D if latent_dim == 2 else NETWORKS_BEYOND_2D
    for_encoder, for_decoder = designs[family, budget] if shape is None else OTHER_SHAPES[shape]
    common = {"latent_dim": latent_dim, "activation": nn.SiLU, "init": "he", "seed": seed}
    return VAE(
        encoder=encoder(**for_encoder, **common),
        decoder=decoder(**for_decoder, **common),
        likelihood=Bernoulli(grey=True),
        scale="capped",
    )


def comparison_training(profile: str = "full", *, lr: float = 8e-3) -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the networks of chapter 3."""
    full = profile == "full"
    return {
        "epochs": 4 if full else 16,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(lr),
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


def project_e_vae(*, seed: int = 0) -> VAE:
    """Build project E's network, 784-400-200 with two latent dimensions and back."""
    common = {"latent_dim": 2, "activation": partial(nn.LeakyReLU, 0.2), "seed": seed}
    return VAE(
        encoder=MLPEncoder(hidden=(400, 200), **common),
        decoder=MLPDecoder(hidden=(200, 400), **common),
        likelihood=Bernoulli(grey=True),
    )


RATES = (0.002, 0.004, 0.008, 0.016, 0.032)
"""The learning rates that every network of the comparison is tried with."""


def choose_rate(grid: Mapping[str, float | None]) -> str:
    """Return the learning rate with the lowest bound on validation images.

    Parameters
    ----------
    grid
        Learning rate, as it is printed -> -ELBO on validation images; None where the training
        diverged, which counts as worse than any number.

    Raises
    ------
    ValueError
        If every training diverged.
    """
    finite = {lr: bound for lr, bound in grid.items() if bound is not None}
    if not finite:
        raise ValueError(f"every training diverged, at rates {', '.join(grid)}.")
    return min(finite, key=finite.__getitem__)


def train_over_rates(
    seed: int,
    *,
    name: str,
    build: Callable[[int], VAE],
    recipe: Callable[[float], dict[str, Any]],
    rates: Sequence[float] = RATES,
) -> tuple[VAE, dict[str, Any]]:
    """Train a network at every rate with seed 0 and keep the best; other seeds take its rate.

    Parameters
    ----------
    seed
        Of the first weights, the batches and the noise.
    name
        The long run, whose published seed 0 says which rate was chosen.
    build, recipe
        Map a seed to the network, and a learning rate to the arguments of
        :func:`vaelib.training.fit`.
    rates
        What is tried.

    Returns
    -------
    tuple
        The model and its numbers, those of seed 0 with ``"grid"``: rate -> -ELBO on validation
        images. Test images are looked at once the choice is made.

    Raises
    ------
    FileNotFoundError
        If another seed is asked for before seed 0 is published.
    """
    train, validation, test = parts_of("mnist")
    if seed != 0:
        if 0 not in (published := RUNS.published(name)):
            raise FileNotFoundError(f"seed 0 of {name!r} chooses the rate and is not published.")
        rates = (published[0]["lr"],)
    grid: dict[str, float | None] = {}
    for lr in rates:
        vae = build(seed)
        started = time.process_time()
        try:
            history = fit(vae, train, seed=seed, evaluate_every=1000, **recipe(lr))
        except DivergenceError:
            grid[f"{lr:g}"] = None
            continue
        seconds = time.process_time() - started
        grid[f"{lr:g}"] = evaluate(vae, validation).negative_elbo
        if choose_rate(grid) == f"{lr:g}":
            best = vae, history, {"lr": lr, "processor_seconds": seconds}
    if seed != 0:
        choose_rate(grid)  # raises, if this seed alone diverged
    vae, history, numbers = best
    numbers |= {"validation_negative_elbo": grid[f"{numbers['lr']:g}"]}
    if len(grid) > 1:
        numbers["grid"] = grid
    return vae, measured(vae, train, test, history) | numbers | what_codes_know(vae)


def what_codes_know(vae: VAE, source: Dataset | None = None) -> dict[str, Any]:
    """Measure how the codes of test images lie to one another, and what a shift does to them.

    Parameters
    ----------
    vae
        The trained model.
    source
        The data; MNIST if not given.

    Returns
    -------
    dict
        On 5,000 test images: ``"test_separation"``, and with the images moved to the right by each
        number of :data:`MOVES`, ``"right_when_moved"``, the share that neighbours classify
        correctly, and ``"negative_elbo_when_moved"``.
    """
    source = source or data.load("mnist")
    images, labels = (fixed_subset(part, 5000) for part in (source.test.images, source.test.labels))
    images = to_float(images)
    known = vae.embed(to_float(fixed_subset(source.train_part.images, 10_000)))
    of_known = fixed_subset(source.train_part.labels, 10_000)
    right, bound = [], []
    for pixels in MOVES:
        moved = move_right(images, pixels)
        guess = classes_of_neighbours(vae.embed(moved), known, of_known)
        right.append(float((guess == labels).float().mean()))
        bound.append(evaluate(vae, moved).negative_elbo)
    return {
        "test_separation": separation(vae.embed(images), labels),
        "right_when_moved": right,
        "negative_elbo_when_moved": bound,
    }


MOVES = (0, 1, 2, 3)
"""By how many pixels test images are moved."""


def move_right(images: Tensor, pixels: int) -> Tensor:
    """Move images ``[N, 1, H, W]`` to the right; what comes in from the left is black."""
    return nn.functional.pad(images, (pixels, -pixels))


def classes_of_neighbours(
    codes: Tensor, known: Tensor, labels: Tensor, *, neighbours: int = 15
) -> Tensor:
    """Classify codes ``[N, D]`` by a vote of the nearest known codes ``[M, D]``."""
    votes = [
        labels[torch.cdist(part, known).topk(neighbours, largest=False).indices]
        for part in codes.split(1000)
    ]
    return torch.cat(votes).mode(1).values


def separation(codes: Tensor, labels: Tensor) -> float:
    """Return the variance of codes between classes over that within classes.

    Parameters
    ----------
    codes
        ``[N, D]``; both variances are sums over the D dimensions.
    labels
        Classes ``[N]``.
    """
    _, labels = labels.unique(return_inverse=True)
    centres = torch.stack([codes[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
    within = (codes - centres[labels]).square().sum(1).mean()
    between = (centres[labels] - codes.mean(0)).square().sum(1).mean()
    return float(between / within)


def train_comparison(
    seed: int, *, family: str, budget: int, latent_dim: int, shape: str | None = None
) -> tuple[VAE, dict[str, Any]]:
    """Train one network of the comparison at the rate that validation images choose."""
    return train_over_rates(
        seed,
        name=comparison_name(family, budget, latent_dim, shape),
        build=lambda s: comparison_vae(family, budget, latent_dim=latent_dim, seed=s, shape=shape),
        recipe=lambda lr: comparison_training(lr=lr),
    )


def train_longer(seed: int, *, family: str, budget: int) -> tuple[VAE, dict[str, Any]]:
    """Train a network of 16 dimensions for 20 epochs, at the chosen rate or at half of it."""
    name = comparison_name(family, budget, 16)
    lr = RUNS.published(name)[0]["lr"]
    return train_over_rates(
        seed,
        name=name.replace("comparison", "longer"),
        build=lambda s: comparison_vae(family, budget, latent_dim=16, seed=s),
        recipe=lambda lr: comparison_training(lr=lr) | {"epochs": 20},
        rates=(lr / 2, lr),
    )


def train_beyond_the_grid(seed: int) -> tuple[None, dict[str, Any]]:
    """Try twice the largest rate where it was the best of the grid, on validation images.

    Returns
    -------
    tuple
        None, and under ``"beyond"`` the name of the network -> -ELBO on validation images; None
        where the training diverged.
    """
    train, validation, _ = parts_of("mnist")
    beyond: dict[str, float | None] = {}
    started = time.perf_counter()
    for latent_dim, family, budget in NETWORKS:
        name = comparison_name(family, budget, latent_dim)
        if RUNS.published(name)[0]["lr"] != RATES[-1]:
            continue
        vae = comparison_vae(family, budget, latent_dim=latent_dim, seed=seed)
        try:
            fit(vae, train, seed=seed, **comparison_training(lr=2 * RATES[-1]))
            beyond[name] = evaluate(vae, validation).negative_elbo
        except DivergenceError:
            beyond[name] = None
    seconds = time.perf_counter() - started
    return None, {"beyond": beyond, "provenance": provenance("full", vae.device, seconds)}


def comparison_name(family: str, budget: int, latent_dim: int, shape: str | None = None) -> str:
    """Return the name of the long run of one network of the comparison."""
    name = f"comparison-{family}-{budget // 1000}k-{latent_dim}d"
    return name if shape is None else f"{name}-{shape.replace(' ', '-')}"


def small_conv_vae(*, seed: int = 0) -> VAE:
    """Build the small convolutional network with two latent dimensions and a corrupted input."""
    vae = comparison_vae("conv", 70_000, latent_dim=2, seed=seed)
    vae.encoder.corruption = RandomBinarization()
    return vae


def small_conv_training() -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the small network, trained well."""
    return {
        "epochs": 50,
        "batch_size": 256,
        "lr": warmup_cosine(12e-3),
        "weight_decay": 0.01,
        "precision": "auto",
    }


def train_small_conv(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Train the small convolutional network of chapter 3 with two latent dimensions for longer."""
    recipe = small_conv_training()
    return train_and_measure(small_conv_vae(seed=seed), *images_of("mnist"), seed=seed, **recipe)


def large_conv_vae(*, seed: int = 0) -> VAE:
    """Build the large convolutional network with two latent dimensions and a corrupted input."""
    vae = comparison_vae("conv", 800_000, latent_dim=2, seed=seed)
    vae.encoder.corruption = RandomBinarization()
    return vae


def train_in_plane(seed: int, *, build: Callable[..., VAE]) -> tuple[VAE, dict[str, Any]]:
    """Train a large network with two latent dimensions by the recipe of lesson 1, for less long."""
    recipe = lesson_1.live_training() | {"epochs": 20}
    return train_and_measure(build(seed=seed), *images_of("mnist"), seed=seed, **recipe)


def train_project_e(seed: int, *, lr: Schedule, beta: float = 1.0) -> tuple[VAE, dict[str, Any]]:
    """Train project E's multilayer perceptron: batches of 100, 30 epochs."""
    recipe = {"epochs": 30, "batch_size": 100, "lr": lr, "beta": beta, "precision": "auto"}
    return train_and_measure(project_e_vae(seed=seed), *images_of("mnist"), seed=seed, **recipe)


THREE = (0, 1, 2)
LARGE_CONV = ("conv", 800_000)
NETWORKS = tuple(product((2, 16, 32), ("mlp", "conv"), (70_000, 800_000)))
"""Latent dimensions, family and budget of every network of the comparison."""
RUNS = LongRuns(
    "03_mlp_vs_conv",
    [
        *(
            LongRun(
                comparison_name(family, budget, d),
                partial(train_comparison, family=family, budget=budget, latent_dim=d),
                seeds=THREE,
                keeps_weights=(d, budget) == (16, 70_000),
            )
            for d, family, budget in NETWORKS
        ),
        *(
            LongRun(
                comparison_name("mlp", 70_000, d, shape),
                partial(train_comparison, family="mlp", budget=70_000, latent_dim=d, shape=shape),
                seeds=THREE,
            )
            for d, shape in product((16,), OTHER_SHAPES)
        ),
        LongRun("comparison-beyond-the-grid", train_beyond_the_grid),
        *(
            LongRun(
                f"longer-{family}-{budget // 1000}k-16d",
                partial(train_longer, family=family, budget=budget),
                seeds=THREE,
                keeps_weights=(family, budget) == LARGE_CONV,
                title="16-D, conv, 800k, 20 epochs" if (family, budget) == LARGE_CONV else None,
            )
            for family, budget in product(("mlp", "conv"), (70_000, 800_000))
        ),
        LongRun(
            "small-conv",
            train_small_conv,
            seeds=THREE,
            keeps_weights=True,
            title="2-D, conv, 70k, 50 epochs",
        ),
        LongRun(
            "plane-mlp-600k",
            partial(train_in_plane, build=lesson_1.two_dimensional_vae),
            seeds=THREE,
        ),
        LongRun("plane-conv-800k", partial(train_in_plane, build=large_conv_vae), seeds=THREE),
        LongRun(
            "project-e-cosine-2e-3",
            partial(train_project_e, lr=cosine(2e-3)),
            seeds=THREE,
            title="2-D, project E",
        ),
        LongRun(
            "project-e-beta-0.82",
            partial(train_project_e, lr=cosine(2e-3), beta=0.82),
            seeds=THREE,
        ),
        LongRun("project-e-constant-1e-4", partial(train_project_e, lr=constant(1e-4))),
        LongRun("project-e-constant-2e-3", partial(train_project_e, lr=constant(2e-3))),
        LongRun("project-e-one-cycle-4e-3", partial(train_project_e, lr=warmup_cosine(4e-3))),
    ],
)
