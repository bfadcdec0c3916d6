"""A pad to draw on: the encoder answers with its ellipse on the plane, the decoder with a picture.

The page computes with the weights of a trained VAE. They travel as whole numbers, and each row of
a matrix has a scale of its own.
"""

from __future__ import annotations

import base64
import html
import math
from typing import Any

import numpy as np
import torch
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.stats import gaussian_kde
from torch import Tensor, nn

from vaelib.course.drawing import FAINT, INK, SMALL, THIN, Canvas, Frame, address_of
from vaelib.course.labs.live import LiveFigure, live_figure
from vaelib.course.labs.training_film import COLOURS
from vaelib.likelihoods import Bernoulli
from vaelib.models import VAE
from vaelib.networks import IMAGE_SHAPE, MLPDecoder, MLPEncoder
from vaelib.posteriors import SCALES, DiagonalNormal

SIDE, LEFT, BOTTOM, LENS = 270, 18, 18, 96
"""Side of the plane, room for the numbers at its axes, and side of the lens, in pixels."""

BITS, ENCODER_BITS, DECODER_BITS = 16, 14, 12
"""Bits of a weight; fewer in the two large layers, that behind the pixels and that before them.

An error at the encoder's entry is amplified: sigma is about 0.02, and a code that is off by half
of it is another picture. One at the decoder's exit goes into a single pixel.
"""

NODES = 4
"""Points of the quadrature along each axis of q."""

MASSES = (0.8, 0.4)
"""How much of a class each of its contours encloses."""

FEWEST = 5
"""Images that a class needs for its contours."""

GRID, BANDWIDTH = 101, 0.3
"""Points along each side of the grid of a density, and the width of its kernel in units of the
class's own spread."""

SHARE = 0.985
"""Share of the coordinates that the plane holds: a few codes far out would make the rest tiny."""

APART = 15
"""Distance that the digits on the plane keep from one another, in pixels."""

ACTIVATIONS = {nn.SiLU: "silu", nn.ReLU: "relu"}

BODY = """
<div class="draw-a-digit">
<div class="draw-parts">
<div class="draw-pad">
<p class="draw-head with-script">Draw a digit</p>
<p class="draw-head without-script">A digit</p>
<div class="draw-work">
<canvas class="with-script draw-picture" width="448" height="448" role="img"
aria-label="Pad: draw a digit with mouse, pen or finger, or choose an example"></canvas>
<img class="without-script draw-picture" src="{example}" alt="A handwritten digit.">
<div class="with-script draw-choices">
<button type="button">Clear the pad</button>
<fieldset><legend>or choose one</legend>{thumbnails}</fieldset>
</div>
</div>
</div>
<div class="draw-plane">
<p class="draw-head">The encoder places it</p>
<div class="draw-stage">{plane}</div>
<div class="with-script draw-sliders">
<label><span><i>z</i><sub>1</sub></span> {first}</label>
<label><span><i>z</i><sub>2</sub></span> {second}</label>
<button type="button">Draw <i>z</i> from the ellipse</button>
</div>
</div>
<div class="draw-out">
<p class="draw-head">The decoder answers</p>
<div class="draw-pictures">
<div class="with-script">{seen}<p>what the encoder sees</p></div>
<div>{reconstruction}<p>decoded at <i>μ</i>, the ring</p></div>
<div>{lens}<p>the ellipse, <span class="draw-zoom">{zoom}</span> times larger</p></div>
<div class="with-script">{decoded}<p>decoded at <i>z</i>, the cross</p></div>
</div>
<dl>
<div><dt>code <i>μ</i></dt><dd class="draw-mu">{mu}</dd></div>
<div><dt>rate, nats</dt><dd class="draw-rate">{rate}</dd></div>
<div><dt>distortion</dt><dd class="draw-distortion">{distortion}</dd></div>
<div><dt>−ELBO</dt><dd class="draw-loss">{loss}</dd></div>
</dl>
<p class="draw-said" role="status"></p>
</div>
</div>
<p class="with-script draw-note">A drawing is prepared as MNIST was: scaled to fit 20 × 20 pixels,
then moved so that its centre of mass is in the middle of 28 × 28. The examples are test images as
they are. Move over the plane, or use the sliders, to decode any point.</p>
</div>
"""


