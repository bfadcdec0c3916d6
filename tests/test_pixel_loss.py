"""The figure "pixel loss" says what vaelib and a linear VAE say, and does what readers ask."""

import itertools
import math
import re

import pytest
import torch

from vaelib.course.labs.live import LiveFigure
from vaelib.course.labs.pixel_loss import (
    CONTRAST,
    ERROR,
    NAMES,
    SCALE,
    best_error,
    numbers,
    pixel_loss,
    rate,
    text_of,
)
from vaelib.likelihoods import Gaussian
from vaelib.objectives import kl_to_standard_normal

CASES = [*itertools.product((0.01, 0.2, 0.37, 0.5), (0.03, 0.1, 0.5, 1.0))]
PHONE = {"width": 390, "height": 844}


def figure(**changes) -> LiveFigure:
    return pixel_loss(**{"caption": "One pixel.", **changes})


def truth(error: float, scale: float) -> dict[str, float]:
    """The same numbers from vaelib's likelihood and a linear VAE of one pixel and one code.

    Its encoder gives mean sqrt(1 - r²) x / C and standard deviation r; the decoder that predicts
    best from the code z, C sqrt(1 - r²) z, is off by C r. C is the contrast.
    """
    pixel = torch.full((1, 1, 1), 0.3, dtype=torch.float64)
    likelihood = Gaussian(scale=scale).double()
    cost = -likelihood(pixel + error).log_prob(pixel).item()
    r = torch.tensor(error / CONTRAST, dtype=torch.float64)
    typical = (1 - r**2).sqrt()  # mean of the code for a pixel at the typical distance
    code = kl_to_standard_normal(typical, 2 * r.log()).item()
    errors = torch.linspace(1e-4, CONTRAST, 200_001, dtype=torch.float64)
    best = errors[(errors**2 / (2 * scale**2) - errors.log()).argmin()].item()
    return {
        "distortion": cost,
        "rate": code,
        "total": cost + code,
        "best": best,
        "beta": scale**2,
        "beta-mean": 2 * scale**2 / 784,
    }


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_a_gaussian_and_of_a_linear_code(case):
    assert numbers(*case) == pytest.approx(truth(*case), rel=1e-5, abs=1e-5)
    assert numbers(*case).keys() == NAMES.keys()


def test_a_linear_code_leaves_the_error_that_it_is_said_to_leave():
    rng = torch.Generator().manual_seed(0)
    x = CONTRAST * torch.randn(400_000, generator=rng)
    r = 0.3
    z = math.sqrt(1 - r**2) * x / CONTRAST + r * torch.randn(len(x), generator=rng)
    least = x - (x * z).mean() / z.square().mean() * z
    assert least.square().mean().sqrt() == pytest.approx(CONTRAST * r, rel=0.01)
    assert rate(CONTRAST * r) == pytest.approx(-math.log(r))


def test_at_its_best_the_sum_does_not_depend_on_the_scale_until_the_code_collapses():
    sums = [numbers(best_error(s), s)["total"] for s in (0.03, 0.1, 0.3, 0.5)]
    assert sums == pytest.approx(4 * [0.5 + math.log(CONTRAST * math.sqrt(2 * math.pi))])
    assert rate(best_error(0.8)) == 0
    assert numbers(best_error(0.8), 0.8)["total"] > sums[0] + 0.1


def test_the_page_asks_no_other_host_and_holds_the_numbers_of_the_start():
    page = figure(name="moved", caption="Here & there").page
    bare = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for address in ("http:", "https:", "//cdn", "@import", "url(", " src=", " href="):
        assert address not in bare
    assert 'id="moved"' in page
    assert "<figcaption>Here &amp; there</figcaption>" in page
    assert len(page) < 60_000
    for name, value in truth(ERROR, SCALE).items():
        (shown,) = re.findall(rf'<dd data-number="{name}">(.*?)</dd>', page)
        assert shown == text_of(name, value)


# What the page does


@pytest.fixture
def visit(open_page):
    return lambda **settings: open_page(figure(), **settings)


def shown(page) -> dict[str, float]:
    """The numbers that the figure shows as text."""
    return {
        name: float(page.locator(f'figure [data-number="{name}"]').inner_text().replace("−", "-"))
        for name in (*NAMES, "scale", "error")
    }


