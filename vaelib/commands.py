"""What the commands of ``vaelib`` do: each is a few calls of the package, and some printing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from vaelib import data as data_sets
from vaelib import evaluation, plotting, runs
from vaelib.models import VAE
from vaelib.seeding import generator
from vaelib.separation import knn_accuracy

if TYPE_CHECKING:
    from vaelib.cli import Data, Evaluate, Generate, Train


def train(asked: Train) -> None:
    """Train, and say where the run lies and how good it is."""
    config, folder = asked.flags.checked(), asked.out or Path("runs", asked.recipe)
    images = runs.images_of(config)
    for line in images.skipped:
        print(f"skipped {line}", file=sys.stderr)
    history = runs.train(config, folder, images=images, resume=asked.resume)
    if history.interrupted:
        print(f"Interrupted. Go on: vaelib train --out {folder} --resume", file=sys.stderr)
        raise KeyboardInterrupt
    print(f"{folder}: {history.test[-1]}")


def evaluate(asked: Evaluate) -> None:
    """Print the scores of a run, as a table or as JSON."""
    scores = scores_of(asked.run, k=asked.k, n=asked.images)
    if asked.json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        shown = f"{value:,.4f}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' '):34} {shown:>12}")


def scores_of(folder: str | Path, *, k: int = 500, n: int = 1000) -> dict[str, Any]:
    """Measure the model of a run on its test images.

    Parameters
    ----------
    folder
        The folder of the run.
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
    model = runs.load(folder)
    config, _ = runs.configuration_of(folder)
    images = runs.images_of(config)
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


def generate(asked: Generate) -> None:
    """Write a picture, and say where."""
    model, out = runs.load(asked.run), asked.out or asked.run / f"{asked.what}.png"
    plt.switch_backend("agg")
    plotting.use_style()
    if asked.what == "manifold":
        axes = plotting.manifold(model, side=asked.n)
    else:
        pictures, columns = pictures_of(model, asked)
        axes = plotting.show_images(pictures, columns=columns)
    try:
        axes.figure.savefig(out, format="png")
    except OSError as error:
        raise OSError(f"{out} cannot be written: {error.strerror}.") from None
    finally:
        plt.close(axes.figure)
    print(out)


@torch.no_grad()
def pictures_of(model: VAE, asked: Generate) -> tuple[Tensor, int]:
    """Return the images of a picture, ``[N, 1, 28, 28]``, and how many stand in a row."""
    rng = generator(asked.seed, asked.what)
    if asked.what == "samples":
        return model.sample(asked.n, generator=rng), min(asked.n, 10)
    images = runs.images_of(runs.configuration_of(asked.run)[0])
    order = torch.randperm(len(images.test), generator=rng)
    if asked.what == "interpolation":
        first, second = images.test[order[:1]], images.test[order[1:2]]
        return model.interpolate(first, second, steps=asked.n), asked.n
    if asked.what == "reconstructions":
        x = images.test[order[: asked.n]]
        columns = min(len(x), 10)
        x = x[: len(x) // columns * columns]  # whole rows
        rows = torch.stack(
            (x.unflatten(0, (-1, columns)), model.reconstruct(x).unflatten(0, (-1, columns))), 1
        )
        return rows.flatten(0, 2), columns
    if images.train_labels is None:
        raise ValueError("these images have no labels; expected some for a picture by classes.")
    z, labels = model.embed(images.train), images.train_labels
    drawn = []
    for label in labels.unique():
        codes = z[labels == label]
        noise = torch.randn(asked.n, model.latent_dim, generator=rng)
        drawn.append(codes.mean(0) + codes.std(0, correction=0) * noise)
    return model.decode(torch.cat(drawn)).mean, asked.n


def data(asked: Data) -> None:
    """List, download or verify data sets."""
    for name in asked.names or data_sets.NAMES:
        if name == "digits":
            print("digits: comes with scikit-learn")
        elif asked.action == "list":
            print(f"{name}: {'here' if data_sets.is_here(name) else 'not downloaded'}")
        elif asked.action == "download":
            data_sets.load(name)
            print(f"{name}: here")
        else:
            print(f"{name}: the official files, in {data_sets.verify(name)}")
