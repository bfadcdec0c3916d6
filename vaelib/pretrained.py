"""Pretrained models: the book's main models with their weights, which come with the package.

Each has a card that says what it was trained on, how, how good it is and what it is for.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from vaelib.checkpoints import CheckpointError
from vaelib.configuration import Configuration
from vaelib.models import VAE
from vaelib.published import PUBLISHED
from vaelib.runs import build

LICENCE = "The weights, like the code, are under the MIT licence. MNIST and Fashion-MNIST are not."


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model whose weights come with the package.

    Parameters
    ----------
    title
        What it is, in a few words.
    run
        The long run that trains it and publishes the weights of its first seed.
    network
        Its data set and its networks. How it was trained stands in ``training``.
    training
        The training, in words.
    use
        What it is for, and what not.
    binary
        Whether it was trained on binary images, and has to be measured on such.
    """

    title: str
    run: str
    network: Configuration
    training: str
    use: str
    binary: bool = False


_CONV_TO_MLP = {"network": "conv-mlp", "encoder_padding": 1, "activation": "silu", "init": "he"}
_M1 = {
    "encoder_channels": (16, 32),
    "encoder_hidden": (256,),
    "decoder_hidden": (500, 500),
    "latent_dim": 50,
    "scale": "capped",
    **_CONV_TO_MLP,
}
_M1_TRAINING = (
    "50,000 training images without their labels, 20 epochs, beta 0.1; the encoder sees each image "
    "warped at random and the decoder has to give it back as it was."
)
_M1_USE = (
    "Codes for a classifier that has few labels: take the means (`embed`), and a graph over the "
    "codes of all images. At beta 0.1 it is no good generator."
)
_BURDA = {
    "encoder_hidden": (200, 200),
    "decoder_hidden": (200, 200),
    "activation": "tanh",
    "latent_dim": 50,
}
_BURDA_USE = (
    "Scores of log p(x) on binarised MNIST, beside those of Burda et al. (2016), whose network it "
    "has. Give it binary images."
)

PRETRAINED = {
    "2d-mlp": Pretrained(
        title="2-D, MLP: the plane of lesson 1",
        run="01_vae_theory/two-dimensional-vae",
        network=Configuration(
            encoder_hidden=(256, 256, 256),
            decoder_hidden=(128, 128, 128, 256),
            activation="silu",
            init="he",
            corrupt="binarize",
            scale="capped",
        ),
        training="60,000 training images, 150 epochs; the encoder sees them binarised at random.",
        use="Pictures and walks in a plane of digits. Two numbers blur every digit a little.",
    ),
    "2d-conv": Pretrained(
        title="2-D, convolutions, within 70,000 parameters",
        run="03_mlp_vs_conv/small-conv",
        network=Configuration(
            network="conv",
            encoder_channels=(8, 16, 32),
            encoder_hidden=(32, 32, 32),
            encoder_padding=1,
            decoder_hidden=(48, 48, 48, 48, 72),
            decoder_channels=(8, 16),
            activation="silu",
            init="he",
            corrupt="binarize",
            scale="capped",
        ),
        training="60,000 training images, 50 epochs; the encoder sees them binarised at random.",
        use="A plane of digits where a file has to be small.",
    ),
    "16d-conv": Pretrained(
        title="16-D, convolutions, 800,000 parameters",
        run="03_mlp_vs_conv/longer-conv-800k-16d",
        network=Configuration(
            network="conv",
            encoder_channels=(8, 16),
            encoder_hidden=(256, 128),
            encoder_padding=1,
            decoder_hidden=(256, 300),
            decoder_channels=(32, 16),
            latent_dim=16,
            activation="silu",
            init="he",
            scale="capped",
        ),
        training="50,000 training images, 20 epochs.",
        use="Codes, reconstructions and samples of digits where a plane is too narrow.",
    ),
    "2d-triplets": Pretrained(
        title="2-D, convolutions in, MLP out, with triplets",
        run="05_triplet_latents/2d-easy-positive-100",
        network=Configuration(
            encoder_channels=(8, 16),
            encoder_hidden=(256, 128),
            decoder_hidden=(128, 128, 128, 256),
            scale="capped",
            **_CONV_TO_MLP,
        ),
        training="50,000 training images and their labels, 15 epochs; triplets of the nearest "
        "positives on the means, weight 100.",
        use="A plane in which the classes lie apart. It has seen labels: compare it with "
        "classifiers, not with models that saw none.",
    ),
    "m1-mnist": Pretrained(
        title="50-D, M1: codes for few labels, digits",
        run="06_m1_semi_supervised/m1-mnist",
        network=Configuration(**_M1),
        training=_M1_TRAINING,
        use=_M1_USE,
    ),
    "m1-fashion-mnist": Pretrained(
        title="50-D, M1: codes for few labels, clothes",
        run="06_m1_semi_supervised/m1-fashion-mnist",
        network=Configuration(data="fashion-mnist", **_M1),
        training=_M1_TRAINING,
        use=_M1_USE,
    ),
    "burda-vae": Pretrained(
        title="50-D, the network of Burda et al., trained by the ELBO",
        run="07_scoring/burda-vae",
        network=Configuration(**_BURDA),
        training="50,000 training images, binarised anew at every step, 200 epochs.",
        use=_BURDA_USE,
        binary=True,
    ),
    "burda-iwae": Pretrained(
        title="50-D, the same, trained by the importance-weighted bound",
        run="07_scoring/burda-iwae-50",
        network=Configuration(**_BURDA),
        training="50,000 training images, binarised anew at every step, 55 epochs, the bound of 50 "
        "samples.",
        use=_BURDA_USE,
        binary=True,
    ),
}
"""Name -> pretrained model."""

