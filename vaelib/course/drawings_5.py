"""The drawings of lesson 5: a triplet, four rules, a shrunken VAE, a cake, and two pulls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaelib.course.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GUESS,
    HALF,
    INK,
    LINE,
    MODEL,
    ORANGE,
    PURPLE,
    QUIET,
    SMALL,
    THIN,
    WHOLE,
    Canvas,
    Drawing,
    Frame,
    Point,
    drawing,
)
from vaelib.seeding import generator

# One triplet

MARGIN = 0.2


def one_triplet() -> Drawing:
    """Draw an anchor with a positive, and the three regions in which a negative may lie."""
    about = (
        "An anchor, a positive, and three regions for a negative.",
        "Two circles around the anchor. The inner one goes through the positive, the outer one is "
        "wider by the margin. A negative inside of the inner circle is hard, one between the "
        "circles semi-hard, one outside costs nothing. Beside it, the loss against the distance of "
        "the negative falls on a straight line and is zero from the outer circle on.",
    )
    canvas, plot = Canvas(HALF, 264, *about), Canvas(HALF, 264, *about)
    _regions(canvas)
    _hinge(plot)
    return drawing(
        canvas,
        plot,
        caption="Left: where a negative may lie. Inside of the inner circle it is nearer than the "
        "positive (hard); in the ring it is farther, but by less than the margin (semi-hard); "
        "outside it costs nothing. Right: the loss against the distance of the negative. Its "
        "slope is −1 or 0 everywhere: the pull does not know how wrong a triplet is.",
    )


def _regions(canvas: Canvas) -> None:
    x, y, inner, outer = 150.0, 134.0, 62.0, 104.0
    canvas.circle(x, y, radius=outer, colour=ORANGE, observed=True, width=THIN)
    canvas.circle(x, y, radius=inner, colour=ORANGE, observed=True, width=THIN)
    angle = math.radians(205)
    p = x + inner * math.cos(angle), y - inner * math.sin(angle)
    canvas.line((x, y), p)
    canvas.dots([(x, y), p], radius=7, colour=BLUE, opacity=1)
    canvas.text(x + 4, y - 18, "$a$")
    canvas.text(p[0] - 16, p[1] + 10, "$p$", halo=True)
    for radius, at in ((34.0, 335), (84.0, 22), (150.0, 40)):
        turn = math.radians(at)
        canvas.dots(
            [(x + radius * math.cos(turn), y - radius * math.sin(turn))],
            radius=7,
            colour=ORANGE,
            opacity=1,
        )
    canvas.text(x + 22, y + 34, "hard", size=SMALL)
    canvas.text(x + 66, y - 52, "semi-hard", size=SMALL, halo=True)
    canvas.text(x + 122, y - 116, "no loss", size=SMALL)
    start, end = x - inner, x - outer
    canvas.arrow((start - 2, y - 10), (end + 2, y - 10), colour=QUIET)
    canvas.text((start + end) / 2, y - 24, "$α$", colour=QUIET, halo=True)


def _hinge(canvas: Canvas) -> None:
    frame = Frame(48, 30, HALF - 78, 176, (0.0, 1.6), (0.0, 1.0))
    canvas.axes(frame)
    canvas.text(frame.right, frame.bottom + 34, "$d(a, n)$", anchor="end")
    canvas.text(frame.left, 14, "loss", anchor="start")
    d_positive, margin = 0.6, 0.4
    ends = [(0.0, d_positive + margin), (d_positive + margin, 0.0), (1.6, 0.0)]
    canvas.curve([(frame.x(a), frame.y(b)) for a, b in ends], colour=INK)
    for at, label in ((d_positive, "$d(a, p)$"), (d_positive + margin, "$d(a, p) + α$")):
        canvas.line(
            (frame.x(at), frame.y(margin + d_positive - at)),
            (frame.x(at), frame.bottom),
            width=THIN,
            colour=QUIET,
            dashed=True,
        )
        anchor = "end" if at == d_positive else "start"
        shift = 14 if at == d_positive else -8
        canvas.text(
            frame.x(at) + shift, frame.bottom + 14, label, size=SMALL, anchor=anchor, colour=QUIET
        )
    canvas.text(frame.x(0.3) + 8, frame.y(0.7) - 12, "hard", size=SMALL, anchor="start")
    canvas.text(frame.x(0.8) + 8, frame.y(0.2) - 14, "semi-hard", size=SMALL, anchor="start")
    canvas.text(frame.x(1.3), frame.y(0.0) - 12, "no loss", size=SMALL)


# Four rules

LONG_CLASS = ((0.0, 0.1), (0.7, 0.3), (1.5, 0.2), (2.2, 0.5), (3.1, 0.4))
OTHERS = (
    ((0.9, 1.1), (1.4, 1.4), (1.9, 1.5), (1.1, 1.9), (1.7, 2.1)),
    ((2.6, 1.6), (3.2, 1.5), (3.0, 2.1), (3.7, 1.9), (3.6, 2.5)),
)
"""Fifteen codes of three classes; the first class is a long one."""

ANCHOR = 1


def picked() -> dict[str, tuple[list[int], list[int]]]:
    """Return for each rule which positives and which negatives of one anchor it picks."""
    z = torch.tensor(LONG_CLASS + OTHERS[0] + OTHERS[1])
    d = (z - z[ANCHOR]).norm(dim=1).tolist()
    positives = [k for k in range(5) if k != ANCHOR]
    negatives = list(range(5, 15))

    def beyond(p: int) -> int:
        farther = [n for n in negatives if d[n] > d[p]]
        chosen = min if farther else max
        return chosen(farther or negatives, key=d.__getitem__)

    nearest = min(negatives, key=d.__getitem__)
    return {
        "batch-all": (positives, negatives),
        "batch-hard": ([max(positives, key=d.__getitem__)], [nearest]),
        "semi-hard": (positives, sorted({beyond(p) for p in positives})),
        "easy-positive": ([min(positives, key=d.__getitem__)], [nearest]),
    }


def four_rules() -> Drawing:
    """Draw what four rules pick for one anchor of a long class."""
    about = (
        "What four rules pick for one anchor.",
        "Four pictures of the same fifteen codes. Batch-all joins the anchor to all others. "
        "Batch-hard joins it to the far end of its own long class and to the nearest code of "
        "another class. Semi-hard joins it to all of its class and, for each, to the nearest "
        "foreigner beyond. Easy-positive joins it to its nearest neighbour and the nearest "
        "foreigner.",
    )
    wide, narrow = Canvas(WHOLE, 336, *about), Canvas(HALF, 640, *about)
    for i, (rule, ends) in enumerate(picked().items()):
        _rule(wide, 16 + 344 * (i % 2), 168 * (i // 2), 312, rule, ends)
        _rule(narrow, 12, 160 * i, 312, rule, ends)
    return drawing(
        wide,
        narrow=[narrow],
        caption="Fifteen codes of three classes, and what four rules mine for one anchor "
        "(ringed). Solid lines go to positives, dotted ones to negatives. Batch-hard looks across "
        "its whole class; easy-positive looks only at the nearest code of each kind.",
    )


def _rule(
    canvas: Canvas, left: float, top: float, width: float, rule: str, ends: tuple[list[int], ...]
) -> None:
    canvas.text(left + width / 2, top + 13, rule, bold=True)
    frame = Frame(left + 6, top + 34, width - 12, 108, (-0.15, 3.9), (-0.05, 2.6))
    codes = LONG_CLASS + OTHERS[0] + OTHERS[1]
    places = [(frame.x(x), frame.y(y)) for x, y in codes]
    for kind, chosen in zip(("", "1.5 5"), ends, strict=True):
        for end in chosen:
            _joined(canvas, places[ANCHOR], places[end], dots=kind)
    for k, place in enumerate(places):
        canvas.dots([place], radius=5.5, colour=(BLUE, ORANGE, GREEN)[k // 5], opacity=1)
    canvas.circle(*places[ANCHOR], radius=10)


def _joined(canvas: Canvas, start: Point, end: Point, *, dots: str) -> None:
    look = f' stroke-dasharray="{dots}" stroke-linecap="round"' if dots else ""
    canvas.parts.append(
        f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" fill="none" '
        f'stroke="{INK}" stroke-width="{LINE:g}"{look}/>'
    )


# A shrunken VAE


def shrunken_vae(scale: float) -> Drawing:
    """Draw how a VAE is shrunk without a change to any picture that it makes.

    Parameters
    ----------
    scale
        The factor c of its codes, below 1.
    """
    about = (
        "A VAE whose codes are shrunk.",
        "The encoder gives a mean and a width. Both are multiplied by c, the code is drawn, and it "
        "is divided by c before the decoder sees it. Encoder, decoder and picture are as before; "
        f"the cloud of codes is {scale:.2f} times as large.",
    )
    wide = Canvas(WHOLE, 190, *about)
    y = 66
    encoder = wide.network(120, y, 96, 84, "encoder", narrow="right", colour=GUESS)
    times = wide.box(250, y, 62, 40, "× $c$", colour=PURPLE)
    code = wide.circle(352, y, "$z$")
    over = wide.box(452, y, 62, 40, "÷ $c$", colour=PURPLE)
    decoder = wide.network(580, y, 96, 84, "decoder", narrow="left", colour=MODEL)
    wide.text(26, y, "$x$", size=20)
    wide.arrow((40, y), encoder)
    wide.arrow(encoder, times)
    wide.arrow(times, code)
    wide.arrow(code, over)
    wide.arrow(over, decoder)
    wide.arrow(decoder, (662, y))
    wide.text(674, y, "$xˆ$", size=20)
    wide.text(184, y - 32, "$μ, σ$", size=SMALL)
    wide.text(302, y - 36, "$cμ, cσ$", size=SMALL)
    wide.text(512, y - 32, "$z/c$", size=SMALL)
    _clouds(wide, 352, 152, scale)
    wide.text(352 - 48, 152, "size 1", size=SMALL, colour=QUIET, anchor="end")
    wide.text(352 + 48, 152, f"size {scale:.2f}", size=SMALL, anchor="start")

    narrow = Canvas(HALF, 372, *about)
    x = 112
    encoder = narrow.network(x, 62, 120, 52, "encoder", narrow="bottom", colour=GUESS)
    times = narrow.box(x, 132, 62, 34, "× $c$", colour=PURPLE)
    code = narrow.circle(x, 196, "$z$")
    over = narrow.box(x, 260, 62, 34, "÷ $c$", colour=PURPLE)
    decoder = narrow.network(x, 328, 120, 52, "decoder", narrow="top", colour=MODEL)
    narrow.text(x, 14, "$x$", size=20)
    narrow.arrow((x, 24), encoder)
    for start, end in ((encoder, times), (times, code), (code, over), (over, decoder)):
        narrow.arrow(start, end)
    narrow.arrow(decoder, (x + 96, 328), bend=0.01)
    narrow.text(x + 112, 328, "$xˆ$", size=20)
    narrow.text(x + 12, 101, "$μ, σ$", size=SMALL, anchor="start")
    narrow.text(x + 12, 162, "$cμ, cσ$", size=SMALL, anchor="start")
    narrow.text(x + 12, 290, "$z/c$", size=SMALL, anchor="start")
    _clouds(narrow, 252, 196, scale)
    narrow.text(252, 140, "size 1", size=SMALL, colour=QUIET)
    narrow.text(252, 252, f"size {scale:.2f}", size=SMALL)
    return drawing(
        wide,
        narrow=[narrow],
        caption="The shrunken VAE. Its encoder states $cμ$ and $cσ$, its decoder divides by "
        "$c$ first. Every picture, every neighbour and the distortion are what they were. All "
        "distances are $c$ times as large, and so is, nearly, the triplet loss.",
    )


def _clouds(canvas: Canvas, x: float, y: float, scale: float) -> None:
    """Draw the rim of a cloud and of its smaller twin."""
    canvas.circle(x, y, radius=34, colour=QUIET, width=THIN)
    canvas.circle(x, y, radius=34 * scale, colour=GUESS, observed=True)


# A cake


def cake_codes(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return standard normal codes ``[n, 2]``, and the tenth of the circle in which each lies."""
    z = torch.randn(n, 2, generator=generator(seed, "ideal"))
    turn = torch.atan2(z[:, 1], z[:, 0]) / math.tau + 0.5
    return z, (turn * 10).long() % 10


