"""Layers that change an image before the encoder sees it, and only while training.

The decoder must explain the image as it was. As the ``corruption`` of an encoder they are
regularisers in the sense of Im et al. (2017): the encoder cannot memorise images of which it sees
a new version every time, and its codes learn to leave out what the corruption changes. The random
numbers come from torch's global stream, which :func:`vaelib.training.fit` makes its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RandomBinarization(nn.Module):
    """While training, replace each pixel by 1 with its grey value as probability, else by 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images with values in [0, 1] to images of the same shape."""
        # The law of torch.bernoulli(x), at a quarter of its time on a CPU.
        return (torch.rand_like(x) < x).to(x.dtype) if self.training else x


class RandomWarp(nn.Module):
    """While training, turn, stretch, slant, shift and bend each image a little.

    Each image gets an affine map of its own, then a smooth random field of displacements (after
    the elastic distortions of Simard et al. 2003). What comes in from outside is black.

    Parameters
    ----------
    turn
        Largest angle, in degrees.
    stretch
        Largest logarithm of the factor by which each side grows or shrinks.
    slant
        Largest shear: pixels sideways for each pixel upwards.
    shift
        Largest displacement along each side, in pixels.
    bend
        Standard deviation of the smooth displacements, in pixels.

    Raises
    ------
    ValueError
        If one of them is negative or not finite.
    """

    def __init__(
        self,
        *,
        turn: float,
        stretch: float,
        slant: float,
        shift: float,
        bend: float,
    ) -> None:
        super().__init__()
        sizes = {"turn": turn, "stretch": stretch, "slant": slant, "shift": shift, "bend": bend}
        for name, size in sizes.items():
            if not 0 <= size < math.inf:
                raise ValueError(f"{name} is {size!r}; expected a finite number, at least 0.")
        self.turn, self.stretch, self.slant = math.radians(turn), stretch, slant
        self.shift, self.bend = shift, bend

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` to images of the same shape."""
        if not self.training:
            return x
        height, width = x.shape[-2:]
        # A grid counts in half sides of the image, from -1 to 1.
        pixel = torch.tensor((2 / width, 2 / height), device=x.device)
        matrices = self._draw_matrices(x) * (pixel.unsqueeze(1) / pixel)
        affine = torch.cat((matrices, self._draw_shifts(x, pixel)), -1)
        places = F.affine_grid(affine, list(x.shape), align_corners=False)
        knots = torch.randn(len(x), 2, 5, 5, device=x.device) * (self.bend * pixel).view(2, 1, 1)
        field = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        places = (places + field.movedim(1, -1)).to(x.dtype)
        return F.grid_sample(x, places, mode="bilinear", align_corners=False)

    def _draw_matrices(self, x: Tensor) -> Tensor:
        """Return turn @ stretch @ slant for each image, in pixels, ``[B, 2, 2]``."""
        angle = self.turn * _symmetric(x, 1)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.cat((cos, -sin, sin, cos), -1).view(-1, 2, 2)
        stretch = torch.diag_embed(torch.exp(self.stretch * _symmetric(x, 2)))
        slant = torch.eye(2, device=x.device).repeat(len(x), 1, 1)
        slant[:, 0, 1] = self.slant * _symmetric(x, 1).squeeze(-1)
        return turn @ stretch @ slant

    def _draw_shifts(self, x: Tensor, pixel: Tensor) -> Tensor:
        return (self.shift * pixel * _symmetric(x, 2)).unsqueeze(-1)


def _symmetric(x: Tensor, n: int) -> Tensor:
    """Draw n numbers for each image, uniform between -1 and 1, ``[B, n]``."""
    return 2 * torch.rand(len(x), n, device=x.device) - 1
