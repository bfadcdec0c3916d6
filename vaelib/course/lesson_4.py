"""Lesson 4: beta as the price of a nat, on a sweep and on project C.

Project C is ``gozsoy/conditional-vae``.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaelib.aggregate import AggregatePosterior, codes
from vaelib.course.lesson_2 import train_128d
from vaelib.course.lesson_3 import comparison_vae
from vaelib.course.protocols import images_of, parts_of, prior_match, train_and_measure
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import load, to_float
from vaelib.evaluation import active_units, evaluate, fixed_subset, rate_per_unit
from vaelib.likelihoods import Gaussian
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.objectives import Objective, free_bits
from vaelib.sample_quality import Judge
from vaelib.schedules import Schedule, cyclical, linear, warmup_cosine
from vaelib.seeding import generator
from vaelib.sweeps import fit_sweep
from vaelib.training import fit

BETAS = (0.0, 0.005, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 28.0, 50.0, 200.0)
"""The values of beta of chapter 4, from an autoencoder with noise to collapse."""

GAUSSIAN_BETAS = (0.03, 0.1, 0.3, 0.6, 1.2, 2.5, 5.0, 9.0, 16.0)
"""Prices under a Gaussian, each about as large a share of its threshold as one of the above."""

SUM_OF_SQUARES = math.sqrt(0.5)
"""The scale of a Gaussian whose distortion is the sum of squared errors, up to a constant."""

SHOWN, SAMPLED = 10, 2000
"""How many images the live figure shows in a row, and on how many samples are judged."""

PROJECT_C_MEAN, PROJECT_C_STD = 0.13066, 0.30811
"""Mean and standard deviation of MNIST's training pixels, as project C rounds them."""

PROJECT_C_CONSTANT = 784 / 2 * math.log(math.pi)
"""Distortion of project C's network minus its sum of squared errors, in nats."""


def sweep_vaes(*, seed: int = 0) -> list[VAE]:
    """Build a 16-D network of chapter 3 with equal first weights for each of :data:`BETAS`."""
    return [comparison_vae("mlp", 800_000, latent_dim=16, seed=seed) for _ in BETAS]


