"""The figure "mining" says what vaelib.triplet says, and does what readers ask."""

import math
import re
from itertools import product

import pytest
import torch
from contrast import assert_texts_stand_out

from vaelib.course.labs import mining as lab
from vaelib.course.labs.live import LiveFigure
from vaelib.course.labs.mining import PLACES, RULES, START, mining
from vaelib.triplet import triplet_loss

PHONE = {"width": 390, "height": 844}
NUMBERS = tuple(lab.NAMES)
PLACES_AT_RANDOM = torch.randn(15, 2, generator=torch.Generator().manual_seed(3)).double()
CASES = [
    (rule, margin, scale, batch)
    for rule, (margin, scale, batch) in product(
        RULES, [(0.2, 1.0, 12), (0.0, 0.35, 6), (1.0, 1.6, 15), (0.05, 0.2, 9)]
    )
]


def figure(**changes) -> LiveFigure:
    return mining(**{"caption": "Codes and triplets.", **changes})


def truth(places, rule, margin, scale) -> dict[str, float]:
    """What the figure should say, from vaelib's loss and from loops over all triplets."""
    c = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(len(places)) % 3
    loss = triplet_loss(c * places, labels, mining=rule, margin=margin)
    d = torch.cdist(scale * places, scale * places)
    n = range(len(places))
    triplets = [
        (d[a, p], d[a, k])
        for a, p, k in product(n, n, n)
        if a != p and labels[a] == labels[p] and labels[a] != labels[k]
    ]
    nearest = [min((j for j in n if j != k), key=lambda j, k=k: d[k, j]) for k in n]
    moment = places.square().sum(1).mean()
    return {
        "loss": loss.item(),
        "pull": scale * torch.autograd.grad(loss, c)[0].item(),
        "ordered": sum(bool(p < k) for p, k in triplets) / len(triplets),
        "neighbours": sum(bool(labels[j] == labels[k]) for k, j in enumerate(nearest)) / len(n),
        "price": float((scale**2 - 1) * moment / 2) - 2 * math.log(scale),
    }


# What Python computes


@pytest.mark.parametrize(("rule", "margin", "scale", "batch"), CASES)
def test_the_numbers_are_those_of_vaelib_and_of_loops(rule, margin, scale, batch):
    places = PLACES_AT_RANDOM[:batch]
    found = lab.numbers(places, rule=rule, margin=margin, scale=scale)
    expected = truth(places, rule, margin, scale)
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("rule", "margin", "scale", "batch"), CASES)
def test_the_loss_is_the_mean_over_the_mined_triplets(rule, margin, scale, batch):
    z = scale * PLACES_AT_RANDOM[:batch]
    d = torch.cdist(z, z)
    mined = lab.mined(z, rule)
    losses = [max(0.0, float(d[a, p] - d[a, n]) + margin) for a, p, n in mined]
    assert lab.pulls(z, rule, margin)[0] == pytest.approx(sum(losses) / len(losses))
    active = [t for t, loss in zip(mined, losses, strict=True) if loss > 0]
    assert lab.active(z, rule, margin) == active
    for a, p, n in mined:
        assert a % 3 == p % 3 != n % 3
        assert a != p


def test_the_start_has_the_size_of_the_prior():
    places = torch.tensor(PLACES)
    for batch in (START["batch"], 15):
        assert float(places[:batch].square().sum(1).mean()) == pytest.approx(2, abs=0.03)


def test_an_arrow_has_its_length_up_to_the_longest():
    for step, tip in (((30.0, -40.0), (30, -40)), ((300.0, 400.0), (36, 48)), ((0.1, 0.1), None)):
        path = lab.arrow_path(*step)
        if tip is None:
            assert path == "M0 0"
        else:
            assert path.startswith(f"M0 0L{tip[0]:.1f} {tip[1]:.1f}M")


# What the page holds


def test_the_page_asks_no_other_host_and_is_small():
    page = figure().page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for address in ("http:", "https:", "//cdn", "@import", "url(", " src=", " href="):
        assert address not in page
    assert len(page) < 60_000


