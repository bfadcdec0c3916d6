"""The figures of the book. Every function draws into ``ax``, or makes one, and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor
from torch.distributions import Normal

from vaelib.models import VAE
from vaelib.training import History

INK, BLUE, ORANGE, GREEN = "#22272e", "#2166ac", "#d95f02", "#1b7837"
GREY = "#787878"  # as far from white as from the book's dark page: legible on both
# Ten colours that stay apart for the common kinds of colour blindness as far as ten can;
# the scatter plots also write each class where it lies.
CLASS_COLOURS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933",
    "#ddcc77", "#cc6677", "#882255", "#aa4499", "#7f7f7f",
)  # fmt: skip


def use_style() -> None:
    """Set the look of all figures: opaque white, which the book turns over in dark mode."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "auto",  # the figure's own
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, "#762a83", INK]),
            "legend.frameon": False,
            "lines.linewidth": 2,
        }
    )


def show_images(
    images: Tensor,
    *,
    columns: int = 10,
    row_labels: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Show images in a grid, all on the same grey scale from 0 (black) to 1 (white).

    Nothing turns photographs over in dark mode, so what is written beside them is grey, and a
    figure that holds one grid only has no paper. With several, ``fig.set_facecolor("none")``.

    Parameters
    ----------
    images
        ``[N, 1, H, W]``, read row by row.
    columns
        Images in a row.
    row_labels
        One label for each row, if any.
    ax
        Where to draw.
    """
    n, _, height, width = images.shape
    rows = -(-n // columns)
    if ax is None:
        _, ax = plt.subplots(
            figsize=(min(8.0, 0.8 * columns), min(8.0, 0.8 * columns) * rows / columns)
        )
    canvas = torch.zeros(rows * columns, height, width)
    canvas[:n] = images[:, 0].detach().cpu()
    tiled = canvas.view(rows, columns, height, width).transpose(1, 2)
    ax.imshow(tiled.reshape(rows * height, columns * width).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([(row + 0.5) * height for row in range(len(row_labels))], row_labels)
    ax.tick_params(length=0, colors=GREY, labelsize=13)  # to be read on a phone, too
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
        text.set_color(GREY)
    ax.spines[:].set_visible(False)
    if ax.figure.axes == [ax]:
        ax.figure.set_facecolor("none")
    return ax


def latent_classes(
    z: Tensor,
    labels: Tensor,
    *,
    names: Sequence[str] | None = None,
    label_size: float = 9,
    ax: Axes | None = None,
) -> Axes:
    """Scatter 2-D codes coloured by class, each class named where it is densest.

    Parameters
    ----------
    z
        Codes, ``[N, 2]``.
    labels
        Classes, ``[N]``.
    names
        One name for each class; the numbers if not given.
    label_size
        Size of these names, in points.
    ax
        Where to draw.
    """
    ax = _latent_axes(z, ax)
    z, labels = z.detach().cpu().numpy(), labels.cpu().numpy()
    ax.scatter(*z.T, c=labels, cmap=ListedColormap(CLASS_COLOURS), vmin=0, vmax=9, **_DOTS)
    for k in np.unique(labels):
        x, y = _densest_place(z[labels == k])
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": CLASS_COLOURS[k], "alpha": 0.9}
        name = names[k] if names else str(k)
        ax.text(x, y, name, ha="center", va="center", fontsize=label_size, color=INK, bbox=box)
    return ax


def _densest_place(z: np.ndarray) -> tuple[float, float]:
    # Not the median: a class of two islands has its median between them.
    counts, x, y = np.histogram2d(*z.T, bins=12)
    i, j = np.unravel_index(counts.argmax(), counts.shape)
    return (x[i] + x[i + 1]) / 2, (y[j] + y[j + 1]) / 2


def latent_values(
    z: Tensor,
    values: Tensor,
    *,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scatter 2-D codes coloured by a number, dark for high; the highest lie on top.

    The dots are the last collection of the axes: ``fig.colorbar(ax.collections[-1])``.

    Parameters
    ----------
    z
        Codes, ``[N, 2]``.
    values
        One number for each code, ``[N]``.
    limits
        Values at the two ends of the colour scale; those of the data if not given.
    ax
        Where to draw.
    """
    ax = _latent_axes(z, ax)
    order = values.argsort()
    low, high = limits or (None, None)
    z, values = z[order].detach().cpu().numpy(), values[order].cpu().numpy()
    ax.scatter(*z.T, c=values, cmap="viridis_r", vmin=low, vmax=high, **_DOTS)
    return ax


_DOTS = {"s": 3, "linewidths": 0, "rasterized": True}


def _latent_axes(z: Tensor, ax: Axes | None) -> Axes:
    if z.dim() != 2 or z.shape[1] != 2:
        raise ValueError(f"z has shape {list(z.shape)}; a scatter plot needs [N, 2].")
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 5))
    ax.set_aspect("equal")
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


@torch.no_grad()
def manifold(vae: VAE, *, side: int = 20, ax: Axes | None = None) -> Axes:
    """Decode a grid of points that cuts the 2-D prior into cells of equal probability.

    The points are normal quantiles, so the picture shows each kind of image as often as the model
    generates it. The first latent dimension runs from left to right, the second upwards.

    Parameters
    ----------
    vae
        A VAE with two latent dimensions.
    side
        Points on each side of the grid.
    ax
        Where to draw.
    """
    if vae.latent_dim != 2:
        raise ValueError(f"the model has {vae.latent_dim} latent dimensions; expected 2.")
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(side) + 0.5) / side)
    z1, z2 = torch.meshgrid(quantiles, quantiles.flip(0), indexing="xy")
    images = vae.decode(torch.stack((z1, z2), -1).reshape(-1, 2).to(vae.device)).mean
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 7))
    ax = show_images(images, columns=side, ax=ax)
    height, width = images.shape[-2:]
    marks = range(0, side, max(1, side // 6))
    texts = [f"{quantiles[i]:.1f}".replace("-", "−") for i in marks]
    ax.set_xticks([(i + 0.5) * width for i in marks], texts)
    ax.set_yticks([(side - i - 0.5) * height for i in marks], texts)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    return ax


def curves(history: History, *, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw distortion, rate and -ELBO over the epochs, for train and test, in three panels.

    Parameters
    ----------
    history
        What :func:`vaelib.training.fit` returned.
    axes
        Three axes to draw into.
    """
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(9, 3))
    titles: Mapping[str, str] = {
        "distortion": "distortion",
        "rate": "rate",
        "negative_elbo": "−ELBO = distortion + rate",
    }
    # The first twentieth of the training would set the scale of the axes.
    after_the_start = slice(1 + len(history.epochs) // 20, None)
    for ax, (quantity, title) in zip(axes, titles.items(), strict=True):
        for split, style in (("train", "--"), ("test", "-")):
            values = history.curve(split, quantity)[after_the_start]
            if values:
                ax.plot(history.epochs[after_the_start], values, style, label=split)
        ax.set(title=title, xlabel="epoch")
    axes[0].set_ylabel("nats per image")
    if axes[0].lines:
        axes[0].legend()
    return axes
