"""The drawings of lesson 1: what a VAE is, before any formula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from vaelib.course import one_number
from vaelib.course.drawing import (
    BOLD,
    GAP,
    GUESS,
    HALF,
    INK,
    MODEL,
    NOISE,
    PRIOR,
    PURPLE,
    QUIET,
    SMALL,
    SYMBOL,
    THIN,
    TRUTH,
    WHOLE,
    Canvas,
    Drawing,
    Frame,
    Shape,
    drawing,
)

Z_RANGE, X_RANGE = (-3.0, 3.0), (-0.9, 4.5)
"""What the maps of the world of one hidden number show."""


def graphical_model() -> Drawing:
    """Draw how an image comes about, and beside it how its code is guessed."""
    model = Canvas(
        HALF,
        268,
        "The model: a hidden code z causes the image x.",
        "A solid arrow leads from an empty circle z, drawn from the prior p(z), to a shaded circle "
        "x, drawn from p(x | z). The decoder's parameters theta act on x. A frame around z and x "
        "says N images: each has a code of its own; theta stands outside.",
    )
    model.heading("the model")
    z, x = _plate(model)
    model.arrow(z, x, colour=MODEL)
    model.arrow(_letter(model, 30, x.y, "$θ$", MODEL), x, colour=MODEL)
    model.text(168, z.y, "a code $z ∼ p(z)$", anchor="start")
    model.text(168, x.y, "an image\n$x ∼ p_θ(x | z)$", anchor="start")

    guess = Canvas(
        HALF,
        268,
        "The encoder: from the image x back to its code z.",
        "The same circles z and x. Beside the solid arrow from z to x, a dashed arrow leads back "
        "from x to z, the guess q(z | x). The encoder's parameters phi act on it.",
    )
    guess.heading("the model and its encoder")
    z, x = _plate(guess)
    guess.arrow(z, x, bend=-16, colour=MODEL)
    guess.arrow(x, z, bend=-16, colour=GUESS, dashed=True)
    guess.arrow(_letter(guess, 30, x.y, "$θ$", MODEL), x, colour=MODEL)
    guess.arrow(_letter(guess, 30, z.y, "$φ$", GUESS), z, colour=GUESS, dashed=True)
    guess.text(168, z.y, "$q_φ(z | x)$  guesses", anchor="start", colour=GUESS)
    guess.text(168, (z.y + x.y) / 2, "$p_θ(x | z)$  generates", anchor="start", colour=MODEL)
    return drawing(
        model,
        guess,
        caption="The model: nobody sees $z$ (empty circle), the image $x$ is given (shaded). The "
        "frame stands for $N$ images, each with a code of its own; all share the decoder’s "
        "parameters $θ$. The encoder, with parameters $φ$, goes the other way (dashed).",
    )


def _plate(canvas: Canvas) -> tuple[Shape, Shape]:
    """Draw z above x, in a frame that stands for N images."""
    canvas.box(203, 147, 246, 222, filled=False, colour=QUIET)
    canvas.text(316, 244, "$N$ images", size=SMALL, anchor="end", colour=QUIET)
    return canvas.circle(126, 82, "$z$"), canvas.circle(126, 206, "$x$", observed=True)


def _letter(canvas: Canvas, x: float, y: float, letter: str, colour: str) -> Shape:
    """Write parameters: a letter without a circle, since it is not random."""
    canvas.text(x, y, letter, size=SYMBOL, colour=colour)
    return Shape(x, y, 2 * SMALL, 2 * SMALL, round=True)


def encoder_code_decoder(
    image: Tensor, output: Tensor, *, mean: float = 0.9, stddev: float = 0.3
) -> Drawing:
    """Draw the way of one image through a VAE, and where the two parts of its loss act.

    Parameters
    ----------
    image, output
        The image that goes in and the mean of p(x | z) that comes out, ``[H, W]`` in [0, 1].
    mean, stddev
        Of q(z | x) in one latent dimension, for the small picture of the rate.
    """
    about = (
        "The way of an image through a VAE.",
        "The image x enters the encoder, which gives mu and sigma of q(z | x). The code z is mu "
        "plus sigma times noise from outside. The decoder turns z into an image. The distortion "
        "compares the image that comes out with the one that went in; the rate compares q(z | x), "
        "a narrow bump, with the prior p(z), a wide one.",
    )
    wide, narrow = Canvas(WHOLE, 316, *about), Canvas(HALF, 500, *about)
    _rate(wide, _vae_across(wide, image, output), mean, stddev)
    _rate(narrow, _vae_down_and_up(narrow, image, output), mean, stddev)
    return drawing(
        wide,
        narrow=[narrow],
        caption="An image on its way through a VAE. The encoder does not give a code but a "
        "distribution of codes, $q_φ(z | x)$, and what comes out, $xˆ$, is the mean of "
        "$p_θ(x | z)$. Two things are paid for: the distortion at the output, and the rate at the "
        "code. Their sum is −ELBO.",
    )


def _vae_across(canvas: Canvas, image: Tensor, output: Tensor) -> Shape:
    """Draw a VAE from left to right; return the place of q."""
    x, y = canvas.image(46, 116, 84, image), canvas.image(642, 116, 84, output)
    encoder = canvas.network(166, 116, 96, 88, "encoder", narrow="right", colour=GUESS)
    q = _mu_over_sigma(canvas, 278, 116)
    z, noise = canvas.circle(390, 116, "$z$"), canvas.circle(390, 214, "$ε$", colour=NOISE)
    decoder = canvas.network(516, 116, 96, 88, "decoder", narrow="left", colour=MODEL)
    _join(canvas, x, encoder, q, z, decoder, y)
    canvas.arrow(noise, z, colour=NOISE)

    for side in (x, y):
        canvas.arrow((side.x, 26), (side.x, 70), colour=MODEL)
    canvas.line((x.x, 26), (250, 26), colour=MODEL)
    canvas.line((438, 26), (y.x, 26), colour=MODEL)
    canvas.text(344, 26, "distortion $−log p_θ(x | z)$", colour=MODEL)
    canvas.text(x.x, 174, "$x$", size=SYMBOL)
    canvas.text(y.x, 174, "$xˆ$", size=SYMBOL)
    canvas.text(390, 74, "$z = μ + σ ε$")
    canvas.text(418, 214, "$ε ∼ N(0, 1)$", anchor="start", colour=NOISE)
    return q


def _vae_down_and_up(canvas: Canvas, image: Tensor, output: Tensor) -> Shape:
    """Draw a VAE as a U, down the encoder and up the decoder; return the place of q."""
    x, y = canvas.image(78, 50, 84, image), canvas.image(258, 50, 84, output)
    encoder = canvas.network(78, 172, 96, 84, "encoder", narrow="bottom", colour=GUESS)
    decoder = canvas.network(258, 172, 96, 84, "decoder", narrow="bottom", colour=MODEL)
    q = _mu_over_sigma(canvas, 78, 300)
    z, noise = canvas.circle(258, 300, "$z$"), canvas.circle(258, 396, "$ε$", colour=NOISE)
    _join(canvas, x, encoder, q, z, decoder, y)
    canvas.arrow(noise, z, colour=NOISE)

    canvas.arrow((168, 50), x, colour=MODEL)
    canvas.arrow((168, 50), y, colour=MODEL)
    canvas.text(168, 34, "distortion", colour=MODEL)
    canvas.text(168, 68, "$−log p_θ(x | z)$", colour=MODEL)
    canvas.text(58, 110, "$x$", size=SYMBOL)
    canvas.text(278, 110, "$xˆ$", size=SYMBOL)
    canvas.text(168, 284, "$z = μ + σ ε$")
    canvas.text(258, 436, "$ε ∼ N(0, 1)$", colour=NOISE)
    return q


def _mu_over_sigma(canvas: Canvas, x: float, y: float) -> Shape:
    """Draw what the encoder gives: the two parameters of q."""
    canvas.text(x, y - 21, "$μ$", size=SYMBOL)
    canvas.text(x, y + 21, "$σ$", size=SYMBOL)
    return canvas.box(x, y, 52, 88, colour=GUESS)


def _join(canvas: Canvas, *shapes: Shape) -> None:
    for start, end in pairwise(shapes):
        canvas.arrow(start, end)


def _rate(canvas: Canvas, q: Shape, mean: float, stddev: float) -> None:
    """Draw q(z | x) against the prior, under what the encoder gives."""
    frame = Frame(q.x - 76, q.y + 98, 152, 62, (-3.2, 3.2), (0, 1))
    canvas.arrow((q.x, q.y + 44 + GAP), (q.x, frame.top - 2 * GAP), colour=GUESS)
    canvas.text(q.x + 10, q.y + 66, "$q_φ(z | x)$", anchor="start", colour=GUESS)
    # Widths are to scale and heights are not: q is often so narrow that p would be a flat line.
    z = np.linspace(*frame.x_range, 201)
    prior = frame.places(z, 0.4 * np.exp(-(z**2) / 2))
    canvas.area(prior, colour=PRIOR)
    canvas.curve(prior, colour=PRIOR)
    u = np.linspace(-3, 3, 101)
    canvas.curve(frame.places(mean + stddev * u, np.exp(-(u**2) / 2)), colour=GUESS)
    canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)
    canvas.text(frame.right - 12, frame.bottom - 18, "$p(z)$", anchor="start", colour=PRIOR)
    canvas.text(q.x, frame.bottom + 20, "rate $KL(q_φ(z | x) ‖ p(z))$", colour=GUESS)


def one_hidden_number(x: float = one_number.X) -> Drawing:
    """Draw a world of one hidden number as a map, and Bayes' rule as its row at x."""
    return drawing(
        _joint_map(x),
        _bayes_rule(x),
        caption="One hidden number $z$ and one visible number $x$. The map is shaded most where "
        "both are likely together: $p(x, z) = p(z) p(x | z)$. A column, rescaled, is $p(x | z)$; "
        "the shadow on the upright axis is $p(x)$; the row at the observed $x$, divided by "
        "$p(x)$, is the posterior. No single bell $q(z)$ covers both of its peaks.",
    )