def test_the_still_holds_the_numbers_of_the_start():
    page = figure(name="moved", caption="Here & there").page
    assert page.count("<svg") == 2
    assert 'id="moved"' in page
    assert "<figcaption>Here &amp; there</figcaption>" in page
    places = torch.tensor(PLACES, dtype=torch.float64)[: START["batch"]]
    expected = truth(places, START["rule"], START["margin"], START["scale"])
    for name, value in expected.items():
        (shown,) = re.findall(rf'<dd data-number="{name}">(.*?)</dd>', page)
        assert shown == lab.text_of(name, value)


# What the page does


@pytest.fixture
def visit(open_page):
    return lambda *figures, **settings: open_page(*(figures or [figure()]), **settings)


def test_all_numbers_and_gradients_agree_with_vaelib(visit):
    page = visit()
    asked = [[PLACES_AT_RANDOM[:batch].tolist(), *case] for *case, batch in CASES]
    numbers, gradients = (
        page.evaluate(
            f"cases => cases.map(c => document.querySelector('figure').{what}(...c))", asked
        )
        for what in ("compute", "gradient")
    )
    for (rule, margin, scale, batch), got, arrows in zip(CASES, numbers, gradients, strict=True):
        places = PLACES_AT_RANDOM[:batch]
        expected = lab.numbers(places, rule=rule, margin=margin, scale=scale)
        assert got == pytest.approx(expected, abs=1e-6), (rule, margin)
        truth = lab.pulls(scale * places, rule, margin)[1]
        torch.testing.assert_close(torch.tensor(arrows).double(), truth, atol=1e-6, rtol=0)


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(" %", ""))


def shown(page, within: str = "figure") -> dict[str, float]:
    names = (*NUMBERS, "margin", "scale", "batch", "anchor")
    return {
        name: number(page.locator(f'{within} [data-number="{name}"]').inner_text())
        for name in names
    }


def still_of(page) -> list[str]:
    return [
        *page.locator("svg path").evaluate_all("all => all.map(e => e.getAttribute('d'))"),
        *page.locator("svg g").evaluate_all("all => all.map(e => e.getAttribute('transform'))"),
    ]


def places_of(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"-?\d+(?:\.\d+)?", text or "")]


def test_the_script_begins_where_the_still_stands(visit):
    with_script, without = still_of(visit()), still_of(visit(java_script_enabled=False))
    assert len(with_script) == len(without)
    for ours, theirs in zip(with_script, without, strict=True):
        assert places_of(ours) == pytest.approx(places_of(theirs), abs=0.15)


def test_keys_reach_everything(visit):
    page = visit()
    before = shown(page)
    page.keyboard.press("Tab")  # the plane: arrows move the anchor
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    after = shown(page)
    assert after["loss"] != before["loss"]
    places = torch.tensor(PLACES, dtype=torch.float64)[:12]
    places[START["anchor"] - 1] += torch.tensor([-0.1, -0.1])
    expected = truth(places, "batch-hard", 0.2, 1.0)
    assert after["loss"] == pytest.approx(expected["loss"], abs=0.0051)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # the next rule
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # the margin
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # the scale
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # the batch
    places = torch.tensor(PLACES, dtype=torch.float64)
    places[START["anchor"] - 1] += torch.tensor([-0.1, -0.1])
    expected = truth(places, "semi-hard", 0.25, 0.95)
    now = shown(page)
    assert (now["margin"], now["scale"], now["batch"]) == (0.25, 0.95, 15)
    assert now["loss"] == pytest.approx(expected["loss"], abs=0.0051)
    assert now["price"] == pytest.approx(expected["price"], abs=0.0051)
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert shown(page)["anchor"] == 15
    page.get_by_label("codes in the batch").press("Home")
    assert (shown(page)["batch"], shown(page)["anchor"]) == (6, 6)
    page.get_by_role("button").click()
    assert shown(page) == before


