"""The figure "where q goes" says what vaelib.course.one_number says, and does what readers ask."""

import functools
import itertools
import math
import re

import pytest
from contrast import assert_texts_stand_out

from vaelib.course import one_number
from vaelib.course.labs.live import LiveFigure
from vaelib.course.labs.where_q_goes import where_q_goes

QS = [
    *itertools.product((-2.5, 0.0, 2.5), (math.exp(-3.0), 0.4, 1.0, math.exp(0.4))),
    (1.0527, 0.2291),
    (-1.5211, 0.2373),
]
STARTS = [(0.0, 1.0), (-1.0, 1.0), (2.5, 0.05), (-2.5, math.exp(0.4))]
DRAWS = (1, 2, 50, 1000)
XS = (1.0, 2.5)
NAMES = ("distortion", "rate", "elbo", "kl", "log-px", "bound")


def figure(x: float = one_number.X, **changes) -> LiveFigure:
    return where_q_goes(x, **{"caption": "q over p(z | x).", **changes})


def truth(x: float, mu: float, sigma: float, K: int) -> dict[str, float]:
    values = (
        one_number.distortion(x, mu, sigma),
        one_number.kl_to_prior(mu, sigma),
        one_number.elbo(x, mu, sigma),
        one_number.kl_to_posterior(x, mu, sigma),
        one_number.log_px(x),
        one_number.importance_bound(x, mu, sigma, K),
    )
    return {name: value.item() for name, value in zip(NAMES, values, strict=True)}


@functools.cache
def way(x: float, mu: float, sigma: float) -> list[list[float]]:
    return one_number.climb(x, mu, sigma).tolist()


# What the page holds


@pytest.mark.parametrize("x", [0.49, 2.51, -1.0, math.inf, math.nan])
def test_x_must_be_such_that_the_posterior_has_two_peaks(x):
    with pytest.raises(ValueError, match=rf"x is {x}; expected a number from 0.5 to 2.5"):
        figure(x)


def test_the_page_asks_no_other_host_and_is_small():
    page = figure().page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for address in ("http:", "https:", "//cdn", "@import", "url(", " src=", " href="):
        assert address not in page
    assert len(page) < 60_000


@pytest.mark.parametrize("x", [0.5, 1.0, 2.5])
def test_the_still_holds_the_numbers_of_the_start(x):
    page = figure(x).page
    assert page.count("<svg") == 2
    for name, value in truth(x, 0.0, math.exp(-0.7), 10).items():
        (shown,) = re.findall(rf'<dd data-number="{name}">(.*?)</dd>', page)
        assert shown == f"{value:.2f}".replace("-", "−")


def test_name_and_caption_are_used():
    page = figure(name="moved", caption="Here & there").page
    assert 'id="moved"' in page
    assert "<figcaption>Here &amp; there</figcaption>" in page


# What the page does

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def visit(open_page):
    return lambda *figures, **settings: open_page(*(figures or [figure()]), **settings)


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def shown(page, within: str = "figure") -> dict[str, float]:
    """The numbers that the figure shows as text."""
    return {
        name: number(page.locator(f'{within} [data-number="{name}"]').inner_text())
        for name in (*NAMES, "mu", "sigma", "draws")
    }


def agrees(page, *, mu: float, sigma: float, K: int, x: float = one_number.X) -> None:
    """The figure shows a q and a K, with their numbers."""
    now = shown(page)
    assert (now["mu"], now["sigma"], now["draws"]) == (round(mu, 2), round(sigma, 2), K)
    for name, value in truth(x, mu, sigma, K).items():
        assert now[name] == pytest.approx(value, abs=0.0061)


@pytest.mark.parametrize("x", XS)
def test_all_numbers_agree_with_one_number(visit, x):
    page = visit(figure(x))
    cases = [[mu, sigma, K] for (mu, sigma), K in itertools.product(QS, DRAWS)]
    computed = page.evaluate(
        "cases => cases.map(q => document.querySelector('figure').compute(...q))", cases
    )
    for case, numbers in zip(cases, computed, strict=True):
        assert numbers == pytest.approx(truth(x, *case), abs=1e-4), case


