"""Case file C: project C, ``gozsoy/conditional-vae``, built again and tried.

The VAE of its first version, and most of its trainings, are those of
:mod:`vaelib.course.lesson_4`. Here are its ways to get a sigma, the network of its manifold, and
its conditional VAE.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelib import data
from vaelib.course.lesson_4 import (
    PROJECT_C_CONSTANT,
    PROJECT_C_MEAN,
    PROJECT_C_STD,
    project_c_images,
    project_c_training,
    project_c_vae,
)
from vaelib.course.protocols import images_of
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.data import to_float
from vaelib.evaluation import evaluate, fixed_subset
from vaelib.hardware import pick_device
from vaelib.models import VAE
from vaelib.networks import MLPDecoder, initialize, mlp
from vaelib.objectives import ELBO, Objective, elbo, kl_to_standard_normal
from vaelib.posteriors import SCALES as SIGMAS
from vaelib.posteriors import DiagonalNormal
from vaelib.sample_quality import Judge
from vaelib.seeding import generator
from vaelib.training import make_optimizer, train_step

SCALES = ("softplus", "exp", "linear")
"""Project C's sigma, the standard choice, and the bare output that project C compared with."""

BETA = 12.0
"""What project C's script has, and its README recommends."""

SHORT = 5
"""Epochs of a short training; project C's own have 15, its conditional VAE 10."""

N_CONDITIONAL = 20_000
"""Training images of the conditional VAE; project C's has all 60,000."""

SAMPLES = 2000
N_CLASSES = 10

STARTS: dict[str, Callable[[float], float]] = {
    "softplus": lambda sigma: math.log(math.expm1(sigma)),
    "exp": lambda sigma: 2 * math.log(sigma),
}
"""Scale -> the output of the encoder that gives a sigma."""


def start_at(vae: VAE, sigma: float, *, scale: str) -> None:
    """Shift the encoder's biases, in place, so that an output of zero becomes this sigma.

    Without it a new network starts near softplus(0) = 0.69, or exp(0) = 1.
    """
    with torch.no_grad():
        vae.encoder.layers[-1].bias[vae.latent_dim :] += STARTS[scale](sigma)


def record_training(
    vae: VAE | ConditionalVAE,
    images: Tensor,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    lr: float,
    beta: float = BETA,
    objective: Objective = elbo,
    labels: Tensor | None = None,
) -> Tensor:
    """Train on distortion + beta * rate; return the loss and gradient norm of each step, [S, 2].

    The training ends at the first epoch with a step that is not finite: what follows it is not
    training. With ``labels``, the objective is given those of the batch.
    """
    optimizer = make_optimizer(
        list(vae.parameters()), [], lr=lr, weight_decay=0.0, device=images.device
    )
    order_rng, noise_rng = (generator(seed, name, images.device) for name in ("order", "noise"))
    seen: list[Tensor] = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=order_rng, device=images.device)
        for index in order.split(batch_size):
            shape = (len(index), vae.latent_dim)
            step = train_step(
                partial(objective, vae, validate=False),
                images[index],
                noise=torch.randn(shape, generator=noise_rng, device=images.device),
                optimizer=optimizer,
                lr=lr,
                beta=beta,
                **({} if labels is None else {"labels": labels[index]}),
            )
            seen.append(step)
        if not torch.stack(seen).isfinite().all():
            break
    return torch.stack(seen).cpu()


def train_sigma(
    seed: int, *, scale: str, start: float | None = None
) -> tuple[None, dict[str, Any]]:
    """Train project C's network to the end of its recipe with one of :data:`SCALES`.

    With ``start``, sigma is near that value before the first step.
    """
    device = pick_device()
    train, test = (project_c_images(part).to(device) for part in images_of("mnist"))
    vae = project_c_vae(seed=seed, scale=scale).to(device)
    if start is not None:
        start_at(vae, start, scale=scale)
    started = time.perf_counter()
    steps = record_training(vae, train, seed=seed, **project_c_training())
    seconds = time.perf_counter() - started
    finite = steps.isfinite().all(dim=1)
    norms = steps[finite, 1]
    on_test = evaluate(vae, test)
    objective = on_test.distortion - PROJECT_C_CONSTANT + BETA * on_test.rate
    return None, {
        "steps": len(steps),
        "non_finite_steps": int((~finite).sum()),
        "median_norm": norms.median().item(),
        "norm_99": norms.quantile(0.99).item(),
        "largest_norm": norms.max().item(),
        "test_objective": objective if math.isfinite(objective) else None,
        "test_rate": on_test.rate if math.isfinite(on_test.rate) else None,
        "seconds": seconds,
        "provenance": provenance("full", device, seconds),
    }


