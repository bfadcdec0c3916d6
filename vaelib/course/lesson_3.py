"""Lesson 3: multilayer perceptrons against convolutions, at equal budgets, and project E.

Project E is ``Ashmit110/COMPUTER-VISION``.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

from torch import nn

from vaelib.course.protocols import images_of, parts_of, train_and_measure
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.evaluation import evaluate
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vaelib.schedules import Schedule, constant, cosine, warmup_cosine
from vaelib.training import fit

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


def comparison_vae(family: str, budget: int, *, latent_dim: int, seed: int = 0) -> VAE:
    """Build one of the networks that chapter 3 compares.

    Parameters
    ----------
    family
        ``"mlp"`` or ``"conv"``.
    budget
        Number of parameters, roughly: 70,000 or 800,000.
    latent_dim, seed
        As in :class:`vaelib.networks.MLPEncoder`.

    Raises
    ------
    ValueError
        If there is no such family or budget.
    """
    if (family, budget) not in NETWORKS_BEYOND_2D:
        known = ", ".join(f"{f} {b}" for f, b in NETWORKS_BEYOND_2D)
        raise ValueError(
            f"family and budget are {family!r} and {budget!r}; expected one of {known}."
        )
    encoder, decoder = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}[family]
    designs = NETWORKS_IN_2D if latent_dim == 2 else NETWORKS_BEYOND_2D
    for_encoder, for_decoder = designs[family, budget]
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
        "epochs": 8 if full else 16,
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


def train_comparison(
    seed: int, *, family: str, budget: int, latent_dim: int
) -> tuple[VAE, dict[str, Any]]:
    """Train one network of chapter 3 at several learning rates; keep the best on validation."""
    train, validation, test = parts_of("mnist")
    candidates = []
    # The perceptrons get a third rate, since they are where the second was always the better one.
    for lr in (8e-3, 16e-3, 32e-3) if family == "mlp" else (8e-3, 16e-3):
        vae = comparison_vae(family, budget, latent_dim=latent_dim, seed=seed)
        recipe = comparison_training(lr=lr)
        vae, numbers = train_and_measure(vae, train, test, seed=seed, **recipe)
        numbers |= {"lr": lr, "validation_negative_elbo": evaluate(vae, validation).negative_elbo}
        candidates.append((vae, numbers))
    return min(candidates, key=lambda candidate: candidate[1]["validation_negative_elbo"])


def try_learning_rates(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Try three learning rates for each network of chapter 3, for two epochs, on validation."""
    train, validation, _ = parts_of("mnist")
    found: dict[str, Any] = {}
    for (family, budget), latent_dim in product(NETWORKS_BEYOND_2D, (2, 16, 32)):
        for lr in (4e-3, 8e-3, 16e-3):
            vae = comparison_vae(family, budget, latent_dim=latent_dim, seed=seed)
            recipe = comparison_training(lr=lr) | {"epochs": 2}
            history = fit(vae, train, seed=seed, **recipe)
            name = f"{family} {budget} {latent_dim} {lr:g}"
            found[name] = evaluate(vae, validation).negative_elbo
    return vae, {**found, "provenance": provenance("full", vae.device, history.seconds)}


def train_small_conv(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Train the small convolutional network of chapter 3 with two latent dimensions for longer."""
    vae = comparison_vae("conv", 70_000, latent_dim=2, seed=seed)
    recipe = comparison_training() | {"epochs": 30}
    return train_and_measure(vae, *images_of("mnist"), seed=seed, **recipe)


def train_project_e(seed: int, *, lr: Schedule, beta: float = 1.0) -> tuple[VAE, dict[str, Any]]:
    """Train project E's multilayer perceptron: batches of 100, 30 epochs."""
    recipe = {"epochs": 30, "batch_size": 100, "lr": lr, "beta": beta, "precision": "auto"}
    return train_and_measure(project_e_vae(seed=seed), *images_of("mnist"), seed=seed, **recipe)


THREE = (0, 1, 2)
RUNS = LongRuns(
    "03_mlp_vs_conv",
    [
        LongRun(
            "comparison-mlp-70k-2d",
            partial(train_comparison, family="mlp", budget=70_000, latent_dim=2),
            seeds=THREE,
            title="2-D, mlp, 70k",
        ),
        LongRun(
            "comparison-conv-70k-2d",
            partial(train_comparison, family="conv", budget=70_000, latent_dim=2),
            seeds=THREE,
            title="2-D, conv, 70k",
        ),
        LongRun(
            "comparison-mlp-800k-2d",
            partial(train_comparison, family="mlp", budget=800_000, latent_dim=2),
            seeds=THREE,
            title="2-D, mlp, 800k",
        ),
        LongRun(
            "comparison-conv-800k-2d",
            partial(train_comparison, family="conv", budget=800_000, latent_dim=2),
            seeds=THREE,
            title="2-D, conv, 800k",
        ),
        LongRun(
            "comparison-mlp-70k-16d",
            partial(train_comparison, family="mlp", budget=70_000, latent_dim=16),
            seeds=THREE,
            title="16-D, mlp, 70k",
        ),
        LongRun(
            "comparison-conv-70k-16d",
            partial(train_comparison, family="conv", budget=70_000, latent_dim=16),
            seeds=THREE,
            title="16-D, conv, 70k",
        ),
        LongRun(
            "comparison-mlp-800k-16d",
            partial(train_comparison, family="mlp", budget=800_000, latent_dim=16),
            seeds=THREE,
            title="16-D, mlp, 800k",
        ),
        LongRun(
            "comparison-conv-800k-16d",
            partial(train_comparison, family="conv", budget=800_000, latent_dim=16),
            seeds=THREE,
            keeps_weights=True,
            title="16-D, conv, 800k",
        ),
        LongRun(
            "comparison-mlp-70k-32d",
            partial(train_comparison, family="mlp", budget=70_000, latent_dim=32),
            seeds=THREE,
            title="32-D, mlp, 70k",
        ),
        LongRun(
            "comparison-conv-70k-32d",
            partial(train_comparison, family="conv", budget=70_000, latent_dim=32),
            seeds=THREE,
            title="32-D, conv, 70k",
        ),
        LongRun(
            "comparison-mlp-800k-32d",
            partial(train_comparison, family="mlp", budget=800_000, latent_dim=32),
            seeds=THREE,
            title="32-D, mlp, 800k",
        ),
        LongRun(
            "comparison-conv-800k-32d",
            partial(train_comparison, family="conv", budget=800_000, latent_dim=32),
            seeds=THREE,
            title="32-D, conv, 800k",
        ),
        LongRun("comparison-learning-rates", try_learning_rates),
        LongRun(
            "small-conv",
            train_small_conv,
            keeps_weights=True,
            title="2-D, conv, 70k, 30 epochs",
        ),
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
