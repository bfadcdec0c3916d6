"""What the drawings of lesson 7 show is true; what all drawings must keep to: test_drawing.py."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.distributions import Normal

from vaelib.course import drawings_7
from vaelib.posteriors import DiagonalNormal

SVG = "{http://www.w3.org/2000/svg}"
AXIS = torch.linspace(-2, 2, 161)
MU, SIGMA = torch.tensor([[0.5, -0.25]]), torch.tensor([[0.3, 0.2]])
Q = DiagonalNormal(MU, 2 * SIGMA.log())


def normal_place(q=Q) -> drawings_7.Place:
    """A place whose posterior is the Gaussian Q."""
    codes = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="ij"), -1)
    return drawings_7.Place(AXIS, AXIS, Normal(MU[0], SIGMA[0]).log_prob(codes).sum(-1), q, q)


def panels(drawn) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawn.page).iter(f"{SVG}svg"))


def letters(panel: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in panel.iter(f"{SVG}text")]


def curves(panel: ElementTree.Element, colour: str) -> list[np.ndarray]:
    return [
        np.array(re.findall(r"-?[\d.]+", path.get("d")), float).reshape(-1, 2)
        for path in panel.iter(f"{SVG}path")
        if path.get("stroke") == f"var(--{colour})"
    ]


def test_the_levels_of_a_gaussian_are_those_of_its_ellipses():
    # Within two dimensions, a share m lies where the squared distance is below chi2's quantile.
    place = normal_place()
    top = float(place.log_joint.max())
    found = drawings_7.levels(place.log_joint, (0.5, 0.9, 0.99))
    expected = [top - chi2(2).ppf(m) / 2 for m in (0.5, 0.9, 0.99)]
    assert found == pytest.approx(expected, abs=0.03)


def test_the_contours_of_a_gaussian_are_drawn_at_their_radius():
    panel = panels(drawings_7.posteriors({"one": (normal_place(), 0.0, 0.0)}))[0]
    outer = curves(panel, "green")[0]
    width = np.ptp(outer[:, 0])
    radius = math.sqrt(chi2(2).ppf(0.99)) * 0.3
    assert width == pytest.approx(2 * radius / 4 * 208, rel=0.01)
    ellipse = curves(panel, "blue")[0]
    assert np.ptp(ellipse[:, 0]) == pytest.approx(4 * 0.3 / 4 * 208, rel=0.01)
    assert np.ptp(ellipse[:, 1]) == pytest.approx(4 * 0.2 / 4 * 208, rel=0.01)
    middle = (ellipse.max(0) + ellipse.min(0)) / 2
    assert middle == pytest.approx([236 + 4 + 2.5 / 4 * 208, 30 + 2.25 / 4 * 208], abs=0.1)


def test_a_window_holds_the_posterior_and_the_gaussians():
    axis = torch.arange(-3, 3, 0.05)
    codes = torch.cartesian_prod(axis, axis)
    spot = -((codes - torch.tensor([1.0, 1.0])) ** 2).sum(1) / (2 * 0.1**2)
    far = DiagonalNormal(torch.tensor([[-1.0, 0.0]]), torch.full((1, 2), 2 * math.log(0.2)))
    across, up = drawings_7.window(codes, spot, [far], points=51)
    assert len(across) == len(up) == 51
    assert float(across[-1] - across[0]) == pytest.approx(float(up[-1] - up[0]), rel=1e-4)
    assert across[0] < -1.6 and across[-1] > 1.3
    assert up[0] < -0.6 and up[-1] > 1.3


def test_the_bounds_that_are_written_are_the_means_of_the_estimates():
    rng = torch.Generator().manual_seed(0)
    log_w = torch.randn(3000, generator=rng)
    expected = [
        sum(math.log(sum(math.exp(w) for w in group) / k) for group in log_w.view(-1, k).tolist())
        / (3000 / k)
        for k in (1, 10, 100)
    ]
    assert expected == sorted(expected)
    for panel in panels(drawings_7.bounds_of_k(log_w, 0.6)):
        written = [text for text in letters(panel) if text.startswith("L")]
        values = [float(text.split("=")[1].replace("−", "-")) for text in written]
        assert values == pytest.approx(expected, abs=0.006)
        means = [float(c[0, 0]) for c in curves(panel, "orange")]
        assert means == sorted(means)
        (truth,) = curves(panel, "green")
        assert means[-1] < truth[0, 0]


def test_a_dot_of_a_proposal_has_the_area_of_its_weight():
    z = torch.tensor([[0.0, 0.0], [0.5, 0.5], [5.0, 5.0]])  # the last one lies outside
    log_w = torch.tensor([0.6, 0.3, 0.1]).log()
    drawn = drawings_7.wide_and_narrow(
        normal_place(), {"right": (Q, z, log_w)}, {"right": (-0.25, 0.1)}
    )
    for panel in panels(drawn):
        dots = [float(dot.get("r")) for dot in panel.iter(f"{SVG}circle")]
        assert dots[:2] == pytest.approx([14 * math.sqrt(0.6), 14 * math.sqrt(0.3)], abs=0.01)
        assert len(dots) == 3  # two draws, and the estimate
        assert "−0.25 ± 0.10 nats" in letters(panel)
        effective = 1 / (0.36 + 0.09 + 0.01)
        assert f"3 draws count as {effective:.0f}" in letters(panel)


def test_the_bars_of_the_stack_are_as_long_as_the_gaps():
    rows = {"2-D VAE": (1.0, 3.0), "50-D VAE": (2.0, 2.5)}
    for panel in panels(drawings_7.gap_stack(rows, exact=["2-D VAE"])):
        bars = [
            np.array(re.findall(r"-?[\d.]+", path.get("d")), float).reshape(-1, 2)
            for path in panel.iter(f"{SVG}path")
            if path.get("d").endswith("Z")
        ]
        lengths = np.array([np.ptp(bar[:, 0]) for bar in bars])
        assert lengths / lengths[0] == pytest.approx([1, 3, 2, 2.5], abs=0.01)
        for form, encoder in zip(bars[::2], bars[1::2], strict=True):
            assert form[:, 0].max() == encoder[:, 0].min()
        assert "4.0" in letters(panel) and "4.5 or more" in letters(panel)


def test_the_numbers_of_the_opening_are_written_where_they_lie():
    nats = {"ELBO of $q$": -20.0, "ELBO of $q^*$": -18.0, "estimate": -17.5, "$log p(x)$": -10.0}
    tiles = dict.fromkeys(("a", "b", "c"), torch.zeros(28, 28))
    drawn = drawings_7.two_places(normal_place(), tiles, nats, error=0.02)
    panel = panels(drawn)[1]
    marks = [float(c[0, 0]) for c in curves(panel, "blue")]
    (truth,) = curves(panel, "green")
    steps = np.diff([*marks, truth[0, 0]])
    assert steps / steps[0] == pytest.approx([1, 0.25, 3.75], abs=0.02)
    assert any(text.startswith("8 nats") for text in letters(panel))
    assert "± 0.02" in letters(panel)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected the same names"):
        drawings_7.wide_and_narrow(normal_place(), {}, {"right": (0.0, 0.1)})
    with pytest.raises(ValueError, match="expected two parts of 0 nats or more"):
        drawings_7.gap_stack({"a": (-0.1, 1.0)})
    with pytest.raises(ValueError, match="expected two parts of 0 nats or more"):
        drawings_7.gap_stack({})
