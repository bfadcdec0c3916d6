"""Lesson 2: likelihoods, on the networks of projects D and B.

Project D is ``yulinliutw/VAE-with-Mnist``, project B
``ErezYosef/Variational-Autoencoder-FMNIST``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from vaelib.course.protocols import images_of, parts_of, prior_match, train_and_measure
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.evaluation import active_units, evaluate, reconstruction_rmse
from vaelib.likelihoods import Bernoulli, Gaussian
from vaelib.models import VAE, Autoencoder
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.objectives import ELBO, Objective, elbo, elbo_at_optimal_scale
from vaelib.schedules import Schedule, linear, warmup_cosine
from vaelib.seeding import generator
from vaelib.training import fit


def vae_128d(
    likelihood: nn.Module | None = None, *, seed: int = 0, model: type[VAE | Autoencoder] = VAE
) -> VAE | Autoencoder:
    """Build project D's network, 784-512-256-128 and back: the model of chapter 2.

    Grey values under a Bernoulli, as in project D, unless another likelihood is given.
    """
    return model(
        encoder=MLPEncoder(latent_dim=128, hidden=(512, 256), seed=seed),
        decoder=MLPDecoder(latent_dim=128, hidden=(256, 512), seed=seed),
        likelihood=likelihood or Bernoulli(grey=True),
    )


def training_128d(profile: str = "full", *, epochs: int) -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the model of chapter 2."""
    full = profile == "full"
    return {
        "epochs": epochs if full else 10,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(2e-3),
        "precision": "auto" if full else "float32",
    }


def small_vae(
    likelihood: nn.Module | None = None,
    *,
    latent_dim: int = 20,
    seed: int = 0,
    model: type[VAE | Autoencoder] = VAE,
) -> VAE | Autoencoder:
    """Build the VAE on one screen of chapter 1, 784-400-20 and back, for short trainings."""
    return model(
        encoder=MLPEncoder(latent_dim=latent_dim, hidden=(400,), seed=seed),
        decoder=MLPDecoder(latent_dim=latent_dim, hidden=(400,), seed=seed),
        likelihood=likelihood or Bernoulli(grey=True),
    )


def short_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for trainings that a reader waits for."""
    full = profile == "full"
    return {
        "epochs": 3 if full else 12,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(4e-3),
        "precision": "auto" if full else "float32",
    }


def project_b_vae(*, scale: str = "softplus-logvar", seed: int = 0) -> VAE:
    """Build project B's network, 784-600-600-50 and back; all weights are tiny at the start."""
    vae = VAE(
        encoder=MLPEncoder(latent_dim=50, hidden=(600, 600), seed=seed),
        decoder=MLPDecoder(latent_dim=50, hidden=(600, 600), seed=seed),
        likelihood=Bernoulli(grey=True),
        scale=scale,
    )
    rng = generator(seed, "project B")
    for parameter in vae.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.001, generator=rng)
    return vae


