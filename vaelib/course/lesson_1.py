"""Lesson 1: the first real VAE, with two latent dimensions."""

from __future__ import annotations

from typing import Any

from torch import nn

from vaelib.corruption import RandomBinarization
from vaelib.course.protocols import images_of, train_and_measure
from vaelib.course.store import LongRun, LongRuns
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.schedules import warmup_cosine


def two_dimensional_vae(profile: str = "full", *, seed: int = 0) -> VAE:
    """Build the 2-D VAE of chapter 1: narrow, deep, and in profile full with a corrupted input."""
    return VAE(
        encoder=MLPEncoder(
            latent_dim=2,
            hidden=(256, 256, 256),
            activation=nn.SiLU,
            corruption=RandomBinarization() if profile == "full" else None,
            init="he",
            seed=seed,
        ),
        decoder=MLPDecoder(
            latent_dim=2,
            hidden=(128, 128, 128, 256),
            activation=nn.SiLU,
            init="he",
            seed=seed,
        ),
        likelihood=Bernoulli(grey=True),
        scale="capped",
    )


def two_dimensional_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the 2-D VAE of chapter 1."""
    full = profile == "full"
    return {
        "epochs": 150 if full else 60,
        "batch_size": 512 if full else 64,
        "lr": warmup_cosine(4e-3),
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


def live_training(profile: str = "full") -> dict[str, Any]:
    """Return the recipe of the 2-D VAE for a training that a reader waits for.

    It sees a quarter of the images that the published one sees, at a larger learning rate; both
    numbers were chosen on validation images.
    """
    if profile == "quick":
        return two_dimensional_training("quick") | {"epochs": 30}
    return two_dimensional_training() | {"epochs": 40, "lr": warmup_cosine(6e-3)}


def line_vae(*, seed: int = 0) -> VAE:
    """Build the VAE of exercise 5, whose code is a single number."""
    return VAE(
        encoder=MLPEncoder(latent_dim=1, hidden=(400,), seed=seed),
        decoder=MLPDecoder(latent_dim=1, hidden=(100, 400), seed=seed),
        likelihood=Bernoulli(grey=True),
        scale="capped",
    )


def line_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for exercise 5."""
    return {"epochs": 3 if profile == "full" else 8, "lr": warmup_cosine(4e-3)}


def train_two_dimensional_vae(seed: int) -> tuple[VAE, dict[str, Any]]:
    """Train the 2-D VAE of chapter 1 on all of MNIST's training images."""
    vae = two_dimensional_vae(seed=seed)
    recipe = two_dimensional_training()
    return train_and_measure(vae, *images_of("mnist"), seed=seed, **recipe)


RUNS = LongRuns(
    "01_vae_theory",
    [
        LongRun(
            "two-dimensional-vae",
            train_two_dimensional_vae,
            seeds=(0, 1, 2),
            keeps_weights=True,
            title="2-D, deep",
        ),
    ],
)
