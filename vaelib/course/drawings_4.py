"""The drawings of lesson 4: beta as a price, units as goods, and codes beside the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vaelib.course.drawing import (
    BLUE,
    BOLD,
    FAINT,
    GREEN,
    GUESS,
    HALF,
    INK,
    MODEL,
    NOISE,
    PRIOR,
    PURPLE,
    QUIET,
    SMALL,
    SMALLEST,
    THIN,
    WHOLE,
    Canvas,
    Drawing,
    Frame,
    drawing,
)
from vaelib.course.lesson_4 import linear_rates
from vaelib.schedules import Schedule, cyclical, linear

FLOOR, REACH, FALL = 2.0, 8.0, 2.4
"""The curve that is drawn: distortion FLOOR + REACH * exp(-rate / FALL), without a unit."""

LOW, HIGH = 0.55, 2.2
"""The two prices of the drawing of two tangents."""

LEAST = 4.0
"""The price at which the drawing of goods begins."""


# Two tangents


def curve_at(rate: float) -> float:
    """Return the distortion of the curve that is drawn."""
    return FLOOR + REACH * math.exp(-rate / FALL)


def touching(price: float) -> float:
    """Return the rate at which a line of slope −price touches the curve."""
    return FALL * math.log(REACH / (FALL * price))


def two_tangents() -> Drawing:
    """Draw a line of equal loss that is moved down to the curve, and the tangents of two prices."""
    left = Canvas(
        HALF,
        270,
        "Lines of equal loss, and the one that touches the curve.",
        "A convex curve falls from the upper left to the lower right; above it lies what models "
        "can reach. Three parallel lines of slope minus beta: one crosses the curve, one lies "
        "below it, and one touches it at a point. It meets the axis of distortion at the loss.",
    )
    frame = _plane(left)
    rate = touching(1.0)
    loss = curve_at(rate) + rate
    for offset, width in ((2.0, THIN), (-1.2, THIN), (0.0, BOLD)):
        level = loss + offset
        end = min(frame.x_range[1], level)
        colour, dashed = (GUESS, False) if offset == 0 else (QUIET, True)
        left.line(
            (frame.x(0), frame.y(level)),
            (frame.x(end), frame.y(level - end)),
            colour=colour,
            width=width,
            dashed=dashed,
        )
    left.dots([(frame.x(rate), frame.y(curve_at(rate)))], radius=5, colour=MODEL, opacity=1)
    left.text(frame.x(rate) + 10, frame.y(curve_at(rate)) - 14, "bought", anchor="start")
    left.circle(frame.x(0), frame.y(loss), radius=5, colour=GUESS, width=BOLD)
    left.text(frame.x(0) + 10, frame.y(loss) + 30, "loss", anchor="start", colour=GUESS, halo=True)
    left.text(frame.x(4.6), frame.y(8.2), "what models can reach", size=SMALL, colour=QUIET)
    left.heading("One price")

    right = Canvas(
        HALF,
        270,
        "The tangents of two prices, and the chord between their points.",
        "The steep line of the higher price touches the curve at point 2, at the upper left; the "
        "flat line of the lower price at point 1, further to the right and below. The dashed chord "
        "from 1 to 2 is steeper than the flat tangent and flatter than the steep one.",
    )
    frame = _plane(right)
    places = []
    for price, colour in ((LOW, GREEN), (HIGH, PURPLE)):
        rate = touching(price)
        loss = curve_at(rate) + price * rate
        end = min(frame.x_range[1], loss / price)
        right.line(
            (frame.x(0), frame.y(loss)),
            (frame.x(end), frame.y(loss - price * end)),
            colour=colour,
            width=BOLD,
        )
        places.append((frame.x(rate), frame.y(curve_at(rate))))
    right.line(*places, dashed=True)
    for place, label in zip(places, "12", strict=True):
        right.dots([place], radius=5, opacity=1)
        right.text(place[0] + 12, place[1] - 12, label, bold=True)
    right.text(frame.x(5.9), frame.y(3.9), "slope $−β_1$", size=SMALL, colour=GREEN)
    right.text(
        frame.x(0.4), frame.y(1.1), "slope $−β_2$", size=SMALL, colour=PURPLE, anchor="start"
    )
    right.text(
        frame.x(2.8), frame.y(6.4), "price paid\nbetween 1 and 2", size=SMALL, anchor="start"
    )
    right.heading("Two prices")
    return drawing(
        left,
        right,
        caption="Left: all points with the same loss $D + βR$ lie on a line of slope $−β$. "
        "Training moves the line down until it only touches; where it meets the axis one reads the "
        "loss. "
        "Right: neither model may lie below the other's line, so that the chord between them "
        "cannot be flatter than $β_1$ nor steeper than $β_2$.",
    )


def _plane(canvas: Canvas) -> Frame:
    frame = Frame(40, 30, HALF - 60, 200, (0.0, 8.0), (0.0, 11.0))
    rates = np.linspace(0, 8, 81)
    places = frame.places(rates, [curve_at(rate) for rate in rates])
    corners = (frame.right, frame.top), (frame.left, frame.top)
    canvas.area([*places, *corners], colour=INK, opacity=0.07)
    canvas.curve(places)
    canvas.axes(frame)
    canvas.text(frame.right, frame.bottom + 16, "rate $R$", anchor="end")
    canvas.text(frame.left - 14, frame.top + 8, "$D$")
    return frame


# Units as goods


def goods(prices: Sequence[float], directions: Tensor) -> Drawing:
    """Draw the rates of linear units against the price, and what each of them would paint.

    Parameters
    ----------
    prices
        The thresholds of the units, falling, all above :data:`LEAST`.
    directions
        One image ``[H, W]`` for each, in any unit, which is drawn around middle grey.

    Raises
    ------
    ValueError
        If there is not one image for each price, or a price is not on the axis.
    """
    prices = [float(price) for price in prices]
    if len(prices) != len(directions) or not all(price > LEAST for price in prices):
        raise ValueError(
            f"got {len(directions)} images for the prices {prices}; expected one for each, and "
            f"prices above {LEAST:g}."
        )
    said = ", ".join(f"{price:.1f}" for price in prices)
    about = (
        "Units as goods with their own thresholds.",
        f"On a logarithmic axis of the price, {len(prices)} straight lines fall with the same "
        f"slope and reach zero at {said}. Below each end hangs the direction of pixels that the "
        "unit describes.",
    )
    wide, narrow = Canvas(WHOLE, 314, *about), Canvas(HALF, 314, *about)
    for canvas in (wide, narrow):
        ends = math.log(0.9 * LEAST), math.log(1.3 * prices[0])
        frame = Frame(46, 16, canvas.width - 70, 160, ends, (0.0, 1.15))
        canvas.axes(frame)
        canvas.text(frame.left + 8, frame.top, "nats of a unit", size=SMALL, anchor="start")
        for tick in (0, 0.5, 1):
            canvas.text(
                frame.left - 6, frame.y(tick), f"{tick:g}", size=SMALL, anchor="end", colour=QUIET
            )
        for tick in (4, 8, 16, 32):
            if tick < math.exp(ends[1]):
                place = frame.x(math.log(tick))
                canvas.line((place, frame.bottom), (place, frame.bottom + 4), width=THIN)
                canvas.text(
                    place, frame.bottom + 14, f"{tick}", size=SMALL, colour=QUIET, halo=True
                )
        _hang(canvas, frame, prices, directions)
        canvas.text(frame.left - 40, frame.bottom + 34, "price $β$", size=SMALL, anchor="start")
    return drawing(
        wide,
        narrow=[narrow],
        caption="Each unit of a linear code is bought until another nat saves less than its "
        "price, and dies at a threshold of its own. Below: the change of the pixels that the unit "
        "stands for. The thresholds are computed from the pixels; nothing has been trained.",
    )


def _hang(canvas: Canvas, frame: Frame, prices: Sequence[float], directions: Tensor) -> None:
    """Draw the lines, and a row of pictures below, each joined to the end of its line."""
    step = min(92.0, (canvas.width - 8) / len(prices))
    size = step - 6
    last = canvas.width - 4 - step / 2
    for i, (price, image) in enumerate(zip(prices, directions, strict=True)):
        end = frame.x(math.log(price)), frame.bottom
        start = frame.left, frame.y(0.5 * (math.log(price) - frame.x_range[0]))
        canvas.line(start, end, colour=MODEL)
        x, top = last - step * i, 288 - size
        canvas.line(end, (x, top), width=THIN, colour=QUIET)
        canvas.image(x, top + size / 2, size, 0.5 + 0.5 * image / image.abs().max())
        canvas.text(x, 301, f"{price:.1f}", size=SMALLEST)


# Codes beside the prior


def codes_beside_the_prior(*, seed: int = 0) -> Drawing:
    """Draw posteriors over the prior, for a price of zero, of one, and above the threshold."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * math.pi, 26), 2.0 + 0.8 * rng.random(26)
    scattered = np.stack([radius * np.cos(angle), 0.9 * radius * np.sin(angle)], 1)
    packed = rng.normal(0, 0.93, (26, 2))
    panels = (
        ("$β$ = 0", scattered, 0.05, "points, off the prior"),
        ("$β$ = 1", packed, 0.3, "clouds that fill the prior"),
        ("above $β^*$", np.zeros((26, 2)), 1.0, "all the same: the prior"),
    )
    canvases = []
    wide = Canvas(
        WHOLE,
        250,
        "Posteriors over the prior, for three prices.",
        "Three planes with a dashed circle for the prior. At beta 0 the posteriors are small dots "
        "on a ring outside of the circle, and the middle is empty. At beta 1 they are discs that "
        "fill the circle. Above the threshold all of them are one disc, as large as the circle.",
    )
    for i, panel in enumerate(panels):
        _posteriors(wide, 114.7 + 229.3 * i, *panel)
        alone = Canvas(HALF, 250, f"Posteriors over the prior: {panel[0]}.", wide.description)
        _posteriors(alone, HALF / 2, *panel)
        canvases.append(alone)
    return drawing(
        wide,
        narrow=canvases,
        caption="What is lost at a price of zero. Each blue shape is $q(z | x)$ of one image, the "
        "dashed circle is the prior, two standard deviations wide. The generator draws from the "
        "circle. Left, the decoder has never seen its middle; right, it has seen nothing else, and "
        "nothing in it says which image was meant.",
    )