def sweep_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.sweeps.fit_sweep` for the sweep of chapter 4."""
    full = profile == "full"
    return {
        "epochs": 6,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(8e-3),
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


def project_c_images(grey: Tensor) -> Tensor:
    """Standardise grey values in [0, 1] as project C does: one mean and one scale for all."""
    return (grey - PROJECT_C_MEAN) / PROJECT_C_STD


def project_c_vae(*, latent_dim: int = 15, seed: int = 0, scale: str = "softplus") -> VAE:
    """Build project C's network, 784-500-120-15 and back, with its sigma = softplus(rho).

    Project C trains on the sum of squared errors plus beta times the rate. A Gaussian whose
    variance is 1/2 has just this sum as its distortion, up to :data:`PROJECT_C_CONSTANT`.
    """
    return VAE(
        encoder=MLPEncoder(latent_dim=latent_dim, hidden=(500, 120), seed=seed),
        decoder=MLPDecoder(latent_dim=latent_dim, hidden=(120, 500), seed=seed),
        likelihood=Gaussian(link="identity", scale=math.sqrt(0.5)),
        scale=scale,
    )


def project_c_training() -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for project C's network."""
    return {"epochs": 15, "batch_size": 64, "lr": 1e-3}


def thresholds(images: Tensor, variance: Tensor | float) -> Tensor:
    r"""Return the prices at which the units of a linear code die, in falling order.

    They are the eigenvalues of :math:`V^{-1/2} \Sigma V^{-1/2}`, where :math:`\Sigma` is the
    covariance of the pixels and V holds the variances that the decoder assumes.

    Parameters
    ----------
    images
        ``[N, C, H, W]``.
    variance
        Of each pixel under the collapsed decoder: :math:`m(1-m)` for a Bernoulli of mean m, or
        the square of a Gaussian's scale. A pixel with less than 1e-4 says nothing.
    """
    pixels = images.flatten(1).double()
    v = torch.as_tensor(variance, dtype=torch.float64).flatten().expand(pixels.shape[1])
    seen = v > 1e-4
    unit = v[seen].rsqrt()
    covariance = torch.cov(pixels[:, seen].T)
    return torch.linalg.eigvalsh(unit[:, None] * covariance * unit).flip(0)


def linear_rates(beta: float, prices: Tensor) -> Tensor:
    r"""Return the rate of each unit of the best linear code, in nats.

    .. math:: \tfrac12 \log\frac{\lambda}{\beta} \text{ below the threshold } \lambda,
        \text{ and } 0 \text{ above}

    Parameters
    ----------
    beta
        The price of a nat, above 0.
    prices
        The thresholds of the units, from :func:`thresholds`.
    """
    return (0.5 * (prices / beta).log()).clamp(min=0)


class Pictures(nn.Module):
    """What the models of a sweep make of the same images and of the same draws, in 256 greys.

    Parameters
    ----------
    models
        Number of models.
    """

    def __init__(self, models: int = len(BETAS)) -> None:
        super().__init__()
        sizes = {"originals": (SHOWN,), "reconstructions": (models, SHOWN)}
        sizes |= dict.fromkeys(("prior", "mixture"), (models, 2 * SHOWN))
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(*size, 28, 28, dtype=torch.uint8))

    def show(self, name: str, model: int, images: Tensor) -> None:
        """Keep the first images ``[N, 1, 28, 28]`` of one model, with values in [0, 1]."""
        row = self.get_buffer(name)[model]
        row.copy_((images[: len(row), 0].clamp(0, 1) * 255).round().to(torch.uint8))


def judge_samples(vae: VAE, z: Tensor, real: Tensor, judge: Judge) -> tuple[Tensor, list[float]]:
    """Decode codes; return the images, and the share that they cover and that look real."""
    with torch.no_grad():
        images = vae.decode(z).mean.cpu()
    quality = judge.assess(images, real)
    return images, [quality.coverage, quality.precision]


def train_prices(seed: int) -> tuple[Pictures, dict[str, Any]]:
    """Train the sweep of chapter 4, and measure codes and samples of every model.

    The numbers hold a list for each quantity, with an entry for each of :data:`BETAS`. Samples
    are judged by the share of test images that they cover, and by the share of samples that lie
    among the test images; both are drawn from the prior and from a mixture that was fitted to the
    codes of training images.
    """
    source = load("mnist")
    train, test = to_float(source.train.images), to_float(source.test.images)
    vaes = sweep_vaes(seed=seed)
    started = time.perf_counter()
    fit_sweep(vaes, train, betas=BETAS, seed=seed, **sweep_training())
    seconds = time.perf_counter() - started
    judge, real = Judge(source.train_part), fixed_subset(test, SAMPLED)
    some = fixed_subset(train, 20_000)
    from_prior = torch.randn(SAMPLED, 16, generator=generator(seed, "samples"))
    numbers: dict[str, list[Any]] = {}
    pictures = Pictures(len(BETAS))
    pictures.originals.copy_((test[:SHOWN, 0] * 255).round().to(torch.uint8))
    for k, vae in enumerate(vaes):
        # Another seed: a collapsed model has no images in its codes, only the noise.
        mixture = AggregatePosterior(codes(vae, some, seed=1))
        drawn, by_prior = judge_samples(vae, from_prior, real, judge)
        mixed, by_mixture = judge_samples(vae, mixture.sample(SAMPLED, seed=seed), real, judge)
        for name, images in {"prior": drawn, "mixture": mixed}.items():
            pictures.show(name, k, images)
        z = codes(vae, test)
        with torch.no_grad():
            pictures.show("reconstructions", k, vae.decode(z[:SHOWN]).mean.cpu())
        report = evaluate(vae, test)
        found = {
            "test_distortion": report.distortion,
            "test_rate": report.rate,
            "test_rate_per_unit": rate_per_unit(vae, test).tolist(),
            "test_active_units": int(active_units(vae, test).sum()),
            "test_mismatch": mixture.mismatch(z),
            "prior_coverage": by_prior[0],
            "prior_precision": by_prior[1],
            "mixture_coverage": by_mixture[0],
            "mixture_precision": by_mixture[1],
        }
        for name, value in found.items():
            numbers.setdefault(name, []).append(value)
    m = train.mean(0)
    return pictures, {
        "beta": list(BETAS),
        **numbers,
        "thresholds": thresholds(train, m * (1 - m))[:16].tolist(),
        "seconds": seconds,
        "provenance": provenance("full", vaes[0].device, seconds),
    }


def gaussian_sweep_vaes(*, seed: int = 0) -> list[VAE]:
    """Build the network of the sweep with a Gaussian for each of :data:`GAUSSIAN_BETAS`."""
    built = [comparison_vae("mlp", 800_000, latent_dim=16, seed=seed) for _ in GAUSSIAN_BETAS]
    return [
        VAE(
            encoder=vae.encoder,
            decoder=vae.decoder,
            likelihood=Gaussian(link="identity", scale=SUM_OF_SQUARES),
            scale=vae.scale,
        )
        for vae in built
    ]


def train_gaussian_prices(seed: int) -> tuple[None, dict[str, Any]]:
    """Train the network of the sweep on the sum of squared errors of grey values in [0, 1]."""
    train, test = images_of("mnist")
    vaes = gaussian_sweep_vaes(seed=seed)
    started = time.perf_counter()
    fit_sweep(vaes, train, betas=GAUSSIAN_BETAS, seed=seed, **sweep_training())
    seconds = time.perf_counter() - started
    reports = [evaluate(vae, test) for vae in vaes]
    return None, {
        "beta": list(GAUSSIAN_BETAS),
        "test_distortion": [report.distortion for report in reports],
        "test_rate": [report.rate for report in reports],
        "test_rate_per_unit": [rate_per_unit(vae, test).tolist() for vae in vaes],
        "thresholds": thresholds(train, SUM_OF_SQUARES**2)[:16].tolist(),
        "seconds": seconds,
        "provenance": provenance("full", vaes[0].device, seconds),
    }


def train_sweep(seed: int) -> tuple[dict[str, VAE], dict[str, Any]]:
    """Train the sweep of chapter 4 on all of MNIST's training images."""
    train, test = images_of("mnist")
    vaes = sweep_vaes(seed=seed)
    started = time.perf_counter()
    fit_sweep(vaes, train, betas=BETAS, seed=seed, **sweep_training())
    seconds = time.perf_counter() - started
    reports = [evaluate(vae, test) for vae in vaes]
    matches = [prior_match(vae, train, test) for vae in vaes]
    titled = {f"16-D, mlp, β = {beta:g}": vae for beta, vae in zip(BETAS, vaes, strict=True)}
    return titled, {
        "beta": list(BETAS),
        "test_distortion": [report.distortion for report in reports],
        "test_rate": [report.rate for report in reports],
        "test_active_units": [int(active_units(vae, test).sum()) for vae in vaes],
        **{name: [match[name] for match in matches] for name in matches[0]},
        "seconds": seconds,
        "provenance": provenance("full", vaes[0].device, seconds),
    }


def train_project_c(
    seed: int, *, beta: float | Schedule, objective: Objective | None = None
) -> tuple[VAE, dict[str, Any]]:
    """Train project C's network by its recipe: standardised pixels, Adam at 1e-3, 15 epochs."""
    train, test = map(project_c_images, images_of("mnist"))
    vae = project_c_vae(seed=seed)
    recipe = project_c_training() | {"beta": beta, "objective": objective}
    vae, numbers = train_and_measure(vae, train, test, seed=seed, **recipe)
    error = numbers["test_distortion"] - PROJECT_C_CONSTANT
    return vae, {**numbers, "test_squared_error": error}


def train_project_c_for_long(seed: int, *, beta: float) -> tuple[VAE, dict[str, Any]]:
    """Train project C's network for 100 epochs with an eye on 10,000 validation images."""
    train, validation, test = map(project_c_images, parts_of("mnist"))
    vae = project_c_vae(seed=seed)
    recipe = project_c_training() | {"epochs": 100, "beta": beta}
    history = fit(vae, train, test=validation, snapshot_every=1, seed=seed, **recipe)

    def loss(split: str) -> list[float]:
        parts = (history.curve(split, part) for part in ("distortion", "rate"))
        return [d - PROJECT_C_CONSTANT + beta * r for d, r in zip(*parts, strict=True)]

    on_validation = loss("test")
    best = min(history.snapshots, key=lambda epoch: on_validation[epoch])
    tested = {}
    for epoch in (15, best, 100):
        vae.load_state_dict(history.snapshots[epoch])
        report = evaluate(vae, test)
        tested[str(epoch)] = report.distortion - PROJECT_C_CONSTANT + beta * report.rate
    return vae, {
        "train_loss": loss("train"),
        "validation_loss": on_validation,
        "best_epoch": best,
        "test_loss_after": tested,
        "seconds": history.seconds,
        "provenance": provenance("full", vae.device, history.seconds),
    }


THREE = (0, 1, 2)
RUNS = LongRuns(
    "04_beta_tradeoff",
    [
        LongRun("beta-sweep-16d", train_sweep, seeds=THREE),
        LongRun("prices-bernoulli", train_prices, seeds=THREE, keeps_weights=True),
        LongRun("prices-gaussian", train_gaussian_prices, seeds=THREE),
        LongRun("project-c-0", partial(train_project_c, beta=0.0), seeds=THREE, keeps_weights=True),
        LongRun("project-c-0.3", partial(train_project_c, beta=0.3)),
        LongRun("project-c-8", partial(train_project_c, beta=8.0), seeds=THREE),
        LongRun(
            "project-c-12", partial(train_project_c, beta=12.0), seeds=THREE, keeps_weights=True
        ),
        LongRun("project-c-80", partial(train_project_c, beta=80.0)),
        LongRun("project-c-120", partial(train_project_c, beta=120.0)),
        LongRun(
            "project-c-200", partial(train_project_c, beta=200.0), seeds=THREE, keeps_weights=True
        ),
        LongRun("project-c-0.3-100-epochs", partial(train_project_c_for_long, beta=0.3)),
        LongRun("project-c-12-100-epochs", partial(train_project_c_for_long, beta=12.0)),
        LongRun(
            "project-c-12-annealing",
            partial(train_project_c, beta=linear(0.0, 12.0, over=0.5)),
            seeds=THREE,
        ),
        LongRun(
            "project-c-12-cyclical", partial(train_project_c, beta=cyclical(12.0)), seeds=THREE
        ),
        LongRun(
            "project-c-12-free-bits",
            partial(train_project_c, beta=12.0, objective=free_bits(0.1)),
            seeds=THREE,
        ),
        LongRun(
            "128d-annealing", partial(train_128d, beta=linear(0.0, 1.0, over=0.5)), seeds=THREE
        ),
        LongRun("128d-cyclical", partial(train_128d, beta=cyclical(1.0)), seeds=THREE),
        LongRun("128d-free-bits", partial(train_128d, objective=free_bits(0.1)), seeds=THREE),
    ],
)
