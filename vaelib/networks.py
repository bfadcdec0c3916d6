"""Networks for the parameters of q(z | x) and p(x | z). They compute; they do not sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vaelib.seeding import generator

IMAGE_SHAPE = (1, 28, 28)


class RandomBinarization(nn.Module):
    """While training, replace each pixel by 1 with its grey value as probability, else by 0.

    As the ``corruption`` of an encoder it is a regulariser in the sense of Im et al. (2017): the
    encoder cannot memorise images of which it sees a new version every time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map images with values in [0, 1] to images of the same shape."""
        # The law of torch.bernoulli(x), at a quarter of its time on a CPU.
        return (torch.rand_like(x) < x).to(x.dtype) if self.training else x


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
        Layer that changes the image before the encoder sees it, and only while training; the
        decoder must explain the image as it was. None by default.
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

    Two 3x3 convolutions of stride 2 without padding (28 -> 13 -> 6), then one linear layer. With
    the default channels and two latent dimensions, this encoder and :class:`ConvDecoder` have
    69,989 parameters: the network of the TensorFlow tutorial on convolutional VAEs.

    Parameters
    ----------
    latent_dim, activation, init, seed
        As in :class:`MLPEncoder`.
    channels
        Output channels of the two convolutions.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: tuple[int, int] = (32, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, hidden=channels, image_shape=IMAGE_SHAPE)
        self.latent_dim, self.image_shape = latent_dim, IMAGE_SHAPE
        first, second = check_channels(channels, 2)
        with torch.random.fork_rng(devices=[]):
            self.layers = nn.Sequential(
                nn.Conv2d(1, first, 3, stride=2),
                activation(),
                nn.Conv2d(first, second, 3, stride=2),
                activation(),
                nn.Flatten(),
                nn.Linear(second * 6 * 6, 2 * latent_dim),
            )
        initialize(self, init, generator(seed, "encoder"))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images ``[B, 1, 28, 28]`` to the mean and the scale parameter, each ``[B, D]``."""
        mu, scale = self.layers(x).chunk(2, dim=-1)
        return mu, scale


class ConvDecoder(nn.Module):
    """Convolutional network from a latent vector to the parameters of p(x | z) of a 28x28 image.

    One linear layer to 7x7, then transposed 3x3 convolutions to 14x14, 28x28 and one channel.

    Parameters
    ----------
    latent_dim, activation, init, seed
        As in :class:`MLPEncoder`.
    channels
        Output channels of the linear layer and of the first two transposed convolutions.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: tuple[int, int, int] = (32, 64, 32),
        activation: Callable[[], nn.Module] = nn.ReLU,
        init: str = "glorot",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, hidden=channels, image_shape=IMAGE_SHAPE)
        self.latent_dim, self.image_shape = latent_dim, IMAGE_SHAPE
        first, second, third = check_channels(channels, 3)
        with torch.random.fork_rng(devices=[]):
            self.layers = nn.Sequential(
                nn.Linear(latent_dim, first * 7 * 7),
                activation(),
                nn.Unflatten(1, (first, 7, 7)),
                nn.ConvTranspose2d(first, second, 3, stride=2, padding=1, output_padding=1),
                activation(),
                nn.ConvTranspose2d(second, third, 3, stride=2, padding=1, output_padding=1),
                activation(),
                nn.ConvTranspose2d(third, 1, 3, padding=1),
            )
        initialize(self, init, generator(seed, "decoder"))

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


def check_channels(channels: Sequence[int], n: int) -> Sequence[int]:
    """Return the channels; raise a ValueError if they are not n numbers."""
    if len(channels) != n:
        raise ValueError(f"channels: got {channels!r}; expected {n} numbers.")
    return channels


def check_sizes(*, latent_dim: int, hidden: Sequence[int], image_shape: Sequence[int]) -> None:
    """Raise a ValueError that names the size which is not a whole number of at least 1."""
    sizes = {"latent_dim": [latent_dim], "hidden layers": hidden, "image_shape": image_shape}
    for name, values in sizes.items():
        if any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in values):
            raise ValueError(f"{name}: got {values!r}; every size must be a whole number >= 1.")
    if len(image_shape) != 3:
        raise ValueError(f"image_shape: got {image_shape!r}; expected (channels, height, width).")