def project_b_objective(
    model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    """Compute the bound and project B's weight decay, which is part of the loss.

    B gave torch's Adam ``weight_decay=0.1`` beside a loss that is summed over a batch of 128. It
    adds 0.1 times each parameter to the gradient, as does half the squared norm of all parameters
    in the loss; per image that is 0.1 / 128 of it. The optimiser of :func:`vaelib.training.fit`
    shrinks the weights outside the loss instead, and shrinks no biases.
    """
    distortion, rate = elbo(model, x, noise=noise, validate=validate)
    norm = sum(parameter.square().sum() for parameter in model.parameters())
    return ELBO(distortion + 0.5 * 0.1 / 128 * norm, rate)


def train_128d(
    seed: int, *, beta: float | Schedule = 1.0, objective: Objective | None = None
) -> tuple[VAE, dict[str, Any]]:
    """Train the 128-D network of chapter 2 with grey values under a Bernoulli, 20 epochs."""
    recipe = training_128d(epochs=20) | {"beta": beta, "objective": objective}
    return train_and_measure(vae_128d(seed=seed), *images_of("mnist"), seed=seed, **recipe)


def gaussian_recipe(
    seed: int,
    *,
    scale: float = 1.0,
    learned: bool = False,
    optimal: bool = False,
    warmup: float = 0.0,
) -> tuple[VAE, dict[str, Any]]:
    """Return the model of chapter 2 with a Gaussian, and the arguments of its training.

    Parameters
    ----------
    seed
        Seed of weights, batches and noise.
    scale
        The scale s, or its start.
    learned, optimal
        Whether s is a parameter, or set to the best for each batch.
    warmup
        Share of the training, in [0, 1], in which the price of the rate rises from 0 to 1.
    """
    vae = vae_128d(Gaussian(link="logit", scale=scale, learned=learned), seed=seed)
    recipe = training_128d(epochs=20) | {"beta": linear(0.0, 1.0, over=warmup)}
    return vae, recipe | {"objective": elbo_at_optimal_scale if optimal else None}


def train_gaussian(seed: int, **asked: Any) -> tuple[VAE, dict[str, Any]]:
    """Train the model of chapter 2 with a Gaussian, as :func:`gaussian_recipe` is asked to."""
    vae, recipe = gaussian_recipe(seed, **asked)
    vae, numbers = train_and_measure(vae, *images_of("mnist"), seed=seed, **recipe)
    return vae, {**numbers, "scale": float(vae.likelihood.log_scale.detach().exp())}


def choose_scale(
    seed: int, *, candidates: Mapping[str, Mapping[str, Any]]
) -> tuple[None, dict[str, Any]]:
    """Train candidates on 50,000 images, and measure them on validation images and on test.

    Parameters
    ----------
    seed
        Seed of weights, batches and noise.
    candidates
        Name -> arguments of :func:`gaussian_recipe`.
    """
    train, validation, test = parts_of("mnist")
    found, seconds = {}, 0.0
    for name, asked in candidates.items():
        vae, recipe = gaussian_recipe(seed, **asked)
        history = fit(vae, train, seed=seed, evaluate_every=recipe["epochs"], **recipe)
        seconds += history.seconds
        report = evaluate(vae, validation)
        found[name] = {
            "negative_elbo": report.negative_elbo,
            "test_negative_elbo": evaluate(vae, test).negative_elbo,
            "rate": report.rate,
            "rmse": float(reconstruction_rmse(vae, validation).mean()),
            "active_units": int(active_units(vae, validation).sum()),
            "scale": float(vae.likelihood.log_scale.detach().exp()),
        }
    return None, found | {"provenance": provenance("full", vae.device, seconds)}


def train_project_b(seed: int, *, scale: str, beta: float = 1.0) -> tuple[VAE, dict[str, Any]]:
    """Train project B's network on Fashion-MNIST by its recipe."""
    recipe = {"epochs": 25, "batch_size": 128, "lr": 1e-3, "precision": "auto"}
    recipe |= {"objective": project_b_objective, "beta": beta}
    train, test = images_of("fashion-mnist")
    vae = project_b_vae(scale=scale, seed=seed)
    vae, numbers = train_and_measure(vae, train, test, seed=seed, **recipe)
    return vae, {**numbers, **prior_match(vae, train, test)}


THREE = (0, 1, 2)
WARMUP = 0.25
"""Share of the training in which the price of the rate rises, where it does."""

CANDIDATES: dict[str, dict[str, Any]] = {
    "fixed, 0.05": {"scale": 0.05},
    "fixed, 0.05, warm-up": {"scale": 0.05, "warmup": WARMUP},
    "learned, warm-up": {"scale": 0.1, "learned": True, "warmup": WARMUP},
}
"""Ways to come by the scale of a Gaussian, compared over three seeds."""

RIVALS: dict[str, dict[str, Any]] = {
    "learned from 0.1": {"scale": 0.1, "learned": True},
    "learned from 0.03": {"scale": 0.03, "learned": True},
    "optimal, warm-up": {"optimal": True, "warmup": WARMUP},
}
"""Other ways, tried with one seed."""

RUNS = LongRuns(
    "02_likelihoods",
    [
        LongRun("128d", train_128d, seeds=THREE, title="128-D, mlp"),
        LongRun(
            "gaussian-learned",
            partial(train_gaussian, scale=0.1, learned=True),
            seeds=THREE,
            title="128-D, Gaussian",
        ),
        LongRun("gaussian-optimal", partial(train_gaussian, optimal=True), seeds=THREE),
        LongRun("gaussian-choice", partial(choose_scale, candidates=CANDIDATES), seeds=THREE),
        LongRun("gaussian-rivals", partial(choose_scale, candidates=RIVALS)),
        LongRun("gaussian-1", partial(train_gaussian, scale=1.0)),
        LongRun("gaussian-0.4", partial(train_gaussian, scale=0.4)),
        LongRun("gaussian-0.3", partial(train_gaussian, scale=0.3)),
        LongRun("gaussian-0.1", partial(train_gaussian, scale=0.1)),
        LongRun("gaussian-0.05", partial(train_gaussian, scale=0.05)),
        LongRun("gaussian-0.03", partial(train_gaussian, scale=0.03)),
        LongRun(
            "project-b-softplus",
            partial(train_project_b, scale="softplus-logvar"),
            seeds=(0, 1),
            title="50-D, project B",
            dataset="fashion-mnist",
        ),
        LongRun(
            "project-b-beta-0.005",
            partial(train_project_b, scale="softplus-logvar", beta=0.005),
            seeds=(0, 1),
            title="50-D, project B, β = 0.005",
            dataset="fashion-mnist",
        ),
        LongRun(
            "project-b-plain",
            partial(train_project_b, scale="exp"),
            seeds=(0, 1),
            title="50-D, project B, no softplus",
            dataset="fashion-mnist",
        ),
    ],
)
