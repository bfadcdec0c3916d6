"""What a training is made of, in one place: every flag, every key of a file, and their limits.

Nothing here needs torch, so that ``vaelib --help`` answers at once.
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

MAX_PARAMETERS = 30_000_000
"""Weights of the largest network; with what AdamW gathers they take 360 MB."""
MAX_BYTES = 100_000
"""Size of the largest configuration file."""


class ConfigurationError(ValueError):
    """A configuration is not one; the message names the key, the value and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A training, from the images to the last epoch.

    Parameters
    ----------
    data
        mnist, fashion-mnist, digits, or the path of your own images: a folder, or an .npz file.
    skip_broken
        With images of your own: train on those that can be read, and name the others.
    network
        Fully connected (mlp), convolutional (conv), or a convolutional encoder with a fully
        connected decoder (conv-mlp), which is cheap and tells classes apart well.
    encoder_hidden
        Widths of the encoder's fully connected hidden layers.
    decoder_hidden
        Widths of the decoder's, read from the code to the image.
    encoder_channels
        conv and conv-mlp: channels of the encoder's convolutions, one to three.
    encoder_padding
        conv and conv-mlp: zeros around the input of each of them, 0 or 1.
    decoder_channels
        conv only: channels of the decoder at 7x7, 14x14 and 28x28, two or three.
    activation
        The non-linearity between the layers.
    init
        How the first weights are drawn: glorot suits shallow networks, he deep ones.
    corrupt
        What the encoder sees while training: the image (none), or each pixel as 0 or 1, drawn
        anew in every step with its grey value as the probability (binarize).
    latent_dim
        Numbers in a code.
    scale
        How the encoder's last layer gives the standard deviation of a code.
    likelihood
        What the decoder gives for each pixel: bernoulli (a sharpness for grey values),
        continuous-bernoulli (a density of grey values), gaussian.
    sigma
        gaussian only: standard deviation of a pixel.
    learn_sigma
        gaussian only: train sigma too, starting there.
    beta
        Weight of the rate, the KL divergence. 1 trains the bound on log p(x).
    beta_schedule
        Whether beta stays (constant), rises from 0 in the first half (linear), or rises from 0
        four times (cyclical).
    triplet_weight
        Weight of a triplet loss on the means of the codes, with the nearest positives; above 0 it
        needs labels. 100 suits two dimensions.
    epochs
        Passes over the training images.
    batch_size
        Images in a step.
    lr
        Largest learning rate.
    lr_schedule
        Whether the learning rate stays (constant), falls to 0 (cosine), or rises in the first
        tenth and then falls to 0 (warmup-cosine).
    weight_decay
        Decoupled weight decay (AdamW) of matrices and kernels.
    seed
        Fixes first weights, batches and noise.
    device
        auto, cpu, cuda or mps; auto takes the fastest there is.
    precision
        auto takes bfloat16 where the device is fast in it.

    Raises
    ------
    ConfigurationError
        If a value has the wrong type or is out of its range.
    """

    data: str = "mnist"
    skip_broken: bool = False
    network: Literal["mlp", "conv", "conv-mlp"] = "mlp"
    encoder_hidden: tuple[int, ...] = (512, 256)
    decoder_hidden: tuple[int, ...] = (256, 512)
    encoder_channels: tuple[int, ...] = (32, 64)
    encoder_padding: int = 0
    decoder_channels: tuple[int, ...] = (32, 64, 32)
    activation: Literal["relu", "silu", "tanh"] = "relu"
    init: Literal["glorot", "he"] = "glorot"
    corrupt: Literal["none", "binarize"] = "none"
    latent_dim: int = 2
    scale: Literal["exp", "capped"] = "exp"
    likelihood: Literal["bernoulli", "continuous-bernoulli", "gaussian"] = "bernoulli"
    sigma: float = 0.1
    learn_sigma: bool = False
    beta: float = 1.0
    beta_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    triplet_weight: float = 0.0
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3
    lr_schedule: Literal["constant", "cosine", "warmup-cosine"] = "constant"
    weight_decay: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Check every value."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = _typed(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        for name in ("latent_dim", "epochs", "batch_size"):
            _check_between(name, getattr(self, name), 1, 10**6)
        for name in ("encoder_hidden", "decoder_hidden", "encoder_channels", "decoder_channels"):
            for width in getattr(self, name):
                _check_between(name, width, 1, 10**6)
        _check_between("number of encoder_channels", len(self.encoder_channels), 1, 3)
        _check_between("number of decoder_channels", len(self.decoder_channels), 2, 3)
        _check_between("encoder_padding", self.encoder_padding, 0, 1)
        for name in ("beta", "triplet_weight", "weight_decay"):
            _check_between(name, getattr(self, name), 0, math.inf)
        for name in ("sigma", "lr"):
            _check_between(name, getattr(self, name), 0, math.inf, open_below=True)
        _check_between("seed", self.seed, 0, 2**63 - 1)
        if not self.data or "\0" in self.data:
            raise ConfigurationError(f"data is {self.data!r}; expected a data set or a path.")
        if self.count_parameters() > MAX_PARAMETERS:
            raise ConfigurationError(
                f"the networks have {self.count_parameters():,} weights; expected at most "
                f"{MAX_PARAMETERS:,}. Make encoder_hidden, decoder_hidden, the channels or "
                "latent_dim smaller."
            )

    def count_parameters(self) -> int:
        """Return the number of weights of the networks, roughly: without the biases."""
        encoder, decoder = [28 * 28, *self.encoder_hidden], [*self.decoder_hidden, 28 * 28]
        stacks = []
        if self.network != "mlp":
            sides = (28, 14, 7, 4) if self.encoder_padding else (28, 13, 6, 2)
            encoder[0] = self.encoder_channels[-1] * sides[len(self.encoder_channels)] ** 2
            stacks.append((1, *self.encoder_channels))
        if self.network == "conv":
            decoder[-1] = self.decoder_channels[0] * 7 * 7
            stacks.append((*self.decoder_channels, 1))
        kernels = sum(9 * a * b for channels in stacks for a, b in pairwise(channels))
        widths = ([*encoder, 2 * self.latent_dim], [self.latent_dim, *decoder])
        return kernels + sum(a * b for side in widths for a, b in pairwise(side))

    def as_dict(self) -> dict[str, Any]:
        """Return name -> value, in the types that JSON has."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: object, *, origin: str = "the configuration") -> Configuration:
        """Build a configuration from what a file says; keys that are left out take the default.

        Raises
        ------
        ConfigurationError
            If a key is unknown, or a value is not what it has to be; it names ``origin``.
        """
        if not isinstance(values, dict):
            raise ConfigurationError(f"{origin} is a {type(values).__name__}; expected keys.")
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in values if key not in known]:
            raise ConfigurationError(
                f"{origin} has an unknown key {unknown[0]!r}; expected some of {', '.join(known)}."
            )
        try:
            return cls(**values)
        except ConfigurationError as error:
            raise ConfigurationError(f"{origin}: {error}") from None

    @classmethod
    def read(cls, path: str | Path) -> Configuration:
        """Read a configuration from a file, in JSON or, if its name ends so, TOML.

        Raises
        ------
        ConfigurationError
            If the file cannot be read, or :meth:`from_dict` refuses what it says.
        """
        return cls.from_dict(read_keys(Path(path)), origin=str(path))


