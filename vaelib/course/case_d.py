"""Case file D: project D, ``yulinliutw/VAE-with-Mnist``, built again and tried.

Its network is the model of lesson 2, :func:`vaelib.course.lesson_2.vae_128d`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaelib import data
from vaelib.course.lesson_2 import vae_128d
from vaelib.course.protocols import images_of, train_and_measure
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import to_float
from vaelib.evaluation import fixed_subset
from vaelib.likelihoods import Gaussian
from vaelib.models import VAE
from vaelib.objectives import ELBO, Objective, elbo, kl_to_standard_normal
from vaelib.sample_quality import Judge
from vaelib.schedules import Schedule, constant, warmup_cosine
from vaelib.seeding import generator

N_TRAIN = 55_000
"""Training images that TensorFlow 1 gave project D; it held 5,000 back for validation."""

N_SHORT = 20_000
"""Training images of a short training, which is long enough to tell the losses apart."""

BETAS = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Weights of the rate with which project D's network is trained for eight epochs."""

VARIANCES = (0.05, 0.01)
"""Variances s^2 of a pixel for which the squared error is divided by 2 s^2."""

SAMPLES = 2000


def length_and_rate(
    model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    """Compute project D's first loss: the length of the error, not its square, and the KL.

    Takes and raises what :func:`vaelib.objectives.elbo` does. The length, in grey values, stands
    where the bound has a distortion in nats.
    """
    q = model.encode(x, validate=validate)
    x = model.as_images(x).to(model.device)
    error = (x - model.decode(q.reparameterize(noise)).mean).flatten(1)
    return ELBO(error.norm(dim=1), kl_to_standard_normal(q.mu, q.logvar).sum(1))


def logits_as_pixels(
    model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    """Compute the loss of project D's first version, which takes its logits for pixels.

    Half the cross-entropy of the logits, half the length of logits minus image, and the KL. Takes
    and raises what :func:`vaelib.objectives.elbo` does.
    """
    q = model.encode(x, validate=validate)
    x = model.as_images(x).to(model.device)
    logits = model.decoder(q.reparameterize(noise)).float()
    cross_entropy = -model.likelihood(logits).log_prob(x)
    length = (x - logits).flatten(1).norm(dim=1)
    rate = kl_to_standard_normal(q.mu, q.logvar).sum(1)
    return ELBO(0.5 * cross_entropy + 0.5 * length, rate)


def codes_of_project_d(n: int, latent_dim: int, *, generator: torch.Generator) -> Tensor:
    """Draw the codes ``[n, latent_dim]`` from which project D generates.

    A mean and a log-variance, both uniform on [-1, 1], and then a code from that Gaussian. Their
    variance is 1/3 + sinh 1 = 1.51, where the prior has 1.
    """
    shape = (n, latent_dim)
    mu, logvar = (2 * torch.rand(shape, generator=generator) - 1 for _ in range(2))
    return mu + (0.5 * logvar).exp() * torch.randn(shape, generator=generator)


@torch.no_grad()
def decoded(model: VAE, z: Tensor) -> Tensor:
    """Return the means of p(x | z), ``[N, 1, 28, 28]``, on the CPU."""
    return model.decode(z.to(model.device)).mean.cpu()


@torch.no_grad()
def outputs(model: VAE, images: Tensor, *, seed: int = 0) -> Tensor:
    """Return what the decoder computes at a sample of q(z | x): logits, ``[N, 1, 28, 28]``.

    A sample, as project D takes it: where a code has collapsed, its mean is no typical code.
    """
    noise = torch.randn(len(images), model.latent_dim, generator=generator(seed, "outputs"))
    codes = (
        model.encode(x).reparameterize(eps.to(model.device))
        for x, eps in zip(images.split(1000), noise.split(1000), strict=True)
    )
    return torch.cat([model.decoder(z).cpu() for z in codes])


def rmse_of_logits(model: VAE, images: Tensor) -> float:
    """Return the mean over images of the RMSE with logits taken for pixels."""
    error = images.cpu() - outputs(model, images)
    return float(error.flatten(1).square().mean(1).sqrt().mean())


def quality_of_samples(model: VAE, *, seed: int) -> dict[str, dict[str, float]]:
    """Judge images from the prior, and from project D's codes, against as many test images."""
    source = data.load("mnist")
    judge = Judge(source.train_part, seed=seed)
    real = fixed_subset(to_float(source.test.images), SAMPLES)
    rng = generator(seed, "samples of project D")
    drawn = {
        "prior": torch.randn(SAMPLES, model.latent_dim, generator=rng),
        "project D": codes_of_project_d(SAMPLES, model.latent_dim, generator=rng),
    }
    return {name: judge.assess(decoded(model, z), real)._asdict() for name, z in drawn.items()}


def train_project_d(
    seed: int,
    *,
    lr: Schedule,
    epochs: int,
    batch_size: int = 100,
    beta: float = 1.0,
    judged: bool = False,
) -> tuple[VAE, dict[str, Any]]:
    """Train project D's network on its 55,000 images, and judge its samples if asked."""
    train, test = images_of("mnist")
    recipe = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "beta": beta}
    recipe["precision"] = "auto"
    vae, numbers = train_and_measure(
        vae_128d(seed=seed), train[:N_TRAIN], test, seed=seed, **recipe
    )
    if judged:
        numbers["samples"] = quality_of_samples(vae, seed=seed)
    return vae, numbers


def short_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for a short training of the network."""
    full = profile == "full"
    return {
        "epochs": 4 if full else 8,
        "batch_size": 100 if full else 50,
        "lr": warmup_cosine(2e-3),
        "precision": "auto" if full else "float32",
    }


def train_shortly(
    seed: int,
    *,
    likelihood: nn.Module | None = None,
    objective: Objective = elbo,
    beta: float = 1.0,
) -> tuple[VAE, dict[str, Any]]:
    """Train project D's network for four epochs on 20,000 images."""
    train, test = images_of("mnist")
    recipe = short_training() | {"objective": objective, "beta": beta}
    vae = vae_128d(likelihood, seed=seed)
    vae, numbers = train_and_measure(vae, train[:N_SHORT], test, seed=seed, **recipe)
    return vae, numbers | {"test_rmse_of_logits": rmse_of_logits(vae, test)}


def train_on_length(seed: int, *, beta: float) -> tuple[VAE, dict[str, Any]]:
    """Train shortly on the length of the error plus beta times the rate."""
    return train_shortly(
        seed, likelihood=Gaussian(link="logit"), objective=length_and_rate, beta=beta
    )


def train_on_square(seed: int, *, variance: float) -> tuple[VAE, dict[str, Any]]:
    """Train shortly on the squared error divided by twice the variance of a pixel."""
    return train_shortly(seed, likelihood=Gaussian(link="logit", scale=math.sqrt(variance)))


THREE = (0, 1, 2)
RUNS = LongRuns(
    "case_d_reconstruction",
    [
        LongRun(
            "project-d-one-cycle",
            partial(train_project_d, lr=warmup_cosine(2e-3), epochs=40),
            seeds=THREE,
            title="128-D, project D",
        ),
        LongRun("project-d", partial(train_project_d, lr=constant(2e-3), epochs=100), seeds=THREE),
        LongRun("project-d-cross-entropy", train_shortly, seeds=THREE),
        LongRun("project-d-length", partial(train_on_length, beta=1.0), seeds=THREE),
        LongRun("project-d-length-alone", partial(train_on_length, beta=0.0), seeds=THREE),
        LongRun(
            "project-d-first-version",
            partial(train_shortly, objective=logits_as_pixels),
            seeds=THREE,
        ),
    ]
    + [
        LongRun(
            f"project-d-square-{variance:g}",
            partial(train_on_square, variance=variance),
            seeds=THREE,
        )
        for variance in VARIANCES
    ]
    + [
        LongRun(
            f"project-d-beta-{beta:g}",
            partial(
                train_project_d,
                lr=warmup_cosine(4e-3),
                epochs=8,
                batch_size=250,
                beta=beta,
                judged=beta == 1,
            ),
            seeds=THREE,
        )
        for beta in BETAS
    ],
)