@pytest.mark.parametrize("x", XS)
def test_the_climb_goes_the_way_of_one_number(visit, x):
    page = visit(figure(x))
    paths = page.evaluate(
        "starts => starts.map(q => document.querySelector('figure').climb(...q))", STARTS
    )
    for start, path in zip(STARTS, paths, strict=True):
        expected = way(x, *start)
        assert path[-1] == pytest.approx(expected[-1], abs=1e-4)
        for place, there in zip(path[::20], expected[::20], strict=False):
            assert place == pytest.approx(there, abs=1e-4)


def test_the_picture_shows_what_the_numbers_say(visit):
    """Levels lie where the ticks of the axis say, and the dot lies on the peak of q."""
    page = visit()
    page.get_by_role("slider", name="width").press("ArrowLeft")
    ticks = {
        number(text.text_content()): float(text.get_attribute("y")) - 0.34 * 13
        for text in page.locator("svg").nth(1).locator('> text[text-anchor="end"]').all()
        if re.fullmatch(r"−?\d", text.text_content())
    }
    nat = (ticks[-6] - ticks[-2]) / 4
    now = shown(page)
    for name in ("elbo", "bound"):
        place = page.locator(f"svg .{name}").get_attribute("transform")
        level = float(re.search(r" ([\d.]+)\)", place)[1])
        assert level == pytest.approx(ticks[-2] + nat * (-2 - now[name]), abs=0.3)
    path = page.locator("svg .q path").last.get_attribute("d")
    ys = [float(y) for y in re.findall(r" ([\d.]+)", path)]
    handle = page.locator(".handle").get_attribute("transform")
    assert float(re.search(r" ([\d.]+)\)", handle)[1]) == pytest.approx(min(ys), abs=0.01)


def test_keys_move_q_and_choose_the_draws(visit):
    page = visit()
    agrees(page, mu=0.0, sigma=math.exp(-0.7), K=10)
    keyboard = page.keyboard
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "mu"
    for _ in range(3):
        keyboard.press("ArrowRight")
    keyboard.press("Tab")
    keyboard.press("ArrowLeft")
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    agrees(page, mu=0.15, sigma=math.exp(-0.75), K=20)
    sliders = page.get_by_role("slider")
    texts = sliders.evaluate_all("all => all.map(e => e.getAttribute('aria-valuetext'))")
    assert texts == ["0.15", "0.47", "20"]
    keyboard.press("End")
    agrees(page, mu=0.15, sigma=math.exp(-0.75), K=1000)
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Let it climb"


def test_a_change_is_summed_up_once_it_is_over(visit):
    page = visit()
    summary = page.locator('[aria-live="polite"]')
    assert summary.text_content() == ""
    page.get_by_role("slider", name="mean").press("ArrowLeft")
    numbers = truth(1.0, -0.05, math.exp(-0.7), 10)
    elbo, kl, bound = (f"{numbers[key]:.2f}" for key in ("elbo", "kl", "bound"))
    text = f"ELBO {elbo}, KL {kl} nats, bound for K = 10: {bound}".replace("-", "−")
    assert summary.text_content() == text


def test_with_one_draw_the_elbo_and_the_bound_look_alike(visit):
    page = visit()
    for name in ("mean", "width"):
        page.get_by_role("slider", name=name).press("End")
    page.get_by_role("slider", name="draws").press("Home")
    now = shown(page)
    assert now["bound"] == now["elbo"]
    assert page.locator("svg .elbo-below").get_attribute("visibility") == "visible"
    assert number(page.locator("svg .kl-label text").last.text_content()) == now["kl"]


@pytest.mark.parametrize("reduced", ["reduce", "no-preference"])
def test_the_button_lets_q_climb(visit, reduced):
    page = visit(reduced_motion=reduced)
    page.clock.install(time=0)
    page.clock.pause_at(1)
    button = page.get_by_role("button")
    page.evaluate("document.querySelector('figure').seen = []")
    page.evaluate("""new MutationObserver(() => document.querySelector('figure').seen.push(
      document.querySelector('[data-number=elbo]').textContent)
    ).observe(document.querySelector('[data-number=elbo]'), { childList: true })""")
    button.click()
    page.clock.run_for(10_000)
    assert button.inner_text() == "Let it climb"
    mu, sigma, _ = way(1.0, 0.0, math.exp(-0.7))[-1]
    agrees(page, mu=mu, sigma=sigma, K=10)
    steps = len(set(page.evaluate("document.querySelector('figure').seen")))
    assert (steps == 1) == (reduced == "reduce")


