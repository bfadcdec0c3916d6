"""The bound under any q(z | x), and the best q for every single image, without an encoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vaelib.evaluation import (
    check_posteriors,
    evaluation_mode,
    posterior_of,
)
from vaelib.models import VAE
from vaelib.objectives import kl_to_standard_normal
from vaelib.posteriors import DiagonalNormal
from vaelib.schedules import cosine
from vaelib.seeding import generator
from vaelib.validation import check_count


@torch.no_grad()
def elbo_under(
    vae: VAE, images: Tensor, q: DiagonalNormal, *, samples: int = 50, seed: int = 0
) -> Tensor:
    """Estimate the bound of each image with a given q(z | x) in place of the encoder's.

    Parameters
    ----------
    vae
        The model.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    q
        One Gaussian for each image, ``[N, D]``.
    samples
        Draws of z for each image.
    seed
        Fixes the draws.

    Returns
    -------
    Tensor
        Nats, ``[N]`` on the CPU.

    Raises
    ------
    ValueError, TypeError
        If the images do not suit the model, q is not one Gaussian for each of them, or samples is
        below 1.
    """
    check_count("samples", samples)
    images = vae.checked_images(images)
    check_posteriors(vae, images, q)
    rng = generator(seed, "bound", vae.device)
    bounds = []
    with evaluation_mode(vae):
        for x, mu, logvar in _in_parts(vae, images, q):
            part = DiagonalNormal(mu, logvar, validate_args=False)
            total = torch.zeros(len(x), device=x.device, dtype=mu.dtype)
            for _ in range(samples):
                noise = torch.randn(mu.shape, generator=rng, device=x.device, dtype=mu.dtype)
                total += vae.decode(part.reparameterize(noise)).log_prob(x)
            bounds.append(total / samples - kl_to_standard_normal(mu, logvar).sum(-1))
    return torch.cat(bounds).cpu()


def fit_posteriors(
    vae: VAE,
    images: Tensor,
    *,
    steps: int = 300,
    samples: int = 8,
    lr: float = 0.1,
    seed: int = 0,
) -> DiagonalNormal:
    r"""Maximise the bound of each image over its own mean and log-variance, at a fixed decoder.

    .. math:: q^*(z) = \arg\max_{\mu, \sigma}\;
        \mathbb E_{\mathcal N(\mu, \sigma^2)}[\log p(x|z)]
        - \mathrm{KL}(\mathcal N(\mu, \sigma^2)\,\|\,p(z))

    The encoder's answer is where the search starts. How far it falls short of the maximum is the
    amortisation gap, and what remains up to log p(x) is the approximation gap (Cremer et al.
    2018). The search ends at a local maximum, after finitely many steps.

    Parameters
    ----------
    vae
        The model; it is not changed.
    images
        ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    steps
        Steps of Adam.
    samples
        Draws of z for each image and step.
    lr
        Learning rate, which falls to zero along a cosine.
    seed
        Fixes the draws.

    Returns
    -------
    DiagonalNormal
        q* of every image, ``[N, D]`` on the CPU.

    Raises
    ------
    ValueError, TypeError
        If the images do not suit the model, or steps or samples is below 1.
    """
    check_count("steps", steps)
    check_count("samples", samples)
    images = vae.checked_images(images)
    rng = generator(seed, "posteriors", vae.device)
    parts = _in_parts(vae, images, posterior_of(vae, images))
    with evaluation_mode(vae):
        found = [_ascend(vae, *part, steps, samples, lr, rng) for part in parts]
    mu, logvar = (torch.cat(part).cpu() for part in zip(*found, strict=True))
    return DiagonalNormal(mu, logvar, validate_args=False)


def _in_parts(vae: VAE, images: Tensor, q: DiagonalNormal) -> Iterator[tuple[Tensor, ...]]:
    """Yield images, means and log-variances, 250 images at a time, on the device of the model."""
    for part in zip(images.split(250), q.mu.split(250), q.logvar.split(250), strict=True):
        yield tuple(t.to(vae.device) for t in part)


@torch.enable_grad()
def _ascend(
    vae: VAE,
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    steps: int,
    samples: int,
    lr: float,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    mu, logvar = (t.clone().requires_grad_() for t in (mu, logvar))
    optimizer, schedule = torch.optim.Adam([mu, logvar]), cosine(lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule(step / steps)
        q = DiagonalNormal(mu, logvar, validate_args=False)
        noise = torch.randn(samples, *mu.shape, generator=rng, device=x.device, dtype=mu.dtype)
        distortion = -vae.decode(q.reparameterize(noise)).log_prob(x).mean(0)
        loss = (distortion + kl_to_standard_normal(mu, logvar).sum(-1)).sum()
        # Only what is asked for: backward() would fill the gradients of the decoder, too.
        mu.grad, logvar.grad = torch.autograd.grad(loss, [mu, logvar])
        optimizer.step()
    return mu.detach(), logvar.detach()
