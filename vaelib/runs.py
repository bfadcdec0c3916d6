"""Runs: a training and its folder, which can be left at any moment and gone on with.

============================ =====================================================================
``config.json``              the configuration (:mod:`vaelib.configuration`)
``metrics.jsonl``            one line for each epoch: distortion, rate, -ELBO, seconds
``checkpoint.safetensors``   the state after the last whole epoch (:mod:`vaelib.checkpoints`)
``environment.json``         versions and machine of the last training in it
============================ =====================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaelib import data
from vaelib.board import Board
from vaelib.checkpoints import load_state, load_weights, save_state, write_atomically
from vaelib.configuration import Configuration, ConfigurationError, read_keys
from vaelib.corruption import RandomBinarization
from vaelib.evaluation import Report
from vaelib.hardware import pick_device, processor_name
from vaelib.images import load_images
from vaelib.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from vaelib.models import VAE
from vaelib.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from vaelib.objectives import Objective
from vaelib.schedules import Schedule, constant, cosine, cyclical, linear, warmup_cosine
from vaelib.seeding import generator
from vaelib.supervision import elbo_with_labels
from vaelib.training import History, TrainingState, fit
from vaelib.triplet import triplet_loss

try:
    import fcntl
except ImportError:  # Windows has no flock: there a folder is not guarded
    fcntl = None

CONFIGURATION, METRICS = "config.json", "metrics.jsonl"
CHECKPOINT, ENVIRONMENT = "checkpoint.safetensors", "environment.json"
BOARD = "tensorboard"


class RunError(RuntimeError):
    """A folder cannot be used for a run; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a run: float32 ``[N, 1, 28, 28]`` in [0, 1], and their labels, if any.

    The test images have no influence on the training. ``skipped`` names the files of a folder
    that could not be read.
    """

    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    skipped: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a sum of the training images and labels, which tells them from others."""
        total = hashlib.sha256(self.train.numpy())
        if self.train_labels is not None:
            total.update(self.train_labels.numpy())
        return total.hexdigest()


def train(
    config: Configuration,
    folder: str | Path,
    *,
    images: Images | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
) -> History:
    """Train a model, and write into its folder after every epoch.

    Parameters
    ----------
    config
        What to train.
    folder
        The folder of the run; it is made if need be.
    images
        What :func:`images_of` returned, if it has been called already.
    resume
        Whether to go on with the run in this folder from its last whole epoch. On a CPU, with as
        many threads, it ends with the same weights as if it had never been left. A folder without
        a run is begun.
    tensorboard
        Whether to write a log for TensorBoard, too, into ``tensorboard`` in the folder.
    progress
        Whether to show a progress bar.

    Returns
    -------
    History
        With ``interrupted`` set if Ctrl-C ended the training; it can be gone on with.

    Raises
    ------
    RunError
        If the folder cannot be written, holds a run that is not to be resumed, or is in use.
    ConfigurationError, CheckpointError
        If files in the folder are damaged, or of another training than this.
    DataError
        If the images cannot be had.
    DivergenceError
        If the training diverges; the folder keeps the last whole epoch.
    ModuleNotFoundError
        If TensorBoard is asked for and not installed.
    """
    folder = Path(folder)
    with _locked(folder):
        said = _said(config, folder, resume)
        images = images or images_of(config)
        model = build(config).to(pick_device(config.device))
        about = {"configuration": said, "images": images.fingerprint()}
        path, state = folder / CHECKPOINT, None
        if path.exists():
            state = load_state(path, model, about=about)
        done = state.epoch if state else 0
        board = nullcontext()
        if tensorboard:
            board = Board(folder / BOARD, images.test, images.test_labels, done=done)
        _write_json(folder / CONFIGURATION, said)
        _write_json(folder / ENVIRONMENT, environment(model.device))
        _keep_lines(folder / METRICS, done)

        with board:

            def save(state: TrainingState) -> None:
                # The line first: an epoch of the checkpoint has its line, whenever this is cut off.
                _append_line(folder / METRICS, state)
                save_state(path, state, about=about)
                if tensorboard:
                    board.show(model, state)

            history = fit(
                model,
                images.train,
                test=images.test,
                on_epoch=save,
                resume=state,
                progress=progress,
                **recipe_of(config, images.train_labels),
            )
            if tensorboard:
                board.show_codes(model, epoch=len(history.grad_norm))
        return history


def load(folder: str | Path) -> VAE:
    """Return the model of a run after its last whole epoch, on the CPU.

    Raises
    ------
    ConfigurationError, CheckpointError
        If files in the folder are missing, damaged, or do not fit together.
    """
    folder = Path(folder)
    config, said = configuration_of(folder)
    model = build(config)
    load_weights(folder / CHECKPOINT, model, about={"configuration": said})
    return model.eval()


def configuration_of(folder: str | Path) -> tuple[Configuration, dict[str, Any]]:
    """Return the configuration of a run, and what its file says in so many words.

    Raises
    ------
    ConfigurationError
        If the file is missing, damaged, or says what cannot be.
    """
    path = Path(folder) / CONFIGURATION
    said = read_keys(path)
    return Configuration.from_dict(said, origin=str(path)), said


