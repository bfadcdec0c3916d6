"""How good a model is, measured on a whole data set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaelib.models import VAE, Autoencoder
from vaelib.objectives import (
    ELBO,
    Objective,
    kl_to_standard_normal,
    log_prior,
    objective_of,
)
from vaelib.posteriors import DiagonalNormal
from vaelib.seeding import generator
from vaelib.validation import check_count

ACTIVE = 0.01
"""Variance over images above which the mean of a latent unit counts as used."""


@dataclass(frozen=True)
class Report:
    """Means over a data set, in nats per image.

    Parameters
    ----------
    distortion, rate
        Means of the two parts of the bound.
    standard_error
        Standard error of the mean of the negative bound, from the spread over images.
    n
        Number of images.
    """

    distortion: float
    rate: float
    standard_error: float
    n: int

    @property
    def negative_elbo(self) -> float:
        """Mean of distortion + rate, the negative bound at beta = 1, whatever was trained."""
        return self.distortion + self.rate

    def __str__(self) -> str:
        """Return the three numbers in one line."""
        return (
            f"-ELBO {self.negative_elbo:.2f} = distortion {self.distortion:.2f} "
            f"+ rate {self.rate:.2f} nats (n = {self.n:,})"
        )


def evaluate(
    model: VAE | Autoencoder,
    images: Tensor,
    *,
    objective: Objective | None = None,
    batch_size: int = 1000,
    seed: int = 0,
) -> Report:
    """Measure distortion, rate and their sum on a data set.

    Takes and raises what :func:`elbo_per_image` does. The means are sums over all images divided
    by their number, so that a short last batch weighs what it should.
    """
    terms = elbo_per_image(model, images, objective=objective, batch_size=batch_size, seed=seed)
    distortion, rate = terms.distortion.double(), terms.rate.double()
    n = len(rate)
    spread = float((distortion + rate).std()) if n > 1 else math.nan
    return Report(float(distortion.mean()), float(rate.mean()), spread / math.sqrt(n), n)


@torch.no_grad()
def elbo_per_image(
    model: VAE | Autoencoder,
    images: Tensor,
    *,
    objective: Objective | None = None,
    batch_size: int = 1000,
    seed: int = 0,
) -> ELBO:
    """Compute the two parts of the bound for every image, in float32, without a graph.

    Parameters
    ----------
    model
        The model; whether it is in training mode makes no difference to the sample that is drawn.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    objective
        The terms to compute; chosen by the model if not given.
    batch_size
        Images per pass. The noise is drawn for the whole data set at once, so the result does
        not depend on it.
    seed
        Fixes the noise: two models, or one model at two times, are compared at the same noise.

    Returns
    -------
    ELBO
        ``distortion`` and ``rate``, each ``[N]`` on the CPU.

    Raises
    ------
    ValueError, TypeError
        If the images do not suit the model, there are none, or the batch size is below 1.
    """
    check_count("batch_size", batch_size)
    images = model.checked_images(images)
    # Drawn on the CPU, so that every device is measured at the same noise.
    noise = torch.randn(len(images), model.latent_dim, generator=generator(seed, "evaluation"))
    objective = objective or objective_of(model)
    with evaluation_mode(model):
        parts = [
            objective(
                model, x.to(model.device), noise=eps.to(model.device, x.dtype), validate=False
            )
            for x, eps in zip(images.split(batch_size), noise.split(batch_size), strict=True)
        ]
    return ELBO(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


class LogLikelihood(NamedTuple):
    """Estimates of log p(x) for a set of images, each ``[N]`` in float64 on the CPU."""

    value: Tensor
    """log p(x) in nats; its mean over repetitions is below the truth, and nears it as k grows."""
    standard_error: Tensor
    """Estimate, from the weights, of the standard deviation of the value over repetitions, in nats.

    It knows only of the weights that were drawn, never exceeds 1, and is too small where few
    samples are effective.
    """
    effective_samples: Tensor
    """(sum of weights)^2 / sum of squared weights: between 1 and k (Kong 1992)."""

    @property
    def mean(self) -> float:
        """Mean of the values over the images, in nats."""
        return float(self.value.mean())

    @property
    def standard_error_of_mean(self) -> tuple[float, float]:
        """What the mean owes to the choice of the images, and what to the samples, in nats."""
        n = len(self.value)
        of_images = float(self.value.std()) / math.sqrt(n) if n > 1 else math.nan
        return of_images, float(self.standard_error.square().sum().sqrt()) / n

    def __str__(self) -> str:
        """Return the mean over the images, with the standard errors of its two sources."""
        n, (images, samples) = len(self.value), self.standard_error_of_mean
        return (
            f"log p(x) {self.mean:.2f} nats (n = {n:,}; standard error "
            f"{images:.2f} from the images, {samples:.3f} from the samples)"
        )


@torch.no_grad()
def log_likelihood(
    vae: VAE,
    images: Tensor,
    *,
    k: int = 5000,
    proposal: DiagonalNormal | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> LogLikelihood:
    r"""Estimate log p(x) of each image by importance sampling.

    .. math:: \log p(x) \approx \log \frac1k \sum_{j=1}^{k}
        \frac{p(x|z_j)\,p(z_j)}{q(z_j|x)}, \qquad z_j \sim q(z|x)

    Rezende et al. (2014), appendix E; Burda et al. (2016). Its expectation is the bound of an
    importance-weighted autoencoder with k samples. Every image is encoded once, the weights are
    added up as they come, and only a block of them is ever in memory.

    Parameters
    ----------
    vae
        The model; whether it is in training mode makes no difference.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    k
        Samples for each image.
    proposal
        The q to draw from, one for each image, if not the encoder's; the estimate stays one of
        the same log p(x).
    rows
        Latent vectors decoded at once, which bounds the memory. By default 1,000 on a CPU, whose
        cache holds a small network's share of them, and 20,000 elsewhere.
    seed
        Fixes the samples, for a given number of rows and kind of device.

    Returns
    -------
    LogLikelihood
        Values, standard errors and effective sample sizes.

    Raises
    ------
    ValueError, TypeError
        If the images do not suit the model, there are none, the proposal is not one for each
        image, or k or rows is below 1.
    """
    check_count("k", k)
    rows = (1000 if vae.device.type == "cpu" else 20_000) if rows is None else rows
    check_count("rows", rows)
    images = vae.checked_images(images)
    proposal = posterior_of(vae, images) if proposal is None else proposal
    check_posteriors(vae, images, proposal)
    rng = generator(seed, "importance samples", vae.device)
    at_once = min(k, 50, rows)  # samples of one image in a block; its other images fill it up
    parts = (t.split(rows // at_once) for t in (images, proposal.mu, proposal.logvar))
    with evaluation_mode(vae):
        sums = [
            _log_sums_of_weights(vae, *(t.to(vae.device) for t in part), k, at_once, rng)
            for part in zip(*parts, strict=True)
        ]
    log_sum, log_sum_of_squares = (torch.cat(part) for part in zip(*sums, strict=True))
    effective = torch.exp(2 * log_sum - log_sum_of_squares).clamp(1, k)
    # The delta method, from the relative variance of the weights, k / effective - 1.
    variance = (
        (k / effective - 1).clamp(min=0) / (k - 1) if k > 1 else torch.full_like(log_sum, math.nan)
    )
    return LogLikelihood(log_sum - math.log(k), variance.sqrt(), effective)


def _log_sums_of_weights(
    vae: VAE,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    k: int,
    at_once: int,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the sums of k weights and of their squares, ``[B]`` each."""
    q = DiagonalNormal(mu, logvar, validate_args=False)
    totals = torch.full((2, len(x)), -math.inf, dtype=torch.float64)  # MPS has no float64
    for start in range(0, k, at_once):
        shape = (min(at_once, k - start), *mu.shape)
        z = q.reparameterize(torch.randn(shape, generator=rng, device=x.device, dtype=mu.dtype))
        log_w = vae.decode(z).log_prob(x) + log_prior(z) - q.log_prob(z)
        block = torch.stack((log_w.logsumexp(0), (2 * log_w).logsumexp(0)))
        totals = torch.logaddexp(totals, block.cpu().double())
    return totals[0], totals[1]


