"""Triplet loss: codes of one label nearer to each other than to the codes of other labels.

A triplet is an anchor a, a positive p != a of the same label, and a negative n of another label.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaelib.models import VAE
from vaelib.objectives import ELBO, Objective, elbo, kl_to_standard_normal, posterior_sample
from vaelib.seeding import generator


def pairwise_distances(z: Tensor, *, squared: bool = False) -> Tensor:
    r"""Euclidean distance of every two codes, or its square, ``[B, B]``.

    .. math:: d_{ij} = \|z_i - z_j\|

    Accurate in float32 however far from the origin the codes ``[B, D]`` lie, at the price of
    :math:`B^2 D` numbers in memory. Codes that coincide get gradient 0: a distance has none there.

    Raises
    ------
    ValueError, TypeError
        If z is not ``[B, D]`` or not floating point.
    """
    _check(z)
    # Not torch.cdist, which until 2026 had no gradient on Apple's GPUs.
    distance = (z.unsqueeze(1) - z).norm(dim=-1)
    return distance.square() if squared else distance


def triplet_loss(
    z: Tensor,
    labels: Tensor,
    *,
    mining: str = "batch-hard",
    margin: float = 0.2,
    squared: bool = False,
    reduction: str = "mined",
) -> Tensor:
    r"""Mean loss of the triplets that are mined from a batch.

    .. math:: \max(0,\; d(a, p) - d(a, n) + \text{margin})

    Parameters
    ----------
    z
        Codes, ``[B, D]``, floating point.
    labels
        The class of each code, ``[B]``, integers.
    mining
        Which triplets are mined. An anchor without a positive or without a negative has none.

        - ``"batch-all"``: all there are (Hermans et al. 2017). Memory for some B^3 numbers.
        - ``"batch-hard"``: one for each anchor, with its farthest positive and its nearest
          negative (Hermans et al. 2017).
        - ``"semi-hard"``: one for each pair (a, p), with the nearest negative farther than p,
          d(a, n) > d(a, p) (Schroff et al. 2015); if there is none, with the farthest negative,
          as in TensorFlow Addons' ``triplet_semihard_loss``. Memory for some B^3 numbers.
    margin
        How much farther than the positive the negative must be, in units of d.
    squared
        Whether d is the squared distance.
    reduction
        ``"mined"``: the mean runs over all mined triplets, so over the triplets of the batch, its
        anchors, or its pairs (a, p). ``"active"``: over those of them whose loss is not 0.

    Returns
    -------
    Tensor
        Scalar; 0, with gradient 0, if the mean runs over nothing.

    Raises
    ------
    ValueError, TypeError
        If an option is unknown, the margin is negative or not finite, or the codes or labels have
        the wrong shape or type.
    """
    _check(z, labels)
    if mining not in _MINING:
        raise ValueError(f"mining is {mining!r}; expected one of {', '.join(_MINING)}.")
    if reduction not in ("mined", "active"):
        raise ValueError(f"reduction is {reduction!r}; expected mined or active.")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin is {margin!r}; expected a finite number, at least 0.")
    if len(z) == 0:
        return z.sum()  # torch knows no minimum of nothing
    d = pairwise_distances(z, squared=squared)
    index = torch.arange(len(z), device=z.device)
    same = labels.unsqueeze(1) == labels
    gap, counted = _MINING[mining](d, same & (index.unsqueeze(1) != index), ~same)
    loss = (gap + margin).relu()
    if reduction == "active":
        counted = counted & (loss != 0)  # and not > 0, which would hide a NaN
    return loss.where(counted, 0).sum() / counted.sum().clamp(min=1)


def elbo_with_triplets(weight: float, *, on: str = "sample", **options: Any) -> Objective:
    r"""Return an objective that adds a triplet loss on the codes of a batch to the bound.

    .. math:: \text{distortion} + \beta\,\text{rate} + \text{weight}\cdot\text{triplet loss}

    After Ishfaq et al. (2018). It needs the labels of the batch, so :func:`vaelib.training.fit`
    must be given ``labels``; a model in evaluation mode is measured by :func:`elbo`.

    Parameters
    ----------
    weight
        Weight of the triplet loss, at least 0.
    on
        Whether the distances are those of a ``"sample"`` of q(z | x) or of its ``"mean"``.
    options
        As in :func:`triplet_loss`.
    """
    if on not in ("sample", "mean"):
        raise ValueError(f"on is {on!r}; expected sample or mean.")
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight is {weight!r}; expected a finite number, at least 0.")

    def objective(
        model: VAE,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        noise: Tensor | None = None,
        validate: bool = True,
    ) -> ELBO:
        if not model.training:
            return elbo(model, x, noise=noise, validate=validate)
        if labels is None:
            raise ValueError("there are no labels; expected those of the batch: fit(labels=...).")
        x, q, z = posterior_sample(model, x, noise, validate)
        distortion = -model.decode(z).log_prob(x)
        triplets = triplet_loss(z if on == "sample" else q.mu, labels, **options)
        rate = kl_to_standard_normal(q.mu, q.logvar).sum(-1)
        return ELBO(distortion + weight * triplets, rate)

    return objective


def _batch_all(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return d(a, p) - d(a, n), and where that is a triplet, both ``[a, p, n]``."""
    return d.unsqueeze(2) - d.unsqueeze(1), positive.unsqueeze(2) & negative.unsqueeze(1)


