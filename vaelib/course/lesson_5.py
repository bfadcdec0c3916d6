"""Lesson 5: triplets in latent space, on project A's network and on a better one.

Project A is ``LorenzHW/Master-Thesis``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaelib import data
from vaelib.aggregate import codes
from vaelib.course.lesson_3 import NETWORKS_IN_2D
from vaelib.course.protocols import train_and_measure
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import Dataset, Split, to_float
from vaelib.evaluation import evaluate, posterior_of
from vaelib.hardware import pick_device
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, initialize, mlp
from vaelib.objectives import Objective
from vaelib.schedules import warmup_cosine
from vaelib.seeding import generator
from vaelib.separation import (
    knn_accuracy,
    mean_triplet_loss,
    root_mean_square,
    silhouette,
    triplet_accuracy,
)
from vaelib.supervision import (
    SupervisedLoss,
    classification_loss,
    elbo_with_labels,
    labels_alone,
)
from vaelib.training import fit
from vaelib.triplet import triplet_loss

NEAREST = partial(triplet_loss, mining="easy-positive")
EVERY = partial(triplet_loss, mining="batch-all", margin=1.0)
"""The rules of mining that serve the network of chapter 5 best, in the plane and in 16-D."""


def project_a_vae(*, seed: int = 0) -> VAE:
    """Build the network of the TensorFlow tutorial on convolutional VAEs: project A's."""
    return VAE(
        encoder=ConvEncoder(latent_dim=2, seed=seed),
        decoder=ConvDecoder(latent_dim=2, seed=seed),
        likelihood=Bernoulli(grey=True),
    )


def conv_to_mlp_vae(*, latent_dim: int, seed: int = 0) -> VAE:
    """Build the network of chapter 5: convolutions in, a perceptron out.

    The encoder tells unseen digits apart better than a perceptron does; the decoder is cheap. In
    the plane it is the deep and narrow one of chapter 1.
    """
    for_encoder, _ = NETWORKS_IN_2D["conv", 800_000]
    hidden = (128, 128, 128, 256) if latent_dim == 2 else (256, 376)
    common = {"latent_dim": latent_dim, "activation": nn.SiLU, "init": "he", "seed": seed}
    return VAE(
        encoder=ConvEncoder(**for_encoder, **common),
        decoder=MLPDecoder(hidden=hidden, **common),
        likelihood=Bernoulli(grey=True),
        scale="capped",
    )


def conv_to_mlp_training(profile: str = "full", *, latent_dim: int) -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the network of chapter 5."""
    full, plane = profile == "full", latent_dim == 2
    return {
        "epochs": (15 if full else 12) if plane else 8,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(4e-3 if plane else 8e-3),
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


def train_project_a(seed: int, *, weight: float = 0.0) -> tuple[VAE, dict[str, Any]]:
    """Train project A's network by its recipe: 54,000 images, Adam at 1e-4, 100 epochs.

    With a weight, its triplet loss is added: batch-hard, with a margin of 0.2, on z.
    """
    source = data.load("mnist")
    train = Split(source.train.images[:54_000], source.train.labels[:54_000])
    vae = project_a_vae(seed=seed)
    recipe = {"epochs": 100, "batch_size": 128, "lr": 1e-4, "precision": "auto"}
    if weight:
        objective = elbo_with_labels(triplet_loss, weight)
        recipe |= {"labels": train.labels, "objective": objective}
    test_images = to_float(source.test.images)
    vae, numbers = train_and_measure(vae, to_float(train.images), test_images, seed=seed, **recipe)
    found = separation_of(vae, train, source.test)
    return vae, {**numbers, **{f"test_{name}": value for name, value in found.items()}}


def separation_of(vae: VAE, voters: Split, split: Split) -> dict[str, float]:
    """Measure how well a model keeps the classes of a split apart; means, but where it says z."""
    train_mu, mu = (posterior_of(vae, to_float(part.images)).mu for part in (voters, split))
    z = codes(vae, to_float(split.images))
    size = root_mean_square(z)
    return {
        "knn_accuracy": knn_accuracy(train_mu, voters.labels, mu, split.labels),
        "triplet_accuracy": triplet_accuracy(mu, split.labels),
        "silhouette": silhouette(mu, split.labels),
        "root_mean_square_z": size,
        "triplet_loss_z": mean_triplet_loss(z, split.labels),
        "triplet_loss_z_at_unit_size": mean_triplet_loss(z / size, split.labels),
    }


def train_and_measure_classes(
    vae: VAE, source: Dataset, *, seed: int, **training: Any
) -> tuple[VAE, dict[str, Any]]:
    """Train on 50,000 images, and measure the classes on 10,000 for validation and on test."""
    train, validation, test = source.train_part, source.validation, source.test
    images = to_float(train.images), to_float(test.images)
    vae, numbers = train_and_measure(vae, *images, seed=seed, **training)
    on_validation = evaluate(vae, to_float(validation.images)).negative_elbo
    numbers |= {"validation_negative_elbo": on_validation}
    for name, split in (("validation", validation), ("test", test)):
        found = separation_of(vae, train, split)
        numbers |= {f"{name}_{quantity}": value for quantity, value in found.items()}
    return vae, numbers


def few_labels(train: Split, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw n labelled images, equally many of each class; another draw for each seed."""
    chosen = data.balanced_subset(train.labels, n, seed=seed)
    device = pick_device()
    return to_float(train.images[chosen]).to(device), train.labels[chosen].to(device)


