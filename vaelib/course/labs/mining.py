r"""Mining: a batch of codes that readers drag, the triplets that a rule picks, and their pull.

The codes are ``scale`` times the places of the dots at scale 1, so that shrinking is something
that readers do themselves. Its price is the change of the rate of a VAE whose means lie there and
whose decoder divides by the scale first: formula (1) of lesson 5.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import product

import torch
from torch import Tensor

from vaelib.course.drawing import (
    BLUE,
    BOLD,
    FAINT,
    GREEN,
    HALF,
    INK,
    LINE,
    ORANGE,
    PAPER,
    QUIET,
    SMALL,
    THIN,
    Canvas,
    Frame,
)
from vaelib.course.labs.live import LiveFigure, live_figure
from vaelib.triplet import pairwise_distances, triplet_loss

PLACES = (
    *((-1.65, -0.7), (-0.02, -1.08), (0.85, 1.36), (-0.98, -0.14), (0.63, -1.31)),
    *((0.17, 1.52), (-0.43, 0.47), (1.69, -0.89), (-0.85, 1.2), (0.32, 0.95)),
    *((1.15, -0.32), (1.55, 0.73), (0.9, 0.18), (1.88, 0.1), (-0.3, 1.25)),
)
"""Where the codes lie at the start, at scale 1; a smaller batch takes the first of them."""

CLASSES = 3
"""Code k is of class k modulo this."""

BATCHES = (6, 9, 12, 15)
"""Sizes of the batch."""

RULES = ("batch-all", "batch-hard", "semi-hard", "easy-positive")

START = {"rule": "batch-hard", "margin": 0.2, "scale": 1.0, "batch": 12, "anchor": 3}
MARGINS, SCALES = (0.0, 1.0), (0.2, 1.6)
"""How far the sliders go."""

SIDE, HEIGHT, REACH = 280, 284, 2.4
"""Side of the square that shows the plane, height of the pictures, and the plane's half width."""

ARROW, LONGEST = 12.0, 60.0
"""Pixels of an arrow for a summed gradient of one, and how long it gets."""

CURVES_HEIGHT = 170

BODY = """
<div class="drawing without-script"><div class="panels">{plane}{curves}</div></div>
<dl class="where-q-numbers">{numbers}</dl>
<div class="with-script where-q-controls">
<label><span>rule</span> <select name="rule" style="{look}">{rules}</select></label>
<label><span>margin <i>α</i> = <span data-number="margin">{margin:.2f}</span></span>
<input type="range" name="margin" min="{margins[0]}" max="{margins[1]}" step="0.05"
value="{margin}" aria-label="margin α"></label>
<label><span>scale <i>c</i> = <span data-number="scale">{scale:.2f}</span></span>
<input type="range" name="scale" min="{scales[0]}" max="{scales[1]}" step="0.05" value="{scale}"
aria-label="scale c of all codes"></label>
<label><span>batch: <span data-number="batch">{batch}</span> codes</span>
<input type="range" name="batch" min="{batches[0]}" max="{batches[3]}" step="3" value="{batch}"
aria-label="codes in the batch"></label>
<label><span>anchor: code <span data-number="anchor">{anchor}</span></span>
<input type="range" name="anchor" min="1" max="{batch}" step="1" value="{anchor}"
aria-label="anchor"></label>
<button type="button">Start again</button>
<p class="where-q-summary" aria-live="polite"></p>
</div>
"""

LOOK = (
    "font: inherit; color: var(--ink); background: var(--paper); padding: 0.15rem 0.4rem; "
    "border: 1px solid var(--quiet); border-radius: 6px"
)

NAMES = {
    "loss": "loss",
    "active": "triplets above 0",
    "pull": "pull by scale",
    "ordered": "in order",
    "neighbours": "neighbours",
    "price": "price of <i>c</i>",
}
"""What the figure says, and how it is written."""

Triplet = tuple[int, int, int]


def labels_of(n: int) -> Tensor:
    """Return the classes of the first n codes."""
    return torch.arange(n) % CLASSES


