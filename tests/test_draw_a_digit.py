"""The figure is read as a page, and played with in a browser; vaelib is the truth for its model."""

import base64
import json
import re
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaelib import VAE, Bernoulli, Gaussian, MLPDecoder, MLPEncoder
from vaelib.course import lesson_1
from vaelib.course.labs.draw_a_digit import draw_a_digit
from vaelib.course.labs.live import LiveFigure
from vaelib.data import DataError, load, to_float
from vaelib.networks import ConvEncoder

ORIGINS = re.compile(r"https?://(?!www\.w3\.org/2000/svg)")
N_TRIED, N_BEHIND = 200, 2000


def small_vae(*, seed: int = 0, scale: str = "capped", **options) -> VAE:
    """A VAE that was never trained; larger weights make its answers differ from one another."""
    options = {"latent_dim": 2, "activation": nn.SiLU, "seed": seed} | options
    vae = VAE(
        encoder=MLPEncoder(hidden=(24, 16), **options),
        decoder=MLPDecoder(hidden=(16, 24), **options),
        likelihood=Bernoulli(grey=True),
        scale=scale,
    )
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in vae.parameters():
            weights.mul_(2).add_(0.1 * torch.randn(weights.shape, generator=rng))
        # A posterior is small beside the plane.
        vae.encoder.layers[-1].bias[2:] -= 3
    return vae.eval()


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    test = load("digits").test
    return to_float(test.images).view(-1, 1, 28, 28), test.labels


@pytest.fixture(scope="module")
def mnist() -> tuple[VAE, Tensor, Tensor]:
    """The published model, and the first images of the test set with their labels."""
    try:
        test = load("mnist", download=False).test
    except DataError as missing:
        pytest.skip(str(missing))
    vae = lesson_1.two_dimensional_vae()
    vae.load_state_dict(lesson_1.RUNS.weights("two-dimensional-vae"))
    x = to_float(test.images[:N_BEHIND]).view(-1, 1, 28, 28)
    return vae.eval(), x, test.labels[:N_BEHIND]