def _joint_map(x: float) -> Canvas:
    canvas = Canvas(
        HALF,
        384,
        "A map of the joint density p(x, z).",
        "z runs across and x upwards. The dark band of the map is U-shaped: x is about f(z), with "
        "some noise. One column carries a bump, p(x | z). At the right stands the shadow of the "
        "map, p(x); under it lies the prior p(z), a bell around 0. A dashed row marks the x that "
        "is observed; it cuts the band twice.",
    )
    canvas.heading("the world as a map")
    z = np.linspace(*Z_RANGE, 241)
    world = Frame(34, 40, 222, 216, Z_RANGE, X_RANGE)
    _shade(canvas, world)
    canvas.axes(world)
    canvas.text(world.left - 14, world.top + 8, "$x$", size=SYMBOL)
    canvas.text(world.left + 14, world.top + 14, "$p(x, z)$", anchor="start")

    column, bump = 1.75, np.linspace(-3.2, 3.2, 61)
    up = float(one_number.f(column)) + one_number.NOISE * bump
    foot = world.x(column)
    canvas.line((foot, world.bottom), (foot, world.top), colour=MODEL, width=THIN)
    places = world.places(column, up)
    places[:, 0] += 30 * np.exp(-(bump**2) / 2)
    canvas.area(places, colour=MODEL, opacity=0.35)
    canvas.curve(places, colour=MODEL)
    canvas.text(foot + 6, world.y(0.25), "$p(x | z)$", anchor="start", colour=MODEL)

    xs = np.linspace(*X_RANGE, 241)
    shadow = one_number.log_px(torch.from_numpy(xs)).exp().numpy()
    side = Frame(268, world.top, 56, world.height, (0, shadow.max()), X_RANGE)
    outline = side.places(shadow, xs)
    canvas.area([(side.left, side.bottom), *outline, (side.left, side.top)], colour=INK)
    canvas.curve(outline)
    canvas.line((side.left, side.top), (side.left, side.bottom), width=THIN)
    canvas.text(side.left + 34, side.top + 14, "$p(x)$")

    under = Frame(world.left, 300, world.width, 50, Z_RANGE, (0, 0.4))
    _curve(canvas, under, z, one_number.PRIOR.log_prob(torch.from_numpy(z)).exp().numpy(), PRIOR)
    canvas.text(under.left + 14, under.top + 14, "$p(z)$", anchor="start", colour=QUIET)
    canvas.text(under.right + 14, under.bottom, "$z$", size=SYMBOL)

    density = one_number.log_px(x).exp().item()
    canvas.line((world.left, world.y(x)), (side.right, world.y(x)), colour=TRUTH, dashed=True)
    canvas.dots([(side.x(density), world.y(x))], radius=4.5, opacity=1)
    canvas.text(world.left - 6, world.y(x), f"{x:g}", anchor="end", colour=TRUTH)
    return canvas