def _posteriors(
    canvas: Canvas, x: float, title: str, centres: np.ndarray, sigma: float, note: str
) -> None:
    unit = 34.0
    y = 126.0
    for dx, dy in centres[: 1 if sigma == 1 else None]:
        width = max(2 * sigma * unit, 2.6)
        canvas.circle(
            x + unit * dx, y + unit * dy, radius=width, observed=True, colour=GUESS, width=THIN
        )
    ring = np.linspace(0, 2 * math.pi, 73)
    canvas.curve(
        [(x + 2 * unit * math.cos(t), y + 2 * unit * math.sin(t)) for t in ring],
        colour=PRIOR,
        dashed=True,
    )
    canvas.text(x, 12, title, bold=True)
    canvas.text(x, 238, note, size=SMALL)


# Predicted and trained


def predicted_and_trained(sweeps: Mapping[str, Sequence[Mapping]]) -> Drawing:
    """Draw the rate of trained models on the rate of the best linear code, for each price.

    Parameters
    ----------
    sweeps
        Name of a likelihood -> the runs of its sweep, one for each seed, with ``beta``,
        ``test_rate`` and ``thresholds``.
    """
    canvases = []
    for name, runs in sweeps.items():
        thresholds = torch.tensor(runs[0]["thresholds"], dtype=torch.float64)
        last = float(thresholds[0])
        betas = [beta for beta in runs[0]["beta"] if 0 < beta < last]
        pairs = []
        for beta in betas:
            k = runs[0]["beta"].index(beta)
            trained = np.mean([run["test_rate"][k] for run in runs])
            pairs.append(
                f"{beta:g}: {float(linear_rates(beta, thresholds).sum()):.2f}/{trained:.2f}"
            )
        canvas = Canvas(
            HALF,
            290,
            f"Predicted and trained rate under a {name}.",
            "On two logarithmic axes, price across and rate upwards, a curve of linear theory "
            f"falls to zero at {last:.1f}. Dots are trained models. Predicted and trained nats: "
            + ", ".join(pairs)
            + ".",
        )
        x_range = (math.log(0.7 * betas[0]), math.log(1.6 * last))
        frame = Frame(46, 34, HALF - 62, 206, x_range, (math.log(0.02), math.log(200)))
        canvas.heading(f"{name}, dies at {last:.1f}")
        canvas.axes(frame)
        canvas.text(frame.right, frame.bottom + 32, "price $β$", size=SMALL, anchor="end")
        canvas.text(frame.left + 6, frame.top + 2, "rate, nats", size=SMALL, anchor="start")
        for nats in (0.1, 1, 10, 100):
            y = frame.y(math.log(nats))
            canvas.line((frame.left, y), (frame.right, y), width=THIN, colour=FAINT)
            canvas.text(frame.left - 5, y, f"{nats:g}", size=SMALL, anchor="end", colour=QUIET)
        for power in range(-2, 2):
            if x_range[0] < math.log(10.0**power) < x_range[1]:
                place = frame.x(math.log(10.0**power))
                canvas.text(place, frame.bottom + 14, f"{10.0**power:g}", size=SMALL, colour=QUIET)
        dense = np.exp(np.linspace(math.log(betas[0]), math.log(last), 400))
        theory = np.array([float(linear_rates(beta, thresholds).sum()) for beta in dense])
        seen = theory > 0.021
        canvas.curve(frame.places(np.log(dense[seen]), np.log(theory[seen])), width=THIN)
        edge = frame.x(math.log(last))
        canvas.line((edge, frame.top + 10), (edge, frame.bottom), width=THIN, dashed=True)
        for run in runs:
            rates = [run["test_rate"][run["beta"].index(beta)] for beta in betas]
            places = frame.places(np.log(betas), np.log(np.maximum(rates, 0.021)))
            canvas.dots(places, radius=4, colour=MODEL, opacity=0.6)
        canvases.append(canvas)
    return drawing(
        *canvases,
        caption="The rate that linear theory computes from the pixels (line) and what networks "
        "have learned (dots; three seeds, mostly on top of one another), for every price below "
        "the threshold (dashed).",
    )