def mined(z: Tensor, rule: str) -> list[Triplet]:
    """Return the triplets (a, p, n) that a rule picks, by loops over the batch.

    The same as in :func:`vaelib.triplet.triplet_loss`, which does not say which ones they are.
    """
    d, index = pairwise_distances(z.double()).tolist(), range(len(z))
    found: list[Triplet] = []
    for a in index:
        positives = [k for k in index if k != a and k % CLASSES == a % CLASSES]
        negatives = [k for k in index if k % CLASSES != a % CLASSES]
        near_p, far_p = (end(positives, key=d[a].__getitem__) for end in (min, max))
        near_n, far_n = (end(negatives, key=d[a].__getitem__) for end in (min, max))
        if rule == "batch-all":
            found += [(a, p, n) for p, n in product(positives, negatives)]
        elif rule == "semi-hard":
            for p in positives:
                beyond = [n for n in negatives if d[a][n] > d[a][p]]
                found.append((a, p, min(beyond, key=d[a].__getitem__) if beyond else far_n))
        else:
            found.append((a, far_p if rule == "batch-hard" else near_p, near_n))
    return found


def active(z: Tensor, rule: str, margin: float) -> list[Triplet]:
    """Return those of the mined triplets whose loss is not 0."""
    d = pairwise_distances(z.double())
    return [t for t in mined(z, rule) if d[t[0], t[1]] - d[t[0], t[2]] + margin > 0]


def pulls(z: Tensor, rule: str, margin: float) -> tuple[float, Tensor]:
    """Return the triplet loss of codes and its gradient ``[B, 2]``."""
    z = z.double().clone().requires_grad_()
    loss = triplet_loss(z, labels_of(len(z)), mining=rule, margin=margin)
    return loss.item(), torch.autograd.grad(loss, z)[0]


def price(places: Tensor, scale: float) -> float:
    """Return what a scale costs in nats, by formula (1) of lesson 5."""
    moment = float(places.double().square().sum(1).mean())
    return 0.5 * (scale**2 - 1) * moment - places.shape[1] * math.log(scale)


def numbers(places: Tensor, *, rule: str, margin: float, scale: float) -> dict[str, float]:
    """Return what the figure says of a batch ``[B, 2]``, by the keys of :data:`NAMES`.

    ``pull`` is the derivative of the loss by the logarithm of the scale, ``ordered`` the share of
    all triplets whose positive is nearer than the negative, and ``neighbours`` that of the codes
    whose nearest other code has their label.
    """
    z = scale * places.double()
    loss, gradient = pulls(z, rule, margin)
    d = pairwise_distances(z)
    everyone = mined(z, "batch-all")
    alone = d + torch.diag(torch.full((len(z),), math.inf))
    labels = labels_of(len(z))
    return {
        "loss": loss,
        "active": len(active(z, rule, margin)),
        "pull": float((gradient * z).sum()),
        "ordered": sum(float(d[a, p] < d[a, n]) for a, p, n in everyone) / len(everyone),
        "neighbours": float((labels[alone.argmin(1)] == labels).double().mean()),
        "price": price(places, scale),
    }


def mining(*, name: str = "mining", caption: str) -> LiveFigure:
    """Show a batch of codes, the triplets that a rule picks, their gradients and their loss.

    Readers drag the codes, choose the rule, the margin and the size of the batch, and scale
    everything. Where scripts do not run, the start stands there with its numbers.

    Parameters
    ----------
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.
    """
    places = torch.tensor(PLACES, dtype=torch.float64)
    options = {key: START[key] for key in ("rule", "margin", "scale")}
    start = numbers(places[: START["batch"]], **options)
    plane = Frame(28, 2, SIDE, SIDE, (-REACH, REACH), (-REACH, REACH))
    curves = Frame(34, 8, HALF - 52, CURVES_HEIGHT - 44, (SCALES[0], SCALES[1]), (-0.25, 2.6))
    return live_figure(
        "mining",
        name=name,
        label="Codes of three classes, the triplets that a rule picks, and their loss",
        data={
            "places": PLACES,
            "classes": CLASSES,
            "start": START,
            "scales": SCALES,
            "arrow": ARROW,
            "longest": LONGEST,
            "plane": asdict(plane),
            "curves": asdict(curves),
        },
        body=BODY.format(
            plane=_plane(plane, places).svg(),
            curves=_curves(curves, places, start).svg(),
            numbers=_table(start),
            rules="".join(
                f"<option{' selected' if rule == START['rule'] else ''}>{rule}</option>"
                for rule in RULES
            ),
            look=LOOK,
            margins=MARGINS,
            scales=SCALES,
            batches=BATCHES,
            **{key: START[key] for key in ("margin", "scale", "batch", "anchor")},
        ),
        caption=caption,
    )


