"""The explorer is read as a page: its elements with a parser, its behaviour in a browser."""

import base64
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vaelib.course.labs.beta_explorer import Explorer, beta_explorer

BETAS = (0.0, 0.5, 1.0, 20.0)
DISTORTION = (60.0, 75.5, 90.25, 180.0)
RATE = (130.0, 40.5, 25.0, 0.5)
SAYS = [
    "β = 0: distortion 60.0 nats, rate 130.0 nats",
    "β = 0.5: distortion 75.5 nats, rate 40.5 nats",
    "β = 1: distortion 90.2 nats, rate 25.0 nats",
    "β = 20: distortion 180.0 nats, rate 0.5 nats",
]


def images(seed: int, n: int = 3) -> Tensor:
    return torch.rand(n, 1, 4, 5, generator=torch.Generator().manual_seed(seed))


ORIGINALS = images(0)
RECONSTRUCTIONS = [images(10 + i) for i in range(4)]
SAMPLES = [images(20 + i) for i in range(4)]


def explorer(**changes) -> Explorer:
    parts = {
        "betas": BETAS,
        "distortion": DISTORTION,
        "rate": RATE,
        "originals": ORIGINALS,
        "reconstructions": RECONSTRUCTIONS,
        "samples": SAMPLES,
        "start": 1,
        "name": "explorer",
        "caption": "What the figure shows.",
    }
    return beta_explorer(**{**parts, **changes})


class Read(HTMLParser):
    """The elements of a page: name, attributes, and the text between start and end."""

    VOID = ("img", "input", "path", "polyline", "meta", "link")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.open = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag: str) -> list[dict]:
        return [element for element in self.elements if element["tag"] == tag]

    def one(self, tag: str) -> dict:
        (element,) = self.all(tag)
        return element


def pixels(address: str) -> np.ndarray:
    head, data = address.split(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.array(image)


def side_by_side(x: Tensor) -> list[list[int]]:
    """The rows of pixels that are expected, pixel by pixel."""
    n, _, height, width = x.shape
    return [
        [
            math.floor(255 * x[i, 0, row, column].item() + 0.5)
            for i in range(n)
            for column in range(width)
        ]
        for row in range(height)
    ]


# What the page holds


def test_the_pictures_hold_the_pixels_of_their_images_in_the_order_of_the_models():
    pictures = Read(explorer().page).all("img")
    expected = [ORIGINALS]
    for pair in zip(RECONSTRUCTIONS, SAMPLES, strict=True):
        expected += pair
    assert len(pictures) == len(expected) == 9
    for picture, x in zip(pictures, expected, strict=True):
        assert pixels(picture["src"]).tolist() == side_by_side(x)


def test_values_outside_of_0_and_1_are_black_and_white():
    x = torch.tensor([-3.0, -1e-6, 0.0, 0.5, 1.0, 1.001, 7.0]).view(1, 1, 1, 7)
    address = Read(explorer(originals=x.requires_grad_()).page).all("img")[0]["src"]
    assert pixels(address).tolist() == [[0, 0, 0, 128, 255, 255, 255]]


def test_every_model_has_one_section_and_one_point():
    read = Read(explorer().page)
    assert [section["data-says"] for section in read.all("section")] == SAYS
    assert all(
        says in section["text"] for says, section in zip(SAYS, read.all("section"), strict=True)
    )
    assert [point["text"] for point in read.all("circle")] == [
        "β = 0",
        "β = 0.5",
        "β = 1",
        "β = 20",
    ]
    assert not read.open


def test_every_picture_says_what_it_is():
    read = Read(explorer().page)
    texts = [picture["alt"] for picture in read.all("img")]
    assert len(set(texts)) == 9
    for k, beta in enumerate(("0", "0.5", "1", "20")):
        assert all(text.endswith(f"at β = {beta}.") for text in texts[1 + 2 * k : 3 + 2 * k])
    assert read.one("svg")["role"] == "img"
    assert read.one("svg")["aria-label"].strip()


def ticks(read: Read, anchor: str, coordinate: str) -> tuple[float, float]:
    """The position of zero and the length of a nat along an axis, from the numbers beside it."""
    labels = [
        (float(label[coordinate]), float(label["text"]))
        for label in read.all("text")
        if label["text-anchor"] == anchor and label["text"].replace(".", "").isdigit()
    ]
    assert len(labels) >= 3
    (first, zero), (last, most) = labels[0], labels[-1]
    assert zero == 0
    unit = (last - first) / most
    for position, value in labels:
        assert position == pytest.approx(first + value * unit, abs=0.2)
    return first, unit


@pytest.mark.parametrize("scale", [0.02, 1.0, 7.0])
def test_every_point_lies_where_the_axes_say(scale):
    distortion, rate = ([scale * v for v in values] for values in (DISTORTION, RATE))
    read = Read(explorer(distortion=distortion, rate=rate).page)
    left, per_nat = ticks(read, "middle", "x")
    bottom, up_per_nat = ticks(read, "end", "y")
    assert per_nat > 0 > up_per_nat
    _, _, width, height = map(float, read.one("svg")["viewbox"].split())
    corners = [tuple(map(float, p.split(","))) for p in read.one("polyline")["points"].split()]
    for point, d, r, corner in zip(read.all("circle"), distortion, rate, corners, strict=True):
        x, y = float(point["cx"]), float(point["cy"])
        assert (x, y) == corner
        assert 0 < x < width
        assert 0 < y < height
        assert x == pytest.approx(left + r * per_nat, abs=0.3)
        assert y + 4 == pytest.approx(bottom + d * up_per_nat, abs=0.3)  # the text hangs lower


def test_the_page_asks_no_other_host_for_anything():
    page = explorer().page
    assert "http:" not in page
    assert "https:" not in page
    read = Read(page)
    addresses = [e[key] for e in read.elements for key in ("src", "href", "data") if key in e]
    assert len(addresses) == 9
    assert all(address.startswith("data:") for address in addresses)
    assert not read.all("link")
    assert "@import" not in page
    assert "url(" not in page


def test_the_slider_begins_at_the_start_and_ends_at_the_last_model():
    slider = Read(explorer(start=2).page).one("input")
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "3")
    assert (slider["step"], slider["value"]) == ("1", "2")