def agrees(page, *, error: float, scale: float) -> None:
    now = shown(page)
    assert (now["error"], now["scale"]) == pytest.approx((error, scale), abs=6e-4)
    for name, value in truth(error, scale).items():
        assert now[name] == pytest.approx(value, abs=0.0061), name


def test_all_numbers_agree_with_vaelib(visit):
    computed = visit().evaluate(
        "cases => cases.map(c => document.querySelector('figure').compute(...c))", CASES
    )
    for case, found in zip(CASES, computed, strict=True):
        assert found == pytest.approx(truth(*case), abs=1e-3), case


def test_keys_move_scale_and_error_and_the_button_finds_the_best_prediction(visit):
    page = visit()
    agrees(page, error=0.2, scale=0.3)
    keyboard = page.keyboard
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "scale"
    for _ in range(4):
        keyboard.press("ArrowLeft")
    scale = shown(page)["scale"]
    assert scale < 0.27
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    agrees(page, error=0.21, scale=scale)
    said = page.locator('[aria-live="polite"]').text_content()
    assert said.startswith("distortion") and "beta" in said
    keyboard.press("Tab")
    keyboard.press("Enter")
    agrees(page, error=scale, scale=scale)
    page.get_by_role("slider", name="scale").press("End")
    page.get_by_role("button").click()
    agrees(page, error=CONTRAST, scale=1.0)
    page.get_by_role("slider", name="scale").press("Home")
    page.get_by_role("slider", name="error").press("Home")
    agrees(page, error=0.01, scale=0.03)


def places(page, name: str) -> tuple[float, float]:
    found = page.locator(f"svg .{name}").get_attribute("transform")
    return tuple(map(float, re.findall(r"-?\d+(?:\.\d+)?", found)))


def test_the_dot_of_the_sum_lies_on_the_curve_and_the_ring_at_its_least_value(visit):
    page = visit()
    page.get_by_role("slider", name="scale").press("ArrowLeft")
    path = page.locator("svg .total-curve path").get_attribute("d")
    curve = [tuple(map(float, p)) for p in re.findall(r"([\d.-]+) ([\d.-]+)", path)]
    lowest = max(curve, key=lambda place: place[1])  # y runs downwards
    assert places(page, "best") == pytest.approx(lowest, abs=2)
    x, y = places(page, "now")
    assert min(math.hypot(x - a, y - b) for a, b in curve) < 1.6


def peak(page) -> tuple[float, float]:
    box = page.locator(".handle circle").last.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_mouse_drags_the_bell_within_its_limits(visit):
    page = visit(viewport={"width": 1280, "height": 900})
    x, y = peak(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 20, steps=3)
    assert peak(page) == pytest.approx((x - 20, y - 20), abs=0.1)
    page.mouse.up()
    now = shown(page)
    assert now["error"] == pytest.approx(0.2 + 20 * 1.5 / 312, abs=0.002)
    assert now["scale"] < 0.3
    for dx, dy, error, scale in ((-900, -900, 0.5, 0.03), (900, 900, 0.01, 1.0)):
        x, y = peak(page)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + dx, y + dy, steps=3)
        page.mouse.up()
        assert (shown(page)["error"], shown(page)["scale"]) == (error, scale)


def test_a_finger_drags_the_bell_without_scrolling_the_page(visit):
    page = visit(viewport=PHONE, has_touch=True)
    x, y = peak(page)
    touch = page.context.new_cdp_session(page)
    for kind, dx, dy in (("Start", 0, 0), ("Move", -10, 8), ("Move", -20, 15), ("End", 0, 0)):
        points = [] if kind == "End" else [{"x": x + dx, "y": y + dy}]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    now = shown(page)
    assert now["error"] > 0.25
    assert now["scale"] > 0.3
    assert page.evaluate("scrollY") == 0


def test_the_check_of_the_book_finds_no_fault_and_a_phone_shows_all(visit):
    from book.live import live_faults, still_faults

    assert not list(live_faults(visit(viewport=PHONE)))
    assert not list(still_faults(visit(viewport=PHONE, java_script_enabled=False)))
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_there_are_numbers_and_no_controls(visit):
    def texts(page) -> list[str]:
        return [text for text in page.locator("dd, svg text").all_text_contents() if text]

    still = visit(java_script_enabled=False)
    assert still.locator("svg").first.is_visible()
    assert texts(still) == texts(visit())
    assert not still.get_by_role("slider").count()
    assert not still.locator(".handle").is_visible()