def _bayes_rule(x: float) -> Canvas:
    canvas = Canvas(
        HALF,
        384,
        "Bayes' rule at the observed x, as three curves above one another.",
        "From above: the prior p(z), a bell around 0; the likelihood p(x | z), two peaks of equal "
        "height; and their product divided by p(x), the posterior p(z | x), with a high peak where "
        "the prior is high and a low one where it is low. A dashed bell q(z) covers the high peak "
        "only.",
    )
    canvas.heading(f"its row at $x$ = {x:g}")
    z = torch.linspace(*Z_RANGE, 481, dtype=torch.float64)
    prior = one_number.PRIOR.log_prob(z).exp()
    likelihood = one_number.log_likelihood(x, z).exp()
    posterior = one_number.log_posterior(z, x).exp()
    mean, stddev = best_q(x)
    q = Normal(mean, stddev).log_prob(z).exp()
    left, width = 96, 222
    upper = Frame(left, 40, width, 50, Z_RANGE, (0, prior.max()))
    middle = Frame(left, 128, width, 60, Z_RANGE, (0, likelihood.max()))
    lower = Frame(left, 234, width, 116, Z_RANGE, (0, max(posterior.max(), q.max())))
    for frame, density, colour, name in (
        (upper, prior, PRIOR, "prior\n$p(z)$"),
        (middle, likelihood, MODEL, "likelihood\n$p(x | z)$"),
        (lower, posterior, TRUTH, "posterior\n$p(z | x)$"),
    ):
        _curve(canvas, frame, z.numpy(), density.numpy(), colour)
        canvas.text(left - 8, frame.bottom - 18, name, anchor="end", colour=colour)
    under_q = (z - mean).abs() < 4 * stddev
    canvas.curve(lower.places(z[under_q], q[under_q]), colour=GUESS, dashed=True)
    canvas.text(
        lower.x(mean + 2.2 * stddev), lower.top + 14, "$q(z)$", anchor="start", colour=GUESS
    )
    canvas.text(lower.right + 12, lower.bottom, "$z$", size=SYMBOL)
    canvas.text(68, 109, "×", size=SYMBOL)
    canvas.text(68, 211, "∝", size=SYMBOL)
    return canvas


