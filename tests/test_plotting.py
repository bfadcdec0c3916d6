import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from scipy import stats
from torch import nn

from vaelib import VAE, Gaussian, MLPEncoder, plotting
from vaelib.evaluation import Report
from vaelib.training import History


@pytest.fixture(autouse=True)
def no_figures_left():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def canvas(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def positions(dots) -> np.ndarray:
    return np.asarray(dots.get_offsets())


class PaintsItsCode(nn.Module):
    """A decoder of images of two pixels, which show the latent vector."""

    latent_dim, image_shape = 2, (1, 1, 2)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z[..., None, None, :]


@pytest.fixture
def painter() -> VAE:
    encoder = MLPEncoder(latent_dim=2, hidden=(), image_shape=(1, 1, 2))
    return VAE(encoder=encoder, decoder=PaintsItsCode(), likelihood=Gaussian())


def history(epochs: list[int]) -> History:
    train = [Report(100.0 - e, 5.0 + e / 2, 0.1, 10) for e in epochs]
    test = [Report(110.0 - e, 6.0 + e / 3, 0.1, 10) for e in epochs]
    return History(epochs=epochs, train=train, test=test)


DRAWINGS = {
    "show_images": lambda ax: plotting.show_images(torch.zeros(4, 1, 2, 2), ax=ax),
    "latent_classes": lambda ax: plotting.latent_classes(torch.randn(5, 2), torch.arange(5), ax=ax),
    "latent_values": lambda ax: plotting.latent_values(torch.randn(5, 2), torch.rand(5), ax=ax),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_goes_into_the_axes_that_are_given(draw, ax):
    assert draw(ax) is ax
    assert plt.get_fignums() == [ax.figure.number]
    assert ax.has_data()


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_figure_makes_axes_if_none_are_given(draw):
    assert draw(None).has_data()
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize(("n", "columns", "rows"), [(6, 3, 2), (7, 3, 3), (1, 1, 1), (4, 10, 1)])
def test_image_k_is_at_row_and_column_of_k(n, columns, rows, ax):
    images = torch.rand(n, 1, 2, 3)
    plotting.show_images(images, columns=columns, ax=ax)
    picture = canvas(ax)
    assert picture.shape == (rows * 2, columns * 3)
    for k in range(n):
        row, column = divmod(k, columns)
        tile = picture[row * 2 : row * 2 + 2, column * 3 : column * 3 + 3]
        np.testing.assert_array_equal(tile, images[k, 0])


def test_all_images_share_the_grey_scale_from_0_to_1(ax):
    plotting.show_images(torch.full((2, 1, 2, 2), 0.4), ax=ax)
    (picture,) = ax.images
    assert picture.get_clim() == (0, 1)
    assert picture.cmap(0.0)[:3] == (0, 0, 0)
    assert picture.cmap(1.0)[:3] == (1, 1, 1)
    assert ax.yaxis_inverted()  # the first row is on top


def test_row_labels_stand_at_the_middle_of_their_rows(ax):
    plotting.show_images(torch.rand(6, 1, 4, 4), columns=3, row_labels=("a", "b"), ax=ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    np.testing.assert_allclose(ax.get_yticks(), [1.5, 5.5], atol=0.5)
    assert len(ax.get_xticks()) == 0


def contrast(one: str, other: str) -> float:
    """The contrast of two grey colours, by WCAG 2."""
    low, high = sorted(((to_rgb(c)[0] + 0.055) / 1.055) ** 2.4 for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_what_is_written_beside_images_can_be_read_on_a_light_and_on_a_dark_page():
    # No grey reaches 4.5 on both: sqrt(21 / 1.12) is 4.33.
    assert contrast(plotting.GREY, "#ffffff") > 4.2
    assert contrast(plotting.GREY, "#121212") > 4.2
    ax = plotting.show_images(torch.rand(4, 1, 2, 2), columns=2, row_labels=("a", "b"))
    ax.set(title="t", xlabel="x", ylabel="y")
    labels = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_yticklabels()]
    assert len(labels) == 5
    assert {text.get_color() for text in labels} == {plotting.GREY}


def test_the_axes_of_the_manifold_can_be_read_there_as_well(painter):
    ax = plotting.manifold(painter, side=3)
    labels = [ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels(), *ax.get_yticklabels()]
    assert {text.get_color() for text in labels} == {plotting.GREY}


def saved(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGBA"))


def paper(ax) -> int:
    """How opaque the corner of a figure is, of 255."""
    return saved(ax.figure)[0, 0, 3].item()


def test_a_figure_of_one_grid_of_images_has_no_paper():
    with matplotlib.rc_context():
        plotting.use_style()
        assert paper(plotting.show_images(torch.rand(3, 1, 2, 2))) == 0
        beside = plt.subplots(1, 2)[1]
        plotting.show_images(torch.rand(3, 1, 2, 2), ax=beside[1])
        assert paper(beside[1]) == 255  # what else is in it may need it


def test_images_of_the_graph_can_be_shown(ax):
    plotting.show_images(torch.rand(2, 1, 2, 2, requires_grad=True), ax=ax)
    assert canvas(ax).shape == (2, 20)


def test_classes_are_dots_in_the_colour_of_their_class(ax):
    z, labels = torch.randn(12, 2), torch.arange(12) % 10
    plotting.latent_classes(z, labels, ax=ax)
    (dots,) = ax.collections
    np.testing.assert_allclose(positions(dots), z)
    ax.figure.canvas.draw()
    colours = [to_hex(c) for c in dots.get_facecolors()]
    assert colours == [plotting.CLASS_COLOURS[k] for k in labels.tolist()]


def test_colours_do_not_depend_on_which_classes_are_there(ax):
    plotting.latent_classes(torch.randn(4, 2), torch.tensor([3, 7, 7, 3]), ax=ax)
    ax.figure.canvas.draw()
    colours = [to_hex(c) for c in ax.collections[0].get_facecolors()]
    assert colours == [plotting.CLASS_COLOURS[k] for k in (3, 7, 7, 3)]


@pytest.mark.parametrize(
    ("names", "expected"), [(None, ["1", "2"]), (("zero", "one", "two"), ["one", "two"])]
)
def test_classes_are_named_where_they_are_densest(ax, names, expected):
    # Each class has a dense island and a looser one with more codes; its median is in neither.
    rng = torch.Generator().manual_seed(0)
    dense = {1: torch.tensor([-3.0, 2.0]), 2: torch.tensor([3.0, -2.0])}
    z = torch.cat(
        [
            part
            for k in (1, 2)
            for part in (
                dense[k] + 0.05 * torch.randn(40, 2, generator=rng),
                -dense[k] + 1.5 * torch.randn(50, 2, generator=rng),
            )
        ]
    )
    labels = torch.tensor([1] * 90 + [2] * 90)
    plotting.latent_classes(z, labels, names=names, ax=ax)
    assert [text.get_text() for text in ax.texts] == expected
    for text, k in zip(ax.texts, (1, 2), strict=True):
        np.testing.assert_allclose(text.get_position(), dense[k], atol=0.6)


def test_values_colour_their_own_dots_and_the_highest_lie_on_top(ax):
    z, values = torch.randn(20, 2), torch.randperm(20).float()
    plotting.latent_values(z, values, ax=ax)
    dots = ax.collections[-1]
    shown = np.asarray(dots.get_array())
    assert (np.diff(shown) > 0).all()  # drawn last, seen first
    by_value = {v: p for v, p in zip(values.tolist(), z.numpy(), strict=True)}
    np.testing.assert_allclose(positions(dots), [by_value[v] for v in shown])


def test_high_values_are_dark(ax):
    plotting.latent_values(torch.randn(5, 2), torch.arange(5.0), ax=ax)
    ax.figure.canvas.draw()
    brightness = ax.collections[-1].get_facecolors()[:, :3].sum(1)
    assert (np.diff(brightness) < 0).all()


@pytest.mark.parametrize(("limits", "expected"), [(None, (0, 4)), ((-1.0, 9.0), (-1, 9))])
def test_the_colour_scale_has_the_limits_that_are_asked_for(ax, limits, expected):
    plotting.latent_values(torch.randn(5, 2), torch.arange(5.0), limits=limits, ax=ax)
    ax.figure.canvas.draw()
    assert ax.collections[-1].get_clim() == expected


@pytest.mark.parametrize("shape", [(5, 3), (5, 1), (5,), (5, 2, 2)])
def test_scatter_plots_refuse_codes_that_are_not_2d(shape, ax):
    message = rf"z has shape \[{', '.join(map(str, shape))}\]; a scatter plot needs \[N, 2\]"
    with pytest.raises(ValueError, match=message):
        plotting.latent_classes(torch.zeros(shape), torch.zeros(5).long(), ax=ax)
    with pytest.raises(ValueError, match=message):
        plotting.latent_values(torch.zeros(shape), torch.zeros(5), ax=ax)


def test_scatter_plots_show_both_latent_axes_at_one_scale(ax):
    plotting.latent_values(torch.randn(5, 2), torch.rand(5), ax=ax)
    assert ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


@pytest.mark.parametrize("side", [1, 2, 5, 20])
def test_the_manifold_is_decoded_at_normal_quantiles(painter, side, ax):
    assert plotting.manifold(painter, side=side, ax=ax) is ax
    picture = canvas(ax).reshape(side, side, 2)  # row, column, the two latent dimensions
    quantiles = stats.norm.ppf((np.arange(side) + 0.5) / side)
    for row in range(side):
        np.testing.assert_allclose(picture[row, :, 0], quantiles, atol=1e-5)  # left to right
        np.testing.assert_allclose(picture[row, :, 1], quantiles[side - 1 - row], atol=1e-5)
    assert ax.yaxis_inverted()  # row 0 is on top, so that the second dimension runs upwards


def test_the_axes_of_the_manifold_name_the_latent_values(painter, ax):
    plotting.manifold(painter, side=9, ax=ax)
    picture = canvas(ax)
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    across = {x: text.get_text() for x, text in ticks}
    ticks = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
    upwards = {y: text.get_text() for y, text in ticks}
    assert len(across) == len(upwards) == 9
    for x, text in across.items():
        shown = picture[0, 2 * int(x // 2)]
        assert float(text.replace("−", "-")) == pytest.approx(shown, abs=0.051)
    for y, text in upwards.items():
        shown = picture[int(y), 1]
        assert float(text.replace("−", "-")) == pytest.approx(shown, abs=0.051)


def test_the_manifold_makes_axes_if_none_are_given(painter):
    assert plotting.manifold(painter, side=3).has_data()
    assert len(plt.get_fignums()) == 1


def test_the_manifold_needs_two_latent_dimensions(make_vae):
    with pytest.raises(ValueError, match="the model has 3 latent dimensions; expected 2"):
        plotting.manifold(make_vae(latent_dim=3))


def test_curves_show_the_history_without_the_untrained_model():
    drawn = plotting.curves(history([0, 2, 4]))
    for ax, quantity in zip(drawn, ("distortion", "rate", "negative_elbo"), strict=True):
        lines = {line.get_label(): line.get_xydata() for line in ax.lines}
        assert set(lines) == {"train", "test"}
        for split, data in lines.items():
            reports = getattr(history([2, 4]), split)
            expected = [[e, getattr(r, quantity)] for e, r in zip((2, 4), reports, strict=True)]
            np.testing.assert_allclose(data, expected)
    assert [ax.get_title().split()[0] for ax in drawn] == ["distortion", "rate", "−ELBO"]
    assert len(plt.get_fignums()) == 1


def test_curves_without_test_images_show_the_training_only():
    past = history([0, 1])
    past.test.clear()
    assert [[line.get_label() for line in ax.lines] for ax in plotting.curves(past)] == [
        ["train"]
    ] * 3


def test_curves_go_into_the_axes_that_are_given():
    axes = plt.subplots(1, 3)[1]
    assert plotting.curves(history([0, 1]), axes=axes) is axes
    assert len(plt.get_fignums()) == 1


def test_curves_of_a_training_that_was_interrupted_at_once_are_empty():
    assert [len(ax.lines) for ax in plotting.curves(history([0]))] == [0, 0, 0]


def test_figures_are_opaque_and_white():
    with matplotlib.rc_context():
        plotting.use_style()
        figure, ax = plt.subplots()
        assert to_hex(figure.get_facecolor(), keep_alpha=True) == "#ffffffff"
        assert saved(figure)[0, 0].tolist() == [255, 255, 255, 255]
        assert not ax.spines["top"].get_visible()


def test_class_colours_differ():
    assert len(set(plotting.CLASS_COLOURS)) == 10
