"""The world of one hidden number against adaptive quadrature, closed forms and draws."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Normal, kl_divergence

from vaelib.course import one_number

XS = (-1.0, 0.2, 1.0, 2.5, 6.0)
QS = ((0.0, 1.0), (1.05, 0.23), (-1.5, 0.3), (-0.7, 0.7), (2.5, 0.05), (-2.0, 1.5))
FAR = ((2.5, 1.5), (-2.5, 1.5), (2.5, 1.0))
DRAWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def log_density(value, mean=0.0, sd=1.0):
    """Of a normal distribution; scipy.stats has it too, but takes its time with single numbers."""
    return -0.5 * ((value - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))


def density(value, mean=0.0, sd=1.0):
    return np.exp(log_density(value, mean, sd))


def f(z):
    return 0.5 * (z + 0.25) * (z + 0.25)


def joint(x, z):
    return density(z) * density(x, f(z), 0.3)


def log_joint(x, z):
    return log_density(z) + log_density(x, f(z), 0.3)


def integral(function, low=-10.0, high=10.0, points=()):
    value, error = quad(function, low, high, points=points, limit=500, epsabs=1e-13, epsrel=1e-11)
    assert error < 1e-8
    return value


def evidence(x):
    roots = [-0.25 + side * math.sqrt(2 * max(x, 0.0)) for side in (-1, 1)]
    return math.log(integral(lambda z: joint(x, z), points=[*roots, -0.25]))


def under_q(function, mu, sigma):
    """The mean of a function of z under N(mu, sigma²)."""
    return integral(lambda u: density(u) * function(mu + sigma * u))


def log_weights(x, mu, sigma, u):
    z = mu + sigma * u
    return log_joint(x, z) - log_density(z, mu, sigma)


# The densities


def test_f_and_the_likelihood():
    z = torch.tensor([-2.25, -0.25, 0.0, 1.75])
    assert one_number.f(z).tolist() == [2.0, 0.0, 0.03125, 2.0]
    truth = Normal(f(1.2), 0.3).log_prob(torch.tensor(0.7)).item()
    assert one_number.log_likelihood(0.7, 1.2).item() == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("x", XS)
def test_log_px_is_the_integral_of_the_joint_density(x):
    assert one_number.log_px(x).item() == pytest.approx(evidence(x), abs=1e-8)


def test_p_of_x_is_a_density():
    xs = torch.linspace(-3, 20, 2301, dtype=torch.float64)
    step = (xs[1] - xs[0]).item()
    assert one_number.log_px(xs).exp().sum().item() * step == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("x", XS)
def test_the_posterior_is_a_density_in_proportion_to_the_joint_density(x):
    z = np.linspace(-6, 6, 4001)
    posterior = one_number.log_posterior(torch.from_numpy(z), x).exp().numpy()
    assert posterior.sum() * (z[1] - z[0]) == pytest.approx(1, abs=1e-8)
    truth = joint(x, z) / math.exp(evidence(x))
    np.testing.assert_allclose(posterior, truth, rtol=1e-8, atol=1e-200)


def test_the_map_has_a_row_for_each_x_and_a_column_for_each_z():
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    x = torch.tensor([0.2, 1.0, 2.5], dtype=torch.float64)
    world = one_number.joint_map(z, x)
    assert world.shape == (3, 1601)
    assert world[1, 900].item() == pytest.approx(joint(1.0, z[900].item()))
    assert (world.sum(1) * 0.01).tolist() == pytest.approx(
        [math.exp(evidence(v)) for v in x.tolist()]
    )
    column = world[:, 850] / world[0, 850]
    likelihood = density(x.numpy(), f(0.5), 0.3)
    assert column.tolist() == pytest.approx(likelihood / likelihood[0])


# The ELBO and its parts


@pytest.mark.parametrize(("mu", "sigma"), QS)
def test_the_rate_is_the_kl_divergence_of_torch(mu, sigma):
    truth = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).item()
    assert one_number.kl_to_prior(mu, sigma).item() == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("x", XS)
@pytest.mark.parametrize(("mu", "sigma"), QS)
def test_elbo_distortion_and_kl_are_means_under_q(x, mu, sigma):
    distortion = -under_q(lambda z: log_density(x, f(z), 0.3), mu, sigma)
    assert one_number.distortion(x, mu, sigma).item() == pytest.approx(distortion, rel=1e-9)

    def log_q(z):
        return log_density(z, mu, sigma)

    elbo = under_q(lambda z: log_joint(x, z) - log_q(z), mu, sigma)
    assert one_number.elbo(x, mu, sigma).item() == pytest.approx(elbo, rel=1e-9)
    log_px = evidence(x)
    kl = under_q(lambda z: log_q(z) - log_joint(x, z) + log_px, mu, sigma)
    assert one_number.kl_to_posterior(x, mu, sigma).item() == pytest.approx(kl, rel=1e-8)


@pytest.mark.parametrize("x", XS)
@pytest.mark.parametrize(("mu", "sigma"), QS)
def test_the_gap_between_log_px_and_the_elbo_is_a_kl(x, mu, sigma):
    total = one_number.elbo(x, mu, sigma) + one_number.kl_to_posterior(x, mu, sigma)
    assert total.item() == pytest.approx(one_number.log_px(x).item(), abs=1e-8)


def test_the_elbo_has_a_closed_form():
    """All moments of a Gaussian are known, and log p(x, z) is a polynomial in z."""
    x, mu, sigma = 1.0, 0.4, 0.8
    m, v = mu + 0.25, sigma**2
    mean_f = (m**2 + v) / 2
    mean_f_squared = (m**4 + 6 * m**2 * v + 3 * v**2) / 4
    square = x**2 - 2 * x * mean_f + mean_f_squared
    distortion = square / (2 * 0.3**2) + math.log(0.3) + math.log(2 * math.pi) / 2
    assert one_number.distortion(x, mu, sigma).item() == pytest.approx(distortion, rel=1e-12)


def test_arguments_are_broadcast():
    mu = torch.tensor([0.0, 1.0, -1.5])
    sigma = torch.tensor([[0.5], [1.0]])
    x = torch.tensor([0.5, 1.0, 2.0])
    for function in (one_number.elbo, one_number.distortion, one_number.kl_to_posterior):
        values = function(x, mu, sigma)
        assert values.shape == (2, 3)
        assert values[1, 2].item() == pytest.approx(function(2.0, -1.5, 1.0).item())
    bounds = one_number.importance_bound(1.0, 0.0, 1.0, torch.tensor([1, 10, 100]))
    assert bounds.shape == (3,)
    assert bounds[1].item() == one_number.importance_bound(1.0, 0.0, 1.0, 10).item()


# The importance-weighted bound


@pytest.mark.parametrize("x", [0.5, 1.0, 2.5])
@pytest.mark.parametrize(("mu", "sigma"), [*QS, *FAR])
def test_with_one_draw_the_bound_is_the_elbo_to_a_thousandth_of_its_gap(x, mu, sigma):
    elbo = one_number.elbo(x, mu, sigma)
    gap = (one_number.log_px(x) - elbo).item()
    bound = one_number.importance_bound(x, mu, sigma, 1)
    assert bound.item() == pytest.approx(elbo.item(), abs=1e-3 * gap)


@pytest.mark.parametrize(("mu", "sigma"), QS[:5])
def test_with_two_draws_the_bound_is_an_integral_over_two_numbers(mu, sigma):
    u = np.linspace(-8, 8, 1601)
    share = density(u) / density(u).sum()
    log_w = log_weights(1.0, mu, sigma, u)
    both = np.logaddexp(log_w[:, None], log_w) - math.log(2)
    truth = share @ both @ share
    assert one_number.importance_bound(1.0, mu, sigma, 2).item() == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize("K", [10, 1000])
@pytest.mark.parametrize("x", [1.0, 2.5])
@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.0), (1.05, 0.23), (-2.0, 0.4), (2.5, 1.5)])
def test_with_many_draws_the_bound_is_the_mean_of_many_estimates(x, mu, sigma, K):
    u = np.random.default_rng(0).standard_normal((1_000_000 // K, K))
    z = mu + sigma * u
    log_w = -(z**2) / 2 - ((x - f(z)) / 0.3) ** 2 / 2 + u**2 / 2
    log_w += math.log(sigma / 0.3) - math.log(2 * math.pi) / 2
    largest = log_w.max(1)
    estimates = largest + np.log(np.exp(log_w - largest[:, None]).mean(1))
    error = estimates.std(ddof=1) / math.sqrt(len(estimates))
    bound = one_number.importance_bound(x, mu, sigma, K).item()
    assert abs(bound - estimates.mean()) < 4 * error


@pytest.mark.parametrize(("mu", "sigma"), [*QS, *FAR])
def test_the_bound_grows_with_the_draws_and_stays_below_log_px(mu, sigma):
    bounds = one_number.importance_bound(1.0, mu, sigma, torch.tensor(DRAWS))
    assert (bounds.diff() > 0).all()
    assert bounds[-1] < one_number.log_px(1.0)


def test_the_bound_goes_to_log_px():
    """With the prior as q the gap is, to first order, Var(w) / (2 K p(x)²)."""
    x, K = 1.0, 1000
    second = integral(lambda z: density(z) * density(x, f(z), 0.3) ** 2)
    gap = (second / math.exp(2 * evidence(x)) - 1) / (2 * K)
    measured = (one_number.log_px(x) - one_number.importance_bound(x, 0.0, 1.0, K)).item()
    assert measured == pytest.approx(gap, rel=0.01)


# The climb


@pytest.mark.parametrize("x", [1.0, 2.5])
@pytest.mark.parametrize("start", [(0.0, 1.0), (-1.5, 0.3), (2.5, 0.05), (-2.5, 1.5), (-0.5, 0.5)])
def test_a_climb_never_falls_and_ends_where_the_elbo_is_highest_around(x, start):
    path = one_number.climb(x, *start)
    assert path[0, :2].tolist() == pytest.approx(start)
    assert (path[:, 2].diff() > 0).all()
    mu, sigma, height = path[-1].tolist()
    assert height == pytest.approx(one_number.elbo(x, mu, sigma).item())
    step = 1e-3
    places = [
        one_number.elbo(x, mu + step * math.cos(angle), sigma * math.exp(step * math.sin(angle)))
        for angle in np.linspace(0, 2 * math.pi, 17)
    ]
    assert max(places) < height
    across, along = (places[0] - places[8]).item(), (places[4] - places[12]).item()
    assert math.hypot(across, along) / (2 * step) < 1e-3


def test_the_steps_of_a_climb_are_short():
    path = one_number.climb(1.0, -2.5, 1.5)
    places = torch.stack([path[:, 0], path[:, 1].log()], dim=1)
    lengths = places.diff(dim=0).norm(dim=1)
    assert lengths.max().item() == pytest.approx(0.1)


def test_which_peak_a_climb_ends_at_depends_on_its_start():
    right, left = one_number.climb(1.0, 0.0, 1.0)[-1], one_number.climb(1.0, -1.0, 1.0)[-1]
    assert right[0] > 1 > -1 > left[0]
    assert right[2] > left[2]


def test_a_climb_that_starts_on_the_top_stays_there():
    top = one_number.climb(1.0, 1.0, 0.3)[-1]
    assert len(one_number.climb(1.0, top[0].item(), top[1].item())) == 1


# Bad input


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma):
    for function in (
        lambda: one_number.kl_to_prior(0.0, sigma),
        lambda: one_number.distortion(1.0, 0.0, sigma),
        lambda: one_number.elbo(1.0, 0.0, sigma),
        lambda: one_number.kl_to_posterior(1.0, 0.0, sigma),
        lambda: one_number.importance_bound(1.0, 0.0, sigma, 10),
        lambda: one_number.climb(1.0, 0.0, sigma),
    ):
        with pytest.raises(ValueError, match=f"sigma is {sigma}; .* must be positive"):
            function()


def test_one_bad_sigma_among_many_is_found():
    with pytest.raises(ValueError, match="must be positive"):
        one_number.elbo(1.0, 0.0, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("K", [0, -3, torch.tensor([10, 0])])
def test_there_must_be_a_draw(K):
    with pytest.raises(ValueError, match=r"K is .*; expected at least one draw"):
        one_number.importance_bound(1.0, 0.0, 1.0, K)