def build(config: Configuration) -> VAE:
    """Build the model of a configuration, with its first weights."""
    common = {
        "latent_dim": config.latent_dim,
        "activation": {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}[config.activation],
        "init": config.init,
        "seed": config.seed,
    }
    for_encoder: dict[str, Any] = {
        "hidden": config.encoder_hidden,
        "corruption": RandomBinarization() if config.corrupt == "binarize" else None,
    }
    for_decoder: dict[str, Any] = {"hidden": config.decoder_hidden}
    make_encoder, make_decoder = MLPEncoder, MLPDecoder
    if config.network != "mlp":
        make_encoder = ConvEncoder
        for_encoder |= {"channels": config.encoder_channels, "padding": config.encoder_padding}
    if config.network == "conv":
        make_decoder = ConvDecoder
        for_decoder["channels"] = config.decoder_channels
    likelihood: nn.Module
    if config.likelihood == "gaussian":
        likelihood = Gaussian(link="logit", scale=config.sigma, learned=config.learn_sigma)
    elif config.likelihood == "bernoulli":
        likelihood = Bernoulli(grey=True)
    else:
        likelihood = ContinuousBernoulli()
    return VAE(
        encoder=make_encoder(**for_encoder, **common),
        decoder=make_decoder(**for_decoder, **common),
        likelihood=likelihood,
        scale=config.scale,
    )


def recipe_of(config: Configuration, labels: Tensor | None) -> dict[str, Any]:
    """Return the arguments of :func:`vaelib.training.fit` that a configuration stands for.

    Raises
    ------
    ConfigurationError
        If it asks for triplets and there are no labels.
    """
    objective: Objective | None = None
    if config.triplet_weight > 0:
        if labels is None:
            raise ConfigurationError(
                f"triplet_weight is {config.triplet_weight:g}, but {config.data} has no labels; "
                "expected 0, or an .npz file with an array 'labels'."
            )
        mined = partial(triplet_loss, mining="easy-positive")
        objective = elbo_with_labels(mined, config.triplet_weight, on="mean")
    rates: dict[str, Schedule] = {
        "constant": constant(config.lr),
        "cosine": cosine(config.lr),
        "warmup-cosine": warmup_cosine(config.lr),
    }
    betas: dict[str, Schedule] = {
        "constant": constant(config.beta),
        "linear": linear(0.0, config.beta, over=0.5),
        "cyclical": cyclical(config.beta),
    }
    return {
        "labels": labels if objective else None,
        "objective": objective,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "lr": rates[config.lr_schedule],
        "beta": betas[config.beta_schedule],
        "weight_decay": config.weight_decay,
        "precision": config.precision,
        "device": config.device,
        "seed": config.seed,
    }


def images_of(config: Configuration) -> Images:
    """Load the images of a configuration.

    A data set has its official test images. Of one's own images a tenth, drawn at random and
    always the same ones, is kept for the test.

    Raises
    ------
    DataError
        If they cannot be had.
    """
    if config.data in data.NAMES:
        dataset = data.load(config.data)
        parts = (dataset.train, dataset.test)
        return Images(
            *(data.to_float(part.images) for part in parts), *(part.labels for part in parts)
        )
    own = load_images(config.data, skip_broken=config.skip_broken)
    order = torch.randperm(len(own.images), generator=generator(0, "test images"))
    n_test = max(1, len(order) // 10)
    test, rest = order[:n_test], order[n_test:].sort().values
    return Images(
        *(data.to_float(own.images[part]) for part in (rest, test)),
        *(None if own.labels is None else own.labels[part] for part in (rest, test)),
        skipped=tuple(own.skipped),
    )


def environment(device: torch.device) -> dict[str, Any]:
    """Return the versions and the machine that a training runs on."""
    from vaelib import __version__

    return {
        "vaelib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder of a run for this process; the system lets go when the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be used for a run: {error.strerror}. Name a folder that can be "
            "written (--out)."
        ) from None
    try:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another training uses {folder} at this moment. Wait for its end, or name "
                    "another folder (--out)."
                ) from None
        yield
    finally:
        os.close(lock)


def _said(config: Configuration, folder: Path, resume: bool) -> dict[str, Any]:
    """Return the configuration as the folder says it; refuse a folder with another run."""
    if not (folder / CONFIGURATION).exists():
        if (folder / CHECKPOINT).exists():
            raise RunError(
                f"{folder} has a {CHECKPOINT}, but no {CONFIGURATION} to read it by. Put that "
                "back, or name another folder (--out)."
            )
        return config.as_dict()
    if not resume:
        raise RunError(
            f"{folder} holds a run already. Go on with it (--resume), or name another folder "
            "(--out)."
        )
    there, said = configuration_of(folder)
    for field in fields(Configuration):
        ours, theirs = getattr(config, field.name), getattr(there, field.name)
        if ours != theirs:
            raise ConfigurationError(
                f"{folder} holds a run with {field.name} = {theirs!r}; it cannot go on with "
                f"{ours!r}. Leave that out, or name another folder (--out)."
            )
    return said


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def _append_line(path: Path, state: TrainingState) -> None:
    def numbers(report: Report) -> dict[str, float]:
        return {
            "distortion": report.distortion,
            "rate": report.rate,
            "negative_elbo": report.negative_elbo,
        }

    history = state.history
    line = {
        "epoch": state.epoch,
        "train": numbers(history.train[-1]),
        "test": numbers(history.test[-1]),
        "seconds": round(history.seconds, 3),
    }
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror}. The checkpoint beside it is whole; make "
            "room, then go on with --resume."
        ) from None


def _keep_lines(path: Path, n: int) -> None:
    """Cut the file of metrics to the lines of the first n epochs: it may be one ahead."""
    lines = path.read_bytes().splitlines(keepends=True)[:n] if path.exists() else []
    write_atomically(path, b"".join(lines))