def cake(*, seed: int = 0) -> Drawing:
    """Draw a code as good as one could wish, and what two rules say about one of its codes."""
    z, sector = cake_codes(128, seed=seed)
    d = torch.cdist(z, z)
    same = (sector[:, None] == sector) & ~torch.eye(len(z), dtype=torch.bool)
    far = d.where(same, torch.zeros(())).max(1)
    # An anchor outside of the crowded middle, with which easy-positive is content.
    foreign = d.where(sector[:, None] != sector, 99.0).amin(1)
    content = d.where(same, 99.0).amin(1) + MARGIN <= foreign
    shown = content & (z.norm(dim=1) > 0.9)
    anchor = int((far.values - foreign).where(shown, 0.0).argmax())
    negative = int(d[anchor].where(sector != sector[anchor], 99.0).argmin())
    near = int(d[anchor].where(same[anchor], 99.0).argmin())
    panels = []
    for rule, positive in (("batch-hard", int(far.indices[anchor])), ("easy-positive", near)):
        gap = float(d[anchor, positive] - d[anchor, negative])
        loss = max(0.0, gap + MARGIN)
        canvas = Canvas(
            HALF,
            330,
            f"A normal cloud cut into ten sectors, and a triplet of {rule}.",
            "A round cloud of dots is cut into ten sectors like a cake; neighbouring sectors have "
            f"different colours. From one dot, lines go to the positive and the negative that "
            f"{rule} picks. The loss of this triplet is {loss:.2f}.",
        )
        canvas.heading(f"{rule}: loss {loss:.2f}")
        frame = Frame(24, 30, 288, 288, (-3.0, 3.0), (-3.0, 3.0))
        middle = frame.x(0), frame.y(0)
        for k in range(10):
            turn = math.tau * (k / 10 - 0.5)
            rim = frame.x(2.9 * math.cos(turn)), frame.y(2.9 * math.sin(turn))
            canvas.line(middle, rim, colour=FAINT, width=THIN)
        for k in range(len(z)):
            place = frame.x(z[k, 0].clamp(-2.95, 2.95)), frame.y(z[k, 1].clamp(-2.95, 2.95))
            colour = (BLUE, ORANGE)[int(sector[k]) % 2]
            canvas.dots([place], radius=3.5, colour=colour, opacity=0.8)
        places = {k: (frame.x(z[k, 0]), frame.y(z[k, 1])) for k in (anchor, positive, negative)}
        _joined(canvas, places[anchor], places[positive], dots="")
        _joined(canvas, places[anchor], places[negative], dots="1.5 5")
        canvas.circle(*places[anchor], radius=9)
        panels.append(canvas)
    return drawing(
        *panels,
        caption="The best code that one could wish for: 128 codes of a standard normal, cut like "
        "a cake into ten classes. The same anchor (ringed) under two rules; solid to the "
        "positive, dotted to the negative. Batch-hard complains about the length of a slice.",
    )