def draw_a_digit(
    vae: VAE,
    images: Tensor,
    labels: Tensor,
    examples: Tensor,
    *,
    name: str = "draw-a-digit",
    caption: str,
) -> LiveFigure:
    """Let the reader draw a digit, and show what a VAE with two latent dimensions makes of it.

    The encoder answers with q(z | x) on the plane of codes, the decoder with the reconstruction
    at its mean and with a picture at any other point that the reader chooses. Where scripts do
    not run, the first example stands in the place of a drawing.

    Parameters
    ----------
    vae
        The model: :class:`MLPEncoder` and :class:`MLPDecoder` for 28x28 images, two latent
        dimensions, ``Bernoulli(grey=True)``.
    images, labels
        Images ``[N, 1, 28, 28]`` and their digits ``[N]``; the densities of their posterior means
        are the contours of the plane.
    examples
        Images ``[E, 1, 28, 28]`` that can be chosen in the place of a drawing.
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.

    Raises
    ------
    ValueError
        If the model is another one, the images are none that it describes, there is no example,
        or a class has fewer than five images.
    """
    _check(vae, images, labels, examples)
    z = vae.embed(images).cpu().double().numpy()
    limit = math.ceil(2 * np.quantile(np.abs(z).max(1), SHARE)) / 2
    start = examples[:1].to(vae.device)
    with torch.no_grad():
        q = vae.encode(start)
    rate, distortion = _numbers(vae, start, q)
    first = examples[0, 0]
    reconstruction = vae.reconstruct(start)[0, 0]
    half = 3 * q.stddev.max().item()
    body = BODY.format(
        example=address_of(first),
        thumbnails="".join(
            _thumbnail(image, i, name, len(examples)) for i, image in enumerate(examples[:, 0])
        ),
        plane=_plane(z, labels.cpu().numpy(), q, limit).svg(),
        first=_slider(1, limit),
        second=_slider(2, limit),
        seen=_picture("The picture that the encoder sees"),
        reconstruction=_picture("The reconstruction at the mean of q")
        + f'<img class="without-script draw-picture" src="{address_of(reconstruction)}" '
        'alt="The reconstruction of the digit.">',
        decoded=_picture("The picture decoded at your point of the plane"),
        lens=_lens(q, half).svg(),
        zoom=f"{limit / half:.0f}",
        mu="({:.2f}, {:.2f})".format(*q.mu[0].tolist()).replace("-", "−"),
        rate=f"{rate:.1f}",
        distortion=f"{distortion:.1f}",
        loss=f"{rate + distortion:.1f}",
    )
    return live_figure(
        "draw_a_digit",
        name=name,
        label="A pad to draw a digit on, and what a VAE makes of it",
        data={
            "encoder": _layers(vae.encoder.layers, first=ENCODER_BITS),
            "decoder": _layers(vae.decoder.layers, last=DECODER_BITS),
            # The cap on log-variances, if the model has one.
            "ceiling": SCALES[vae.scale](torch.tensor(1e9)).item(),
            "quadrature": [axis.tolist() for axis in _quadrature()],
            "examples": [_text((255 * x).round().byte().cpu().numpy()) for x in examples],
            "limit": limit,
            "side": SIDE,
            "left": LEFT,
            "lens": LENS,
        },
        body=body,
        caption=caption,
    )


def _check(vae: VAE, images: Tensor, labels: Tensor, examples: Tensor) -> None:
    encoder, decoder = vae.encoder, vae.decoder
    if not (isinstance(encoder, MLPEncoder) and isinstance(decoder, MLPDecoder)):
        raise ValueError(
            f"the networks are a {type(encoder).__name__} and a {type(decoder).__name__}; "
            "expected an MLPEncoder and an MLPDecoder."
        )
    if vae.latent_dim != 2 or vae.image_shape != IMAGE_SHAPE:
        raise ValueError(
            f"the model has {vae.latent_dim} latent dimensions and images {vae.image_shape}; "
            f"expected 2 and {IMAGE_SHAPE}."
        )
    if not (isinstance(vae.likelihood, Bernoulli) and vae.likelihood.grey):
        raise ValueError(f"the likelihood is {vae.likelihood}; expected Bernoulli(grey=True).")
    if vae.scale not in ("exp", "capped"):
        raise ValueError(f"the scale is {vae.scale!r}; expected 'exp' or 'capped'.")
    for layer in (*encoder.layers, *decoder.layers):
        if not isinstance(layer, nn.Linear) and type(layer) not in ACTIVATIONS:
            raise ValueError(f"the activation is {layer}; expected SiLU or ReLU.")
    for what, x in (("images", images), ("examples", examples)):
        if x.ndim != 4:
            raise ValueError(f"{what} have shape {list(x.shape)}; expected [N, 1, 28, 28].")
        vae.checked_images(x)
    if labels.shape != (len(images),) or not torch.isin(labels.cpu(), torch.arange(10)).all():
        raise ValueError(
            f"labels have shape {list(labels.shape)} for {len(images)} images; "
            "expected one digit from 0 to 9 for each."
        )
    digits, counts = labels.unique(return_counts=True)
    if counts.min() < FEWEST:
        few = digits[counts.argmin()].item()
        raise ValueError(
            f"there are {counts.min().item()} images of a {few}; expected {FEWEST} or more of "
            "each class, for its contours."
        )


