"""The price of a nat: a sweep over beta on its plane, whose models readers try one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from vaelib.course.drawing import (
    BOLD,
    FAINT,
    GUESS,
    HALF,
    INK,
    MODEL,
    QUIET,
    SMALL,
    SMALLEST,
    THIN,
    Canvas,
    Frame,
    address_of,
)
from vaelib.course.labs.live import LiveFigure, live_figure
from vaelib.course.lesson_4 import linear_rates

ALIVE = 0.05
"""A unit with a lower rate, in nats, is called silent."""

COLUMNS = 10
"""Pictures in a row."""

PLANE_HEIGHT, UNITS_HEIGHT, QUALITY_HEIGHT = 336, 168, 168
"""Heights of the three pictures, in pixels."""

ROOM = 1.08
"""How much further than the data an axis goes."""

QUANTITIES = {
    "distortion": "distortion <i>D</i>",
    "rate": "rate <i>R</i>",
    "loss": "loss <i>D</i> + <i>βR</i>",
    "alive": f"units over {ALIVE:g} nats",
    "mismatch": "mismatch, nats",
    "prior-coverage": "prior covers",
    "mixture-coverage": "mixture covers",
    "prior-precision": "prior looks real",
    "mixture-precision": "mixture looks real",
}
"""What the figure says of a model, and how it is written."""

HIDDEN = tuple(name for name in QUANTITIES if name.endswith(("coverage", "precision")))
"""What it says only after the reader has made a prediction."""

BODY = """
<div class="drawing without-script"><div class="panels">{plane}<div class="price-column">{units}
{quality}</div></div></div>
<fieldset class="price-choices with-script"><legend>price <i>β</i>: choose with a click, a finger or
the arrow keys</legend>{choices}</fieldset>
<div class="price-prediction with-script"><p>Predict before you look: at which price do samples from
the prior cover the most test images? Choose it above.</p><button type="button">My prediction:
<i>β</i> = <span data-number="beta">{beta}</span></button></div>
<p class="price-answer with-script" aria-live="polite"></p>
<dl class="where-q-numbers price-numbers">{numbers}</dl>
<div class="price-pictures">{pictures}</div>
<p class="where-q-summary" aria-live="polite"></p>
"""

ROWS = {
    "originals": "test images",
    "reconstructions": "their reconstructions",
    "prior": "samples from the prior",
    "mixture": "samples from the mixture",
}


def numbers(run: Mapping[str, Any], k: int) -> dict[str, float]:
    """Return what the figure says of the k-th model of a sweep, by the keys of QUANTITIES."""
    distortion, rate = run["test_distortion"][k], run["test_rate"][k]
    return {
        "distortion": distortion,
        "rate": rate,
        "loss": distortion + run["beta"][k] * rate,
        "alive": sum(nats > ALIVE for nats in run["test_rate_per_unit"][k]),
        "mismatch": run["test_mismatch"][k],
        **{name: run[name.replace("-", "_")][k] for name in HIDDEN},
    }


def text_of(name: str, value: float) -> str:
    """Write a number of the figure."""
    if name == "alive":
        return str(int(value))
    if name in HIDDEN:
        return f"{100 * value:.0f} %"
    return f"{value:.{2 if name == 'mismatch' else 1}f}".replace("-", "−")


def price_of_a_nat(
    run: Mapping[str, Any],
    pictures: Mapping[str, Tensor],
    *,
    start: int,
    name: str = "price-of-a-nat",
    caption: str,
) -> LiveFigure:
    """Show the models of a sweep on the plane of rate and distortion, one chosen by its price.

    Readers choose a price, say at which one the samples are best, and then see how good they are.
    Where scripts do not run, the model of the start stands there with all its numbers.

    Parameters
    ----------
    run
        Numbers of the sweep, one for each model, and the thresholds of its units:
        what :func:`~vaelib.course.lesson_4.train_prices` returns.
    pictures
        ``originals`` ``[N, H, W]``, and ``[models, N, H, W]`` of ``reconstructions``, ``prior`` and
        ``mixture``, as whole numbers up to 255.
    start
        Index of the model that is shown at first.
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.

    Raises
    ------
    ValueError
        If there is no such model, prices do not rise, or a model lacks a number or pictures.
    """
    betas = list(run["beta"])
    _check(run, pictures, start)
    plane, units, quality = _frames(run)
    strips = {key: _strips(pictures[key]) for key in ROWS if key != "originals"}
    strips["originals"] = _strips(pictures["originals"].unsqueeze(0)) * len(betas)
    names = list(map(_name, betas))
    return live_figure(
        "price_of_a_nat",
        name=name,
        label="A sweep over beta: the plane of rate and distortion, units, and samples",
        data={
            "betas": betas,
            "names": names,
            "start": start,
            "models": [numbers(run, k) for k in range(len(betas))],
            "units": [sorted(rates, reverse=True) for rates in run["test_rate_per_unit"]],
            "thresholds": run["thresholds"],
            "alive": ALIVE,
            "hidden": HIDDEN,
            "frames": {
                "plane": asdict(plane),
                "units": asdict(units),
                "quality": asdict(quality),
            },
            "strips": {key: strips[key] for key in ROWS if key != "originals"},
        },
        body=BODY.format(
            plane=_plane(run, plane, start).svg(),
            units=_units(run, units, start).svg(),
            quality=_quality(run, quality, start).svg(),
            choices="".join(
                f'<label><input type="radio" name="{name}-price" value="{k}"'
                f"{' checked' if k == start else ''}><span>{beta}</span></label>"
                for k, beta in enumerate(names)
            ),
            beta=names[start],
            numbers="".join(
                f'<div><dt>{QUANTITIES[key]}</dt><dd data-number="{key}">{text_of(key, value)}</dd>'
                "</div>"
                for key, value in numbers(run, start).items()
            ),
            pictures="".join(
                f'<div><img data-row="{key}" src="{strips[key][start]}" '
                f'alt="{title}, β = {names[start]}"><p>{title}</p></div>'
                for key, title in ROWS.items()
            ),
        ),
        caption=caption,
    )


def _check(run: Mapping[str, Any], pictures: Mapping[str, Tensor], start: int) -> None:
    betas = list(run["beta"])
    if not 0 <= start < len(betas) or betas != sorted(set(betas)):
        raise ValueError(f"the start is {start} among the prices {betas}; expected rising prices.")
    keys = ["test_distortion", "test_rate", "test_rate_per_unit", "test_mismatch"]
    keys += [name.replace("-", "_") for name in HIDDEN]
    counts = {key: len(run[key]) for key in keys}
    counts |= {key: len(pictures[key]) for key in ROWS if key != "originals"}
    if set(counts.values()) != {len(betas)}:
        raise ValueError(f"got {counts} of {len(betas)} models; expected one of each for each.")


def _name(beta: float) -> str:
    return f"{beta:g}"


def _frames(run: Mapping[str, Any]) -> tuple[Frame, Frame, Frame]:
    lowest, highest = min(run["test_distortion"]), max(run["test_distortion"])
    low = lowest - 0.15 * (highest - lowest)
    high = highest + 0.08 * (highest - lowest)
    plane = Frame(
        42, 8, HALF - 54, PLANE_HEIGHT - 46, (0.0, ROOM * max(run["test_rate"])), (low, high)
    )
    most = ROOM * max(map(max, run["test_rate_per_unit"]))
    units = Frame(42, 26, HALF - 54, UNITS_HEIGHT - 66, (0.0, len(run["thresholds"])), (0.0, most))
    ends = (-0.4, len(run["beta"]) - 0.6)
    quality = Frame(42, 26, HALF - 54, QUALITY_HEIGHT - 66, ends, (0.0, 1.0))
    return plane, units, quality


def _ticks(end: float) -> list[float]:
    """Return round numbers from 0 up to an end."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if end / s <= 7)
    return [step * i for i in range(int(end / step) + 1)]


