"""The canvas of the drawings, and the drawings of lesson 1: read as XML, measured as geometry."""

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from contrast import contrast
from PIL import Image
from scipy import integrate, optimize
from scipy.stats import norm

from vaelib.course import (
    drawings_1,
    drawings_2,
    drawings_3,
    drawings_4,
    drawings_5,
    drawings_7,
    lesson_3,
    one_number,
)
from vaelib.course.drawing import (
    BLUE,
    GAP,
    HALF,
    HEAD,
    SMALLEST,
    STYLE,
    WHOLE,
    Canvas,
    Drawing,
    Frame,
    Shape,
    address_of,
    drawing,
)
from vaelib.posteriors import DiagonalNormal

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def canvas() -> Canvas:
    return Canvas(HALF, 100, "A title.", "A description.")


def parse(canvas: Canvas) -> ElementTree.Element:
    return ElementTree.fromstring(canvas.svg())


def figure(drawn: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(drawn._repr_html_())


def said(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def points(path: str) -> np.ndarray:
    return np.array(numbers(path)).reshape(-1, 2)


# Text


def spans(canvas: Canvas) -> list[tuple[str, str | None]]:
    return [(span.text, span.get("class")) for span in parse(canvas).iter(f"{SVG}tspan")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a code", [("a code", None)]),
        ("$z$", [("z", "italic")]),
        ("a code $z$", [("a code ", None), ("z", "italic")]),
        ("$log p$", [("log", "upright"), (" ", "upright"), ("p", "italic")]),
        ("$q_φ$", [("q", "italic"), ("φ", "italic")]),
        ("$x^{12}$", [("x", "italic"), ("12", "upright")]),
        ("$σ^2$", [("σ", "italic"), ("2", "upright")]),
        ("$xˆ$", [("x", "italic"), ("ˆ", "italic")]),
        ("a < b & $c < 1$", [("a < b & ", None), ("c", "italic"), (" < 1", "upright")]),
    ],
)  # fmt: skip
def test_text_and_maths(canvas, text, expected):
    canvas.text(10, 20, text)
    assert spans(canvas) == expected


def test_an_index_is_small_and_low_and_what_follows_stands_on_the_line(canvas):
    canvas.text(0, 0, "$a_b c^d e$", size=20)
    height, heights = 0.0, {}
    for span in parse(canvas).iter(f"{SVG}tspan"):
        height += float(span.get("dy", 0))
        heights[span.text] = height, span.get("font-size")
    assert heights["a"] == heights["c"] == heights["e"] == (0, None)
    assert heights["b"] == (4, "14.4")  # downwards
    assert heights["d"] == (pytest.approx(-7.6), "14.4")


def test_an_index_does_not_become_too_small_to_read(canvas):
    canvas.text(0, 0, "$a_b$", size=13)
    sizes = [float(s.get("font-size", 13)) for s in parse(canvas).iter(f"{SVG}tspan")]
    assert sizes == [13, SMALLEST]


@pytest.mark.parametrize("text", ["$", "a $z", "$a$ and $b"])
def test_a_lonely_dollar_sign_is_refused(canvas, text):
    with pytest.raises(ValueError, match="dollar signs in pairs"):
        canvas.text(0, 0, text)
    with pytest.raises(ValueError, match="dollar signs in pairs"):
        drawing(canvas, caption=text)


def test_lines_of_text_stand_around_their_middle(canvas):
    canvas.text(5, 50, "one\ntwo\nthree", size=10)
    heights = [float(line.get("y")) for line in parse(canvas).iter(f"{SVG}text")]
    np.testing.assert_allclose(np.diff(heights), 13)
    assert heights[1] - 3.4 == pytest.approx(50)


# Geometry


def test_an_arrow_between_circles_ends_a_gap_before_their_edges(canvas):
    start, end = canvas.circle(20, 20, radius=10), canvas.circle(80, 100, radius=15)
    canvas.arrow(start, end)
    line, head = list(parse(canvas).iter(f"{SVG}path"))
    tail, neck = points(line.get("d"))
    tip, *wings = points(head.get("d"))
    # The middles are 100 apart, in the direction (0.6, 0.8).
    np.testing.assert_allclose(tail, [20 + 0.6 * (10 + GAP), 20 + 0.8 * (10 + GAP)])
    np.testing.assert_allclose(tip, [80 - 0.6 * (15 + GAP), 100 - 0.8 * (15 + GAP)])
    for wing in wings:
        assert math.dist(wing, tip) == pytest.approx(HEAD, abs=0.02)
    assert 0 < math.dist(neck, tip) < HEAD  # the line ends inside of the head


def test_a_short_arrow_into_a_large_shape_points_into_it(canvas):
    canvas.arrow((100, 50), canvas.box(20, 50, 130, 40))  # 15 pixels; halfway to the middle is 60
    _, head = parse(canvas).iter(f"{SVG}path")
    tip, *wings = points(head.get("d"))
    assert tip.tolist() == [85 + GAP, 50]
    assert all(wing[0] > tip[0] for wing in wings)


@pytest.mark.parametrize(
    ("towards", "edge"),
    [
        ((200, 50), (50 + 30 + GAP, 50)),
        ((-200, 50), (50 - 30 - GAP, 50)),
        ((50, 200), (50, 50 + 10 + GAP)),
        ((50, -200), (50, 50 - 10 - GAP)),
        # At 45° the line leaves through the long side, 10 above the middle.
        ((150, 150), (60 + GAP / math.sqrt(2), 60 + GAP / math.sqrt(2))),
    ],
)
def test_a_line_leaves_a_box_a_gap_outside_of_its_edge(towards, edge):
    np.testing.assert_allclose(Shape(50, 50, 60, 20).edge(towards), edge)


@pytest.mark.parametrize(("bend", "side"), [(12, 1), (-12, -1)])
def test_a_bend_moves_the_middle_of_an_arrow_to_its_right(canvas, bend, side):
    canvas.arrow((0, 50), (100, 50), bend=bend)
    line, _ = parse(canvas).iter(f"{SVG}path")
    start, control, end = points(line.get("d"))
    middle = (start + 2 * control + end) / 4  # of a quadratic curve
    assert math.copysign(1, middle[1] - 50) == side  # to the right of eastwards is down
    assert abs(middle[1] - 50) == pytest.approx(12, abs=2)


def test_a_frame_takes_numbers_to_places():
    frame = Frame(10, 20, 200, 100, (-1, 3), (0, 50))
    assert (frame.right, frame.bottom) == (210, 120)
    assert (frame.x(-1), frame.x(1), frame.x(3)) == (10, 110, 210)
    assert (frame.y(0), frame.y(25), frame.y(50)) == (120, 70, 20)  # upwards
    np.testing.assert_allclose(frame.places([-1, 1], [0, 50]), [[10, 120], [110, 20]])
    np.testing.assert_allclose(frame.places([-1, 1], 25), [[10, 70], [110, 70]])
    np.testing.assert_allclose(frame.places(torch.tensor([3.0]), torch.tensor([0.0])), [[210, 120]])


def test_a_brace_joins_two_points_and_its_tip_is_to_the_left(canvas):
    canvas.brace((50, 10), (50, 90), depth=8)
    (path,) = parse(canvas).iter(f"{SVG}path")
    places = points(path.get("d"))
    assert places[0].tolist() == [50, 10]
    assert places[-1].tolist() == [50, 90]
    assert places[np.argmax(places[:, 0])].tolist() == [58, 50]  # left of downwards is the east


def test_dots_can_have_a_radius_each(canvas):
    canvas.dots([(1, 2), (3, 4)], radius=[5, 6])
    circles = [c.attrib for c in parse(canvas).iter(f"{SVG}circle")]
    assert [(c["cx"], c["cy"], c["r"]) for c in circles] == [("1", "2", "5"), ("3", "4", "6")]


def test_observed_variables_are_shaded_and_latent_ones_are_empty(canvas):
    canvas.circle(20, 20, "$z$")
    canvas.circle(60, 20, "$x$", observed=True, colour=BLUE)
    latent, observed = parse(canvas).iter(f"{SVG}circle")
    assert latent.get("fill") == "none"
    assert observed.get("fill") == BLUE


@pytest.mark.parametrize(
    ("narrow", "shorter"),
    [("left", [0, 20]), ("right", [100, 20]), ("top", [50, 0]), ("bottom", [50, 40])],
)
def test_a_network_is_half_as_long_at_its_narrow_side(canvas, narrow, shorter):
    canvas.network(50, 20, 100, 40, "net", narrow=narrow, colour=BLUE)
    (path,) = parse(canvas).iter(f"{SVG}path")
    first, second, third, fourth = points(path.get("d"))
    assert ((first + second) / 2).tolist() == shorter
    assert math.dist(first, second) == math.dist(third, fourth) / 2


# Images


def test_an_image_holds_its_pixels(canvas):
    pixels = torch.tensor([[0.0, 0.25, 1.0], [-1.0, 0.5, 7.0]], requires_grad=True)
    canvas.image(50, 60, 30, pixels)
    (image,) = parse(canvas).iter(f"{SVG}image")
    head, data = image.get("href").split(",")
    assert head == "data:image/png;base64"
    read = np.array(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
    assert read.tolist() == [[0, 64, 255], [0, 128, 255]]
    place = [float(image.get(key)) for key in ("x", "y", "width", "height")]
    assert place == [35, 50, 30, 20]


@pytest.mark.parametrize("shape", [(28,), (1, 28, 28), ()])
def test_an_image_has_two_axes(canvas, shape):
    with pytest.raises(ValueError, match=rf"an image \[H, W\], not {re.escape(str([*shape]))}"):
        canvas.image(0, 0, 10, torch.zeros(shape))
    with pytest.raises(ValueError, match="expected an image"):
        address_of(torch.zeros(shape))


# The whole


@pytest.mark.parametrize("place", [math.nan, math.inf, -math.inf])
def test_a_place_must_be_finite(canvas, place):
    with pytest.raises(ValueError, match="no place on a canvas"):
        canvas.line((0, 0), (1, place))


def test_an_arrow_and_an_axis_need_an_extent(canvas):
    with pytest.raises(ValueError, match=r"an arrow from \(3, 4\) to itself"):
        canvas.arrow((3, 4), (3, 4))
    with pytest.raises(ValueError, match="an axis from 2 to 2"):
        Frame(0, 0, 10, 10, (2, 2), (0, 1))


def test_title_and_description_are_there_and_are_text():
    drawn = parse(Canvas(10, 20, "a < b & c", 'A "<b>" is seen.'))
    assert drawn.get("role") == "img"
    assert drawn.get("viewBox") == "0 0 10 20"
    assert drawn.find(f"{SVG}title").text == "a < b & c"
    assert drawn.find(f"{SVG}desc").text == 'A "<b>" is seen.'


def test_panels_stand_side_by_side_and_a_narrow_twin_takes_their_place(canvas):
    alone = figure(drawing(canvas, canvas, caption="c"))
    assert [div.get("class") for div in alone.iter("div")] == ["panels"]
    twin = figure(drawing(Canvas(WHOLE, 9, "t", "d"), narrow=[canvas], caption="c"))
    wide, narrow = twin.iter("div")
    assert (wide.get("class"), narrow.get("class")) == ("panels wide", "panels narrow")
    assert [svg.get("width") for svg in wide] == [str(WHOLE)]
    assert [svg.get("width") for svg in narrow] == [str(HALF)]


def test_a_caption_is_text_with_maths_that_does_not_break(canvas):
    drawn = figure(drawing(canvas, caption="A <b> & the code $z_{ab}^2$, $xˆ$."))
    caption = drawn.find("figcaption")
    assert said(caption) == "A <b> & the code zab2, xˆ."
    assert [span.get("class") for span in caption] == ["maths", "maths"]
    code, mean = caption
    assert [(e.tag, e.text) for e in code] == [("span", "z"), ("sub", "ab"), ("sup", "2")]
    assert [e.get("class") for e in mean] == ["italic", "italic hat"]


def test_a_drawing_shows_itself_and_prints_none_of_it(canvas):
    drawn = drawing(canvas, caption="c")
    assert drawn._repr_html_() == drawn.page
    assert repr(drawn) == "Drawing()"


def test_all_colours_of_the_page_have_a_light_and_a_dark_side():
    style = STYLE.read_text(encoding="utf-8")
    light, dark = re.findall(r"\{([^}]*--ink:[^}]*)\}", style)
    names = [set(re.findall(r"--(\w+):", part)) for part in (light, dark)]
    assert names[0] == names[1] >= {"ink", "paper", "quiet", "line", "blue", "orange", "green"}
    assert set(re.findall(r"var\(--(\w+)\)", style)) <= names[0]


@pytest.mark.parametrize(("side", "page"), [(0, "#ffffff"), (1, "#121212")])
def test_letters_can_be_read_on_the_page_in_every_colour(side, page):
    part = re.findall(r"\{([^}]*--ink:[^}]*)\}", STYLE.read_text(encoding="utf-8"))[side]
    for name, colour in re.findall(r"--(\w+): (#\w+)", part):
        if name not in ("line", "paper"):
            assert contrast(colour, page) >= 4.5, name


# The drawings of lessons 1, 2 and 7

DIGIT = torch.linspace(0, 1, 28 * 28).view(28, 28)
SWEEP = {"beta": [0.0, 0.1, 8.0], "test_rate": [99.0, 45.0, 5.0], "thresholds": [32.2, 7.0]}
AXIS = torch.linspace(-1, 1, 41)
BELL = DiagonalNormal(torch.zeros(1, 2), torch.full((1, 2), -3.0))
PLACE = drawings_7.Place(AXIS, AXIS, -8 * (AXIS[:, None] - 0.3).square() - AXIS**2, BELL, BELL)
DRAWINGS = {
    "graphical_model": drawings_1.graphical_model,
    "encoder_code_decoder": lambda: drawings_1.encoder_code_decoder(DIGIT, 1 - DIGIT),
    "one_hidden_number": drawings_1.one_hidden_number,
    "averaging_and_aiming": drawings_1.averaging_and_aiming,
    "reparameterisation": drawings_1.reparameterisation,
    "elbo_gap": drawings_1.elbo_gap,
    "one_pixel": drawings_2.one_pixel,
    "price_of_errors": lambda: drawings_2.price_of_errors(DIGIT, 1 - DIGIT),
    "four_binarisations": lambda: drawings_2.four_binarisations(DIGIT),
    "reductions": lambda: drawings_2.reductions(32.2, (20, 128, 32)),
    "budget": lambda: drawings_2.budget(
        {"a mean": 0.07, "a length": 7.2, "a sum": 160.0}, naming=2.3, typical=25.0
    ),
    "own_weights_or_shared": drawings_3.own_weights_or_shared,
    "what_a_stride_does": drawings_3.what_a_stride_does,
    "receptive_field": lambda: drawings_3.receptive_field(torch.eye(28)),
    "transposed_convolution": drawings_3.transposed_convolution,
    "where_parameters_sit": lambda: drawings_3.where_parameters_sit(
        {
            "small": {f: lesson_3.comparison_vae(f, 70_000, latent_dim=2) for f in ("mlp", "conv")},
            "large": {"conv": lesson_3.comparison_vae("conv", 800_000, latent_dim=2)},
        }
    ),
    "two_tangents": drawings_4.two_tangents,
    "goods": lambda: drawings_4.goods((32.2, 22.9, 21.0), torch.stack(3 * [DIGIT])),
    "codes_beside_the_prior": drawings_4.codes_beside_the_prior,
    "predicted_and_trained": lambda: drawings_4.predicted_and_trained({"Bernoulli": [SWEEP]}),
    "remedies": drawings_4.remedies,
    "one_triplet": drawings_5.one_triplet,
    "four_rules": drawings_5.four_rules,
    "shrunken_vae": lambda: drawings_5.shrunken_vae(0.73),
    "cake": drawings_5.cake,
    "two_pulls": lambda: drawings_5.two_pulls(1.41, 1.0),
    "two_places": lambda: drawings_7.two_places(
        PLACE,
        dict.fromkeys(("the image", "one", "two"), DIGIT),
        {"ELBO of $q$": -215.2, "ELBO of $q^*$": -213.5, "estimate": -213.4, "$log p(x)$": -174.3},
        error=0.02,
    ),
    "bounds_of_k": lambda: drawings_7.bounds_of_k(torch.linspace(-4, 0.5, 2000), -0.9),
    "wide_and_narrow": lambda: drawings_7.wide_and_narrow(
        PLACE,
        dict.fromkeys(("narrow", "right", "wide"), (BELL, torch.zeros(9, 2), torch.zeros(9))),
        {"narrow": (-1.0, 0.1), "right": (0.0, 0.01), "wide": (0.1, 0.2)},
    ),
    "posteriors": lambda: drawings_7.posteriors(
        dict.fromkeys(("typical", "narrow", "bent"), (PLACE, 0.2, 3.1))
    ),
    "gap_stack": lambda: drawings_7.gap_stack(
        {"2-D": (0.5, 2.0), "50-D": (2.3, 2.9)}, exact=["2-D"]
    ),
}


@pytest.fixture(scope="module", params=DRAWINGS.values(), ids=DRAWINGS)
def drawn(request) -> Drawing:
    return request.param()


def test_a_drawing_is_well_formed_and_says_what_it_shows(drawn):
    page = figure(drawn)
    assert len(said(page.find("figcaption"))) > 100
    panels = list(page.iter(f"{SVG}svg"))
    assert panels
    for panel in panels:
        assert len(panel.find(f"{SVG}title").text) > 20
        assert len(panel.find(f"{SVG}desc").text) > 60
        assert "nan" not in ElementTree.tostring(panel, "unicode")


def test_a_phone_shows_a_drawing_at_its_full_size(drawn):
    page = figure(drawn)
    groups = {
        div.get("class"): [float(svg.get("width")) for svg in div] for div in page.iter("div")
    }
    on_a_phone = groups.get("panels narrow") or groups["panels"]
    assert set(on_a_phone) == {HALF}
    assert set(groups.get("panels wide", [WHOLE])) == {WHOLE}


def test_no_letter_is_small_and_nothing_is_drawn_outside(drawn):
    for panel in figure(drawn).iter(f"{SVG}svg"):
        _, _, width, height = numbers(panel.get("viewBox"))
        for letters in [*panel.iter(f"{SVG}text"), *panel.iter(f"{SVG}tspan")]:
            assert float(letters.get("font-size", 20)) >= SMALLEST
        for text in panel.iter(f"{SVG}text"):
            assert 0 <= float(text.get("x")) <= width
            assert 8 <= float(text.get("y")) <= height
        for path in panel.iter(f"{SVG}path"):
            places = points(path.get("d"))
            assert places.min() >= 0
            assert (places.max(0) <= [width, height]).all()


def test_the_page_asks_no_other_host_for_anything(drawn):
    page = drawn.page.replace(SVG[1:-1], "")
    assert "http" not in page
    assert "url(" not in page


def test_a_drawing_is_the_same_every_time(drawn, request):
    assert DRAWINGS[request.node.callspec.id]().page == drawn.page


# What they show is true in the world of one hidden number, here from scipy alone


def joint(z, x):
    return norm.pdf(z) * norm.pdf(x, (np.asarray(z) + 0.25) ** 2 / 2, 0.3)


def evidence(x: float) -> float:
    return integrate.quad(joint, -8, 8, args=(x,), points=[-3, 0, 3], limit=200)[0]


def test_the_dot_lies_at_the_density_of_x():
    panel = next(figure(drawings_1.one_hidden_number(1.0)).iter(f"{SVG}svg"))
    (dot,) = panel.iter(f"{SVG}circle")
    highest = -optimize.minimize_scalar(lambda x: -evidence(x), (0, 0.3, 1), tol=1e-8).fun
    # p(x) goes to the right from 268, and its highest value to 324; 216 pixels are x's range.
    assert float(dot.get("cx")) == pytest.approx(268 + 56 * evidence(1.0) / highest, abs=0.1)
    assert float(dot.get("cy")) == pytest.approx(256 - 216 * (1.0 + 0.9) / 5.4, abs=0.01)


@pytest.mark.parametrize("x", [1.0, 2.5])
def test_the_curve_of_the_posterior_has_the_two_unequal_peaks_of_bayes_rule(x):
    _, panel = figure(drawings_1.one_hidden_number(x)).iter(f"{SVG}svg")
    (curve,) = (
        points(path.get("d"))
        for path in panel.iter(f"{SVG}path")
        if path.get("stroke") == "var(--green)"
    )
    z = (curve[:, 0] - 96) / 222 * 6 - 3
    heights = 350 - curve[:, 1]
    expected = joint(z, x)
    np.testing.assert_allclose(heights / heights.max(), expected / expected.max(), atol=2e-3)
    # Two peaks, and the one that the prior prefers is higher.
    right = heights[z > -0.25].max()
    assert 0.1 * right < heights[z < -0.25].max() < 0.9 * right


def test_the_bell_has_the_best_elbo_of_all_bells():
    def negative_elbo(q):
        mu, sigma = q[0], math.exp(q[1])
        z = np.linspace(mu - 8 * sigma, mu + 8 * sigma, 2001)
        gain = norm.logpdf(z) + norm.logpdf(1.0, (z + 0.25) ** 2 / 2, 0.3)
        gain -= norm.logpdf(z, mu, sigma)
        return -integrate.trapezoid(norm.pdf(z, mu, sigma) * gain, z)

    mean, stddev = drawings_1.best_q(1.0)
    starts = [(m, math.log(s)) for m in (-1.7, 0.0, 1.2) for s in (0.2, 1.0)]
    best = min(
        (optimize.minimize(negative_elbo, s, tol=1e-10) for s in starts), key=lambda r: r.fun
    )
    assert mean == pytest.approx(best.x[0], abs=2e-3)
    assert stddev == pytest.approx(math.exp(best.x[1]), abs=2e-3)


def draws_that_count(panel: ElementTree.Element) -> float:
    """The number in the last line of a panel."""
    (sentence,) = (said(t) for t in panel.iter(f"{SVG}text") if "count as" in said(t))
    return float(sentence.split()[-1])


@pytest.mark.parametrize("seed", [0, 3])
def test_dots_have_the_areas_of_their_weights_and_the_numbers_follow_from_them(seed):
    panels = figure(drawings_1.averaging_and_aiming(2.5, seed=seed)).iter(f"{SVG}svg")
    effective = []
    for panel, aimed in zip(panels, (False, True), strict=True):
        dots = [{k: float(c.get(k)) for k in ("cx", "r")} for c in panel.iter(f"{SVG}circle")]
        assert len(dots) == 24
        z = np.array([(dot["cx"] - 34) / 284 * 6 - 3 for dot in dots])
        proposal = drawings_1.near_the_posterior(2.5) if aimed else one_number.PRIOR
        weight = joint(z, 2.5) / proposal.log_prob(torch.from_numpy(z)).exp().numpy()
        share = weight / weight.sum()
        radii = np.maximum(20 * np.sqrt(share), 1.6)
        np.testing.assert_allclose([dot["r"] for dot in dots], radii, rtol=0.01, atol=0.1)
        effective.append(draws_that_count(panel))
        assert effective[-1] == pytest.approx(1 / np.square(share).sum(), abs=0.15)
    assert effective[0] < 6 < 18 < effective[1]


def test_the_proposal_is_a_density_near_the_posterior():
    near = drawings_1.near_the_posterior(2.5)
    z = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    density = near.log_prob(z).exp().numpy()
    assert integrate.trapezoid(density, z) == pytest.approx(1, abs=1e-6)
    posterior = joint(z.numpy(), 2.5) / evidence(2.5)
    # Mean and mass of each side are those of the posterior; it is a little wider.
    for side in (z.numpy() > -0.25, z.numpy() <= -0.25):
        mass, expected = (integrate.trapezoid(p * side, z) for p in (density, posterior))
        assert mass == pytest.approx(expected, abs=2e-3)
        mean, expected = (
            integrate.trapezoid(p * side * z.numpy(), z) / mass for p in (density, posterior)
        )
        assert mean == pytest.approx(expected, abs=1e-2)
    assert integrate.trapezoid(np.minimum(density, posterior), z) > 0.85


def test_the_bars_are_bounds_and_both_ways_lead_up():
    now, better_q, better_model = drawings_1.NOW, drawings_1.BETTER_Q, drawings_1.BETTER_MODEL
    for bound in (now, better_q, better_model):
        assert bound.elbo == -(bound.distortion + bound.rate) < bound.log_px
    assert better_q.log_px == now.log_px < better_model.log_px
    assert now.elbo < better_q.elbo < better_model.elbo


def test_the_image_that_comes_out_is_the_one_that_is_given():
    page = figure(drawings_1.encoder_code_decoder(DIGIT, 1 - DIGIT))
    shown = [image.get("href") for image in page.iter(f"{SVG}image")]
    assert shown == [address_of(DIGIT), address_of(1 - DIGIT)] * 2  # wide and narrow
    with pytest.raises(ValueError, match="expected an image"):
        drawings_1.encoder_code_decoder(DIGIT[None], DIGIT)


# What a browser makes of them

SHELL = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title></head>'
BODY = f'{SHELL}<body style="margin: 0; width: WIDTHpx; font: 16px sans-serif">'
BOXES = """() => [...document.querySelectorAll("svg")].filter(e => e.getClientRects().length).map(
  svg => {
    const box = e => { const b = e.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]; };
    return [svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
      svg.viewBox.baseVal.width, svg.viewBox.baseVal.height,
      [...svg.querySelectorAll("text")].map(e => [e.textContent, ...box(e)])];
  })"""


@pytest.mark.parametrize("width", [WHOLE, 342])
def test_no_text_runs_into_another_or_out_of_its_drawing(browser, drawn, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_content(BODY.replace("WIDTH", str(width)) + drawn.page)
    panels = page.evaluate(BOXES)
    assert len(panels) in (1, 2, 3)
    for scale, across, down, texts in panels:
        assert scale == 1  # a letter is as large as it says
        for i, (text, left, top, right, bottom) in enumerate(texts):
            assert left > -1, text
            assert top > -1, text
            assert right < across + 1, text
            assert bottom < down + 1, text
            for other, x0, y0, x1, y1 in texts[:i]:
                beside = x0 >= right - 1 or left >= x1 - 1
                above = y0 >= bottom - 5 or top >= y1 - 5  # there is air in the box of a letter
                assert beside or above, f"{text!r} runs into {other!r}"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
