import math

import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from scipy.special import logsumexp
from torch.distributions import Independent, Normal, kl_divergence

from vaelib import Autoencoder, Bernoulli, Gaussian, MLPDecoder, MLPEncoder
from vaelib.likelihoods import ContinuousBernoulli
from vaelib.objectives import (
    ELBO,
    elbo,
    elbo_at_optimal_scale,
    free_bits,
    importance_weighted,
    kl_to_standard_normal,
    log_prior,
    reconstruction,
)


def cubature(latent_dim: int, batch: int) -> torch.Tensor:
    """Noise whose mean of any quadratic function is the expectation under N(0, I), exactly."""
    points = math.sqrt(latent_dim) * torch.eye(latent_dim, dtype=torch.float64)
    return torch.cat((points, -points)).unsqueeze(1).expand(-1, batch, -1)


@pytest.mark.parametrize("logvar", [-60.0, -1.0, 0.0, 0.3, 5.0, 60.0])
@pytest.mark.parametrize("mu", [0.0, -3.0, 1e4])
def test_kl_equals_that_of_torch(mu, logvar):
    mu, logvar = torch.tensor([mu], dtype=torch.float64), torch.tensor([logvar]).double()
    truth = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mu, logvar), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_sigma", [-60.0, math.log(1e-30), 40.0])
def test_kl_is_exact_in_float32_at_extreme_scales(log_sigma):
    kl = kl_to_standard_normal(torch.zeros(1), torch.tensor([2 * log_sigma]))
    assert kl.item() == pytest.approx((math.exp(2 * log_sigma) - 1) / 2 - log_sigma, rel=1e-5)


def test_kl_is_not_negative_and_zero_only_at_the_prior():
    mu, logvar = torch.meshgrid(torch.linspace(-3, 3, 13), torch.linspace(-8, 8, 17), indexing="ij")
    kl = kl_to_standard_normal(mu, logvar)
    assert kl.min() == 0
    assert (kl == 0).nonzero().tolist() == [[6, 8]]
    assert kl.shape == (13, 17)


def test_kl_equals_a_monte_carlo_estimate():
    n, mu, logvar = 200_000, torch.tensor(0.7), torch.tensor(-1.2)
    q = Normal(mu, (logvar / 2).exp())
    z = mu + q.stddev * torch.randn(n, generator=torch.Generator().manual_seed(0))
    draws = q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    error = 4 * draws.std().item() / n**0.5
    assert kl_to_standard_normal(mu, logvar).item() == pytest.approx(draws.mean().item(), abs=error)


def test_the_gradient_of_the_kl_is_that_of_the_formula():
    mu = torch.tensor([0.5, -2.0], requires_grad=True)
    logvar = torch.tensor([-3.0, 1.0], requires_grad=True)
    kl_to_standard_normal(mu, logvar).sum().backward()
    torch.testing.assert_close(mu.grad, mu.detach())
    torch.testing.assert_close(logvar.grad, (logvar.detach().exp() - 1) / 2)


@pytest.mark.parametrize("shape", [(7, 3), (2, 7, 3), (7, 1)], ids=str)
def test_the_prior_is_the_standard_normal(shape):
    z = 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert log_prior(z).shape == shape[:-1]
    torch.testing.assert_close(log_prior(z), truth)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str
)
@pytest.mark.parametrize("latent_dim", [2, 10])
def test_with_the_exact_posterior_every_sample_gives_log_p_of_ppca(
    make_ppca, latent_dim, dtype, tolerance
):
    # log p(x) = log p(x|z) + log p(z) - log p(z|x), whatever z is.
    ppca = make_ppca(latent_dim, dtype)
    noise = torch.randn(3, len(ppca.x), latent_dim, dtype=dtype)
    with torch.no_grad():
        q = ppca.vae.encode(ppca.x)
        z = q.reparameterize(noise)
        log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
        terms = ppca.vae.decode(z).log_prob(ppca.x) + log_prior - q.log_prob(z)
    torch.testing.assert_close(terms.double(), ppca.log_p.expand(3, -1), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str
)
@pytest.mark.parametrize("latent_dim", [2, 10])
def test_with_the_exact_posterior_the_elbo_is_log_p_of_ppca(
    make_ppca, latent_dim, dtype, tolerance
):
    # The distortion is quadratic in the noise, so that a few chosen points average it exactly.
    ppca = make_ppca(latent_dim, dtype)
    terms = elbo(ppca.vae, ppca.x, noise=cubature(latent_dim, len(ppca.x)).to(dtype))
    bound = terms.elbo.double().mean(0)
    torch.testing.assert_close(bound, ppca.log_p, rtol=0, atol=tolerance)


