"""How good a model is, measured on a whole data set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelib.models import VAE, Autoencoder
from vaelib.objectives import ELBO, Objective, kl_to_standard_normal, objective_of
from vaelib.posteriors import DiagonalNormal
from vaelib.seeding import generator

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
    check_batch_size(batch_size)
    images = model.as_images(images)
    if len(images) == 0:
        raise ValueError("there are no images to evaluate on; expected at least one.")
    model.likelihood.check(images)
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


def check_batch_size(batch_size: int) -> None:
    """Raise a ValueError if the batch size is not a whole number of at least 1."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; expected a whole number, at least 1.")
