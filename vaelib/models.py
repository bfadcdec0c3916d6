"""The models: an autoencoder, and the variational autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaelib.posteriors import SCALES, DiagonalNormal


class _LatentVariableModel(nn.Module):
    """An encoder, a decoder and a likelihood, and what both models do with them."""

    def __init__(self, *, encoder: nn.Module, decoder: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        for name in ("latent_dim", "image_shape"):
            ours, theirs = getattr(encoder, name), getattr(decoder, name)
            if ours != theirs:
                raise ValueError(f"{name}: the encoder has {ours}, the decoder {theirs}.")
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.latent_dim: int = encoder.latent_dim
        self.image_shape: tuple[int, int, int] = encoder.image_shape

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the weights."""
        return next(self.parameters()).dtype

    def as_images(self, x: Tensor) -> Tensor:
        """Return ``x`` as ``[B, C, H, W]``, after a check of its type and shape.

        Raises
        ------
        TypeError
            If ``x`` is no tensor, holds whole numbers, or another type than the weights.
        ValueError
            If its shape is neither ``[B, C, H, W]`` nor ``[B, C*H*W]``.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"images are a {type(x).__name__}; expected a torch.Tensor.")
        if not x.is_floating_point():
            raise TypeError(
                f"images are {x.dtype}; expected floating point. "
                "vaelib.data.to_float turns uint8 images into float32 in [0, 1]."
            )
        if x.dtype != self.dtype:
            raise TypeError(f"images are {x.dtype}, the model is {self.dtype}; expected the same.")
        shape = self.image_shape
        n_pixels = shape[0] * shape[1] * shape[2]
        if x.shape[1:] != shape and x.shape[1:] != (n_pixels,):
            expected = f"[B, {shape[0]}, {shape[1]}, {shape[2]}] or [B, {n_pixels}]"
            raise ValueError(f"images have shape {list(x.shape)}; expected {expected}.")
        return x.reshape(-1, *shape)

    def checked_images(self, x: Tensor) -> Tensor:
        """Return :meth:`as_images` of ``x``, after a check of its values as well.

        Raises
        ------
        TypeError, ValueError
            What :meth:`as_images` raises, or if there is no image, or a value that the likelihood
            gives no density for.
        """
        images = self.as_images(x)
        if len(images) == 0:
            raise ValueError("there are no images; expected at least one.")
        self.likelihood.check(images)
        return images

    def decode(self, z: Tensor) -> Distribution:
        """Return p(x | z) for latent vectors ``[..., D]``; a draw has shape ``[..., C, H, W]``.

        Raises
        ------
        ValueError
            If the last axis of ``z`` is not the number of latent dimensions.
        """
        if z.shape[-1:] != (self.latent_dim,):
            raise ValueError(f"z has shape {list(z.shape)}; expected [..., {self.latent_dim}].")
        return self.likelihood(_full_precision(self.decoder(z.to(self.device))))

    def embed(self, x: Tensor) -> Tensor:
        """Return the code of each image, ``[B, D]``, without noise, on the device of ``x``."""
        raise NotImplementedError

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return E[x | z] at the code of each image, ``[B, C, H, W]``, on the device of ``x``."""
        return self.decode(self.embed(x)).mean.to(x.device)

    @torch.no_grad()
    def interpolate(self, start: Tensor, end: Tensor, *, steps: int = 10) -> Tensor:
        """Decode the straight line between the codes of two images.

        Parameters
        ----------
        start, end
            One image each, ``[1, C, H, W]``.
        steps
            Number of points on the line, both ends included; at least 2.

        Returns
        -------
        Tensor
            The means of p(x | z), ``[steps, C, H, W]``, on the device of ``start``.
        """
        if steps < 2:
            raise ValueError(f"steps is {steps}; expected at least 2, the two ends.")
        z = [self.embed(x).to(start.device) for x in (start, end)]
        if len(z[0]) != 1 or len(z[1]) != 1:
            raise ValueError(
                f"got {len(z[0])} and {len(z[1])} images; expected one image at each end."
            )
        weight = torch.linspace(0, 1, steps, device=z[0].device, dtype=z[0].dtype).unsqueeze(-1)
        return self.decode(torch.lerp(*z, weight)).mean.to(start.device)


class Autoencoder(_LatentVariableModel):
    """An encoder and a decoder trained for reconstruction only.

    Parameters
    ----------
    encoder
        Maps ``[B, C, H, W]`` to a pair of which the first, ``[B, D]``, is the code.
    decoder
        Maps ``[..., D]`` to the parameters of the likelihood, ``[..., C, H, W]``.
    likelihood
        Turns these parameters into a distribution over images; it is the loss.
    """

    def encode(self, x: Tensor, *, validate: bool = True) -> Tensor:
        """Return the code of each image, ``[B, D]``; ``validate=False``: see :meth:`VAE.encode`."""
        x = self.as_images(x).to(self.device) if validate else x
        return _full_precision(self.encoder(x)[0])

    def embed(self, x: Tensor) -> Tensor:
        """Return the code of each image, ``[B, D]``, outside the graph, on the device of ``x``."""
        with torch.no_grad():
            return self.encode(x).to(x.device)


class VAE(_LatentVariableModel):
    """Variational autoencoder: p(z) = N(0, I), p(x | z) and q(z | x) = N(mu, diag sigma^2).

    Kingma & Welling (2014); Rezende, Mohamed & Wierstra (2014).

    Parameters
    ----------
    encoder
        Maps ``[B, C, H, W]`` to the mean and the scale parameter of q(z | x), each ``[B, D]``.
    decoder
        Maps ``[..., D]`` to the parameters of the likelihood, ``[..., C, H, W]``.
    likelihood
        Turns these parameters into p(x | z).
    scale
        What the encoder's scale parameter means, a name in :data:`vaelib.posteriors.SCALES`.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        scale: str = "exp",
    ) -> None:
        super().__init__(encoder=encoder, decoder=decoder, likelihood=likelihood)
        if scale not in SCALES:
            raise ValueError(f"scale is {scale!r}; expected one of {', '.join(SCALES)}.")
        self.scale = scale

    def encode(self, x: Tensor, *, validate: bool = True) -> DiagonalNormal:
        """Return q(z | x) for images ``[B, C, H, W]`` or ``[B, C*H*W]``.

        With ``validate=False`` they are taken as they are, ``[B, C, H, W]`` on the model's device:
        a training loop checks its data set once and not every batch.
        """
        x = self.as_images(x).to(self.device) if validate else x
        mu, scale = map(_full_precision, self.encoder(x))
        return DiagonalNormal(mu, SCALES[self.scale](scale), validate_args=False)

    def embed(self, x: Tensor) -> Tensor:
        """Return the mean of q(z | x), ``[B, D]``, outside the graph, on the device of ``x``."""
        with torch.no_grad():
            return self.encode(x).mu.to(x.device)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n latent vectors from the prior and return the means of p(x | z).

        Parameters
        ----------
        n
            Number of images.
        generator
            Random stream on the device of the model; torch's global one if not given.

        Returns
        -------
        Tensor
            ``[n, C, H, W]``: grey values in [0, 1] under a Bernoulli likelihood.
        """
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1.")
        z = torch.randn(
            n, self.latent_dim, generator=generator, device=self.device, dtype=self.dtype
        )
        return self.decode(z).mean


def _full_precision(output: Tensor) -> Tensor:
    """Leave autocast behind: networks may compute in 16 bits, densities and KLs never do."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
