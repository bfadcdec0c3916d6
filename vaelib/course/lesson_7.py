"""Lesson 7: scores, on the network of Burda et al. (2016), and the scoreboard of all models."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelib import data
from vaelib.course.protocols import parts_of
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import binarize
from vaelib.evaluation import active_units, evaluate, fixed_subset, log_likelihood
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, MLPEncoder
from vaelib.objectives import Objective, importance_weighted, log_prior
from vaelib.schedules import cosine, warmup_cosine
from vaelib.seeding import generator
from vaelib.training import fit


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


def trained_vae(images: Tensor, profile: str, *, seed: int = 0) -> VAE:
    """Return the VAE that the lesson scores: the published one, or one trained on digits here.

    Parameters
    ----------
    images
        Grey training images; their mean is the first guess of the decoder.
    profile
        In ``"full"`` the weights of the long run ``burda-vae`` are loaded.
    seed
        Of the training in ``"quick"``.
    """
    vae = burda_vae(images, seed=seed)
    if profile == "full":
        vae.load_state_dict(RUNS.weights("burda-vae"))
    else:
        recipe = burda_training(profile)
        fit(vae, images, seed=seed, evaluate_every=recipe["epochs"], progress=False, **recipe)
    return vae.eval()


def fine_tuning(profile: str = "full") -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` for a few more epochs of a trained VAE.

    The learning rate begins at a quarter of the highest of :func:`train_burda`, and falls to zero.
    """
    return burda_training(profile) | {
        "epochs": 2 if profile == "full" else 4,
        "lr": cosine(1e-3),
        "evaluate_every": 2 if profile == "full" else 4,
    }


@torch.no_grad()
def log_joint(vae: VAE, images: Tensor, codes: Tensor) -> Tensor:
    """Return log p(x, z) of each of B binary images at each of N codes.

    Parameters
    ----------
    vae
        A VAE with a Bernoulli likelihood.
    images
        Binary images ``[B, C, H, W]``.
    codes
        Codes ``[N, D]``.

    Returns
    -------
    Tensor
        Nats, ``[B, N]``.
    """
    x, parts = images.flatten(1), []
    for z in codes.split(20_000):
        logits = vae.decoder(z).flatten(1)
        log_likelihood = x @ logits.T - F.softplus(logits).sum(1)
        parts.append(log_likelihood + log_prior(z))
    return torch.cat(parts, 1)


class Quadrature(NamedTuple):
    """The plane of codes as a grid, and what some images are worth on it."""

    codes: Tensor
    """Points of the grid, ``[N, 2]``."""
    log_joint: Tensor
    """log p(x, z) of each image at each point, ``[B, N]``, in nats."""
    log_p: Tensor
    """log p(x) of each image, ``[B]``, in nats, float64."""


def quadrature(vae: VAE, images: Tensor, *, step: float = 0.02, reach: float = 4.0) -> Quadrature:
    """Compute log p(x) of binary images under a VAE of two dimensions, by a sum over a grid.

    Parameters
    ----------
    vae
        A VAE with two latent dimensions and a Bernoulli likelihood.
    images
        Binary images ``[B, C, H, W]``.
    step
        Distance of the points. Where a posterior is narrower than this, its image comes out
        wrong, too high or too low.
    reach
        Half the width of the square; beyond it the prior's density is below exp(-8) of its
        highest.

    Raises
    ------
    ValueError
        If the model has not two latent dimensions.
    """
    if vae.latent_dim != 2:
        raise ValueError(f"the model has {vae.latent_dim} latent dimensions; expected 2.")
    axis = torch.arange(-reach, reach + step / 2, step)
    codes = torch.cartesian_prod(axis, axis)
    joint = log_joint(vae, images, codes)
    # In parts: a double of everything would not fit beside it.
    log_p = torch.stack([row.double().logsumexp(0) for row in joint]) + 2 * math.log(step)
    return Quadrature(codes, joint, log_p)


def train_burda(
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
    train, validation, test = parts_of("mnist")
    vae = burda_vae(train, seed=seed)
    recipe = burda_training() | {"epochs": epochs, "samples": samples}
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


RUNS = LongRuns(
    "07_scoring",
    [
        LongRun(
            "burda-vae",
            partial(train_burda, epochs=200, all_images=True),
            keeps_weights=True,
            title="50-D, VAE",
            binary=True,
        ),
        LongRun(
            "burda-iwae-50",
            partial(
                train_burda,
                epochs=55,
                samples=50,
                objective=importance_weighted(doubly_reparameterized=True),
                all_images=True,
            ),
            keeps_weights=True,
            title="50-D, IWAE-50",
            binary=True,
        ),
        LongRun("burda-vae-100-epochs", partial(train_burda, epochs=100)),
        LongRun("burda-vae-100-epochs-static", partial(train_burda, epochs=100, static=True)),
    ],
)