def _batch_hard(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same for the hardest triplet of each anchor, ``[a]``."""
    farthest_positive = d.where(positive, 0).amax(1)
    nearest_negative = d.where(negative, math.inf).amin(1)
    return farthest_positive - nearest_negative, positive.any(1) & negative.any(1)


def _semi_hard(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same for the semi-hard triplet of each pair, ``[a, p]``."""
    farther = negative.unsqueeze(1) & (d.unsqueeze(1) > d.unsqueeze(2))
    nearest_farther = d.unsqueeze(1).where(farther, math.inf).amin(2)
    farthest = d.where(negative, 0).amax(1, keepdim=True)
    d_negative = nearest_farther.where(farther.any(2), farthest)
    return d - d_negative, positive & negative.any(1, keepdim=True)


_MINING = {"batch-all": _batch_all, "batch-hard": _batch_hard, "semi-hard": _semi_hard}


@torch.no_grad()
def triplet_accuracy(z: Tensor, labels: Tensor, *, n: int = 100_000, seed: int = 0) -> float:
    """Share of random triplets with d(a, p) < d(a, n), a tie counting one half; chance is 0.5.

    The anchor is drawn from the codes that have a positive, then the positive, then the negative,
    each uniformly. The standard error of the draw is at most 0.5 / sqrt(n).

    Parameters
    ----------
    z
        Codes, ``[N, D]``, floating point and finite.
    labels
        The class of each code, ``[N]``, integers.
    n
        Number of triplets.
    seed
        Fixes the draw: two models are compared on the same triplets.

    Raises
    ------
    ValueError, TypeError
        If the codes or labels are not as above, no triplet can be made of them, or n is below 1.
    """
    _check(z, labels)
    if not z.isfinite().all():
        raise ValueError("z has values that are NaN or infinite; expected finite codes.")
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n is {n!r}; expected a whole number of triplets, at least 1.")
    a, p, negative = _draw_triplets(labels.cpu(), n, generator(seed, "triplets"))
    z = z.cpu()
    lead = (z[a] - z[negative]).norm(dim=-1) - (z[a] - z[p]).norm(dim=-1)
    return float(0.5 + 0.5 * lead.sign().mean(dtype=torch.float64))


def _draw_triplets(labels: Tensor, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of n anchors, of their positives and of their negatives, each ``[n]``."""
    labels, order = labels.sort(stable=True)  # so that a class is one run of codes
    _, classes, sizes = labels.unique_consecutive(return_inverse=True, return_counts=True)
    first, size = (sizes.cumsum(0) - sizes)[classes], sizes[classes]  # of the class of each code
    anchors = (size > 1).nonzero().squeeze(1)
    if len(sizes) < 2 or len(anchors) == 0:
        raise ValueError(
            f"{len(labels)} codes of {len(sizes)} classes make no triplet; expected at least two "
            "classes, one of them with at least two codes."
        )
    # Remainders of numbers this large are uniform, whatever the size of the class.
    i, j, k = torch.randint(2**62, (3, n), generator=rng)
    a = anchors[i % len(anchors)]
    first, size = first[a], size[a]
    p = first + j % (size - 1)
    p += p >= a  # step over the anchor
    negative = k % (len(labels) - size)
    negative += size * (negative >= first)  # step over its class
    return order[a], order[p], order[negative]


def _check(z: Tensor, labels: Tensor | None = None) -> None:
    """Raise an error if the codes are not floating point [B, D], or the labels not integers [B]."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"z is {_kind(z)}; expected a floating point tensor [B, D].")
    if z.dim() != 2:
        raise ValueError(f"z has shape {list(z.shape)}; expected [B, D], one code in each row.")
    if labels is not None and (not isinstance(labels, Tensor) or labels.is_floating_point()):
        raise TypeError(f"labels are {_kind(labels)}; expected an integer tensor [{len(z)}].")
    if labels is not None and labels.shape != (len(z),):
        raise ValueError(f"labels have shape {list(labels.shape)}; expected [{len(z)}].")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"
