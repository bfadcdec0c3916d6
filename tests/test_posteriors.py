import math

import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Normal

from vaelib.posteriors import SCALES, DiagonalNormal

MU = torch.tensor([[0.3, -2.0, 5.0], [0.0, 1e3, -0.1]], dtype=torch.float64)
LOGVAR = torch.tensor([[0.0, -3.0, 2.0], [-60.0, 60.0, 0.7]], dtype=torch.float64)


def reference() -> Independent:
    return Independent(Normal(MU, (LOGVAR / 2).exp()), 1)


def test_moments_equal_those_of_torch():
    q = DiagonalNormal(MU, LOGVAR)
    torch.testing.assert_close(q.mean, reference().mean)
    torch.testing.assert_close(q.stddev, reference().stddev)
    torch.testing.assert_close(q.variance, reference().variance)
    assert (q.batch_shape, q.event_shape) == ((2,), (3,))


@pytest.mark.parametrize("offset", [0.0, 1.0, -4.0])
def test_log_prob_equals_that_of_torch(offset):
    z = MU + offset * (LOGVAR / 2).exp()
    log_prob = DiagonalNormal(MU, LOGVAR).log_prob(z)
    assert log_prob.shape == (2,)
    torch.testing.assert_close(log_prob, reference().log_prob(z), rtol=1e-10, atol=1e-10)


def test_log_prob_equals_that_of_scipy_for_several_samples_each():
    z = torch.linspace(-3, 3, 24, dtype=torch.float64).view(4, 2, 3)
    q = DiagonalNormal(MU[:1].expand(2, 3), LOGVAR[:1].expand(2, 3))
    truth = stats.norm(MU[0], (LOGVAR[0] / 2).exp()).logpdf(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), torch.from_numpy(truth))


def test_entropy_equals_that_of_torch():
    torch.testing.assert_close(DiagonalNormal(MU, LOGVAR).entropy(), reference().entropy())


def test_the_entropy_of_a_scale_that_underflows_is_still_right():
    # sigma = e^-60 is 0 in half precision and sigma^2 is 0 in float32; its logarithm is not.
    q = DiagonalNormal(torch.zeros(1, 2), torch.full((1, 2), -120.0))
    assert q.entropy().item() == pytest.approx(math.log(2 * math.pi * math.e) - 120)
    assert q.variance.eq(0).all()


def test_reparameterize_is_the_formula_for_one_and_for_many_samples():
    q = DiagonalNormal(MU[:1], LOGVAR[:1])
    noise = torch.arange(12, dtype=torch.float64).view(4, 1, 3)
    z = q.reparameterize(noise)
    for k in range(4):
        for d in range(3):
            expected = MU[0, d] + math.sqrt(math.exp(LOGVAR[0, d])) * noise[k, 0, d]
            assert z[k, 0, d].item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_gradient_of_a_sample_is_that_of_the_formula():
    mu, logvar = MU[:1].clone().requires_grad_(), LOGVAR[:1].clone().requires_grad_()
    noise = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    z = DiagonalNormal(mu, logvar).reparameterize(noise)
    (3 * z).sum().backward()
    torch.testing.assert_close(mu.grad, torch.full((1, 3), 3.0, dtype=torch.float64))
    # dz / dlogvar = sigma eps / 2
    torch.testing.assert_close(logvar.grad, 1.5 * (LOGVAR[:1] / 2).exp() * noise)


def test_rsample_has_the_law_of_the_distribution():
    torch.manual_seed(0)
    n = 20_000
    mu, logvar = torch.tensor([[1.0, -3.0]]), torch.tensor([[-2.0, 1.5]])
    z = DiagonalNormal(mu, logvar).rsample((n,))
    assert z.shape == (n, 1, 2)
    for d in range(2):
        law = stats.norm(mu[0, d], math.exp(logvar[0, d] / 2))
        assert stats.kstest(z[:, 0, d], law.cdf).pvalue > 0.001
    assert abs(torch.corrcoef(z[:, 0].T)[0, 1]) < 4 / n**0.5


def test_rsample_is_differentiable_and_sample_is_not():
    mu = torch.zeros(4, 2, requires_grad=True)
    q = DiagonalNormal(mu, torch.zeros(4, 2))
    (grad,) = torch.autograd.grad(q.rsample((5,)).sum(), mu)
    assert torch.equal(grad, torch.full((4, 2), 5.0))
    assert not q.sample().requires_grad


def test_rsample_keeps_the_dtype():
    assert DiagonalNormal(MU, LOGVAR).rsample().dtype == torch.float64


def test_nan_parameters_are_refused():
    with pytest.raises(ValueError, match="mu"):
        DiagonalNormal(torch.tensor([[math.nan]]), torch.zeros(1, 1))


@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,)])
def test_a_mean_and_a_log_variance_of_different_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        DiagonalNormal(MU, torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("output", [-3.0, -0.5, 0.2, 1.0, 12.0])
@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("exp", lambda r: math.exp(r / 2)),
        ("softplus", lambda r: math.log(1 + math.exp(r))),
        ("linear", lambda r: abs(r)),
    ],
)
def test_scales_give_the_log_variance_of_their_sigma(name, sigma, output):
    logvar = SCALES[name](torch.tensor(output, dtype=torch.float64))
    assert logvar.item() == pytest.approx(2 * math.log(sigma(output)), rel=1e-10)


def test_the_capped_scale_is_exp_up_to_a_log_variance_of_two():
    raw = torch.linspace(-50, 50, 101)
    assert SCALES["capped"](raw).tolist() == [min(value, 2.0) for value in raw.tolist()]


@pytest.mark.parametrize("raw", [-30.0, -3.0, 0.0, 1.0, 12.0])
def test_a_softplus_on_the_log_variance_gives_one_plus_the_exponential(raw):
    q = DiagonalNormal(torch.zeros(1), SCALES["softplus-logvar"](torch.tensor([raw]).double()))
    # log sigma^2 = log(1 + e^r)
    assert q.variance.item() == pytest.approx(1 + math.exp(raw), rel=1e-8)


def test_a_softplus_on_the_log_variance_leaves_no_posterior_tighter_than_the_prior():
    logvar = SCALES["softplus-logvar"](torch.linspace(-200, 50, 101))
    assert logvar.exp().min() >= 1
    assert logvar.isfinite().all()


@pytest.mark.parametrize(("name", "output"), [("softplus", -60.0), ("linear", 1e-30)])
def test_scales_that_go_through_sigma_lose_what_the_logarithm_keeps(name, output):
    # What chapter 1 puts on trial: in float32 sigma^2 underflows, and its logarithm is lost.
    assert SCALES[name](torch.tensor(output)).item() == -math.inf
    assert SCALES["exp"](torch.tensor(-120.0)).item() == -120.0
