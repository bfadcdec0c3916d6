"""What the commands of ``vaelib`` do: each is a few calls of the package, and some printing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from vaelib import data as data_sets
from vaelib import evaluation, plotting, runs
from vaelib.configuration import Configuration
from vaelib.models import VAE
from vaelib.pretrained import PRETRAINED, card, facts_of, load_pretrained
from vaelib.seeding import generator
from vaelib.separation import knn_accuracy


def train(*, config: Configuration, out: Path, resume: bool, tensorboard: bool) -> None:
    """Train, and say where the run lies and how good it is."""
    images = runs.images_of(config)
    for line in images.skipped:
        print(f"skipped {line}", file=sys.stderr)
    history = runs.train(config, out, images=images, resume=resume, tensorboard=tensorboard)
    if history.interrupted:
        print(f"Interrupted. Go on: vaelib train --out {out} --resume", file=sys.stderr)
        raise KeyboardInterrupt
    print(f"{out}: {history.test[-1]}")


def evaluate(*, run: Path, k: int, images: int, json: bool) -> None:
    """Print the scores of a model, as a table or as JSON."""
    scores = scores_of(model_of(run), images_of(run), k=k, n=images)
    if json:
        print(dumps(scores))
        return
    for name, value in scores.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' '):34} {shown:>12}")


def model_of(run: Path) -> VAE:
    """Return the model of a run, or the pretrained one of this name."""
    return load_pretrained(str(run)) if is_pretrained(run) else runs.load(run)


def images_of(run: Path) -> runs.Images:
    """Return the images of a run or of a pretrained model, as it has to be measured on them."""
    if not is_pretrained(run):
        return runs.images_of(runs.configuration_of(run)[0])
    entry = PRETRAINED[str(run)]
    images = runs.images_of(entry.network)
    if not entry.binary:
        return images
    drawn = {
        part: data_sets.binarize(getattr(images, part), generator=generator(0, f"binary {part}"))
        for part in ("train", "test")
    }
    return replace(images, **drawn)


def is_pretrained(run: Path) -> bool:
    """Return whether this is the name of a pretrained model; a folder of that name goes first."""
    return str(run) in PRETRAINED and not run.exists()


def scores_of(model: VAE, images: runs.Images, *, k: int = 500, n: int = 1000) -> dict[str, Any]:
    """Measure a model on test images.

    Parameters
    ----------
    model
        The model.
    images
        Test images, and training images that vote by their labels, if there are any.
    k
        Samples for each image in the estimate of log p(x).
    n
        Test images, drawn at random and always the same ones, on which log p(x) is estimated.

    Returns
    -------
    dict
        Means in nats per image and their standard errors, the root mean squared error of
        reconstructions from a sample of q(z | x), the number of active units and, where there are
        labels, the share of test images that the 15 nearest of 10,000 training images name right.
    """
    report = evaluation.evaluate(model, images.test)
    few = evaluation.fixed_subset(images.test, n)
    log_p = evaluation.log_likelihood(model, few, k=k)
    of_images, of_samples = log_p.standard_error_of_mean
    scores = {
        "test_images": report.n,
        "distortion": report.distortion,
        "rate": report.rate,
        "negative_elbo": report.negative_elbo,
        "negative_elbo_standard_error": report.standard_error,
        "log_p": log_p.mean,
        "log_p_samples": k,
        "log_p_images": len(few),
        "log_p_standard_error_of_images": of_images,
        "log_p_standard_error_of_samples": of_samples,
        "rmse": float(evaluation.reconstruction_rmse(model, images.test).mean()),
        "active_units": int(evaluation.active_units(model, images.test).sum()),
        "latent_dim": model.latent_dim,
    }
    if images.train_labels is not None:
        # Images and labels in the same order, because the choice depends on their number only.
        voters = (evaluation.fixed_subset(t, 10_000) for t in (images.train, images.train_labels))
        train_x, train_labels = voters
        codes = model.embed(train_x), train_labels, model.embed(images.test), images.test_labels
        scores["knn_accuracy"] = knn_accuracy(*codes, neighbours=min(15, len(train_x)))
    return scores


def generate(*, run: Path, what: str, out: Path | None, n: int, seed: int) -> None:
    """Write a picture, and say where."""
    model = model_of(run)
    out = out or (Path() if is_pretrained(run) else run) / f"{what}.png"
    plt.switch_backend("agg")
    plotting.use_style()
    if what == "manifold":
        axes = plotting.manifold(model, side=n)
    elif what == "samples":
        pictures = model.sample(n, generator=generator(seed, what))
        axes = plotting.show_images(pictures, columns=min(n, 10))
    else:
        pictures, columns = _PICTURES[what](model, images_of(run), n, generator(seed, what))
        axes = plotting.show_images(pictures, columns=columns)
    try:
        axes.figure.savefig(out, format="png")
    except OSError as error:
        raise OSError(f"{out} cannot be written: {error.strerror}.") from None
    finally:
        plt.close(axes.figure)
    print(out)


def reconstructions(
    model: VAE, images: runs.Images, n: int, rng: torch.Generator
) -> tuple[Tensor, int]:
    """Return rows of test images, each above the row of their reconstructions, and its length."""
    x = images.test[torch.randperm(len(images.test), generator=rng)[:n]]
    columns = min(len(x), 10)
    x = x[: len(x) // columns * columns]  # whole rows
    in_rows = (part.unflatten(0, (-1, columns)) for part in (x, model.reconstruct(x)))
    return torch.stack(tuple(in_rows), 1).flatten(0, 2), columns


def interpolation(
    model: VAE, images: runs.Images, n: int, rng: torch.Generator
) -> tuple[Tensor, int]:
    """Return n images on the way between the codes of two test images, and n."""
    first, second = images.test[torch.randperm(len(images.test), generator=rng)[:2]].split(1)
    return model.interpolate(first, second, steps=n), n


@torch.no_grad()
def classes(model: VAE, images: runs.Images, n: int, rng: torch.Generator) -> tuple[Tensor, int]:
    """Return n samples of each class, and n.

    Their codes are drawn from the diagonal Gaussian that fits the codes of its training images.
    """
    if images.train_labels is None:
        raise ValueError("these images have no labels; expected some for a picture by classes.")
    z, drawn = model.embed(images.train), []
    for label in images.train_labels.unique():
        codes = z[images.train_labels == label]
        noise = torch.randn(n, model.latent_dim, generator=rng)
        drawn.append(codes.mean(0) + codes.std(0, correction=0) * noise)
    return model.decode(torch.cat(drawn)).mean, n


_PICTURES = {
    "reconstructions": reconstructions,
    "interpolation": interpolation,
    "classes": classes,
}


def data(*, action: str, names: Sequence[str]) -> None:
    """List, download or verify data sets."""
    for name in names or data_sets.NAMES:
        if name == "digits":
            print("digits: comes with scikit-learn")
        elif action == "list":
            print(f"{name}: {'here' if data_sets.is_here(name) else 'not downloaded'}")
        elif action == "download":
            data_sets.load(name)
            print(f"{name}: here")
        else:
            print(f"{name}: the official files, in {data_sets.verify(name)}")


def models(*, names: Sequence[str]) -> None:
    """List the pretrained models, or print the cards of some."""
    for name in names:
        print(f"# {name}\n\n{card(name)}")
    for name, entry in () if names else PRETRAINED.items():
        print(f"{name:18} {facts_of(name)['bytes'] / 1e6:4.1f} MB  {entry.title}")