@torch.no_grad()
def reconstruction_rmse(
    model: VAE | Autoencoder, images: Tensor, *, sampled: bool = True, seed: int = 0
) -> Tensor:
    r"""Root mean squared error of each reconstruction, over the pixels of the image.

    .. math:: \sqrt{\tfrac1P \sum_{i=1}^{P} (x_i - \hat x_i)^2}

    Parameters
    ----------
    model
        A VAE or an autoencoder.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    sampled
        Whether a VAE decodes a sample of q(z | x), as in its bound, or the mean of q.
    seed
        Fixes the sample.

    Returns
    -------
    Tensor
        ``[N]`` on the CPU, in units of the pixel values.
    """
    images = model.as_images(images)
    noise = torch.randn(len(images), model.latent_dim, generator=generator(seed, "evaluation"))
    errors = []
    with evaluation_mode(model):
        for x, eps in zip(images.split(1000), noise.split(1000), strict=True):
            x, eps = x.to(model.device), eps.to(model.device, x.dtype)
            sampling = sampled and isinstance(model, VAE)
            z = model.encode(x).reparameterize(eps) if sampling else model.embed(x)
            errors.append((model.decode(z).mean - x).square().flatten(1).mean(1).sqrt())
    return torch.cat(errors).cpu()


def posterior_of(vae: VAE, images: Tensor) -> DiagonalNormal:
    """Return q(z | x) for all images, ``[N, C, H, W]`` or ``[N, C*H*W]``, on the CPU."""
    with torch.no_grad(), evaluation_mode(vae):
        posteriors = map(vae.encode, vae.as_images(images).to(vae.device).split(1000))
        pairs = zip(*((q.mu, q.logvar) for q in posteriors), strict=True)
        mu, logvar = (torch.cat(part).cpu() for part in pairs)
    return DiagonalNormal(mu, logvar, validate_args=False)