def best_q(x: float) -> tuple[float, float]:
    """Return mean and standard deviation of the Gaussian with the best ELBO."""
    mean, stddev, _ = one_number.climb(x, 1.0, 0.3)[-1].tolist()
    return mean, stddev


def averaging_and_aiming(x: float = 2.5, *, draws: int = 24, seed: int = 0) -> Drawing:
    """Draw two ways to estimate p(x): codes from the prior, and codes from near the posterior.

    Parameters
    ----------
    x
        The observation, in the world of :mod:`vaelib.course.one_number`.
    draws
        How many codes each estimate gets.
    seed
        Seed of the draws.
    """
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, draws, generator=rng, dtype=torch.float64)
    z = noise[0]
    near = near_the_posterior(x)
    peak = torch.multinomial(near.mixture_distribution.probs, draws, True, generator=rng)
    means, stddevs = near.component_distribution.mean, near.component_distribution.stddev
    aimed = means[peak] + stddevs[peak] * noise[1]
    return drawing(
        _estimate(x, z, one_number.PRIOR, "averaging over the prior", "$p(z)$", QUIET),
        _estimate(x, aimed, near, "aiming near the posterior", "$q(z)$", GUESS),
        caption=f"Two estimates of $p(x)$ at $x$ = {x:g} from {draws} codes each (ticks). A code "
        "counts as much as the area of its dot: its share of the weight $p(x, z)$ over the density "
        "it was drawn from. From the prior, nearly all codes miss the shaded places of the row, "
        "and the estimate hangs on the few that do not. Draws count as one over the sum of their "
        "squared shares.",
    )


