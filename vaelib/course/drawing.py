"""The style of the book's drawings: a small SVG canvas that follows the colours of its page.

One unit of a canvas is one CSS pixel. A canvas of width :data:`HALF` fits a phone as it is, and two
stand side by side in the book; one of width :data:`WHOLE` needs a narrow twin for phones. Lines,
arrows, letters and shapes look alike in all drawings because they are drawn here.

Text may hold maths between dollar signs, as in ``"the code $z ~ q_φ(z | x)$"``: single letters are
italic, ``_`` lowers and ``^`` raises the letter or the ``{group}`` after it, and ``ˆ`` is a hat on
the letter before it.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

HALF, WHOLE = 336, 688
"""Widths of a canvas: half and all of the column of the book, in pixels."""

SMALL, TEXT, SYMBOL = 13, 15, 20
"""Sizes of letters: beside a curve, in a sentence, in a circle."""

INDEX, SMALLEST = 0.72, 11.5
"""Size of a raised or lowered letter beside the others', and what it never falls below."""

THIN, LINE, BOLD = 1.0, 1.6, 2.4
"""Widths of lines: axes and frames, arrows and outlines, curves that matter."""

RADIUS, GAP, HEAD = 22, 4, 9
"""Radius of a circle, distance between an arrow and what it joins, length of its head."""

INK, PAPER, QUIET, FAINT = "var(--ink)", "var(--paper)", "var(--quiet)", "var(--line)"
BLUE, ORANGE, GREEN, PURPLE = "var(--blue)", "var(--orange)", "var(--green)", "var(--purple)"
PRIOR, MODEL, GUESS, TRUTH, NOISE = QUIET, ORANGE, BLUE, GREEN, PURPLE
"""What colours mean: the prior, the decoder, the encoder and q, the true posterior, noise."""

STYLE = Path(__file__).parent / "labs" / "live.css"

Point = tuple[float, float]
Piece = tuple[str, str, float]
"""Letters, their style, and by which part of their size they are raised."""
Anchor = Literal["start", "middle", "end"]

HAT = "ˆ"

_MATHS = re.compile(
    r"(?P<shift>[_^])(?:\{(?P<group>[^}]*)\}|(?P<one>.))"
    r"|[A-Za-z]{2,}"  # a word, such as log
    r"|[A-Za-zα-ωˆ]"
    r"|[^_^A-Za-zα-ωˆ]+"
)


@dataclass(frozen=True)
class Shape:
    """A circle, or a box if it has corners: something that an arrow can join."""

    x: float
    y: float
    width: float
    height: float
    round: bool = False

    def edge(self, towards: Point) -> Point:
        """Return where a line from the middle towards a point leaves, with a gap."""
        dx, dy = towards[0] - self.x, towards[1] - self.y
        length = math.hypot(dx, dy)
        if self.round:
            out = self.width / 2
        else:
            across = self.width / 2 * length / abs(dx) if dx else math.inf
            up = self.height / 2 * length / abs(dy) if dy else math.inf
            out = min(across, up)
        return self.x + dx / length * (out + GAP), self.y + dy / length * (out + GAP)


@dataclass(frozen=True)
class Frame:
    """A part of a canvas with axes: it takes numbers to their places.

    Parameters
    ----------
    left, top, width, height
        The part of the canvas, in pixels.
    x_range, y_range
        The numbers at its left and right, and at its bottom and top.

    Raises
    ------
    ValueError
        If the two numbers of a range are equal.
    """

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def __post_init__(self) -> None:
        """Refuse a range without an extent."""
        for low, high in (self.x_range, self.y_range):
            if low == high:
                raise ValueError(f"an axis from {low:g} to {high:g}; expected two numbers.")

    @property
    def bottom(self) -> float:
        """The lower end."""
        return self.top + self.height

    @property
    def right(self) -> float:
        """The right end."""
        return self.left + self.width

    def x(self, value: float) -> float:
        """Return the place of a number across."""
        low, high = self.x_range
        return self.left + (float(value) - low) / (high - low) * self.width

    def y(self, value: float) -> float:
        """Return the place of a number upwards."""
        low, high = self.y_range
        return self.bottom - (float(value) - low) / (high - low) * self.height

    def places(self, xs: ArrayLike, ys: ArrayLike) -> NDArray[np.float64]:
        """Return the places ``[N, 2]`` of N points; one number stands for N equal ones."""
        xs, ys = np.broadcast_arrays(np.asarray(xs, float), np.asarray(ys, float))
        return np.array([(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)])


