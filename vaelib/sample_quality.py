"""Do samples look like the data? Numbers that need a small classifier and no downloaded network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from vaelib.data import Split, to_float
from vaelib.validation import check_count


class SampleQuality(NamedTuple):
    """What a classifier says about a set of samples."""

    precision: float
    """Share of the samples that lie where real images lie."""
    recall: float
    """Share of the real images that lie where samples lie; outliers among the samples raise it."""
    coverage: float
    """Share of the real images near which there is a sample."""
    entropy_of_classes: float
    """Entropy of the mean prediction, nats: log 10 if ten classes are equally frequent."""
    entropy_per_image: float
    """Mean entropy of the prediction for one image, nats: 0 if no image is in doubt."""


class Judge:
    """A small classifier, trained here, in whose last hidden layer images are compared.

    Parameters
    ----------
    split
        Images and labels that it is trained on.
    hidden
        Widths of its hidden layers; the last one holds the features.
    epochs
        Passes over the images.
    seed
        Fixes its first weights and the order of the images.
    """

    def __init__(
        self,
        split: Split,
        *,
        hidden: tuple[int, ...] = (256, 64),
        epochs: int = 8,
        seed: int = 0,
    ) -> None:
        check_count("epochs", epochs)
        self._network = MLPClassifier(hidden, batch_size=min(200, len(split)), random_state=seed)
        x, classes = to_float(split.images).flatten(1).numpy(), split.labels.unique().numpy()
        for _ in range(epochs):  # in the same order every time: partial_fit starts the seed anew
            self._network.partial_fit(x, split.labels.numpy(), classes=classes)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the class probabilities ``[N, n_classes]`` of images ``[N, 1, H, W]``."""
        return torch.from_numpy(self._network.predict_proba(_flat(images)))

    def accuracy(self, split: Split) -> float:
        """Return the share of the images of a split that are given their label."""
        predicted = self._network.predict(_flat(to_float(split.images)))
        return float((predicted == split.labels.numpy()).mean())

    def features(self, images: Tensor) -> Tensor:
        """Return the last hidden layer ``[N, F]`` for images ``[N, 1, H, W]``."""
        h = _flat(images)
        for weight, bias in zip(
            self._network.coefs_[:-1], self._network.intercepts_[:-1], strict=True
        ):
            h = (h @ weight + bias).clip(min=0)
        return torch.from_numpy(h)

    def assess(self, samples: Tensor, real: Tensor) -> SampleQuality:
        """Compare samples ``[N, 1, H, W]`` with as many real images, both with grey values."""
        p, features = self.probabilities(samples), (self.features(real), self.features(samples))
        return SampleQuality(
            *precision_recall(*features),
            coverage(*features),
            float(entropy(p.mean(0))),
            float(entropy(p).mean()),
        )


def precision_recall(real: Tensor, generated: Tensor, *, k: int = 3) -> tuple[float, float]:
    """Measure how much of each of two point clouds lies within the other.

    A cloud is the union of balls around its points, each of which reaches to the k-th nearest
    neighbour of its centre (Kynkäänniemi et al. 2019).

    Parameters
    ----------
    real, generated
        Features, ``[N, F]`` and ``[M, F]``. The two numbers fall and rise with N and M, so compare
        only what was measured at the same size.
    k
        Which neighbour sets the radius of a ball.

    Returns
    -------
    tuple of float
        Precision, the share of generated points within the real cloud; and recall, the share of
        real points within the generated cloud.

    Raises
    ------
    ValueError
        If a cloud has no more than k points, or the two have different numbers of features.
    """
    _check_clouds(real, generated, k)
    inside_real = _distances(generated, real) <= _radii(real, k)
    inside_generated = _distances(real, generated) <= _radii(generated, k)
    return _share(inside_real.any(1)), _share(inside_generated.any(1))


def coverage(real: Tensor, generated: Tensor, *, k: int = 5) -> float:
    """Measure the share of real points whose ball holds a generated point (Naeem et al. 2020).

    Only real points have balls, so that an outlier among the generated ones covers nothing.
    Takes and raises what :func:`precision_recall` does.
    """
    _check_clouds(real, generated, k)
    return _share((_distances(generated, real) <= _radii(real, k)).any(0))


def entropy(p: Tensor) -> Tensor:
    """Return the entropy of distributions ``[..., n]`` in nats, ``[...]``."""
    return torch.special.entr(p).sum(-1)


def _check_clouds(real: Tensor, generated: Tensor, k: int) -> None:
    check_count("k", k)
    if min(len(real), len(generated)) <= k:
        raise ValueError(
            f"got {len(real)} real and {len(generated)} generated points; expected more than "
            f"k = {k} of each."
        )
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"features have shapes {list(real.shape)} and {list(generated.shape)}; expected the "
            "same number for both."
        )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Not by way of a matrix product: the distance of a point to itself is 0, not nearly 0.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(cloud: Tensor, k: int) -> Tensor:
    """Return the distance of each point to its k-th nearest neighbour; the 0-th is itself."""
    return _distances(cloud, cloud).kthvalue(k + 1, dim=1).values


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())


def _flat(images: Tensor) -> np.ndarray:
    return images.detach().cpu().flatten(1).numpy()