def _estimate(
    x: float, z: Tensor, proposal: Distribution, heading: str, name: str, colour: str
) -> Canvas:
    """Draw codes from a proposal on the row of the map, with their weights as areas."""
    share = weights(x, z, proposal)
    effective = 1 / share.square().sum().item()
    canvas = Canvas(
        HALF,
        366,
        f"Estimating p(x) by {heading}.",
        f"On the row of the map at x = {x:g} lie {len(z)} dots, one for each draw. Their areas are "
        f"their shares of the sum of all weights; together they count as {effective:.1f} draws. "
        "Under the map: the density they were drawn from, and a tick for each.",
    )
    canvas.heading(heading)
    world = Frame(34, 40, 284, 196, Z_RANGE, X_RANGE)
    _shade(canvas, world)
    canvas.axes(world)
    canvas.text(world.left - 14, world.top + 8, "$x$", size=SYMBOL)
    canvas.line((world.left, world.y(x)), (world.right, world.y(x)), colour=TRUTH, dashed=True)
    canvas.text(world.left - 6, world.y(x), f"{x:g}", anchor="end", colour=TRUTH)
    # The areas of all dots add up to that of one dot of 20 pixels; none is invisible.
    radii = (20 * share.sqrt()).clamp(min=1.6)
    canvas.dots(world.places(z, x), radius=radii.tolist(), colour=colour, opacity=0.6)

    grid = torch.linspace(*Z_RANGE, 481, dtype=torch.float64)
    density = proposal.log_prob(grid).exp()
    under = Frame(world.left, 262, world.width, 50, Z_RANGE, (0, density.max()))
    _curve(canvas, under, grid.numpy(), density.numpy(), colour)
    for place, _ in under.places(z, 0):
        canvas.line((place, under.bottom + 3), (place, under.bottom + 11), colour=colour)
    canvas.text(under.left + 4, under.top + 8, name, anchor="start", colour=colour)
    canvas.text(under.right + 12, under.bottom, "$z$", size=SYMBOL)
    canvas.text(HALF / 2, 350, f"{len(z)} draws count as {effective:.1f}", bold=True, colour=colour)
    return canvas


def near_the_posterior(x: float) -> MixtureSameFamily:
    """Return a mixture of two bells at the peaks of p(z | x), a little wider than these."""
    z = one_number.Z_GRID
    posterior = one_number.log_posterior(z, x).exp()
    right = z > -one_number.SHIFT
    bells = []
    for side in (right, ~right):
        share = posterior * side / posterior.sum()
        mass = share.sum()
        mean = (share * z).sum() / mass
        bells.append((mass, mean, ((share * (z - mean) ** 2).sum() / mass).sqrt()))
    mass, mean, stddev = (torch.stack(part) for part in zip(*bells, strict=True))
    return MixtureSameFamily(Categorical(mass), Normal(mean, 1.2 * stddev))


def weights(x: float, z: Tensor, proposal: Distribution) -> Tensor:
    """Return the share ``[K]`` that each of K draws from a proposal has in the estimate of p(x)."""
    return torch.softmax(one_number.log_joint(x, z) - proposal.log_prob(z), 0)


def _shade(canvas: Canvas, frame: Frame) -> None:
    """Shade the joint density: one layer for each of its levels, in closed form.

    Where log p(x, z) is above a level, x is within a distance of f(z) that grows with p(z).
    """
    z = torch.linspace(*frame.x_range, 241, dtype=torch.float64)
    ridge = one_number.log_joint(one_number.f(z), z)
    highest = float(one_number.log_joint(one_number.f(0.0), 0.0))
    for share in (0.02, 0.1, 0.25, 0.45, 0.65, 0.85):
        above = ridge - (highest + math.log(share))
        inside = above > 0
        middle = one_number.f(z[inside])
        reach = one_number.NOISE * (2 * above[inside]).sqrt()
        lower = frame.places(z[inside], (middle - reach).clamp(*frame.y_range))
        upper = frame.places(z[inside], (middle + reach).clamp(*frame.y_range))
        canvas.area([*lower, *upper[::-1]], colour=INK, opacity=0.13)