@dataclass
class Canvas:
    """An SVG that is drawn from back to front.

    Parameters
    ----------
    width, height
        Size in pixels.
    title
        What is drawn, in a few words, for readers who do not see it.
    description
        What can be seen in it, for the same readers.
    """

    width: float
    height: float
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = TEXT,
        anchor: Anchor = "middle",
        colour: str = INK,
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        """Write text whose middle is at height y; a new line starts a line of its own.

        A halo keeps the text legible on top of lines and shades.
        """
        lines = text.split("\n")
        style = ' font-weight="600"' if bold else ""
        style += ' class="halo"' if halo else ""
        for i, line in enumerate(lines):
            base = y + 0.34 * size + 1.3 * size * (i - (len(lines) - 1) / 2)
            self.parts.append(
                f'<text x="{_n(x)}" y="{_n(base)}" font-size="{size:g}" fill="{colour}" '
                f'text-anchor="{anchor}"{style}>{_spans(line, size)}</text>'
            )

    @contextmanager
    def part(self, name: str, x: float = 0, y: float = 0, *, shown: bool = True) -> Iterator[None]:
        """Let what is drawn be one part of a live figure, which its script moves from (x, y)."""
        hidden = "" if shown else ' visibility="hidden"'
        self.parts.append(f'<g class="{name}" transform="translate({x:.2f} {y:.2f})"{hidden}>')
        yield
        self.parts.append("</g>")

    def handle(self, x: float, y: float, *, colour: str) -> None:
        """Draw the part of a live figure that readers drag: a knob, with room for a finger."""
        with self.part("handle", x, y):
            self.parts.append(
                f'<circle r="20" fill="transparent"/><circle r="7" fill="{colour}" '
                f'stroke="{PAPER}" stroke-width="{BOLD:g}"/>'
            )

    def heading(self, text: str) -> None:
        """Write what the canvas shows along its top."""
        self.text(self.width / 2, 12, text, bold=True)

    def line(
        self,
        *points: Point,
        colour: str = INK,
        width: float = LINE,
        dashed: bool = False,
    ) -> None:
        """Draw straight lines from point to point."""
        self.curve(points, colour=colour, width=width, dashed=dashed)

    def curve(
        self,
        points: Iterable[Point],
        *,
        colour: str = INK,
        width: float = BOLD,
        dashed: bool = False,
    ) -> None:
        """Draw a curve through many points."""
        self._path(_through(points), colour, width, dashed)

    def area(self, points: Iterable[Point], *, colour: str, opacity: float = 0.15) -> None:
        """Fill what points enclose; the page shines through."""
        self.parts.append(
            f'<path d="{_through(points)}Z" fill="{colour}" fill-opacity="{opacity:g}"/>'
        )

    def arrow(
        self,
        start: Shape | Point,
        end: Shape | Point,
        *,
        bend: float = 0,
        colour: str = INK,
        width: float = LINE,
        dashed: bool = False,
    ) -> None:
        """Draw an arrow from one shape or point to another.

        A bend, in pixels, moves its middle to the right of its way, and a negative one to the left.

        Raises
        ------
        ValueError
            If it ends where it starts.
        """
        (x0, y0), (x1, y1) = _middle(start), _middle(end)
        length = math.hypot(x1 - x0, y1 - y0)
        if length == 0:
            raise ValueError(f"an arrow from ({x0:g}, {y0:g}) to itself; expected two places.")
        # The middle of a quadratic curve lies halfway between its chord and its control point.
        turn = (
            (x0 + x1) / 2 - 2 * bend * (y1 - y0) / length,
            (y0 + y1) / 2 + 2 * bend * (x1 - x0) / length,
        )
        # A straight arrow comes from its start: its middle may lie inside of a shape.
        after, before = (turn, turn) if bend else ((x1, y1), (x0, y0))
        (x0, y0), (x1, y1) = _leave(start, after), _leave(end, before)
        angle = math.atan2(y1 - before[1], x1 - before[0])
        neck = x1 - 0.8 * HEAD * math.cos(angle), y1 - 0.8 * HEAD * math.sin(angle)
        way = f"Q{_n(turn[0])} {_n(turn[1])} " if bend else "L"
        self._path(f"M{_n(x0)} {_n(y0)}{way}{_n(neck[0])} {_n(neck[1])}", colour, width, dashed)
        wings = [
            (x1 - HEAD * math.cos(angle + side), y1 - HEAD * math.sin(angle + side))
            for side in (-0.42, 0.42)
        ]
        self.parts.append(f'<path d="{_through([(x1, y1), *wings])}Z" fill="{colour}"/>')

    def circle(
        self,
        x: float,
        y: float,
        label: str = "",
        *,
        observed: bool = False,
        colour: str = INK,
        radius: float = RADIUS,
        width: float = LINE,
    ) -> Shape:
        """Draw a random variable: shaded if it is observed, empty if it is latent."""
        fill = f'fill="{colour}" fill-opacity="0.18"' if observed else 'fill="none"'
        self.parts.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" {fill} stroke="{colour}" '
            f'stroke-width="{width:g}"/>'
        )
        if label:
            self.text(x, y, label, size=SYMBOL)
        return Shape(x, y, 2 * radius, 2 * radius, round=True)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        label: str = "",
        *,
        colour: str = INK,
        filled: bool = True,
        size: float = TEXT,
    ) -> Shape:
        """Draw a box around its middle: a computation, or if not filled a plate or a group."""
        fill = f'fill="{colour}" fill-opacity="0.12"' if filled else 'fill="none"'
        self.parts.append(
            f'<rect x="{_n(x - width / 2)}" y="{_n(y - height / 2)}" width="{_n(width)}" '
            f'height="{_n(height)}" rx="8" {fill} stroke="{colour}" stroke-width="{LINE:g}"/>'
        )
        if label:
            self.text(x, y, label, size=size)
        return Shape(x, y, width, height)

    def network(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        label: str,
        *,
        narrow: Literal["left", "right", "top", "bottom"],
        colour: str,
    ) -> Shape:
        """Draw a network that narrows or widens: a box with one side of half the length."""
        w, h = width / 2, height / 2
        corners = {  # the ends of the narrow side come first
            "right": ((w, h / 2), (w, -h / 2), (-w, -h), (-w, h)),
            "left": ((-w, h / 2), (-w, -h / 2), (w, -h), (w, h)),
            "bottom": ((w / 2, h), (-w / 2, h), (-w, -h), (w, -h)),
            "top": ((w / 2, -h), (-w / 2, -h), (-w, h), (w, h)),
        }[narrow]
        self.parts.append(
            f'<path d="{_through((x + dx, y + dy) for dx, dy in corners)}Z" fill="{colour}" '
            f'fill-opacity="0.12" stroke="{colour}" stroke-width="{LINE:g}" '
            'stroke-linejoin="round"/>'
        )
        self.text(x, y, label)
        return Shape(x, y, width, height)

    def dots(
        self,
        points: Iterable[Point],
        *,
        radius: float | Sequence[float] = 3.5,
        colour: str = INK,
        opacity: float = 0.75,
    ) -> None:
        """Draw points; with one radius for each, their areas can show a weight."""
        points = list(points)
        radii = np.broadcast_to(np.asarray(radius, float), len(points))
        self.parts += [
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}" fill="{colour}" '
            f'fill-opacity="{opacity:g}"/>'
            for (x, y), r in zip(points, radii, strict=True)
        ]

    def image(self, x: float, y: float, size: float, pixels: Tensor) -> Shape:
        """Show a grey image ``[H, W]`` of values in [0, 1] around its middle, as wide as size.

        Raises
        ------
        ValueError
            If it has another number of axes.
        """
        address = address_of(pixels)
        height = size * pixels.shape[0] / pixels.shape[1]
        place = f'x="{_n(x - size / 2)}" y="{_n(y - height / 2)}" width="{_n(size)}" '
        place += f'height="{_n(height)}"'
        self.parts.append(
            f'<image {place} href="{address}" class="pixels"/>'
            f'<rect {place} fill="none" stroke="{FAINT}" stroke-width="{THIN:g}"/>'
        )
        return Shape(x, y, size, height)

    def axes(self, frame: Frame, *, x: str = "", y: str = "") -> None:
        """Draw the left and lower side of a frame, and name them at their ends."""
        corner = (frame.left, frame.bottom)
        self.line((frame.left, frame.top), corner, (frame.right, frame.bottom), width=THIN)
        if x:
            self.text(frame.right, frame.bottom + 14, x, anchor="end")
        if y:
            self.text(frame.left - 6, frame.top + 6, y, anchor="end")

    def brace(self, start: Point, end: Point, *, depth: float = 9, colour: str = INK) -> None:
        """Draw a curly brace whose tip points to the left of the way from start to end."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        along = (end - start) / np.linalg.norm(end - start)
        out = depth * np.array([along[1], -along[0]])
        middle = (start + end) / 2
        bow = min(depth, float(np.linalg.norm(end - start)) / 4) * along
        places = {
            "M": [start],
            "Q": [start + out / 2, start + out / 2 + bow],
            "L": [middle - bow + out / 2],
            "Q ": [middle + out / 2, middle + out],
            " Q": [middle + out / 2, middle + bow + out / 2],
            " L": [end - bow + out / 2],
            " Q ": [end + out / 2, end],
        }
        path = "".join(
            key + " ".join(f"{_n(x)} {_n(y)}" for x, y in value) for key, value in places.items()
        )
        self._path(path, colour, LINE, dashed=False)

    def svg(self) -> str:
        """Return the drawing as markup."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" '
            f'height="{self.height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
            f"<title>{html.escape(self.title)}</title>"
            f"<desc>{html.escape(self.description)}</desc>{''.join(self.parts)}</svg>"
        )

    def _path(self, path: str, colour: str, width: float, dashed: bool) -> None:
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
            f'stroke-linejoin="round" stroke-linecap="round"{dash}/>'
        )


