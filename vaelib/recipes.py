"""Trainings that have a name: those of the book, ready for ``vaelib train --recipe NAME``."""

from __future__ import annotations

from vaelib.configuration import Configuration

_PROJECT_D = {
    "latent_dim": 128,
    "encoder_hidden": (512, 256),
    "decoder_hidden": (256, 512),
    "lr": 2e-3,
    "lr_schedule": "warmup-cosine",
}

RECIPES = {
    "2d-mlp": Configuration(
        encoder_hidden=(256, 256, 256),
        decoder_hidden=(128, 128, 128, 256),
        activation="silu",
        init="he",
        corrupt="binarize",
        scale="capped",
        epochs=40,
        batch_size=512,
        lr=6e-3,
        lr_schedule="warmup-cosine",
        weight_decay=0.01,
    ),
    "128d-bernoulli": Configuration(epochs=40, batch_size=100, **_PROJECT_D),
    "128d-gaussian": Configuration(
        likelihood="gaussian", sigma=0.1, learn_sigma=True, epochs=20, batch_size=128, **_PROJECT_D
    ),
}
"""Name -> configuration. The first is the training of chapter 1, section 8; the others are those of
chapter 2 on project D's networks, with grey values under a Bernoulli and with a Gaussian of learned
scale."""

DEFAULT = "2d-mlp"
