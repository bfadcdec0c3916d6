"""Likelihoods p(x | z): from what the decoder computes to a distribution over images.

Every distribution treats a whole image as one event, so ``log_prob`` is in nats per image.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent, Normal, constraints

IMAGE_AXES = 3


class Bernoulli(nn.Module):
    r"""Each pixel is a coin that shows 1 with probability :math:`1/(1 + e^{-\ell_i})`.

    .. math:: \log p(x|z) = \sum_i x_i \ell_i - \log(1 + e^{\ell_i})

    The decoder gives the logits :math:`\ell`. The log-probability is computed from them, never
    from clamped probabilities, so it stays exact (and its gradient alive) at any logit.

    Parameters
    ----------
    grey
        A Bernoulli variable is 0 or 1. Grey values between them are accepted only if this is
        set: the formula above can still be evaluated, but it is then no log-probability of the
        image (chapter 2 says what it is, and what it costs).
    """

    def __init__(self, *, grey: bool = False) -> None:
        super().__init__()
        self.grey = grey

    def forward(self, logits: Tensor) -> Distribution:
        """Return p(x | z) for logits ``[..., C, H, W]``; its batch shape is ``[...]``."""
        # check() has better messages than torch's validation, and runs once, not at every step.
        return Independent(TorchBernoulli(logits=logits, validate_args=False), IMAGE_AXES)

    def check(self, x: Tensor) -> None:
        """Raise a ValueError if the images ``x`` lie outside what this likelihood describes."""
        check_unit_interval(x, "Bernoulli")
        if not self.grey and not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                "images hold grey values, but a Bernoulli pixel is 0 or 1. Binarise them "
                "(vaelib.data.binarize), or ask for grey values by name: Bernoulli(grey=True)."
            )


class Gaussian(nn.Module):
    r"""Each pixel is normal around the mean :math:`\hat x_i` that the decoder gives.

    .. math:: \log p(x|z) = -\sum_i \frac{(x_i - \hat x_i)^2}{2 s^2} + \log(s\sqrt{2\pi})

    Parameters
    ----------
    link
        What the decoder gives: with ``"identity"`` the mean itself, any real number; with
        ``"logit"`` its logit, so that the mean lies in (0, 1) as the pixels of an image do.
    scale
        Standard deviation s of every pixel, in the units of the pixels; larger than 0.
    learned
        Whether s is trained together with the networks, starting from ``scale``.
    """

    def __init__(
        self, *, link: str = "identity", scale: float = 1.0, learned: bool = False
    ) -> None:
        super().__init__()
        if link not in ("identity", "logit"):
            raise ValueError(f"link is {link!r}; expected 'identity' or 'logit'.")
        self.link = link
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale!r}; expected a finite number larger than 0.")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def forward(self, output: Tensor) -> Distribution:
        """Return p(x | z) for means or logits ``[..., C, H, W]``; its batch shape is ``[...]``."""
        mean = output if self.link == "identity" else output.sigmoid()
        return self.around(mean, self.log_scale.exp())

    @staticmethod
    def around(mean: Tensor, scale: Tensor) -> Distribution:
        """Return the normal distribution over images of a given mean and scale."""
        return Independent(Normal(mean, scale, validate_args=False), IMAGE_AXES)

    @torch.no_grad()
    def follow(self, variance: Tensor, *, weight: float = 0.1) -> None:
        """Move the variance s^2 to a running mean: (1 - weight) of itself, weight of the new."""
        running = torch.lerp((2 * self.log_scale).exp(), variance, weight)
        self.log_scale.copy_(0.5 * running.log())

    def check(self, x: Tensor) -> None:
        """Raise a ValueError if the images ``x`` hold values that are not finite."""
        value_range(x)


class ContinuousBernoulli(nn.Module):
    r"""Each pixel is a number in [0, 1] with a density proportional to :math:`e^{\ell_i x_i}`.

    .. math:: \log p(x|z) = \sum_i x_i \ell_i - \log\int_0^1 e^{\ell_i t}\,dt

    It is what the Bernoulli formula lacks to be a density of grey values: the same first term
    and the same logits, but a normaliser that integrates over all grey values instead of summing
    over 0 and 1 (Loaiza-Ganem & Cunningham 2019).
    """

    def forward(self, logits: Tensor) -> Distribution:
        """Return p(x | z) for logits ``[..., C, H, W]``; its batch shape is ``[...]``."""
        return Independent(ExponentialOnUnitInterval(logits), IMAGE_AXES)

    def check(self, x: Tensor) -> None:
        """Raise a ValueError if the images ``x`` hold values outside [0, 1]."""
        check_unit_interval(x, "continuous Bernoulli")


class ExponentialOnUnitInterval(Distribution):
    r"""The density :math:`\ell e^{\ell x} / (e^\ell - 1)` on [0, 1], uniform at :math:`\ell = 0`.

    torch's ``ContinuousBernoulli`` is the same distribution, but it computes the normaliser from
    clamped probabilities: beyond logits of about 16 it is wrong, and background pixels go there.

    Parameters
    ----------
    logits
        The :math:`\ell`, any real numbers.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean, which is not the sigmoid of the logits, ``[...]``."""
        small, safe = self._split()
        exact = 0.5 + 0.5 / torch.tanh(safe / 2) - 1 / safe
        return torch.where(small, 0.5 + self.logits / 12, exact)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, ``[...]``."""
        small, safe = self._split()
        size = safe.abs()
        # log of the integral of e^(l t), with e^max(l, 0) taken out so that nothing overflows.
        exact = safe.clamp(min=0) + torch.log(-torch.expm1(-size) / size)
        near_zero = self.logits / 2 + self.logits.square() / 24
        return value * self.logits - torch.where(small, near_zero, exact)

    def _split(self) -> tuple[Tensor, Tensor]:
        """Return where a series in the logits replaces the formula, and logits safe for it."""
        small = self.logits.abs() < 1e-2
        return small, torch.where(small, 1.0, self.logits)


def check_unit_interval(x: Tensor, likelihood: str) -> None:
    """Raise a ValueError that names the likelihood if ``x`` holds values outside [0, 1]."""
    low, high = value_range(x)
    if low < 0 or high > 1:
        raise ValueError(
            f"images lie in [{low:.4g}, {high:.4g}]; a {likelihood} likelihood needs [0, 1]. "
            "Divide grey values by 255 (vaelib.data.to_float does), or use a Gaussian."
        )


def value_range(x: Tensor) -> tuple[float, float]:
    """Return the smallest and largest value of ``x``; raise a ValueError if any is not finite."""
    low, high = torch.aminmax(x)
    if not (math.isfinite(low) and math.isfinite(high)):
        n_bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"images hold {n_bad} values that are NaN or infinite; expected none.")
    return float(low), float(high)
