"""The aggregate posterior q(z): where the codes of a data set really lie, beside the prior."""

from __future__ import annotations

import math

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from vaelib.evaluation import posterior_of
from vaelib.models import VAE
from vaelib.objectives import log_prior
from vaelib.seeding import generator


def codes(vae: VAE, images: Tensor, *, seed: int = 0) -> Tensor:
    """Draw one z from q(z | x) for each image, ``[N, D]`` on the CPU: a sample of q(z).

    Parameters
    ----------
    vae
        The model.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    seed
        Fixes the draw.
    """
    q = posterior_of(vae, images)
    return q.reparameterize(torch.randn(q.mu.shape, generator=generator(seed, "codes")))


class AggregatePosterior:
    r"""A mixture of Gaussians fitted to the codes of a data set.

    .. math:: q(z) = \mathbb E_{x}[q(z|x)] \approx \hat q(z)

    The generator of a VAE draws from the prior p(z); its decoder was trained on q(z). Drawing from
    :math:`\hat q` in place of p is ex-post density estimation (Ghosh et al. 2020).

    Parameters
    ----------
    z
        A sample of q(z), ``[N, D]``: :func:`codes` of training images.
    components
        Number of Gaussians, each with a covariance of its own.
    seed
        Fixes the start of the fit.
    """

    def __init__(self, z: Tensor, *, components: int = 10, seed: int = 0) -> None:
        if len(z) < components:
            raise ValueError(f"got {len(z)} codes; expected at least one for each component.")
        # Codes of a model with beta = 0 may be spread over tens of units: unit scale for the fit.
        self._mean, self._scale = z.mean(0), z.std(0)
        standard = ((z - self._mean) / self._scale).double().numpy()
        self._mixture = GaussianMixture(components, random_state=seed, tol=1e-2, max_iter=200)
        self._mixture.fit(standard)

    def log_prob(self, z: Tensor) -> Tensor:
        r"""Log-density :math:`\log\hat q(z)` of codes ``[N, D]``, in nats, ``[N]``."""
        standard = ((z - self._mean) / self._scale).double().numpy()
        log_prob = torch.from_numpy(self._mixture.score_samples(standard))
        return (log_prob - self._scale.double().log().sum()).to(z.dtype)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        r"""Draw n codes from :math:`\hat q`, ``[n, D]``."""
        self._mixture.random_state = generator(seed, "mixture").initial_seed() % 2**32
        drawn, _ = self._mixture.sample(n)  # component by component
        order = torch.randperm(n, generator=generator(seed, "mixture"))
        standard = torch.from_numpy(drawn)[order]
        return standard.to(self._mean.dtype) * self._scale + self._mean

    def mismatch(self, z: Tensor) -> float:
        r"""Measure what the prior costs in place of the mixture, in nats per image.

        .. math:: \mathbb E_{q(z)}[\log\hat q(z) - \log p(z)]
            = \mathrm{KL}(q(z)\,\|\,p(z)) - \mathrm{KL}(q(z)\,\|\,\hat q(z))

        It is at most KL(q(z) || p(z)), the part of the rate that says nothing about the image:
        rate = I(x; z) + KL(q(z) || p(z)) (Hoffman & Johnson 2016). A generator that draws from
        the mixture has a bound that is better by just this number.

        Parameters
        ----------
        z
            Codes of other images than the mixture was fitted to, ``[N, D]``. On the same images
            the mixture would look better than it is.
        """
        return float((self.log_prob(z) - log_prior(z)).double().mean())


def gaussian_total_correlation(z: Tensor) -> float:
    r"""Total correlation of codes ``[N, D]`` if they were Gaussian, in nats.

    .. math:: -\tfrac12 \log\det\,\mathrm{corr}(z)

    It is zero if no two dimensions are correlated; dependence beyond correlation escapes it.
    """
    correlation = torch.corrcoef(z.double().T).reshape(z.shape[1], z.shape[1])
    return float(-0.5 * torch.logdet(correlation))


def mutual_information(vae: VAE, images: Tensor, *, seed: int = 0) -> float:
    r"""Estimate how many nats a code tells about its image, from below.

    .. math:: I(x; z) = \mathbb E\left[\log\frac{q(z|x)}{q(z)}\right]
        \ge \mathbb E\left[\log\frac{q(z_n|x_n)}{\tfrac1N\sum_m q(z_n|x_m)}\right]

    The aggregate posterior is replaced by the mixture over the N images themselves. Since the
    mixture holds the term of the image that z came from, no summand is above log N: more nats than
    that cannot be seen with N images (Poole et al. 2019, section 2.5).

    Parameters
    ----------
    vae
        The model.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    seed
        Fixes the draw of one z for each image.

    Returns
    -------
    float
        Nats, at most log N, and in expectation not above the information itself.
    """
    q = posterior_of(vae, images)
    z = q.reparameterize(torch.randn(q.mu.shape, generator=generator(seed, "codes")))
    # The density of every z under every posterior, N^2 numbers, a slice at a time.
    log_mixture = torch.cat([q.log_prob(part.unsqueeze(1)).logsumexp(1) for part in z.split(20)])
    return float((q.log_prob(z) - log_mixture).double().mean()) + math.log(len(z))