def project_c_2d_vae(*, seed: int = 0) -> VAE:
    """Build project C's network with two latent dimensions, for its picture of the manifold."""
    return project_c_vae(latent_dim=2, seed=seed)


def grey(standardised: Tensor) -> Tensor:
    """Turn standardised pixels back into grey values, cut off at 0 and 1."""
    return (standardised * PROJECT_C_STD + PROJECT_C_MEAN).clamp(0, 1)


@torch.no_grad()
def painted(vae: VAE, z: Tensor) -> Tensor:
    """Return the decoder's images of codes ``[N, D]`` as grey values, on the CPU."""
    return grey(vae.decode(z.to(vae.device)).mean.cpu())


def judge_and_images(seed: int) -> tuple[Judge, Tensor]:
    """Return a classifier trained on MNIST, and the test images that samples are held against."""
    source = data.load("mnist")
    real = fixed_subset(to_float(source.test.images), SAMPLES)
    return Judge(source.train_part, seed=seed), real


def joined(part: Tensor, labels: Tensor) -> Tensor:
    """Append one-hot labels ``[B]`` to ``[B, N]``: ``[B, N + 10]``, by ``torch.cat``."""
    return torch.cat((part, F.one_hot(labels, N_CLASSES).to(part.dtype)), dim=1)


def joined_by_numpy(part: Tensor, labels: Tensor) -> Tensor:
    """Append one-hot labels as project C does, by ``np.concatenate``.

    The result has the same numbers, and no memory of where they came from: no gradient passes.
    TensorFlow turns its tensors into arrays without a word; torch wants the ``detach``.
    """
    one_hot = F.one_hot(labels, N_CLASSES).to(part.dtype)
    arrays = (part.detach().cpu().numpy(), one_hot.cpu().numpy())
    return torch.from_numpy(np.concatenate(arrays, axis=1)).to(part.device)


