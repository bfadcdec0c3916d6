"""Likelihoods p(x | z): from what the decoder computes to a distribution over images.

Every distribution treats a whole image as one event, so ``log_prob`` is in nats per image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Distribution, Independent, Normal

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
        low, high = value_range(x)
        if low < 0 or high > 1:
            raise ValueError(
                f"images lie in [{low:.4g}, {high:.4g}]; a Bernoulli likelihood needs [0, 1]. "
                "Divide grey values by 255 (vaelib.data.to_float does), or use a Gaussian."
            )
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
    scale
        Standard deviation s of every pixel, in the units of the pixels; larger than 0.
    learned
        Whether s is trained together with the networks, starting from ``scale``.
    """

    def __init__(self, *, scale: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale!r}; expected a finite number larger than 0.")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def forward(self, mean: Tensor) -> Distribution:
        """Return p(x | z) for means ``[..., C, H, W]``; its batch shape is ``[...]``."""
        normal = Normal(mean, self.log_scale.exp(), validate_args=False)
        return Independent(normal, IMAGE_AXES)

    def check(self, x: Tensor) -> None:
        """Raise a ValueError if the images ``x`` hold values that are not finite."""
        value_range(x)


def value_range(x: Tensor) -> tuple[float, float]:
    """Return the smallest and largest value of ``x``; raise a ValueError if any is not finite."""
    low, high = torch.aminmax(x)
    if not (math.isfinite(low) and math.isfinite(high)):
        n_bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"images hold {n_bad} values that are NaN or infinite; expected none.")
    return float(low), float(high)
