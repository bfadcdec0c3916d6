r"""One pixel: its loss as a distribution, whose scale readers move, and the beta that it implies.

The pixel differs from its mean over the images by :data:`CONTRAST`, typically. A linear Gaussian
code brings the typical error of its prediction down to any e below that, for
:math:`\log(\text{CONTRAST} / e)` nats: the least that any code can do it for, and what a linear
VAE pays.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np

from vaelib.course.drawing import (
    BOLD,
    FAINT,
    GUESS,
    HALF,
    INK,
    LINE,
    MODEL,
    QUIET,
    SMALL,
    THIN,
    Canvas,
    Frame,
)
from vaelib.course.labs.live import LiveFigure, live_figure

VALUE, MEAN = 0.8, 0.3
"""The pixel, and its mean over all images: what a decoder without a code predicts."""

CONTRAST = VALUE - MEAN
"""The typical distance of the pixel from its mean, and the error of a decoder without a code."""

SCALE, ERROR = 0.3, 0.2
"""Where the figure starts."""

SCALES, ERRORS = (0.03, 1.0), (0.01, CONTRAST)
"""How far the scale s and the error e can be moved."""

STEPS = 70
"""Steps of the scale's slider, each by the same factor."""

PIXELS = 784
"""Of an image, for the beta of a loss that is averaged over them."""

HEIGHT, X_RANGE, NATS = 236, (-0.25, 1.25), (-3.0, 4.2)
"""Height of the pictures in pixels, the grey values and the nats that they show."""

BODY = """
<div class="drawing without-script"><div class="panels">{density}{costs}</div></div>
<dl class="where-q-numbers">{numbers}</dl>
<div class="with-script where-q-controls">
<label><span>scale <i>s</i> = <span data-number="scale">{scale:.3f}</span></span>
<input type="range" name="scale" min="0" max="{steps}" step="1" value="{step}"
aria-label="scale s of the decoder"></label>
<label><span>error <i>e</i> = <span data-number="error">{error:.3f}</span></span>
<input type="range" name="error" min="{errors[0]}" max="{errors[1]}" step="0.01" value="{error}"
aria-label="error e of the prediction"></label>
<button type="button">Best prediction for this <i>s</i></button>
<p class="where-q-summary" aria-live="polite"></p>
</div>
"""

NAMES = {
    "distortion": "distortion",
    "rate": "rate",
    "total": "their sum",
    "best": "best <i>e</i>",
    "beta": "<i>β</i> = <i>s</i>²",
    "beta-mean": "<i>β</i> = 2<i>s</i>²/784",
}
"""What the figure says, and how it is written."""


def distortion(error: float, scale: float) -> float:
    """Return the cost of a pixel under a Gaussian, in nats, if the prediction is off by an error.

    A density may exceed one, so that the cost may be negative.
    """
    return error**2 / (2 * scale**2) + math.log(scale * math.sqrt(2 * math.pi))


def rate(error: float) -> float:
    """Return what a code costs, in nats, that leaves a typical error."""
    return math.log(CONTRAST / error)


def best_error(scale: float) -> float:
    """Return the error at which distortion and rate are least together.

    The derivative of their sum, ``error / scale**2 - 1 / error``, vanishes at the scale; where no
    code is worth its price, the best prediction is the mean.
    """
    return min(scale, CONTRAST)


def numbers(error: float, scale: float) -> dict[str, float]:
    """Return what the figure says for an error and a scale, by the keys of :data:`NAMES`."""
    return {
        "distortion": distortion(error, scale),
        "rate": rate(error),
        "total": distortion(error, scale) + rate(error),
        "best": best_error(scale),
        "beta": scale**2,
        "beta-mean": 2 * scale**2 / PIXELS,
    }


def pixel_loss(*, name: str = "pixel-loss", caption: str) -> LiveFigure:
    """Show the density that a decoder states for one pixel, and what error and code cost.

    Readers move the scale and the prediction. Where scripts do not run, the start stands there
    with its numbers.

    Parameters
    ----------
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.
    """
    start = numbers(ERROR, SCALE)
    density = Frame(12, 0, HALF - 24, HEIGHT - 34, X_RANGE, (0.0, 4.0))
    costs = Frame(38, 0, HALF - 58, HEIGHT - 34, (CONTRAST, 0.0), NATS)
    return live_figure(
        "pixel_loss",
        name=name,
        label="One pixel under a Gaussian decoder: its density, and the cost of error and code",
        data={
            "value": VALUE,
            "contrast": CONTRAST,
            "start": [ERROR, SCALE],
            "scales": SCALES,
            "steps": STEPS,
            "errors": ERRORS,
            "pixels": PIXELS,
            "density": asdict(density),
            "costs": asdict(costs),
        },
        body=BODY.format(
            density=_density(density).svg(),
            costs=_costs(costs, start).svg(),
            numbers=_table(start),
            scale=SCALE,
            steps=STEPS,
            step=round(STEPS * math.log(SCALE / SCALES[0]) / math.log(SCALES[1] / SCALES[0])),
            error=ERROR,
            errors=ERRORS,
        ),
        caption=caption,
    )


def text_of(key: str, value: float) -> str:
    """Write a number of the figure."""
    digits = {"best": 3, "beta": 4, "beta-mean": 7}.get(key, 2)
    return f"{value:.{digits}f}".replace("-", "−")


