"""Where q goes: a Gaussian that readers move over a posterior that no Gaussian can equal."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from vaelib.course import one_number
from vaelib.course.drawing import (
    BOLD,
    FAINT,
    GUESS,
    HALF,
    INK,
    LINE,
    NOISE,
    PRIOR,
    QUIET,
    SMALL,
    THIN,
    TRUTH,
    Canvas,
    Frame,
)
from vaelib.course.labs.live import LiveFigure, live_figure

MU, LOG_SIGMA, DRAWS = 0.0, -0.7, 10
"""The start: between the peaks, and the number of draws of the importance-weighted bound."""

SIGMA = math.exp(LOG_SIGMA)

MU_RANGE, LOG_SIGMA_RANGE = (-2.5, 2.5), (-3.0, 0.4)
"""How far the sliders go."""

CHOICES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of draws."""

X_RANGE, Z_RANGE = (0.5, 2.5), (-3.0, 3.0)
"""For which x the posterior has two peaks that the picture can hold, and what z it shows."""

HEIGHT, NATS = 236, 5
"""Height of the picture in pixels, and how many nats below log p(x) it shows."""

BARS, BAR_WIDTH, GAP_AT, ROOM = {"elbo": 48, "bound": 228}, 96, 160, 38
"""Left ends of the bars, their width, where KL stands, and the height of a label, in pixels."""

BODY = """
<div class="drawing without-script"><div class="panels">{densities}{nats}</div></div>
<dl class="where-q-numbers">{numbers}</dl>
<div class="with-script where-q-controls">
<label><span>mean <i>μ</i> = <span data-number="mu">{mu:.2f}</span></span>
<input type="range" name="mu" min="{mu_range[0]}" max="{mu_range[1]}" step="0.05" value="{mu}"
aria-label="mean μ of q"></label>
<label><span>width <i>σ</i> = <span data-number="sigma">{sigma:.2f}</span></span>
<input type="range" name="sigma" min="{log_sigma_range[0]}" max="{log_sigma_range[1]}" step="0.05"
value="{log_sigma}" aria-label="width σ of q"></label>
<label><span>draws <i>K</i> = <span data-number="draws">{draws}</span></span>
<input type="range" name="draws" min="0" max="{last}" step="1" value="{choice}"
aria-label="draws K"></label>
<button type="button">Let it climb</button>
<p class="where-q-summary" aria-live="polite"></p>
</div>
"""


def where_q_goes(
    x: float = one_number.X, *, name: str = "where-q-goes", caption: str
) -> LiveFigure:
    """Show q over the posterior of :mod:`vaelib.course.one_number`, and what its place costs.

    Readers move q, choose the number K of draws, and let the ELBO climb. Where scripts do not
    run, the start stands there with its numbers.

    Parameters
    ----------
    x
        The observation, between 0.5 and 2.5.
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.

    Raises
    ------
    ValueError
        If x is not between 0.5 and 2.5.
    """
    if not X_RANGE[0] <= x <= X_RANGE[1]:
        raise ValueError(
            f"x is {x}; expected a number from {X_RANGE[0]} to {X_RANGE[1]}, for which the "
            "posterior has two peaks in the picture."
        )
    numbers = _numbers(x)
    peaks = _peaks(x)
    # There is room for the posterior and for the best q; a narrower q leaves the picture.
    best = 1 / (math.sqrt(2 * math.pi) * one_number.climb(x, 1.0, 0.3)[-1, 1].item())
    highest = 1.2 * max(best, peaks[1][1])
    densities = Frame(14, 0, HALF - 28, HEIGHT - 30, Z_RANGE, (0.0, highest))
    log_px = numbers["log-px"]
    nats = Frame(34, 30, HALF - 46, HEIGHT - 30, (0.0, 1.0), (log_px - NATS, log_px + 0.55))
    return live_figure(
        "where_q_goes",
        name=name,
        label="A Gaussian q over a posterior with two peaks, its ELBO and its distance",
        data={
            "x": x,
            "shift": one_number.SHIFT,
            "noise": one_number.NOISE,
            "grids": {
                "z": _ends(one_number.Z_GRID),
                "u": _ends(one_number.U_GRID),
                "v": _ends(one_number.V_GRID),
            },
            "start": [MU, SIGMA, DRAWS],
            "choices": CHOICES,
            "sigmas": [math.exp(end) for end in LOG_SIGMA_RANGE],
            "peaks": peaks,
            "besides": [_beside(z) for z, _ in peaks],
            "densities": asdict(densities),
            "nats": asdict(nats),
            "bars": BARS,
            "barWidth": BAR_WIDTH,
            "gapAt": GAP_AT,
            "room": ROOM,
        },
        body=BODY.format(
            densities=_densities(x, densities, peaks).svg(),
            nats=_nats(nats, numbers).svg(),
            numbers=_table(numbers),
            mu=MU,
            mu_range=MU_RANGE,
            sigma=SIGMA,
            log_sigma=LOG_SIGMA,
            log_sigma_range=LOG_SIGMA_RANGE,
            draws=DRAWS,
            choice=CHOICES.index(DRAWS),
            last=len(CHOICES) - 1,
        ),
        caption=caption,
    )