SCORES = {
    "negative_elbo": ("−ELBO", "nats"),
    "distortion": ("distortion", "nats"),
    "rate": ("rate", "nats"),
    "log_p": ("log p(x)", "nats"),
    "rmse": ("RMSE of reconstructions", ""),
    "active_units": ("active units", ""),
    "knn_accuracy": ("15 nearest neighbours name the class", ""),
}
"""Name of a score -> how a card calls it, and its unit."""


def load_pretrained(name: str) -> VAE:
    """Return a pretrained model, on the CPU and ready for use.

    Its file is compared with the SHA-256 sum of the card before it is read; nothing in it is
    executed.

    Parameters
    ----------
    name
        One of ``PRETRAINED``; ``vaelib models`` lists them.

    Raises
    ------
    ValueError
        If there is no such model.
    CheckpointError
        If its file is missing or damaged.
    """
    path = weights_path(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"the weights of {name!r} cannot be read: {path}: {error.strerror}. They come with the "
            "package: install it again."
        ) from None
    if hashlib.sha256(content).hexdigest() != facts_of(name)["sha256"]:
        raise CheckpointError(
            f"the weights of {name!r} are damaged: {path} does not have the SHA-256 sum of its "
            "card. They come with the package: install it again."
        )
    return model_from(name, content)


def model_from(name: str, content: bytes) -> VAE:
    """Return a pretrained model with the weights that a safetensors file of it holds.

    Raises
    ------
    ValueError
        If there is no such model.
    CheckpointError
        If they are not its weights.
    """
    vae = build(_find(name).network)
    try:
        vae.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{weights_path(name)} does not hold {name!r}: {error}") from None
    return vae.eval()


def card(name: str) -> str:
    """Return the card of a pretrained model, in Markdown.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    entry, facts = _find(name), facts_of(name)
    scores, measured = facts["scores"], facts["provenance"]
    images = f"{scores['test_images']:,} test images" + ", binarised once" * entry.binary
    lines = [
        f"{entry.title}.",
        "",
        f"- **Data**: {entry.network.data}. {entry.training}",
        f"- **Trained by** `make long-runs ARGS={entry.run.partition('/')[2]}`, seed 0.",
        f"- **Measured** on {images}, by this file: {_listed(scores)}. log p(x) is estimated from "
        f"{scores['log_p_samples']} samples for each of {scores['log_p_images']:,} images.",
        f"- **Spread**: {_spread(entry.run)}",
        f"- **For**: {entry.use}",
        f"- **File**: {facts['bytes'] / 1e6:.2f} MB, safetensors; its SHA-256 sum begins "
        f"`{facts['sha256'][:16]}`. Measured {measured['date']} with torch {measured['torch']}.",
        f"- **Licence**: {LICENCE}",
    ]
    return "\n".join(lines) + "\n"


def weights_path(name: str) -> Path:
    """Return where the weights of a pretrained model lie."""
    return PUBLISHED / "long_runs" / f"{_find(name).run}.safetensors"


def facts_of(name: str) -> dict[str, Any]:
    """Return what was measured of the file of a pretrained model: sum, size and scores."""
    _find(name)
    path = PUBLISHED / "pretrained" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the card of {name!r} cannot be read: {path}: {error}. It comes with the package: "
            "install it again."
        ) from None


def _find(name: str) -> Pretrained:
    if name not in PRETRAINED:
        known = ", ".join(PRETRAINED)
        raise ValueError(f"there is no pretrained model {name!r}; expected one of {known}.")
    return PRETRAINED[name]


def _listed(scores: dict[str, Any]) -> str:
    shown = []
    for key, (words, unit) in SCORES.items():
        value = scores[key]
        number = f"{value:.1%}" if key == "knn_accuracy" else f"{value:.4g}"
        shown.append(f"{words} {number} {unit}".rstrip())
    return ", ".join(shown)


def _spread(run: str) -> str:
    """Say how the -ELBO of a training varies over its seeds."""
    path = PUBLISHED / "long_runs" / f"{run}.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    values = [record["test_negative_elbo"] for record in records]
    if len(values) < 2:
        return f"not known; this training was published with one seed (−ELBO {values[0]:.2f})."
    mean, sd = statistics.mean(values), statistics.stdev(values)
    return f"−ELBO {mean:.2f} ± {sd:.2f} nats over {len(values)} seeds of this training."
