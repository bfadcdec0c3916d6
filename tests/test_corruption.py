import math

import pytest
import torch
from scipy.ndimage import affine_transform
from scipy.stats import kstest, uniform
from torch import Tensor

from vaelib.corruption import RandomBinarization, RandomWarp

SIZES = ("turn", "stretch", "slant", "shift", "bend")


def test_random_binarization_draws_each_pixel_with_its_grey_value():
    torch.manual_seed(0)
    n, grey = 20_000, torch.linspace(0, 1, 9)
    x = grey.expand(n, 1, 1, 9)
    drawn = RandomBinarization()(x)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    error = 4 * (grey * (1 - grey) / n).sqrt() + 1e-7
    assert ((drawn.mean(0)[0, 0] - grey).abs() <= error).all()
    assert not torch.equal(drawn, RandomBinarization()(x))


def test_random_binarization_leaves_the_image_alone_when_evaluating():
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(RandomBinarization().eval()(x), x)


# Warps


def warp_by(**sizes: float) -> RandomWarp:
    """Build a warp that does what is named and nothing else."""
    return RandomWarp(**dict.fromkeys(SIZES, 0.0) | sizes)


@pytest.fixture
def draw_always(monkeypatch):
    """Function that puts a constant, from -1 to 1, in place of all draws between these bounds."""

    def put(amount: float) -> None:
        monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, (amount + 1) / 2))

    return put


def picture(height: int, width: int, *, n: int = 2, frame: int = 0) -> Tensor:
    """Random images in a black frame."""
    x = torch.zeros(n, 1, height, width)
    inside = (slice(frame, height - frame), slice(frame, width - frame))
    x[..., inside[0], inside[1]] = torch.rand(
        n, 1, height - 2 * frame, width - 2 * frame, generator=torch.Generator().manual_seed(0)
    )
    return x


def sources(warp: RandomWarp, n: int, height: int, width: int) -> Tensor:
    """Return from where, in pixels from the centre, each pixel is taken: x, y and 1 if inside."""
    down, right = (torch.arange(side).double() - (side - 1) / 2 for side in (height, width))
    down, right = torch.meshgrid(down, right, indexing="ij")
    return warp(torch.stack((right, down, torch.ones_like(down))).repeat(n, 1, 1, 1))


def affine_maps(warp: RandomWarp, n: int) -> tuple[Tensor, Tensor]:
    """Return the matrices ``[n, 2, 2]`` and offsets ``[n, 2]`` by which n images are warped."""
    found = sources(warp, n, 15, 15)[:, :, 4:11, 4:11].flatten(2)
    torch.testing.assert_close(found[:, 2], torch.ones(n, 49).double(), rtol=0, atol=1e-5)
    place = sources(warp_by(), 1, 15, 15)[:, :, 4:11, 4:11].flatten(2).mT
    solution = torch.linalg.lstsq(place.expand(n, -1, -1), found[:, :2].mT).solution
    torch.testing.assert_close(place @ solution, found[:, :2].mT, rtol=0, atol=1e-5)
    return solution[:, :2].mT, solution[:, 2]


def assert_uniform(found: Tensor, size: float) -> None:
    """Assert that numbers that differ are uniform between -size and size."""
    assert found.abs().max() <= size * (1 + 1e-4)
    assert len(found.unique()) == found.numel()
    assert kstest(found.flatten().numpy(), uniform(-size, 2 * size).cdf).pvalue > 0.001


def rotation(degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin], [sin, cos]]).double()


@pytest.mark.parametrize("size", [(28, 28), (9, 14)], ids=str)
def test_a_warp_of_size_zero_changes_nothing(size):
    x = picture(*size)
    torch.testing.assert_close(warp_by()(x), x, rtol=0, atol=1e-5)


def test_an_image_is_warped_only_while_training(rng_untouched):
    warp, x = warp_by(turn=20, stretch=0.2, slant=0.2, shift=3, bend=2), picture(28, 28)
    assert (warp(x) - x).abs().max() > 0.1
    with rng_untouched():
        assert torch.equal(warp.eval()(x), x)


