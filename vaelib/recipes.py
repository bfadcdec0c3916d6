"""Models and trainings that a chapter and its long runs share."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaelib.corruption import RandomBinarization, RandomWarp
from vaelib.data import binarize
from vaelib.likelihoods import Bernoulli, Gaussian
from vaelib.models import VAE, Autoencoder
from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vaelib.objectives import ELBO, elbo
from vaelib.schedules import warmup_cosine
from vaelib.seeding import generator


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


def wide_vae(
    likelihood: nn.Module | None = None, *, seed: int = 0, model: type[VAE | Autoencoder] = VAE
) -> VAE | Autoencoder:
    """Build project D's network, 784-512-256-128 and back: the model of chapter 2.

    Grey values under a Bernoulli, as in project D, unless another likelihood is given.
    """
    return model(
        encoder=MLPEncoder(latent_dim=128, hidden=(512, 256), seed=seed),
        decoder=MLPDecoder(latent_dim=128, hidden=(256, 512), seed=seed),
        likelihood=likelihood or Bernoulli(grey=True),
    )


def wide_training(profile: str = "full", *, epochs: int) -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the model of chapter 2."""
    full = profile == "full"
    return {
        "epochs": epochs if full else 10,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(2e-3),
        "precision": "auto" if full else "float32",
    }


def project_b_vae(*, scale: str = "softplus-logvar", seed: int = 0) -> VAE:
    """Build project B's network, 784-600-600-50 and back; all weights are tiny at the start."""
    vae = VAE(
        encoder=MLPEncoder(latent_dim=50, hidden=(600, 600), seed=seed),
        decoder=MLPDecoder(latent_dim=50, hidden=(600, 600), seed=seed),
        likelihood=Bernoulli(grey=True),
        scale=scale,
    )
    rng = generator(seed, "project B")
    for parameter in vae.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.001, generator=rng)
    return vae


def project_b_objective(
    model: VAE, x: Tensor, *, noise: Tensor | None = None, validate: bool = True
) -> ELBO:
    """Compute the bound and project B's weight decay, which is part of the loss.

    B gave torch's Adam ``weight_decay=0.1`` beside a loss that is summed over a batch of 128. It
    adds 0.1 times each parameter to the gradient, as does half the squared norm of all parameters
    in the loss; per image that is 0.1 / 128 of it. The optimiser of :func:`vaelib.training.fit`
    shrinks the weights outside the loss instead, and shrinks no biases.
    """
    distortion, rate = elbo(model, x, noise=noise, validate=validate)
    norm = sum(parameter.square().sum() for parameter in model.parameters())
    return ELBO(distortion + 0.5 * 0.1 / 128 * norm, rate)


AROUND_A_PLANE: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]] = {
    ("mlp", 70_000): ({"hidden": (37, 37, 37)}, {"hidden": (37, 37, 37)}),
    ("conv", 70_000): (
        {"channels": (8, 16, 32), "hidden": (32, 32, 32), "padding": 1},
        {"hidden": (48, 48, 48, 48, 72), "channels": (8, 16)},
    ),
    ("mlp", 800_000): ({"hidden": (352, 256, 256)}, {"hidden": (128, 128, 128, 352)}),
    ("conv", 800_000): (
        {"channels": (8, 16), "hidden": (256, 128), "padding": 1},
        {"hidden": (128, 128, 128, 300), "channels": (32, 16)},
    ),
}
"""Family and budget -> arguments of encoder and decoder around two latent dimensions."""

AROUND_MORE: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]] = {
    ("mlp", 70_000): ({"hidden": (40,)}, {"hidden": (40,)}),
    ("conv", 70_000): (
        {"channels": (8, 16, 32), "hidden": (32,), "padding": 1},
        {"hidden": (48,), "channels": (16, 16)},
    ),
    ("mlp", 800_000): ({"hidden": (376, 256)}, {"hidden": (256, 376)}),
    ("conv", 800_000): (
        {"channels": (8, 16), "hidden": (256, 128), "padding": 1},
        {"hidden": (256, 300), "channels": (32, 16)},
    ),
}
"""The same around more than two: wider and less deep, which suits them better."""


def comparison_vae(family: str, budget: int, *, latent_dim: int, seed: int = 0) -> VAE:
    """Build one of the networks that chapter 3 compares.

    Parameters
    ----------
    family
        ``"mlp"`` or ``"conv"``.
    budget
        Number of parameters, roughly: 70,000 or 800,000.
    latent_dim, seed
        As in :class:`vaelib.networks.MLPEncoder`.

    Raises
    ------
    ValueError
        If there is no such family or budget.
    """
    if (family, budget) not in AROUND_MORE:
        known = ", ".join(f"{f} {b}" for f, b in AROUND_MORE)
        raise ValueError(
            f"family and budget are {family!r} and {budget!r}; expected one of {known}."
        )
    encoder, decoder = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}[family]
    designs = AROUND_A_PLANE if latent_dim == 2 else AROUND_MORE
    for_encoder, for_decoder = designs[family, budget]
    common = {"latent_dim": latent_dim, "activation": nn.SiLU, "init": "he", "seed": seed}
    return VAE(
        encoder=encoder(**for_encoder, **common),
        decoder=decoder(**for_decoder, **common),
        likelihood=Bernoulli(grey=True),
        scale="capped",
    )