def _curve(
    canvas: Canvas,
    frame: Frame,
    z: NDArray[np.float64],
    density: NDArray[np.float64],
    colour: str,
) -> None:
    """Draw a density over its axis."""
    places = frame.places(z, density)
    canvas.area([(frame.left, frame.bottom), *places, (frame.right, frame.bottom)], colour=colour)
    canvas.curve(places, colour=colour)
    canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), width=THIN)


def reparameterisation() -> Drawing:
    """Draw what moves out of the way of the gradient when noise enters from outside."""
    return drawing(
        _draw_inside(),
        _draw_outside(),
        caption="Circles are random, boxes are computed. If $z$ is drawn inside, the gradient "
        "(orange) stops at the draw. If only $ε$ is drawn, outside, $z$ is computed from it, and "
        "the gradient passes through to $μ$ and $σ$.",
    )


def _draw_inside() -> Canvas:
    canvas = Canvas(
        HALF,
        346,
        "Before: the gradient stops at the random draw of z.",
        "From below: boxes mu and sigma lead to a circle z, which is drawn at random from q; z "
        "leads to the loss. An orange arrow from the loss back to z ends at a bar above z.",
    )
    canvas.heading("$z$ is drawn inside")
    loss = canvas.box(HALF / 2, 58, 120, 40, "loss")
    z = canvas.circle(HALF / 2, 178, "$z$")
    for start in _mu_and_sigma(canvas, HALF / 2):
        canvas.arrow(start, z)
    canvas.arrow(z, loss)
    canvas.arrow((186, 84), (186, 134), colour=MODEL, width=BOLD)
    canvas.line((174, 140), (198, 140), colour=MODEL, width=2 * BOLD)
    canvas.text(206, 106, "gradient stops", anchor="start", colour=MODEL)
    canvas.text(206, 178, "$z ∼ q_φ(z | x)$\na random draw", anchor="start")
    return canvas


def _draw_outside() -> Canvas:
    canvas = Canvas(
        HALF,
        346,
        "After: noise enters from outside, and the gradient flows to mu and sigma.",
        "From below: boxes mu and sigma lead to a box z = mu + sigma times epsilon, which leads to "
        "the loss. A purple circle epsilon stands outside, at the right of z, and leads into it. "
        "Orange arrows lead from the loss through z to mu and to sigma.",
    )
    canvas.heading("only $ε$ is drawn")
    middle = 126
    loss = canvas.box(middle, 58, 120, 40, "loss")
    z = canvas.box(middle, 178, 144, 44, "$z = μ + σ ε$", size=17)
    noise = canvas.circle(288, 178, "$ε$", colour=NOISE)
    canvas.arrow(z, loss)
    canvas.arrow(noise, z, colour=NOISE)
    canvas.arrow((middle + 18, 84), (middle + 18, 150), colour=MODEL, width=BOLD)
    for box in _mu_and_sigma(canvas, middle):
        canvas.arrow(box, (box.x, 204))
        canvas.arrow((box.x + 18, 206), (box.x + 18, 266), colour=MODEL, width=BOLD)
    canvas.text(middle + 38, 116, "gradient flows", anchor="start", colour=MODEL)
    canvas.text(288, 226, "$ε ∼ N(0, 1)$\nfrom outside", colour=NOISE)
    return canvas


def _mu_and_sigma(canvas: Canvas, middle: float) -> tuple[Shape, Shape]:
    """Draw what the encoder gives, as boxes: both are computed."""
    canvas.text(middle, 334, "from the encoder, parameters $φ$", colour=QUIET)
    return (
        canvas.box(middle - 46, 292, 52, 44, "$μ$", size=SYMBOL),
        canvas.box(middle + 46, 292, 52, 44, "$σ$", size=SYMBOL),
    )


@dataclass(frozen=True)
class Bound:
    """An ELBO in nats: round numbers, chosen so that the parts can be told apart."""

    log_px: float
    distortion: float
    rate: float

    @property
    def elbo(self) -> float:
        """Minus distortion minus rate."""
        return -self.distortion - self.rate


NOW, BETTER_Q, BETTER_MODEL = Bound(-72, 58, 34), Bound(-72, 52, 26), Bound(-54, 38, 24)