def rate_per_unit(vae: VAE, images: Tensor) -> Tensor:
    """Mean over the images of the KL of each latent dimension, ``[D]`` nats on the CPU."""
    q = posterior_of(vae, images)
    return kl_to_standard_normal(q.mu, q.logvar).mean(0)


def active_units(vae: VAE, images: Tensor, *, threshold: float = ACTIVE) -> Tensor:
    r"""Which latent dimensions depend on the image: :math:`\mathrm{Var}_x(\mu_d(x)) > 0.01`.

    Burda et al. (2016), section 5.2.

    Returns
    -------
    Tensor
        Boolean, ``[D]`` on the CPU. Their number is the sum.
    """
    return posterior_of(vae, images).mu.var(0) > threshold


def posterior_scale(vae: VAE, images: Tensor) -> Tensor:
    """Mean over the images of sigma, for each latent dimension, ``[D]`` on the CPU.

    It is 1 for a dimension that is not used, and small for one that places images precisely.
    """
    return posterior_of(vae, images).stddev.mean(0)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch off what a model does only while training, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def fixed_subset(images: Tensor, n: int) -> Tensor:
    """Return n of the images, or all if there are fewer: at random, and always the same ones."""
    if len(images) <= n:
        return images
    # At random because the order of a data set means something. MNIST's training images, for
    # one, alternate between two groups of writers, and every second image has less ink.
    chosen = torch.randperm(len(images), generator=generator(0, "subset"))[:n]
    return images[chosen.to(images.device)]


def check_posteriors(vae: VAE, images: Tensor, q: DiagonalNormal) -> None:
    """Refuse anything but one Gaussian over the codes of the model for each image."""
    if q.mu.shape != (len(images), vae.latent_dim):
        raise ValueError(
            f"q has shape {list(q.mu.shape)}; expected [{len(images)}, {vae.latent_dim}]: "
            "one Gaussian for each image."
        )
    if q.mu.dtype != vae.dtype:
        raise TypeError(f"q is {q.mu.dtype}, the model {vae.dtype}; expected the same.")
