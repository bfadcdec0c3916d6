"""What the drawings of lesson 5 show is true; what all drawings must keep to: test_drawing.py."""

import math
import re
from xml.etree import ElementTree

import pytest
import torch
from scipy import optimize

from vaelib.course import drawings_5
from vaelib.separation import knn_accuracy

SVG = "{http://www.w3.org/2000/svg}"


def panels(drawn) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawn.page).iter(f"{SVG}svg"))


def letters(panel: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in panel.iter(f"{SVG}text")]


def test_every_rule_picks_what_its_definition_says():
    z = torch.tensor(drawings_5.LONG_CLASS + drawings_5.OTHERS[0] + drawings_5.OTHERS[1])
    d = torch.cdist(z, z)[drawings_5.ANCHOR]
    own = [k for k in range(5) if k != drawings_5.ANCHOR]
    foreign = 5 + int(d[5:].argmin())
    far, near = (own[int(end(d[own]))] for end in (torch.argmax, torch.argmin))
    picked = drawings_5.picked()
    assert picked["batch-all"] == (own, list(range(5, 15)))
    assert picked["batch-hard"] == ([far], [foreign])
    assert picked["easy-positive"] == ([near], [foreign])
    beyond = {5 + int(d[5:].where(d[5:] > d[p], torch.inf).argmin()) for p in own}
    assert picked["semi-hard"] == (own, sorted(beyond))
    assert all((d[5:] > d[p]).any() for p in own)


def test_the_cake_is_a_normal_cloud_whose_classes_are_apart():
    z, sector = drawings_5.cake_codes(20_000)
    assert z.mean(0).abs().max() < 0.03
    assert (z.std(0) - 1).abs().max() < 0.03
    assert sector.bincount().min() > 1800
    turn = torch.atan2(z[:, 1], z[:, 0])
    for k in range(10):
        inside = turn[sector == k]
        assert inside.max() - inside.min() <= math.tau / 10 + 1e-5
    assert knn_accuracy(z[:10_000], sector[:10_000], z[10_000:], sector[10_000:]) > 0.95


def test_the_losses_of_the_cake_are_those_of_the_drawn_lines():
    for panel in panels(drawings_5.cake()):
        lines = [p.get("d") for p in panel.iter(f"{SVG}path") if p.get("stroke-width") == "1.6"]
        lengths = []
        for path in lines:
            x0, y0, x1, y1 = map(float, re.findall(r"-?[\d.]+", path))
            lengths.append(math.hypot(x1 - x0, y1 - y0) / 48)  # 288 pixels for 6 units
        (heading,) = (text for text in letters(panel) if "loss" in text)
        loss = max(0.0, lengths[0] - lengths[1] + 0.2)
        assert float(heading.split()[-1]) == pytest.approx(loss, abs=0.02)


@pytest.mark.parametrize(("gap", "weight", "dims"), [(1.41, 1, 2), (1.2, 10, 2), (0.5, 3, 16)])
def test_at_rest_the_sum_of_rate_and_triplets_is_least(gap, weight, dims):
    def cost(c):
        return weight * gap * c + dims * (0.5 * (c**2 - 1) - math.log(c))

    best = optimize.minimize_scalar(cost, bounds=(0.01, 1.5), options={"xatol": 1e-9}).x
    assert drawings_5.rest(gap, weight, dims=dims) == pytest.approx(best, abs=1e-6)


def test_the_dot_lies_where_the_pulls_are_equal():
    gap, weight = 1.41, 1.0
    c = drawings_5.rest(gap, weight)
    for panel in panels(drawings_5.two_pulls(gap, weight)):
        (dot,) = panel.iter(f"{SVG}circle")
        width = float(panel.get("width")) - 84
        assert float(dot.get("cx")) == pytest.approx(52 + c / 1.15 * width, abs=0.02)
        height = 202 - 172 * 2 * (1 - c**2) / 2.2
        assert float(dot.get("cy")) == pytest.approx(height, abs=0.02)


def test_the_smaller_cloud_is_smaller_by_the_scale():
    for panel in panels(drawings_5.shrunken_vae(0.6)):
        radii = [float(circle.get("r")) for circle in panel.iter(f"{SVG}circle")]
        assert any(r == pytest.approx(0.6 * 34) for r in radii)
        assert "size 0.60" in letters(panel)
