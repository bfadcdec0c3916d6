"""Which pictures count as ink on paper: drawn here as chapters draw them."""

import base64
import io

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from book.layout import CHECKOUT
from book.pictures import MOST_INK, is_ink, mark_ink
from vaelib import plotting


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def paper(black: float = 0.0, *, colour: int = 0) -> str:
    """Return a white picture with this share of dark rows."""
    pixels = np.full((1000, 20, 3), 255, np.uint8)
    pixels[: round(1000 * black)] = colour
    return png(pixels)


def drawn(figure: plt.Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plotting.use_style()
        yield


def digits(n: int) -> torch.Tensor:
    """Return images that are black but for a bright square in the middle, as digits are."""
    images = torch.zeros(n, 1, 28, 28)
    images[..., 8:20, 9:19] = 0.9
    return images


@pytest.mark.parametrize(
    ("black", "ink"), [(0.0, True), (MOST_INK, True), (MOST_INK + 0.001, False), (1.0, False)]
)
def test_a_picture_of_little_black_is_ink(black, ink):
    assert is_ink(paper(black)) is ink


def test_dark_colours_are_not_black():
    assert is_ink(paper(0.5, colour=60))
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[..., 2] = 160  # blue
    assert is_ink(png(pixels))


def test_what_is_transparent_is_not_paper():
    pixels = np.full((10, 10, 4), 255, np.uint8)
    assert is_ink(png(pixels))
    pixels[..., 3] = 0
    assert not is_ink(png(pixels))


def test_grey_pictures_and_palettes_are_read():
    assert is_ink(png(np.full((5, 5), 255, np.uint8)))
    assert not is_ink(png(np.zeros((5, 5), np.uint8)))


def test_a_plot_is_ink():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    ax.set(title="a title", xlabel="x", ylabel="y")
    assert is_ink(drawn(figure))
    assert is_ink(
        drawn(plotting.latent_classes(torch.randn(900, 2), torch.arange(900) % 10).figure)
    )


def test_a_grid_of_digits_is_not():
    assert not is_ink(drawn(plotting.show_images(digits(30)).figure))


def test_digits_beside_a_plot_are_not():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    left.plot([0, 1], [0, 1])
    plotting.show_images(digits(25), columns=5, ax=right)
    assert not is_ink(drawn(figure))


def shown(*pictures: str, **metadata) -> nbformat.NotebookNode:
    outputs = [new_output("display_data", {"image/png": picture}) for picture in pictures]
    return new_code_cell("show()", outputs=outputs, metadata=metadata)


def classes(cell: nbformat.NotebookNode) -> str | None:
    return cell.metadata.get("mystnb", {}).get("image", {}).get("classes")


def test_cells_of_ink_are_named_and_others_are_not():
    ink, photograph = paper(), paper(0.5)
    text = new_code_cell("1", outputs=[new_output("display_data", {"text/plain": "1"})])
    cells = [shown(ink), shown(photograph), shown(ink, ink), shown(ink, photograph), shown(), text,
             new_markdown_cell("text")]  # fmt: skip
    mark_ink(new_notebook(cells=cells))
    assert [classes(cell) for cell in cells] == ["ink", None, "ink", None, None, None, None]


def test_what_a_cell_says_of_its_picture_stays():
    image = {"alt": "What it shows.", "classes": "wide"}
    cell = shown(paper(), mystnb={"image": image, "figure": {"caption": "c"}}, tags=["hide-input"])
    mark_ink(new_notebook(cells=[cell]))
    assert cell.metadata == {
        "mystnb": {
            "image": {"alt": "What it shows.", "classes": "wide ink"},
            "figure": {"caption": "c"},
        },
        "tags": ["hide-input"],
    }


def test_the_pictures_of_the_chapters_lie_far_from_the_border():
    # A picture near it would be turned over after one run and not after the next.
    for path in CHECKOUT.chapters():
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if picture := output.get("data", {}).get("image/png"):
                    pixels = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA")
                    pixels = np.asarray(pixels)
                    black = (pixels[..., :3].max(-1) < 48) | (pixels[..., 3] == 0)
                    assert not 0.03 < black.mean() < 0.07, (path.stem, cell.source)