def train_conv_to_mlp(
    seed: int,
    *,
    latent_dim: int = 2,
    loss: SupervisedLoss | None = None,
    weight: float = 0.0,
    n_labels: int | None = None,
    shuffled: bool = False,
    dataset: str = "mnist",
    epochs: int | None = None,
) -> tuple[VAE, dict[str, Any]]:
    """Train the network of chapter 5, plain or with a loss on the labels of all or few images."""
    source = data.load(dataset)
    vae = conv_to_mlp_vae(latent_dim=latent_dim, seed=seed)
    recipe = conv_to_mlp_training(latent_dim=latent_dim)
    recipe["epochs"] = epochs or recipe["epochs"]
    if loss and n_labels:
        few = few_labels(source.train_part, n_labels, seed)
        recipe["objective"] = elbo_with_labels(loss, weight, on="mean", labelled=few)
    elif loss:
        recipe["objective"] = elbo_with_labels(loss, weight, on="mean")
        labels = source.train_part.labels
        order = torch.randperm(len(labels), generator=generator(seed, "shuffled labels"))
        recipe["labels"] = labels[order] if shuffled else labels
    return train_and_measure_classes(vae, source, seed=seed, **recipe)


def train_with_classifier(seed: int, *, weight: float) -> tuple[VAE, dict[str, Any]]:
    """Train the network of chapter 5 with a linear classifier in place of triplets."""
    vae = conv_to_mlp_vae(latent_dim=2, seed=seed)
    head = mlp([2, 10], nn.Identity)
    initialize(head, "glorot", generator(seed, "classifier"))
    vae.add_module("classifier", head)  # so that it is trained along
    source = data.load("mnist")
    recipe = conv_to_mlp_training(latent_dim=2) | {"labels": source.train_part.labels}
    recipe |= {"objective": elbo_with_labels(classification_loss(head), weight, on="mean")}
    return train_and_measure_classes(vae, source, seed=seed, **recipe)


def train_alternately(
    seed: int, *, objectives: tuple[Objective, Objective]
) -> tuple[VAE, dict[str, Any]]:
    """Train four times 10 epochs on two objectives in turns, each leg with an Adam of its own."""
    source = data.load("mnist")
    x, y = to_float(source.train_part.images), to_float(source.test.images)
    vae = conv_to_mlp_vae(latent_dim=2, seed=seed)
    recipe = conv_to_mlp_training(latent_dim=2) | {"epochs": 10, "lr": 1e-3}
    recipe |= {"labels": source.train_part.labels, "test": y}
    curves: dict[str, list[float]] = {"negative_elbo": [], "triplet_loss_z": []}
    seconds = 0.0
    for leg in range(4):
        history = fit(
            vae, x, objective=objectives[leg % 2], snapshot_every=1, seed=4 * seed + leg, **recipe
        )
        curves["negative_elbo"] += history.curve("test", "negative_elbo")[1:]
        for weights_then in history.snapshots.values():
            vae.load_state_dict(weights_then)
            z = codes(vae, y)
            curves["triplet_loss_z"].append(mean_triplet_loss(z, source.test.labels))
        seconds += history.seconds
    found = {f"test_{name}_by_epoch": curve for name, curve in curves.items()}
    return vae, {**found, "seconds": seconds, "provenance": provenance("full", vae.device, seconds)}


CODES_MINED = 128
"""Triplets are mined among so many codes at a time, however large the batch of the bound is."""


def mined_in_parts(loss: SupervisedLoss, size: int = CODES_MINED) -> SupervisedLoss:
    """Return the mean of a supervised loss over parts of the batch: its rule sees one part."""

    def mean_over_parts(codes: Tensor, labels: Tensor) -> Tensor:
        parts = zip(codes.split(size), labels.split(size), strict=True)
        return torch.stack([loss(*part) for part in parts]).mean()

    return mean_over_parts


