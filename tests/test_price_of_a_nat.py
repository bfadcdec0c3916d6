"""The figure "price of a nat" says what vaelib says of a sweep, and does what readers ask."""

import math
import re

import pytest
import torch

from vaelib.course.labs.live import LiveFigure
from vaelib.course.labs.price_of_a_nat import ALIVE, QUANTITIES, price_of_a_nat, text_of
from vaelib.course.lesson_4 import BETAS

PHONE = {"width": 390, "height": 844}
RATES = (113.4, 75.8, 45.6, 34.8, 22.5, 14.8, 8.9, 4.65, 1.54, 0.05, 6e-5, 1e-5)
HIDDEN = ("prior-coverage", "mixture-coverage", "prior-precision", "mixture-precision")
RUN = {
    "beta": list(BETAS),
    "test_distortion": [
        65.8, 65.9, 66.9, 69.1, 76.9, 88.4, 106.7, 133.8, 173.3, 204.0, 205.82, 205.83,
    ],
    "test_rate": list(RATES),
    "test_rate_per_unit": [[rate * (16 - d) / 136 for d in range(16)] for rate in RATES],
    "test_mismatch": [11.16, 9.45, 4.66, 3.16, 1.7, 0.83, 0.3, 0.007, -0.035, -0.044, -0.05, -0.05],
    "prior_coverage": [0.28, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.7, 0.3, 0.02, 0.01, 0.0],
    "prior_precision": [0.5, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.0, 1.0],
    "mixture_coverage": [0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.7, 0.3, 0.02, 0.01, 0.0],
    "mixture_precision": [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.85, 0.9, 0.95, 1.0, 1.0, 1.0],
    "thresholds": [32.2 / (1 + 0.35 * d) for d in range(16)],
}  # fmt: skip
START = BETAS.index(1.0)


def pictures() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    sizes = {"originals": (10,), "reconstructions": (12, 10), "prior": (12, 20)}
    sizes["mixture"] = (12, 20)
    return {
        name: torch.randint(0, 256, (*size, 4, 4), generator=rng, dtype=torch.uint8)
        for name, size in sizes.items()
    }


def figure(**changes) -> LiveFigure:
    parts = {"run": RUN, "pictures": pictures(), "start": START, "caption": "A sweep."}
    parts |= changes
    return price_of_a_nat(parts.pop("run"), parts.pop("pictures"), **parts)


def truth(k: int) -> dict[str, float]:
    """The same numbers, from the lists."""
    distortion, rate, beta = RUN["test_distortion"][k], RUN["test_rate"][k], BETAS[k]
    found = {
        "distortion": distortion,
        "rate": rate,
        "loss": distortion + beta * rate,
        "alive": len([nats for nats in RUN["test_rate_per_unit"][k] if nats > 0.05]),
        "mismatch": RUN["test_mismatch"][k],
    }
    return found | {name: RUN[name.replace("-", "_")][k] for name in HIDDEN}


# What the page holds


def test_the_page_asks_no_other_host_and_holds_the_numbers_of_the_start():
    page = figure(name="moved", caption="Here & there").page
    bare = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for address in ("http:", "https:", "//cdn", "@import", "url("):
        assert address not in bare
    assert set(re.findall(r' src="(.{22})', page)) == {"data:image/png;base64,"}
    assert 'id="moved"' in page
    assert "<figcaption>Here &amp; there</figcaption>" in page
    for name, value in truth(START).items():
        (shown,) = re.findall(rf'<dd data-number="{name}">(.*?)</dd>', page)
        assert shown == text_of(name, value)
    assert truth(START).keys() == QUANTITIES.keys()
    assert ALIVE == 0.05


@pytest.mark.parametrize("start", [-1, 12])
def test_the_start_must_be_one_of_the_models(start):
    with pytest.raises(ValueError, match=f"the start is {start}"):
        figure(start=start)


def test_prices_must_rise_and_no_model_may_lack_a_number():
    with pytest.raises(ValueError, match="expected rising prices"):
        figure(run=RUN | {"beta": list(BETAS[::-1])})
    for key in ("test_rate", "prior_coverage"):
        with pytest.raises(ValueError, match="expected one of each"):
            figure(run=RUN | {key: RUN[key][1:]})
    few = pictures()
    few["prior"] = few["prior"][:3]
    with pytest.raises(ValueError, match="expected one of each"):
        figure(pictures=few)


# What the page does


