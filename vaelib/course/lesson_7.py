"""Lesson 7: scores, on the network of Burda et al. (2016), and the scoreboard of all models."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
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
from vaelib.objectives import Objective, importance_weighted
from vaelib.schedules import warmup_cosine
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
