"""Models and trainings that a chapter and its long runs share."""

from __future__ import annotations

from typing import Any

from torch import nn

from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder, RandomBinarization
from vaelib.schedules import one_cycle


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
        "lr": one_cycle(4e-3),
        "weight_decay": 0.01,
        "precision": "bfloat16" if full else "float32",
    }