@dataclass(frozen=True)
class Drawing:
    """A drawing that a notebook shows as HTML."""

    page: str

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        """Return a short stand-in for the page, for terminals."""
        return "Drawing()"


def drawing(*panels: Canvas, narrow: Sequence[Canvas] = (), caption: str) -> Drawing:
    """Put one or more canvases into one figure; they stand side by side where there is room.

    Parameters
    ----------
    panels
        The canvases.
    narrow
        What is shown in their place where the column is narrower than :data:`WHOLE`.
    caption
        What the drawing shows; it may hold maths.
    """
    shown = f'<div class="panels{" wide" if narrow else ""}">{_all(panels)}</div>'
    if narrow:
        shown += f'<div class="panels narrow">{_all(narrow)}</div>'
    style = STYLE.read_text(encoding="utf-8")
    return Drawing(
        f'<figure class="drawing">\n<style>\n{style}</style>\n{shown}\n'
        f"<figcaption>{_sentence(caption)}</figcaption>\n</figure>"
    )


def address_of(pixels: Tensor) -> str:
    """Return a grey image ``[H, W]`` of values in [0, 1] as the address of a PNG in itself.

    Raises
    ------
    ValueError
        If it has another number of axes.
    """
    if pixels.ndim != 2:
        raise ValueError(f"expected an image [H, W], not {list(pixels.shape)}.")
    grey = (pixels.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _all(panels: Sequence[Canvas]) -> str:
    return "".join(panel.svg() for panel in panels)


def _n(value: float) -> str:
    """Return a number with at most two decimals: finer than any screen."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no place on a canvas; expected a finite number.")
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _through(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _middle(place: Shape | Point) -> Point:
    return (place.x, place.y) if isinstance(place, Shape) else place


def _leave(place: Shape | Point, towards: Point) -> Point:
    return place.edge(towards) if isinstance(place, Shape) else place


def _spans(text: str, size: float) -> str:
    """Return text as spans of an SVG."""
    spans, height = "", 0.0  # height: how far the pen is above the line
    for word, style, raised in _pieces(text):
        attributes = f' class="{style}"' if style else ""
        if word == HAT:
            attributes += f' dx="{_n(-0.37 * size)}"'  # back, over the letter
        if raised:
            attributes += f' font-size="{_n(max(INDEX * size, SMALLEST))}"'
        if raised * size != height:
            attributes += f' dy="{_n(height - raised * size)}"'
            height = raised * size
        spans += f"<tspan{attributes}>{html.escape(word)}</tspan>"
    return spans


def _sentence(text: str) -> str:
    """Return text as HTML; a formula stays in one line."""
    sentence = ""
    for is_maths, part in _parts(text):
        if is_maths:
            sentence += f'<span class="maths">{"".join(map(_element, _maths(part)))}</span>'
        else:
            sentence += html.escape(part)
    return sentence


def _element(piece: Piece) -> str:
    letters, style, raised = piece
    if letters == HAT:
        style += " hat"
    tag = "span" if not raised else "sup" if raised > 0 else "sub"
    return f'<{tag} class="{style}">{html.escape(letters)}</{tag}>'


def _pieces(text: str) -> Iterator[Piece]:
    for is_maths, part in _parts(text):
        yield from _maths(part) if is_maths else [(part, "", 0.0)]


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of a text between its dollar signs, and whether they are maths."""
    parts = text.split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"expected dollar signs in pairs in {text!r}.")
    yield from ((i % 2 == 1, part) for i, part in enumerate(parts) if part)


def _maths(formula: str) -> Iterator[Piece]:
    for match in _MATHS.finditer(formula):
        letters = match["group"] or match["one"] or match.group()
        style = "italic" if len(letters) == 1 and letters.isalpha() else "upright"
        yield letters, style, {"_": -0.2, "^": 0.38}.get(match["shift"], 0.0)
