"""Training: one loop for every model of the book."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from vaelib.evaluation import Report, evaluate, fixed_subset
from vaelib.hardware import pick_device, pick_precision
from vaelib.models import VAE, Autoencoder
from vaelib.objectives import ELBO, Objective, objective_of
from vaelib.schedules import Schedule, as_schedule
from vaelib.seeding import generator
from vaelib.validation import check_count

GUARD_EVERY = 100
"""Steps between two looks at the losses; a look makes an accelerator wait."""
STREAMS = ("batches", "noise", "augmentation")
"""The random streams of a training. Layers that draw get one of their own in every epoch."""


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
        as there are test images, drawn once, and on the test images. Both are measured by the
        plain bound at beta = 1 (an autoencoder: by its distortion) with the weights of that
        moment, whatever was trained; ``test`` is empty if no test images were given.
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

    def measure(self, model: VAE | Autoencoder, parts: Mapping[str, Tensor], *, epoch: int) -> None:
        """Measure a model on images for each split, by the plain bound.

        Raises
        ------
        DivergenceError
            If, after the first epoch or later, a bound is not finite; nothing is noted then.
        """
        # All are measured before any is noted, so that Ctrl-C cannot come between.
        reports = {split: evaluate(model, images) for split, images in parts.items()}
        for report in reports.values():
            if epoch and not math.isfinite(report.negative_elbo):
                raise DivergenceError(f"after epoch {epoch} the bound is {report.negative_elbo}.")
        self.epochs.append(epoch)
        for split, report in reports.items():
            getattr(self, split).append(report)

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


@dataclass(frozen=True)
class TrainingState:
    """All that :func:`fit` needs to go on after a whole epoch, on the CPU.

    Parameters
    ----------
    epoch
        The epoch that is finished.
    weights
        The state dict of the model.
    moments
        What AdamW has gathered: number of a parameter -> name -> tensor.
    streams
        Name of a random stream -> state of its generator.
    history
        The history so far.
    """

    epoch: int
    weights: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    streams: dict[str, Tensor]
    history: History

    @classmethod
    def capture(
        cls,
        weights: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
        history: History,
        *,
        epoch: int,
    ) -> TrainingState:
        """Copy the state of a training, but for the weights, of which a copy is given."""
        return cls(
            epoch=epoch,
            weights=weights,
            moments={
                i: {name: value.clone().cpu() for name, value in gathered.items()}
                for i, gathered in optimizer.state_dict()["state"].items()
            },
            streams={name: rng.get_state() for name, rng in streams.items()},
            history=_copy_of_history(history),
        )

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        streams: Mapping[str, torch.Generator],
    ) -> History:
        """Bring a training back to this state and return a copy of its history."""
        model.load_state_dict(self.weights)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Laid out in memory as the parameters are: the fused step walks over both in one order.
        moments = {
            i: {
                name: torch.empty_like(parameters[i]).copy_(value) if value.dim() else value.clone()
                for name, value in gathered.items()
            }
            for i, gathered in self.moments.items()
        }
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        for name, rng in streams.items():
            rng.set_state(self.streams[name])
        return _copy_of_history(self.history)


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
    on_epoch: Callable[[TrainingState], None] | None = None,
    resume: TrainingState | None = None,
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
        evaluation stay in float32. ``"auto"`` takes what the device is fast in
        (:func:`vaelib.hardware.pick_precision`).
    device
        ``"auto"`` takes CUDA, then MPS, then the CPU.
    seed
        Fixes the order of the batches and the noise.
    evaluate_every
        Epochs between two measurements; the model is also measured before and after training.
    snapshot_every
        Epochs between two copies of the weights; none are kept by default.
    on_epoch
        Called with the state of the training after every epoch, for instance to save it
        (:mod:`vaelib.checkpoints`).
    resume
        Such a state, to go on from. With the other arguments as they were, the training ends as
        if it had not been interrupted: on a CPU with the same bits.
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
    images = model.checked_images(images).to(device)
    if labels is not None:
        labels = checked_labels(labels, images).to(device)
    # As many training images as test images, so that the two curves have the same noise.
    measured = {"train": fixed_subset(images, len(test) if test is not None else 10_000)}
    if test is not None:
        measured["test"] = model.checked_images(test).to(device)
    lr, beta = as_schedule(lr), as_schedule(beta)
    terms = partial(objective or objective_of(model), model, validate=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(
        [p for p in parameters if p.dim() > 1],
        [p for p in parameters if p.dim() <= 1],
        lr=lr(0.0),
        weight_decay=weight_decay,
        device=device,
    )
    streams = {name: generator(seed, name, device) for name in STREAMS}
    batch_rng, noise_rng, augment_rng = streams.values()
    draws = () if samples == 1 else (samples,)
    steps = epochs * math.ceil(len(images) / batch_size)

    done = 0 if resume is None else resume.epoch
    if done > epochs:
        raise ValueError(f"resume is a state after epoch {done}; expected at most {epochs} epochs.")
    step = done * (steps // epochs)
    if resume is None:
        history = History()
        history.measure(model, measured, epoch=0)
    else:
        history = resume.restore(model, optimizer, streams)
    last_good = _copy_of_weights(model)
    bar = tqdm(
        range(done + 1, epochs + 1),
        initial=done,
        total=epochs,
        desc="training",
        unit="epoch",
        **shown(progress),
    )
    try:
        for epoch in bar:
            started = time.perf_counter()
            model.train()
            seen: list[Tensor] = []
            with own_global_stream(seed, epoch):
                order = torch.randperm(len(images), generator=batch_rng, device=device)
                for index in order.split(batch_size):
                    x = images.index_select(0, index)
                    if augment is not None:
                        x = augment(x, augment_rng)
                    supervision = {} if labels is None else {"labels": labels[index]}
                    shape = (*draws, len(x), model.latent_dim)
                    seen.append(
                        train_step(
                            terms,
                            x,
                            noise=torch.randn(shape, generator=noise_rng, device=device),
                            optimizer=optimizer,
                            lr=lr(step / steps),
                            beta=beta(step / steps),
                            max_grad_norm=max_grad_norm,
                            precision=precision,
                            **supervision,
                        )
                    )
                    step += 1
                    if len(seen) % GUARD_EVERY == 0:
                        raise_unless_finite(seen[-GUARD_EVERY:], step, steps, lr, beta)
            raise_unless_finite(seen, step, steps, lr, beta)
            history.grad_norm.append(float(torch.stack(seen)[:, 1].max()))
            history.seconds += time.perf_counter() - started
            history.images_seen += len(images)
            if epoch % evaluate_every == 0 or epoch == epochs:
                history.measure(model, measured, epoch=epoch)
                bar.set_postfix_str(str((history.test or history.train)[-1]))
            last_good = _copy_of_weights(model)
            if snapshot_every and epoch % snapshot_every == 0:
                history.snapshots[epoch] = last_good
            if on_epoch is not None:
                on_epoch(TrainingState.capture(last_good, optimizer, streams, history, epoch=epoch))
    except KeyboardInterrupt:
        history.interrupted = True
    except DivergenceError:
        model.load_state_dict(last_good)
        raise
    finally:
        bar.close()
        model.eval()
    return history


def train_step(
    terms: Callable[..., ELBO],
    x: Tensor,
    *,
    noise: Tensor,
    optimizer: torch.optim.Optimizer,
    lr: float,
    beta: float,
    max_grad_norm: float = math.inf,
    precision: str = "float32",
    **supervision: Tensor,
) -> Tensor:
    """Take one step on mean(distortion + beta * rate).

    Parameters
    ----------
    terms
        An objective that has been given its model: ``(x, noise=..., **supervision) -> ELBO``.
    x
        Images ``[B, C, H, W]``, checked and on the device.
    noise
        Standard normal, ``[B, D]`` or ``[K, B, D]``.
    optimizer, lr, beta, max_grad_norm, precision
        As in :func:`fit`, at this step.
    supervision
        What the objective wants besides: ``labels=``.

    Returns
    -------
    Tensor
        The loss and the norm of its gradient before clipping, ``[2]``, on the device: nothing
        here waits for numbers to travel from the device to the host.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        distortion, rate = terms(x, noise=noise, **supervision)
    loss = (distortion + beta * rate).mean()
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_grad_norm < math.inf:
        clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    optimizer.step()
    return torch.stack((loss.detach(), grad_norm))