def test_with_any_other_posterior_the_elbo_is_lower_by_the_kl_between_the_two(make_ppca):
    ppca = make_ppca(3)
    rng = torch.Generator().manual_seed(0)
    (layer,) = ppca.vae.encoder.layers
    with torch.no_grad():
        layer.weight += 0.05 * torch.randn(layer.weight.shape, generator=rng)
        layer.bias += torch.randn(layer.bias.shape, generator=rng)
        q = ppca.vae.encode(ppca.x)
        bound = elbo(ppca.vae, ppca.x, noise=cubature(3, len(ppca.x))).elbo.mean(0)
    gap = kl_divergence(
        Independent(Normal(q.mean, q.stddev), 1),
        Independent(Normal(ppca.posterior_mean, ppca.posterior_std.expand_as(q.mean)), 1),
    )
    assert (gap > 0.1).all()
    torch.testing.assert_close(ppca.log_p - bound, gap, rtol=1e-8, atol=1e-8)


def test_the_elbo_without_noise_draws_it_and_is_log_p_on_average(make_ppca):
    ppca = make_ppca(2)
    torch.manual_seed(0)
    with torch.no_grad():
        terms = elbo(ppca.vae, ppca.x)
    gap = terms.elbo - ppca.log_p
    assert gap.std() > 0.1  # a sample, not the mean
    assert abs(gap.mean()) < 4 * gap.std() / len(gap) ** 0.5


def test_the_two_parts_equal_an_explicit_loop(make_vae, images):
    vae = make_vae().double()
    x = images[:6].double()
    noise = torch.randn(4, 6, 2, dtype=torch.float64)
    vae.requires_grad_(False)
    terms = elbo(vae, x, noise=noise)
    assert (terms.distortion.shape, terms.rate.shape) == ((4, 6), (6,))
    for b in range(6):
        mu, logvar = (out[0] for out in vae.encoder(x[b : b + 1]))
        rate = sum(
            0.5 * (m**2 + math.exp(v) - 1 - v)
            for m, v in zip(mu.tolist(), logvar.tolist(), strict=True)
        )
        assert terms.rate[b].item() == pytest.approx(rate, rel=1e-12)
        for k in range(4):
            z = mu + (logvar / 2).exp() * noise[k, b]
            p = vae.decoder(z[None]).sigmoid().flatten()
            pixels = x[b].flatten()
            distortion = -(pixels * p.log() + (1 - pixels) * (1 - p).log()).sum()
            assert terms.distortion[k, b].item() == pytest.approx(distortion.item(), rel=1e-10)


@pytest.mark.parametrize(
    ("scale", "sigma"),
    [
        ("exp", lambda r: (r / 2).exp()),
        ("softplus", lambda r: (1 + r.exp()).log()),
        ("linear", torch.abs),
    ],
)
def test_the_rate_is_that_of_the_scale_that_was_chosen(make_vae, images, scale, sigma):
    vae = make_vae(scale=scale, seed=2).double()
    mu, output = vae.encoder(images.double())
    terms = elbo(vae, images.double(), noise=torch.zeros(50, 2, dtype=torch.float64))
    truth = kl_divergence(Normal(mu, sigma(output)), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(terms.rate, truth)


def test_the_bound_is_minus_the_sum_of_the_parts():
    terms = ELBO(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0]))
    assert terms.elbo.tolist() == [[-11.0, -22.0], [-13.0, -24.0]]


def test_flat_images_give_the_same_bound(make_vae, images):
    noise = torch.randn(50, 2)
    flat, square = (elbo(make_vae(), x, noise=noise) for x in (images.flatten(1), images))
    assert torch.equal(flat.elbo, square.elbo)