def test_name_and_caption_are_text_and_not_html():
    caption = 'At <b>β > 1</b> & "more" $start </figcaption><script>alert(1)</script>'
    read = Read(explorer(name='a"b&c<d>', caption=caption).page)
    assert read.one("figure")["id"] == 'a"b&c<d>'
    assert read.one("figcaption")["text"] == caption
    assert len(read.all("script")) == 1
    assert not read.all("b")


def test_a_notebook_shows_the_page_and_prints_none_of_it():
    shown = explorer()
    assert shown._repr_html_() == shown.page
    assert repr(shown) == "Explorer()"
    assert explorer().page == shown.page


@pytest.mark.parametrize("part", ["betas", "distortion", "rate", "reconstructions", "samples"])
def test_there_must_be_one_of_everything_for_each_model(part):
    whole = {"betas": BETAS, "distortion": DISTORTION, "rate": RATE}
    whole |= {"reconstructions": RECONSTRUCTIONS, "samples": SAMPLES}
    for wrong in (whole[part][:-1], [*whole[part], whole[part][0]], []):
        counts = [len(wrong) if name == part else 4 for name in whole]
        with pytest.raises(ValueError, match="one entry for each model") as error:
            explorer(**{part: wrong})
        assert f"have {counts} entries" in str(error.value)


@pytest.mark.parametrize("start", [-1, 4, 100])
def test_the_start_must_be_one_of_the_models(start):
    with pytest.raises(ValueError, match=f"start is {start}; .* a start among them"):
        explorer(start=start)


def test_a_figure_without_models_is_refused():
    nothing = dict.fromkeys(("betas", "distortion", "rate", "reconstructions", "samples"), ())
    with pytest.raises(ValueError, match="expected one entry for each model"):
        explorer(**nothing, start=0)


# What the page does


@pytest.fixture
def visit(open_page):
    return open_page


def shown(page, within: str = "figure") -> list[str]:
    """What the sections that can be seen say."""
    sections = page.locator(f"{within} section").all()
    return [s.get_attribute("data-says") for s in sections if s.is_visible()]


def chosen(page) -> list[int]:
    """The points that are larger than the smallest, and marked."""
    points = page.locator("circle").all()
    radius = [float(point.get_attribute("r")) for point in points]
    marked = ["chosen" in (point.get_attribute("class") or "").split() for point in points]
    assert [r > min(radius) for r in radius] == marked
    return [i for i, mark in enumerate(marked) if mark]


def test_only_the_model_of_the_start_is_shown(visit):
    page = visit(explorer(start=2))
    assert shown(page) == [SAYS[2]]
    assert chosen(page) == [2]
    slider = page.get_by_role("slider", name="β")
    assert slider.is_visible()
    assert slider.input_value() == "2"
    assert slider.get_attribute("aria-valuetext") == SAYS[2]
    assert page.locator("img:visible").count() == 3
    assert page.locator("img").evaluate_all("all => all.every(image => image.naturalWidth === 15)")


def test_the_arrow_keys_go_from_model_to_model_and_stop_at_the_ends(visit):
    page = visit(explorer(start=1))
    slider = page.get_by_role("slider")
    slider.focus()
    for key, now in (
        ("ArrowRight", 2), ("ArrowRight", 3), ("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 0),
        ("ArrowLeft", 0), ("End", 3),
    ):  # fmt: skip
        slider.press(key)
        assert shown(page) == [SAYS[now]]
        assert chosen(page) == [now]
        assert slider.get_attribute("aria-valuetext") == SAYS[now]


def test_a_click_on_a_point_shows_its_model_and_moves_the_slider(visit):
    page = visit(explorer(start=1))
    page.locator("circle").nth(3).click()
    assert shown(page) == [SAYS[3]]
    assert chosen(page) == [3]
    assert page.get_by_role("slider").input_value() == "3"
    assert page.get_by_role("slider").get_attribute("aria-valuetext") == SAYS[3]


def test_without_javascript_all_models_are_shown_and_there_is_no_slider(visit):
    page = visit(explorer(start=1), java_script_enabled=False)
    assert shown(page) == SAYS
    assert page.locator("img:visible").count() == 9
    assert not page.locator("input").is_visible()
    assert page.get_by_role("slider").count() == 0


def test_two_figures_of_a_page_do_not_disturb_each_other(visit):
    page = visit(explorer(name="one", start=0), explorer(name="two", start=3))
    page.locator("#two input").press("ArrowLeft")
    assert shown(page, "#one") == [SAYS[0]]
    assert shown(page, "#two") == [SAYS[2]]


def test_a_name_with_special_characters_works(visit):
    assert shown(visit(explorer(name="beta & rate", start=0))) == [SAYS[0]]