def make_optimizer(
    matrices: Sequence[Tensor],
    others: Sequence[Tensor],
    *,
    lr: float,
    weight_decay: float,
    device: torch.device,
) -> torch.optim.AdamW:
    """Return AdamW that shrinks matrices and kernels, and leaves biases and scales alone."""
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=lr,
        weight_decay=weight_decay,
        fused=device.type != "mps",
    )


def raise_unless_finite(
    seen: Sequence[Tensor], step: int, steps: int, lr: Schedule, beta: Schedule
) -> None:
    """Look at the losses and gradient norms of the steps that end with number ``step``.

    Raises
    ------
    DivergenceError
        If one of them is not finite.
    """
    numbers = torch.stack(list(seen))
    finite = torch.isfinite(numbers).all(dim=1)
    if finite.all():
        return
    bad = int(finite.int().argmin())
    at = step - len(numbers) + bad
    loss, grad_norm = numbers[bad].tolist()
    before = f"{numbers[:bad, 1].max():.3g}" if bad else "unknown"
    raise DivergenceError(
        f"step {at + 1} of {steps}: the loss is {loss:.4g} and the norm of its gradient "
        f"{grad_norm:.4g}; the largest norm shortly before was {before}. At this step lr was "
        f"{lr(at / steps):.3g} and beta {beta(at / steps):.3g}. Try a smaller lr, a warm-up "
        "(schedules.warmup_cosine), or max_grad_norm; if a scale is not parameterised by its "
        "logarithm, try scale='exp'. The model keeps the weights of the last whole epoch."
    )


@contextmanager
def own_global_stream(seed: int, epoch: int) -> Iterator[None]:
    """Give layers that draw from torch's global stream, such as dropout, one that is ours."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator(seed, f"layers, epoch {epoch}").initial_seed())
        yield


def _copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    # clone() because on the CPU state_dict() and cpu() both return the live tensors.
    return {name: value.detach().clone().cpu() for name, value in model.state_dict().items()}


def _copy_of_history(history: History) -> History:
    return History(**{name: copy(value) for name, value in vars(history).items()})


def shown(progress: bool) -> dict[str, bool]:
    """Return the arguments of tqdm that show or hide its bar."""
    # Only False is passed on: an explicit True would override the variable TQDM_DISABLE.
    return {} if progress else {"disable": True}


def checked_labels(labels: Tensor, images: Tensor) -> Tensor:
    """Return the labels, or raise a ValueError unless there is one for each image."""
    if len(labels) != len(images):
        raise ValueError(f"got {len(labels)} labels for {len(images)} images; expected one each.")
    return labels


def check_recipe(epochs: int, batch_size: int) -> None:
    """Raise a ValueError if one of these arguments of a training is out of its range."""
    check_count("batch_size", batch_size)
    check_count("epochs", epochs)
