import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from torch.distributions import Normal

from vaelib.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    ExponentialOnUnitInterval,
    Gaussian,
    value_range,
)

LOGITS = (-1e4, -30.0, -17.0, -1.0, 0.0, 0.5, 17.0, 30.0, 1e4)
# On both sides of 0.01, where a series takes over; and far beyond the 16 at which torch goes wrong.
DENSITY_LOGITS = (-60.0, -17.0, -1.0, -0.0101, -0.0099, -1e-9, 0.0, 1e-30)
DENSITY_LOGITS += (1e-5, 0.00999, 0.01, 0.02, 0.5, 10.0, 30.0, 60.0)


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


@pytest.mark.parametrize(
    "likelihood", [Bernoulli(), Bernoulli(grey=True), ContinuousBernoulli(), Gaussian()]
)
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


@pytest.mark.parametrize("link", ["log", "", None])
def test_a_bad_link_is_named(link):
    with pytest.raises(ValueError, match=rf"link is {link!r}; expected 'identity' or 'logit'"):
        Gaussian(link=link)


def test_the_mean_of_a_gaussian_on_logits_is_the_sigmoid():
    logits = torch.tensor(LOGITS).view(-1, 1, 1, 1)
    mean = Gaussian(link="logit", scale=0.2)(logits).mean
    np.testing.assert_allclose(mean.flatten(), special.expit(LOGITS), rtol=1e-6, atol=1e-30)


def test_a_gaussian_on_logits_equals_scipy_around_the_sigmoid():
    rng = np.random.RandomState(0)
    logits, x = 3 * rng.normal(size=(5, 1, 3, 4)), rng.uniform(size=(5, 1, 3, 4))
    gaussian = Gaussian(link="logit", scale=0.2).double()
    log_prob = gaussian(torch.from_numpy(logits)).log_prob(torch.from_numpy(x))
    truth = stats.norm(special.expit(logits), 0.2).logpdf(x).sum((1, 2, 3))
    np.testing.assert_allclose(log_prob.detach(), truth, rtol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("options", [{}, {"weight": 0.3}, {"weight": 1.0}], ids=str)
def test_follow_keeps_a_running_mean_of_the_variance(options, learned):
    gaussian = Gaussian(scale=0.5, learned=learned).double()
    running, weight = 0.25, options.get("weight", 0.1)
    for variance in (4.0, 0.01, 1e-6, 9.0):
        gaussian.follow(torch.tensor(variance, dtype=torch.float64), **options)
        running = (1 - weight) * running + weight * variance
        assert gaussian.log_scale.exp().item() ** 2 == pytest.approx(running, rel=1e-6)
    assert gaussian.log_scale.requires_grad is learned
    assert gaussian.log_scale.grad is None


def exponential_moment(logit: float, power: int) -> float:
    """E[x^power] under the density that is proportional to e^(logit x) on [0, 1]."""

    def integral(power: int) -> float:
        at_most_one = lambda x: x**power * math.exp(logit * x - max(logit, 0.0))  # noqa: E731
        return integrate.quad(at_most_one, 0, 1, epsabs=0, epsrel=1e-12)[0]

    return integral(power) / integral(0)


@pytest.mark.parametrize("logit", DENSITY_LOGITS)
def test_the_exponential_density_integrates_to_one(logit):
    density = ExponentialOnUnitInterval(torch.tensor(logit, dtype=torch.float64))
    integral, _ = integrate.quad(
        lambda x: density.log_prob(torch.tensor(x, dtype=torch.float64)).exp().item(), 0, 1
    )
    assert integral == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("logit", [-10.0, -3.0, -0.5, -0.02, -1e-3, 0.0, 1e-6, 0.009, 1.0, 10.0])
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_at_moderate_logits_the_continuous_bernoulli_equals_that_of_torch(logit, x):
    log_prob = ContinuousBernoulli()(one_pixel(logit)).log_prob(one_pixel(x))
    truth = TorchContinuousBernoulli(logits=one_pixel(logit)).log_prob(one_pixel(x))
    assert log_prob.item() == pytest.approx(truth.item(), abs=1e-9)


def test_continuous_bernoulli_sums_over_the_image_and_nothing_else():
    logits, x = torch.randn(4, 3, 2, 5, 6), torch.rand(3, 2, 5, 6)
    distribution = ContinuousBernoulli()(logits)
    pixels = TorchContinuousBernoulli(logits=logits).log_prob(x)
    assert (distribution.batch_shape, distribution.event_shape) == ((4, 3), (2, 5, 6))
    # torch's formula loses digits in float32 for logits near zero.
    torch.testing.assert_close(
        distribution.log_prob(x), pixels.sum((-3, -2, -1)), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("logit", DENSITY_LOGITS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-5)], ids=str
)
def test_the_mean_of_a_continuous_bernoulli_equals_numerical_integration(logit, dtype, tolerance):
    mean = ContinuousBernoulli()(one_pixel(logit, dtype)).mean
    assert mean.shape == (1, 1, 1, 1)
    assert mean.item() == pytest.approx(exponential_moment(logit, 1), abs=tolerance)


@pytest.mark.parametrize("logit", DENSITY_LOGITS)
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-5)], ids=str
)
def test_the_gradient_of_a_continuous_bernoulli_is_the_image_minus_the_mean(
    logit, x, dtype, tolerance
):
    # An exponential family: d log p / d logit = x - E[x].
    logits = one_pixel(logit, dtype).requires_grad_()
    ContinuousBernoulli()(logits).log_prob(one_pixel(x, dtype)).backward()
    assert logits.grad.item() == pytest.approx(x - exponential_moment(logit, 1), abs=tolerance)


@pytest.mark.parametrize(
    ("size", "dtype", "tolerance"),
    [
        (200.0, torch.float32, 5e-5),
        (200.0, torch.float64, 1e-12),
        (1e4, torch.float32, 2e-3),
        (1e4, torch.float64, 1e-10),
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("x", [0.0, 0.25, 1.0])
def test_at_huge_logits_the_continuous_bernoulli_is_exact(size, dtype, tolerance, sign, x):
    # The density is |l| e^(-|l| d), where d is the distance to the end where it peaks.
    distance = 1 - x if sign > 0 else x
    logits = one_pixel(sign * size, dtype).requires_grad_()
    distribution = ContinuousBernoulli()(logits)
    log_prob = distribution.log_prob(one_pixel(x, dtype))
    log_prob.backward()
    mean = 1 - 1 / size if sign > 0 else 1 / size
    assert log_prob.item() == pytest.approx(math.log(size) - size * distance, abs=tolerance)
    assert distribution.mean.item() == pytest.approx(mean, abs=1e-6)
    assert logits.grad.item() == pytest.approx(x - mean, abs=1e-6)


def test_continuous_bernoulli_accepts_grey_values():
    assert ContinuousBernoulli().check(torch.linspace(0, 1, 5)) is None


@pytest.mark.parametrize(("low", "high"), [(-0.25, 1.0), (0.0, 1.25), (0.0, 255.0)])
def test_continuous_bernoulli_names_values_outside_the_unit_interval(low, high):
    with pytest.raises(ValueError, match=rf"images lie in \[{low:g}, {high:g}\].*\[0, 1\]"):
        ContinuousBernoulli().check(torch.tensor([low, 0.5, high]))