class ConditionalVAE(nn.Module):
    """A VAE whose encoder and decoder are told the label: q(z | x, y) and p(x | z, y).

    Project C's, with fully connected layers in place of its convolutions: the label is appended
    to the encoder's features, and again to z.

    Parameters
    ----------
    join
        How a label is appended: :func:`joined`, or :func:`joined_by_numpy`.
    latent_dim
        Number of latent dimensions.
    hidden
        Widths of the encoder's hidden layers; the decoder has them in reverse.
    seed
        Fixes the first weights.
    """

    def __init__(
        self,
        *,
        join: Callable[[Tensor, Tensor], Tensor] = joined,
        latent_dim: int = 15,
        hidden: tuple[int, ...] = (256, 64),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.join, self.latent_dim = join, latent_dim
        self.features = nn.Sequential(nn.Flatten(), mlp([784, *hidden], nn.ReLU), nn.ReLU())
        self.head = mlp([hidden[-1] + N_CLASSES, 2 * latent_dim], nn.ReLU)
        for name in ("features", "head"):
            initialize(getattr(self, name), "glorot", generator(seed, name))
        self.decoder = MLPDecoder(latent_dim=latent_dim + N_CLASSES, hidden=hidden[::-1], seed=seed)

    def encode(self, x: Tensor, labels: Tensor) -> DiagonalNormal:
        """Return q(z | x, y) for images ``[B, 1, 28, 28]`` and labels ``[B]``."""
        mu, rho = self.head(self.join(self.features(x), labels)).chunk(2, dim=1)
        return DiagonalNormal(mu, SIGMAS["softplus"](rho), validate_args=False)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the images ``[B, 1, 28, 28]`` of codes ``[B, D]`` and labels ``[B]``."""
        return self.decoder(self.join(z, labels))


def conditional_elbo(
    model: ConditionalVAE,
    x: Tensor,
    *,
    labels: Tensor,
    noise: Tensor,
    validate: bool = True,
) -> ELBO:
    """Compute squared error (in place of nats) and rate of each image, with its label given.

    Raises
    ------
    ValueError
        If there is not one label from 0 to 9 for each image; unchecked without ``validate``.
    """
    if validate and (len(labels) != len(x) or not ((labels >= 0) & (labels < N_CLASSES)).all()):
        raise ValueError(f"expected one label from 0 to {N_CLASSES - 1} for each image.")
    q = model.encode(x, labels)
    error = (x - model.decode(q.reparameterize(noise), labels)).square().flatten(1).sum(1)
    return ELBO(error, kl_to_standard_normal(q.mu, q.logvar).sum(1))


CONDITIONAL = {
    "cut, 28": (joined_by_numpy, 28.0),
    "cut, 8": (joined_by_numpy, 8.0),
    "cut, 0": (joined_by_numpy, 0.0),
    "whole, 28": (joined, 28.0),
    "whole, 8": (joined, 8.0),
    "whole, 1": (joined, 1.0),
}
"""Name -> how the label is appended, and the weight of the rate beside a sum over all pixels.

Project C divides its squared error by 28, so that its beta of 1 is 28 here. Its 1e-11 is 0: beside
an epsilon of 1e-7, Adam takes such a gradient for none.
"""


@torch.no_grad()
def conditional_samples(model: ConditionalVAE, n: int, *, seed: int = 0) -> Tensor:
    """Decode n codes from the prior for each class, ``[10, n, 1, 28, 28]``, the same for all."""
    z = torch.randn(n, model.latent_dim, generator=generator(seed, "conditional samples"))
    device = next(model.parameters()).device
    rows = [model.decode(z.to(device), torch.full((n,), k, device=device)) for k in range(10)]
    return torch.stack(rows).cpu()


def variation(samples: Tensor, images: Tensor, labels: Tensor) -> float:
    """Divide the variance of samples within a class by that of images within it.

    Both are summed over the pixels and averaged over the classes. ``samples`` are
    ``[10, n, 1, 28, 28]``, with n > 1, images and labels ``[N, 1, 28, 28]`` and ``[N]``.
    """
    real = [images[labels == k].var(0).sum() for k in range(N_CLASSES)]
    return float(samples.var(1).flatten(1).sum(1).mean() / torch.stack(real).mean())


@torch.no_grad()
def measure_conditional(
    model: ConditionalVAE, images: Tensor, labels: Tensor, *, seed: int = 0
) -> dict[str, float]:
    """Measure squared error and rate on images, and the variation of samples."""
    noise = torch.randn(len(images), model.latent_dim, generator=generator(seed, "evaluation"))
    error, rate = conditional_elbo(
        model, images, labels=labels, noise=noise.to(images.device), validate=True
    )
    samples = conditional_samples(model, 200, seed=seed)
    return {
        "squared_error": error.double().mean().item(),
        "rate": rate.double().mean().item(),
        "variation": variation(samples, images.cpu(), labels.cpu()),
    }


def conditional_training(name: str) -> dict[str, Any]:
    """Return the arguments of :func:`record_training` for a name in :data:`CONDITIONAL`."""
    own = {"epochs": SHORT, "beta": CONDITIONAL[name][1], "objective": conditional_elbo}
    return project_c_training() | own


def train_conditional(seed: int) -> tuple[None, dict[str, Any]]:
    """Train the conditional VAE shortly in each way of :data:`CONDITIONAL`, and measure it."""
    device = pick_device()
    source = data.load("mnist")
    (x, y), (x_test, y_test) = (
        (project_c_images(to_float(part.images)).to(device), part.labels.to(device))
        for part in (source.train, source.test)
    )
    x, y = x[:N_CONDITIONAL], y[:N_CONDITIONAL]
    judge, real = judge_and_images(seed)
    found: dict[str, dict[str, float]] = {}
    started = time.perf_counter()
    for name, (join, _) in CONDITIONAL.items():
        model = ConditionalVAE(join=join, seed=seed).to(device)
        record_training(model, x, labels=y, seed=seed, **conditional_training(name))
        found[name] = measure_conditional(model, x_test, y_test, seed=seed)
        found[name] |= judge_by_class(model, judge, real, seed=seed)
    seconds = time.perf_counter() - started
    record = provenance("full", device, seconds)
    return None, {"settings": found, "seconds": seconds, "provenance": record}


def judge_by_class(
    model: ConditionalVAE, judge: Judge, real: Tensor, *, seed: int
) -> dict[str, float]:
    """Judge as many samples as there are real images, equally many of each class."""
    n = len(real) // N_CLASSES
    drawn = grey(conditional_samples(model, n, seed=seed).flatten(0, 1))
    right = judge.probabilities(drawn).argmax(1) == torch.arange(N_CLASSES).repeat_interleave(n)
    quality = judge.assess(drawn, real)
    return {
        "right_class": float(right.double().mean()),
        "precision": quality.precision,
        "coverage": quality.coverage,
    }


RUNS = LongRuns(
    "case_c_beta",
    [
        LongRun(f"sigma-{scale}", partial(train_sigma, scale=scale), seeds=(0, 1, 2, 3, 4))
        for scale in SCALES
    ]
    + [
        LongRun(
            "sigma-exp-from-0.69",
            partial(train_sigma, scale="exp", start=math.log(2)),
            seeds=(0, 1, 2),
        ),
        LongRun(
            "sigma-softplus-from-1",
            partial(train_sigma, scale="softplus", start=1.0),
            seeds=(0, 1, 2),
        ),
        LongRun("conditional", train_conditional, seeds=(0, 1, 2)),
    ],
)
