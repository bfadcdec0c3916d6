"""What is maximised: the evidence lower bound, in its two parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vaelib.likelihoods import Gaussian
from vaelib.models import VAE, Autoencoder
from vaelib.posteriors import DiagonalNormal


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


def log_prior(z: Tensor) -> Tensor:
    """Log-density of the standard normal prior at codes ``[..., D]``, in nats, ``[...]``."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


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
        Whether to check ``x``. It reads all of it, so a training loop checks the data set once
        and not every batch.

    Raises
    ------
    ValueError, TypeError
        If the shape, type or values of ``x`` do not suit the model.
    """
    x, q, z = posterior_sample(model, x, noise, validate)
    distortion = -model.decode(z).log_prob(x)
    rate = kl_to_standard_normal(q.mu, q.logvar).sum(-1)
    return ELBO(distortion, rate)


def elbo_at_optimal_scale(
    model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    r"""Estimate the bound under a Gaussian whose scale is the best for the batch.

    .. math:: s^2 = \frac{1}{BP} \sum_{b,i} (x_{bi} - \hat x_{bi})^2

    maximises the likelihood of the batch (Rybkin et al. 2021). Since it is a maximum, the
    networks get the same gradient whether s is differentiated or not; here it is not. The
    likelihood keeps a running mean of s^2, and that is the scale that :func:`elbo` measures with:
    one that is chosen by looking at the test image would not give a density.

    Takes and raises what :func:`elbo` does, and a TypeError if the likelihood is not a Gaussian.
    """
    if not isinstance(model.likelihood, Gaussian):
        kind = type(model.likelihood).__name__
        raise TypeError(f"the likelihood is {kind}; expected a Gaussian, which has a scale.")
    x, q, z = posterior_sample(model, x, noise, validate)
    mean = model.decode(z).mean
    variance = (x - mean).detach().square().mean().clamp(min=1e-12)  # never log 0
    model.likelihood.follow(variance)
    distortion = -model.likelihood.around(mean, variance.sqrt()).log_prob(x)
    return ELBO(distortion, kl_to_standard_normal(q.mu, q.logvar).sum(-1))


def free_bits(nats: float) -> Objective:
    r"""Return an objective in which each latent dimension has some nats for free.

    .. math:: \text{rate} = \sum_d \max\Bigl(\lambda,\;
        \tfrac1B \sum_b \mathrm{KL}(q(z_d|x_b)\,\|\,p(z_d))\Bigr)

    Below :math:`\lambda` nats, the mean over the batch of a dimension's KL has no gradient, so
    that nothing pulls an unused dimension to the prior (Kingma et al. 2016, appendix C.8). This
    rate is not that of the bound: measure with :func:`elbo`.

    Parameters
    ----------
    nats
        The :math:`\lambda`, at least 0, for each dimension.
    """
    if not 0 <= nats < math.inf:
        raise ValueError(
            f"nats is {nats!r}; expected a finite number, at least 0, for each latent dimension."
        )

    def objective(
        model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
    ) -> ELBO:
        x, q, z = posterior_sample(model, x, noise, validate)
        distortion = -model.decode(z).log_prob(x)
        per_unit = kl_to_standard_normal(q.mu, q.logvar).mean(0)
        return ELBO(distortion, per_unit.clamp(min=nats).sum().expand(len(x)))

    return objective


def importance_weighted(*, doubly_reparameterized: bool = False) -> Objective:
    r"""Return the objective of an importance-weighted autoencoder (Burda et al. 2016).

    .. math:: \mathcal L_K = \log \frac1K \sum_{k=1}^{K} w_k, \qquad
        w_k = \frac{p(x|z_k)\,p(z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

    It is a bound on log p(x) that is the tighter the larger K is. The K samples are the leading
    axis of the noise; ``fit(..., samples=K)`` draws them. What is returned adds up to the bound
    itself, not to the sum of :math:`\tilde w_k \log w_k` that has the same gradient and is
    larger. The first part is the distortion of the implicit posterior that picks one of the
    samples with probability :math:`\tilde w_k = w_k / \sum_j w_j`, the second, the rest, an upper
    bound on its rate (Cremer et al. 2017). They belong together: train at beta = 1.

    Parameters
    ----------
    doubly_reparameterized
        Whether the encoder gets the gradient of Tucker et al. (2019),

        .. math:: \sum_k \tilde w_k^2 \, \frac{\partial \log w_k}{\partial z_k}
            \frac{\partial z_k}{\partial \phi},

        which has the same mean as the plain one and less noise. The value and the gradient of the
        decoder are the same.
    """

    def objective(
        model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
    ) -> ELBO:
        x, q, z = posterior_sample(model, x, noise, validate)
        if z.dim() == 2:
            z = z.unsqueeze(0)
        if doubly_reparameterized:
            q = DiagonalNormal(q.mu.detach(), q.logvar.detach(), validate_args=False)
        distortion = -model.decode(z).log_prob(x)
        log_w = log_prior(z) - q.log_prob(z) - distortion
        share = log_w.detach().softmax(0)
        if doubly_reparameterized and z.requires_grad:
            # The gradient that arrives at z holds one factor of the share; this is the other.
            z.register_hook(lambda gradient: gradient * share.unsqueeze(-1))
        bound = log_w.logsumexp(0) - math.log(len(log_w))
        picked = (share * distortion).sum(0)
        return ELBO(picked, -bound - picked)

    return objective


def reconstruction(
    model: Autoencoder, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    """Compute the distortion of an autoencoder; its code is free, so the rate counts as zero.

    Takes and raises what :func:`elbo` does; an autoencoder has no use for the noise.
    """
    if validate:
        x = model.checked_images(x).to(model.device)
    distortion = -model.decode(model.encode(x, validate=False)).log_prob(x)
    return ELBO(distortion, torch.zeros_like(distortion))


def posterior_sample(
    model: VAE, x: Tensor, noise: Tensor | None, validate: bool
) -> tuple[Tensor, DiagonalNormal, Tensor]:
    """Return the checked images, q(z | x), and z drawn from it at the noise.

    What an objective of one's own starts with. Takes and raises what :func:`elbo` does.
    """
    if validate:
        x = model.checked_images(x).to(model.device)
    q = model.encode(x, validate=False)
    if noise is not None and (noise.dim() > 3 or noise.shape[-2:] != q.mu.shape):
        b, d = q.mu.shape
        raise ValueError(
            f"noise has shape {list(noise.shape)}; expected [{b}, {d}] or [K, {b}, {d}]."
        )
    return x, q, q.rsample() if noise is None else q.reparameterize(noise)


Objective = Callable[..., ELBO]
"""A function with the arguments of :func:`elbo`."""


def objective_of(model: VAE | Autoencoder) -> Objective:
    """Return what a model is trained and measured by: :func:`elbo`, or :func:`reconstruction`."""
    return elbo if isinstance(model, VAE) else reconstruction