def examples_of(x: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([x[labels == digit][0] for digit in range(10)])


def figure_of(vae: VAE, x: Tensor, labels: Tensor, **options) -> LiveFigure:
    options = {"caption": "A caption."} | options
    return draw_a_digit(vae, x, labels, examples_of(x, labels), **options)


@pytest.fixture(scope="module")
def figure(digits) -> LiveFigure:
    return figure_of(small_vae(), *digits)


@pytest.fixture(scope="module")
def published(mnist) -> LiveFigure:
    return figure_of(*mnist)


def data_of(figure: LiveFigure) -> dict:
    return json.loads(re.search(r'application/json">(.*?)</script>', figure.page, re.DOTALL)[1])


# What the page holds


def array(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def weights_of(layer: dict) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias, from one long whole number that holds the bits of all weights."""
    bits = layer["bits"]
    bias, scale = array(layer["bias"], "<f4"), array(layer["scale"], "<f4")
    packed = base64.b64decode(layer["weights"])
    ones = f"{int.from_bytes(packed, 'little'):0{8 * len(packed)}b}"[::-1]
    whole = [int(ones[i : i + bits][::-1], 2) for i in range(0, len(ones) - bits + 1, bits)]
    most = 2 ** (bits - 1) - 1
    return (np.array(whole).reshape(len(bias), -1) - most) * scale[:, None], bias


def test_the_weights_of_the_page_are_those_of_the_model_up_to_half_a_step(figure):
    vae, data = small_vae(), data_of(figure)
    for network, layers in ((vae.encoder, data["encoder"]), (vae.decoder, data["decoder"])):
        linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
        for layer, stored in zip(linear, layers, strict=True):
            weight, bias = weights_of(stored)
            exact = layer.weight.detach().numpy()
            step = np.abs(exact).max(1, keepdims=True) / (2 ** (stored["bits"] - 1) - 1)
            assert (np.abs(weight - exact) <= 0.501 * step).all()
            assert (bias == layer.bias.detach().numpy()).all()


def test_the_published_figure_is_light(published):
    assert len(published.page.encode()) <= 1_500_000


def test_the_page_asks_no_other_host_for_anything(figure):
    assert not ORIGINS.search(figure.page)
    assert "@import" not in figure.page
    assert "url(" not in figure.page


def test_the_examples_are_the_images_themselves(figure, digits):
    stored = [array(text, np.uint8) for text in data_of(figure)["examples"]]
    exact = (255 * examples_of(*digits)).round().byte().flatten(1).numpy()
    assert (np.stack(stored) == exact).all()


def test_every_control_has_a_name(figure):
    page = figure.page
    assert page.count('type="radio"') == page.count('alt="example ') == 10
    assert page.count('type="range"') == 2
    for canvas in re.findall(r"<canvas[^>]*>", page):
        assert "aria-label=" in canvas and 'role="img"' in canvas


def places_of_digits(figure: LiveFigure) -> dict[str, np.ndarray]:
    label = re.compile(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*class="halo"><tspan>(\d)<')
    return {digit: np.array([float(x), float(y)]) for x, y, digit in label.findall(figure.page)}


def test_every_class_is_written_on_the_plane(figure):
    assert sorted(places_of_digits(figure)) == list("0123456789")


def test_no_two_classes_of_the_published_plane_are_written_over_each_other(published):
    places = places_of_digits(published).values()
    assert min(np.hypot(*(a - b)) for a, b in combinations(places, 2)) > 14


def test_every_digit_of_the_published_plane_stands_among_its_class(published, mnist):
    vae, x, labels = mnist
    data, places = data_of(published), places_of_digits(published)
    z = vae.embed(x)
    for digit, (across, down) in places.items():
        # The text hangs a third of its size, 15, below its middle.
        middle = (across - data["left"], data["side"] - (down - 0.34 * 15))
        code = torch.tensor(middle) / data["side"] * 2 * data["limit"] - data["limit"]
        nearest = (z - code).norm(dim=1).topk(20, largest=False).indices
        assert (labels[nearest] == int(digit)).float().mean() >= 0.25


@pytest.fixture(scope="module")
def wrong(digits):
    """What is wrong with the arguments -> arguments, and what the error says."""
    x, labels = digits
    few = torch.ones_like(labels)
    few[0] = 3
    gauss = small_vae()
    gauss.likelihood = Gaussian()
    binary = small_vae()
    binary.likelihood = Bernoulli()
    conv = VAE(
        encoder=ConvEncoder(latent_dim=2),
        decoder=MLPDecoder(latent_dim=2),
        likelihood=Bernoulli(grey=True),
    )
    good = (small_vae(), x, labels, x[:3])
    return {
        "three dimensions": ((small_vae(latent_dim=3), *good[1:]), "3 latent dimensions"),
        "small images": (
            (small_vae(image_shape=(1, 8, 8)), x[..., :8, :8], labels, x[:3, :, :8, :8]),
            r"images \(1, 8, 8\); expected 2 and",
        ),
        "convolutions": ((conv, *good[1:]), "a ConvEncoder and a MLPDecoder"),
        "a Gaussian": ((gauss, *good[1:]), "expected Bernoulli"),
        "a binary Bernoulli": ((binary, *good[1:]), r"expected Bernoulli\(grey=True\)"),
        "softplus": ((small_vae(scale="softplus"), *good[1:]), "scale is 'softplus'"),
        "tanh": ((small_vae(activation=nn.Tanh), *good[1:]), "activation is Tanh"),
        "flat images": ((good[0], x.flatten(1), labels, x[:3]), r"images have shape \[500, 784\]"),
        "flat examples": ((*good[:3], x[:3].flatten(1)), "examples have shape"),
        "no example": ((*good[:3], x[:0]), "no image"),
        "values": ((*good[:3], 2 * x[:3]), r"needs \[0, 1\]"),
        "labels": ((good[0], x, labels[1:], x[:3]), "one digit from 0 to 9 for each"),
        "letters": ((good[0], x, labels + 1, x[:3]), "one digit from 0 to 9 for each"),
        "a rare class": ((good[0], x, few, x[:3]), "1 images of a 3; expected 5 or more"),
    }


@pytest.mark.parametrize(
    "case",
    ["three dimensions", "small images", "convolutions", "a Gaussian", "a binary Bernoulli",
     "softplus", "tanh", "flat images", "flat examples", "no example", "values", "labels",
     "letters", "a rare class"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(wrong, case):
    arguments, message = wrong[case]
    with pytest.raises(ValueError, match=message):
        draw_a_digit(*arguments, caption="A caption.")


# What the page does


@pytest.fixture
def visit(open_page):
    def go(figure: LiveFigure, *, width: int = 1280, **settings):
        return open_page(
            figure, column="688px", viewport={"width": width, "height": 900}, **settings
        )

    return go


ANSWER = """pixels => {
  const { encode, decode, score } = document.querySelector(".live-figure").model;
  const q = encode(Float64Array.from(pixels));
  return { ...q, ...score(pixels, q), decoded: Array.from(decode(q.mu)) };
}"""


@torch.no_grad()
def expected(vae: VAE, x: Tensor) -> dict[str, np.ndarray]:
    """vaelib's answer; the distortion is a mean over 256 draws and their mirror images."""
    q = vae.encode(x)
    half = torch.randn(256, len(x), 2, generator=torch.Generator().manual_seed(0))
    noise = torch.cat((half, -half))
    parts = [-vae.decode(q.reparameterize(part)).log_prob(x) for part in noise.split(16)]
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(q.mu, q.stddev)
    answer = {
        "mu": q.mu,
        "sigma": q.stddev,
        "decoded": vae.decode(q.mu).mean.flatten(1),
        "rate": torch.distributions.kl_divergence(posterior, prior).sum(1),
        "distortion": torch.cat(parts).mean(0),
    }
    return {name: value.numpy() for name, value in answer.items()}


def differences(page, vae: VAE, x: Tensor) -> dict[str, np.ndarray]:
    found = [page.evaluate(ANSWER, image) for image in x.flatten(1).tolist()]
    truth = expected(vae, x)
    return {key: np.array([f[key] for f in found]) - value for key, value in truth.items()}


@pytest.mark.parametrize(("activation", "scale"), [(nn.SiLU, "capped"), (nn.ReLU, "exp")])
def test_the_page_computes_what_vaelib_computes(visit, digits, activation, scale):
    vae = small_vae(activation=activation, scale=scale)
    with torch.no_grad():
        vae.encoder.layers[-1].bias[3] = 2.5  # above the cap, for some images
        vae.encoder.layers[-1].weight[3] *= 0.2
    off = differences(visit(figure_of(vae, *digits)), vae, digits[0][:20])
    for name in ("mu", "sigma", "decoded"):
        assert np.abs(off[name]).max() < 0.01
    assert np.abs(off["rate"]).max() < 0.05


def test_the_published_model_survives_the_way_into_the_page(visit, published, mnist):
    vae, x, _ = mnist
    off = differences(visit(published), vae, x[:N_TRIED])
    for name in ("mu", "sigma", "decoded"):
        assert np.abs(off[name]).max() <= 0.01
    loss = np.abs(off["rate"] + off["distortion"])
    assert loss.mean() <= 1


def pad_of(page) -> dict[str, float]:
    pad = page.locator(".draw-pad canvas")
    pad.scroll_into_view_if_needed()
    return pad.bounding_box()


def draw(page, box: dict[str, float], strokes: list[np.ndarray]) -> None:
    """Draw strokes of points (x, y) in [0, 1] with the mouse."""
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()


def picture(page) -> np.ndarray:
    code = "Array.from(document.querySelector('.live-figure').model.picture())"
    return np.array(page.evaluate(code)).reshape(28, 28)


def test_a_drawing_is_prepared_as_mnist_was_wherever_it_is_drawn(visit, figure):
    page = visit(figure)
    box = pad_of(page)
    stroke = np.array([(0.0, 0.0), (0.5, 0.1), (0.3, 0.5), (0.1, 1.0)])
    pictures = []
    for place, size in ((0.1, 0.8), (0.5, 0.4)):
        page.get_by_role("button", name="Clear").click()
        draw(page, box, [place + size * stroke])
        pictures.append(picture(page))
    assert np.abs(pictures[0] - pictures[1]).max() < 0.2  # a mouse has whole pixels
    for ink in pictures:
        rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
        assert rows[-1] - rows[0] + 1 == 20
        assert columns[-1] - columns[0] + 1 <= 20
        # As in MNIST the centre of mass is that of the pixel 14, up to half a pixel.
        assert abs((ink.sum(1) @ np.arange(28)) / ink.sum() - 14) <= 0.51
        assert abs((ink.sum(0) @ np.arange(28)) / ink.sum() - 14) <= 0.51
        assert ink.min() == 0 and 0.95 < ink.max() <= 1
        assert ((ink > 0) & (ink < 1)).any()  # soft edges


def test_a_tap_is_a_dot(visit, figure):
    page = visit(figure)
    page.get_by_role("button", name="Clear").click()
    draw(page, pad_of(page), [np.array([(0.2, 0.7)])])
    ink = picture(page)
    assert 2 < ink.sum() < 9  # a round dot of the pen's width
    assert ink[13:16, 13:16].sum() == pytest.approx(ink.sum(), rel=0.3)


NEAR = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]  # clockwise


def thinned(ink: np.ndarray) -> np.ndarray:
    """The skeleton of a shape, by Zhang and Suen (1984)."""
    ink = np.pad(ink, 1).astype(int)
    while True:
        before = ink
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            ring = np.stack([np.roll(ink, (-dy, -dx), (0, 1)) for dy, dx in NEAR])
            turns = ((ring == 0) & (np.roll(ring, -1, 0) == 1)).sum(0)
            edge = (ring[list(first)].prod(0) == 0) & (ring[list(second)].prod(0) == 0)
            ink = ink * ~(edge & (turns == 1) & (ring.sum(0) >= 2) & (ring.sum(0) <= 6))
        if (ink == before).all():
            return ink[1:-1, 1:-1].astype(bool)


def traced(skeleton: np.ndarray) -> list[np.ndarray]:
    """Paths [n, 2] of (row, column) that walk every edge between neighbours once."""
    pixels = {tuple(p) for p in np.argwhere(skeleton).tolist()}
    edges = {
        (y, x): {
            (y + dy, x + dx)
            for dy, dx in NEAR
            if (y + dy, x + dx) in pixels
            # A corner is walked along its sides.
            and not (dy and dx and {(y, x + dx), (y + dy, x)} & pixels)
        }
        for y, x in pixels
    }
    paths = [[pixel] for pixel, neighbours in edges.items() if not neighbours]
    while left := [pixel for pixel, neighbours in edges.items() if neighbours]:
        # From a loose end or a crossing; anywhere on what is a ring.
        path = [min(left, key=lambda p: (len(edges[p]) % 2 == 0, p))]
        while choices := edges[path[-1]]:
            here, back = np.array(path[-1]), np.array(path[-2:][0])
            ahead = max(sorted(choices), key=lambda p: float((np.array(p) - here) @ (here - back)))
            choices.remove(ahead)
            edges[ahead].remove(path[-1])
            path.append(ahead)
        paths.append(path)
    return [np.array(path, float) for path in paths]


def simplified(path: np.ndarray, *, tolerance: float = 1.0) -> np.ndarray:
    """The same path with fewer points, by Douglas and Peucker (1973)."""
    if len(path) < 3:
        return path
    along, off = path[-1] - path[0], path - path[0]
    length = np.hypot(*along)
    across = np.abs(off[:, 0] * along[1] - off[:, 1] * along[0])
    distance = across / length if length else np.hypot(*off.T)
    k = int(distance.argmax())
    if distance[k] <= tolerance:
        return path[[0, -1]]
    return np.concatenate((simplified(path[: k + 1])[:-1], simplified(path[k:])))


def test_strokes_run_through_all_pixels_of_a_skeleton():
    cross = np.zeros((9, 9), bool)
    cross[4, 1:8] = cross[1:8, 4] = True
    paths = traced(thinned(cross))
    assert {tuple(p) for path in paths for p in path} == {tuple(p) for p in np.argwhere(cross)}
    steps = [np.abs(b - a).max() for path in paths for a, b in pairwise(path)]
    assert steps == [1] * 12


def strokes_of(image: Tensor, rng: np.random.Generator) -> list[np.ndarray]:
    """Strokes (x, y) in [0, 1] that redraw an image in another size and place."""
    paths = [simplified(path)[:, ::-1] for path in traced(thinned(image[0].numpy() > 0.5))]
    corner = np.concatenate(paths).min(0)
    size = rng.uniform(0.4, 0.9) / 20  # a digit is 20 pixels long
    return [0.04 + (path - corner) * size for path in paths]


def majority(codes: Tensor, behind: Tensor, labels: Tensor, *, k: int = 15) -> Tensor:
    """The commonest label among the k nearest codes of other images."""
    distance = torch.cdist(codes, behind)
    distance.fill_diagonal_(torch.inf)
    nearest = labels[distance.topk(k, largest=False).indices]
    return nn.functional.one_hot(nearest, 10).sum(1).argmax(1)


TAKE = """() => {
  const figure = document.querySelector(".live-figure");
  const { mu } = figure.model.encode(figure.model.picture());
  figure.querySelector(".draw-choices button").click(); // clears the pad
  return mu;
}"""


def test_drawn_digits_land_among_their_class_as_often_as_the_images_do(visit, published, mnist):
    vae, x, labels = mnist
    page, rng = visit(published), np.random.default_rng(0)
    page.get_by_role("button", name="Clear").click()
    box, codes = pad_of(page), []
    for image in x[:N_TRIED]:
        draw(page, box, strokes_of(image, rng))
        codes.append(page.evaluate(TAKE))
    behind = vae.embed(x)
    drawn, images = (
        (majority(z, behind, labels) == labels[:N_TRIED]).float().mean().item()
        for z in (torch.tensor(codes), behind[:N_TRIED])
    )
    assert abs(drawn - images) <= 0.05, (drawn, images)


def tab_to(page, selector: str) -> None:
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"the Tab key does not reach {selector}")


