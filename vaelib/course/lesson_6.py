"""Lesson 6: what few labels give, with and without the unlabelled images.

Project B is ``ErezYosef/Variational-Autoencoder-FMNIST``.
"""

from __future__ import annotations

import math
import time
from functools import partial
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

from vaelib import data
from vaelib.corruption import RandomWarp
from vaelib.course.lesson_2 import project_b_objective, project_b_vae, train_project_b
from vaelib.course.protocols import train_and_measure
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import Dataset, Split, to_float
from vaelib.evaluation import active_units, posterior_of
from vaelib.hardware import pick_device
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import ConvEncoder, MLPDecoder, MLPEncoder, initialize, mlp
from vaelib.schedules import warmup_cosine
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

NUMBERS_OF_LABELS = (100, 600, 1000, 3000)
"""How many labels the experiments of chapter 6 have: those of Kingma et al. (2014), table 1."""

Labelled = tuple[np.ndarray | Tensor, Tensor]
"""What a classifier sees of each example, ``[N, ...]``, and the class numbers ``[N]``."""

Accuracies = dict[str, list[float]]
"""Number of labels, as a string -> the accuracy of each draw."""


def m1_vae(*, corruption: nn.Module | None = None, seed: int = 0) -> VAE:
    """Build the network of chapter 6: convolutions in, a perceptron out, 50 latent dimensions."""
    common = {"latent_dim": 50, "activation": nn.SiLU, "init": "he", "seed": seed}
    return VAE(
        encoder=ConvEncoder(
            channels=(16, 32), hidden=(256,), padding=1, corruption=corruption, **common
        ),
        decoder=MLPDecoder(hidden=(500, 500), **common),
        likelihood=Bernoulli(grey=True),
        scale="capped",
    )


def m1_warp(dataset: str) -> RandomWarp:
    """Return what chapter 6 does to an image before the encoder sees it: digits bear more."""
    if dataset == "fashion-mnist":
        return RandomWarp(turn=3, stretch=0.05, slant=0.05, shift=1, bend=0.5)
    return RandomWarp(turn=15, stretch=0.1, slant=0.2, shift=2, bend=1)


def m1_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the network of chapter 6."""
    full = profile == "full"
    return {
        "epochs": 20,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(4e-3),
        "beta": 0.1,
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


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


def train_and_classify_project_b(seed: int, *, beta: float) -> tuple[VAE, dict[str, Any]]:
    """Train project B's model by its recipe and classify its codes, sampled as B did, and means.

    B's labelled images are the first of each class in the order of the data set.
    """
    vae, numbers = train_project_b(seed, scale="softplus-logvar", beta=beta)
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
    m1.set_params(classifier=tuned_svc(posterior_of(vae, part[0]).mu.numpy()))
    numbers |= accuracies("_mean_tuned", m1, part, test=test)
    return vae, numbers


def train_project_b_repaired(
    seed: int, *, beta: float = 1.0, decay: bool = False
) -> tuple[VAE, dict[str, Any]]:
    """Train project B's network without its softplus, on 50,000 images, and classify the means."""
    source = data.load("fashion-mnist")
    vae = project_b_vae(scale="exp", seed=seed)
    recipe = {"epochs": 25, "batch_size": 128, "lr": 1e-3, "precision": "auto", "beta": beta}
    if decay:
        recipe["objective"] = project_b_objective
    train, test = (
        (to_float(part.images), part.labels) for part in (source.train_part, source.test)
    )
    vae, numbers = train_and_measure(vae, train[0], test[0], seed=seed, **recipe)
    sampled = M1(vae=vae, code="sample", units="all", seed=seed)
    numbers |= accuracies("_sample", sampled, train, test=test)
    return vae, numbers | with_svms(vae, source)