def _strips(images: Tensor) -> list[str]:
    """Return the pictures of each model as one PNG, ten in a row."""
    strips = []
    for row in images:
        lines = [torch.cat(list(line), dim=1) for line in row.split(COLUMNS)]
        strips.append(address_of(torch.cat(lines).float() / 255))
    return strips


def _axis(canvas: Canvas, frame: Frame, ticks: Sequence[float], label: str) -> None:
    """Draw the left side of a frame with values."""
    canvas.line((frame.left, frame.top), (frame.left, frame.bottom), width=THIN)
    for tick in ticks:
        canvas.text(
            frame.left - 6, frame.y(tick), f"{tick:g}", size=SMALL, anchor="end", colour=QUIET
        )
    canvas.text(frame.left + 6, frame.top + 4, label, size=SMALL, anchor="start", halo=True)


def _plane(run: Mapping[str, Any], frame: Frame, start: int) -> Canvas:
    """Draw distortion against rate, with the tangent of the model that is shown."""
    now = numbers(run, start)
    canvas = Canvas(
        HALF,
        PLANE_HEIGHT,
        "Distortion against rate of the models of a sweep.",
        f"A falling convex curve with a point for each of {len(run['beta'])} prices, from "
        f"β = {run['beta'][0]:g} at the lower right to {run['beta'][-1]:g} at the upper left. "
        f"A straight line of slope −β touches the point of β = {run['beta'][start]:g} and meets "
        f"the axis of distortion at the loss, {now['loss']:.1f} nats.",
    )
    low, high = frame.y_range
    _axis(canvas, frame, [t for t in _ticks(high) if t >= low], "distortion $D$, nats")
    canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)
    for tick in _ticks(frame.x_range[1]):
        canvas.text(frame.x(tick), frame.bottom + 14, f"{tick:g}", size=SMALL, colour=QUIET)
    canvas.text(frame.right, frame.bottom + 31, "rate $R$, nats", size=SMALL, anchor="end")
    places = frame.places(run["test_rate"], run["test_distortion"])
    canvas.curve(places, width=THIN, colour=QUIET)
    with canvas.part("tangent"):
        canvas.curve(_tangent(frame, run["beta"][start], now["loss"]), colour=GUESS)
    canvas.dots(places, radius=4, opacity=1)
    with canvas.part("intercept", frame.left, frame.y(now["loss"])):
        canvas.circle(0, 0, radius=5, colour=GUESS, width=BOLD)
    with canvas.part("loss-label"):
        label = f"meets the axis at {now['loss']:.1f}, the loss"
        canvas.text(frame.right, 40, label, size=SMALL, anchor="end", colour=GUESS)
    with canvas.part("beta-label", *places[start]):
        canvas.text(12, -14, f"β = {_name(run['beta'][start])}", anchor="start", halo=True)
    canvas.handle(*places[start], colour=MODEL)
    return canvas