def _table(values: dict[str, float]) -> str:
    return "".join(
        f'<div><dt>{NAMES[key]}</dt><dd data-number="{key}">{text_of(key, value)}</dd></div>'
        for key, value in values.items()
    )


def _density(frame: Frame) -> Canvas:
    """Draw the density around the prediction; a high peak leaves the picture."""
    canvas = Canvas(
        HALF,
        HEIGHT,
        "The density that the decoder states for one pixel.",
        f"A bell of width {SCALE:g} stands over the prediction, {VALUE - ERROR:g}. The pixel, "
        f"{VALUE:g}, lies beside it; what the bell says there is its likelihood. The mean of the "
        f"pixel over all images is {MEAN:g}.",
    )
    floor = frame.bottom
    canvas.line((frame.left, floor), (frame.right, floor), width=THIN)
    for tick in (0.0, 0.5, 1.0):
        canvas.text(frame.x(tick), floor + 14, f"{tick:g}", size=SMALL, colour=QUIET)
    canvas.text(frame.right, floor + 14, "$x$", anchor="end")
    canvas.text(frame.x(0.04), floor + 27, "black", size=SMALL, colour=QUIET)
    canvas.text(frame.x(0.96), floor + 27, "white", size=SMALL, colour=QUIET)
    for place, label, colour in ((MEAN, "mean", QUIET), (VALUE, "the pixel", INK)):
        canvas.line((frame.x(place), 26), (frame.x(place), floor), colour=colour, width=THIN)
        canvas.text(frame.x(place), 14, label, size=SMALL, colour=colour, halo=True)
    middle, top = VALUE - ERROR, 1 / (SCALE * math.sqrt(2 * math.pi))
    x = (middle + SCALE * np.linspace(-4, 4, 81)).clip(*frame.x_range)
    bell = frame.places(x, top * np.exp(-(((x - middle) / SCALE) ** 2) / 2))
    with canvas.part("bell"):
        canvas.area([(bell[0, 0], floor), *bell, (bell[-1, 0], floor)], colour=MODEL)
        canvas.curve(bell, colour=MODEL)
    said = top * math.exp(-((ERROR / SCALE) ** 2) / 2)
    with canvas.part("said", frame.x(VALUE), frame.y(said)):
        canvas.dots([(0, 0)], radius=4.5, opacity=1)
    with canvas.part("prediction", frame.x(middle), floor):
        canvas.text(0, -12, "$xˆ$", colour=MODEL, halo=True)
    canvas.handle(frame.x(middle), frame.y(top), colour=MODEL)
    return canvas


def _costs(frame: Frame, start: dict[str, float]) -> Canvas:
    """Draw distortion, rate and their sum against the error; the picture ends at its upper edge."""
    canvas = Canvas(
        HALF,
        HEIGHT,
        "What a prediction costs, in nats, against its error.",
        "From left to right the error falls from 0.5, the error without a code, to 0. The "
        "distortion falls, the rate rises without end, and their sum has its least value at "
        f"e = {start['best']:g}. At the start the sum is {start['total']:.2f}.",
    )
    canvas.line((frame.left, frame.top), (frame.left, frame.bottom), width=THIN, colour=FAINT)
    for tick in range(math.ceil(NATS[0] + 0.2), math.floor(NATS[1])):
        mark = f"{tick}".replace("-", "−")
        canvas.text(frame.left - 6, frame.y(tick), mark, size=SMALL, anchor="end", colour=QUIET)
    canvas.line((frame.left, frame.y(0)), (frame.right, frame.y(0)), width=THIN, colour=FAINT)
    canvas.text(frame.left - 6, 10, "nats", size=SMALL, anchor="end", colour=QUIET)
    for tick, label in ((CONTRAST, f"{CONTRAST:g}: no code"), (0.25, "0.25"), (0.0, "0")):
        anchor = "start" if tick == CONTRAST else "middle"
        place = frame.x(tick) - (14 if anchor == "start" else 0)
        canvas.text(place, frame.bottom + 14, label, size=SMALL, anchor=anchor, colour=QUIET)
    canvas.text(frame.x(0.125), frame.bottom + 14, "error $e$", size=SMALL)
    errors = np.linspace(CONTRAST, ERRORS[0], 99)
    for name, colour, width in (
        ("rate", GUESS, LINE),
        ("distortion", MODEL, LINE),
        ("total", INK, BOLD),
    ):
        values = [numbers(e, SCALE)[name] for e in errors]
        with canvas.part(f"{name}-curve"):
            canvas.curve(frame.places(errors, values), colour=colour, width=width)
    best = start["best"]
    with canvas.part("best", frame.x(best), frame.y(numbers(best, SCALE)["total"])):
        canvas.circle(0, 0, radius=6)
        canvas.text(0, -18, "best", halo=True)
    with canvas.part("total-label", frame.x(0.46), frame.y(numbers(0.46, SCALE)["total"])):
        canvas.text(0, -14, "sum", halo=True)
    with canvas.part("now", frame.x(ERROR), frame.y(start["total"])):
        canvas.dots([(0, 0)], radius=4.5, opacity=1)
    with canvas.part("rate-label", frame.x(0.04), frame.y(rate(0.04))):
        canvas.text(-8, 0, "rate", anchor="end", colour=GUESS, halo=True)
    middle = distortion(0.1, SCALE)
    with canvas.part("distortion-label", frame.x(0.1), frame.y(middle)):
        canvas.text(0, 14, "distortion", colour=MODEL, halo=True)
    return canvas