def test_the_gradient_reaches_the_encoder_through_the_sample(make_vae, images):
    vae = make_vae().double()
    x, noise = images[:3].double(), torch.randn(3, 2, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return elbo(vae, x, noise=noise).distortion.sum()

    loss().backward()
    weight, step = vae.encoder.layers[-1].bias, 1e-6
    for i in range(4):  # mu 1, mu 2, logvar 1, logvar 2
        with torch.no_grad():
            weight[i] += step
            above = loss().item()
            weight[i] -= 2 * step
            below = loss().item()
            weight[i] += step
        assert weight.grad[i].item() == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_noise_that_is_not_given_is_drawn_and_differentiated_like_any_other(make_vae, images):
    drawn, given = make_vae(), make_vae()
    torch.manual_seed(3)
    elbo(drawn, images).elbo.sum().backward()
    torch.manual_seed(3)
    elbo(given, images, noise=torch.randn(50, 2)).elbo.sum().backward()
    for one, two in zip(drawn.parameters(), given.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("shape", [(50, 1), (1, 2), (2,), (49, 2), (50, 3), (3, 1, 2)])
def test_noise_of_the_wrong_shape_is_refused(make_vae, images, shape):
    with pytest.raises(ValueError, match="noise"):
        elbo(make_vae(), images, noise=torch.zeros(shape))


def test_the_decoder_must_explain_the_image_as_it_was_before_corruption(make_vae, images):
    class Negative(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 - x

    vae, noise = make_vae(), torch.randn(50, 2)
    q = vae.encode(1 - images)
    distortion = -vae.decode(q.reparameterize(noise)).log_prob(images)
    vae.encoder.corruption = Negative()
    terms = elbo(vae, images, noise=noise)
    torch.testing.assert_close(terms.distortion, distortion)
    torch.testing.assert_close(terms.rate, kl_to_standard_normal(q.mu, q.logvar).sum(-1))


def test_grey_values_are_refused_unless_the_caller_has_checked(make_vae, images):
    with pytest.raises(ValueError, match="grey values"):
        elbo(make_vae(), images / 2)
    unchecked = elbo(make_vae(), images / 2, noise=torch.zeros(50, 2), validate=False)
    asked = elbo(make_vae(likelihood=Bernoulli(grey=True)), images / 2, noise=torch.zeros(50, 2))
    assert torch.equal(unchecked.distortion, asked.distortion)


def test_the_reconstruction_of_an_autoencoder_is_its_distortion(images):
    sizes = {"latent_dim": 2, "image_shape": (1, 4, 4)}
    autoencoder = Autoencoder(
        encoder=MLPEncoder(hidden=(8,), **sizes),
        decoder=MLPDecoder(hidden=(8,), **sizes),
        likelihood=Gaussian(scale=0.5),
    )
    terms = reconstruction(autoencoder, images)
    mean = autoencoder.decoder(autoencoder.encoder(images)[0])
    squared = (images - mean).square().flatten(1).sum(1)
    truth = squared / (2 * 0.25) + 16 * math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(terms.distortion, truth)
    assert terms.rate.shape == (50,)
    assert terms.rate.eq(0).all()


def test_the_reconstruction_checks_the_values(images):
    sizes = {"latent_dim": 2, "hidden": (), "image_shape": (1, 4, 4)}
    autoencoder = Autoencoder(
        encoder=MLPEncoder(**sizes), decoder=MLPDecoder(**sizes), likelihood=Bernoulli()
    )
    with pytest.raises(ValueError, match="grey values"):
        reconstruction(autoencoder, images / 2)


@pytest.fixture
def make_gaussian(make_vae):
    """Factory of equal double-precision VAEs whose Gaussian has the scale that is asked for."""

    def make(scale: float = 0.7, **options):
        return make_vae(likelihood=Gaussian(link="logit", scale=scale, **options), seed=4).double()

    return make


def grey(n: int, *leading: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey 4x4 images and the noise for them."""
    rng = torch.Generator().manual_seed(3)
    x = torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=rng)
    return x, torch.randn(*leading, n, 2, dtype=torch.float64, generator=rng)


def decoded(vae, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Means of p(x | z) of a Gaussian on logits, computed from the networks alone."""
    mu, logvar = vae.encoder(x)
    return vae.decoder(mu + (logvar / 2).exp() * noise).sigmoid()


@pytest.mark.parametrize("leading", [(), (3,)], ids=["one-sample", "three-samples"])
def test_at_the_optimal_scale_the_distortion_of_the_batch_is_its_closed_form(
    make_gaussian, leading
):
    vae, (x, noise) = make_gaussian(), grey(7, *leading)
    terms = elbo_at_optimal_scale(vae, x, noise=noise)
    mean = decoded(vae, x, noise).detach()
    s2 = ((x - mean) ** 2).mean()
    assert terms.distortion.shape == (*leading, 7)
    truth = 16 / 2 * (math.log(2 * math.pi * s2.item()) + 1)
    assert terms.distortion.mean().item() == pytest.approx(truth, rel=1e-12)
    # One scale for the whole batch, so that single images differ from the closed form.
    each = -Normal(mean, s2.sqrt()).log_prob(x).sum((-3, -2, -1))
    assert each.std() > 0.1
    torch.testing.assert_close(terms.distortion, each)
    mu, logvar = vae.encoder(x)
    truth = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(terms.rate, truth)


def test_no_other_scale_gives_the_batch_a_higher_likelihood(make_gaussian):
    vae, (x, noise) = make_gaussian(), grey(7)
    mean = decoded(vae, x, noise).detach()

    def distortion(scale: float) -> float:
        return -Normal(mean, scale).log_prob(x).sum().item() / 7

    found = elbo_at_optimal_scale(vae, x, noise=noise).distortion.mean().item()
    best = optimize.minimize_scalar(distortion, bounds=(0.01, 10), method="bounded")
    assert found == pytest.approx(best.fun, rel=1e-8)
    assert all(distortion(scale) > found for scale in (0.05, 0.9 * best.x, 1.1 * best.x, 3.0))


def test_the_scale_of_the_likelihood_follows_the_batches(make_gaussian):
    vae, (x, noise) = make_gaussian(scale=0.7), grey(20)
    running = vae.likelihood.log_scale.exp().item() ** 2
    assert running == pytest.approx(0.49)
    for batch in (slice(0, 7), slice(7, 20), slice(3, 4)):
        elbo_at_optimal_scale(vae, x[batch], noise=noise[batch])
        s2 = (x[batch] - decoded(vae, x[batch], noise[batch])).square().mean().item()
        running = 0.9 * running + 0.1 * s2
        assert vae.likelihood.log_scale.exp().item() ** 2 == pytest.approx(running, rel=1e-10)


def gradients(vae, loss: torch.Tensor) -> list[torch.Tensor]:
    networks = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    return list(torch.autograd.grad(loss, networks))


def test_the_networks_get_the_gradient_of_a_fixed_scale_that_happens_to_be_the_best(make_gaussian):
    vae, (x, noise) = make_gaussian(), grey(7)
    terms = elbo_at_optimal_scale(vae, x, noise=noise)
    s2 = (x - decoded(vae, x, noise)).square().mean()
    fixed = make_gaussian()
    with torch.no_grad():
        fixed.likelihood.log_scale.copy_(0.5 * s2.log())
    truth = gradients(fixed, -elbo(fixed, x, noise=noise).elbo.mean())
    torch.testing.assert_close(gradients(vae, -terms.elbo.mean()), truth)


def test_the_networks_get_the_gradient_of_a_scale_that_is_differentiated(make_gaussian):
    vae, (x, noise) = make_gaussian(), grey(7)
    # The envelope theorem: the derivative of a minimum is that at the minimiser held fixed.
    s2 = (x - decoded(vae, x, noise)).square().mean()
    minimum = 16 / 2 * ((2 * math.pi * s2).log() + 1)
    found = gradients(vae, elbo_at_optimal_scale(vae, x, noise=noise).distortion.mean())
    assert max(g.abs().max() for g in found) > 0.1
    torch.testing.assert_close(found, gradients(vae, minimum))


def test_a_scale_that_is_not_trained_by_the_objective_gets_no_gradient(make_gaussian):
    vae, (x, noise) = make_gaussian(learned=True), grey(7)
    elbo_at_optimal_scale(vae, x, noise=noise).elbo.sum().backward()
    assert vae.likelihood.log_scale.grad is None
    assert all(p.grad is not None for p in vae.decoder.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("likelihood", [Bernoulli(grey=True), ContinuousBernoulli()])
def test_a_likelihood_without_a_scale_has_no_optimal_one(make_vae, images, likelihood, training):
    vae = make_vae(likelihood=likelihood).train(training)
    kind = type(likelihood).__name__
    with pytest.raises(TypeError, match=f"the likelihood is {kind}; expected a Gaussian"):
        elbo_at_optimal_scale(vae, images)


@pytest.mark.parametrize("training", [True, False])
def test_at_the_optimal_scale_bad_images_and_noise_are_refused(make_gaussian, training):
    vae, (x, noise) = make_gaussian().train(training), grey(7)
    with pytest.raises(ValueError, match="112 values that are NaN"):
        elbo_at_optimal_scale(vae, x * math.nan, noise=noise)
    with pytest.raises(ValueError, match=r"noise has shape \[6, 2\]; expected \[7, 2\]"):
        elbo_at_optimal_scale(vae, x, noise=noise[:6])
    assert vae.likelihood.log_scale.exp().item() == pytest.approx(0.7)


@pytest.fixture
def uneven(make_vae, images):
    """A VAE with four units, and the mean rate of each: two small ones and two large ones."""
    vae = make_vae(latent_dim=4, seed=6).double()
    with torch.no_grad():
        vae.encoder.layers[-1].bias[4:] = torch.tensor([0.3, -4.0, -0.2, -3.0])
        mu, logvar = vae.encoder(images.double())
        rates = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean(0)
    return vae, rates


def between(rates: torch.Tensor) -> float:
    """An allowance above the two small rates and below the two large ones."""
    low, high = rates.sort().values[1:3].tolist()
    assert rates[[0, 2]].max() == low
    assert high - low > 0.3
    return (low + high) / 2


@pytest.mark.parametrize("leading", [(), (3,)], ids=["one-sample", "three-samples"])
def test_with_free_bits_the_two_parts_equal_an_explicit_loop(uneven, images, leading):
    vae, x = uneven[0], images[:6].double()
    noise = torch.randn(*leading, 6, 4, dtype=torch.float64)
    mu, logvar = (out.detach() for out in vae.encoder(x))
    means = [
        sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in zip(*unit, strict=True)) / 6
        for unit in zip(mu.T.tolist(), logvar.T.tolist(), strict=True)
    ]
    nats = between(torch.tensor(means))
    terms = free_bits(nats)(vae, x, noise=noise)
    rate = sum(max(nats, mean) for mean in means)
    assert terms.rate.tolist() == pytest.approx([rate] * 6, rel=1e-12)
    logits = vae.decoder(mu + (logvar / 2).exp() * noise)
    wide = x.expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, wide, reduction="none").sum((-3, -2, -1))
    assert terms.distortion.shape == (*leading, 6)
    torch.testing.assert_close(terms.distortion, loss)


def test_no_free_nats_give_the_mean_rate_of_the_bound_and_its_gradient(uneven, images):
    vae, x = uneven[0], images.double()
    noise = torch.randn(50, 4, dtype=torch.float64)
    free, bound = free_bits(0)(vae, x, noise=noise), elbo(vae, x, noise=noise)
    torch.testing.assert_close(free.rate, bound.rate.mean().expand(50))
    torch.testing.assert_close(free.distortion, bound.distortion)
    truth = gradients(vae, -bound.elbo.mean())
    torch.testing.assert_close(gradients(vae, -free.elbo.mean()), truth)


def test_a_unit_has_no_gradient_below_its_free_nats_and_that_of_the_bound_above(uneven, images):
    (vae, rates), x = uneven, images.double()
    nats = between(rates)
    layer, noise = vae.encoder.layers[-1], torch.randn(50, 4, dtype=torch.float64)

    def of_units(rate: torch.Tensor) -> torch.Tensor:
        # A unit has two rows: the first four are for the means, the others for the log-variances.
        return torch.autograd.grad(rate.mean(), layer.weight)[0].unflatten(0, (2, 4))

    found = of_units(free_bits(nats)(vae, x, noise=noise).rate)
    truth = of_units(elbo(vae, x, noise=noise).rate)
    assert truth.abs().amax((0, 2)).min() > 1e-3
    assert found[:, rates < nats].eq(0).all()
    torch.testing.assert_close(found[:, rates > nats], truth[:, rates > nats])


def test_the_free_nats_are_counted_after_the_mean_over_the_batch(uneven, images):
    # Single images lie on both sides of the allowance of a unit whose mean lies above it.
    (vae, rates), x = uneven, images.double()
    mu, logvar = vae.encoder(x)
    each = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    nats = 0.99 * rates.min().item()
    assert (each < nats).any()
    rate = free_bits(nats)(vae, x, noise=torch.zeros(50, 4, dtype=torch.float64)).rate
    torch.testing.assert_close(rate, rates.sum().expand(50))


@pytest.mark.parametrize("nats", [-0.1, -math.inf, math.inf, math.nan])
def test_a_bad_number_of_free_nats_is_named(nats):
    with pytest.raises(ValueError, match=f"nats is {nats}; expected a finite number, at least 0"):
        free_bits(nats)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 5, 4), ValueError, r"images have shape \[3, 1, 5, 4\]"),
        (torch.full((3, 1, 4, 4), 0.5), ValueError, "grey values"),
        (torch.full((3, 1, 4, 4), math.nan), ValueError, "48 values that are NaN"),
    ],
    ids=["whole-numbers", "shape", "grey", "nan"],
)
def test_with_free_bits_bad_images_are_refused(make_vae, training, bad, error, message):
    vae = make_vae().train(training)
    for objective in (elbo, free_bits(0.5)):
        with pytest.raises(error, match=message):
            objective(vae, bad)