def _tangent(frame: Frame, beta: float, loss: float) -> list[tuple[float, float]]:
    """Return the ends of the line of all points with a loss, within a frame."""
    low = frame.y_range[0]
    rate = frame.x_range[1] if beta == 0 else min(frame.x_range[1], (loss - low) / beta)
    return [(frame.left, frame.y(loss)), (frame.x(rate), frame.y(loss - beta * rate))]


def _units(run: Mapping[str, Any], frame: Frame, start: int) -> Canvas:
    """Draw the rate of each unit, beside what linear theory says."""
    beta, thresholds = run["beta"][start], run["thresholds"]
    rates = sorted(run["test_rate_per_unit"][start], reverse=True)
    canvas = Canvas(
        HALF,
        UNITS_HEIGHT,
        "The rate of each unit, in nats.",
        "Bars show the rates of the units, in falling order; outlines the rates of the best linear "
        f"code, whose units die at the prices written below them. At β = {beta:g} the largest rate "
        f"is {rates[0]:.2f} nats.",
    )
    canvas.text(frame.left, 10, "rate of each unit, nats", size=SMALL, anchor="start", bold=True)
    canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)
    for tick in _ticks(frame.y_range[1])[::2]:
        canvas.text(
            frame.left - 6, frame.y(tick), f"{tick:g}", size=SMALL, anchor="end", colour=QUIET
        )
    theory = linear_rates(beta, torch.tensor(thresholds)).tolist() if beta else []
    for i, price in enumerate(thresholds):
        for kind, values, colour in (("unit", rates, MODEL), ("theory", theory, INK)):
            nats = values[i] if i < len(values) else 0.0
            top = frame.y(min(nats, frame.y_range[1]))
            fill = f'fill="{colour}"' if kind == "unit" else f'fill="none" stroke="{colour}"'
            canvas.parts.append(
                f'<rect class="{kind}" x="{frame.x(i) + 2:.2f}" y="{top:.2f}" '
                f'width="{frame.width / len(thresholds) - 4:.2f}" '
                f'height="{frame.bottom - top:.2f}" {fill}/>'
            )
        place = frame.x(i + 0.5), frame.bottom + 13
        canvas.text(*place, f"{price:.0f}", size=SMALLEST, colour=QUIET)
    canvas.text(
        frame.right, frame.bottom + 30, "outline: linear code, dies at", size=SMALL, anchor="end"
    )
    return canvas