def text_of(key: str, value: float) -> str:
    """Write a number of the figure."""
    if key == "active":
        return f"{value:.0f}"
    if key in ("ordered", "neighbours"):
        return f"{100 * value:.0f} %"
    return f"{value:.2f}".replace("-", "−")


def _table(values: dict[str, float]) -> str:
    return "".join(
        f'<div><dt>{NAMES[key]}</dt><dd data-number="{key}">{text_of(key, value)}</dd></div>'
        for key, value in values.items()
    )


SHAPES = (
    "M-7 0A7 7 0 1 0 7 0A7 7 0 1 0 -7 0Z",
    "M-6.5 -6.5H6.5V6.5H-6.5Z",
    "M0 -8.5L8 5.5H-8Z",
)
"""A disc, a square and a triangle: classes differ in more than their colour."""


def _plane(frame: Frame, places: Tensor) -> Canvas:
    """Draw the codes, the triplets and the arrows of the start."""
    batch, margin, rule = START["batch"], START["margin"], START["rule"]
    z = START["scale"] * places
    canvas = Canvas(
        HALF,
        HEIGHT,
        "Codes of three classes in a plane.",
        f"{batch} of {len(places)} codes form the batch. Lines go from the anchor, which is "
        "ringed, to its positives and, dotted, to its negatives; arrows show where the loss moves "
        "each code. At the start the rule is batch-hard, and most arrows point inwards.",
    )
    middle = frame.x(0), frame.y(0)
    canvas.parts.append(
        f'<circle cx="{middle[0]:.1f}" cy="{middle[1]:.1f}" r="{2 * SIDE / (2 * REACH):.1f}" '
        f'fill="none" stroke="{FAINT}" stroke-width="{THIN:g}"/>'
    )
    canvas.text(middle[0], frame.y(-2), "2 sd of the prior", size=SMALL, colour=QUIET, halo=True)
    lines = {(kind, own): "" for kind in "pn" for own in (False, True)}
    for a, *others in active(z[:batch], rule, margin):
        for kind, end in zip("pn", others, strict=True):
            (x0, y0), (x1, y1) = (frame.places(*z[k, :, None])[0] for k in (a, end))
            lines[kind, a == START["anchor"] - 1] += f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"
    for (kind, own), path in lines.items():
        dotted = ' stroke-dasharray="1.5 5" stroke-linecap="round"' if kind == "n" else ""
        look = f'stroke="{INK}" stroke-width="{BOLD:g}"' if own else f'stroke="{QUIET}"'
        more = "" if own else ' stroke-opacity="0.45"'
        canvas.parts.append(
            f'<path class="mined-{kind}{"-own" if own else ""}" d="{path}" fill="none" '
            f"{look}{dotted}{more}/>"
        )
    _, gradient = pulls(z[:batch], rule, margin)
    for k in range(len(places)):
        x, y = frame.places(*z[k, :, None])[0]
        colour = (BLUE, ORANGE, GREEN)[k % CLASSES]
        faint = "" if k < batch else ' fill-opacity="0.25"'
        with canvas.part(f"code-{k}", x, y):
            canvas.parts.append(
                f'<path d="{SHAPES[k % CLASSES]}" fill="{colour}" stroke="{PAPER}" '
                f'stroke-width="1"{faint}/>'
            )
    for k in range(len(places)):
        x, y = frame.places(*z[k, :, None])[0]
        step = -ARROW * batch * gradient[k] if k < batch else torch.zeros(2)
        with canvas.part(f"arrow-{k}", x, y):
            canvas.parts.append(
                f'<path d="{arrow_path(float(step[0]), -float(step[1]))}" fill="none" '
                f'stroke="{INK}" stroke-width="{LINE:g}" stroke-linejoin="round"/>'
            )
    x, y = frame.places(*z[START["anchor"] - 1, :, None])[0]
    with canvas.part("ring", x, y):
        canvas.parts.append(f'<circle r="13" fill="none" stroke="{INK}" stroke-width="{LINE:g}"/>')
    # On top, so that a pointer finds it wherever it goes down.
    canvas.parts.append(
        f'<rect class="handle" width="{HALF}" height="{HEIGHT}" fill="transparent" tabindex="0" '
        'role="application" aria-label="the anchor: arrow keys move it"/>'
    )
    return canvas


