"""Training: one loop for every model of the book."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from vaelib.evaluation import Report, check_count, checked_images, evaluate, fixed_subset
from vaelib.hardware import pick_device, pick_precision
from vaelib.models import VAE, Autoencoder
from vaelib.objectives import Objective, objective_of
from vaelib.schedules import Schedule, constant
from vaelib.seeding import generator

GUARD_EVERY = 100
"""Steps between two looks at the losses; a look makes an accelerator wait."""


class DivergenceError(RuntimeError):
    """Training met a loss or a gradient that is not a finite number, and stopped."""


@dataclass
class History:
    """What happened during a call of :func:`fit`.

    Parameters
    ----------
    epochs
        The epochs after which the model was measured; 0 is before the first step.
    train, test
        One :class:`vaelib.evaluation.Report` for each of these epochs, on as many training images
        as there are test images, drawn once, and on the test images. Both are measured with
        the weights of that moment, at beta = 1, whatever was trained; ``test`` is empty if no
        test images were given.
    grad_norm
        Largest norm of the gradient in each epoch, before clipping.
    seconds
        Time spent training, evaluations left out.
    images_seen
        Number of images that the training took steps on.
    interrupted
        Whether Ctrl-C ended the training early.
    snapshots
        Epoch -> state dict on the CPU, if snapshots were asked for.
    """

    epochs: list[int] = field(default_factory=list)
    train: list[Report] = field(default_factory=list)
    test: list[Report] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds: float = 0.0
    images_seen: int = 0
    interrupted: bool = False
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def curve(self, split: str, quantity: str) -> list[float]:
        """Return one quantity of the reports over the epochs.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.
        quantity
            ``"distortion"``, ``"rate"`` or ``"negative_elbo"``, in nats.
        """
        return [getattr(report, quantity) for report in getattr(self, split)]


def fit(
    model: VAE | Autoencoder,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    test: Tensor | None = None,
    objective: Objective | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    samples: int = 1,
    lr: float | Schedule = 1e-3,
    beta: float | Schedule = 1.0,
    weight_decay: float = 0.0,
    max_grad_norm: float = math.inf,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    precision: str = "float32",
    device: str | torch.device = "auto",
    seed: int = 0,
    evaluate_every: int = 1,
    snapshot_every: int | None = None,
    progress: bool = True,
) -> History:
    """Train a model by Adam on mean(distortion + beta * rate).

    The images lie on the device as one tensor and a batch is an index into it. A step does not
    wait for numbers to travel from the device to the host. With the same seed on the same machine
    the result is the same to the last bit.

    Parameters
    ----------
    model
        The model, trained in place and left on the device.
    images
        Training images, ``[N, C, H, W]`` or ``[N, C*H*W]``, floating point.
    labels
        One label for each image, ``[N]``. The objective gets those of its batch as ``labels``;
        without them it is called without that argument, and so it is in every measurement.
    test
        Images of the test curves; they have no influence on the training.
    objective
        The terms to train on; chosen by the model if not given (:mod:`vaelib.objectives`).
    epochs, batch_size
        Passes over the images, and images per step. A short last batch is used like any other.
    samples
        Draws of z for each image and step, K. With more than one the objective gets noise of
        shape ``[K, B, D]``.
    lr, beta
        Learning rate and weight of the rate: numbers, or schedules (:mod:`vaelib.schedules`).
    weight_decay
        Decoupled weight decay (AdamW, Loshchilov & Hutter 2019) of matrices and kernels; biases
        and scales are left alone.
    max_grad_norm
        Gradients of a larger norm are scaled down to it.
    augment
        Changes every batch before it is used, ``(x, generator) -> x``.
    precision
        ``"bfloat16"`` runs the networks under autocast; densities, the KL, the weights and every
        evaluation stay in float32. ``"auto"`` takes it where the device multiplies in it
        (:func:`vaelib.hardware.pick_precision`), and ``"float32"`` elsewhere.
    device
        ``"auto"`` takes CUDA, then MPS, then the CPU.
    seed
        Fixes the order of the batches and the noise.
    evaluate_every
        Epochs between two measurements; the model is also measured before and after training.
    snapshot_every
        Epochs between two copies of the weights; none are kept by default.
    progress
        Whether to show a progress bar.

    Returns
    -------
    History
        Ctrl-C ends the training and returns what there is so far.

    Raises
    ------
    DivergenceError
        At a loss or gradient that is not finite. The model is left with the weights that it had
        at the end of the last whole epoch.
    ValueError, TypeError
        If an argument is out of its range or the images do not suit the model.
    """
    check_recipe(epochs, batch_size)
    check_count("samples", samples)
    check_count("evaluate_every", evaluate_every)
    if snapshot_every is not None:
        check_count("snapshot_every", snapshot_every)
    if not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm is {max_grad_norm!r}; expected a number larger than 0.")
    device = pick_device(device)
    precision = pick_precision(precision, device)
    model.to(device)
    images = resident(model, images, device)
    if labels is not None:
        if len(labels) != len(images):
            raise ValueError(
                f"got {len(labels)} labels for {len(images)} images; expected one each."
            )
        labels = labels.to(device)
    test = None if test is None else resident(model, test, device)
    lr, beta = (s if callable(s) else constant(s) for s in (lr, beta))
    objective = objective or objective_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        _decay_groups(parameters, weight_decay),
        lr=lr(0.0),
        weight_decay=weight_decay,
        fused=device.type != "mps",
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    streams = ("batches", "noise", "augmentation")
    batch_rng, noise_rng, augment_rng = (generator(seed, name, device) for name in streams)
    steps = epochs * math.ceil(len(images) / batch_size)

    def step(number: int, index: Tensor) -> Tensor:
        progress, x = number / steps, images.index_select(0, index)
        supervision = {} if labels is None else {"labels": labels[index]}
        for group in optimizer.param_groups:
            group["lr"] = lr(progress)
        if augment is not None:
            x = augment(x, augment_rng)
        shape = (len(x), model.latent_dim) if samples == 1 else (samples, len(x), model.latent_dim)
        noise = torch.randn(shape, generator=noise_rng, device=device)
        with autocast:
            terms = objective(model, x, noise=noise, validate=False, **supervision)
        loss = (terms.distortion + beta(progress) * terms.rate).mean()
        optimizer.zero_grad()
        loss.backward()
        grad_norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if max_grad_norm < math.inf:
            clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
        optimizer.step()
        return torch.stack((loss.detach(), grad_norm))

    def train_one_epoch(first: int) -> float:
        """Take one pass, starting at step number ``first``; return the largest gradient norm."""
        model.train()
        order = torch.randperm(len(images), generator=batch_rng, device=device)
        numbered = list(enumerate(order.split(batch_size), start=first))
        norms = []
        for i in range(0, len(numbered), GUARD_EVERY):
            seen = torch.stack([step(k, index) for k, index in numbered[i : i + GUARD_EVERY]])
            _guard(seen, first + i, lr, beta, steps)
            norms.append(seen[:, 1].max())
        return float(torch.stack(norms).max())

    history = History()
    # As many training images as test images, so that the two curves have the same noise.
    subset = fixed_subset(images, len(test) if test is not None else 10_000)

    def measure(epoch: int) -> None:
        # Both are measured before any is noted, so that Ctrl-C cannot come between.
        parts = [subset] if test is None else [subset, test]
        reports = [evaluate(model, part, objective=objective) for part in parts]
        if epoch and not all(math.isfinite(report.negative_elbo) for report in reports):
            raise DivergenceError(f"after epoch {epoch} the bound is {reports[-1].negative_elbo}.")
        history.epochs.append(epoch)
        for log, report in zip((history.train, history.test), reports, strict=False):
            log.append(report)

    measure(0)
    last_good = _copy_of_weights(model)
    bar = tqdm(range(1, epochs + 1), desc="training", unit="epoch", **visibility(progress))
    try:
        for epoch in bar:
            started = time.perf_counter()
            with _own_global_stream(seed, epoch):
                history.grad_norm.append(train_one_epoch((epoch - 1) * steps // epochs))
            history.seconds += time.perf_counter() - started
            history.images_seen += len(images)
            if epoch % evaluate_every == 0 or epoch == epochs:
                measure(epoch)
                bar.set_postfix_str(str((history.test or history.train)[-1]))
            last_good = _copy_of_weights(model)
            if snapshot_every and epoch % snapshot_every == 0:
                history.snapshots[epoch] = last_good
    except KeyboardInterrupt:
        history.interrupted = True
    except DivergenceError:
        model.load_state_dict(last_good)
        raise
    finally:
        bar.close()
        model.eval()
    return history


def resident(model: VAE | Autoencoder, images: Tensor, device: torch.device) -> Tensor:
    """Return the images checked, as ``[N, C, H, W]`` and on the device."""
    return checked_images(model, images).to(device)


def _guard(seen: Tensor, first: int, lr: Schedule, beta: Schedule, steps: int) -> None:
    """Raise a DivergenceError if a loss or gradient norm, rows of ``seen``, is not finite."""
    finite = torch.isfinite(seen).all(dim=1)
    if finite.all():
        return
    bad = int(finite.int().argmin())
    step, (loss, grad_norm) = first + bad, seen[bad].tolist()
    before = f"{seen[:bad, 1].max():.3g}" if bad else "unknown"
    raise DivergenceError(
        f"step {step + 1} of {steps}: the loss is {loss:.4g} and the norm of its gradient "
        f"{grad_norm:.4g}; the largest norm shortly before was {before}. At this step lr was "
        f"{lr(step / steps):.3g} and beta {beta(step / steps):.3g}. Try a smaller lr, a warm-up "
        "(schedules.one_cycle), or max_grad_norm; if a scale is not parameterised by its "
        "logarithm, try scale='exp'. The model keeps the weights of the last whole epoch."
    )


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


@contextmanager
def _own_global_stream(seed: int, epoch: int) -> Iterator[None]:
    """Give layers that draw from torch's global stream, such as dropout, one that is ours."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator(seed, f"layers, epoch {epoch}").initial_seed())
        yield


def _copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    # clone() because on the CPU state_dict() and cpu() both return the live tensors.
    return {name: value.detach().clone().cpu() for name, value in model.state_dict().items()}


def visibility(progress: bool) -> dict[str, bool]:
    """Return the arguments that show or hide tqdm's bar."""
    # Only False is passed on: an explicit True would override the variable TQDM_DISABLE.
    return {} if progress else {"disable": True}


def check_recipe(epochs: int, batch_size: int) -> None:
    """Raise a ValueError if one of these arguments of a training is out of its range."""
    check_count("batch_size", batch_size)
    check_count("epochs", epochs)
