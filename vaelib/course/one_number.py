"""A world of one hidden number, in which everything that the course defines can be computed.

z ~ N(0, 1) is hidden, and x | z ~ N(f(z), 0.3²) is observed, with f(z) = (z + 1/4)² / 2. Two values
of z explain a positive x equally well; the prior prefers one of them. So p(z | x) has two unequal
modes, and no Gaussian q(z) = N(mu, sigma²) can equal it.

All integrals are sums over a grid. Everything is in float64, and logarithms are in nats. The
arguments x, z, mu, sigma and K are numbers or tensors, and are broadcast against one another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

PRIOR = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
"""p(z)."""
SHIFT = 0.25
"""f has its lowest point at z = -SHIFT."""
NOISE = 0.3
"""Standard deviation of x around f(z)."""
X = 1.0
"""The observation that the lesson begins with."""

Z_GRID = torch.linspace(-8, 8, 1601, dtype=torch.float64)
"""Where p(x, z) is summed over z: fine enough for x between -3 and 20."""
U_GRID = torch.linspace(-8, 8, 401, dtype=torch.float64)
"""Where an expectation under q is summed: at z = mu + sigma u."""
U_WEIGHTS = torch.softmax(-(U_GRID**2) / 2, dim=0)
V_GRID = torch.arange(-64, 580, dtype=torch.float64) / 50
S_GRID = 16 * V_GRID.sinh()
"""Where the importance-weighted bound is summed over s = log t: fine where the integrand bends."""
S_WEIGHTS = 16 * V_GRID.cosh() / 50
"""ds/dv times the step in v, in which the grid is even."""


def f(z: Tensor | float) -> Tensor:
    """Return the mean of x given z."""
    return (_double(z) + SHIFT) ** 2 / 2


def log_likelihood(x: Tensor | float, z: Tensor | float) -> Tensor:
    """Return log p(x | z)."""
    return _log_normal(_double(x), f(z), NOISE)


def log_joint(x: Tensor | float, z: Tensor | float) -> Tensor:
    """Return log p(x, z) = log p(z) + log p(x | z)."""
    return PRIOR.log_prob(_double(z)) + log_likelihood(x, z)


def log_px(x: Tensor | float) -> Tensor:
    """Return log p(x), the joint density summed over z."""
    step = Z_GRID[1] - Z_GRID[0]
    return torch.logsumexp(log_joint(_double(x)[..., None], Z_GRID), dim=-1) + step.log()


def log_posterior(z: Tensor | float, x: Tensor | float) -> Tensor:
    """Return log p(z | x) = log p(x, z) - log p(x)."""
    return log_joint(x, z) - log_px(x)


def joint_map(z: Tensor, x: Tensor) -> Tensor:
    """Return the density p(x, z) as a map.

    Parameters
    ----------
    z, x
        Coordinates ``[N]`` of the columns and ``[M]`` of the rows.

    Returns
    -------
    Tensor
        ``[M, N]``. A column in proportion is p(x | z), a row is p(z | x), and the sum of a row
        times the step in z is p(x).
    """
    return log_joint(_double(x)[:, None], z).exp()


def kl_to_prior(mu: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return the rate KL(q ‖ p(z)), in closed form."""
    mu, sigma = _q(mu, sigma)
    return (mu**2 + sigma**2 - 1) / 2 - sigma.log()


