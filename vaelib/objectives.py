"""What is maximised: the evidence lower bound, in its two parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vaelib.models import VAE, Autoencoder


class ELBO(NamedTuple):
    """The two parts of the bound, per image and in nats, not reduced in any way.

    log p(x) >= elbo = -(distortion + rate)
    """

    distortion: Tensor
    """-log p(x | z) at the sampled z: what the code fails to say about the image, ``[..., B]``."""
    rate: Tensor
    """KL(q(z | x) || p(z)): what the code costs, ``[B]``."""

    @property
    def elbo(self) -> Tensor:
        """The bound itself, ``[..., B]`` nats."""
        return -(self.distortion + self.rate)


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    r"""KL divergence of a Gaussian to the standard normal, for each latent dimension.

    .. math:: \tfrac12\left(\mu^2 + e^{\text{logvar}} - 1 - \text{logvar}\right)

    Kingma & Welling (2014), appendix B.

    Parameters
    ----------
    mu, logvar
        Mean and log-variance, ``[..., D]``.

    Returns
    -------
    Tensor
        Nats, ``[..., D]``. The KL of the whole latent vector is the sum over D.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def elbo(model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True) -> ELBO:
    r"""Estimate the evidence lower bound of each image with one sample of z per image.

    .. math:: \mathbb E_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x)\,\|\,p(z)) \le \log p(x)

    The expectation is estimated at :math:`z = \mu + \sigma\epsilon`; the KL is exact.

    Parameters
    ----------
    model
        A VAE.
    x
        Images ``[B, C, H, W]`` or ``[B, C*H*W]``, floating point.
    noise
        The :math:`\epsilon`, standard normal, ``[B, D]``, or ``[K, B, D]`` for K samples per
        image. Drawn from torch's global stream if not given.
    validate
        Whether to check the values of ``x``. It reads all of them, so a training loop checks the
        data set once and not every batch.

    Raises
    ------
    ValueError, TypeError
        If the shape, type or values of ``x`` do not suit the model.
    """
    x = model.as_images(x)
    if validate:
        model.likelihood.check(x)
    q = model.encode(x)
    if noise is not None and (noise.dim() > 3 or noise.shape[-2:] != q.mu.shape):
        b, d = q.mu.shape
        raise ValueError(
            f"noise has shape {list(noise.shape)}; expected [{b}, {d}] or [K, {b}, {d}]."
        )
    z = q.rsample() if noise is None else q.reparameterize(noise)
    distortion = -model.decode(z).log_prob(x)
    rate = kl_to_standard_normal(q.mu, q.logvar).sum(-1)
    return ELBO(distortion, rate)


def reconstruction(
    model: Autoencoder, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    """Compute the distortion of an autoencoder; its code is free, so the rate counts as zero.

    Takes and raises what :func:`elbo` does; an autoencoder has no use for the noise.
    """
    x = model.as_images(x)
    if validate:
        model.likelihood.check(x)
    distortion = -model.decode(model.encode(x)).log_prob(x)
    return ELBO(distortion, torch.zeros_like(distortion))


Objective = Callable[..., ELBO]
"""A function with the arguments of :func:`elbo`."""


def objective_of(model: VAE | Autoencoder) -> Objective:
    """Return what a model is trained and measured by: :func:`elbo`, or :func:`reconstruction`."""
    return elbo if isinstance(model, VAE) else reconstruction