def _layers(network: nn.Sequential, *, first: int = BITS, last: int = BITS) -> list[dict[str, Any]]:
    """Return the linear layers of a network, and the activation before each of them."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    bits = [BITS] * len(linear)
    bits[0], bits[-1] = min(bits[0], first), min(bits[-1], last)
    before = ["none"] + [ACTIVATIONS[type(x)] for x in network if not isinstance(x, nn.Linear)]
    return [
        {"activation": activation, **_quantised(layer, b)}
        for layer, b, activation in zip(linear, bits, before, strict=True)
    ]


def _quantised(layer: nn.Linear, bits: int) -> dict[str, Any]:
    """Return a layer whose weights are whole numbers of a few bits times a scale for each row.

    The whole numbers, raised so that none is negative, follow one another as bits, the lowest bit
    first.
    """
    weight = layer.weight.detach().cpu().double().numpy()
    most = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(1, keepdims=True).clip(min=1e-30) / most
    whole = (np.round(weight / scale) + most).astype("<u2").reshape(-1, 1)
    ones = np.unpackbits(whole.view(np.uint8), axis=1, count=bits, bitorder="little")
    return {
        "bits": bits,
        "weights": _text(np.packbits(ones, bitorder="little")),
        "scale": _text(scale.astype("<f4")),
        "bias": _text(layer.bias.detach().cpu().numpy().astype("<f4")),
    }


def _text(array: NDArray[Any]) -> str:
    """Return the bytes of an array as base64."""
    return base64.b64encode(array.tobytes()).decode()


def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and weights of the Gauss-Hermite rule for a standard normal, each [NODES].

    In the page, too, the distortion is an expectation over q by this rule on both axes. It is
    exact where the distortion is a polynomial of degree 7, and no chance makes it flicker.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return points, weights / weights.sum()


@torch.no_grad()
def _numbers(vae: VAE, x: Tensor, q: DiagonalNormal) -> tuple[float, float]:
    """Return rate and distortion of one image, in nats."""
    points, weights = (
        torch.tensor(axis, device=vae.device, dtype=vae.dtype) for axis in _quadrature()
    )
    z = q.reparameterize(torch.cartesian_prod(points, points))
    distortion = -vae.decode(z).log_prob(x) @ torch.outer(weights, weights).flatten()
    rate = 0.5 * (q.mu.square() + q.variance - 1 - q.logvar).sum()
    return rate.item(), distortion.item()


def _thumbnail(image: Tensor, i: int, name: str, n: int) -> str:
    checked = " checked" if i == 0 else ""
    return (
        f'<label><input type="radio" name="{html.escape(name)}-example" value="{i}"{checked}>'
        f'<img src="{address_of(image)}" alt="example {i + 1} of {n}"></label>'
    )


def _slider(axis: int, limit: float) -> str:
    return (
        f'<input type="range" min="{-limit:g}" max="{limit:g}" step="0.05" value="0">'
        f'<output class="draw-z{axis}">0.00</output>'
    )


def _picture(label: str) -> str:
    return (
        '<canvas class="with-script draw-picture" width="28" height="28" role="img" '
        f'aria-label="{label}"></canvas>'
    )


def _plane(
    z: NDArray[np.float64], labels: NDArray[np.int64], q: DiagonalNormal, limit: float
) -> Canvas:
    """Draw the classes as contours, the ellipse of q, and the reader's point."""
    canvas = Canvas(
        LEFT + SIDE,
        SIDE + BOTTOM,
        "The plane of codes",
        "Contours show where the codes of each digit lie, and the digit is written inside of its "
        "inner contour. A ring marks the code of the drawing, a cross the point that is decoded.",
    )
    plane = Frame(LEFT, 0, SIDE, SIDE, (-limit, limit), (-limit, limit))
    middle = (LEFT + SIDE / 2, SIDE / 2)
    canvas.box(*middle, SIDE - 2, SIDE - 2, filled=False, colour=FAINT)
    step = 1 if limit < 3 else 2
    last = int((limit - 0.1) // step) * step
    for tick in range(-last, last + 1, step):
        number = str(tick).replace("-", "−")
        canvas.text(plane.x(tick), SIDE + 10, number, size=SMALL)
        canvas.text(LEFT - 4, plane.y(tick), number, size=SMALL, anchor="end")
    for radius in (1, 2, 3):
        canvas.circle(*middle, radius=radius * SIDE / (2 * limit), colour=FAINT, width=THIN)
    labelled: list[NDArray[np.float64]] = []
    for digit in np.unique(labels).tolist():
        paths, places = _contours(z[labels == digit], plane)
        canvas.parts += [
            f'<path d="{path}" fill="{COLOURS[digit]}" fill-opacity="0.13" fill-rule="evenodd" '
            f'stroke="{COLOURS[digit]}" stroke-opacity="0.6" stroke-width="{THIN:g}"/>'
            for path in paths
        ]
        free = (p for p in places if all(math.dist(p, other) >= APART for other in labelled))
        labelled.append(next(free, places[0]))
    for digit, place in zip(np.unique(labels).tolist(), labelled, strict=True):
        canvas.text(*place, str(digit), colour=COLOURS[digit], bold=True, halo=True)
    mu, sigma = q.mu[0].clamp(-limit, limit).tolist(), q.stddev[0].tolist()
    per_unit = SIDE / (2 * limit)
    ellipses = _ellipses([s * per_unit for s in sigma])
    canvas.parts.append(
        f'<g class="draw-q" transform="translate({plane.x(mu[0]):.2f} {plane.y(mu[1]):.2f})">'
        f'<circle r="8" class="draw-ring"/>{ellipses}</g>'
        f'<g class="draw-z with-script" transform="translate({middle[0]:g} {middle[1]:g})">'
        '<path d="M-7 0H7M0 -7V7" class="draw-cross"/></g>'
    )
    return canvas


def _contours(z: NDArray[np.float64], plane: Frame) -> tuple[list[str], NDArray[np.float64]]:
    """Return paths that enclose shares of a class, and places in it, the innermost first.

    A region of highest density that encloses the share m of a class begins at the quantile 1 - m
    of the density at the class's own points.
    """
    density = gaussian_kde(z.T, bw_method=BANDWIDTH)
    axes = np.linspace(*plane.x_range, GRID), np.linspace(*plane.y_range, GRID)
    across, up = np.meshgrid(*axes)
    height = density(np.stack((across.ravel(), up.ravel()))).reshape(across.shape)
    generator = contour_generator(across, up, height)
    paths = []
    for mass in MASSES:
        level = float(np.quantile(density(z.T), 1 - mass))
        lines = generator.lines(level)
        places = [plane.places(line[:, 0], line[:, 1]) for line in lines]
        paths.append("".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in p) for p in places))
    # The deepest inside of the inner contour: a peak may be a spike with no room for a digit.
    depth = distance_transform_edt(height >= level)
    order = depth.ravel().argsort(kind="stable")[::-1][: max(1, np.count_nonzero(depth))]
    return paths, plane.places(across.ravel()[order], up.ravel()[order])


def _lens(q: DiagonalNormal, half: float) -> Canvas:
    """Draw q alone: the lens is ``2 half`` wide, so that the ellipse fills two thirds of it."""
    canvas = Canvas(
        LENS,
        LENS,
        "The ellipse of q, enlarged",
        "Ellipses of one and two standard deviations; dots are points that were drawn from q.",
    )
    canvas.box(LENS / 2, LENS / 2, LENS - 2, LENS - 2, filled=False, colour=FAINT)
    radii = [s / half * LENS / 2 for s in q.stddev[0].tolist()]
    canvas.parts.append(
        f'<g class="draw-ellipse" transform="translate({LENS / 2:g} {LENS / 2:g})">'
        f'{_ellipses(radii)}</g><g class="draw-dots" fill="{INK}"></g>'
    )
    return canvas


def _ellipses(radii: list[float]) -> str:
    """Return ellipses of one and two standard deviations around the origin."""
    return "".join(f'<ellipse rx="{k * radii[0]:.2f}" ry="{k * radii[1]:.2f}"/>' for k in (1, 2))
