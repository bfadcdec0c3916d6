"""The approximate posterior q(z | x): a diagonal Gaussian, and ways to parameterise its scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints


class DiagonalNormal(Distribution):
    r"""The Gaussian :math:`\mathcal N(\mu, \operatorname{diag} e^{\text{logvar}})`.

    It is kept in ``mu`` and ``logvar`` rather than in a mean and a standard deviation, because
    the logarithm of a standard deviation that underflowed to zero is lost for good.

    Parameters
    ----------
    mu, logvar
        Mean and log-variance, each of shape ``[..., D]``.
    """

    arg_constraints: ClassVar = {
        "mu": constraints.real_vector,
        "logvar": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mu: Tensor, logvar: Tensor, *, validate_args: bool | None = None) -> None:
        if mu.shape != logvar.shape:
            raise ValueError(
                f"mu has shape {list(mu.shape)}, logvar {list(logvar.shape)}; expected one shape."
            )
        self.mu, self.logvar = mu, logvar
        super().__init__(mu.shape[:-1], mu.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, ``[..., D]``."""
        return self.mu

    @property
    def stddev(self) -> Tensor:
        """Standard deviation, ``[..., D]``."""
        return torch.exp(0.5 * self.logvar)

    @property
    def variance(self) -> Tensor:
        """Variance, ``[..., D]``."""
        return self.logvar.exp()

    def reparameterize(self, noise: Tensor) -> Tensor:
        r"""Turn standard normal noise into samples: :math:`z = \mu + \sigma\,\epsilon`.

        Differentiable in ``mu`` and ``logvar`` (Kingma & Welling 2014, section 2.4).

        Parameters
        ----------
        noise
            Draws of a standard normal, ``[..., D]``; leading axes give several samples each.
        """
        return self.mu + self.stddev * noise

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw differentiable samples ``[*sample_shape, ..., D]`` from torch's global stream."""
        noise = torch.randn(
            self._extended_shape(sample_shape), dtype=self.mu.dtype, device=self.mu.device
        )
        return self.reparameterize(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value [..., D]`` in nats, ``[...]``."""
        squared = (value - self.mu).square() * torch.exp(-self.logvar)
        return -0.5 * (math.log(2 * math.pi) + self.logvar + squared).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, ``[...]``."""
        return 0.5 * (math.log(2 * math.pi) + 1 + self.logvar).sum(-1)


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda logvar: logvar,
    "capped": lambda logvar: logvar.clamp(max=2.0),
    "softplus": lambda rho: F.softplus(rho).square().log(),
    "linear": lambda sigma: sigma.square().log(),
    "softplus-logvar": F.softplus,
}
"""What the encoder's second output means, each as a map from that output to the log-variance.

``exp`` is the standard choice: the output *is* the log-variance, any real number, and
sigma = exp(logvar / 2). ``capped`` is the same up to a log-variance of 2: a posterior much wider
than the prior is of no use, and a deep encoder that overshoots for one odd image could overflow
the exponential. Above the cap the gradient of the scale is zero; what brings such an image back
is the training on the others. With ``softplus`` and ``linear`` the output is turned into sigma
itself (log(1 + e^rho), or the bare number); their log-variance is log sigma^2, which is minus
infinity where sigma^2 underflows. ``softplus-logvar`` makes the *log-variance* positive, so that
no posterior is tighter than the prior. These three are kept for the trials of chapters 1 and 2
and written as the code on trial wrote them.
"""