BOUND = elbo_with_labels(triplet_loss, 0.0)
BATCH_HARD = partial(triplet_loss, mining="batch-hard")
SEMI_HARD = partial(triplet_loss, mining="semi-hard")
IN_16D = partial(train_conv_to_mlp, latent_dim=16)
FASHION = {"dataset": "fashion-mnist"}
THREE = (0, 1, 2)
RUNS = LongRuns(
    "05_triplet_latents",
    [
        LongRun(
            "tutorial-conv",
            train_project_a,
            seeds=(0, 1),
            keeps_weights=True,
            title="2-D, project A",
        ),
        LongRun(
            "tutorial-conv-triplets",
            partial(train_project_a, weight=1.0),
            keeps_weights=True,
            title="2-D, project A, triplets",
        ),
        LongRun("2d-plain", train_conv_to_mlp, seeds=THREE, title="2-D, conv to mlp"),
        LongRun(
            "2d-easy-positive-100",
            partial(train_conv_to_mlp, loss=NEAREST, weight=100.0),
            seeds=THREE,
            keeps_weights=True,
            title="2-D, conv to mlp, triplets",
        ),
        LongRun("2d-easy-positive-10", partial(train_conv_to_mlp, loss=NEAREST, weight=10.0)),
        LongRun("2d-easy-positive-1000", partial(train_conv_to_mlp, loss=NEAREST, weight=1000.0)),
        LongRun("2d-batch-hard-1", partial(train_conv_to_mlp, loss=BATCH_HARD, weight=1.0)),
        LongRun(
            "2d-batch-hard-10",
            partial(train_conv_to_mlp, loss=BATCH_HARD, weight=10.0),
            seeds=THREE,
        ),
        LongRun("2d-batch-hard-100", partial(train_conv_to_mlp, loss=BATCH_HARD, weight=100.0)),
        LongRun("2d-semi-hard-10", partial(train_conv_to_mlp, loss=SEMI_HARD, weight=10.0)),
        LongRun("2d-classifier-10", partial(train_with_classifier, weight=10.0), seeds=THREE),
        LongRun("2d-classifier-100", partial(train_with_classifier, weight=100.0)),
        LongRun(
            "2d-easy-positive-100-with-100-labels",
            partial(train_conv_to_mlp, loss=NEAREST, weight=100.0, n_labels=100),
            seeds=(0, 1),
        ),
        LongRun(
            "2d-easy-positive-100-with-1000-labels",
            partial(train_conv_to_mlp, loss=NEAREST, weight=100.0, n_labels=1000),
            seeds=THREE,
        ),
        LongRun(
            "2d-easy-positive-100-shuffled-labels",
            partial(train_conv_to_mlp, loss=NEAREST, weight=100.0, shuffled=True),
        ),
        LongRun("2d-plain-60-epochs", partial(train_conv_to_mlp, epochs=60)),
        LongRun(
            "2d-easy-positive-100-60-epochs",
            partial(train_conv_to_mlp, loss=NEAREST, weight=100.0, epochs=60),
        ),
        LongRun("16d-plain", IN_16D, seeds=THREE, title="16-D, conv to mlp"),
        LongRun("16d-batch-all-3", partial(IN_16D, loss=EVERY, weight=3.0)),
        LongRun("16d-batch-all-10", partial(IN_16D, loss=EVERY, weight=10.0), seeds=THREE),
        LongRun(
            "16d-batch-all-30",
            partial(IN_16D, loss=EVERY, weight=30.0),
            seeds=THREE,
            title="16-D, conv to mlp, triplets",
        ),
        LongRun(
            "2d-fashion-plain",
            partial(train_conv_to_mlp, **FASHION),
            seeds=(0, 1),
            title="2-D, conv to mlp",
            **FASHION,
        ),
        LongRun(
            "2d-fashion-easy-positive-100",
            partial(train_conv_to_mlp, loss=NEAREST, weight=100.0, **FASHION),
            seeds=(0, 1),
            title="2-D, conv to mlp, triplets",
            **FASHION,
        ),
        LongRun(
            "16d-fashion-plain", partial(IN_16D, **FASHION), title="16-D, conv to mlp", **FASHION
        ),
        LongRun(
            "16d-fashion-batch-all-30",
            partial(IN_16D, loss=EVERY, weight=30.0, **FASHION),
            title="16-D, conv to mlp, triplets",
            **FASHION,
        ),
        LongRun(
            "40-epochs-in-turns",
            partial(train_alternately, objectives=(BOUND, labels_alone(triplet_loss))),
        ),
        LongRun(
            "40-epochs-jointly",
            partial(train_alternately, objectives=(elbo_with_labels(triplet_loss, 1.0),) * 2),
        ),
        LongRun("40-epochs-bound-alone", partial(train_alternately, objectives=(BOUND, BOUND))),
    ],
)