def _quality(run: Mapping[str, Any], frame: Frame, start: int) -> Canvas:
    """Draw the coverage of samples against the price."""
    betas = run["beta"]
    best = max(range(len(betas)), key=run["prior_coverage"].__getitem__)
    canvas = Canvas(
        HALF,
        QUALITY_HEIGHT,
        "The share of test images that samples cover, for each price.",
        f"Two curves over the {len(betas)} prices: samples from the prior and from the mixture. "
        f"Those from the prior cover the most at β = {betas[best]:g}.",
    )
    canvas.text(
        frame.left, 10, "test images that samples cover", size=SMALL, anchor="start", bold=True
    )
    canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)
    for tick, label in ((0.0, "0"), (0.5, "50 %"), (1.0, "100 %")):
        canvas.line(
            (frame.left, frame.y(tick)), (frame.right, frame.y(tick)), width=THIN, colour=FAINT
        )
        canvas.text(frame.left - 4, frame.y(tick), label, size=SMALLEST, anchor="end", colour=QUIET)
    for k, beta in enumerate(betas):
        canvas.text(
            frame.x(k),
            frame.bottom + 13,
            _name(beta).replace("0.", "."),
            size=SMALLEST,
            colour=QUIET,
        )
    canvas.text(frame.right, frame.bottom + 30, "price $β$", size=SMALL, anchor="end")
    with canvas.part("answer"):
        for key, colour in (("mixture", GUESS), ("prior", MODEL)):
            shares = run[f"{key}_coverage"]
            places = frame.places(range(len(betas)), shares)
            canvas.curve(places, colour=colour)
            canvas.dots(places, radius=3, colour=colour, opacity=1)
            below = frame.y(sum(shares[:3]) / 3) + 15
            canvas.text(
                frame.x(0.2),
                below,
                f"from the {key}",
                size=SMALL,
                colour=colour,
                anchor="start",
                halo=True,
            )
    with canvas.part("now-line", frame.x(start), 0):
        canvas.line((0, frame.top), (0, frame.bottom), width=THIN, dashed=True)
    with canvas.part("question", shown=False):
        canvas.text(
            frame.x((len(betas) - 1) / 2), frame.y(0.5), "predict first", size=SMALL, halo=True
        )
    return canvas
