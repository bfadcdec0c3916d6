"""The drawings of lesson 7: posteriors in a plane of codes, proposals, bounds and their gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from contourpy import contour_generator
from scipy.stats import gaussian_kde
from torch import Tensor

from vaelib.course.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GUESS,
    HALF,
    LINE,
    ORANGE,
    QUIET,
    SMALL,
    THIN,
    TRUTH,
    WHOLE,
    Canvas,
    Drawing,
    Frame,
    drawing,
)
from vaelib.posteriors import DiagonalNormal

MASSES = (0.99, 0.9, 0.5)
"""Shares of the posterior that its contours enclose."""
NEAR = 12.0
"""Nats below the highest point at which a place of the posterior is left out of a picture."""


@dataclass(frozen=True)
class Place:
    """The posterior of one image in a square of the plane, and two Gaussians for it.

    Parameters
    ----------
    across, up
        Coordinates ``[N]`` and ``[M]`` of a grid, evenly spaced.
    log_joint
        log p(x, z) on the grid, ``[N, M]``, in nats; only its differences count.
    q, best
        The encoder's Gaussian and the best one, ``[1, 2]`` each.
    """

    across: Tensor
    up: Tensor
    log_joint: Tensor
    q: DiagonalNormal
    best: DiagonalNormal


def window(
    codes: Tensor, log_joint: Tensor, gaussians: Sequence[DiagonalNormal], *, points: int = 161
) -> tuple[Tensor, Tensor]:
    """Return the axes of a square that holds the posterior of an image and some Gaussians.

    Parameters
    ----------
    codes
        A coarse grid over the plane, ``[N, 2]``.
    log_joint
        log p(x, z) at these codes, ``[N]``.
    gaussians
        What has to be seen as well, up to three standard deviations, ``[1, 2]`` each.
    points
        Length of the axes.

    Returns
    -------
    tuple of Tensor
        Coordinates across and up, ``[points]`` each.
    """
    seen = [codes[log_joint >= log_joint.max() - NEAR]]
    for q in gaussians:
        seen += [q.mu + side * 3 * q.stddev for side in (-1, 1)]
    corners = torch.cat(seen)
    low, high = corners.amin(0), corners.amax(0)
    middle, half = (low + high) / 2, 0.56 * float((high - low).max())
    across, up = (torch.linspace(float(m) - half, float(m) + half, points) for m in middle)
    return across, up


def levels(log_joint: Tensor, masses: Sequence[float] = MASSES) -> list[float]:
    """Return the heights above which a density on a grid holds given shares of its mass.

    Parameters
    ----------
    log_joint
        Log-density on an evenly spaced grid, of any shape and up to a constant.
    masses
        Shares, between 0 and 1.
    """
    heights = log_joint.flatten().double().sort(descending=True).values
    enclosed = torch.softmax(heights, 0).cumsum(0)
    return [
        float(heights[int((enclosed < mass).sum().clamp(max=len(heights) - 1))]) for mass in masses
    ]


def _posterior(canvas: Canvas, frame: Frame, place: Place) -> None:
    """Shade the posterior: one layer for each of its contours."""
    density = place.log_joint.double().T.numpy()
    generator = contour_generator(place.across.numpy(), place.up.numpy(), density)
    for level in levels(place.log_joint):
        for line in generator.lines(level):
            places = frame.places(line[:, 0], line[:, 1])
            if len(places) < 3:
                continue
            canvas.area(places, colour=TRUTH, opacity=0.22)
            canvas.curve(places, colour=TRUTH, width=THIN)


def _ellipse(
    canvas: Canvas, frame: Frame, q: DiagonalNormal, *, colour: str = GUESS, dashed: bool = False
) -> None:
    """Draw a Gaussian as the ellipse at two standard deviations."""
    turn = np.linspace(0, 2 * math.pi, 81)
    (mu,), (sigma,) = q.mu.double().tolist(), q.stddev.double().tolist()
    x, y = (m + 2 * s * f(turn) for m, s, f in zip(mu, sigma, (np.cos, np.sin), strict=True))
    places = frame.places(x, y)
    low, high = (frame.left, frame.top), (frame.right, frame.bottom)
    canvas.curve(np.clip(places, low, high), colour=colour, dashed=dashed)


def _square(canvas: Canvas, place: Place, left: float, top: float, side: float) -> Frame:
    """Draw the square of the plane that a place shows, and how wide it is."""
    ranges = [(float(axis[0]), float(axis[-1])) for axis in (place.across, place.up)]
    frame = Frame(left, top, side, side, *ranges)
    middle = left + side / 2, top + side / 2
    canvas.box(*middle, side, side, filled=False, colour=FAINT)
    width = ranges[0][1] - ranges[0][0]
    canvas.text(
        frame.right - 5, frame.bottom - 9, f"{width:.2g} wide", size=SMALL, anchor="end",
        colour=QUIET, halo=True,
    )  # fmt: skip
    return frame


# One image, two places


def two_places(
    place: Place, images: Mapping[str, Tensor], nats: Mapping[str, float], *, error: float
) -> Drawing:
    """Draw an image whose posterior lies where neither the encoder nor its search looks.

    Parameters
    ----------
    place
        The posterior, q and q*.
    images
        Three images ``[H, W]`` and what each is, in a few words.
    nats
        ELBO of q, ELBO of q*, the estimate with q* and log p(x), with their names, in that order.
    error
        The error bar that comes with the estimate, in nats.
    """
    said = "; ".join(f"{name.replace('$', '')}: {value:.1f}" for name, value in nats.items())
    about = (
        "One image, the posterior of its code, and two Gaussians that miss it.",
        "In a square of the plane of codes, a green spot, the posterior, lies at one place, and "
        "the small blue ellipses of the encoder and of its improvement at another. Three images: "
        "the digit, what is decoded at the ellipses, and what is decoded at the green spot. A "
        f"scale of nats: {said}.",
    )
    upper, lower = Canvas(HALF, 316, *about), Canvas(HALF, 316, *about)
    upper.heading("where $z$ is, and where we look")
    frame = _square(upper, place, 28, 30, 280)
    _posterior(upper, frame, place)
    _ellipse(upper, frame, place.q)
    _ellipse(upper, frame, place.best, dashed=True)
    peak = int(place.log_joint.argmax())
    row, column = divmod(peak, place.log_joint.shape[1])
    top = frame.x(float(place.across[row])), frame.y(float(place.up[column]))
    for (x, y), name, colour in (
        (top, "$p(z | x)$", TRUTH),
        ((frame.x(float(place.q.mu[0, 0])), frame.y(float(place.q.mu[0, 1]))), "$q, q^*$", GUESS),
    ):
        inside = min(max(x, frame.left + 44), frame.right - 44)
        above = y - 30 if y - 30 > frame.top + 12 else y + 30
        upper.text(inside, above, name, colour=colour, halo=True)

    for i, (name, pixels) in enumerate(images.items()):
        lower.text(58 + 110 * i, 12, name, size=SMALL)
        lower.image(58 + 110 * i, 70, 88, pixels)
    low = min(nats.values())
    high = max(nats.values())
    room = 0.08 * (high - low) + 1e-9
    scale = Frame(30, 196, 276, 1, (low - room, high + room), (0, 1))
    lower.line((scale.left, 212), (scale.right, 212), width=THIN)
    lower.text(scale.right, 300, "nats", size=SMALL, anchor="end", colour=QUIET)
    *below, (name, value) = nats.items()
    for i, (label, number) in enumerate(below):
        x, y = scale.x(number), 236 + 23 * i
        lower.line((x, 205), (x, y - 6), colour=GUESS, width=LINE)
        # The three lie side by side, so each has a line of its own.
        lower.text(x + 6, y, f"{label}: {_minus(number)}", size=SMALL, anchor="start", colour=GUESS)
    lower.text(scale.x(below[-1][1]) + 6, 305, f"± {error:.2f}", size=SMALL, anchor="start",
               colour=GUESS)  # fmt: skip
    x = scale.x(value)
    lower.line((x, 190), (x, 219), colour=TRUTH)
    lower.text(min(x, scale.right), 178, f"{name} = {_minus(value)}", size=SMALL, anchor="end",
               colour=TRUTH)  # fmt: skip
    lower.brace((scale.x(below[-1][1]), 202), (x, 202), colour=QUIET)
    middle = (scale.x(below[-1][1]) + x) / 2
    lower.text(middle, 160, f"{value - below[-1][1]:.0f} nats that no error bar tells", size=SMALL)
    return drawing(
        upper,
        lower,
        caption="One image and the plane of its code. Green: where the codes are that explain it, "
        "$p(z | x)$, on a fine grid. Solid blue: the encoder's $q$; dashed: $q^*$, to which a "
        "search climbs from there. Right: the image, and what is decoded at the two places; below, "
        "the two bounds, an estimate of $log p(x)$ from a thousand draws of $q^*$ with its error "
        "bar, and the true value.",
    )


def _minus(nats: float, digits: int = 1) -> str:
    """Write a number with a minus sign in place of a hyphen."""
    return f"{nats:.{digits}f}".replace("-", "−")


# The bound of K samples


def bounds_of_k(log_w: Tensor, log_p: float, sizes: Sequence[int] = (1, 10, 100)) -> Drawing:
    """Draw how the estimates of log p(x) from K samples are spread, and where their means lie.

    Parameters
    ----------
    log_w
        Logarithms of many weights of one image, ``[N]``, in nats.
    log_p
        The true log p(x).
    sizes
        Numbers of samples K, each a divisor of N.
    """
    estimates = {k: (log_w.double().view(-1, k).logsumexp(1) - math.log(k)).numpy() for k in sizes}
    means = {k: float(values.mean()) for k, values in estimates.items()}
    low = min(float(np.quantile(values, 0.03)) for values in estimates.values())
    high = log_p + 0.28 * (log_p - low)
    said = "; ".join(f"K = {k}: {mean:.2f}" for k, mean in means.items())
    about = (
        "Estimates of log p(x) from K samples each.",
        "One hump for each K, from wide to narrow, towards a dashed line at log p(x) = "
        f"{log_p:.2f} nats. The means lie left of it, and nearer for a larger K. {said}.",
    )
    canvases = []
    for width, left in ((WHOLE, 96), (HALF, 66)):
        canvas = Canvas(width, 66 + 82 * len(sizes), *about)
        grid = np.linspace(low, high, 161)
        for i, (k, values) in enumerate(estimates.items()):
            frame = Frame(left, 34 + 82 * i, width - left - 16, 62, (low, high), (0, 1))
            density = gaussian_kde(values)(grid)
            places = frame.places(grid, 0.94 * density / density.max())
            canvas.area(
                [(frame.left, frame.bottom), *places, (frame.right, frame.bottom)], colour=GUESS
            )
            canvas.curve(places, colour=GUESS)
            canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)
            canvas.text(left - 8, frame.bottom - 20, f"$K$ = {k}", size=SMALL, anchor="end")
            mean = frame.x(means[k])
            canvas.line((mean, frame.bottom), (mean, frame.top + 8), colour=ORANGE, width=LINE)
            canvas.text(
                mean - 5, frame.bottom - 12, f"$L_{{{k}}}$ = {_minus(means[k], 2)}",
                size=SMALL, anchor="end", colour=ORANGE, halo=True,
            )  # fmt: skip
        true = frame.x(log_p)
        canvas.line((true, 26), (true, frame.bottom), colour=TRUTH, dashed=True)
        label = f"$log p(x)$ = {_minus(log_p, 2)}"
        canvas.text(min(true, width - 62), 12, label, size=SMALL, colour=TRUTH)
        canvas.text(frame.right, frame.bottom + 16, "estimate, nats", size=SMALL, anchor="end",
                    colour=QUIET)  # fmt: skip
        canvases.append(canvas)
    return drawing(
        canvases[0],
        narrow=[canvases[1]],
        caption="Estimates of $log p(x)$ for one image, each from $K$ samples of the encoder's "
        "$q$, many times. A single estimate may lie above the true value. Their mean, $L_K$, "
        "cannot: the logarithm takes more from a mean that came out too small than it adds to one "
        "that came out too large.",
    )


# Proposals that are too narrow, right and too wide


def wide_and_narrow(
    place: Place,
    proposals: Mapping[str, tuple[DiagonalNormal, Tensor, Tensor]],
    estimates: Mapping[str, tuple[float, float]],
) -> Drawing:
    """Draw proposals of several widths on one posterior, with the weights of some samples.

    Parameters
    ----------
    place
        The posterior.
    proposals
        Name -> the Gaussian ``[1, 2]``, some of its samples ``[K, 2]``, and their log-weights
        ``[K]``.
    estimates
        Name -> how far its estimate of log p(x) lies from the true value, and its error bar.

    Raises
    ------
    ValueError
        If the names of the two differ.
    """
    if list(proposals) != list(estimates):
        raise ValueError(f"expected the same names, got {list(proposals)} and {list(estimates)}.")
    reach = max(0.5, *(abs(off) + 2 * error for off, error in estimates.values()))

    def panel(name: str, left: float) -> Canvas:
        (q, z, log_w), (off, error) = proposals[name], estimates[name]
        share = torch.softmax(log_w.double(), 0)
        effective = float(1 / share.square().sum())
        canvas = Canvas(
            216, 318, f"A proposal that is {name}.",
            f"Green contours of a posterior, a blue ellipse, and {len(z)} dots whose "
            f"areas are their weights; they count as {effective:.0f}. The estimate is off by "
            f"{off:+.2f} nats, with an error bar of {error:.2f}.",
        )  # fmt: skip
        canvas.text(left + 108, 12, name, bold=True)
        frame = _square(canvas, place, left + 4, 30, 208)
        _posterior(canvas, frame, place)
        _ellipse(canvas, frame, q)
        inside = ((z >= _corner(place, 0)) & (z <= _corner(place, -1))).all(1)
        radii = (14 * share.sqrt()).clamp(min=1.4)[inside]
        places = frame.places(z[inside, 0], z[inside, 1])
        canvas.dots(places, radius=radii.tolist(), colour=GUESS, opacity=0.7)
        scale = Frame(left + 16, 262, 184, 1, (-reach, 0.3 * reach), (0, 1))
        canvas.line((scale.left, 262), (scale.right, 262), width=THIN, colour=FAINT)
        zero, here = scale.x(0), scale.x(off)
        canvas.line((zero, 252), (zero, 272), colour=TRUTH)
        bar = np.array([-2 * error, 2 * error]) + off
        ends = [min(max(scale.x(nats), scale.left), scale.right) for nats in bar]
        canvas.line((ends[0], 262), (ends[1], 262), colour=GUESS)
        canvas.dots([(here, 262)], radius=4, colour=GUESS, opacity=1)
        written = f"{off:+.2f} ± {error:.2f} nats".replace("-", "−")
        canvas.text(left + 108, 286, written, size=SMALL, colour=GUESS)
        counted = f"{len(z)} draws count as {effective:.0f}"
        canvas.text(left + 108, 306, counted, size=SMALL, colour=QUIET)
        return canvas

    return drawing(
        _side_by_side(panel, list(proposals)),
        narrow=[_alone(panel, name) for name in proposals],
        caption="One posterior (green) and three proposals: ellipses at two standard deviations, "
        "and some draws; a dot's area is its share of the weight. Below: how far the estimate from "
        "a thousand draws lies from the true $log p(x)$ (green mark), with two of its own standard "
        "errors.",
    )


def _corner(place: Place, end: int) -> Tensor:
    return torch.stack((place.across[end], place.up[end]))


def _side_by_side(panel: Callable[[str, float], Canvas], names: Sequence[str]) -> Canvas:
    """Draw the panels of all names on one canvas of width WHOLE."""
    lefts = np.linspace(0, WHOLE - 216, len(names)) if len(names) > 1 else [WHOLE / 2 - 108]
    panels = [panel(name, float(left)) for name, left in zip(names, lefts, strict=True)]
    titles = " ".join(each.title for each in panels)
    said = " ".join(each.description for each in panels)
    whole = Canvas(WHOLE, panels[0].height, titles, said)
    for each in panels:
        whole.parts += each.parts
    return whole


def _alone(panel: Callable[[str, float], Canvas], name: str) -> Canvas:
    """Draw the panel of one name in the middle of a canvas of width HALF."""
    drawn = panel(name, (HALF - 216) / 2)
    drawn.width = HALF
    return drawn


# Posteriors and the Gaussians for them


def posteriors(places: Mapping[str, tuple[Place, float, float]]) -> Drawing:
    """Draw the posteriors of some images with the encoder's Gaussian and the best one.

    Parameters
    ----------
    places
        Heading -> the place, and the two gaps in nats: of the Gaussian form, and of the encoder.
    """

    def panel(name: str, left: float) -> Canvas:
        place, form, encoder = places[name]
        canvas = Canvas(
            216, 284, f"The posterior of an image: {name}.",
            "Green contours of a posterior, a solid ellipse of the encoder, and a dashed one of "
            f"the best Gaussian. Gaps: Gaussian form {form:.1f}, encoder {encoder:.1f} nats.",
        )  # fmt: skip
        canvas.text(left + 108, 12, name, bold=True)
        frame = _square(canvas, place, left + 4, 30, 208)
        _posterior(canvas, frame, place)
        _ellipse(canvas, frame, place.q)
        _ellipse(canvas, frame, place.best, dashed=True)
        canvas.text(left + 108, 254, f"encoder {encoder:.1f} nats", size=SMALL, colour=ORANGE)
        canvas.text(left + 108, 274, f"Gaussian form {form:.1f} nats", size=SMALL, colour=BLUE)
        return canvas

    return drawing(
        _side_by_side(panel, list(places)),
        narrow=[_alone(panel, name) for name in places],
        caption="Posteriors of three images (green: regions that hold 50, 90 and 99 %), the "
        "encoder's $q$ (solid) and $q^*$ (dashed), at two standard deviations. Below each, what "
        "the encoder and the Gaussian form take from the ELBO.",
    )


# The gap as a stack


def gap_stack(rows: Mapping[str, tuple[float, float]], *, exact: Sequence[str] = ()) -> Drawing:
    """Draw the gap between log p(x) and the ELBO as a stack of its two parts.

    Parameters
    ----------
    rows
        Name of a model -> gap of the Gaussian form and gap of the encoder, in nats, neither
        negative.
    exact
        Names of the rows whose log p(x) is known, not estimated.

    Raises
    ------
    ValueError
        If a part is negative or not finite, or there is no row.
    """
    if not rows or not all(0 <= part < math.inf for pair in rows.values() for part in pair):
        raise ValueError(f"expected two parts of 0 nats or more for each row, got {dict(rows)}.")
    longest = max(map(sum, rows.values()))
    said = "; ".join(
        f"{name}: form {form:.1f}, encoder {encoder:.1f}" for name, (form, encoder) in rows.items()
    )
    about = (
        "The gap between log p(x) and the ELBO in two parts.",
        f"One bar for each model, in two colours, all starting at log p(x). In nats, {said}.",
    )
    step = 58
    canvases = []
    for width in (WHOLE, HALF):
        canvas = Canvas(width, 64 + step * len(rows), *about)
        room = 1.16 if width == WHOLE else 1.4  # for what is written at the end of a bar
        scale = Frame(18, 30, width - 36, step * len(rows), (0, room * longest), (0, 1))
        for i, (name, (form, encoder)) in enumerate(rows.items()):
            top = 56 + step * i
            canvas.text(24, top - 14, name, size=SMALL, anchor="start", bold=True)
            start, middle, end = (scale.x(value) for value in (0, form, form + encoder))
            for left, right, colour in ((start, middle, BLUE), (middle, end, ORANGE)):
                corners = [(left, top), (right, top), (right, top + 24), (left, top + 24)]
                canvas.area(corners, colour=colour, opacity=0.45)
            end_of_row = f"{form + encoder:.1f}" + ("" if name in exact else " or more")
            canvas.text(end + 5, top + 12, end_of_row, size=SMALL, anchor="start")
            for left, right, value in ((start, middle, form), (middle, end, encoder)):
                if right - left > 26:
                    canvas.text((left + right) / 2, top + 12, f"{value:.1f}", size=SMALL)
        canvas.line((scale.left, 26), (scale.left, scale.bottom + 24), colour=GREEN)
        canvas.text(scale.left, 12, "$log p(x)$", size=SMALL, anchor="start", colour=TRUTH)
        middle = (0.42 if width == WHOLE else 0.5) * width
        canvas.text(middle - 4, 12, "Gaussian form", size=SMALL, anchor="end", colour=BLUE)
        canvas.text(middle + 4, 12, "+ encoder", size=SMALL, anchor="start", colour=ORANGE)
        total = "= gap to the ELBO, nats" if width == WHOLE else "= gap"
        canvas.text(width - 4, 12, total, size=SMALL, anchor="end", colour=QUIET)
        canvases.append(canvas)
    return drawing(
        canvases[0],
        narrow=[canvases[1]],
        caption="From $log p(x)$ down to the ELBO, mean over test images. Blue: what the best "
        "Gaussian leaves, the approximation gap. Orange: what the encoder adds, the amortisation "
        "gap. Where $log p(x)$ is estimated from below, the blue part can only be too short.",
    )
