"""Semi-supervised classification by M1: a classifier on the codes of an unsupervised VAE.

Kingma, Mohamed, Rezende & Welling (2014), section 2.1. The VAE is trained on all images and sees
no label; a classifier is fitted to the codes of the few images whose labels are known. As in
scikit-learn, the label -1 says that an image has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse import csr_matrix, spmatrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from vaelib.data import balanced_subset
from vaelib.evaluation import ACTIVE, posterior_of
from vaelib.models import VAE
from vaelib.seeding import generator

UNLABELLED = -1


def draw_labels(labels: Tensor, n: int, *, n_classes: int = 10, seed: int = 0) -> Tensor:
    """Keep n labels, equally many of each class and drawn at random, and hide all others.

    What is fitted to the result cannot see a hidden label, not even by mistake.

    Parameters
    ----------
    labels
        Class numbers from 0 to ``n_classes - 1``, int64 ``[N]``.
    n
        How many stay, a multiple of ``n_classes``. With the same seed fewer are part of more.
    n_classes
        Number of classes, each of which must occur.
    seed
        Fixes the draw.

    Returns
    -------
    Tensor
        The labels with -1 in place of the hidden ones, int64 ``[N]``.

    Raises
    ------
    TypeError
        If the labels are not an int64 tensor.
    ValueError
        If a class is missing or unknown or has too few images, or if n is not a multiple.
    """
    kept = balanced_subset(labels, n, seed=seed)
    found = labels.unique().tolist()
    if found != list(range(n_classes)):
        raise ValueError(f"the labels have the classes {found}; expected 0 to {n_classes - 1}.")
    hidden = torch.full_like(labels, UNLABELLED)
    hidden[kept] = labels[kept]
    return hidden


class M1(ClassifierMixin, BaseEstimator):
    """A classifier on the codes of a trained VAE, as a scikit-learn estimator.

    Parameters
    ----------
    vae
        The trained model; it is not changed.
    classifier
        Any scikit-learn classifier, fitted to the codes; by default a support vector machine
        ``SVC()``.
    semi_supervised
        Whether the classifier learns from unlabelled codes, too, and is given them with the label
        -1: true for :class:`SpreadingClassifier` and for scikit-learn's
        ``SelfTrainingClassifier`` and ``LabelSpreading``. All others get the labelled codes only.
    code
        ``"mean"`` of q(z | x), or one ``"sample"`` of it.
    units
        ``"active"``: the latent units whose mean varies over the images that :meth:`fit` gets,
        labelled or not; ``"all"``.
    seed
        Fixes the noise of the samples.

    Attributes
    ----------
    classifier_
        The fitted classifier.
    classes_
        The class numbers that it knows.
    units_
        Indices of the latent units that it sees.
    """

    def __init__(
        self,
        *,
        vae: VAE,
        classifier: BaseEstimator | None = None,
        semi_supervised: bool = False,
        code: str = "mean",
        units: str = "active",
        seed: int = 0,
    ) -> None:
        self.vae = vae
        self.classifier = classifier
        self.semi_supervised = semi_supervised
        self.code = code
        self.units = units
        self.seed = seed

    def fit(self, images: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> M1:
        """Fit the classifier.

        Parameters
        ----------
        images
            ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point, as the VAE was trained on.
        labels
            Class numbers ``[N]``, or -1 where there is none.

        Raises
        ------
        ValueError, TypeError
            If the images do not suit the VAE, a label is not a whole number of at least -1, fewer
            than two classes are labelled, or no unit is active.
        """
        if self.code not in ("mean", "sample") or self.units not in ("active", "all"):
            raise ValueError(
                f"code is {self.code!r} and units is {self.units!r}; "
                "expected 'mean' or 'sample', and 'active' or 'all'."
            )
        labels = _whole_numbers(labels, len(images))
        z, mu = self._codes(images, "labelled")
        active = mu.var(0) > ACTIVE
        if self.units == "active" and not active.any():
            raise ValueError(
                "no latent unit of the VAE is active on these images: the posterior has collapsed, "
                "or the images are copies of one. Train with a smaller beta, or ask for all units."
            )
        self.units_ = np.flatnonzero(active if self.units == "active" else torch.ones_like(active))
        seen = slice(None) if self.semi_supervised else labels != UNLABELLED
        classifier = SVC() if self.classifier is None else clone(self.classifier)
        classifier.fit(z[seen][:, self.units_], labels[seen])
        if UNLABELLED in classifier.classes_:
            raise ValueError(
                f"{type(classifier).__name__} takes -1 for a class, it does not learn from "
                "unlabelled codes; set semi_supervised=False."
            )
        self.classifier_, self.classes_ = classifier, classifier.classes_
        return self

    def features(self, images: Tensor | np.ndarray) -> np.ndarray:
        """Return what the classifier sees of new images, ``[N, units]``."""
        check_is_fitted(self, "classifier_")
        return self._codes(images, "new")[0][:, self.units_]

    def predict(self, images: Tensor | np.ndarray) -> np.ndarray:
        """Return the class number of each image, ``[N]``."""
        z = self.features(images)
        return self.classifier_.predict(z)

    def _codes(self, images: Tensor | np.ndarray, stream: str) -> tuple[np.ndarray, Tensor]:
        """Return the codes in all units, and the means."""
        # Arrays are copied: torch cannot share those that are read-only or run backwards.
        images = images if isinstance(images, Tensor) else torch.tensor(np.asarray(images))
        q = posterior_of(self.vae, images)
        if self.code == "mean":
            return q.mu.numpy(), q.mu
        # Labelled and new images have streams of their own: with one for both, the first labelled
        # and the first new image would share their noise and look alike.
        noise = torch.randn(q.mu.shape, generator=generator(self.seed, f"{stream} codes"))
        return q.reparameterize(noise).numpy(), q.mu


class SpreadingClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that is taught by a graph of neighbours which labels the unlabelled codes.

    The labels spread over the graph (Zhou et al. 2004). Then the classifier is fitted to the
    labelled codes and to some of those labelled by the graph, which count less.

    Parameters
    ----------
    classifier
        A scikit-learn classifier that takes ``sample_weight``; ``SVC()`` by default.
    graph
        Maps codes ``[N, D]`` to a symmetric sparse matrix of weights, ``[N, N]``; by default
        :func:`neighbour_graph`.
    alpha
        How far labels spread, between 0 and 1: after 1 / (1 - alpha) steps, roughly, they fade.
    n_taught
        How many of the unlabelled codes the classifier learns from, drawn at random.
    weight
        What each of them counts, where a labelled code counts 1.
    seed
        Fixes the draw.

    Attributes
    ----------
    transduction_
        A label for every code that :meth:`fit` got, -1 where no path leads from a labelled one.
    classifier_, classes_
        The fitted classifier, and the class numbers that it knows.
    """

    def __init__(
        self,
        *,
        classifier: BaseEstimator | None = None,
        graph: Callable[[np.ndarray], spmatrix] | None = None,
        alpha: float = 0.95,
        n_taught: int = 5000,
        weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.classifier = classifier
        self.graph = graph
        self.alpha = alpha
        self.n_taught = n_taught
        self.weight = weight
        self.seed = seed

    def fit(self, z: np.ndarray, labels: np.ndarray) -> SpreadingClassifier:
        """Spread the labels over the codes ``[N, D]``, and fit the classifier.

        Parameters
        ----------
        z
            Codes, labelled and unlabelled.
        labels
            Class numbers ``[N]``, -1 for unlabelled.

        Raises
        ------
        ValueError, TypeError
            If a label is not a whole number of at least -1, fewer than two classes are labelled,
            or a parameter is out of its range.
        """
        labels = _whole_numbers(labels, len(z))
        if self.n_taught < 0 or not 0 <= self.weight < np.inf:
            raise ValueError(
                f"n_taught is {self.n_taught!r} and weight is {self.weight!r}; "
                "expected finite numbers, at least 0."
            )
        graph = neighbour_graph if self.graph is None else self.graph
        spreading = LabelSpreading(
            kernel=lambda z, _: graph(z), alpha=self.alpha, max_iter=10_000, tol=1e-3
        )
        spreading.fit(z, labels)
        reached = spreading.label_distributions_.any(1)
        self.transduction_ = np.where(reached, spreading.transduction_, UNLABELLED)
        labelled = labels != UNLABELLED
        rng = np.random.RandomState(self.seed)
        taught = rng.permutation(np.flatnonzero(reached & ~labelled))[: self.n_taught]
        learned = np.concatenate((np.flatnonzero(labelled), taught))
        classifier = SVC() if self.classifier is None else clone(self.classifier)
        self.classifier_ = classifier.fit(
            z[learned],
            np.where(labelled, labels, self.transduction_)[learned],
            sample_weight=np.where(labelled, 1.0, self.weight)[learned],
        )
        self.classes_ = self.classifier_.classes_
        return self

    def predict(self, z: np.ndarray) -> np.ndarray:
        """Return the class number of each code, ``[N]``."""
        check_is_fitted(self)
        return self.classifier_.predict(z)


def tuned_svc(z: np.ndarray) -> GridSearchCV:
    """Return a support vector machine that chooses C and gamma by 5-fold cross-validation.

    It sees the labels that it is fitted to, and no other. ``z [N, D]``, labelled or not, sets the
    unit of gamma, one over the sum of the variances: scikit-learn's ``"scale"``, if the mean of
    every dimension is zero.
    """
    unit = 1 / float(z.var(0).sum())
    return GridSearchCV(SVC(), {"C": [1, 4, 16], "gamma": [0.5 * unit, unit, 2 * unit]})


def fit_over_draws(
    estimator: BaseEstimator,
    x: np.ndarray | Tensor,
    labels: Tensor,
    *,
    n: int,
    draws: int = 10,
    semi_supervised: bool = False,
) -> Iterator[BaseEstimator]:
    """Fit copies of an estimator, each with another draw of n labels (:func:`draw_labels`).

    Parameters
    ----------
    estimator
        An :class:`M1`, with images as ``x``; or any scikit-learn classifier, with whatever it
        takes: codes, pixels.
    x, labels
        What is known of all N examples, and their class numbers, int64 ``[N]``, of which the
        estimator gets n.
    n, draws
        Labels in a draw, and number of draws; draw i has the seed i.
    semi_supervised
        Whether the estimator is given the unlabelled examples, too, with the label -1.

    Yields
    ------
    BaseEstimator
        One fitted copy for each draw.

    Raises
    ------
    ValueError
        If there is not one label for each example, or as :func:`draw_labels` does.
    """
    if len(x) != len(labels):
        raise ValueError(f"got {len(labels)} labels for {len(x)} examples; expected one each.")
    n_classes = int(labels.max()) + 1
    for seed in range(draws):
        known = draw_labels(labels, n, n_classes=n_classes, seed=seed)
        seen = slice(None) if semi_supervised else np.flatnonzero(known != UNLABELLED)
        yield clone(estimator).fit(x[seen], known[seen].numpy())


def neighbour_graph(z: np.ndarray, *, neighbours: int = 10) -> csr_matrix:
    r"""Join each code to its nearest neighbours, by weights that adapt to the density.

    .. math:: w_{ij} = e^{-\lVert z_i - z_j\rVert^2 / (s_i s_j)}

    if i is among the nearest neighbours of j or the reverse, and 0 otherwise; :math:`s_i` is the
    distance of code i to the farthest of its neighbours (after Zelnik-Manor & Perona 2004).

    Parameters
    ----------
    z
        Codes, ``[N, D]``, N greater than the number of neighbours.
    neighbours
        How many nearest codes each is joined to.

    Returns
    -------
    csr_matrix
        Symmetric, ``[N, N]``, with zeros on the diagonal.

    Raises
    ------
    ValueError
        If there are too few codes.
    """
    if not 1 <= neighbours < len(z):
        raise ValueError(f"neighbours is {neighbours} for {len(z)} codes; expected 1 to N - 1.")
    nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(z)
    distance, to = nearest.kneighbors()  # without an argument: no code is its own neighbour
    # Copies of one image have distance zero from each other, and a weight of one. Where they fill
    # a neighbourhood, its unit is zero, and what lies outside is out of reach.
    unit = distance[:, -1:] * distance[to, -1]
    beyond = np.where(distance > 0, np.inf, 0.0)
    weight = np.exp(-np.divide(distance**2, unit, out=beyond, where=unit > 0))
    start = np.arange(0, weight.size + 1, neighbours)
    directed = csr_matrix((weight.ravel(), to.ravel(), start), shape=(len(z), len(z)))
    return directed.maximum(directed.T)


def _whole_numbers(labels: Tensor | np.ndarray, n: int) -> np.ndarray:
    """Return the labels of n images as an array, after a check."""
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels are {labels.dtype}; expected whole numbers, -1 for unlabelled.")
    if labels.shape != (n,):
        raise ValueError(f"labels have shape {labels.shape} for {n} images; expected [{n}].")
    found = np.unique(labels)
    if found.size and found[0] < UNLABELLED:
        raise ValueError(f"a label is {found[0]}; expected class numbers, or -1 for unlabelled.")
    if (found != UNLABELLED).sum() < 2:
        raise ValueError(
            f"the labels that are not -1 are of {(found != UNLABELLED).sum()} classes; expected "
            "labelled images of at least two."
        )
    return labels
