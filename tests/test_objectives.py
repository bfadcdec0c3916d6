import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from vaelib import Autoencoder, Bernoulli, Gaussian, MLPDecoder, MLPEncoder
from vaelib.objectives import ELBO, elbo, kl_to_standard_normal, reconstruction


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