# Remedies


def remedies(free: float = 0.1) -> Drawing:
    """Draw the price over the training under three schedules, and the cost of a unit's nats."""
    schedules: tuple[tuple[str, Schedule], ...] = (
        ("constant", lambda progress: 1.0),
        ("annealing", linear(0.0, 1.0, over=0.5)),
        ("cyclical", cyclical(1.0)),
    )
    about = (
        "Three schedules of the price, and free bits.",
        "The price over the training: constant; rising in a straight line to its value over the "
        "first half; rising and staying four times. Last, what a unit pays for its nats: nothing "
        f"more up to {free:g} nats, then in proportion.",
    )
    wide = Canvas(WHOLE, 150, *about)
    narrow = [Canvas(HALF, 150, *about) for _ in range(2)]
    for i in range(4):
        for canvas, left in ((wide, 16 + 172 * i), (narrow[i // 2], 8 + 168 * (i % 2))):
            frame = Frame(left + 8, 34, 136, 80, (0.0, 1.0), (0.0, 1.12))
            canvas.axes(frame)
            name = schedules[i][0] if i < 3 else "free bits"
            canvas.text(frame.left + 68, 12, name, bold=True)
            if i < 3:
                progress = np.linspace(0, 0.9999, 400)
                values = [schedules[i][1](float(p)) for p in progress]
                canvas.curve(frame.places(progress, values), colour=BLUE)
                canvas.text(frame.left + 68, frame.bottom + 15, "training", size=SMALL)
                canvas.text(frame.left + 6, frame.top - 6, "price", size=SMALL, anchor="start")
            else:
                canvas.curve(frame.places([0, 0.25, 1], [0.25, 0.25, 1.0]), colour=NOISE)
                canvas.text(frame.left + 68, frame.bottom + 15, "nats of a unit", size=SMALL)
                canvas.text(frame.left + 6, frame.top - 6, "it pays", size=SMALL, anchor="start")
                canvas.text(frame.x(0.25), frame.y(0.25) + 12, f"{free:g}", size=SMALLEST)
    return drawing(
        wide,
        narrow=narrow,
        caption="Four ways to charge for a code. Annealing and cycles begin with a code that costs "
        f"nothing; free bits charge each unit for {free:g} nats whether it uses them or not, so "
        "that nothing pulls it to the prior below that.",
    )
