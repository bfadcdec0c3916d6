"""What the drawings of lesson 2 show is true; what all drawings must keep to: test_drawing.py."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy.stats import norm

from vaelib.course import drawings_2

SVG = "{http://www.w3.org/2000/svg}"
X = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
MEAN = torch.tensor([0.3, 0.9, 0.5, 0.6], dtype=torch.float64)


def panels(drawn) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawn.page).iter(f"{SVG}svg"))


def letters(panel: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in panel.iter(f"{SVG}text")]


def test_the_costs_of_a_pixel_are_those_of_their_formulas():
    bernoulli = -(X * MEAN.log() + (1 - X) * (1 - MEAN).log())
    torch.testing.assert_close(drawings_2.bernoulli(X, MEAN), bernoulli)
    gaussian = torch.from_numpy(-norm(MEAN.numpy(), 0.3).logpdf(X.numpy()))
    torch.testing.assert_close(drawings_2.gaussian(0.3)(X, MEAN), gaussian, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.5, 0.7, 0.998])
def test_the_continuous_bernoulli_has_the_mean_that_is_stated_for_it(mean):
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = (-drawings_2.continuous_bernoulli(x, torch.full_like(x, mean))).exp()
    assert torch.trapezoid(density, x) == pytest.approx(1, abs=1e-3)
    assert torch.trapezoid(x * density, x) == pytest.approx(mean, abs=2e-3)


@pytest.mark.parametrize("name", drawings_2.LIKELIHOODS)
def test_an_error_has_a_price_and_a_true_statement_has_none(name):
    likelihood = drawings_2.LIKELIHOODS[name]
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    x, stated = torch.meshgrid(grid, grid, indexing="ij")
    price = drawings_2.price(likelihood, x, stated)
    assert price.shape == x.shape
    assert price.min() > -1e-3  # the continuous Bernoulli is looked up on a grid
    assert price.diag().abs().max() < 1e-9
    assert (price.diff(dim=1).sign() * (stated - x)[:, 1:].sign() >= 0).all()


def test_prices_are_those_of_closed_forms():
    gaussian = drawings_2.price(drawings_2.gaussian(0.05), X, MEAN)
    edge = 0.5 / 255
    x = X.clamp(edge, 1 - edge)
    torch.testing.assert_close(gaussian, (x - MEAN) ** 2 / (2 * 0.05**2), rtol=1e-4, atol=1e-4)
    kl = x * (x / MEAN).log() + (1 - x) * ((1 - x) / (1 - MEAN)).log()
    torch.testing.assert_close(drawings_2.price(drawings_2.bernoulli, X, MEAN), kl)


def test_the_sums_under_the_maps_are_those_of_the_prices():
    image = torch.rand(28, 28, generator=torch.Generator().manual_seed(0))
    output = image * 0.8 + 0.1
    for panel in panels(drawings_2.price_of_errors(image, output)):
        shown = [text for text in letters(panel) if text.endswith(" nats")]
        sums = [
            float(drawings_2.price(likelihood, image, output).sum())
            for likelihood in drawings_2.LIKELIHOODS.values()
        ]
        assert shown == [f"{nats:,.0f} nats" for nats in sums]


def test_a_static_version_is_the_same_twice_and_a_dynamic_one_is_not():
    image = torch.full((28, 28), 0.5)
    for panel in panels(drawings_2.four_binarisations(image)):
        shown = [each.get("href") for each in panel.iter(f"{SVG}image")]
        first, second = shown[:4], shown[4:]
        assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, True, False]
        assert len({*first, *second}) == 5


def test_the_dots_of_the_reductions_lie_where_their_beta_says():
    for panel in panels(drawings_2.reductions(32.2, (128, 32, 20))):
        ticks = {
            float(text.replace(",", "")): float(each.get("x"))
            for each, text in zip(panel.iter(f"{SVG}text"), letters(panel), strict=True)
            if re.fullmatch(r"1|10|100|1,000", text) and each.get("text-anchor") == "middle"
        }
        decade = (ticks[1000] - ticks[1]) / 3
        found = [float(dot.get("cx")) for dot in panel.iter(f"{SVG}circle")]
        betas = (1, 784 / 128, 784 / 32, 784 / 20, 784)
        assert found == pytest.approx([ticks[1] + decade * math.log10(b) for b in betas], abs=0.1)
        colours = [dot.get("fill") for dot in panel.iter(f"{SVG}circle")]
        assert [colour == drawings_2.GREEN for colour in colours] == 3 * [True] + 2 * [False]


def test_the_bars_of_the_budget_are_as_long_as_what_can_be_gained():
    gains = {"a": 0.1, "b": 10.0, "c": 1000.0}
    for panel in panels(drawings_2.budget(gains, naming=2.3, typical=25.0)):
        bars = [
            np.array(re.findall(r"-?[\d.]+", path.get("d")), float).reshape(-1, 2)
            for path in panel.iter(f"{SVG}path")
            if path.get("d").endswith("Z")
        ]
        lengths = [np.ptp(bar[:, 0]) for bar in bars]
        assert lengths[1] - lengths[0] == pytest.approx(lengths[2] - lengths[1], abs=0.1)
        assert [text for text in letters(panel) if text in ("0.10", "10", "1,000")]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected every beta from"):
        drawings_2.reductions(32.2, (10_000,))
    with pytest.raises(ValueError, match="expected numbers between"):
        drawings_2.budget({"nothing": 0.0}, naming=2.3, typical=20.0)