@pytest.mark.parametrize("how", ["button", "slider"])
def test_a_walk_can_be_stopped(visit, how):
    page = visit(reduced_motion="no-preference")
    page.clock.install(time=0)
    page.clock.pause_at(1)
    button = page.get_by_role("button")
    button.click()
    assert button.inner_text() == "Stop"
    page.clock.run_for(250)
    if how == "button":
        button.click()
    else:
        page.get_by_role("slider", name="width").press("ArrowRight")
    assert button.inner_text() == "Let it climb"
    before = shown(page)
    assert -4.2 < before["elbo"] < way(1.0, 0.0, math.exp(-0.7))[-1][2] - 0.01
    page.clock.run_for(5000)
    assert shown(page) == before


def peak(page) -> tuple[float, float]:
    """Where the dot is on the screen."""
    box = page.locator(".handle circle").last.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_mouse_drags_q_and_the_dot_follows(visit):
    page = visit(viewport={"width": 1280, "height": 900})
    x, y = peak(page)
    page.mouse.move(x + 3, y + 2)
    page.mouse.down()
    page.mouse.move(x + 63, y - 28, steps=4)
    assert peak(page) == pytest.approx((x + 60, y - 30), abs=0.1)
    page.mouse.up()
    page.mouse.move(x, y)
    assert peak(page) == pytest.approx((x + 60, y - 30), abs=0.1)
    now = shown(page)
    assert now["mu"] == pytest.approx(6 * 60 / 308, abs=0.01)
    assert now["sigma"] < 0.45
    assert now["elbo"] + now["kl"] == pytest.approx(now["log-px"], abs=0.011)
    assert page.locator('[aria-live="polite"]').text_content().startswith("ELBO")
    page.get_by_role("slider", name="mean").press("ArrowRight")
    assert shown(page)["mu"] == pytest.approx(now["mu"] + 0.05, abs=0.03)


def test_q_cannot_be_dragged_beyond_its_sliders(visit):
    page = visit()
    for dx, dy, mu, sigma in ((-900, -2500, -2.5, 0.05), (1200, 3500, 2.5, 1.49)):
        x, y = peak(page)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + dx, y + dy)
        page.mouse.up()
        now = shown(page)
        assert (now["mu"], now["sigma"]) == (mu, sigma)


def test_a_finger_drags_q_without_scrolling_the_page(visit):
    page = visit(figure(name="one"), figure(name="two"), viewport=PHONE, has_touch=True)
    page.evaluate("scrollTo(0, 100)")
    box = page.locator("#one .handle circle").last.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, dx, dy in (("Start", 0, 0), ("Move", -20, 10), ("Move", -40, 25), ("End", 0, 0)):
        points = [] if kind == "End" else [{"x": x + dx, "y": y + dy}]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    now = shown(page, "#one")
    scale = page.locator("#one svg").first.bounding_box()["width"] / 336
    assert now["mu"] == pytest.approx(-40 * 6 / 308 / scale, abs=0.02)
    assert now["sigma"] > 0.5
    assert page.evaluate("scrollY") == 100
    assert shown(page, "#two")["mu"] == 0


@pytest.mark.parametrize("x", XS)
def test_the_check_of_the_book_finds_no_fault(visit, x):
    from book.live import live_faults, still_faults

    assert not list(live_faults(visit(figure(x), viewport=PHONE)))
    assert not list(still_faults(visit(figure(x), viewport=PHONE, java_script_enabled=False)))


def test_a_phone_shows_picture_and_controls_at_once(visit):
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    top = page.locator("svg").first.bounding_box()["y"]
    end = page.get_by_role("button").bounding_box()
    assert end["y"] + end["height"] - top < 844


def test_without_scripts_there_are_numbers_and_no_controls(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("svg").first.is_visible()
    assert shown_texts(page) == shown_texts(visit())
    assert not page.get_by_role("slider").count()
    assert not page.locator(".handle").is_visible()


def shown_texts(page) -> list[str]:
    return [text for text in page.locator("dd, svg text").all_text_contents() if text]


@pytest.mark.parametrize(
    ("theme", "paper"), [("light", "rgb(255 255 255)"), ("dark", "rgb(20 24 30)")]
)
def test_texts_stand_out_in_light_and_in_dark_mode(visit, theme, paper):
    page = visit(theme=theme)
    assert_texts_stand_out(page, paper, "dt, dd, label, button, figcaption")
