"""A film of the latent plane while a VAE is trained: every image's code, drawn as its digit."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaelib.course.drawing import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    THIN,
    Canvas,
    Frame,
)
from vaelib.course.labs.live import LiveFigure, live_figure

SIDE, STILL_SIDE, STILLS, STILL_POINTS = 336, 165, 4, 400
"""Side of the film and of a still in pixels, number of stills, and points in each of these."""

DEVIATIONS = (1, 2, 3)
"""Standard deviations of the prior that have a circle."""

NEAR = 0.995
"""Share of the coordinates that have their place inside; the rest is drawn at the edge."""

COLOURS = (BLUE, BLUE, ORANGE, GREEN, GREEN, PURPLE, INK, PURPLE, INK, ORANGE)
"""Colour of each digit; two digits that share one are seldom neighbours."""

BODY = """
<div class="with-script film">
{film}
<div class="film-controls">
<button type="button">Play</button>
<input type="range" min="{first}" max="{last}" step="1" value="{last}" aria-label="epoch">
<output aria-live="polite">epoch {last}</output>
</div>
</div>
<div class="without-script film-stills">{stills}</div>
"""


def training_film(
    frames: Mapping[int, Tensor], labels: Tensor, *, name: str, caption: str
) -> LiveFigure:
    """Show how codes move through the plane during training.

    The film stands at its end until it is played. Between two snapshots every code moves on a
    straight line. Where scripts do not run, and in
    print, four snapshots stand in the film's place.

    Parameters
    ----------
    frames
        Epoch -> posterior means ``[N, 2]`` of the same N images; two epochs or more.
    labels
        Digits ``[N]``, from 0 to 9.
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.

    Raises
    ------
    ValueError
        If there are fewer than two epochs, the shapes do not fit, a mean is not finite, or a
        label is not a digit.
    """
    frames = {epoch: z.detach().cpu().double() for epoch, z in sorted(frames.items())}
    _check(frames, labels)
    order = labels.cpu().argsort(stable=True)
    frames = {epoch: z[order] for epoch, z in frames.items()}
    labels = labels.cpu()[order]
    # A handful of far codes would make the rest a dot: they stand at the edge.
    far = torch.stack(list(frames.values())).abs().quantile(NEAR).item()
    limit = max(DEVIATIONS[-1], math.ceil(2.04 * far) / 2)
    edge = limit / 1.02  # room for half a digit
    frames = {epoch: z.clamp(-edge, edge) for epoch, z in frames.items()}
    epochs = list(frames)
    film = _scatter(frames[epochs[-1]], labels, limit, SIDE, "The plane of codes during training.")
    chosen = np.linspace(0, len(epochs) - 1, STILLS).round().astype(int)
    # Every k-th point: sorted by digit, so that each digit keeps its share.
    some = slice(None, None, max(1, len(labels) // STILL_POINTS))
    stills = "".join(
        _scatter(
            frames[epochs[i]][some], labels[some], limit, STILL_SIDE, f"epoch {epochs[i]}"
        ).svg()
        for i in dict.fromkeys(chosen.tolist())
    )
    return live_figure(
        "training_film",
        name=name,
        label="Film of the latent plane during training",
        data={
            "epochs": epochs,
            "limit": limit,
            "side": SIDE,
            "frames": [_packed(z, limit) for z in frames.values()],
        },
        body=BODY.format(film=film.svg(), stills=stills, first=epochs[0], last=epochs[-1]),
        caption=caption,
    )


def _check(frames: Mapping[int, Tensor], labels: Tensor) -> None:
    shapes = {epoch: list(z.shape) for epoch, z in frames.items()}
    n = len(labels)
    if len(frames) < 2 or n < 1 or any(shape != [n, 2] for shape in shapes.values()):
        raise ValueError(
            f"frames have shapes {shapes} and there are {n} labels; "
            "expected two epochs or more, each [N, 2], and N labels, at least one."
        )
    if not all(z.isfinite().all() for z in frames.values()):
        raise ValueError("frames hold a mean that is not finite.")
    if not torch.isin(labels.cpu(), torch.arange(10)).all():
        raise ValueError("labels must be digits from 0 to 9.")


def _packed(z: Tensor, limit: float) -> str:
    """Return means as base64 of 16-bit integers, where 32,767 stands for the limit."""
    whole = (z / limit * 32767).round().numpy().astype("<i2")
    return base64.b64encode(whole.tobytes()).decode()


def _scatter(z: Tensor, labels: Tensor, limit: float, side: float, title: str) -> Canvas:
    """Draw codes as digits, on circles of 1, 2 and 3 standard deviations of the prior."""
    still = side < SIDE
    top = 22 if still else 0
    canvas = Canvas(
        side,
        side + top,
        title,
        "Each code is drawn as the digit of its image. Faint circles mark one, two and three "
        "standard deviations of the prior.",
    )
    if still:
        canvas.heading(title)
    plane = Frame(0, top, side, side, (-limit, limit), (-limit, limit))
    canvas.box(side / 2, top + side / 2, side - 2, side - 2, filled=False, colour=FAINT)
    for radius in DEVIATIONS:
        canvas.circle(
            plane.x(0), plane.y(0), radius=radius * side / (2 * limit), colour=FAINT, width=THIN
        )
    size = 7 if still else 8.5
    places = plane.places(z[:, 0].numpy(), z[:, 1].numpy())
    glyphs = "".join(
        _glyphs(places[(labels == digit).numpy()], digit) for digit in labels.unique().tolist()
    )
    canvas.parts.append(
        f'<g class="digits" font-size="{size:g}" transform="translate(0 {0.34 * size:.2f})">'
        f"{glyphs}</g>"
    )
    return canvas


def _glyphs(places: NDArray[np.float64], digit: int) -> str:
    """Return one element for all codes of a digit: each of its letters has a place of its own."""
    x, y = (" ".join(f"{value:.2f}" for value in column) for column in places.T)
    return f'<text x="{x}" y="{y}" fill="{COLOURS[digit]}">{str(digit) * len(places)}</text>'
