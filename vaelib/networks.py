"""Networks for the parameters of q(z | x) and p(x | z). They compute; they do not sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vaelib.seeding import generator

IMAGE_SHAPE = (1, 28, 28)
FAST_LAYOUT = torch.channels_last
"""Order in memory in which convolutions run fastest, on CPUs and on GPUs."""


class MLPEncoder(nn.Module):
    """Fully connected network from an image to the mean and scale parameter of q(z | x).

    Parameters
    ----------
    latent_dim
        Number of latent dimensions D.
    hidden
        Widths of the hidden layers. With no hidden layer the encoder is linear.
    activation
        Non-linearity after every hidden layer.
    corruption
        Layer that changes the image before the encoder sees it, and only while training
        (:mod:`vaelib.corruption`); the decoder must explain the image as it was. None by default.
    image_shape
        Channels, height and width of an image.
    init, seed
        How the initial weights are drawn (:func:`initialize`), and the seed that fixes them.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        hidden: Sequence[int] = (512, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
        corruption: nn.Module | None = None,
        image_shape: tuple[int, int, int] = IMAGE_SHAPE,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, hidden=hidden, image_shape=image_shape)
        self.latent_dim, self.image_shape = latent_dim, tuple(image_shape)
        self.corruption = corruption or nn.Identity()
        self.layers = mlp([math.prod(image_shape), *hidden, 2 * latent_dim], activation)
        initialize(self, init, generator(seed, "encoder"))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images ``[B, C, H, W]`` to the mean and the scale parameter, each ``[B, D]``."""
        mu, scale = self.layers(self.corruption(x).flatten(1)).chunk(2, dim=-1)
        return mu, scale


class MLPDecoder(nn.Module):
    """Fully connected network from a latent vector to the parameters of p(x | z).

    Parameters
    ----------
    latent_dim, hidden, activation, image_shape, init, seed
        As in :class:`MLPEncoder`; ``hidden`` is read from the latent side to the image side.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        hidden: Sequence[int] = (256, 512),
        activation: Callable[[], nn.Module] = nn.ReLU,
        image_shape: tuple[int, int, int] = IMAGE_SHAPE,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, hidden=hidden, image_shape=image_shape)
        self.latent_dim, self.image_shape = latent_dim, tuple(image_shape)
        self.layers = mlp([latent_dim, *hidden, math.prod(image_shape)], activation)
        initialize(self, init, generator(seed, "decoder"))

    def forward(self, z: Tensor) -> Tensor:
        """Map latent vectors ``[..., D]`` to logits or means ``[..., C, H, W]``."""
        return self.layers(z).unflatten(-1, self.image_shape)


class ConvEncoder(nn.Module):
    """Convolutional network from a 28x28 image to the mean and scale parameter of q(z | x).

    3x3 convolutions of stride 2, then linear layers. The defaults, with two latent dimensions
    and together with the defaults of :class:`ConvDecoder`, have 69,989 parameters: the network
    of the TensorFlow tutorial on convolutional VAEs.

    Parameters
    ----------
    latent_dim, activation, init, seed
        As in :class:`MLPEncoder`.
    channels
        Output channels of the convolutions.
    hidden
        Widths of the linear layers between the convolutions and the output.
    padding
        Rows and columns of zeros around the input of every convolution: 0 (28 -> 13 -> 6 -> 2)
        or 1 (28 -> 14 -> 7 -> 4).
    corruption
        As in :class:`MLPEncoder`.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (),
        padding: int = 0,
        corruption: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(
            latent_dim=latent_dim, hidden=hidden, channels=channels, image_shape=IMAGE_SHAPE
        )
        if type(padding) is not int or padding not in (0, 1) or not 1 <= len(channels) <= 3:
            raise ValueError(
                f"channels is {channels!r} and padding {padding!r}; expected one to three numbers, "
                "because the image shrinks by half each time, and a padding of 0 or 1."
            )
        self.latent_dim, self.image_shape = latent_dim, IMAGE_SHAPE
        self.corruption = corruption or nn.Identity()
        convolutions: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for before, after in pairwise((1, *channels)):
                convolutions += [
                    nn.Conv2d(before, after, 3, stride=2, padding=padding),
                    activation(),
                ]
        side = IMAGE_SHAPE[-1]
        for _ in channels:
            side = (side + 2 * padding - 3) // 2 + 1
        dense = mlp([channels[-1] * side * side, *hidden, 2 * latent_dim], activation)
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), *dense)
        initialize(self, init, generator(seed, "encoder"))
        self.to(memory_format=FAST_LAYOUT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images ``[B, 1, 28, 28]`` to the mean and the scale parameter, each ``[B, D]``."""
        mu, scale = self.layers(self.corruption(x)).chunk(2, dim=-1)
        return mu, scale


