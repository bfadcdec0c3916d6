"""The protocol under which the scoreboard of chapter 7 compares all models of the book."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import Tensor

from vaelib import data
from vaelib.course.results import provenance
from vaelib.data import Dataset, binarize, to_float
from vaelib.evaluation import active_units, evaluate, fixed_subset, log_likelihood, posterior_of
from vaelib.hardware import pick_device
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import count_parameters
from vaelib.posteriors import DiagonalNormal
from vaelib.sample_quality import Judge
from vaelib.seeding import generator
from vaelib.svi import elbo_under, fit_posteriors

IMAGES, SAMPLES = 1000, 1000
"""Test images whose log p(x) is estimated, and samples of z for each."""
WIDENINGS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Factors by which the standard deviations of a proposal may be multiplied."""


def score(vae: VAE, dataset: str, *, binary: bool = False) -> dict[str, Any]:
    """Measure a model by the protocol of the scoreboard, and say what on and for how long.

    Parameters
    ----------
    vae
        The model.
    dataset
        Name of the data set that it was trained on.
    binary
        As in :func:`measure`, which says what is measured.
    """
    started, source = time.perf_counter(), data.load(dataset)
    vae.to(pick_device())
    numbers = measure(vae, source, Judge(source.train_part), binary=binary)
    seconds = time.perf_counter() - started
    return {**numbers, "provenance": provenance("full", vae.device, seconds)}


def measure(
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