def test_the_keyboard_reaches_and_uses_everything(visit, figure):
    page = visit(figure)
    text = {name: page.locator(f".draw-{name}") for name in ("mu", "z1", "z2", "said")}
    before = text["mu"].text_content()
    tab_to(page, "input[type='radio']")
    page.keyboard.press("ArrowRight")
    assert text["mu"].text_content() != before
    said = text["said"].text_content()
    assert re.fullmatch(
        r"Code \(−?\d\.\d\d, −?\d\.\d\d\)\. Rate \d+\.\d, distortion \d+\.\d, −ELBO \d+\.\d nats\.",
        said,
    )
    for name in ("z1", "z2"):
        tab_to(page, "input[type='range']")
        shown = page.locator(".draw-pictures canvas").nth(2).evaluate("c => c.toDataURL()")
        page.keyboard.press("ArrowRight")
        assert text[name].text_content() == "0.05"
        canvas = page.locator(".draw-pictures canvas").nth(2)
        assert canvas.evaluate("c => c.toDataURL()") != shown
    tab_to(page, "button")
    page.keyboard.press("Enter")
    assert page.locator(".draw-dots circle").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".draw-dots circle").count() == 2
    assert text["said"].text_content() == said


def test_an_empty_pad_has_no_numbers_and_no_ellipse(visit, figure):
    page = visit(figure)
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".draw-said").text_content() == "The pad is empty."
    assert page.locator(".draw-loss").text_content() == "–"
    assert not page.locator(".draw-ring").is_visible()
    assert page.get_by_role("button", name="from the ellipse").is_disabled()
    assert page.locator("input:checked").count() == 0
    draw(page, pad_of(page), [np.array([(0.3, 0.3), (0.7, 0.7)])])
    assert page.locator(".draw-ring").is_visible()
    assert page.get_by_role("button", name="from the ellipse").is_enabled()


