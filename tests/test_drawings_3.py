"""What the drawings of lesson 3 show is true; what all drawings must keep to: test_drawing.py."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from vaelib.course import drawings_3, lesson_3
from vaelib.networks import count_parameters


def said(drawn) -> str:
    """Return all letters of a drawing."""
    return re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", drawn.page, flags=re.S))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_drawn_outputs_are_those_of_a_convolution(stride):
    x = torch.arange(8.0) ** 2
    whole = np.convolve(x.numpy(), [1, 2, 1], "same")
    assert drawings_3.convolve(x, stride).tolist() == whole[::stride].tolist()


def test_what_is_painted_is_the_transpose_of_a_convolution_with_ones():
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(4, generator=rng)
    matrix = torch.zeros(4, 8)  # row i gathers the cells 2i - 1, 2i and 2i + 1
    for i in range(4):
        matrix[i, max(2 * i - 1, 0) : 2 * i + 2] = 1
    torch.testing.assert_close(drawings_3.painted(y), y @ matrix)
    assert drawings_3.painted(torch.ones(4)).tolist() == [1, 2, 1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize("unit", range(4))
def test_the_cells_that_a_unit_sees_are_those_with_a_gradient(unit):
    layers = [nn.Conv1d(1, 1, 3, stride=2, padding=1) for _ in range(3)]
    rows = [torch.rand(1, 1, 28, requires_grad=True)]
    for layer in layers:
        rows.append(layer(rows[-1]))
    assert tuple(row.shape[-1] for row in rows) == drawings_3.LAYERS
    for row, cells in zip(rows[::-1], drawings_3.fields(unit), strict=True):
        (gradient,) = torch.autograd.grad(rows[-1][0, 0, unit], row, retain_graph=True)
        assert gradient[0, 0].nonzero().flatten().tolist() == list(cells)


@pytest.mark.parametrize("budget", [70_000, 800_000])
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_every_parameter_has_one_place(family, budget):
    vae = lesson_3.comparison_vae(family, budget, latent_dim=16)
    counts = drawings_3.parameters_by_place(vae)
    assert sum(counts.values()) == count_parameters(vae)
    assert (counts["kernels"] > 0) == (family == "conv") == (counts["dense, at the pixels"] == 0)


def test_places_of_small_networks_are_counted_by_hand():
    counts = drawings_3.parameters_by_place(lesson_3.comparison_vae("mlp", 70_000, latent_dim=16))
    assert counts == {
        "dense, at the pixels": 784 * 40 + 40 + 40 * 784 + 784,
        "dense, inside": 40 * 32 + 32 + 16 * 40 + 40,
        "kernels": 0,
    }
    counts = drawings_3.parameters_by_place(lesson_3.comparison_vae("conv", 70_000, latent_dim=16))
    down = 8 * (9 + 1) + 16 * (8 * 9 + 1) + 32 * (16 * 9 + 1)
    up = 16 * (16 * 9 + 1) + 1 * (16 * 9 + 1)
    assert counts["kernels"] == down + up


def test_the_bars_say_the_numbers_of_their_networks():
    vae = lesson_3.comparison_vae("conv", 800_000, latent_dim=16)
    drawn = drawings_3.where_parameters_sit({"large": {"conv": vae}})
    share = drawings_3.parameters_by_place(vae)["kernels"] / count_parameters(vae)
    assert f"conv: {count_parameters(vae):,}" in said(drawn)
    assert f"{share:.1%}" in said(drawn)


def test_an_image_that_is_none_is_refused():
    with pytest.raises(ValueError, match="expected an image"):
        drawings_3.receptive_field(torch.rand(1, 28, 28))
