"""Measurements that the long runs of several chapters share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vaelib import data
from vaelib.aggregate import AggregatePosterior, codes, gaussian_total_correlation
from vaelib.course.results import provenance
from vaelib.data import to_float
from vaelib.evaluation import (
    active_units,
    evaluate,
    fixed_subset,
    posterior_scale,
    reconstruction_rmse,
)
from vaelib.models import VAE
from vaelib.networks import count_parameters
from vaelib.training import History, fit


def train_and_measure(
    vae: VAE, train: Tensor, test: Tensor, *, seed: int, **training: Any
) -> tuple[VAE, dict[str, Any]]:
    """Train a model by :func:`vaelib.training.fit` and return it with its numbers."""
    history = fit(vae, train, evaluate_every=training["epochs"], seed=seed, **training)
    return vae, measured(vae, train, test, history)


def measured(vae: VAE, train: Tensor, test: Tensor, history: History) -> dict[str, Any]:
    """Return the numbers of a trained model, with what its training says of time and place."""
    on_train, on_test = evaluate(vae, train), evaluate(vae, test)
    return {
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


def images_of(name: str) -> tuple[Tensor, Tensor]:
    """Return all training and all test images of a data set, with grey values in [0, 1]."""
    dataset = data.load(name)
    return to_float(dataset.train.images), to_float(dataset.test.images)


def parts_of(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the training, validation and test images of a data set, grey values in [0, 1]."""
    dataset = data.load(name)
    parts = (dataset.train_part, dataset.validation, dataset.test)
    return tuple(to_float(part.images) for part in parts)