def comparison_training(profile: str = "full", *, lr: float = 8e-3) -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the networks of chapter 3."""
    full = profile == "full"
    return {
        "epochs": 8 if full else 16,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(lr),
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


BETAS = (0.0, 0.005, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 28.0, 50.0, 200.0)
"""The values of beta of chapter 4, from an autoencoder with noise to collapse."""


def sweep_vaes(*, seed: int = 0) -> list[VAE]:
    """Build a 16-D network of chapter 3 with equal first weights for each of :data:`BETAS`."""
    return [comparison_vae("mlp", 800_000, latent_dim=16, seed=seed) for _ in BETAS]


def sweep_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.sweeps.fit_sweep` for the sweep of chapter 4."""
    full = profile == "full"
    return {
        "epochs": 6,
        "batch_size": 128 if full else 64,
        "lr": warmup_cosine(8e-3),
        "weight_decay": 0.01,
        "precision": "auto" if full else "float32",
    }


def project_e_vae(*, seed: int = 0) -> VAE:
    """Build project E's network, 784-400-200 with two latent dimensions and back."""
    common = {"latent_dim": 2, "activation": partial(nn.LeakyReLU, 0.2), "seed": seed}
    return VAE(
        encoder=MLPEncoder(hidden=(400, 200), **common),
        decoder=MLPDecoder(hidden=(200, 400), **common),
        likelihood=Bernoulli(grey=True),
    )


PROJECT_C_MEAN, PROJECT_C_STD = 0.13066, 0.30811
"""Mean and standard deviation of MNIST's training pixels, as project C rounds them."""


def project_c_images(grey: Tensor) -> Tensor:
    """Standardise grey values in [0, 1] as project C does: one mean and one scale for all."""
    return (grey - PROJECT_C_MEAN) / PROJECT_C_STD


def project_c_vae(*, seed: int = 0) -> VAE:
    """Build project C's network, 784-500-120-15 and back, with sigma = softplus(rho).

    Project C trains on the sum of squared errors plus beta times the rate. A Gaussian whose
    variance is 1/2 has just this sum as its distortion, up to :data:`PROJECT_C_CONSTANT`.
    """
    return VAE(
        encoder=MLPEncoder(latent_dim=15, hidden=(500, 120), seed=seed),
        decoder=MLPDecoder(latent_dim=15, hidden=(120, 500), seed=seed),
        likelihood=Gaussian(link="identity", scale=math.sqrt(0.5)),
        scale="softplus",
    )


def project_c_training() -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for project C's network."""
    return {"epochs": 15, "batch_size": 64, "lr": 1e-3}


PROJECT_C_CONSTANT = 784 / 2 * math.log(math.pi)
"""Distortion of project C's network minus its sum of squared errors, in nats."""


def conv_to_mlp_vae(*, latent_dim: int, seed: int = 0) -> VAE:
    """Build the network of chapter 5: convolutions in, a perceptron out.

    The encoder tells unseen digits apart better than a perceptron does; the decoder is cheap. In
    the plane it is the deep and narrow one of chapter 1.
    """
    for_encoder, _ = AROUND_A_PLANE["conv", 800_000]
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


NUMBERS_OF_LABELS = (100, 600, 1000, 3000)
"""How many labels the experiments of chapter 6 have: those of Kingma et al. (2014), table 1."""


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


def tutorial_conv_vae(*, seed: int = 0) -> VAE:
    """Build the network of the TensorFlow tutorial on convolutional VAEs: project A's."""
    return VAE(
        encoder=ConvEncoder(latent_dim=2, seed=seed),
        decoder=ConvDecoder(latent_dim=2, seed=seed),
        likelihood=Bernoulli(grey=True),
    )


def burda_vae(images: Tensor, *, seed: int = 0) -> VAE:
    """Build the network of Burda et al. (2016) with one stochastic layer: the model of chapter 7.

    784-200-200-50 and back, with tanh. As in their code the first guess of the decoder is the
    mean of the training images. The likelihood takes grey values because
    :func:`vaelib.training.fit` is given them, and draws new binary images at every step.
    """
    common = {"latent_dim": 50, "hidden": (200, 200), "activation": nn.Tanh, "seed": seed}
    vae = VAE(
        encoder=MLPEncoder(**common),
        decoder=MLPDecoder(**common),
        likelihood=Bernoulli(grey=True),
    )
    with torch.no_grad():
        mean = images.mean(0).flatten().clamp(0.001, 0.999)
        vae.decoder.layers[-1].bias.copy_(torch.logit(mean))
    return vae


def redraw(x: Tensor, rng: torch.Generator) -> Tensor:
    """Draw new binary images from grey ones: as ``augment``, this is dynamic binarisation."""
    return binarize(x, generator=rng)


def burda_training(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for the network of chapter 7."""
    full = profile == "full"
    return {
        "epochs": 100 if full else 25,
        "batch_size": 256 if full else 64,
        "lr": warmup_cosine(6e-3 if full else 4e-3),
        "augment": redraw,
        "precision": "auto" if full else "float32",
    }
