"""The film and the frame of all live figures: read as pages, and played in a browser."""

import base64
import json
import math
import re
import struct
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelib.course.labs.live import LiveFigure, live_figure
from vaelib.course.labs.training_film import COLOURS, training_film

N = 30
LABELS = torch.arange(N).flip(0) % 10
EPOCHS = (0, 1, 2, 5, 10)


def snapshots(seed: int = 0, n: int = N) -> dict[int, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {epoch: torch.randn(n, 2, generator=rng).clamp(-2.9, 2.9) for epoch in EPOCHS}


FRAMES = snapshots()


def film(**changes) -> LiveFigure:
    parts = {"frames": FRAMES, "labels": LABELS, "name": "film", "caption": "What it shows."}
    return training_film(**{**parts, **changes})


class Read(HTMLParser):
    """The elements of a page: name, attributes, and the text up to the next element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[dict] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_data(self, data):
        if self.elements:
            self.elements[-1]["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [
            e
            for e in self.elements
            if e["tag"] == tag and all(e.get(key) == value for key, value in attributes.items())
        ]


def data_of(figure: LiveFigure) -> dict:
    (script,) = Read(figure.page).all("script", type="application/json")
    return json.loads(script["text"])


def positions(texts: list[dict]) -> list[tuple[str, float, float]]:
    """Return the digit and the place of each letter of some text elements."""
    places = []
    for text in texts:
        xs, ys = ([float(v) for v in text[key].split()] for key in ("x", "y"))
        places += zip(text["text"].strip(), xs, ys, strict=True)
    return places


# The frame of all live figures


def test_nothing_in_the_data_ends_the_script():
    said = {"text": "</script><script>alert(1)</script><!--", "numbers": [1, 2.5]}
    shown = live_figure(
        "training_film", name="a", label="b", data=said, body="<p>c</p>", caption="d"
    )
    assert data_of(shown) == said
    assert len(Read(shown.page).all("script")) == 2


def test_name_label_and_caption_are_text_and_not_html():
    text = 'a"b&c<d></script><b>$style'
    shown = live_figure("training_film", name=text, label=text, data={}, body="", caption=text)
    read = Read(shown.page)
    (figure,) = read.all("figure")
    assert (figure["id"], figure["aria-label"], figure["class"]) == (text, text, "live-figure")
    assert read.all("figcaption")[0]["text"].strip() == text
    assert not read.all("b")
    assert len(read.all("script")) == 2


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_data_must_be_finite(number):
    with pytest.raises(ValueError, match="JSON"):
        live_figure("training_film", name="a", label="b", data={"x": number}, body="", caption="c")


def test_an_unknown_lab_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no lab 'cinema'; expected one of .*training_film"):
        live_figure("cinema", name="a", label="b", data={}, body="", caption="c")


# What the page of the film holds


def test_the_page_holds_every_code_to_a_few_ten_thousandths():
    data = data_of(film())
    assert data["epochs"] == list(EPOCHS)
    order = sorted(range(N), key=lambda i: LABELS[i].item())  # stable, by digit
    for packed, z in zip(data["frames"], FRAMES.values(), strict=True):
        whole = struct.unpack(f"<{2 * N}h", base64.b64decode(packed, validate=True))
        unpacked = np.array(whole).reshape(N, 2) / 32767 * data["limit"]
        np.testing.assert_allclose(unpacked, z[order], atol=data["limit"] / 65534 + 1e-9)


@pytest.mark.parametrize(("far", "limit"), [(0.0, 3), (2.9, 3), (3.2, 3.5), (7.0, 7.5)])
def test_the_codes_and_the_circles_have_room(far, limit):
    data = data_of(film(frames={0: torch.zeros(N, 2), 1: torch.full((N, 2), -far)}))
    assert data["limit"] == limit
    last = np.frombuffer(base64.b64decode(data["frames"][1]), "<i2")
    assert last.min() / 32767 * limit == pytest.approx(-far, abs=1e-3)


def test_one_far_code_stands_at_the_edge():
    z = torch.zeros(500, 2)
    z[3, 1] = -50.0
    frames, labels = {0: torch.zeros(500, 2), 1: z}, torch.zeros(500, dtype=torch.long)
    data = data_of(training_film(frames, labels, name="film", caption="A film."))
    assert data["limit"] == 3
    last = np.frombuffer(base64.b64decode(data["frames"][1]), "<i2").reshape(500, 2)
    assert last[3, 1] / 32767 == pytest.approx(-1 / 1.02, abs=1e-3)


def test_the_film_stands_at_its_end_and_every_code_is_its_digit():
    read, data = Read(film().page), data_of(film())
    shown = positions(read.all("text")[:10])  # one element for each digit
    limit = data["limit"]
    expected = sorted(
        (str(label), 168 + 168 * x / limit, 168 - 168 * y / limit)
        for label, (x, y) in zip(LABELS.tolist(), FRAMES[10].tolist(), strict=True)
    )
    for (letter, x, y), truth in zip(sorted(shown), expected, strict=True):
        assert letter == truth[0]
        assert (x, y) == pytest.approx(truth[1:], abs=0.01)
    (slider,) = read.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "10", "10")
    assert slider["aria-label"] == "epoch"


def test_the_order_of_the_epochs_is_that_of_time():
    shuffled = {epoch: FRAMES[epoch] for epoch in (5, 0, 10, 2, 1)}
    assert film(frames=shuffled).page == film().page


def test_the_still_has_four_snapshots_from_the_first_to_the_last():
    page = film().page
    stills = page[page.index('class="without-script film-stills"') :]
    titles = re.findall(r"<title>(epoch \d+)</title>", stills)
    assert titles == ["epoch 0", "epoch 1", "epoch 5", "epoch 10"]
    letters = [text for text in Read(stills).all("text") if text.get("x", "").count(" ")]
    assert len(positions(letters)) == 4 * N
    two = film(frames={3: FRAMES[0], 4: FRAMES[1]}).page
    assert len(re.findall(r"<title>epoch", two)) == 2


def test_a_still_of_many_codes_shows_some_of_each_digit():
    n = 2000
    labels = torch.arange(n) % 10
    page = film(frames=snapshots(1, n), labels=labels).page
    (panel,) = re.findall(r"<title>epoch 5</title>.*?</svg>", page, re.DOTALL)
    letters = positions([text for text in Read(panel).all("text") if " " in text["x"]])
    assert Counter(letter for letter, _, _ in letters) == dict.fromkeys("0123456789", 40)


def test_a_class_keeps_its_colour():
    texts = [t for t in Read(film().page).all("text") if " " in t["x"]]
    assert {(t["text"][0], t["fill"]) for t in texts} == {
        (str(digit), colour) for digit, colour in enumerate(COLOURS)
    }


def test_the_page_asks_no_other_host_for_anything():
    page = film().page.replace("http://www.w3.org/2000/svg", "")
    for word in ("http:", "https:", "@import", "url(", "<link"):
        assert word not in page


def test_codes_may_belong_to_a_graph():
    frames = {epoch: z.clone().requires_grad_() for epoch, z in FRAMES.items()}
    assert film(frames=frames).page == film().page


@pytest.mark.parametrize(
    ("frames", "labels", "message"),
    [
        ({}, LABELS, "two epochs or more"),
        ({0: FRAMES[0]}, LABELS, "two epochs or more"),
        (FRAMES, LABELS[1:], "there are 29 labels"),
        ({0: FRAMES[0], 1: FRAMES[1][1:]}, LABELS, r"1: \[29, 2\]"),
        ({0: torch.zeros(N, 3), 1: torch.zeros(N, 3)}, LABELS, r"each \[N, 2\]"),
        ({0: torch.zeros(0, 2), 1: torch.zeros(0, 2)}, LABELS[:0], "at least one"),
        ({0: FRAMES[0], 1: FRAMES[1] / 0}, LABELS, "not finite"),
        (FRAMES, LABELS + 1, "digits from 0 to 9"),
        (FRAMES, LABELS - 1, "digits from 0 to 9"),
    ],
)
def test_what_does_not_fit_is_refused(frames, labels, message):
    with pytest.raises(ValueError, match=message):
        film(frames=frames, labels=labels)


# What the page does

# Time that a test moves: requestAnimationFrame and performance.now stand still by themselves.
CLOCK = """
let now = 0, waiting = [];
performance.now = () => now;
window.requestAnimationFrame = f => waiting.push(f);
window.pass = seconds => { now += 1000 * seconds; const run = waiting; waiting = [];
  run.forEach(f => f(now)); };
window.isMoving = () => waiting.length > 0;
"""
PLACES = """() => [...document.querySelectorAll(".film text")].flatMap(e => {
  const [x, y] = ["x", "y"].map(k => e.getAttribute(k).split(" ").map(Number));
  return x.map((_, i) => [Number(e.textContent[i]), x[i], y[i]]);
})"""


@pytest.fixture
def visit(open_page):
    def go(*figures: LiveFigure, width: int = 700, **settings):
        return open_page(
            *figures, script=CLOCK, viewport={"width": width, "height": 800}, **settings
        )

    return go


def expected(earlier: int, later: int, part: float) -> list[list[float]]:
    """Digit and place of every code, some part of the way from one snapshot to the next."""
    z = (1 - part) * FRAMES[earlier] + part * FRAMES[later]
    limit = data_of(film())["limit"]
    places = torch.stack([limit + z[:, 0], limit - z[:, 1]], 1) * 336 / (2 * limit)
    return sorted([k, *place] for k, place in zip(LABELS.tolist(), places.tolist(), strict=True))


def assert_shown(page, *moment: float, epoch: int, figure: str = "#film") -> None:
    shown = sorted(page.evaluate(PLACES.replace('".film text"', f"'{figure} .film text'")))
    np.testing.assert_allclose(shown, expected(*moment), atol=0.02)
    slider = page.locator(f"{figure} input")
    assert slider.input_value() == str(epoch)
    assert slider.get_attribute("aria-valuetext") == f"epoch {epoch}"
    assert page.locator(f"{figure} output").inner_text() == f"epoch {epoch}"


def test_the_film_is_still_until_it_is_played(visit):
    page = visit(film())
    assert page.locator("figure.runs").count() == 1
    assert not page.evaluate("isMoving()")
    assert_shown(page, 5, 10, 1.0, epoch=10)
    assert not page.locator(".film-stills").is_visible()


def test_it_plays_from_the_start_to_the_end_on_straight_lines(visit):
    page = visit(film())
    button = page.get_by_role("button")
    button.press("Enter")
    assert button.inner_text() == "Pause"
    page.evaluate("pass(0)")
    assert_shown(page, 0, 1, 0.0, epoch=0)
    page.evaluate("pass(0.45)")  # 0.9 seconds from snapshot to snapshot
    assert_shown(page, 0, 1, 0.5, epoch=1)
    page.evaluate("pass(1.8)")
    assert_shown(page, 2, 5, 0.5, epoch=4)
    page.evaluate("pass(100)")
    assert_shown(page, 5, 10, 1.0, epoch=10)
    assert button.inner_text() == "Play"
    assert not page.evaluate("isMoving()")


def test_a_picture_that_was_due_before_the_click_is_the_first(visit):
    page = visit(film())
    page.get_by_role("button").click()
    page.evaluate("pass(-0.01)")
    assert_shown(page, 0, 1, 0.0, epoch=0)


def test_it_can_be_paused_and_goes_on_from_there(visit):
    page = visit(film())
    button = page.get_by_role("button")
    button.click()
    page.evaluate("pass(1.35)")
    button.click()
    page.evaluate("pass(5)")
    assert_shown(page, 1, 2, 0.5, epoch=2)
    assert button.inner_text() == "Play"
    button.click()
    page.evaluate("pass(0.45)")
    assert_shown(page, 2, 5, 0.0, epoch=2)


def test_the_slider_goes_by_keyboard_from_epoch_to_epoch(visit):
    page = visit(film())
    slider = page.get_by_role("slider", name="epoch")
    slider.focus()
    for key, moment, epoch in (
        ("ArrowLeft", (5, 10, 0.8), 9), ("Home", (0, 1, 0.0), 0), ("ArrowLeft", (0, 1, 0.0), 0),
        ("ArrowRight", (0, 1, 1.0), 1), ("ArrowUp", (2, 5, 0.0), 2), ("ArrowRight", (2, 5, 1/3), 3),
        ("End", (5, 10, 1.0), 10),
    ):  # fmt: skip
        slider.press(key)
        assert_shown(page, *moment, epoch=epoch)


def test_the_slider_stops_the_film(visit):
    page = visit(film())
    page.get_by_role("button").click()
    page.evaluate("pass(0.9)")
    page.get_by_role("slider").press("ArrowRight")
    assert page.get_by_role("button").inner_text() == "Play"
    page.evaluate("pass(3)")
    assert_shown(page, 2, 5, 0.0, epoch=2)


def test_who_asks_for_less_motion_sees_the_snapshots_only(visit):
    page = visit(film(), reduced_motion="reduce")
    page.get_by_role("button").click()
    page.evaluate("pass(0.8)")
    assert_shown(page, 0, 1, 0.0, epoch=0)
    page.evaluate("pass(0.2)")
    assert_shown(page, 1, 2, 0.0, epoch=1)


def test_a_number_that_runs_is_not_read_out(visit):
    page = visit(film())
    output, button = page.locator("output"), page.get_by_role("button")
    assert output.get_attribute("aria-live") == "polite"
    button.click()
    assert output.get_attribute("aria-live") == "off"
    button.click()
    assert output.get_attribute("aria-live") == "polite"


def test_two_films_of_a_page_do_not_disturb_each_other(visit):
    page = visit(film(name="one"), film(name='two"&<b>'))
    page.locator("#one input").press("Home")
    assert_shown(page, 0, 1, 0.0, epoch=0, figure="#one")
    assert_shown(page, 5, 10, 1.0, epoch=10, figure="figure:not(#one)")


def test_it_fits_on_a_phone_and_a_finger_moves_it(visit):
    page = visit(film(), width=390, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.get_by_role("button").bounding_box()
    assert box["height"] >= 24  # WCAG 2.2, target size
    page.get_by_role("button").tap()
    page.evaluate("pass(0.9)")
    assert_shown(page, 1, 2, 0.0, epoch=1)
    for element in ("button", "input", "output", "svg"):
        box = page.locator(f".film {element}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def test_without_scripts_the_snapshots_stand_in_its_place(visit):
    page = visit(film(), width=390, java_script_enabled=False)
    assert page.locator(".film-stills").is_visible()
    assert page.locator(".film-stills svg:visible").count() == 4
    assert not page.locator(".film").first.is_visible()
    for panel in page.locator(".film-stills svg").all():
        box = panel.bounding_box()
        assert box["x"] + box["width"] <= 390


def test_print_shows_the_snapshots(visit):
    page = visit(film())
    page.emulate_media(media="print")
    assert page.locator(".film-stills svg:visible").count() == 4
    assert not page.locator(".film").first.is_visible()
