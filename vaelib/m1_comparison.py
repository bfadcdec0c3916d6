"""The long runs of chapter 6: what few labels give, with and without the unlabelled images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import Tensor, nn

from vaelib import data, experiments, recipes
from vaelib.data import Dataset, Split, to_float
from vaelib.evaluation import active_units, posterior_of
from vaelib.models import VAE
from vaelib.networks import initialize, mlp
from vaelib.recipes import NUMBERS_OF_LABELS
from vaelib.results import provenance
from vaelib.seeding import generator
from vaelib.semisupervised import (
    M1,
    SpreadingClassifier,
    fit_over_draws,
    neighbour_graph,
    tuned_svc,
)
from vaelib.separation import root_mean_square
from vaelib.supervision import classification_loss, labels_alone
from vaelib.training import fit

Labelled = tuple[np.ndarray | Tensor, Tensor]
"""What a classifier sees of each example, ``[N, ...]``, and the class numbers ``[N]``."""

Accuracies = dict[str, list[float]]
"""Number of labels, as a string -> the accuracy of each draw."""


def accuracies(
    name: str,
    estimator: BaseEstimator,
    train: Labelled,
    *,
    draws: int = 10,
    semi_supervised: bool = False,
    **parts: Labelled,
) -> dict[str, Accuracies]:
    """Fit an estimator to draws of 100 to 3,000 labels, and score each on parts of the data.

    Returns
    -------
    dict
        Name of the part and ``name``, joined -> the accuracies.
    """
    found: dict[str, Accuracies] = {f"{part}_accuracy{name}": {} for part in parts}
    for n in NUMBERS_OF_LABELS:
        fits = list(
            fit_over_draws(estimator, *train, n=n, draws=draws, semi_supervised=semi_supervised)
        )
        for part, (x, labels) in parts.items():
            scores = [float(fitted.score(x, labels.numpy())) for fitted in fits]
            found[f"{part}_accuracy{name}"][str(n)] = scores
    return found


def project_b(seed: int, *, beta: float) -> tuple[VAE, dict[str, Any]]:
    """Train project B's model by its recipe and classify its codes, sampled as B did, and means.

    B's labelled images are the first of each class in the order of the data set.
    """
    vae, numbers = experiments.project_b(seed, scale="softplus-logvar", beta=beta)
    source = data.load("fashion-mnist")
    x, labels = to_float(source.train.images), source.train.labels
    part = to_float(source.train_part.images), source.train_part.labels
    test = to_float(source.test.images), source.test.labels
    numbers["test_size_of_means"] = root_mean_square(posterior_of(vae, test[0]).mu)
    first = {n: first_of_each_class(labels, n) for n in NUMBERS_OF_LABELS}
    for code in ("sample", "mean"):
        m1 = M1(vae=vae, code=code, units="all", seed=seed)
        numbers[f"test_accuracy_{code}_of_first"] = {
            str(n): float(m1.fit(x[k], labels[k]).score(test[0], test[1].numpy()))
            for n, k in first.items()
        }
        numbers |= accuracies(f"_{code}", m1, part, test=test)
    return vae, numbers


def project_b_repaired(
    seed: int, *, beta: float = 1.0, decay: bool = False
) -> tuple[VAE, dict[str, Any]]:
    """Train project B's network without its softplus, on 50,000 images, and classify the means."""
    source = data.load("fashion-mnist")
    vae = recipes.project_b_vae(scale="exp", seed=seed)
    recipe = {"epochs": 25, "batch_size": 128, "lr": 1e-3, "precision": "bfloat16", "beta": beta}
    if decay:
        recipe["objective"] = recipes.project_b_objective
    x, test = to_float(source.train_part.images), to_float(source.test.images)
    vae, numbers = experiments.measured(vae, x, test, seed=seed, **recipe)
    return vae, numbers | with_svms(vae, source)


