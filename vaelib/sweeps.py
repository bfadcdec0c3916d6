"""Sweeps: the same network trained at several values of beta, in one batched computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from vaelib.hardware import pick_device, pick_precision
from vaelib.models import VAE
from vaelib.objectives import ELBO, elbo
from vaelib.schedules import Schedule, as_schedule
from vaelib.seeding import generator
from vaelib.training import DivergenceError, check_recipe, make_optimizer, shown, train_step

Named = dict[str, Tensor]


def fit_sweep(
    vaes: Sequence[VAE],
    images: Tensor,
    *,
    betas: Sequence[float],
    epochs: int = 10,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    weight_decay: float = 0.0,
    precision: str = "float32",
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Train VAEs of one architecture side by side, each at its own beta.

    Every model sees the same batches and the same noise, so that beta is the only difference
    between them, and ends where :func:`vaelib.training.fit` would have brought it alone, up to
    rounding. Their weights are stacked, and a layer of all models is one matrix product: one small
    network is too small to keep an accelerator busy. On a CPU it is about as fast as one by one.

    Parameters
    ----------
    vaes
        The models, trained in place; their architectures must agree.
    images
        Training images, ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    betas
        Weight of the rate, one for each model.
    epochs, batch_size, lr, weight_decay, precision, device, seed, progress
        As in :func:`vaelib.training.fit`.

    Raises
    ------
    DivergenceError
        If a loss is not finite at the end of an epoch. The models keep their first weights.
    ValueError, TypeError
        If there is not one beta for each model, the architectures differ, or the images do not
        suit them.
    """
    check_recipe(epochs, batch_size)
    _check_models(vaes, betas)
    device = pick_device(device)
    precision = pick_precision(precision, device)
    for vae in vaes:
        vae.to(device).train()
    images = vaes[0].checked_images(images).to(device)
    lr = as_schedule(lr)
    beta = torch.tensor(betas, device=device, dtype=vaes[0].dtype).unsqueeze(1)
    bounds = [_Bound(vae) for vae in vaes]
    weights, buffers = stack_module_state(bounds)
    matrices = {name for name, weight in bounds[0].named_parameters() if weight.dim() > 1}
    optimizer = make_optimizer(
        [weight for name, weight in weights.items() if name in matrices],
        [weight for name, weight in weights.items() if name not in matrices],
        lr=lr(0.0),
        weight_decay=weight_decay,
        device=device,
    )
    batch_rng, noise_rng = (generator(seed, name, device) for name in ("batches", "noise"))

    @partial(vmap, in_dims=(0, 0, None, None))
    def each(weights: Named, buffers: Named, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(bounds[0], (weights, buffers), (x, noise))

    def terms(x: Tensor, *, noise: Tensor) -> ELBO:
        # Summed over the models: no model's loss depends on another's weights.
        distortion, rate = each(weights, buffers, x, noise)
        return ELBO(distortion.sum(0), (beta * rate).sum(0))

    step, steps = 0, epochs * math.ceil(len(images) / batch_size)
    try:
        for epoch in tqdm(range(epochs), desc="sweep", unit="epoch", **shown(progress)):
            order = torch.randperm(len(images), generator=batch_rng, device=device)
            for index in order.split(batch_size):
                x = images.index_select(0, index)
                noise = torch.randn(len(x), vaes[0].latent_dim, generator=noise_rng, device=device)
                train_step(
                    terms,
                    x,
                    noise=noise,
                    optimizer=optimizer,
                    lr=lr(step / steps),
                    beta=1.0,  # each model's own beta is in its terms
                    precision=precision,
                )
                step += 1
            with torch.no_grad():
                distortion, rate = each(weights, buffers, x, noise)
                _raise_unless_finite((distortion + beta * rate).mean(1), betas, epoch)
        for i, bound in enumerate(bounds):
            bound.load_state_dict({n: w[i].detach() for n, w in (weights | buffers).items()})
    finally:
        for vae in vaes:
            vae.eval()


class _Bound(nn.Module):
    """The bound as a module: its parts can be computed at weights given from outside."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(elbo(self.model, x, noise=noise, validate=False))


def _raise_unless_finite(loss: Tensor, betas: Sequence[float], epoch: int) -> None:
    bad = [beta for beta, finite in zip(betas, loss.isfinite().tolist(), strict=True) if not finite]
    if bad:
        raise DivergenceError(
            f"epoch {epoch + 1}: the loss at beta {', '.join(f'{b:g}' for b in bad)} is not "
            "finite. Try a smaller lr or a warm-up (schedules.warmup_cosine)."
        )


def _check_models(vaes: Sequence[VAE], betas: Sequence[float]) -> None:
    if len(vaes) != len(betas) or not len(vaes):
        raise ValueError(f"got {len(vaes)} models and {len(betas)} betas; expected one for each.")
    for vae in vaes[1:]:
        if str(vae) != str(vaes[0]) or vae.scale != vaes[0].scale:
            raise ValueError(
                "the models of a sweep have different architectures; expected equal ones, that "
                f"differ in their weights only. The first is {vaes[0]}, another {vae}."
            )
