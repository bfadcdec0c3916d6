"""Models and trainings that a chapter and its long runs share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.schedules import one_cycle


def two_dimensional_vae(images: Tensor, *, seed: int = 0) -> VAE:
    return VAE(
        encoder=MLPEncoder(latent_dim=2, hidden=(256, 256, 256), activation=nn.SiLU, seed=seed),
        decoder=MLPDecoder(latent_dim=2, hidden=(128, 128, 128, 256), activation=nn.SiLU, seed=seed),
        likelihood=Bernoulli(grey=True),
    )


def two_dimensional_training(profile: str) -> dict[str, Any]:
    return {
        "epochs": 100,
        "batch_size": 256 if profile == "full" else 64,
        "lr": one_cycle(4e-3 if profile == "full" else 2e-3),
        "weight_decay": 0.01,
    }