def first_of_each_class(labels: Tensor, n: int) -> Tensor:
    """Return the indices of the first n / 10 examples of each of ten classes."""
    return torch.cat([(labels == k).nonzero().flatten()[: n // 10] for k in range(10)])


def m1(
    seed: int,
    *,
    dataset: str,
    corruption: nn.Module | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    spreading: bool = True,
    **changes: Any,
) -> tuple[VAE, dict[str, Any]]:
    """Train the network of chapter 6 on 50,000 images and classify the means of its codes.

    By a support vector machine on the labelled codes, and with ``spreading`` also by one that a
    graph over all 50,000 codes has taught.
    """
    source = data.load(dataset)
    vae = recipes.m1_vae(corruption=corruption, seed=seed)
    recipe = recipes.m1_training() | {"augment": augment} | changes
    x, test = to_float(source.train_part.images), to_float(source.test.images)
    vae, numbers = experiments.measured(vae, x, test, seed=seed, **recipe)
    numbers |= with_svms(vae, source)
    if spreading:
        numbers |= with_spreading(vae, source)
    return vae, numbers


def with_svms(vae: VAE, source: Dataset) -> dict[str, Accuracies]:
    """Classify the active means by SVC as it comes, and with C and gamma by cross-validation."""
    train, validation, test = codes_of_parts(vae, source)
    parts = {"validation": validation, "test": test}
    return accuracies("", SVC(), train, **parts) | accuracies(
        "_tuned", tuned_svc(train[0]), train, **parts
    )


def with_spreading(vae: VAE, source: Dataset) -> dict[str, Accuracies]:
    """Classify the active means by a machine that a graph over all training codes has taught."""
    train, validation, test = codes_of_parts(vae, source)
    taught = spreading_over(neighbour_graph(train[0]))
    return accuracies(
        "_taught", taught, train, semi_supervised=True, validation=validation, test=test
    )


def spreading_over(graph: csr_matrix) -> SpreadingClassifier:
    """Return the classifier of chapter 6 over a graph that is made once for all draws."""
    return SpreadingClassifier(classifier=SVC(C=3), graph=lambda _: graph)


def codes_of_parts(vae: VAE, source: Dataset) -> list[tuple[np.ndarray, Tensor]]:
    """Return the active means and the labels of the training, validation and test parts."""
    parts = (source.train_part, source.validation, source.test)
    active = active_units(vae, to_float(source.train_part.images))
    return [
        (posterior_of(vae, to_float(part.images)).mu[:, active].numpy(), part.labels)
        for part in parts
    ]


def without_vae(seed: int, *, dataset: str) -> tuple[None, dict[str, Any]]:
    """Classify pixels, principal components and, by a graph, unlabelled components: no VAE."""
    source, started = data.load(dataset), time.perf_counter()
    pixels = [
        (to_float(part.images).flatten(1).numpy(), part.labels)
        for part in (source.train_part, source.test)
    ]
    pca = PCA(50, random_state=seed).fit(pixels[0][0])
    components = [(pca.transform(x).astype(np.float32), labels) for x, labels in pixels]
    nearest = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 9]})
    candidates = {
        "_pixels_svm": (tuned_svc(pixels[0][0]), pixels),
        "_pixels_neighbours": (nearest, pixels),
        "_pca_svm": (tuned_svc(components[0][0]), components),
    }
    found: dict[str, Accuracies] = {}
    for name, (estimator, (train, test)) in candidates.items():
        found |= accuracies(name, estimator, train, test=test)
    train, test = components
    taught = spreading_over(neighbour_graph(train[0]))
    found |= accuracies("_pca_taught", taught, train, semi_supervised=True, test=test)
    return None, {**found, **_provenance(started)}


def supervised(
    seed: int, *, dataset: str, corruption: nn.Module | None = None
) -> tuple[None, dict[str, Any]]:
    """Train the encoder of chapter 6 with a linear classifier on the labelled images alone."""
    source, started = data.load(dataset), time.perf_counter()
    train, test = source.train_part, to_float(source.test.images)
    found: Accuracies = {}
    for n in NUMBERS_OF_LABELS:
        found[str(n)] = []
        for draw in range(5):
            kept = data.balanced_subset(train.labels, n, seed=draw)
            few = Split(train.images[kept], train.labels[kept])
            vae, head = _train_classifier(few, corruption, seed=seed + draw)
            with torch.no_grad():
                predicted = head(posterior_of(vae, test).mu.to(vae.device)).argmax(1).cpu()
            found[str(n)].append(float((predicted == source.test.labels).float().mean()))
    return None, {"test_accuracy": found, **_provenance(started)}


def _train_classifier(
    few: Split, corruption: nn.Module | None, *, seed: int
) -> tuple[VAE, nn.Module]:
    vae = recipes.m1_vae(corruption=corruption, seed=seed)
    head = mlp([vae.latent_dim, 10], nn.Identity)
    initialize(head, "glorot", generator(seed, "classifier"))
    vae.add_module("classifier", head)  # so that it is trained along
    objective = labels_alone(classification_loss(head), on="mean")
    steps = math.ceil(len(few.labels) / 64)
    recipe = recipes.m1_training() | {"epochs": math.ceil(600 / steps), "batch_size": 64}
    recipe |= {"objective": objective, "evaluate_every": recipe["epochs"], "progress": False}
    fit(vae, to_float(few.images), labels=few.labels, seed=seed, **recipe)
    return vae, head


def _provenance(started: float) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "provenance": provenance("full", torch.device("cpu"), seconds)}
