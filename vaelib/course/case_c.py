"""Case file C: whether sigma = softplus(rho) is more stable than its alternatives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from vaelib.course.lesson_4 import (
    PROJECT_C_CONSTANT,
    project_c_images,
    project_c_training,
    project_c_vae,
)
from vaelib.course.protocols import images_of
from vaelib.course.results import provenance
from vaelib.course.store import LongRun, LongRuns
from vaelib.evaluation import evaluate
from vaelib.hardware import pick_device
from vaelib.models import VAE
from vaelib.objectives import elbo
from vaelib.seeding import generator
from vaelib.training import make_optimizer, train_step

SCALES = ("softplus", "exp", "linear")
"""Project C's sigma, the standard choice, and the bare output that project C compared with."""

BETA = 12.0

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
    vae: VAE, images: torch.Tensor, *, seed: int, epochs: int, batch_size: int, lr: float
) -> torch.Tensor:
    """Train on distortion + 12 * rate; return the loss and gradient norm of each step, [S, 2].

    The training ends at the first step that is not finite: what follows it is not training.
    """
    optimizer = make_optimizer(
        list(vae.parameters()), [], lr=lr, weight_decay=0.0, device=images.device
    )
    order_rng, noise_rng = (generator(seed, name, images.device) for name in ("order", "noise"))
    seen: list[torch.Tensor] = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=order_rng, device=images.device)
        for index in order.split(batch_size):
            shape = (len(index), vae.latent_dim)
            step = train_step(
                partial(elbo, vae, validate=False),
                images[index],
                noise=torch.randn(shape, generator=noise_rng, device=images.device),
                optimizer=optimizer,
                lr=lr,
                beta=BETA,
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
    ],
)
