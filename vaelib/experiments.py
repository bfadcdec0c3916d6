"""The trainings of the long runs: each maps a seed to a trained model and its numbers."""

from __future__ import annotations

import time
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from vaelib import data, recipes
from vaelib.aggregate import AggregatePosterior, codes, gaussian_total_correlation
from vaelib.data import Dataset, Split, to_float
from vaelib.evaluation import (
    active_units,
    evaluate,
    fixed_subset,
    log_likelihood,
    posterior_of,
    posterior_scale,
    reconstruction_rmse,
)
from vaelib.hardware import pick_device
from vaelib.likelihoods import Gaussian
from vaelib.models import VAE
from vaelib.networks import count_parameters, initialize, mlp
from vaelib.objectives import Objective, elbo_at_optimal_scale
from vaelib.results import provenance
from vaelib.schedules import Schedule, warmup_cosine
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
)
from vaelib.sweeps import fit_sweep
from vaelib.training import fit
from vaelib.triplet import triplet_loss

NEAREST = partial(triplet_loss, mining="easy-positive")
EVERY = partial(triplet_loss, mining="batch-all", margin=1.0)
"""The rules of mining that serve the network of chapter 5 best, in the plane and in 16-D."""


def measured(
    vae: VAE, train: Tensor, test: Tensor, *, seed: int, **training: Any
) -> tuple[VAE, dict[str, Any]]:
    """Train a model by :func:`vaelib.training.fit` and return it with its numbers."""
    history = fit(vae, train, evaluate_every=training["epochs"], seed=seed, **training)
    on_train, on_test = evaluate(vae, train), evaluate(vae, test)
    return vae, {
        "test_negative_elbo": on_test.negative_elbo,
        "test_distortion": on_test.distortion,
        "test_rate": on_test.rate,
        "test_active_units": int(active_units(vae, test).sum()),
        "test_rmse": float(reconstruction_rmse(vae, test).mean()),
        "train_negative_elbo": on_train.negative_elbo,
        "parameters": count_parameters(vae),
        "seconds": history.seconds,
        "provenance": provenance("full", vae.device, history.seconds),
    }


def prior_match(vae: VAE, train: Tensor, test: Tensor) -> dict[str, float]:
    """Measure how far the codes of the test images are from the prior."""
    z = codes(vae, test)
    # Another seed: a collapsed model has no images in its codes, only the noise.
    mixture = AggregatePosterior(codes(vae, fixed_subset(train, 20_000), seed=1))
    return {
        "test_mismatch": mixture.mismatch(z),
        "test_total_correlation": gaussian_total_correlation(z),
        "test_mean_scale": float(posterior_scale(vae, test).mean()),
    }


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


def measured_by_class(
    vae: VAE, source: Dataset, *, seed: int, **training: Any
) -> tuple[VAE, dict[str, Any]]:
    """Train on 50,000 images, and measure the classes on 10,000 for validation and on test."""
    train, validation, test = source.train_part, source.validation, source.test
    images = to_float(train.images), to_float(test.images)
    vae, numbers = measured(vae, *images, seed=seed, **training)
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