@pytest.mark.parametrize("training", [True, False])
def test_with_free_bits_bad_noise_is_refused_and_unchecked_values_are_not(
    make_vae, images, training
):
    vae, objective = make_vae().train(training), free_bits(0.5)
    with pytest.raises(ValueError, match=r"noise has shape \[49, 2\]; expected \[50, 2\]"):
        objective(vae, images, noise=torch.zeros(49, 2))
    noise = torch.randn(50, 2)
    found = objective(vae, images / 2, noise=noise, validate=False)
    asked = elbo(make_vae(likelihood=Bernoulli(grey=True)), images / 2, noise=noise)
    assert torch.equal(found.distortion, asked.distortion)


# The importance-weighted bound

BOTH = pytest.mark.parametrize("doubly", [False, True], ids=["plain", "doubly"])


@pytest.fixture
def spread(make_vae, images):
    """A VAE whose weights differ a lot between samples, and six images for it."""
    vae = make_vae(seed=5).double()
    with torch.no_grad():
        vae.encoder.layers[-1].bias += torch.tensor([0.8, -0.5, 0.3, -0.6])
        vae.decoder.layers[0].weight *= 2
    return vae, images[:6].double()


def normal_noise(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def parts_of_log_w(vae, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """-log p(x | z), log p(z) and log q(z | x), [..., B] each, from the networks alone."""
    mu, logvar = vae.encoder(x)
    q = Normal(mu, (logvar / 2).exp())
    z = mu + q.stddev * noise
    logits = vae.decoder(z)
    loss = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    return loss.sum((-3, -2, -1)), prior, q.log_prob(z).sum(-1)


def log_weights(vae, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    distortion, prior, posterior = parts_of_log_w(vae, x, noise)
    return prior - posterior - distortion


@BOTH
@pytest.mark.parametrize("k", [1, 2, 7])
def test_the_weighted_bound_equals_an_explicit_loop(spread, doubly, k):
    (vae, x), noise = spread, normal_noise(k, 6, 2)
    terms = importance_weighted(doubly_reparameterized=doubly)(vae, x, noise=noise)
    assert terms.elbo.shape == (6,)
    for b in range(6):
        mu, logvar = (out[0].detach() for out in vae.encoder(x[b : b + 1]))
        pixels, log_w = x[b].flatten(), []
        for eps in noise[:, b]:
            z = mu + (logvar / 2).exp() * eps
            p = vae.decoder(z[None]).detach().sigmoid().flatten()
            log_p = (pixels * p.log() + (1 - pixels) * (1 - p).log()).sum().item()
            prior = sum(-0.5 * v * v - 0.5 * math.log(2 * math.pi) for v in z.tolist())
            q = sum(
                -0.5 * e * e - 0.5 * v - 0.5 * math.log(2 * math.pi)
                for e, v in zip(eps.tolist(), logvar.tolist(), strict=True)
            )
            log_w.append(log_p + prior - q)
        truth = math.log(math.fsum(math.exp(w) for w in log_w) / k)
        assert terms.elbo[b].item() == pytest.approx(truth, rel=1e-10)


@BOTH
def test_with_one_sample_the_weighted_bound_is_a_draw_of_the_elbo(spread, doubly):
    (vae, x), noise = spread, normal_noise(6, 2)
    objective = importance_weighted(doubly_reparameterized=doubly)
    flat, leading = (objective(vae, x, noise=eps) for eps in (noise, noise[None]))
    distortion, prior, posterior = parts_of_log_w(vae, x, noise)
    for terms in (flat, leading):
        torch.testing.assert_close(terms.distortion, distortion)
        torch.testing.assert_close(terms.rate, posterior - prior)
    pairs = zip(gradients(vae, flat.elbo.sum()), gradients(vae, leading.elbo.sum()), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@BOTH
def test_noise_that_is_not_given_is_one_sample_of_the_global_stream(spread, doubly):
    vae, x = spread
    objective = importance_weighted(doubly_reparameterized=doubly)
    torch.manual_seed(3)
    drawn = objective(vae, x)
    torch.manual_seed(3)
    given = objective(vae, x, noise=torch.randn(1, 6, 2, dtype=torch.float64))
    assert torch.equal(drawn.elbo, given.elbo)
    pairs = zip(gradients(vae, drawn.elbo.sum()), gradients(vae, given.elbo.sum()), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_more_of_the_same_samples_never_lower_the_bound(spread):
    # log is concave, so that the log of a mean is above the mean of the logs of its parts.
    (vae, x), noise = spread, normal_noise(16, 6, 2)
    ladder = []
    for k in (1, 2, 4, 8, 16):
        groups = [importance_weighted()(vae, x, noise=group).elbo for group in noise.split(k)]
        ladder.append(torch.stack(groups).mean(0).detach())
    rises = torch.stack(ladder).diff(dim=0)
    assert (rises >= 0).all()
    assert (rises.mean(1) > 0.02).all()


@BOTH
@pytest.mark.parametrize("k", [1, 2, 20])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str
)
def test_with_the_exact_posterior_the_weighted_bound_is_log_p_of_ppca(
    make_ppca, dtype, tolerance, k, doubly
):
    ppca = make_ppca(3, dtype)
    noise = normal_noise(k, len(ppca.x), 3).to(dtype)
    terms = importance_weighted(doubly_reparameterized=doubly)(ppca.vae, ppca.x, noise=noise)
    torch.testing.assert_close(terms.elbo.double(), ppca.log_p, rtol=0, atol=tolerance)


def astray(ppca) -> None:
    """Move the posterior of probabilistic PCA away from the exact one."""
    (layer,) = ppca.vae.encoder.layers
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight += 0.02 * torch.randn(layer.weight.shape, generator=rng)
        layer.bias[2:] += torch.tensor([1.0, 0.7])


def test_with_any_other_posterior_the_weighted_bound_rises_to_log_p_of_ppca(make_ppca):
    ppca = make_ppca(2)
    astray(ppca)
    q = ppca.vae.encode(ppca.x)
    exact = Normal(ppca.posterior_mean, ppca.posterior_std)
    divergence = kl_divergence(Normal(q.mean, q.stddev), exact).sum(-1).mean().item()
    assert divergence > 0.4
    gaps = []
    for k, n in ((1, 1797), (20, 1797), (2000, 50)):
        with torch.no_grad():
            terms = importance_weighted()(ppca.vae, ppca.x[:n], noise=normal_noise(k, n, 2))
        gaps.append(ppca.log_p[:n] - terms.elbo)
    error = 4 * gaps[0].std().item() / math.sqrt(1797)
    assert gaps[0].mean().item() == pytest.approx(divergence, abs=error)
    assert 0.01 < gaps[1].mean() < divergence / 3
    assert gaps[2].mean().item() == pytest.approx(0, abs=0.01)


@BOTH
def test_the_two_parts_are_those_of_the_posterior_that_picks_a_sample(spread, doubly):
    (vae, x), noise = spread, normal_noise(5, 6, 2)
    terms = importance_weighted(doubly_reparameterized=doubly)(vae, x, noise=noise)
    distortion, prior, posterior = parts_of_log_w(vae, x, noise)
    share = (prior - posterior - distortion).exp()
    share = share / share.sum(0)
    torch.testing.assert_close(terms.distortion, (share * distortion).sum(0))
    # The density of the one that is picked is K times its share that of q.
    rate = (share * ((5 * share).log() + posterior - prior)).sum(0)
    torch.testing.assert_close(terms.rate, rate)
    bound = (prior - posterior - distortion).logsumexp(0) - math.log(5)
    torch.testing.assert_close(terms.distortion + terms.rate, -bound)


@BOTH
def test_the_value_is_the_bound_and_not_the_weighted_mean_of_log_w(spread, doubly):
    (vae, x), noise = spread, normal_noise(5, 6, 2)
    bound = importance_weighted(doubly_reparameterized=doubly)(vae, x, noise=noise).elbo
    log_w = log_weights(vae, x, noise)
    share = log_w.softmax(0)
    above = (share * log_w).sum(0) - bound
    # By how much is known: the divergence of the shares from equal ones.
    torch.testing.assert_close(above, (share * (5 * share).log()).sum(0))
    assert above.mean() > 0.1


def test_the_plain_gradient_is_that_of_the_formula_and_a_mean_weighted_by_shares(spread):
    (vae, x), noise = spread, normal_noise(5, 6, 2)
    found = gradients(vae, importance_weighted()(vae, x, noise=noise).elbo.sum())
    log_w = log_weights(vae, x, noise)
    formula = gradients(vae, (log_w.exp().sum(0) / 5).log().sum())
    assert max(g.abs().max() for g in found) > 0.1
    torch.testing.assert_close(found, formula)
    # Burda et al. (2016), equation 14.
    total = [torch.zeros_like(g) for g in found]
    for b in range(6):
        log_w = log_weights(vae, x[b : b + 1], noise[:, b : b + 1]).flatten()
        weights = log_w.detach().exp()
        for k in range(5):
            one = gradients(vae, log_weights(vae, x[b : b + 1], noise[k, b : b + 1]).sum())
            for sum_, g in zip(total, one, strict=True):
                sum_ += weights[k] / weights.sum() * g
    torch.testing.assert_close(found, total)


def by_hand(vae, x: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
    """Sum of squared shares times dlog w/dz dz/dphi over samples and images, for the encoder."""
    phi = list(vae.encoder.parameters())
    total = [torch.zeros_like(p) for p in phi]
    share = log_weights(vae, x, noise).detach().softmax(0)
    for k, b in torch.cartesian_prod(torch.arange(len(noise)), torch.arange(len(x))).tolist():
        mu, logvar = vae.encoder(x[b : b + 1])
        z = mu + (logvar / 2).exp() * noise[k, b]
        at = z.detach().requires_grad_()
        q = Normal(mu.detach(), (logvar / 2).exp().detach())
        loss = F.binary_cross_entropy_with_logits(vae.decoder(at), x[b : b + 1], reduction="sum")
        log_w = Normal(0.0, 1.0).log_prob(at).sum() - q.log_prob(at).sum() - loss
        (slope,) = torch.autograd.grad(log_w, at)
        for sum_, g in zip(total, torch.autograd.grad(z, phi, slope), strict=True):
            sum_ += share[k, b] ** 2 * g
    return total


@pytest.mark.parametrize("k", [1, 4])
def test_the_doubly_reparameterised_gradient_is_that_of_tucker_et_al_for_the_encoder_only(
    spread, k
):
    (vae, x), noise = spread, normal_noise(k, 6, 2)
    plain, doubly = (
        importance_weighted(doubly_reparameterized=doubly)(vae, x, noise=noise).elbo
        for doubly in (False, True)
    )
    torch.testing.assert_close(plain, doubly, rtol=1e-12, atol=0)
    of_plain, of_doubly = gradients(vae, plain.sum()), gradients(vae, doubly.sum())
    n = len(list(vae.encoder.parameters()))
    torch.testing.assert_close(of_doubly[n:], of_plain[n:])
    torch.testing.assert_close(of_doubly[:n], by_hand(vae, x, noise))
    assert (of_doubly[n - 1] - of_plain[n - 1]).abs().max() > 0.1


def test_both_gradients_of_the_encoder_have_one_mean(spread):
    vae, x = spread
    n = 20_000
    x, noise, outputs = x[:1].expand(n, -1, -1, -1), normal_noise(3, n, 2), []
    vae.encoder.layers.register_forward_hook(lambda *args: outputs.append(args[-1]))
    bounds = [
        importance_weighted(doubly_reparameterized=doubly)(vae, x, noise=noise).elbo.sum()
        for doubly in (False, True)
    ]
    # The gradient of each copy of the image, in the encoder's output.
    plain, doubly = (torch.autograd.grad(*pair)[0] for pair in zip(bounds, outputs, strict=True))
    difference = plain - doubly
    error = difference.std(0) / math.sqrt(n)
    assert (plain.mean(0).abs() > 10 * error).any()
    assert (difference.mean(0).abs() < 4 * error).all()
    assert ((0.5 * plain - doubly).mean(0).abs() > 4 * error).any()


@pytest.mark.parametrize("k", [1, 3])
def test_at_the_exact_posterior_only_the_doubly_reparameterised_gradient_sticks_the_landing(
    make_ppca, k
):
    ppca = make_ppca(2)
    noise = normal_noise(k, len(ppca.x), 2)
    phi = list(ppca.vae.encoder.parameters())
    sizes = []
    for doubly in (False, True):
        bound = importance_weighted(doubly_reparameterized=doubly)(ppca.vae, ppca.x, noise=noise)
        found = torch.autograd.grad(bound.elbo.mean(), phi)
        sizes.append(max(g.abs().max().item() for g in found))
    assert sizes[0] > 1e-3
    assert sizes[1] < 1e-12


def test_a_frozen_encoder_leaves_the_doubly_reparameterised_gradient_of_the_decoder(spread):
    (vae, x), noise = spread, normal_noise(4, 6, 2)
    objective = importance_weighted(doubly_reparameterized=True)
    theta = list(vae.decoder.parameters())
    truth = torch.autograd.grad(objective(vae, x, noise=noise).elbo.sum(), theta)
    vae.encoder.requires_grad_(False)
    found = torch.autograd.grad(objective(vae, x, noise=noise).elbo.sum(), theta)
    torch.testing.assert_close(found, truth)


@BOTH
def test_weights_that_underflow_give_a_finite_bound_and_gradient(make_vae, doubly):
    # Sixteen pixels that are sure to be wrong, at 700 nats each.
    vae, x = make_vae(seed=5), torch.ones(6, 1, 4, 4)
    with torch.no_grad():
        vae.decoder.layers[-1].bias.fill_(-700)
    noise = normal_noise(5, 6, 2)
    bound = importance_weighted(doubly_reparameterized=doubly)(vae, x, noise=noise.float()).elbo
    found = gradients(vae, bound.sum())
    assert all(g.isfinite().all() for g in found)
    assert max(g.abs().max() for g in found) > 0.1
    log_w = log_weights(vae.double(), x.double(), noise)
    assert (log_w < -1e4).all()
    truth = logsumexp(log_w.detach().numpy(), axis=0) - math.log(5)
    assert bound.tolist() == pytest.approx(truth.tolist(), abs=0.01)


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_the_weighted_bound_refuses_bad_images_and_noise_and_takes_unchecked_values(
    make_vae, images, training, doubly
):
    vae = make_vae().train(training)
    objective = importance_weighted(doubly_reparameterized=doubly)
    with pytest.raises(TypeError, match=r"images are torch.uint8"):
        objective(vae, images.to(torch.uint8))
    with pytest.raises(ValueError, match="grey values"):
        objective(vae, images / 2)
    for shape in ((49, 2), (3, 1, 2), (2, 3, 50, 2)):
        with pytest.raises(ValueError, match=r"noise has shape .*; expected \[50, 2\] or \[K, 50"):
            objective(vae, images, noise=torch.zeros(shape))
    noise = torch.randn(3, 50, 2)
    found = objective(vae, images / 2, noise=noise, validate=False)
    grey = make_vae(likelihood=Bernoulli(grey=True)).train(training)
    assert torch.equal(found.elbo, objective(grey, images / 2, noise=noise).elbo)