def arrow_path(dx: float, dy: float) -> str:
    """Return an arrow from the origin, in pixels; a short one has no head, a long one is cut."""
    length = math.hypot(dx, dy)
    if length < 1:
        return "M0 0"
    cut = min(1.0, LONGEST / length)
    x, y, length = dx * cut, dy * cut, length * cut
    ux, uy, head = dx / math.hypot(dx, dy), dy / math.hypot(dx, dy), min(6.0, length / 2)
    left = f"{x - head * (ux + 0.6 * uy):.1f} {y - head * (uy - 0.6 * ux):.1f}"
    right = f"{x - head * (ux - 0.6 * uy):.1f} {y - head * (uy + 0.6 * ux):.1f}"
    return f"M0 0L{x:.1f} {y:.1f}M{left}L{x:.1f} {y:.1f}L{right}"


def _curves(frame: Frame, places: Tensor, start: dict[str, float]) -> Canvas:
    """Draw the loss and the price against the scale."""
    canvas = Canvas(
        HALF,
        CURVES_HEIGHT,
        "The loss, and the price in nats, against the scale of the codes.",
        "The loss rises with the scale, nearly on a straight line. The price is nothing at scale "
        f"1 and small around it. At the start the loss is {start['loss']:.2f}.",
    )
    canvas.line((frame.left, frame.top), (frame.left, frame.bottom), width=THIN, colour=FAINT)
    canvas.line((frame.left, frame.y(0)), (frame.right, frame.y(0)), width=THIN, colour=FAINT)
    for tick in (0, 1, 2):
        canvas.text(
            frame.left - 6, frame.y(tick), f"{tick}", size=SMALL, anchor="end", colour=QUIET
        )
    for tick in (0.2, 0.6, 1.0, 1.4):
        canvas.text(frame.x(tick), frame.bottom + 12, f"{tick:g}", size=SMALL, colour=QUIET)
    canvas.text(frame.right, frame.bottom + 30, "scale $c$", size=SMALL, anchor="end")
    scales = torch.linspace(*SCALES, 57, dtype=torch.float64).tolist()
    batch = places[: START["batch"]]
    curves = {
        "loss": [pulls(c * batch, START["rule"], START["margin"])[0] for c in scales],
        "price": [price(batch, c) for c in scales],
    }
    for key, colour in (("price", QUIET), ("loss", INK)):
        with canvas.part(f"{key}-curve"):
            values = torch.tensor(curves[key]).clamp(*frame.y_range)
            canvas.curve(frame.places(scales, values), colour=colour)
        with canvas.part(f"{key}-dot", frame.x(START["scale"]), frame.y(start[key])):
            canvas.dots([(0, 0)], radius=5, colour=colour, opacity=1)
    with canvas.part("loss-label", frame.x(1.5), frame.y(min(curves["loss"][52], 2.6))):
        canvas.text(0, -12, "loss", halo=True)
    canvas.text(frame.x(0.33), frame.top + 10, "price, nats", anchor="start", colour=QUIET)
    return canvas