def conv_to_mlp(
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
    vae = recipes.conv_to_mlp_vae(latent_dim=latent_dim, seed=seed)
    recipe = recipes.conv_to_mlp_training(latent_dim=latent_dim)
    recipe["epochs"] = epochs or recipe["epochs"]
    if loss and n_labels:
        few = few_labels(source.train_part, n_labels, seed)
        recipe["objective"] = elbo_with_labels(loss, weight, on="mean", labelled=few)
    elif loss:
        recipe["objective"] = elbo_with_labels(loss, weight, on="mean")
        labels = source.train_part.labels
        order = torch.randperm(len(labels), generator=generator(seed, "shuffled labels"))
        recipe["labels"] = labels[order] if shuffled else labels
    return measured_by_class(vae, source, seed=seed, **recipe)


def classifier_head(seed: int, *, weight: float) -> tuple[VAE, dict[str, Any]]:
    """Train the network of chapter 5 with a linear classifier in place of triplets."""
    vae = recipes.conv_to_mlp_vae(latent_dim=2, seed=seed)
    head = mlp([2, 10], nn.Identity)
    initialize(head, "glorot", generator(seed, "classifier"))
    vae.add_module("classifier", head)  # so that it is trained along
    source = data.load("mnist")
    recipe = recipes.conv_to_mlp_training(latent_dim=2) | {"labels": source.train_part.labels}
    recipe |= {"objective": elbo_with_labels(classification_loss(head), weight, on="mean")}
    return measured_by_class(vae, source, seed=seed, **recipe)


def four_legs(seed: int, *, objectives: tuple[Objective, Objective]) -> tuple[VAE, dict[str, Any]]:
    """Train four times 10 epochs on two objectives in turns, each leg with an Adam of its own."""
    source = data.load("mnist")
    x, y = to_float(source.train_part.images), to_float(source.test.images)
    vae = recipes.conv_to_mlp_vae(latent_dim=2, seed=seed)
    recipe = recipes.conv_to_mlp_training(latent_dim=2) | {"epochs": 10, "lr": 1e-3}
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


def beta_sweep(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Train the sweep of chapter 4 on all of MNIST's training images."""
    train, test = images("mnist")
    vaes = recipes.sweep_vaes(seed=seed)
    started = time.perf_counter()
    fit_sweep(vaes, train, betas=recipes.BETAS, seed=seed, **recipes.sweep_training())
    seconds = time.perf_counter() - started
    reports = [evaluate(vae, test) for vae in vaes]
    matches = [prior_match(vae, train, test) for vae in vaes]
    return vaes[0], {
        "beta": list(recipes.BETAS),
        "test_distortion": [report.distortion for report in reports],
        "test_rate": [report.rate for report in reports],
        "test_active_units": [int(active_units(vae, test).sum()) for vae in vaes],
        **{name: [match[name] for match in matches] for name in matches[0]},
        "seconds": seconds,
        "provenance": provenance("full", vaes[0].device, seconds),
    }


def wide(
    seed: int, *, beta: float | Schedule, objective: Objective | None = None
) -> tuple[VAE, dict[str, Any]]:
    """Train the wide network of chapter 2 with grey values under a Bernoulli, 20 epochs."""
    recipe = recipes.wide_training(epochs=20) | {"beta": beta, "objective": objective}
    return measured(recipes.wide_vae(seed=seed), *images("mnist"), seed=seed, **recipe)


def project_c_for_long(seed: int, *, beta: float) -> tuple[VAE, dict[str, Any]]:
    """Train project C's network for 100 epochs with an eye on 10,000 validation images."""
    train, validation, test = map(recipes.project_c_images, three_parts("mnist"))
    vae = recipes.project_c_vae(seed=seed)
    recipe = recipes.project_c_training() | {"epochs": 100, "beta": beta}
    history = fit(vae, train, test=validation, snapshot_every=1, seed=seed, **recipe)

    def loss(split: str) -> list[float]:
        parts = (history.curve(split, part) for part in ("distortion", "rate"))
        return [d - recipes.PROJECT_C_CONSTANT + beta * r for d, r in zip(*parts, strict=True)]

    on_validation = loss("test")
    best = min(history.snapshots, key=lambda epoch: on_validation[epoch])
    tested = {}
    for epoch in (15, best, 100):
        vae.load_state_dict(history.snapshots[epoch])
        report = evaluate(vae, test)
        tested[str(epoch)] = report.distortion - recipes.PROJECT_C_CONSTANT + beta * report.rate
    return vae, {
        "train_loss": loss("train"),
        "validation_loss": on_validation,
        "best_epoch": best,
        "test_loss_after": tested,
        "seconds": history.seconds,
        "provenance": provenance("full", vae.device, history.seconds),
    }


def two_dimensional_vae(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Train the 2-D VAE of chapter 1 on all of MNIST's training images."""
    vae = recipes.two_dimensional_vae(seed=seed)
    return measured(vae, *images("mnist"), seed=seed, **recipes.two_dimensional_training("full"))


def gaussian(
    seed: int, *, scale: float = 1.0, learned: bool = False, optimal: bool = False
) -> tuple[VAE, dict[str, Any]]:
    """Train the model of chapter 2 with a Gaussian of fixed, learned or optimal scale."""
    likelihood = Gaussian(link="logit", scale=scale, learned=learned)
    vae = recipes.wide_vae(likelihood, seed=seed)
    objective = elbo_at_optimal_scale if optimal else None
    recipe = recipes.wide_training(epochs=20)
    vae, numbers = measured(vae, *images("mnist"), seed=seed, objective=objective, **recipe)
    return vae, {**numbers, "scale": float(likelihood.log_scale.detach().exp())}


def project_d(seed: int, *, lr: Schedule, epochs: int) -> tuple[VAE, dict[str, Any]]:
    """Train project D's network on its 55,000 images, in batches of 100."""
    train, test = images("mnist")
    recipe = {"epochs": epochs, "batch_size": 100, "lr": lr, "precision": "auto"}
    return measured(recipes.wide_vae(seed=seed), train[:55_000], test, seed=seed, **recipe)


def project_b(seed: int, *, scale: str, beta: float = 1.0) -> tuple[VAE, dict[str, Any]]:
    """Train project B's network on Fashion-MNIST by its recipe."""
    recipe = {"epochs": 25, "batch_size": 128, "lr": 1e-3, "precision": "auto"}
    recipe |= {"objective": recipes.project_b_objective, "beta": beta}
    train, test = images("fashion-mnist")
    vae = recipes.project_b_vae(scale=scale, seed=seed)
    vae, numbers = measured(vae, train, test, seed=seed, **recipe)
    return vae, {**numbers, **prior_match(vae, train, test)}


def project_c(
    seed: int, *, beta: float | Schedule, objective: Objective | None = None
) -> tuple[VAE, dict[str, Any]]:
    """Train project C's network by its recipe: standardised pixels, Adam at 1e-3, 15 epochs."""
    train, test = map(recipes.project_c_images, images("mnist"))
    vae = recipes.project_c_vae(seed=seed)
    recipe = recipes.project_c_training() | {"beta": beta, "objective": objective}
    vae, numbers = measured(vae, train, test, seed=seed, **recipe)
    error = numbers["test_distortion"] - recipes.PROJECT_C_CONSTANT
    return vae, {**numbers, "test_squared_error": error}


def tutorial_conv(seed: int, *, weight: float = 0.0) -> tuple[VAE, dict[str, Any]]:
    """Train project A's network by its recipe: 54,000 images, Adam at 1e-4, 100 epochs.

    With a weight, its triplet loss is added: batch-hard, with a margin of 0.2, on z.
    """
    source = data.load("mnist")
    train = Split(source.train.images[:54_000], source.train.labels[:54_000])
    vae = recipes.tutorial_conv_vae(seed=seed)
    recipe = {"epochs": 100, "batch_size": 128, "lr": 1e-4, "precision": "auto"}
    if weight:
        objective = elbo_with_labels(triplet_loss, weight)
        recipe |= {"labels": train.labels, "objective": objective}
    test_images = to_float(source.test.images)
    vae, numbers = measured(vae, to_float(train.images), test_images, seed=seed, **recipe)
    found = separation_of(vae, train, source.test)
    return vae, {**numbers, **{f"test_{name}": value for name, value in found.items()}}


def small_conv(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Train the small convolutional network of chapter 3 with two latent dimensions for longer."""
    vae = recipes.comparison_vae("conv", 70_000, latent_dim=2, seed=seed)
    recipe = recipes.comparison_training() | {"epochs": 30}
    return measured(vae, *images("mnist"), seed=seed, **recipe)


def comparison(
    seed: int, *, family: str, budget: int, latent_dim: int
) -> tuple[VAE, dict[str, Any]]:
    """Train one network of chapter 3 at several learning rates; keep the best on validation."""
    train, validation, test = three_parts("mnist")
    candidates = []
    # The perceptrons get a third rate, since they are where the second was always the better one.
    for lr in (8e-3, 16e-3, 32e-3) if family == "mlp" else (8e-3, 16e-3):
        vae = recipes.comparison_vae(family, budget, latent_dim=latent_dim, seed=seed)
        recipe = recipes.comparison_training(lr=lr)
        vae, numbers = measured(vae, train, test, seed=seed, **recipe)
        numbers |= {"lr": lr, "validation_negative_elbo": evaluate(vae, validation).negative_elbo}
        candidates.append((vae, numbers))
    return min(candidates, key=lambda candidate: candidate[1]["validation_negative_elbo"])


def learning_rates(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Try three learning rates for each network of chapter 3, for two epochs, on validation."""
    train, validation, _ = three_parts("mnist")
    found: dict[str, Any] = {}
    for (family, budget), latent_dim in product(recipes.AROUND_MORE, (2, 16, 32)):
        for lr in (4e-3, 8e-3, 16e-3):
            vae = recipes.comparison_vae(family, budget, latent_dim=latent_dim, seed=seed)
            recipe = recipes.comparison_training(lr=lr) | {"epochs": 2}
            history = fit(vae, train, seed=seed, **recipe)
            name = f"{family} {budget} {latent_dim} {lr:g}"
            found[name] = evaluate(vae, validation).negative_elbo
    return vae, {**found, "provenance": provenance("full", vae.device, history.seconds)}


def project_e(seed: int, *, lr: Schedule, beta: float = 1.0) -> tuple[VAE, dict[str, Any]]:
    """Train project E's multilayer perceptron: batches of 100, 30 epochs."""
    recipe = {"epochs": 30, "batch_size": 100, "lr": lr, "beta": beta, "precision": "auto"}
    return measured(recipes.project_e_vae(seed=seed), *images("mnist"), seed=seed, **recipe)


def burda(
    seed: int,
    *,
    epochs: int,
    samples: int = 1,
    objective: Objective | None = None,
    static: bool = False,
    all_images: bool = False,
) -> tuple[VAE, dict[str, Any]]:
    """Train the network of chapter 7 on 50,000 images and estimate log p of binary images.

    ``samples`` are drawn for each image and step. ``static`` draws the binary training images
    once, instead of at every step. With ``all_images`` the estimate is made for all test images,
    with 5,000 samples each, besides those for 1,000 images and 1,000 samples.
    """
    train, validation, test = three_parts("mnist")
    vae = recipes.burda_vae(train, seed=seed)
    recipe = recipes.burda_training() | {"epochs": epochs, "samples": samples}
    recipe |= {
        "batch_size": 128,
        "lr": warmup_cosine(4e-3),
    }  # smaller steps than a page has time for
    parts = {
        name: data.binarize(part, generator=generator(0, f"binary {name}"))
        for name, part in (("train", train), ("validation", validation), ("test", test))
    }
    if static:
        recipe["augment"] = None
    history = fit(
        vae,
        parts["train"] if static else train,
        objective=objective,
        evaluate_every=epochs,
        seed=seed,
        **recipe,
    )
    numbers: dict[str, Any] = {"test_active_units": int(active_units(vae, parts["test"]).sum())}
    for name, part in parts.items():
        numbers[f"{name}_negative_elbo"] = evaluate(vae, part).negative_elbo
    few = {name: fixed_subset(part, 1000) for name, part in parts.items()}
    # The images that a static training has seen and, of the same digits, binary images it has not.
    redrawn = data.binarize(train, generator=generator(1, "binary train"))
    for name, part in {**few, "redrawn_train": fixed_subset(redrawn, 1000)}.items():
        estimate = log_likelihood(vae, part, k=1000)
        numbers[f"{name}_negative_log_p_of_1000"] = -estimate.mean
    if all_images:
        estimate = log_likelihood(vae, parts["test"], k=5000)
        numbers |= {
            "test_negative_log_p": -estimate.mean,
            "standard_error_images": estimate.standard_error_of_mean[0],
            "standard_error_samples": estimate.standard_error_of_mean[1],
            "median_effective_samples": float(estimate.effective_samples.median()),
        }
    return vae, {
        **numbers,
        "epochs": epochs,
        "seconds": history.seconds,
        "provenance": provenance("full", vae.device, history.seconds),
    }


def images(name: str) -> tuple[Tensor, Tensor]:
    """Return all training and all test images of a data set, with grey values in [0, 1]."""
    dataset = data.load(name)
    return to_float(dataset.train.images), to_float(dataset.test.images)


def three_parts(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the training, validation and test images of a data set, grey values in [0, 1]."""
    dataset = data.load(name)
    parts = (dataset.train_part, dataset.validation, dataset.test)
    return tuple(to_float(part.images) for part in parts)