@pytest.mark.parametrize("size", [(28, 28), (12, 20)], ids=str)
@pytest.mark.parametrize(("amount", "by"), [(1.0, (-3, -3)), (-1.0, (3, 3)), (1 / 3, (-1, -1))])
def test_a_shift_is_in_pixels(draw_always, amount, by, size):
    x = picture(*size, frame=3)
    draw_always(amount)
    rolled = torch.roll(x, by, dims=(2, 3))
    torch.testing.assert_close(warp_by(shift=3)(x), rolled, rtol=0, atol=1e-5)


def test_what_comes_in_from_outside_is_black(draw_always):
    draw_always(1.0)
    x = picture(8, 8) + 1
    expected = torch.zeros_like(x)
    expected[..., :5, :5] = x[..., 3:, 3:]
    torch.testing.assert_close(warp_by(shift=3)(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("amount", "quarters"), [(1.0, 1), (-1.0, -1), (0.0, 0)])
def test_a_turn_is_in_degrees(draw_always, amount, quarters):
    x = picture(28, 28)
    draw_always(amount)
    turned = torch.rot90(x, quarters, dims=(2, 3))
    torch.testing.assert_close(warp_by(turn=90)(x), turned, rtol=0, atol=1e-4)


# From where a pixel is taken, as seen from the centre, for the amount a: matrices of (x, y).
MATRICES = {
    "turn": (25.0, lambda a: rotation(25.0 * a)),
    "stretch": (0.3, lambda a: math.exp(0.3 * a) * torch.eye(2).double()),
    "slant": (0.4, lambda a: torch.tensor([[1.0, 0.4 * a], [0.0, 1.0]]).double()),
}


@pytest.mark.parametrize("size", [(28, 28), (12, 20)], ids=str)
@pytest.mark.parametrize("amount", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("name", MATRICES)
def test_an_image_is_resampled_as_scipy_does_it(draw_always, name, amount, size):
    largest, matrix = MATRICES[name]
    x = picture(*size)
    draw_always(amount)
    found = warp_by(**{name: largest})(x)
    rows_first = matrix(amount).flip(0, 1).numpy()
    centre = (torch.tensor(size).double().numpy() - 1) / 2
    for image, warped in zip(x, found, strict=True):
        expected = affine_transform(
            image[0].double().numpy(),
            rows_first,
            centre - rows_first @ centre,
            order=1,
            mode="grid-constant",
        )
        torch.testing.assert_close(
            warped[0].double(), torch.from_numpy(expected), rtol=0, atol=1e-4
        )


def test_an_image_is_slanted_and_stretched_and_turned_about_its_centre_and_then_shifted(
    draw_always,
):
    draw_always(1.0)
    matrices, offsets = affine_maps(warp_by(turn=30, stretch=0.2, slant=0.3, shift=1), 2)
    slant = torch.tensor([[1.0, 0.3], [0.0, 1.0]]).double()
    expected = rotation(30) @ slant * math.exp(0.2)
    torch.testing.assert_close(matrices, expected.expand(2, 2, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(offsets, torch.ones(2, 2).double(), rtol=0, atol=1e-5)


def test_each_image_is_turned_by_an_angle_of_its_own():
    torch.manual_seed(0)
    matrices, offsets = affine_maps(warp_by(turn=30), 500)
    angle = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert_uniform(angle, 30)
    expected = torch.stack([rotation(a) for a in angle.tolist()])
    torch.testing.assert_close(matrices, expected, rtol=0, atol=1e-5)
    assert offsets.abs().max() < 1e-5


def test_each_side_of_each_image_is_stretched_by_a_factor_of_its_own():
    torch.manual_seed(0)
    matrices, offsets = affine_maps(warp_by(stretch=0.25), 500)
    factors = matrices.diagonal(dim1=1, dim2=2)
    assert_uniform(factors.log(), 0.25)
    assert abs(torch.corrcoef(factors.mT)[0, 1]) < 4 / math.sqrt(500)
    torch.testing.assert_close(matrices, torch.diag_embed(factors), rtol=0, atol=1e-5)
    assert offsets.abs().max() < 1e-5


def test_each_image_is_slanted_by_an_amount_of_its_own():
    torch.manual_seed(0)
    matrices, offsets = affine_maps(warp_by(slant=0.3), 500)
    assert_uniform(matrices[:, 0, 1], 0.3)
    matrices[:, 0, 1] = 0
    torch.testing.assert_close(matrices, torch.eye(2).double().expand(500, 2, 2), atol=1e-5, rtol=0)
    assert offsets.abs().max() < 1e-5


def test_each_image_is_shifted_along_each_side_by_an_amount_of_its_own():
    torch.manual_seed(0)
    matrices, offsets = affine_maps(warp_by(shift=2.5), 500)
    assert_uniform(offsets, 2.5)
    assert abs(torch.corrcoef(offsets.mT)[0, 1]) < 4 / math.sqrt(500)
    torch.testing.assert_close(matrices, torch.eye(2).double().expand(500, 2, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(29, 29), (29, 57)], ids=str)
def test_the_displacements_of_a_bend_are_normal_and_independent_at_the_knots(size):
    torch.manual_seed(0)
    height, width = size
    moved = sources(warp_by(bend=1.2), 500, height, width) - sources(warp_by(), 1, height, width)
    # Four steps from knot to knot along each side; those on the border may reach outside.
    at_knots = moved[:, :2, :: height // 4, :: width // 4][:, :, 1:-1, 1:-1]
    assert at_knots.shape == (500, 2, 3, 3)
    assert at_knots.abs().max() < 6  # else the knot of some image would reach outside
    for along in at_knots.unbind(1):
        assert along.std().item() == pytest.approx(1.2, rel=4 / math.sqrt(2 * 4500))
        assert along.mean().item() == pytest.approx(0, abs=4 * 1.2 / math.sqrt(4500))
        assert kstest((along / 1.2).flatten().numpy(), "norm").pvalue > 0.001
    correlation = torch.corrcoef(at_knots.flatten(1).mT) - torch.eye(18)
    assert correlation.abs().max() < 5 / math.sqrt(500)


def test_a_bend_is_smooth_between_its_knots(monkeypatch):
    knots = torch.zeros(1, 2, 5, 5)
    knots[0, 0, 2, 2] = 1.0
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: knots)
    moved = (sources(warp_by(bend=2.0), 1, 29, 29) - sources(warp_by(), 1, 29, 29))[0]
    inside = moved[2] > -1e-5
    assert inside[1:-1, 1:-1].all()
    assert moved[1].abs().max() < 1e-5  # nothing moves up or down
    bend = moved[0, 1:-1, 1:-1]
    assert bend[13, 13].item() == pytest.approx(2, abs=1e-5) == bend.max().item()
    assert bend[6::7, 6::7].abs().sum().item() == pytest.approx(2, abs=1e-4)  # the other knots
    for dim in (0, 1):
        # A straight line from knot to knot would have a kink of 2 * 2 / 7.
        assert bend.diff(n=2, dim=dim).abs().max() < 2 / 7


def test_all_channels_of_an_image_are_warped_alike():
    torch.manual_seed(0)
    x = picture(28, 28).repeat(1, 3, 1, 1)
    warped = warp_by(turn=20, stretch=0.2, slant=0.2, shift=3, bend=2)(x)
    for channel in warped.unbind(1):
        assert torch.equal(channel, warped[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(28, 28), (12, 20)], ids=str)
def test_a_warped_image_keeps_its_shape_its_type_and_its_range(size, dtype):
    torch.manual_seed(0)
    x = picture(*size, n=50).to(dtype)
    before = x.clone()
    warped = warp_by(turn=20, stretch=0.2, slant=0.2, shift=3, bend=2)(x)
    assert (warped.shape, warped.dtype) == (x.shape, dtype)
    assert warped.min() >= 0
    assert warped.max() <= x.max() + 1e-6
    assert torch.equal(x, before)


def test_under_autocast_no_pixel_moves_by_a_tenth_of_its_size():
    warp, places = warp_by(turn=15, stretch=0.1, slant=0.2, shift=2, bend=1), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            places.append(sources(warp, 50, 28, 28)[:, :, 8:20, 8:20])
    assert (places[1] - places[0]).abs().max() < 0.1


def test_the_warps_come_from_the_global_stream_of_torch():
    warp, x, warped = warp_by(turn=20, bend=1), picture(28, 28), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        warped.append(warp(x))
    assert torch.equal(warped[0], warped[1])
    assert not torch.allclose(warped[0], warped[2], atol=0.1)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_negative_or_not_finite_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}; expected a finite number, at least"):
        warp_by(**{name: value})