def read_keys(path: Path) -> object:
    """Return what a small file says in JSON or, if its name ends so, TOML.

    Raises
    ------
    ConfigurationError
        If it cannot be read or parsed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{path} has more than {MAX_BYTES:,} bytes; expected a few.")
    parse, language = (tomllib.loads, "TOML") if path.suffix == ".toml" else (json.loads, "JSON")
    try:
        return parse(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is damaged or no {language}: {error}.") from None


def _typed(name: str, value: object, hint: Any) -> object:
    """Return a value in the type of its field, or raise a ConfigurationError."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if isinstance(value, str) and value in choices:
            return value
        raise ConfigurationError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")
    if get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and all(type(v) is int for v in value):
            return tuple(value)
        raise ConfigurationError(f"{name} is {value!r}; expected whole numbers in a list.")
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not hint:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise ConfigurationError(f"{name} is {value!r}; expected {kind[hint]}.")
    return value


def _check_between(
    name: str, value: float, low: float, high: float, *, open_below: bool = False
) -> None:
    if not low <= value <= high or math.isinf(value) or (open_below and value == low):
        least = f"larger than {low}" if open_below else f"at least {low}"
        most = "finite" if math.isinf(high) else f"at most {high:,}"
        raise ConfigurationError(f"{name} is {value!r}; expected {least} and {most}.")