def _numbers(x: float) -> dict[str, float]:
    """Return what the figure says at its start."""
    q = x, MU, SIGMA
    values = {
        "distortion": one_number.distortion(*q),
        "rate": one_number.kl_to_prior(MU, SIGMA),
        "elbo": one_number.elbo(*q),
        "kl": one_number.kl_to_posterior(*q),
        "log-px": one_number.log_px(x),
        "bound": one_number.importance_bound(*q, DRAWS),
    }
    return {key: value.item() for key, value in values.items()}


def _table(numbers: dict[str, float]) -> str:
    names = {
        "distortion": "distortion",
        "rate": "rate",
        "elbo": "ELBO",
        "kl": "KL(<i>q</i> ‖ <i>p</i>(<i>z</i> | <i>x</i>))",
        "log-px": "log <i>p</i>(<i>x</i>)",
        "bound": "bound for <i>K</i>",
    }
    return "".join(
        f'<div><dt>{names[key]}</dt><dd data-number="{key}">{_nats_text(value)}</dd></div>'
        for key, value in numbers.items()
    )


def _nats_text(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _ends(grid: Tensor) -> tuple[float, float, int]:
    """Return what a script needs to build an even grid."""
    return grid[0].item(), grid[-1].item(), len(grid)


def _peaks(x: float) -> list[tuple[float, float]]:
    """Return place and density of the peaks of the posterior, from left to right."""
    z = torch.linspace(*Z_RANGE, 2401, dtype=torch.float64)
    density = one_number.log_posterior(z, x).exp()
    middle = density[1:-1]
    tops = 1 + ((middle > density[:-2]) & (middle > density[2:])).nonzero()[:, 0]
    return list(zip(z[tops].tolist(), density[tops].tolist(), strict=True))


def _beside(peak: float) -> float:
    """Return a z on the side of a peak of the posterior, where there is room for a label."""
    return math.copysign(max(1.0, 2.3, key=lambda z: abs(z - abs(peak))), peak)


def _densities(x: float, frame: Frame, peaks: list[tuple[float, float]]) -> Canvas:
    """Draw prior, posterior and q; the picture ends at its upper edge."""
    canvas = Canvas(
        HALF,
        HEIGHT,
        "Three densities over z.",
        f"The prior p(z) is a bell around 0. The posterior p(z | x) at x = {x:g} has a peak at "
        f"z = {peaks[0][0]:.2f} and a higher one at z = {peaks[1][0]:.2f}. At the start, q(z) is a "
        "bell between them.",
    )
    z = torch.linspace(*Z_RANGE, 241, dtype=torch.float64)
    prior = frame.places(z, one_number.PRIOR.log_prob(z).exp())
    posterior = frame.places(z, one_number.log_posterior(z, x).exp())
    corners = (frame.left, frame.bottom), (frame.right, frame.bottom)
    canvas.curve(prior, colour=PRIOR, width=LINE)
    canvas.area([corners[0], *posterior, corners[1]], colour=TRUTH)
    canvas.curve(posterior, colour=TRUTH)
    canvas.line(*corners, width=THIN)
    for tick in range(math.ceil(Z_RANGE[0]), math.floor(Z_RANGE[1])):
        canvas.text(
            frame.x(tick), frame.bottom + 14, f"{tick}".replace("-", "−"), size=SMALL, colour=QUIET
        )
    canvas.text(frame.right, frame.bottom + 14, "$z$")

    u = np.linspace(-4, 4, 81)
    top = 1 / (SIGMA * math.sqrt(2 * math.pi))
    bell = frame.places(MU + SIGMA * u, top * np.exp(-(u**2) / 2))
    with canvas.part("q"):
        canvas.area(bell, colour=GUESS)
        canvas.curve(bell, colour=GUESS)
    # The labels of what stands still keep to the side where q is not.
    side = 1 if MU < -one_number.SHIFT else 0
    with canvas.part("prior-label", frame.x(_beside(peaks[side][0])), frame.bottom):
        canvas.text(0, -26, "$p(z)$", colour=PRIOR, halo=True)
    with canvas.part("posterior-label", frame.x(peaks[side][0]), frame.y(peaks[side][1])):
        canvas.text(0, -14, "$p(z | x)$", colour=TRUTH, halo=True)
    with canvas.part("q-label", frame.x(MU) + 32, frame.y(top) - 6):
        canvas.text(0, 0, "$q(z)$", colour=GUESS, halo=True)
    canvas.handle(frame.x(MU), frame.y(top), colour=GUESS)
    return canvas


def _nats(frame: Frame, numbers: dict[str, float]) -> Canvas:
    """Draw log p(x), the ELBO and the bound as levels; the picture ends at its lower edge."""
    canvas = Canvas(
        HALF,
        HEIGHT,
        "log p(x) and two bounds below it, in nats.",
        "A green line marks log p(x). Two bars end below it: the ELBO, lower by the KL divergence "
        "from q to the posterior, and the importance-weighted bound for K draws. At the start "
        + ", ".join(f"{key} is {value:.2f}" for key, value in numbers.items())
        + ".",
    )
    canvas.text(frame.left + 6, 12, "nats", size=SMALL, anchor="end", colour=QUIET)
    canvas.line((frame.left, frame.top), (frame.left, frame.bottom), width=THIN, colour=FAINT)
    low, high = frame.y_range
    for tick in range(math.ceil(low + 0.2), math.floor(high) + 1):
        canvas.text(
            frame.left - 6,
            frame.y(tick),
            f"{tick}".replace("-", "−"),
            size=SMALL,
            anchor="end",
            colour=QUIET,
        )
    ceiling = frame.y(numbers["log-px"])
    for name, label, colour in (("elbo", "ELBO", GUESS), ("bound", f"$K$ = {DRAWS}", NOISE)):
        _bar(canvas, frame, name, frame.y(numbers[name]), label, numbers[name], colour)
    canvas.line((frame.left, ceiling), (frame.right, ceiling), colour=TRUTH, width=BOLD)
    canvas.text(
        BARS["elbo"],
        ceiling - 11,
        f"$log p(x)$ = {_nats_text(numbers['log-px'])}",
        anchor="start",
        colour=TRUTH,
    )
    _gap(canvas, frame, numbers)
    return canvas


def _gap(canvas: Canvas, frame: Frame, numbers: dict[str, float]) -> None:
    """Draw how far the ELBO is below log p(x): to its level, or an arrow out of the picture."""
    ceiling, level = frame.y(numbers["log-px"]), frame.y(numbers["elbo"])
    end = f"V{level:.2f}m-4 0h8"
    if level > frame.bottom:
        end = f"V{frame.bottom - 2:.2f}m-4 -7l4 7l4 -7"
    with canvas.part("gap"):
        canvas.parts.append(
            f'<path d="M{GAP_AT - 4} {ceiling:.2f}h8m-4 0{end}" fill="none" stroke="{INK}" '
            f'stroke-width="{LINE:g}"/>'
        )
    middle = (ceiling + min(level, frame.bottom)) / 2
    with canvas.part("kl-label", GAP_AT + 8, max(middle, ceiling + 22)):
        canvas.text(0, -9, "KL", anchor="start")
        canvas.text(0, 9, _nats_text(numbers["kl"]), anchor="start")


def _bar(
    canvas: Canvas, frame: Frame, name: str, level: float, label: str, value: float, colour: str
) -> None:
    """Draw a bar from a level down to the edge, its label, and an arrow if it is below that."""
    left, middle = BARS[name], BARS[name] + BAR_WIDTH / 2
    with canvas.part(name, left, level):
        canvas.parts.append(
            f'<rect width="{BAR_WIDTH}" height="{HEIGHT}" fill="{colour}" fill-opacity="0.15"/>'
        )
        canvas.line((0, 0), (BAR_WIDTH, 0), colour=colour, width=BOLD)
    # The label hangs under its level, or stands on it where it would leave the picture.
    hangs = level + ROOM < frame.bottom
    top = level + 4 if hangs else min(level, frame.bottom - 14) - ROOM
    with canvas.part(f"{name}-label", middle, top):
        canvas.text(0, 10, label, colour=colour)
        canvas.text(0, 28, _nats_text(value), colour=colour)
    with canvas.part(f"{name}-below", middle, frame.bottom, shown=level > frame.bottom):
        canvas.arrow((0, -14), (0, -1), colour=colour)
