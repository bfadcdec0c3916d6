"""What the drawings of lesson 4 show is true; what all drawings must keep to: test_drawing.py."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy import optimize

from vaelib.course import drawings_4

SVG = "{http://www.w3.org/2000/svg}"
PRICES = (32.2, 22.9, 21.0, 16.2, 14.1, 12.2)
RUN = {
    "beta": [0.0, 0.1, 1.0, 8.0, 50.0],
    "test_rate": [100.0, 45.0, 22.0, 4.6, 0.0],
    "thresholds": [32.2 / (1 + d) for d in range(16)],
}


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 28, 28, generator=torch.Generator().manual_seed(0))


def panels(drawn) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawn.page).iter(f"{SVG}svg"))


def letters(panel: ElementTree.Element) -> dict[str, tuple[float, float]]:
    return {
        "".join(text.itertext()): (float(text.get("x")), float(text.get("y")))
        for text in panel.iter(f"{SVG}text")
    }


def lines(panel: ElementTree.Element, colour: str) -> list[np.ndarray]:
    return [
        np.array(re.findall(r"-?[\d.]+", path.get("d")), float).reshape(-1, 2)
        for path in panel.iter(f"{SVG}path")
        if path.get("stroke") == f"var(--{colour})"
    ]


@pytest.mark.parametrize("price", [drawings_4.LOW, 1.0, drawings_4.HIGH])
def test_a_tangent_touches_the_curve_where_the_loss_is_least(price):
    best = optimize.minimize_scalar(
        lambda rate: drawings_4.curve_at(rate) + price * rate, bounds=(0, 8), method="bounded"
    ).x
    assert drawings_4.touching(price) == pytest.approx(best, abs=1e-3)


def test_the_slope_of_the_chord_lies_between_the_two_prices():
    first, second = (drawings_4.touching(p) for p in (drawings_4.LOW, drawings_4.HIGH))
    paid = (drawings_4.curve_at(second) - drawings_4.curve_at(first)) / (first - second)
    assert drawings_4.LOW < paid < drawings_4.HIGH
    _, panel = panels(drawings_4.two_tangents())
    (flat,), (steep,) = lines(panel, "green"), lines(panel, "purple")
    (chord,) = [
        line
        for line in lines(panel, "ink")
        if len(line) == 2 and line[0, 0] > 60 and line[1, 0] > 60 and line[0, 1] < 225
    ]
    slopes = [
        abs(np.diff(each[:, 1]) / np.diff(each[:, 0])).item() for each in (flat, chord, steep)
    ]
    assert slopes == sorted(slopes)
    assert slopes[2] / slopes[0] == pytest.approx(drawings_4.HIGH / drawings_4.LOW, rel=0.01)


def test_a_unit_dies_where_the_axis_says_its_threshold_is_and_has_a_picture():
    for panel in panels(drawings_4.goods(PRICES, images(6))):
        where = letters(panel)
        ticks = {price: where[str(price)][0] for price in (4, 8, 16, 32)}
        octave = (ticks[32] - ticks[4]) / 3
        falling = lines(panel, "orange")
        assert len(falling) == len(PRICES)
        for line, price in zip(falling, PRICES, strict=True):
            assert line[1, 0] == pytest.approx(ticks[4] + octave * math.log2(price / 4), abs=0.2)
            nats = (line[1, 1] - line[0, 1]) / (where["0"][1] - where["1"][1])
            rate = 0.5 * math.log(price / (0.9 * drawings_4.LEAST))
            assert nats == pytest.approx(rate, abs=0.01)
        assert [text for text in where if re.fullmatch(r"\d\d\.\d", text)] == list(map(str, PRICES))
        assert len(list(panel.iter(f"{SVG}image"))) == len(PRICES)


def test_what_is_no_unit_of_the_axis_is_refused():
    with pytest.raises(ValueError, match="expected one for each"):
        drawings_4.goods(PRICES, images(5))
    with pytest.raises(ValueError, match="prices above 4"):
        drawings_4.goods((32.2, 3.9), images(2))


def test_without_a_price_codes_are_points_and_above_the_threshold_all_are_the_prior():
    wide, *_ = panels(drawings_4.codes_beside_the_prior())
    width = {}
    for circle in wide.iter(f"{SVG}circle"):
        width.setdefault(int(float(circle.get("cx")) // 229.3), []).append(float(circle.get("r")))
    assert max(width[0]) < min(width[1]) < min(width[2])
    assert len(width[2]) == 1
    ring = [line for line in lines(wide, "quiet") if len(line) > 50][2]
    assert width[2][0] == pytest.approx(np.ptp(ring[:, 0]) / 2, abs=0.1)


def test_dots_and_the_curve_of_theory_lie_where_the_axes_say():
    for panel in panels(drawings_4.predicted_and_trained({"Bernoulli": [RUN, RUN]})):
        where = {
            "".join(text.itertext()): float(text.get("y")) - 0.34 * 13
            for text in panel.iter(f"{SVG}text")
            if text.get("text-anchor") == "end"
        }
        decade = (where["0.1"] - where["100"]) / 3
        dots = [(float(c.get("cx")), float(c.get("cy"))) for c in panel.iter(f"{SVG}circle")]
        assert len(dots) == 2 * 3
        zero = where["100"] + 2 * decade  # of one nat
        for (_, y), rate in zip(dots, (45.0, 22.0, 4.6) * 2, strict=True):
            assert y == pytest.approx(zero - decade * math.log10(rate), abs=0.2)
        curve = max(lines(panel, "ink"), key=len)
        at = {beta: x for beta, (x, _) in zip((0.1, 1.0, 8.0), dots, strict=False)}
        for beta, x in at.items():
            theory = sum(max(0.5 * math.log(t / beta), 0) for t in RUN["thresholds"])
            y = np.interp(x, curve[:, 0], curve[:, 1])
            assert y == pytest.approx(zero - decade * math.log10(theory), abs=0.5)


def test_the_schedules_end_at_their_price_and_free_bits_are_flat_at_first():
    wide, *narrow = panels(drawings_4.remedies())
    assert len(narrow) == 2
    constant, annealing, cyclical = lines(wide, "blue")
    assert np.ptp(constant[:, 1]) == 0
    assert annealing[-1, 1] == cyclical[-1, 1] == constant[0, 1]
    rises = (np.diff(cyclical[:, 1]) > 20).sum()
    assert rises == 3  # it falls back to zero between four cycles
    (free,) = lines(wide, "purple")
    assert free[0, 1] == free[1, 1] > free[2, 1]