def first_of_each_class(labels: Tensor, n: int) -> Tensor:
    """Return the indices of the first n / 10 examples of each of ten classes."""
    return torch.cat([(labels == k).nonzero().flatten()[: n // 10] for k in range(10)])


def train_m1(
    seed: int, *, dataset: str, warped: str | None = "input"
) -> tuple[VAE, dict[str, Any]]:
    """Train the network of chapter 6 on 50,000 images and classify the means of its codes.

    By a support vector machine on the labelled codes, and by one that a graph over all codes has
    taught. In training, ``warped`` is what is warped: the ``"input"`` of the encoder, the
    ``"image"`` itself, which the decoder then has to match, or nothing.
    """
    if warped not in ("input", "image", None):
        raise ValueError(f"warped is {warped!r}; expected 'input', 'image' or None.")
    source, warp = data.load(dataset), m1_warp(dataset)
    vae = m1_vae(corruption=warp if warped == "input" else None, seed=seed)
    recipe = m1_training()
    if warped == "image":
        recipe["augment"] = lambda x, _: warp(x)
    x, test = to_float(source.train_part.images), to_float(source.test.images)
    vae, numbers = train_and_measure(vae, x, test, seed=seed, **recipe)
    return vae, {**numbers, **with_svms(vae, source), **with_spreading(vae, source)}


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


def classify_without_vae(seed: int, *, dataset: str) -> tuple[None, dict[str, Any]]:
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
        "_pixels_svc": (SVC(), pixels),
        "_pixels_svm": (tuned_svc(pixels[0][0]), pixels),
        "_pixels_neighbours": (nearest, pixels),
        "_pca_svm": (tuned_svc(components[0][0]), components),
    }
    found: dict[str, Accuracies] = {}
    for name, (estimator, (train, test)) in candidates.items():
        found |= accuracies(name, estimator, train, test=test)
    x, labels = to_float(source.train.images).flatten(1).numpy(), source.train.labels
    first = {n: first_of_each_class(labels, n) for n in NUMBERS_OF_LABELS}
    found["test_accuracy_pixels_svc_of_first"] = {
        str(n): float(SVC().fit(x[k], labels[k]).score(pixels[1][0], pixels[1][1]))
        for n, k in first.items()
    }
    train, test = components
    taught = spreading_over(neighbour_graph(train[0]))
    found |= accuracies("_pca_taught", taught, train, semi_supervised=True, test=test)
    return None, {**found, **_provenance(started)}


def train_supervised(
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


def train_on_swapped_sets(seed: int, *, trained: bool = True) -> tuple[VAE, dict[str, Any]]:
    """Train a VAE on the labelled images only, and a machine on the labels of all others.

    The error on trial in chapter 6, by the recipe of its source: 784-500-50 and back, 100 epochs
    on N images, ``SVC()`` on the means of the other 60,000 - N. Or leave the VAE untrained. The
    model that is returned is the one of the last N.
    """
    source, started = data.load("fashion-mnist"), time.perf_counter()
    x, labels = to_float(source.train.images), source.train.labels
    test = to_float(source.test.images), source.test.labels.numpy()
    found: dict[str, float] = {}
    for n in NUMBERS_OF_LABELS:
        common = {"latent_dim": 50, "hidden": (500,), "seed": seed}
        vae = VAE(
            encoder=MLPEncoder(**common),
            decoder=MLPDecoder(**common),
            likelihood=Bernoulli(grey=True),
        )
        hidden = torch.ones(len(x), dtype=torch.bool)
        hidden[data.balanced_subset(labels, n, seed=seed)] = False
        if trained:
            fit(vae, x[~hidden], epochs=100, evaluate_every=100, seed=seed, progress=False)
        machine = M1(vae=vae, units="all").fit(x[hidden], labels[hidden])
        found[str(n)] = float(machine.score(*test))
    return vae, {"test_accuracy": found, **_provenance(started)}


def _train_classifier(
    few: Split, corruption: nn.Module | None, *, seed: int
) -> tuple[VAE, nn.Module]:
    vae = m1_vae(corruption=corruption, seed=seed)
    head = mlp([vae.latent_dim, 10], nn.Identity)
    initialize(head, "glorot", generator(seed, "classifier"))
    vae.add_module("classifier", head)  # so that it is trained along
    objective = labels_alone(classification_loss(head), on="mean")
    steps = math.ceil(len(few.labels) / 64)
    recipe = m1_training() | {"epochs": math.ceil(600 / steps), "batch_size": 64}
    recipe |= {"objective": objective, "evaluate_every": recipe["epochs"], "progress": False}
    fit(vae, to_float(few.images), labels=few.labels, seed=seed, **recipe)
    return vae, head


def _provenance(started: float) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "provenance": provenance("full", pick_device(), seconds)}


RUNS = LongRuns(
    "06_m1_semi_supervised",
    [
        LongRun(
            "m1-mnist",
            partial(train_m1, dataset="mnist"),
            keeps_weights=True,
            title="50-D, M1, β = 0.1, warp",
        ),
        LongRun("m1-mnist-uncorrupted", partial(train_m1, dataset="mnist", warped=None)),
        LongRun(
            "m1-fashion-mnist",
            partial(train_m1, dataset="fashion-mnist"),
            keeps_weights=True,
            title="50-D, M1, β = 0.1, warp",
            dataset="fashion-mnist",
        ),
        LongRun(
            "m1-fashion-mnist-augmented",
            partial(train_m1, dataset="fashion-mnist", warped="image"),
        ),
        LongRun(
            "m1-fashion-mnist-uncorrupted",
            partial(train_m1, dataset="fashion-mnist", warped=None),
        ),
        LongRun("m1-project-b-0.005", partial(train_and_classify_project_b, beta=0.005)),
        LongRun("m1-project-b-1", partial(train_and_classify_project_b, beta=1.0)),
        LongRun("m1-no-softplus", partial(train_project_b_repaired, decay=True)),
        LongRun("m1-no-decay-1", partial(train_project_b_repaired, beta=1.0)),
        LongRun("m1-no-decay-0.1", partial(train_project_b_repaired, beta=0.1)),
        LongRun("m1-no-decay-0.005", partial(train_project_b_repaired, beta=0.005)),
        LongRun("m1-swapped-sets", train_on_swapped_sets),
        LongRun("m1-swapped-sets-untrained", partial(train_on_swapped_sets, trained=False)),
        LongRun("without-vae-mnist", partial(classify_without_vae, dataset="mnist")),
        LongRun(
            "without-vae-fashion-mnist", partial(classify_without_vae, dataset="fashion-mnist")
        ),
        LongRun("supervised-mnist", partial(train_supervised, dataset="mnist")),
        LongRun("supervised-fashion-mnist", partial(train_supervised, dataset="fashion-mnist")),
        LongRun(
            "supervised-mnist-warped",
            partial(train_supervised, dataset="mnist", corruption=m1_warp("mnist")),
        ),
        LongRun(
            "supervised-fashion-mnist-warped",
            partial(train_supervised, dataset="fashion-mnist", corruption=m1_warp("fashion-mnist")),
        ),
    ],
)
