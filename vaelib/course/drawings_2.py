"""The drawings of lesson 2: what a loss says about noise, and what a nat can buy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaelib.course.drawing import (
    FAINT,
    GREEN,
    GUESS,
    HALF,
    INK,
    MODEL,
    QUIET,
    SMALL,
    THIN,
    WHOLE,
    Canvas,
    Drawing,
    Frame,
    drawing,
)
from vaelib.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian

MEAN, GAUSSIAN_SCALE = 0.7, 0.2
"""What the decoder states in the drawing of one pixel, and the scale of its Gaussian."""

LOGITS = torch.linspace(-7.2, 7.2, 8001, dtype=torch.float64).sinh()
"""A grid on which the logit of a continuous Bernoulli is looked up by its mean."""

SHADED_UP_TO = 1.0
"""The price of an error, in nats, that is drawn in white."""

Likelihood = Callable[[Tensor, Tensor], Tensor]
"""Maps pixels and stated means, of one shape, to the cost of each pixel in nats."""


def bernoulli(x: Tensor, mean: Tensor) -> Tensor:
    """Return the cost of each pixel under a Bernoulli of a mean; grey values by its formula."""
    return _costs(Bernoulli(grey=True), x, torch.logit(mean))


def gaussian(scale: float) -> Likelihood:
    """Return the cost of each pixel under a Gaussian of a scale."""
    likelihood = Gaussian(scale=scale).double()
    return lambda x, mean: _costs(likelihood, x, mean)


def continuous_bernoulli(x: Tensor, mean: Tensor) -> Tensor:
    """Return the cost of each pixel under a continuous Bernoulli of a mean."""
    means = ContinuousBernoulli()(LOGITS.view(-1, 1, 1, 1)).mean.flatten()
    logits = np.interp(mean.numpy(), means.numpy(), LOGITS.numpy())
    return _costs(ContinuousBernoulli(), x, torch.from_numpy(logits).reshape(mean.shape))


def _costs(likelihood: torch.nn.Module, x: Tensor, parameter: Tensor) -> Tensor:
    one_by_one = likelihood(parameter.double().reshape(-1, 1, 1, 1))
    costs = -one_by_one.log_prob(x.double().reshape(-1, 1, 1, 1))
    return costs.detach().reshape(x.shape)


# One pixel


def one_pixel() -> Drawing:
    """Draw what three likelihoods say about a pixel, and what each asks of the decoder."""
    about = (
        "One pixel under three likelihoods.",
        f"Upper row, for a stated mean of {MEAN:g}. The Bernoulli: two bars, {1 - MEAN:.1f} at "
        f"black and {MEAN:g} at white, and nothing between. The Gaussian: a bell around {MEAN:g}. "
        "The continuous Bernoulli: a density over the interval from 0 to 1 that rises towards "
        "white. Lower row: the cost of a grey and of a white pixel against the stated mean. The "
        "curve of grey has its least value in the middle, that of white at the right end.",
    )
    wide = Canvas(WHOLE, 390, *about)
    for left, draw in zip((0, 230, 460), _COLUMNS, strict=True):
        draw(wide, left)
    narrow = [Canvas(HALF, 390, *about) for _ in _COLUMNS]
    for canvas, draw in zip(narrow, _COLUMNS, strict=True):
        draw(canvas, 54)
    return drawing(
        wide,
        narrow=narrow,
        caption=f"Above: what the decoder says about one pixel when it states a mean of {MEAN:g}. "
        "The Bernoulli knows black and white only. Below: the cost, in nats, of a grey pixel "
        "(dashed) and of a white one, against the stated mean. Each likelihood is content when the "
        "mean is the pixel; they differ in what it costs to be wrong.",
    )


def _column(
    canvas: Canvas, left: float, heading: str, cost: Likelihood, low: float
) -> tuple[Frame, Frame]:
    """Draw heading, axes and costs of one likelihood; return the frame of its density."""
    canvas.text(left + 114, 12, heading, bold=True)
    upper = Frame(left + 22, 40, 184, 120, (-0.15, 1.15), (0.0, 3.0))
    lower = Frame(left + 22, 206, 184, 140, (0.0, 1.0), (low, 4.0))
    for frame, name in ((upper, "$x$"), (lower, "stated mean")):
        canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)
        for tick in (0.0, 1.0):
            canvas.text(frame.x(tick), frame.bottom + 14, f"{tick:g}", size=SMALL, colour=QUIET)
        canvas.text(frame.x(0.5), frame.bottom + 14, name, size=SMALL)
    canvas.line((lower.left, lower.top), (lower.left, lower.bottom), width=THIN)
    for tick in range(math.ceil(low), 5, 2):
        canvas.text(
            lower.left - 5,
            lower.y(tick),
            f"{tick}".replace("-", "−"),
            size=SMALL,
            anchor="end",
            colour=QUIET,
        )
    means = torch.linspace(0.004, 0.996, 249, dtype=torch.float64)
    for x, dashed in ((1.0, False), (0.5, True)):
        costs = cost(torch.full_like(means, x), means)
        seen = (costs <= lower.y_range[1]) & (costs >= low)
        places = lower.places(means[seen], costs[seen])
        canvas.curve(places, colour=INK if dashed else MODEL, dashed=dashed)
    return upper, lower


def _bernoulli_column(canvas: Canvas, left: float) -> None:
    upper, lower = _column(canvas, left, "Bernoulli", bernoulli, -2.0)
    for x, share in ((0.0, 1 - MEAN), (1.0, MEAN)):
        middle, half = upper.x(x), 9
        corners = [(middle - half, upper.bottom), (middle - half, upper.y(2.5 * share))]
        corners += [(middle + half, y) for _, y in corners[::-1]]
        canvas.area(corners, colour=MODEL, opacity=0.4)
        canvas.text(middle, upper.y(2.5 * share) - 10, f"{share:.1f}", size=SMALL, colour=MODEL)
    canvas.text(lower.x(0.5), lower.y(1.6), "grey", size=SMALL)
    canvas.text(lower.x(0.3), lower.y(2.6), "white", size=SMALL, colour=MODEL)
    canvas.text(lower.x(0.5), lower.y(0.1), "log 2", size=SMALL, colour=QUIET)


def _gaussian_column(canvas: Canvas, left: float) -> None:
    cost = gaussian(GAUSSIAN_SCALE)
    upper, _ = _column(canvas, left, f"Gaussian, $s$ = {GAUSSIAN_SCALE:g}", cost, -2.0)
    _density(canvas, upper, np.linspace(*upper.x_range, 131), cost)


def _continuous_column(canvas: Canvas, left: float) -> None:
    upper, _ = _column(canvas, left, "continuous Bernoulli", continuous_bernoulli, -2.0)
    _density(canvas, upper, np.linspace(0.0, 1.0, 101), continuous_bernoulli)


def _density(canvas: Canvas, frame: Frame, x: NDArray[np.float64], cost: Likelihood) -> None:
    pixels = torch.from_numpy(x)
    density = (-cost(pixels, torch.full_like(pixels, MEAN))).exp()
    places = frame.places(x, density)
    corners = (places[0, 0], frame.bottom), (places[-1, 0], frame.bottom)
    canvas.area([corners[0], *places, corners[1]], colour=MODEL)
    canvas.curve(places, colour=MODEL)


_COLUMNS = (_bernoulli_column, _gaussian_column, _continuous_column)


# The price of an error

LIKELIHOODS: dict[str, Likelihood] = {
    "Gaussian\n$s$ = 1": gaussian(1.0),
    "Gaussian\n$s$ = 0.3": gaussian(0.3),
    "Bernoulli": bernoulli,
    "continuous\nBernoulli": continuous_bernoulli,
    "Gaussian\n$s$ = 0.05": gaussian(0.05),
}
"""The five likelihoods whose prices are compared."""


def price(likelihood: Likelihood, x: Tensor, stated: Tensor) -> Tensor:
    """Return by how much each pixel costs more than if the decoder had stated its value.

    Grey values and means are kept half a grey level inside of (0, 1): a continuous Bernoulli
    pays for certainty without limit.

    Parameters
    ----------
    likelihood
        One of :data:`LIKELIHOODS`.
    x, stated
        The pixels and the means that the decoder states, of one shape, in [0, 1].

    Returns
    -------
    Tensor
        Nats, of the same shape, never negative.
    """
    edge = 0.5 / 255
    x, stated = (value.double().cpu().clamp(edge, 1 - edge) for value in (x, stated))
    return likelihood(x, stated) - likelihood(x, x)


def price_of_errors(image: Tensor, output: Tensor) -> Drawing:
    """Draw one reconstruction, and the price of each of its errors under five likelihoods.

    Parameters
    ----------
    image, output
        An image and the means that a decoder states for it, ``[H, W]`` in [0, 1].
    """
    prices = {name: price(cost, image, output) for name, cost in LIKELIHOODS.items()}
    totals = {name: float(each.sum()) for name, each in prices.items()}
    spoken = ", ".join(f"{name.replace('$', '')}: {nats:,.0f}" for name, nats in totals.items())
    about = (
        "The price of each error of one reconstruction.",
        f"An image, its reconstruction, and five maps of prices. In nats: {spoken}. The map of "
        "the widest Gaussian is black; that of the narrowest is white along all strokes.".replace(
            "\n", ", "
        ),
    )
    wide, narrow = Canvas(WHOLE, 158, *about), Canvas(HALF, 470, *about)
    tiles = [("image", image, ""), ("reconstruction", output, "")]
    tiles += [(n, p / SHADED_UP_TO, f"{totals[n]:,.0f} nats") for n, p in prices.items()]
    for i, (name, pixels, label) in enumerate(tiles):
        _tile(wide, 48.5 + 98.5 * i, name, pixels, label, top=0)
        # Two, then three, then two: three tiles are as wide as a phone.
        row, column, count = ((0, i, 2), (1, i - 2, 3), (2, i - 5, 2))[(i > 1) + (i > 4)]
        x = HALF / 2 + 112 * (column - (count - 1) / 2)
        _tile(narrow, x, name, pixels, label, top=158 * row)
    return drawing(
        wide,
        narrow=[narrow],
        caption="One reconstruction under five likelihoods. A pixel of a map is the whiter, the "
        "more its error costs, and white from one nat on; below, the sum over all pixels. The "
        "errors are the same everywhere. What differs is how much they matter, and a code of 20 "
        "nats is dear on the left and cheap on the right.",
    )


def _tile(canvas: Canvas, x: float, name: str, pixels: Tensor, label: str, *, top: float) -> None:
    canvas.text(x, top + 19, name, size=SMALL)
    canvas.image(x, top + 86, 86, pixels)
    if label:
        canvas.text(x, top + 144, label, size=SMALL, bold=True)


# Four binarisations


def four_binarisations(image: Tensor, *, seed: int = 0) -> Drawing:
    """Draw one digit in grey and in three black-and-white versions, as two epochs see it.

    Parameters
    ----------
    image
        The digit, ``[H, W]`` in [0, 1].
    seed
        Seed of the draws.
    """
    image = image.cpu()
    rng = torch.Generator().manual_seed(seed)
    static, first, second = ((torch.rand(image.shape, generator=rng) < image) for _ in range(3))
    versions = {
        "grey": (image, image),
        "threshold": (image > 0.5, image > 0.5),
        "static": (static, static),
        "dynamic": (first, second),
    }
    grey = int(((image > 0.02) & (image < 0.98)).sum())
    about = (
        "One digit, grey and in three black-and-white versions, in two epochs.",
        f"Grey: soft edges, {grey} pixels between black and white. Threshold: crisp edges. Static: "
        "ragged edges, the same in both epochs. Dynamic: ragged edges that differ from one epoch "
        "to the next.",
    )
    wide, narrow = Canvas(WHOLE, 300, *about), Canvas(HALF, 218, *about)
    for canvas, size, left, step in ((wide, 120, 146, 146), (narrow, 70, 66, 76)):
        for row in (0, 1):
            y = 26 + size / 2 + row * (size + 14)
            label = f"epoch {row + 1}" if size > 100 else f"{row + 1}"
            canvas.text(left - size / 2 - 12, y, label, size=SMALL, anchor="end", colour=QUIET)
            for i, pair in enumerate(versions.values()):
                canvas.image(left + step * i, y, size, pair[row].to(torch.float32))
        for i, name in enumerate(versions):
            canvas.text(left + step * i, 12, name, bold=True, size=15 if size > 100 else SMALL)
    return drawing(
        wide,
        narrow=[narrow],
        caption="The same digit as a training sees it in two epochs. The threshold forgets the "
        "grey values. A static version flips one coin for each pixel, once and for all. A dynamic "
        "one flips them anew at every use; over many epochs it says all that the grey values say.",
    )


# Where a mean puts you


def reductions(threshold: float, latents: Sequence[int], *, pixels: int = 784) -> Drawing:
    """Draw the beta that each reduction stands for, on a line with the threshold of collapse.

    Parameters
    ----------
    threshold
        The largest beta at which a small code pays.
    latents
        Numbers of latent dimensions for which both terms are averaged.
    pixels
        Number of pixels.

    Raises
    ------
    ValueError
        If a beta does not lie on the line, from 0.25 to 2,000.
    """
    marks = [(1.0, "both summed")]
    marks += [(pixels / d, f"both averaged, $D$ = {d}") for d in sorted(latents, reverse=True)]
    marks += [(float(pixels), "pixels averaged")]
    low, high = 0.25, 2000.0
    if not all(low <= beta <= high for beta in (threshold, *(beta for beta, _ in marks))):
        raise ValueError(f"expected every beta from {low:g} to {high:g}, got {marks}.")
    said = "; ".join(f"{name.replace('$', '')}: {beta:.1f}" for beta, name in marks)
    canvas = Canvas(
        WHOLE,
        70 + 34 * len(marks),
        "Reductions on a line of beta.",
        f"A logarithmic line of beta with a threshold at {threshold:.1f}. {said}.",
    )
    twin = Canvas(HALF, canvas.height, canvas.title, canvas.description)
    for each, left in ((canvas, 190), (twin, 152)):
        scale = Frame(left, 26, each.width - left - 14, 34 * len(marks), _logs(low, high), (0, 1))
        edge = scale.x(math.log10(threshold))
        shaded = ((edge, scale.top), (scale.right, scale.top))
        canvas_bottom = ((scale.right, scale.bottom), (edge, scale.bottom))
        each.area([*shaded, *canvas_bottom], colour=INK, opacity=0.1)
        each.line((edge, scale.top), (edge, scale.bottom), dashed=True)
        each.text(edge, 12, f"$β^*$ = {threshold:.1f}", size=SMALL)
        for i, (beta, name) in enumerate(marks):
            y = scale.top + 17 + 34 * i
            alive = beta < threshold
            colour = GREEN if alive else MODEL
            each.line((scale.left, y), (scale.right, y), width=THIN, colour=FAINT)
            each.text(left - 8, y, name, size=SMALL, anchor="end")
            each.dots([(scale.x(math.log10(beta)), y)], radius=5, colour=colour, opacity=1)
            right = not alive and beta < 100  # beside its dot, where no line is crossed
            place = scale.x(math.log10(beta)) + (10 if right else -10)
            anchor = "start" if right else "end"
            each.text(place, y, f"{beta:.3g}", size=SMALL, anchor=anchor, colour=colour, halo=True)
        each.line((scale.left, scale.bottom), (scale.right, scale.bottom), width=THIN)
        for power in range(4):
            each.text(scale.x(power), scale.bottom + 14, f"{10**power:,}", size=SMALL, colour=QUIET)
        each.text((edge + scale.right) / 2, scale.bottom + 32, "collapse", size=SMALL)
        each.text((scale.left + edge) / 2, scale.bottom + 32, "a code pays", size=SMALL)
    return drawing(
        canvas,
        narrow=[twin],
        caption="The $β$ that each pair of reductions stands for, and the threshold $β^*$ of these "
        "images under a Bernoulli. To the right of it no small code is worth its price.",
    )


def _logs(low: float, high: float) -> tuple[float, float]:
    return math.log10(low), math.log10(high)


# The budget of nats


def budget(gains: Mapping[str, float], *, naming: float, typical: float) -> Drawing:
    """Draw what a perfect code could gain under several losses, beside what codes cost.

    Parameters
    ----------
    gains
        Name of a loss -> what it would fall by if every image were known, in its own units,
        which the sum of loss and rate counts as nats.
    naming
        What it costs to name the digit, in nats.
    typical
        What a code of a whole digit costs, in nats.

    Raises
    ------
    ValueError
        If a gain or a price is not between 0.01 and 100,000.
    """
    low, high = 0.01, 100_000.0
    if not all(low < number < high for number in (*gains.values(), naming, typical)):
        raise ValueError(f"expected numbers between {low:g} and {high:g}, got {dict(gains)}.")
    said = "; ".join(f"{name.replace('$', '')}: {gain:,.3g}" for name, gain in gains.items())
    about = (
        "The budget of a code under several losses.",
        f"Bars on a logarithmic axis show what a perfect code could gain. {said}. Two lines mark "
        f"what a code costs: {naming:.1f} nats to name the digit, {typical:.0f} for a whole one.",
    )
    step = 40
    wide, narrow = (Canvas(w, 62 + step * len(gains), *about) for w in (WHOLE, HALF))
    for canvas, left, inside in ((wide, 210, False), (narrow, 18, True)):
        scale = Frame(
            left, 26, canvas.width - left - 40, step * len(gains), _logs(low, high), (0, 1)
        )
        for number, label, side in ((naming, "name it", "end"), (typical, "store it", "start")):
            place = scale.x(math.log10(number))
            canvas.line((place, scale.top - 2), (place, scale.bottom), colour=GUESS, dashed=True)
            canvas.text(
                place + (4 if side == "start" else -4),
                12,
                f"{label}: {number:.{1 if number < 10 else 0}f}",
                size=SMALL,
                anchor=side,
                colour=GUESS,
            )
        for i, (name, gain) in enumerate(gains.items()):
            y, end = scale.top + step * (i + 0.5), scale.x(math.log10(gain))
            half = 8 if inside else 11
            y += 9 if inside else 0
            colour = GREEN if gain > typical else MODEL
            corners = [
                (scale.left, y - half),
                (end, y - half),
                (end, y + half),
                (scale.left, y + half),
            ]
            canvas.area(corners, colour=colour, opacity=0.35)
            if inside:
                canvas.text(scale.left, y - 19, name, size=SMALL, anchor="start", halo=True)
            else:
                canvas.text(left - 8, y, name, anchor="end", size=SMALL)
            canvas.text(
                end + 5,
                y,
                f"{gain:,.{0 if gain >= 10 else 1 if gain >= 1 else 2}f}",
                size=SMALL,
                anchor="start",
                halo=True,
            )
        canvas.line((scale.left, scale.bottom), (scale.right, scale.bottom), width=THIN)
        for power in range(-2, 6):
            label = f"{10**power:,}" if power >= 0 else f"{10**power:g}"
            if power % 2 == 0:
                canvas.text(scale.x(power), scale.bottom + 14, label, size=SMALL, colour=QUIET)
        canvas.text(scale.right + 4, scale.bottom + 28, "nats", size=SMALL, anchor="end")
    return drawing(
        wide,
        narrow=[narrow],
        caption="What a perfect code could gain, at most, over a decoder that always shows the "
        "mean image (bars), and what codes cost (dashed): naming the digit, and storing a whole "
        "one as the VAE of this lesson does. A code that costs more than its bar cannot pay.",
    )