# Two pulls


def rest(gap: float, weight: float, *, dims: int = 2) -> float:
    """Return the scale at which the triplets' pull inwards balances the rate: formula (3).

    Parameters
    ----------
    gap
        The mean gap d(a, p) - d(a, n) of the mined triplets at scale 1.
    weight
        The weight of the triplet loss.
    dims
        The number of latent dimensions, whose cloud has unit size at scale 1.
    """
    pull = weight * gap
    return (math.sqrt(pull**2 + 4 * dims**2) - pull) / (2 * dims)


def two_pulls(gap: float, weight: float) -> Drawing:
    """Draw the pull of the triplets and that of the rate against the scale of the cloud.

    Parameters
    ----------
    gap, weight
        As in :func:`rest`, for a plane.
    """
    c = rest(gap, weight)
    about = (
        "Two pulls against the scale of the cloud.",
        "A rising line, the pull of the triplets inwards, meets a falling curve, the pull of the "
        f"rate outwards, at scale {c:.2f}. At scale 1 the rate does not pull.",
    )
    panels = []
    for width in (HALF, WHOLE):
        canvas = Canvas(width, 250, *about)
        frame = Frame(52, 30, width - 84, 172, (0.0, 1.15), (0.0, 2.2))
        canvas.axes(frame)
        canvas.text(frame.right, frame.bottom + 34, "scale $c$", anchor="end")
        canvas.text(frame.left - 30, 14, "pull, nats", anchor="start")
        for tick in (0.5, 1.0):
            canvas.text(frame.x(tick), frame.bottom + 14, f"{tick:g}", size=SMALL, colour=QUIET)
        scales = torch.linspace(0, 1.15, 70)
        inwards = weight * gap * scales
        outwards = 2 * (1 - scales.square())
        inside = outwards >= 0
        canvas.curve(frame.places(scales, inwards.clamp(max=2.2)), colour=ORANGE)
        canvas.curve(frame.places(scales[inside], outwards[inside]), colour=GUESS)
        there = frame.x(c), frame.y(weight * gap * c)
        canvas.line(there, (there[0], frame.bottom), colour=INK, width=THIN, dashed=True)
        canvas.dots([there], radius=6, colour=INK, opacity=1)
        canvas.text(frame.x(c) + 12, frame.bottom - 12, f"$c$ = {c:.2f}", anchor="start", bold=True)
        canvas.text(
            frame.x(0.06), frame.y(2.0) - 14, "the rate, outwards", anchor="start", colour=GUESS
        )
        y = frame.y(0.9 if width == HALF else 0.6)
        canvas.text(frame.x(0.04), y, "the triplets,\ninwards", anchor="start", colour=ORANGE)
        panels.append(canvas)
    return drawing(
        panels[1],
        narrow=[panels[0]],
        caption="The pull of project A's triplets on the scale (orange, $γg c$) and that of the "
        "rate (blue, $D(1 − c²)$). Where they meet the cloud is at rest. Nothing in this drawing "
        "was measured on a model with triplets.",
    )
