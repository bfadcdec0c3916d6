import math

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal

from vaelib.likelihoods import Bernoulli, Gaussian, value_range

LOGITS = (-1e4, -30.0, -17.0, -1.0, 0.0, 0.5, 17.0, 30.0, 1e4)


def one_pixel(value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=dtype)


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize(
    ("dtype", "rel", "abs_"), [(torch.float64, 1e-12, 1e-14), (torch.float32, 1e-6, 1e-6)], ids=str
)
def test_bernoulli_equals_scipy_at_any_logit(logit, x, dtype, rel, abs_):
    log_prob = Bernoulli()(one_pixel(logit, dtype)).log_prob(one_pixel(x, dtype))
    truth = special.log_expit(logit if x else -logit)
    assert log_prob.item() == pytest.approx(truth, rel=rel, abs=abs_)


@pytest.mark.parametrize("logit", [-30.0, -17.0, -1.0, 0.5, 17.0, 30.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_bernoulli_equals_the_probability_mass_of_scipy(logit, x):
    log_prob = Bernoulli()(one_pixel(logit)).log_prob(one_pixel(x))
    # Near 1 the probability has lost digits that the logit has kept.
    truth = stats.bernoulli(special.expit(logit)).logpmf(x)
    assert log_prob.item() == pytest.approx(truth, rel=0.04)


@pytest.mark.parametrize(("logit", "x"), [(17.0, 0.0), (30.0, 0.0), (1e4, 0.0), (-1e4, 1.0)])
def test_the_gradient_is_alive_where_the_decoder_is_sure_and_wrong(logit, x):
    logits = one_pixel(logit).requires_grad_()
    Bernoulli()(logits).log_prob(one_pixel(x)).backward()
    # d log p / d logit = x - sigmoid(logit)
    assert logits.grad.item() == pytest.approx(x - special.expit(logit))


def test_bernoulli_sums_over_the_image_and_nothing_else():
    logits, x = torch.randn(4, 3, 2, 5, 6), torch.randint(2, (3, 2, 5, 6)).float()
    log_prob = Bernoulli()(logits).log_prob(x)
    assert log_prob.shape == (4, 3)
    pixels = TorchBernoulli(logits=logits).log_prob(x.expand(4, 3, 2, 5, 6))
    for k in range(4):
        for b in range(3):
            torch.testing.assert_close(log_prob[k, b], pixels[k, b].sum())


def test_grey_values_are_scored_by_the_formula_that_was_asked_for():
    x, logits = torch.rand(1, 1, 3, 3), torch.randn(1, 1, 3, 3)
    log_prob = Bernoulli(grey=True)(logits).log_prob(x)
    x, logits = x.numpy(), logits.numpy()
    truth = (x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)).sum()
    assert log_prob.item() == pytest.approx(truth, rel=1e-5)


def test_the_mean_of_a_bernoulli_is_the_sigmoid():
    logits = torch.tensor(LOGITS).view(-1, 1, 1, 1)
    mean = Bernoulli()(logits).mean
    np.testing.assert_allclose(mean.flatten(), special.expit(LOGITS), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("grey", [False, True])
def test_bernoulli_accepts_zeros_and_ones(grey):
    assert Bernoulli(grey=grey).check(torch.eye(4)) is None


def test_grey_values_must_be_asked_for_by_name():
    x = torch.tensor([[0.0, 0.5], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"grey values.*Bernoulli\(grey=True\)"):
        Bernoulli().check(x)
    assert Bernoulli(grey=True).check(x) is None


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-0.25, 1.0), (0.0, 1.25), (0.0, 255.0)])
def test_values_outside_the_unit_interval_are_named(grey, low, high):
    with pytest.raises(ValueError, match=rf"images lie in \[{low:g}, {high:g}\].*\[0, 1\]"):
        Bernoulli(grey=grey).check(torch.tensor([low, 0.5, high]))


@pytest.mark.parametrize("likelihood", [Bernoulli(), Bernoulli(grey=True), Gaussian()])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_counted(likelihood, bad):
    with pytest.raises(ValueError, match="2 values that are NaN or infinite"):
        likelihood.check(torch.tensor([0.0, bad, 1.0, bad]))


def test_value_range():
    assert value_range(torch.tensor([[0.5, -2.0], [7.0, 0.0]])) == (-2.0, 7.0)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 50.0])
def test_gaussian_equals_scipy_with_its_constant(scale):
    rng = np.random.RandomState(0)
    mean, x = rng.normal(size=(2, 5, 1, 3, 4))
    log_prob = Gaussian(scale=scale).double()(torch.from_numpy(mean)).log_prob(torch.from_numpy(x))
    truth = [
        stats.multivariate_normal(m.ravel(), scale**2).logpdf(v.ravel())
        for m, v in zip(mean, x, strict=True)
    ]
    np.testing.assert_allclose(log_prob.detach(), truth, rtol=1e-5)


def test_gaussian_equals_torch_and_sums_over_the_image_and_nothing_else():
    mean, x = torch.randn(4, 3, 2, 5, 6), torch.randn(3, 2, 5, 6)
    log_prob = Gaussian(scale=0.3)(mean).log_prob(x)
    torch.testing.assert_close(log_prob, Normal(mean, 0.3).log_prob(x).sum((-3, -2, -1)))


def test_the_mean_of_a_gaussian_is_what_the_decoder_gives():
    mean = torch.randn(2, 1, 3, 3)
    assert torch.equal(Gaussian(scale=2.0)(mean).mean, mean)


def test_the_scale_is_a_trained_parameter_only_if_asked():
    assert [p.requires_grad for p in Gaussian().parameters()] == [False]
    assert [p.requires_grad for p in Gaussian(learned=True).parameters()] == [True]
    assert Gaussian(scale=0.2, learned=True).log_scale.item() == pytest.approx(math.log(0.2))


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_the_gradient_of_a_learned_scale_is_that_of_the_formula(scale):
    gaussian = Gaussian(scale=scale, learned=True).double()
    mean, x = torch.randn(2, 7, 1, 4, 4, dtype=torch.float64)
    (-gaussian(mean).log_prob(x)).sum().backward()
    # d(-log p) / d log s = sum over pixels of 1 - (x - m)^2 / s^2
    s2 = gaussian.log_scale.exp().item() ** 2
    truth = x.numel() - ((x - mean) ** 2).sum() / s2
    torch.testing.assert_close(gaussian.log_scale.grad, truth)


def test_the_best_scale_is_the_root_mean_squared_error():
    rng = torch.Generator().manual_seed(0)
    mean, x = torch.randn(2, 7, 1, 4, 4, dtype=torch.float64, generator=rng)

    def distortion(scale: float) -> float:
        return -Gaussian(scale=scale)(mean).log_prob(x).mean().item()

    best = optimize.minimize_scalar(distortion, bounds=(0.1, 10), method="bounded")
    assert best.x == pytest.approx((x - mean).square().mean().sqrt().item(), rel=1e-3)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_scale_is_named(scale):
    with pytest.raises(ValueError, match=rf"scale is {scale}; expected a finite number"):
        Gaussian(scale=scale)


def test_gaussian_accepts_any_finite_value():
    assert Gaussian().check(torch.tensor([-3.0, 200.0])) is None