@pytest.fixture
def visit(open_page):
    return lambda *figures, **settings: open_page(*(figures or [figure()]), **settings)


def agrees(page, k: int, *, answered: bool = False) -> None:
    """The figure shows a model, with its numbers."""
    chosen = page.locator("figure input:checked")
    assert chosen.get_attribute("value") == str(k)
    for name, value in truth(k).items():
        shown = page.locator(f'figure dd[data-number="{name}"]').inner_text()
        unknown = name in HIDDEN and not answered
        assert shown == ("?" if unknown else text_of(name, value)), name


def test_all_numbers_agree_with_python(visit):
    page = visit()
    found = page.evaluate(
        "[...Array(12).keys()].map(k => document.querySelector('figure').compute(k))"
    )
    for k, numbers in enumerate(found):
        linear = numbers.pop("linear")
        assert numbers == pytest.approx(truth(k), abs=1e-3)
        beta = BETAS[k]
        expected = [max(0.5 * math.log(t / beta), 0) if beta else 0 for t in RUN["thresholds"]]
        assert linear == pytest.approx(expected, abs=1e-3)


def places(page) -> tuple[dict[int, float], dict[int, float]]:
    """Where the ticks of the plane stand: rate -> x and distortion -> y."""
    texts = (
        page.locator("figure svg")
        .first.locator("> text")
        .evaluate_all(
            "all => all.map(e => [e.textContent, e.getAttribute('text-anchor'), "
            "+e.getAttribute('x'), +e.getAttribute('y')])"
        )
    )
    across = {int(t): x for t, anchor, x, _ in texts if t.isdigit() and anchor == "middle"}
    up = {int(t): y - 0.34 * 13 for t, anchor, _, y in texts if t.isdigit() and anchor == "end"}
    return across, up


@pytest.mark.parametrize("k", [0, 1, 4, 6, 8, 9, 11])
def test_the_tangent_touches_the_point_and_meets_the_axis_at_the_loss(visit, k):
    page = visit()
    page.locator("figure label").nth(k).click()
    across, up = places(page)
    assert len(across) >= 5
    assert len(up) >= 3
    nat, down = (across[100] - across[0]) / 100, (up[100] - up[200]) / 100
    (x0, y0), (x1, y1) = re.findall(
        r"([\d.]+) ([\d.]+)", page.locator("figure .tangent path").get_attribute("d")
    )
    ring = page.locator("figure .intercept").get_attribute("transform")
    assert (float(x0), float(y0)) == pytest.approx(
        tuple(map(float, re.findall(r"[\d.]+", ring))), abs=0.01
    )
    assert float(x0) == pytest.approx(across[0], abs=0.01)
    assert float(y0) == pytest.approx(up[100] - (truth(k)["loss"] - 100) * down, abs=0.3)
    slope = (float(y1) - float(y0)) / (float(x1) - float(x0)) * nat / down
    assert slope == pytest.approx(BETAS[k], rel=0.02, abs=1e-3)
    knob = page.locator("figure .handle").get_attribute("transform")
    x, y = map(float, re.findall(r"[\d.]+", knob))
    assert x == pytest.approx(across[0] + truth(k)["rate"] * nat, abs=0.3)
    assert y == pytest.approx(up[100] - (truth(k)["distortion"] - 100) * down, abs=0.3)


def test_keys_reach_all_twelve_prices(visit):
    page = visit()
    page.keyboard.press("Tab")
    for k in range(START - 1, -1, -1):
        page.keyboard.press("ArrowLeft")
        agrees(page, k)
    for k in range(1, 12):
        page.keyboard.press("ArrowRight")
        agrees(page, k)
    said = page.locator("figure .where-q-summary").text_content()
    assert said.startswith("Price 200: distortion 205.8, rate 0.0, loss 205.8 nats, 0 units")


@pytest.mark.parametrize("touch", [False, True])
def test_a_mouse_and_a_finger_reach_all_twelve_prices(visit, touch):
    page = visit(has_touch=touch, viewport=PHONE if touch else {"width": 1280, "height": 900})
    for k in (11, 0, 9, 10, 3, 4, 5, 6, 7, 8, 1, 2):
        label = page.locator("figure label").nth(k)
        label.tap() if touch else label.click()
        agrees(page, k)