class ConvDecoder(nn.Module):
    """Convolutional network from a latent vector to the parameters of p(x | z) of a 28x28 image.

    Linear layers to 7x7, then transposed 3x3 convolutions that double each side to 14 and 28.

    Parameters
    ----------
    latent_dim, activation, init, seed
        As in :class:`MLPEncoder`.
    hidden
        Widths of the linear layers before the one that makes the 7x7 image.
    channels
        Channels at 7x7, at 14x14 and, if there is a third number, at 28x28, where a last
        convolution of stride 1 makes the output. With two numbers the second doubling makes it.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        hidden: Sequence[int] = (),
        channels: Sequence[int] = (32, 64, 32),
        activation: Callable[[], nn.Module] = nn.ReLU,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(
            latent_dim=latent_dim, hidden=hidden, channels=channels, image_shape=IMAGE_SHAPE
        )
        if len(channels) not in (2, 3):
            raise ValueError(f"channels is {channels!r}; expected two or three numbers.")
        self.latent_dim, self.image_shape = latent_dim, IMAGE_SHAPE
        doubling = {"stride": 2, "padding": 1, "output_padding": 1}
        dense = mlp([latent_dim, *hidden, channels[0] * 7 * 7], activation)
        convolutions: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for i, (before, after) in enumerate(pairwise((*channels, 1))):
                resize = doubling if i < 2 else {"padding": 1}
                convolutions += [activation(), nn.ConvTranspose2d(before, after, 3, **resize)]
        self.layers = nn.Sequential(
            *dense, convolutions[0], nn.Unflatten(1, (channels[0], 7, 7)), *convolutions[1:]
        )
        initialize(self, init, generator(seed, "decoder"))
        self.to(memory_format=FAST_LAYOUT)

    def forward(self, z: Tensor) -> Tensor:
        """Map latent vectors ``[..., D]`` to logits or means ``[..., 1, 28, 28]``."""
        flat = self.layers(z.reshape(-1, self.latent_dim))
        return flat.reshape(*z.shape[:-1], *self.image_shape)


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Chain linear layers of the given widths, with an activation between each two."""
    layers: list[nn.Module] = []
    # torch draws first weights from its global stream; initialize() replaces them by ours.
    with torch.random.fork_rng(devices=[]):
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def initialize(module: nn.Module, scheme: str, rng: torch.Generator) -> None:
    """Draw the weights of every layer by a scheme, and set the biases to zero.

    Parameters
    ----------
    module
        The network; its last layer is taken as the one without an activation.
    scheme
        ``"glorot"``: uniform, keeps the variance of a linear network (Glorot & Bengio 2010).
        ``"he"``: normal, makes up for what a ReLU-like activation takes away (He et al. 2015);
        without it the signal fades in deep networks.
    rng
        Where the weights are drawn from.

    Raises
    ------
    ValueError
        If the scheme has another name.
    """
    if scheme not in ("glorot", "he"):
        raise ValueError(f"init is {scheme!r}; expected 'glorot' or 'he'.")
    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    for layer in layers:
        if scheme == "glorot":
            nn.init.xavier_uniform_(layer.weight, generator=rng)
        else:
            follows = "linear" if layer is layers[-1] else "relu"
            nn.init.kaiming_normal_(layer.weight, nonlinearity=follows, generator=rng)
        nn.init.zeros_(layer.bias)


def count_parameters(module: nn.Module) -> int:
    """Count the trainable parameters of a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def check_sizes(
    *,
    latent_dim: int,
    image_shape: Sequence[int],
    hidden: Sequence[int] = (),
    channels: Sequence[int] = (),
) -> None:
    """Raise a ValueError that names the size which is not a whole number of at least 1."""
    sizes = {
        "latent_dim": [latent_dim],
        "hidden layers": hidden,
        "channels": channels,
        "image_shape": image_shape,
    }
    for name, values in sizes.items():
        if any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in values):
            raise ValueError(f"{name}: got {values!r}; every size must be a whole number >= 1.")
    if len(image_shape) != 3:
        raise ValueError(f"image_shape: got {image_shape!r}; expected (channels, height, width).")
