"""How well codes keep classes apart.

Neighbours, triplet accuracy and silhouette are the same for z and for 2z; a triplet loss is not.
"""

from __future__ import annotations

import torch
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vaelib.seeding import generator
from vaelib.triplet import check_codes, triplet_loss
from vaelib.validation import check_count


def knn_accuracy(
    train_z: Tensor, train_labels: Tensor, z: Tensor, labels: Tensor, *, neighbours: int = 15
) -> float:
    """Share of codes whose label is the most frequent one among their nearest training codes.

    Where two labels are equally frequent, the smaller number wins.

    Parameters
    ----------
    train_z, train_labels
        Codes ``[M, D]`` whose labels ``[M]`` vote.
    z, labels
        Codes ``[N, D]`` that are classified, and their true labels ``[N]``.
    neighbours
        Number of nearest codes that vote.

    Raises
    ------
    ValueError, TypeError
        If the codes or labels have the wrong shape or type, or there are fewer voters than that.
    """
    for codes, their_labels in ((train_z, train_labels), (z, labels)):
        _check_finite(codes, their_labels)
    if not 1 <= neighbours <= len(train_z):
        raise ValueError(
            f"neighbours is {neighbours!r}; expected 1 to {len(train_z)}, the training codes."
        )
    voters = KNeighborsClassifier(neighbours)
    voters.fit(train_z.detach().cpu().numpy(), train_labels.cpu().numpy())
    return float(voters.score(z.detach().cpu().numpy(), labels.cpu().numpy()))


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
    _check_finite(z, labels)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n is {n!r}; expected a whole number of triplets, at least 1.")
    a, p, negative = _draw_triplets(labels.cpu(), n, generator(seed, "triplets"))
    z = z.cpu()
    lead = (z[a] - z[negative]).norm(dim=-1) - (z[a] - z[p]).norm(dim=-1)
    return float(0.5 + 0.5 * lead.sign().mean(dtype=torch.float64))


def silhouette(z: Tensor, labels: Tensor) -> float:
    """Mean silhouette of the classes, from -1 to 1 (Rousseeuw 1987).

    With i the mean distance of a code to its own class and o the least mean distance to another
    class, it is (o - i) / max(i, o). It asks for round classes: a long one scores badly however
    well it is kept apart. Time grows with N^2.
    """
    _check_finite(z, labels)
    return float(silhouette_score(z.detach().cpu().numpy(), labels.cpu().numpy()))


def root_mean_square(z: Tensor) -> float:
    """Size of a cloud of codes ``[N, D]``: the root of the mean variance of the dimensions.

    1 for the standard normal. Codes divided by it have unit size.
    """
    check_codes(z)
    return float(z.detach().double().var(0, correction=0).mean().sqrt())


@torch.no_grad()
def mean_triplet_loss(
    z: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 128,
    shuffle: bool = True,
    seed: int = 0,
    **options: object,
) -> float:
    """Triplet loss of a data set, cut into batches: the mean over the batches.

    The number means nothing without its protocol: it grows with the batch, with the scale of
    the codes, and depends on the order of the data set if that is not shuffled.

    Parameters
    ----------
    z, labels
        As in :func:`triplet_accuracy`.
    batch_size
        Codes in a batch; a short last batch counts like any other.
    shuffle
        Whether the codes are put in a random order first.
    seed
        Fixes that order.
    options
        As in :func:`vaelib.triplet.triplet_loss`.
    """
    _check_finite(z, labels)
    check_count("batch_size", batch_size)
    z, labels = z.cpu(), labels.cpu()
    if shuffle:
        order = torch.randperm(len(z), generator=generator(seed, "order"))
        z, labels = z[order], labels[order]
    batches = zip(z.split(batch_size), labels.split(batch_size), strict=True)
    return float(torch.stack([triplet_loss(*batch, **options) for batch in batches]).mean())


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


def _check_finite(z: Tensor, labels: Tensor) -> None:
    check_codes(z, labels)
    if len(z) == 0:
        raise ValueError("there are no codes; expected at least one.")
    if not z.isfinite().all():
        raise ValueError("z has values that are NaN or infinite; expected finite codes.")