def test_clicks_on_points_that_lie_on_one_another_go_from_one_to_the_next(visit):
    page = visit()
    plane = page.locator("figure svg").first
    across, up = places(page)
    place = {"x": across[0], "y": up[200] - 6 * (up[100] - up[200]) / 100}
    for k in (9, 10, 11, 9):
        plane.click(position=place, force=True)
        agrees(page, k)


def test_the_knob_is_dragged_along_the_curve(visit):
    page = visit(viewport={"width": 1280, "height": 900})
    across, up = places(page)
    svg = page.locator("figure svg").first.bounding_box()
    knob = page.locator("figure .handle circle").last.bounding_box()
    page.mouse.move(knob["x"] + 7, knob["y"] + 7)
    page.mouse.down()
    nat, down = (across[100] - across[0]) / 100, (up[100] - up[200]) / 100
    for k in (5, 6, 7):
        x = svg["x"] + across[0] + truth(k)["rate"] * nat
        y = svg["y"] + up[100] - (truth(k)["distortion"] - 100) * down
        page.mouse.move(x, y, steps=3)
        agrees(page, k)
    page.mouse.up()
    agrees(page, 7)


@pytest.mark.parametrize(
    ("guess", "answer"), [(4, "At β = 1 they cover 70 %"), (6, "Right: at β = 4")]
)
def test_samples_are_judged_only_after_a_prediction(visit, guess, answer):
    page = visit()
    assert page.locator("figure .answer").get_attribute("visibility") == "hidden"
    page.locator("figure label").nth(guess).click()
    button = page.get_by_role("button")
    assert button.inner_text() == f"My prediction: β = {BETAS[guess]:g}"
    button.click()
    assert page.locator("figure .price-answer").inner_text().startswith(answer)
    assert page.locator("figure .answer").get_attribute("visibility") == "visible"
    assert not button.is_visible()
    agrees(page, guess, answered=True)
    page.keyboard.press("ArrowRight")
    agrees(page, guess + 1, answered=True)


def test_bars_are_as_high_as_their_rates_and_the_linear_ones_die_at_their_thresholds(visit):
    page = visit()
    for k in (1, 6, 9, 10):
        page.locator("figure label").nth(k).click()
        for kind in ("unit", "theory"):
            bars = page.locator(f"figure .{kind}").evaluate_all(
                "all => all.map(e => [+e.getAttribute('height'), e.getAttribute('visibility')])"
            )
            per_unit = sorted(RUN["test_rate_per_unit"][k], reverse=True)
            linear = [max(0.5 * math.log(t / BETAS[k]), 0) for t in RUN["thresholds"]]
            rates = per_unit if kind == "unit" else linear
            scale = 102 / (1.08 * max(map(max, RUN["test_rate_per_unit"])))
            for (height, shown), nats in zip(bars, rates, strict=True):
                assert height == pytest.approx(nats * scale, abs=0.01)
                assert (shown == "visible") == (nats > 0)


def test_each_price_has_its_own_pictures(visit):
    page = visit()
    seen = {}
    for k in range(12):
        page.locator("figure label").nth(k).click()
        rows = page.locator("figure img").evaluate_all(
            "all => all.map(e => [e.dataset.row, e.src, e.alt])"
        )
        for row, address, alt in rows:
            seen.setdefault(row, set()).add(address)
            assert alt.endswith(f"β = {BETAS[k]:g}") or row == "originals"
    assert {row: len(addresses) for row, addresses in seen.items()} == {
        "originals": 1, "reconstructions": 12, "prior": 12, "mixture": 12,
    }  # fmt: skip


def test_without_scripts_the_start_stands_there_with_all_its_numbers(visit):
    page = visit(java_script_enabled=False)
    for name, value in truth(START).items():
        assert page.locator(f'dd[data-number="{name}"]').inner_text() == text_of(name, value)
    assert not page.locator("fieldset").is_visible()
    assert not page.locator("button").is_visible()
    assert page.locator("figure .answer").is_visible()
    assert page.locator("img:visible").count() == 4


def test_a_phone_shows_the_figure_without_scrolling_sideways(visit):
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.locator("figure label").evaluate_all(
        "all => all.map(e => [e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
    )
    assert all(width >= 24 and height >= 24 for width, height in sizes)


def test_two_figures_of_a_page_do_not_disturb_each_other(visit):
    page = visit(figure(name="one"), figure(name="two"))
    page.locator("#two label").nth(0).click()
    assert page.locator("#one input:checked").get_attribute("value") == str(START)
    assert page.locator("#two input:checked").get_attribute("value") == "0"