def test_a_pointer_on_the_plane_decodes_where_it_is(visit, figure):
    page = visit(figure)
    plane, data = page.locator(".draw-stage svg").bounding_box(), data_of(figure)
    unit = plane["width"] / (data["left"] + data["side"])
    middle = (data["left"] + data["side"] / 2, data["side"] / 2)
    step = data["side"] / (2 * data["limit"])
    page.mouse.move(
        plane["x"] + unit * (middle[0] + step), plane["y"] + unit * (middle[1] - step / 2)
    )
    page.wait_for_function("document.querySelector('.draw-z1').textContent !== '0.00'")
    assert float(page.locator(".draw-z1").text_content()) == pytest.approx(1, abs=0.03)
    assert float(page.locator(".draw-z2").text_content()) == pytest.approx(0.5, abs=0.03)
    assert float(page.locator("input[type='range']").first.input_value()) == pytest.approx(1)


def test_a_finger_draws_and_does_not_scroll_the_page(visit, figure):
    page = visit(figure, width=390, has_touch=True, is_mobile=True)
    page.get_by_role("button", name="Clear").tap()
    box = pad_of(page)
    session = page.context.new_cdp_session(page)
    at = box["y"] + 0.8 * box["height"]
    for kind, y in (("touchStart", at), ("touchMove", at - 40), ("touchMove", at - 120)):
        point = {"x": box["x"] + 0.5 * box["width"], "y": y}
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("document.querySelector('.draw-said').textContent.startsWith('Code')")
    ink = picture(page)
    assert ink.any(1).sum() == 20 and ink.any(0).sum() <= 4  # a line from below to above
    assert pad_of(page) == box


@pytest.mark.parametrize("javascript", [True, False])
def test_nothing_is_wider_than_a_phone(visit, figure, javascript):
    page = visit(figure, width=390, java_script_enabled=javascript)
    right = "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
    assert page.locator(".live-figure, .live-figure *").evaluate_all(right) <= 390


def test_the_figure_is_not_higher_than_a_screen(visit, figure):
    assert visit(figure).locator(".draw-parts").bounding_box()["height"] <= 520


def test_without_scripts_a_still_shows_the_first_example(visit, figure, digits):
    page = visit(figure, java_script_enabled=False)
    pictures = page.locator("img.without-script")
    assert pictures.count() == 2
    for img in pictures.all():
        assert img.is_visible() and img.bounding_box()["width"] > 80
    assert page.locator(".draw-stage svg").is_visible()
    for control in page.locator("canvas, button, input").all():
        assert not control.is_visible()
    vae, x = small_vae(), examples_of(*digits)[:1]
    truth = expected(vae, x)
    loss = float(page.locator(".draw-loss").text_content())
    assert loss == pytest.approx(truth["rate"][0] + truth["distortion"][0], abs=0.5)
