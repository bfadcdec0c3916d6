"""The drawings of lesson 3: what a convolution shares, and where a network's parameters sit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelib.course.drawing import (
    BLUE,
    BOLD,
    FAINT,
    GREEN,
    HALF,
    INK,
    ORANGE,
    PURPLE,
    QUIET,
    SMALL,
    THIN,
    Canvas,
    Drawing,
    drawing,
)
from vaelib.models import VAE
from vaelib.networks import count_parameters

KERNEL = (1.0, 2.0, 1.0)
"""The weights of the one-dimensional convolutions that are drawn."""
KERNEL_COLOURS = (BLUE, ORANGE, GREEN)


def own_weights_or_shared() -> Drawing:
    """Draw a fully connected layer and a convolution between two rows of seven."""
    return drawing(
        _fully_connected(),
        _convolution(),
        caption="From seven numbers (below) to seven (above). Fully connected, each line has a "
        "weight of its own; in a convolution each output looks at three neighbours (locality), "
        "with the same three weights everywhere (sharing, one colour each).",
    )


def _fully_connected() -> Canvas:
    canvas = Canvas(
        HALF,
        232,
        "A fully connected layer from seven inputs to seven outputs.",
        "Lines lead from each of seven dots below to each of seven dots above, 49 in all. The "
        "seven lines into one output stand out.",
    )
    canvas.heading("fully connected: 49 weights")
    for i in range(7):
        for j in range(7):
            canvas.line(_seven(i, 186), _seven(j, 66), colour=QUIET, width=THIN)
    for i in range(7):
        canvas.line(_seven(i, 186), _seven(3, 66), colour=PURPLE, width=BOLD)
    _rows_of_seven(canvas)
    return canvas


def _convolution() -> Canvas:
    canvas = Canvas(
        HALF,
        232,
        "A convolution from seven inputs to seven outputs.",
        "Each of seven dots above is joined to the three dots next below it. The lines come in "
        "three colours: all that lean to one side share a weight.",
    )
    canvas.heading("convolution: 3 weights")
    for j in range(7):
        for k, colour in enumerate(KERNEL_COLOURS):
            if 0 <= j + k - 1 < 7:
                canvas.line(_seven(j + k - 1, 186), _seven(j, 66), colour=colour, width=BOLD)
    _rows_of_seven(canvas)
    return canvas


def _seven(place: int, height: float) -> tuple[float, float]:
    return 48 + 40 * place, height


def _rows_of_seven(canvas: Canvas) -> None:
    for height, name in ((66, "outputs"), (186, "inputs")):
        canvas.dots([_seven(i, height) for i in range(7)], radius=6, opacity=1)
        canvas.text(HALF / 2, height + (-24 if height < 100 else 26), name, colour=QUIET)


def what_a_stride_does(at: int = 3) -> Drawing:
    """Draw a small stroke, and the same moved by one, through convolutions of stride 1 and 2.

    Parameters
    ----------
    at
        The cell, of eight, that holds the stroke.
    """
    return drawing(
        _strokes(1, at),
        _strokes(2, at),
        caption="A row with one stroke, through the convolution with weights 1, 2, 1. With stride "
        "1, move the input and the output moves along. With stride 2 half of the outputs are "
        "kept, and the answer to a stroke that moved by one cell is another answer; only a move "
        "by two cells moves it along.",
    )


def _strokes(stride: int, at: int) -> Canvas:
    rows = {}
    for name, place in (("stroke", at), ("moved by 1", at + 1)):
        x = torch.zeros(8)
        x[place] = 1
        rows[name] = x, convolve(x, stride)
    answers = [" ".join(f"{v:g}" for v in out) for _, out in rows.values()]
    canvas = Canvas(
        HALF,
        286,
        f"A stroke and the moved stroke under a convolution of stride {stride}.",
        f"The outputs are {answers[0]} for the stroke and {answers[1]} after it moved by one cell.",
    )
    canvas.heading(f"stride {stride}")
    for top, (name, (x, out)) in zip((52, 180), rows.items(), strict=True):
        canvas.text(82, top, name, size=SMALL, anchor="end", colour=QUIET)
        canvas.text(82, top + 66, "output", size=SMALL, anchor="end", colour=QUIET)
        _cells(canvas, [_eighth(i) for i in range(8)], top, x.tolist(), colour=INK)
        places = [_eighth(i) for i in range(0, 8, stride)]
        for place, value in zip(places, out.tolist(), strict=True):
            if value:
                for k in (-1, 0, 1):
                    source = place + 29 * k
                    if _eighth(0) <= source <= _eighth(7):
                        canvas.line((source, top + 14), (place, top + 50), colour=QUIET, width=THIN)
        _cells(canvas, places, top + 66, out.tolist(), colour=ORANGE)
    return canvas


def convolve(x: Tensor, stride: int) -> Tensor:
    """Convolve a row ``[N]`` with :data:`KERNEL`, with one zero around it."""
    return F.conv1d(x.view(1, 1, -1), torch.tensor(KERNEL).view(1, 1, 3), stride=stride, padding=1)[
        0, 0
    ]


def _eighth(place: int) -> float:
    return 106 + 29 * place


def _cells(
    canvas: Canvas,
    places: Sequence[float],
    height: float,
    values: Sequence[float],
    *,
    colour: str,
    side: float = 27,
) -> None:
    """Draw a row of cells, shaded by their values, which are written inside."""
    most = max(*values, 1.0)
    for x, value in zip(places, values, strict=True):
        _cell(canvas, x, height, side, colour, opacity=0.45 * value / most)
        canvas.text(x, height, f"{value:g}", size=SMALL, colour=INK if value else QUIET)


def _cell(
    canvas: Canvas, x: float, y: float, side: float, colour: str, *, opacity: float, edge: str = ""
) -> None:
    half = side / 2
    corners = [
        (x - half, y - half),
        (x + half, y - half),
        (x + half, y + half),
        (x - half, y + half),
    ]
    if opacity:
        canvas.area(corners, colour=colour, opacity=opacity)
    canvas.line(*corners, corners[0], colour=edge or QUIET, width=THIN)


RINGS = (GREEN, BLUE, ORANGE)
LAYERS = (28, 14, 7, 4)
"""Cells in a row of the image, and after each of three convolutions of stride 2."""


def receptive_field(image: Tensor, unit: int = 2) -> Drawing:
    """Draw what one unit of the third convolution sees, in a row and on a digit.

    Parameters
    ----------
    image
        A digit ``[28, 28]``.
    unit
        Which of the four units of a row, from 0.
    """
    return drawing(
        _pyramid(unit),
        _fields_on(image, unit),
        caption="What one unit of the third convolution sees. Each convolution of stride 2 looks "
        "at three units below; those are one, then two, then four pixels apart. So it sees 3, 7 "
        "and 15 pixels in a row, and only the last has half a digit before it.",
    )


def fields(unit: int) -> list[range]:
    """Return the cells that a unit of the third convolution sees, layer by layer from the top.

    Cells beyond the border, which are zeros, are left out.
    """
    seen = [range(unit, unit + 1)]
    for below in LAYERS[-2::-1]:
        first, last = 2 * seen[-1].start - 1, 2 * (seen[-1].stop - 1) + 1
        seen.append(range(max(first, 0), min(last, below - 1) + 1))
    return seen


def _pyramid(unit: int) -> Canvas:
    seen = fields(unit)
    wide = [len(cells) for cells in seen]
    canvas = Canvas(
        HALF,
        318,
        "Three convolutions of stride 2, in one dimension.",
        f"Rows of 4, 7, 14 and 28 cells above one another. One cell of the top row is joined to "
        f"{wide[1]} cells of the second row, {wide[2]} of the third and {wide[3]} of the last.",
    )
    canvas.heading("in a row: 28 → 14 → 7 → 4")
    pixel = 11.0
    heights = (62, 138, 214, 290)
    for level, (height, cells) in enumerate(zip(heights, seen, strict=True)):
        number = LAYERS[3 - level]
        step = pixel * 2 ** (3 - level)
        # The unit of a layer stands above the middle one of those that it looks at.
        places = [20 + pixel / 2 + i * step for i in range(number)]
        if level < 3:
            for i in cells:
                for j in range(2 * i - 1, 2 * i + 2):
                    if j in seen[level + 1]:
                        canvas.line(
                            (places[i], height + 7),
                            (20 + pixel / 2 + j * step / 2, heights[level + 1] - 7),
                            colour=ORANGE,
                        )
        for i, x in enumerate(places):
            inside = i in cells
            _cell(canvas, x, height, 10, ORANGE, opacity=0.7 if inside else 0)
    for height, name in zip(heights, ("third", "second", "first", "image"), strict=True):
        canvas.text(20, height - 18, name, size=SMALL, anchor="start", colour=QUIET)
    return canvas


def _fields_on(image: Tensor, unit: int) -> Canvas:
    canvas = Canvas(
        HALF,
        318,
        "What units of the three convolutions see of a digit.",
        "On a digit stand three squares around one place: 3, 7 and 15 pixels wide.",
    )
    canvas.heading("on a digit")
    size = 252.0
    canvas.image(HALF / 2, 162, size, image)
    left, top, pixel = HALF / 2 - size / 2, 162 - size / 2, size / 28
    # Units of all three that lie above the same pixel.
    middle = 8 * unit
    for wide, colour in zip((3, 7, 15), RINGS, strict=True):
        low, high = max(middle - wide // 2, 0), min(middle + wide // 2, 27) + 1
        corners = [(low, low), (high, low), (high, high), (low, high), (low, low)]
        canvas.curve([(left + pixel * a, top + pixel * b) for a, b in corners], colour=colour)
    for x, (name, wide), colour in zip(
        (58, 168, 278), (("first", 3), ("second", 7), ("third", 15)), RINGS, strict=True
    ):
        canvas.text(x, 304, f"{name}: {wide}", colour=colour, bold=True)
    return canvas


def transposed_convolution() -> Drawing:
    """Draw a convolution of stride 2, which gathers, and its transpose, which paints."""
    return drawing(
        _gathers(),
        _paints(),
        caption="Left: a convolution of stride 2 gathers three neighbours into one number. Right: "
        "its transpose goes the same lines backwards. Each of four numbers paints three cells, and "
        "where two paint, the paint adds up. With equal weights, equal numbers give a pattern of "
        "ones and twos: the decoder has to learn not to print it.",
    )


def _gathers() -> Canvas:
    canvas = Canvas(
        HALF,
        222,
        "A convolution of stride 2 from eight cells to four.",
        "Four orange cells above; three lines lead into each from neighbours among eight below.",
    )
    canvas.heading("convolution: gathers")
    _between(canvas, 66, 176, down=False)
    _cells_empty(canvas, [_wide(i) for i in range(0, 8, 2)], 66, ORANGE)
    _cells_empty(canvas, [_wide(i) for i in range(8)], 176, INK)
    return canvas


def _paints() -> Canvas:
    paint = painted(torch.ones(4))
    canvas = Canvas(
        HALF,
        222,
        "The transposed convolution of stride 2 from four cells to eight.",
        "Four cells above hold ones. Each paints three of the eight cells below, which add up to "
        + " ".join(f"{v:g}" for v in paint)
        + ".",
    )
    canvas.heading("transposed: paints")
    _between(canvas, 66, 176, down=True)
    _cells(canvas, [_wide(i) for i in range(0, 8, 2)], 66, [1.0] * 4, colour=ORANGE)
    _cells(canvas, [_wide(i) for i in range(8)], 176, paint.tolist(), colour=INK)
    return canvas


def painted(values: Tensor) -> Tensor:
    """Return what numbers ``[N]`` paint into 2N cells with three equal weights."""
    weight = torch.ones(1, 1, 3)
    doubling = {"stride": 2, "padding": 1, "output_padding": 1}
    return F.conv_transpose1d(values.view(1, 1, -1), weight, **doubling)[0, 0]


def _wide(place: int) -> float:
    return 42 + 36 * place


def _between(canvas: Canvas, above: float, below: float, *, down: bool) -> None:
    """Join every second of eight cells to its three neighbours below."""
    for i in range(0, 8, 2):
        for j, colour in zip((i - 1, i, i + 1), KERNEL_COLOURS, strict=True):
            if 0 <= j < 8:
                ends = (_wide(i), above + 15), (_wide(j), below - 15)
                canvas.arrow(*(ends if down else ends[::-1]), colour=colour)


def _cells_empty(canvas: Canvas, places: Sequence[float], height: float, colour: str) -> None:
    for x in places:
        _cell(canvas, x, height, 27, colour, opacity=0.2)


CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
PIXELS = 28 * 28


class Place(NamedTuple):
    """Where parameters sit in a network, and how they are drawn."""

    name: str
    colour: str


PLACES = (
    Place("dense, at the pixels", BLUE),
    Place("dense, inside", QUIET),
    Place("kernels", ORANGE),
)


def parameters_by_place(vae: VAE) -> dict[str, int]:
    """Count the parameters of dense layers at the pixels, of those inside, and of convolutions.

    A network with a convolution touches the pixels with it, so its dense layers are all inside.
    """
    at_pixels, inside, kernels = (place.name for place in PLACES)
    counts = dict.fromkeys((at_pixels, inside, kernels), 0)
    for network in (vae.encoder, vae.decoder):
        layers = list(network.modules())
        convolves = any(isinstance(layer, CONVOLUTIONS) for layer in layers)
        for layer in layers:
            if isinstance(layer, CONVOLUTIONS):
                counts[kernels] += count_parameters(layer)
            elif isinstance(layer, nn.Linear):
                touches = not convolves and PIXELS in (layer.in_features, layer.out_features)
                counts[at_pixels if touches else inside] += count_parameters(layer)
    return counts


def where_parameters_sit(networks: Mapping[str, Mapping[str, VAE]]) -> Drawing:
    """Draw the parameters of networks as bars, by the place where they sit.

    Parameters
    ----------
    networks
        Heading of a panel -> name of a network -> the network. Bars of a panel share a scale.
    """
    return drawing(
        *(_bars(heading, group) for heading, group in networks.items()),
        caption="Where the parameters sit (16 latent dimensions). Perceptrons spend nearly all on "
        "the two layers that touch the pixels if they are small, and most of it if they are "
        "large. The networks called convolutional touch the pixels with a few hundred weights, "
        "and spend the rest on dense layers behind them.",
    )


def _bars(heading: str, group: Mapping[str, VAE]) -> Canvas:
    counts = {name: parameters_by_place(vae) for name, vae in group.items()}
    said = (
        f"{name}: " + ", ".join(f"{n:,} {place}" for place, n in by_place.items())
        for name, by_place in counts.items()
    )
    canvas = Canvas(
        HALF, 24 + 128 * len(counts), f"Parameters of networks: {heading}.", ". ".join(said) + "."
    )
    canvas.heading(heading)
    most = max(sum(by_place.values()) for by_place in counts.values())
    top = 44.0
    for name, by_place in counts.items():
        total = sum(by_place.values())
        canvas.text(10, top, f"{name}: {total:,}", anchor="start", bold=True)
        left = 10.0
        for place in PLACES:
            width = 316 * by_place[place.name] / most
            corners = [(left, top + 14), (left + width, top + 14)]
            corners += [(x, top + 44) for x, _ in corners[::-1]]
            if width:
                canvas.area(corners, colour=place.colour, opacity=0.6)
            left += width
        canvas.line((10, top + 14), (10, top + 44), colour=FAINT, width=THIN)
        shown = [place for place in PLACES if by_place[place.name]]
        for i, place in enumerate(shown):
            share = by_place[place.name] / total
            text = f"{place.name} {share:.1%}"
            canvas.text(
                10, top + 60 + 18 * i, text, size=SMALL, anchor="start", colour=place.colour
            )
        top += 128
    return canvas