def elbo_gap() -> Drawing:
    """Draw log p(x) and the ELBO below it, and the two ways to raise the ELBO."""
    return drawing(
        _bound_taken_apart(),
        _two_ways_up(),
        caption="Bars hang from 0 nats; the lower, the worse. The ELBO, minus distortion minus "
        "rate, lies below $log p(x)$ by $KL(q ‖ p(z | x))$. A better $q$ closes the gap and leaves "
        "the line where it is. A better model moves the line.",
    )


def _bound_taken_apart() -> Canvas:
    canvas = Canvas(
        HALF,
        330,
        "The ELBO as a bar that hangs from zero.",
        "The bar consists of the distortion and, below it, the rate; its lower end is the ELBO. A "
        "line, log p(x), crosses the bar above its end. What sticks out below the line is the KL "
        "divergence from q to the posterior.",
    )
    canvas.heading("the bound, taken apart")
    scale = _nats(canvas, 76)
    canvas.text(64, scale.y(0), "0", anchor="end")
    _bar(canvas, scale, 142, NOW, width=104)
    canvas.text(142, scale.y(-NOW.distortion / 2), "distortion")
    canvas.text(142, scale.y((NOW.log_px - NOW.distortion) / 2), "rate")
    canvas.line((76, scale.y(NOW.log_px)), (326, scale.y(NOW.log_px)), colour=TRUTH, width=BOLD)
    canvas.text(68, scale.y(NOW.log_px), "$log p(x)$", anchor="end", colour=TRUTH)
    canvas.text(84, scale.y(NOW.elbo), "ELBO", anchor="end")
    middle = scale.y((NOW.log_px + NOW.elbo) / 2)
    canvas.text(222, middle, "$KL(q ‖ p(z | x))$", anchor="start", colour=PURPLE)
    return canvas


def _two_ways_up() -> Canvas:
    canvas = Canvas(
        HALF,
        330,
        "Two ways to raise the ELBO.",
        "Three bars hang from zero. The second is shorter than the first, under the same line log "
        "p(x): the gap has shrunk. At the third the line itself is higher, and the bar ends higher "
        "still below it.",
    )
    canvas.heading("two ways up")
    scale = _nats(canvas, 10)
    old = scale.y(NOW.log_px)
    canvas.line((10, old), (326, old), colour=TRUTH, width=THIN, dashed=True)
    for x, bound, name in (
        (58, NOW, "now:\na wide gap"),
        (166, BETTER_Q, "better $q$:\ntrain $φ$"),
        (274, BETTER_MODEL, "better model:\ntrain $θ$"),
    ):
        _bar(canvas, scale, x, bound, width=52)
        level = scale.y(bound.log_px)
        canvas.line((x - 34, level), (x + 34, level), colour=TRUTH, width=BOLD)
        canvas.text(x, 308, name)
    canvas.arrow((122, scale.y(NOW.elbo)), (122, scale.y(BETTER_Q.elbo)), width=BOLD)
    canvas.arrow((230, old), (230, scale.y(BETTER_MODEL.log_px)), colour=TRUTH, width=BOLD)
    return canvas


def _nats(canvas: Canvas, left: float) -> Frame:
    """Draw the line of 0 nats, from which bars hang, and return the scale."""
    scale = Frame(left, 40, 326 - left, 250, (0, 1), (-100, 0))
    canvas.line((left, scale.top), (scale.right, scale.top), width=THIN)
    return scale


def _bar(canvas: Canvas, scale: Frame, x: float, bound: Bound, *, width: float) -> None:
    """Hang distortion and rate from 0, one below the other, and mark what is below log p(x)."""
    left, right = x - width / 2, x + width / 2
    for nats, low, colour in (
        (bound.distortion, -bound.distortion, MODEL),
        (bound.rate, bound.elbo, GUESS),
    ):
        top, bottom = scale.y(low + nats), scale.y(low)
        corners = (left, top), (right, top), (right, bottom), (left, bottom)
        canvas.area(corners, colour=colour, opacity=0.25)
    end = scale.y(bound.elbo)
    canvas.line((left, end), (right, end), width=BOLD)
    canvas.brace((right + 8, scale.y(bound.log_px) + 3), (right + 8, end), colour=PURPLE)
