"""Triplet loss: codes of one label nearer to each other than to the codes of other labels.

A triplet is an anchor a, a positive p != a of the same label, and a negative n of another label.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaelib.validation import kind_of


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
    check_codes(z)
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
        - ``"easy-positive"``: one for each anchor, with its nearest positive and its nearest
          negative (Xuan et al. 2020). It lets a class be as long as it likes: all it asks is that
          the neighbours of a code have its label (compare Weinberger & Saul 2009).
        - ``"semi-hard"``: one for each pair (a, p), with the nearest negative farther than p,
          d(a, n) > d(a, p) (Schroff et al. 2015); if there is none, with the farthest negative,
          as in TensorFlow Addons' ``triplet_semihard_loss``.
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
    check_codes(z, labels)
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


def _batch_all(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return d(a, p) - d(a, n), and where that is a triplet, both ``[a, p, n]``."""
    return d.unsqueeze(2) - d.unsqueeze(1), positive.unsqueeze(2) & negative.unsqueeze(1)


def _batch_hard(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same for the hardest triplet of each anchor, ``[a]``."""
    farthest_positive = d.where(positive, 0).amax(1)
    nearest_negative = d.where(negative, math.inf).amin(1)
    return farthest_positive - nearest_negative, positive.any(1) & negative.any(1)


def _easy_positive(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same for the triplet of the nearest positive of each anchor, ``[a]``."""
    nearest_positive = d.where(positive, math.inf).amin(1)
    nearest_negative = d.where(negative, math.inf).amin(1)
    return nearest_positive - nearest_negative, positive.any(1) & negative.any(1)


def _semi_hard(d: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same for the semi-hard triplet of each pair, ``[a, p]``."""
    # Sorted, the nearest negative beyond p stands where p would be put in, behind its equals.
    sorted_negatives = d.where(negative, math.inf).sort(1).values
    place = torch.searchsorted(sorted_negatives, d.contiguous(), right=True)
    nearest_farther = sorted_negatives.gather(1, place.clamp(max=len(d) - 1))
    beyond = place < negative.sum(1, keepdim=True)
    farthest = d.where(negative, 0).amax(1, keepdim=True)
    d_negative = nearest_farther.where(beyond, farthest)
    return d - d_negative, positive & negative.any(1, keepdim=True)


_MINING = {
    "batch-all": _batch_all,
    "batch-hard": _batch_hard,
    "easy-positive": _easy_positive,
    "semi-hard": _semi_hard,
}


def check_codes(z: Tensor, labels: Tensor | None = None) -> None:
    """Raise an error if the codes are not floating point [B, D], or the labels not integers [B]."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"z is {kind_of(z)}; expected a floating point tensor [B, D].")
    if z.dim() != 2:
        raise ValueError(f"z has shape {list(z.shape)}; expected [B, D], one code in each row.")
    if labels is not None and (not isinstance(labels, Tensor) or labels.is_floating_point()):
        raise TypeError(f"labels are {kind_of(labels)}; expected an integer tensor [{len(z)}].")
    if labels is not None and labels.shape != (len(z),):
        raise ValueError(f"labels have shape {list(labels.shape)}; expected [{len(z)}].")
