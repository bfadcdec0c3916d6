import torch

from vaelib.corruption import RandomBinarization


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