def test_shrinking_lowers_the_loss_and_improves_nothing(visit):
    page = visit()
    before = shown(page)
    page.get_by_label("scale").press("Home")
    after = shown(page)
    assert after["loss"] < 0.5 * before["loss"]
    assert (after["ordered"], after["neighbours"]) == (before["ordered"], before["neighbours"])
    assert after["price"] > 2
    summary = page.locator('[aria-live="polite"]').text_content()
    assert summary.startswith(f"batch-hard: loss {after['loss']:.2f}, ")


def spot(page, k: int) -> tuple[float, float]:
    """Where a code is on the screen."""
    box = page.locator(f".code-{k} path").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_mouse_drags_the_code_under_it(visit):
    page = visit(viewport={"width": 1280, "height": 900})
    before = shown(page)
    x, y = spot(page, 4)
    page.mouse.move(x + 2, y + 1)
    page.mouse.down()
    page.mouse.move(x - 48, y - 59, steps=4)
    page.mouse.up()
    page.mouse.move(x, y)
    assert spot(page, 4) == pytest.approx((x - 50, y - 60), abs=0.6)
    assert shown(page)["anchor"] == 5
    assert shown(page)["loss"] != before["loss"]


def test_what_is_not_in_the_batch_cannot_be_dragged(visit):
    page = visit()
    page.get_by_label("codes in the batch").press("Home")
    before, (x, y) = shown(page), spot(page, 13)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 30, y, steps=2)
    page.mouse.up()
    assert spot(page, 13) == pytest.approx((x, y), abs=0.6)
    assert shown(page) == before


def test_a_code_stays_in_the_picture(visit):
    page = visit()
    x, y = spot(page, 0)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 900, y + 900)
    page.mouse.up()
    box = page.locator("svg").first.bounding_box()
    x, y = spot(page, 0)
    assert box["x"] < x < box["x"] + box["width"]
    assert box["y"] < y < box["y"] + box["height"]


@pytest.mark.parametrize(("on_a_code", "scrolls"), [(True, False), (False, True)])
def test_a_finger_drags_codes_and_scrolls_the_page_elsewhere(visit, on_a_code, scrolls):
    page = visit(
        figure(name="one"), figure(name="two"), viewport={"width": 390, "height": 500},
        has_touch=True,
    )  # fmt: skip
    page.evaluate("scrollTo(0, 40)")
    box = page.locator("#one svg").first.bounding_box()
    x, y = spot(page.locator("#one"), 4)
    if not on_a_code:
        x, y = box["x"] + 8, box["y"] + box["height"] - 8
    touch = page.context.new_cdp_session(page)
    for kind, dy in (("Start", 0), ("Move", -20), ("Move", -60), ("End", 0)):
        points = [] if kind == "End" else [{"x": x, "y": y + dy}]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    page.wait_for_timeout(300)
    assert (page.evaluate("scrollY") != 40) == scrolls
    assert (shown(page, "#one")["anchor"] == 5) == on_a_code
    assert shown(page, "#two")["anchor"] == START["anchor"]


def test_the_check_of_the_book_finds_no_fault(visit):
    from book.live import live_faults, still_faults

    assert not list(live_faults(visit(viewport=PHONE)))
    assert not list(still_faults(visit(viewport=PHONE, java_script_enabled=False)))


def test_a_phone_shows_picture_and_controls_at_once(visit):
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    top = page.locator("svg").first.bounding_box()["y"]
    end = page.get_by_role("button").bounding_box()
    assert end["y"] + end["height"] - top < 844


def test_without_scripts_there_are_numbers_and_no_controls(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("svg").first.is_visible()
    assert not page.get_by_role("slider").count()
    assert not page.get_by_role("combobox").count()
    assert not page.locator(".handle").is_visible()


@pytest.mark.parametrize(
    ("theme", "paper"), [("light", "rgb(255 255 255)"), ("dark", "rgb(20 24 30)")]
)
def test_texts_stand_out_in_light_and_in_dark_mode(visit, theme, paper):
    page = visit(theme=theme)
    assert_texts_stand_out(page, paper, "dt, dd, label, select, button, figcaption")
