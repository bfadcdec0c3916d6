"""Every model of the book under one protocol: how chapter 7 scores them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from vaelib import data, experiments, recipes
from vaelib.data import Dataset, Split, binarize, to_float
from vaelib.evaluation import (
    active_units,
    evaluate,
    fixed_subset,
    log_likelihood,
    posterior_of,
)
from vaelib.hardware import pick_device
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import count_parameters
from vaelib.posteriors import DiagonalNormal
from vaelib.results import PUBLISHED, provenance
from vaelib.sample_quality import Judge
from vaelib.schedules import cosine, warmup_cosine
from vaelib.seeding import generator
from vaelib.svi import elbo_under, fit_posteriors
from vaelib.training import fit

IMAGES, SAMPLES = 1000, 1000
"""Test images whose log p(x) is estimated, and samples of z for each."""
WIDENINGS = (1.0, 1.2, 1.5, 2.0, 3.0)
"""Factors by which the standard deviations of a proposal may be multiplied."""


class Entry(NamedTuple):
    """A model of the book, and how to get it trained."""

    chapter: int
    title: str
    dataset: str
    train: Callable[[int], tuple[VAE, Any]]
    """Maps a seed to the trained model and anything else; published weights are of seed 0."""
    binary: bool = False
    """Whether its encoder was trained on binary images."""


def _published(build: Callable[[], VAE], name: str) -> Callable[[int], tuple[VAE, Any]]:
    """Return, in place of a training, the published weights of one that is too long to repeat."""

    def train(seed: int) -> tuple[VAE, None]:
        vae = build()
        vae.load_state_dict(load_file(PUBLISHED / "long_runs" / f"{name}.safetensors"))
        return vae, None

    return train


def _comparison(seed: int, *, family: str, budget: int, latent_dim: int) -> tuple[VAE, None]:
    """Train a network of chapter 3 at the learning rate that its long run has chosen."""
    run = PUBLISHED / "long_runs" / f"comparison-{family}-{budget // 1000}k-{latent_dim}d.json"
    records = json.loads(run.read_text(encoding="utf-8"))
    (lr,) = (record["lr"] for record in records if record["seed"] == seed)
    recipe = recipes.comparison_training(lr=lr)
    vae = recipes.comparison_vae(family, budget, latent_dim=latent_dim, seed=seed)
    return _fitted(vae, data.load("mnist").train_part, seed=seed, **recipe)


def _sweep(seed: int, *, beta: float) -> tuple[VAE, None]:
    vae = recipes.comparison_vae("mlp", 800_000, latent_dim=16, seed=seed)
    return _fitted(vae, data.load("mnist").train, seed=seed, beta=beta, **recipes.sweep_training())


def _m1(seed: int, *, dataset: str) -> tuple[VAE, None]:
    vae = recipes.m1_vae(corruption=recipes.m1_warp(dataset), seed=seed)
    return _fitted(vae, data.load(dataset).train_part, seed=seed, **recipes.m1_training())


def _fitted(vae: VAE, split: Split, **recipe: Any) -> tuple[VAE, None]:
    fit(vae, to_float(split.images), evaluate_every=recipe["epochs"], **recipe)
    return vae, None


def _burda() -> VAE:
    return recipes.burda_vae(torch.zeros(1, 1, 28, 28))


def _of_chapters_5_and_6(dataset: str) -> dict[str, Entry]:
    """Return the entries of two chapters that train the same networks on both data sets."""
    return {
        **{
            f"conv-to-mlp-{name}": Entry(
                5, title, dataset, partial(experiments.conv_to_mlp, dataset=dataset, **options)
            )
            for name, title, options in (
                ("2d", "2-D, conv to mlp", {"latent_dim": 2}),
                (
                    "2d-triplets",
                    "2-D, conv to mlp, triplets",
                    {"latent_dim": 2, "loss": experiments.NEAREST, "weight": 100.0},
                ),
                ("16d", "16-D, conv to mlp", {"latent_dim": 16}),
                (
                    "16d-triplets",
                    "16-D, conv to mlp, triplets",
                    {"latent_dim": 16, "loss": experiments.EVERY, "weight": 30.0},
                ),
            )
        },
        "m1": Entry(6, "50-D, M1, β = 0.1, warp", dataset, partial(_m1, dataset=dataset)),
    }


MNIST, FASHION = "mnist", "fashion-mnist"
ENTRIES = {
    "two-dimensional": Entry(1, "2-D, deep", MNIST, experiments.two_dimensional_vae),
    "wide": Entry(2, "128-D, mlp", MNIST, partial(experiments.wide, beta=1.0)),
    "project-d": Entry(
        2,
        "128-D, project D",
        MNIST,
        partial(experiments.project_d, lr=warmup_cosine(2e-3), epochs=40),
    ),
    "gaussian": Entry(
        2, "128-D, Gaussian", MNIST, partial(experiments.gaussian, scale=0.1, learned=True)
    ),
    **{
        f"{family}-{budget // 1000}k-{latent_dim}d": Entry(
            3,
            f"{latent_dim}-D, {family}, {budget // 1000}k",
            MNIST,
            partial(_comparison, family=family, budget=budget, latent_dim=latent_dim),
        )
        for latent_dim, (family, budget) in product((2, 16, 32), recipes.AROUND_MORE)
    },
    "small-conv": Entry(
        3,
        "2-D, conv, 70k, 30 epochs",
        MNIST,
        _published(partial(recipes.comparison_vae, "conv", 70_000, latent_dim=2), "small-conv"),
    ),
    "project-e": Entry(3, "2-D, project E", MNIST, partial(experiments.project_e, lr=cosine(2e-3))),
    **{
        f"sweep-{beta:g}": Entry(4, f"16-D, mlp, β = {beta:g}", MNIST, partial(_sweep, beta=beta))
        for beta in recipes.BETAS
    },
    "tutorial": Entry(
        5, "2-D, project A", MNIST, _published(recipes.tutorial_conv_vae, "tutorial-conv")
    ),
    "tutorial-triplets": Entry(
        5,
        "2-D, project A, triplets",
        MNIST,
        _published(recipes.tutorial_conv_vae, "tutorial-conv-triplets"),
    ),
    **_of_chapters_5_and_6(MNIST),
    "burda-vae": Entry(7, "50-D, VAE", MNIST, _published(_burda, "burda-vae"), binary=True),
    "burda-iwae-50": Entry(
        7, "50-D, IWAE-50", MNIST, _published(_burda, "burda-iwae-50"), binary=True
    ),
    **{
        f"fashion-project-b{name}": Entry(
            2, f"50-D, project B{title}", FASHION, partial(experiments.project_b, **options)
        )
        for name, title, options in (
            ("", "", {"scale": "softplus-logvar"}),
            ("-0.005", ", β = 0.005", {"scale": "softplus-logvar", "beta": 0.005}),
            ("-no-softplus", ", no softplus", {"scale": "exp"}),
        )
    },
    **{f"fashion-{name}": entry for name, entry in _of_chapters_5_and_6(FASHION).items()},
}
"""The models that the scoreboard of chapter 7 holds, in the order of the chapters."""


def scored(seed: int, *, name: str) -> tuple[VAE, dict[str, Any]]:
    """Get a model of the book and measure it by the protocol of the scoreboard."""
    started, entry = time.perf_counter(), ENTRIES[name]
    source = data.load(entry.dataset)
    vae, _ = entry.train(seed)
    vae.to(pick_device())
    numbers = score(vae, source, Judge(source.train_part), binary=entry.binary)
    seconds = time.perf_counter() - started
    return vae, {**numbers, "provenance": provenance("full", vae.device, seconds)}


def score(
    vae: VAE, source: Dataset, judge: Judge, *, binary: bool = False, seed: int = 0
) -> dict[str, float]:
    """Measure a model by the protocol of the scoreboard.

    Parameters
    ----------
    vae
        The model.
    source
        The data that it was trained on.
    judge
        A classifier of these data.
    binary
        Whether the encoder was trained on binary images; it is then measured on such.
    seed
        Fixes the samples of z and the images that are generated.

    Returns
    -------
    dict
        Means over images, in nats: the negative bound of all test images and of as many training
        images, and the rate, as the model was trained, on grey or on binary images. (Two recipes,
        those of projects A and D, leave a tenth of these training images out.) Active units, and
        the numbers of :class:`~vaelib.sample_quality.SampleQuality`. Then for one binary version
        of :data:`IMAGES` test images: the negative bound, with the encoder's answer to the grey or
        the binary image, as it was trained; the estimate of -log p(x) from
        :data:`SAMPLES` samples of a fitted proposal (:func:`fitted_proposal`), and its standard
        errors. A Gaussian gives a density of grey images and no probability of a binary one; for
        such a model these are left out.
    """
    grey = to_float(source.test.images)
    train = fixed_subset(to_float(source.train_part.images), len(grey))
    test = _binarized(grey) if binary else grey
    on_test, on_train = evaluate(vae, test), evaluate(vae, _binarized(train) if binary else train)
    n = min(2000, len(grey))
    samples = vae.sample(n, generator=generator(seed, "samples", vae.device))
    found = {
        "parameters": count_parameters(vae),
        "test_negative_elbo": on_test.negative_elbo,
        "train_negative_elbo": on_train.negative_elbo,
        "test_rate": on_test.rate,
        "test_active_units": int(active_units(vae, test).sum()),
        **judge.assess(samples, fixed_subset(grey, n))._asdict(),
    }
    if not isinstance(vae.likelihood, Bernoulli):
        return found
    few = fixed_subset(grey, IMAGES)
    x = _binarized(few)
    own = posterior_of(vae, x if binary else few)
    proposal, factor = fitted_proposal(vae, x)
    estimate = log_likelihood(vae, x, k=SAMPLES, proposal=proposal, seed=seed)
    return found | {
        "scored_negative_elbo": -float(elbo_under(vae, x, own, seed=seed).mean()),
        "test_negative_log_p": -estimate.mean,
        "standard_error_images": estimate.standard_error_of_mean[0],
        "standard_error_samples": estimate.standard_error_of_mean[1],
        "median_effective_samples": float(estimate.effective_samples.median()),
        "proposal_widened_by": factor,
    }


def fitted_proposal(vae: VAE, images: Tensor) -> tuple[DiagonalNormal, float]:
    """Search a proposal for :func:`vaelib.evaluation.log_likelihood` at a fixed decoder.

    An encoder would lend its own faults to the estimate: one that was trained with a small beta is
    far too sure of its codes, one that ignores where a stroke lies misses most of p(x).

    Parameters
    ----------
    vae
        The model.
    images
        Images ``[N, C, H, W]`` that it can be given.

    Returns
    -------
    tuple
        The best Gaussian of every image (:func:`~vaelib.svi.fit_posteriors`), widened, and
        by how much: by the factor of :data:`WIDENINGS` with the highest estimate on the first 200
        images from 100 samples. Every estimate is too low on average, so that the highest is the
        best but for noise.
    """
    best = fit_posteriors(vae, images, steps=300, samples=1)
    options = [(widened(best, factor), factor) for factor in WIDENINGS]

    def estimate(option: tuple[DiagonalNormal, float]) -> float:
        q = DiagonalNormal(option[0].mu[:200], option[0].logvar[:200], validate_args=False)
        return log_likelihood(vae, images[:200], k=100, proposal=q, seed=1).mean

    return max(options, key=estimate)


def widened(q: DiagonalNormal, factor: float) -> DiagonalNormal:
    """Multiply the standard deviations of a posterior, but none beyond that of the prior.

    A unit that is not used has the prior's already; a wider one would only waste samples.
    """
    logvar = (q.logvar + 2 * math.log(factor)).clamp(max=0).maximum(q.logvar)
    return DiagonalNormal(q.mu, logvar, validate_args=False)


def _binarized(grey: Tensor) -> Tensor:
    return binarize(grey, generator=generator(0, "scoreboard"))