def distortion(x: Tensor | float, mu: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return E_q[-log p(x | z)]."""
    mu, sigma = _q(mu, sigma)
    return -_mean(log_likelihood(_double(x)[..., None], _under_q(mu, sigma)))


def elbo(x: Tensor | float, mu: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return the ELBO of q = N(mu, sigma²), minus distortion minus rate.

    Raises
    ------
    ValueError
        If sigma is not positive.
    """
    return -distortion(x, mu, sigma) - kl_to_prior(mu, sigma)


def kl_to_posterior(x: Tensor | float, mu: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Return KL(q ‖ p(z | x)), the mean under q of log q(z) - log p(z | x)."""
    mu, sigma = _q(mu, sigma)
    z = _under_q(mu, sigma)
    return _mean(_log_q(z, mu, sigma) - log_posterior(z, _double(x)[..., None]))


def importance_bound(
    x: Tensor | float, mu: Tensor | float, sigma: Tensor | float, K: Tensor | int
) -> Tensor:
    """Return E[log 1/K sum_k p(x, z_k) / q(z_k)] for K independent draws z_k from q.

    No draws are made. For every m > 0, log m is the integral of (exp(-t) - exp(-t m)) / t over
    t > 0. With m the mean of K weights, the expectation of exp(-t m) is that of a single weight,
    E[exp(-t w / K)], to the power K. What is left is a sum over z inside a sum over log t. Its
    error is below a thousandth of the gap between log p(x) and the ELBO.

    Parameters
    ----------
    x, mu, sigma
        The observation, and mean and standard deviation of q.
    K
        Number of draws, from 1 (the ELBO) to 1,000.

    Raises
    ------
    ValueError
        If sigma is not positive or K is below 1.
    """
    mu, sigma = _q(mu, sigma)
    K = _double(K)[..., None]
    if (K < 1).any():
        raise ValueError(f"K is {K.squeeze(-1).tolist()}; expected at least one draw.")
    z = _under_q(mu, sigma)
    log_weight = log_posterior(z, _double(x)[..., None]) - _log_q(z, mu, sigma)  # less log p(x)
    t = S_GRID.exp()  # what is t / K above
    one_draw = _mean(torch.exp(-(S_GRID[:, None] + log_weight[..., None, :]).exp()))
    return log_px(x) + (S_WEIGHTS * (torch.exp(-K * t) - one_draw**K)).sum(dim=-1)


def climb(
    x: float,
    mu: float,
    sigma: float,
    *,
    rate: float = 0.02,
    longest: float = 0.1,
    flat: float = 1e-4,
) -> Tensor:
    """Let gradient ascent on the ELBO move mu and log sigma until the gradient is ``flat``.

    A step is ``rate`` times the gradient, not longer than ``longest``, and halved until the ELBO
    grows.

    Parameters
    ----------
    x, mu, sigma
        The observation, and mean and standard deviation of q at the start.
    rate, longest, flat
        Step size, length of the longest step, and length of the gradient to stop at.

    Returns
    -------
    Tensor
        ``[steps + 1, 3]``: mu, sigma and the ELBO, from the start to the end.

    Raises
    ------
    ValueError
        If sigma is not positive.
    """
    start, width = _q(mu, sigma)
    place = torch.stack([start, width.log()]).requires_grad_()
    path = []
    while True:
        mu, sigma = place[0], place[1].exp()
        height = elbo(x, mu, sigma)
        path.append([mu.item(), sigma.item(), height.item()])
        (slope,) = torch.autograd.grad(height, place)
        steepness = slope.norm().item()
        if steepness < flat:
            return torch.tensor(path, dtype=torch.float64)
        step = slope * min(rate, longest / steepness)
        while elbo(x, (place + step)[0], (place + step)[1].exp()) <= height:
            step = step / 2
        place = (place + step).detach().requires_grad_()


def _double(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _log_normal(value: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    sd = _double(sd)
    return -(((value - mean) / sd) ** 2) / 2 - sd.log() - math.log(2 * math.pi) / 2


def _q(mu: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of q in float64."""
    mu, sigma = _double(mu), _double(sigma)
    if not (sigma > 0).all():
        raise ValueError(f"sigma is {sigma.tolist()}; a standard deviation must be positive.")
    return mu, sigma


def _under_q(mu: Tensor, sigma: Tensor) -> Tensor:
    """Return the grid ``[..., len(U_GRID)]`` of z for means under q."""
    return mu[..., None] + sigma[..., None] * U_GRID


def _log_q(z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return _log_normal(z, mu[..., None], sigma[..., None])


def _mean(values: Tensor) -> Tensor:
    """Return the mean under q of values on the grid of ``_under_q``."""
    return (U_WEIGHTS * values).sum(dim=-1)
