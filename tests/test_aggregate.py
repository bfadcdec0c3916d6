import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from vaelib import VAE, Bernoulli, MLPDecoder, MLPEncoder
from vaelib.aggregate import (
    AggregatePosterior,
    codes,
    gaussian_total_correlation,
    mutual_information,
)

MEAN = torch.tensor([3.0, -0.02], dtype=torch.float64)
FACTOR = torch.tensor([[40.0, 0.0], [0.02, 0.01]], dtype=torch.float64)
SKEWED = MultivariateNormal(MEAN, scale_tril=FACTOR)
"""A correlated Gaussian whose two scales are 40 and 0.022."""


def draw(p: MultivariateNormal, n: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, len(p.mean), dtype=torch.float64, generator=rng)
    return p.mean + noise @ p.scale_tril.T


def standard(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return draw(MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double()), n, seed)


def two_clusters() -> tuple[Tensor, Tensor]:
    """700 and 300 correlated codes, far apart, in an order that mixes them."""
    one = draw(MultivariateNormal(MEAN, scale_tril=FACTOR), 700, seed=1)
    two = draw(MultivariateNormal(MEAN + torch.tensor([900, 0.5]), scale_tril=2 * FACTOR), 300, 2)
    return one, two


def mixed(parts: tuple[Tensor, ...]) -> Tensor:
    z = torch.cat(parts)
    return z[torch.randperm(len(z), generator=torch.Generator().manual_seed(3))]


# The mixture


def test_one_component_is_the_gaussian_with_the_mean_and_covariance_of_the_codes():
    z, elsewhere = draw(SKEWED, 300), draw(SKEWED, 200, seed=5) * 1.5
    truth = MultivariateNormal(z.mean(0), torch.cov(z.T, correction=0))
    found = AggregatePosterior(z, components=1).log_prob(elsewhere)
    torch.testing.assert_close(found, truth.log_prob(elsewhere), rtol=1e-4, atol=1e-4)


def test_two_components_are_the_gaussians_of_two_clusters():
    parts = two_clusters()
    truth = MixtureSameFamily(
        Categorical(torch.tensor([0.7, 0.3], dtype=torch.float64)),
        MultivariateNormal(
            torch.stack([part.mean(0) for part in parts]),
            torch.stack([torch.cov(part.T, correction=0) for part in parts]),
        ),
    )
    mixture = AggregatePosterior(mixed(parts), components=2)
    # Covariances are a little larger than those of the codes, so that none is singular.
    z = torch.cat([part[:100] for part in parts])
    torch.testing.assert_close(mixture.log_prob(z), truth.log_prob(z), rtol=0.01, atol=0.01)


def test_the_density_follows_a_change_of_variables_to_very_different_scales():
    z = mixed((standard(200), 0.5 * standard(200, seed=1) + 4))
    scale, shift = torch.tensor([1e-3, 200.0]).double(), torch.tensor([5.0, -70.0]).double()
    found = AggregatePosterior(z * scale + shift, components=3).log_prob(z * scale + shift)
    truth = AggregatePosterior(z, components=3).log_prob(z) - scale.log().sum()
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-6)


def test_the_density_integrates_to_1():
    z = mixed((standard(300), 0.3 * standard(150, seed=1) + 3)) * torch.tensor([1.0, 0.05])
    sides = (torch.linspace(-9, 9, 501) * s for s in (1.0, 0.05))
    grid = torch.cartesian_prod(*sides).double()
    cell = (18 / 500) ** 2 * 0.05
    total = AggregatePosterior(z).log_prob(grid).exp().sum().item() * cell
    assert total == pytest.approx(1, abs=1e-3)


def test_codes_in_single_precision_give_the_same_density_in_single_precision():
    z = draw(SKEWED, 300).float()
    found = AggregatePosterior(z, components=1).log_prob(z)
    assert found.dtype == torch.float32
    truth = AggregatePosterior(z.double(), components=1).log_prob(z.double())
    torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("n", "components"), [(9, 10), (0, 10), (2, 3)])
def test_fewer_codes_than_components_are_an_error(n, components):
    message = f"got {n} codes; expected at least one for each component"
    with pytest.raises(ValueError, match=message):
        AggregatePosterior(torch.zeros(n, 2), components=components)


# Samples


def test_samples_have_the_mean_and_the_covariance_of_the_codes():
    # After a step of expectation maximisation, those of the mixture are those of the codes.
    z, n = mixed(two_clusters()), 20_000
    drawn = AggregatePosterior(z, components=2).sample(n)
    assert (drawn.shape, drawn.dtype) == ((n, 2), torch.float64)
    assert ((drawn.mean(0) - z.mean(0)) / z.std(0)).abs().max() < 5 / math.sqrt(n)
    moments = [torch.cov(((x - z.mean(0)) / z.std(0)).T) for x in (drawn, z)]
    # A product of two standardised codes has a variance of a few units at most.
    torch.testing.assert_close(*moments, rtol=0, atol=10 / math.sqrt(n))


def test_samples_come_from_all_clusters_and_in_no_order():
    drawn = AggregatePosterior(mixed(two_clusters()), components=2).sample(4000)
    far = (drawn[:, 0] > 450).double()
    assert ((drawn[:, 0] - 450).abs() > 100).all()  # nothing between the clusters
    for part in (far, far[:2000], far[2000:], far[:200]):
        assert abs(part.mean().item() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / len(part))
    changes = (far[1:] != far[:-1]).double().mean().item()
    assert changes == pytest.approx(2 * 0.3 * 0.7, abs=0.05)


def test_the_density_of_samples_has_the_entropy_of_the_gaussian():
    z = draw(SKEWED, 2000)
    mixture = AggregatePosterior(z, components=1)
    log_prob = mixture.log_prob(mixture.sample(20_000))
    truth = MultivariateNormal(z.mean(0), torch.cov(z.T)).entropy().item()
    # log q of a Gaussian in two dimensions has a variance of 1.
    assert -log_prob.mean().item() == pytest.approx(truth, abs=5 / math.sqrt(20_000))


def test_samples_of_codes_in_single_precision_are_in_single_precision():
    assert AggregatePosterior(standard(50).float()).sample(3).dtype == torch.float32


def test_the_mixture_depends_on_its_seeds_and_on_no_global_stream(rng_untouched):
    z = mixed((standard(100), standard(100, seed=1) + 2))
    with rng_untouched():
        first = AggregatePosterior(z, seed=3)
        drawn = first.sample(20, seed=4)
    torch.manual_seed(77)
    np.random.seed(77)
    same = AggregatePosterior(z, seed=3)
    assert torch.equal(same.log_prob(z), first.log_prob(z))
    assert torch.equal(same.sample(20, seed=4), drawn)
    assert not torch.equal(same.sample(20, seed=5), drawn)
    assert not torch.equal(AggregatePosterior(z, seed=4).log_prob(z), first.log_prob(z))


# Mismatch and correlation


@pytest.mark.parametrize(("components", "n"), [(1, 4000), (10, 8000)])
def test_the_mismatch_of_gaussian_codes_is_their_divergence_from_the_prior(components, n):
    q = MultivariateNormal(
        torch.tensor([0.5, -0.3, 0.0], dtype=torch.float64),
        torch.tensor([[0.4, 0.2, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 1.6]], dtype=torch.float64),
    )
    truth = 0.5 * (2.5 + 0.34 - 3 - torch.linalg.det(q.covariance_matrix).log().item())
    train, test = draw(q, n), draw(q, n, seed=1)
    p = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    spread = (q.log_prob(test) - p.log_prob(test)).std().item()
    # The sample, and the parameters of the mixture: 9 + 1 for a component, n times 2 in the error.
    error = 4 * spread / math.sqrt(n) + 10 * components / (2 * n)
    found = AggregatePosterior(train, components=components).mismatch(test)
    assert truth > 10 * error
    assert found == pytest.approx(truth, abs=error)


@pytest.mark.parametrize(("components", "tolerance"), [(1, 2e-3), (10, 0.03)])
def test_the_mismatch_of_standard_normal_codes_is_about_zero(components, tolerance):
    mixture = AggregatePosterior(standard(8000), components=components)
    # Ten components are left a little short of the best fit, at which they would agree as well.
    assert mixture.mismatch(standard(8000, seed=1)) == pytest.approx(0, abs=tolerance)


def test_the_mismatch_is_the_gain_of_the_bound_under_another_prior():
    z, other = draw(SKEWED, 300).float(), draw(SKEWED, 100, seed=1).float()
    mixture = AggregatePosterior(z, components=2)
    gain = [
        mixture.log_prob(code[None]).item() - Normal(0.0, 1.0).log_prob(code).sum().item()
        for code in other
    ]
    assert mixture.mismatch(other) == pytest.approx(math.fsum(gain) / 100, rel=1e-5)


def test_the_mismatch_looks_better_on_the_codes_of_the_fit():
    mixture = AggregatePosterior(standard(100))
    assert mixture.mismatch(standard(100)) > 0.05 > mixture.mismatch(standard(1000, seed=1))


@pytest.mark.parametrize("slope", [0.0, 0.5, -3.0])
def test_the_total_correlation_in_two_dimensions_is_its_closed_form(slope):
    z = standard(500)
    z = torch.stack((100 + 7 * z[:, 0], slope * z[:, 0] + z[:, 1]), dim=1)
    r = np.corrcoef(z[:, 0], z[:, 1])[0, 1]
    truth = -0.5 * math.log(1 - r**2)
    assert gaussian_total_correlation(z) == pytest.approx(truth, rel=1e-9)
    assert gaussian_total_correlation(z.float()) == pytest.approx(truth, rel=1e-3)


def test_the_total_correlation_is_the_divergence_from_the_product_of_the_margins():
    q = MultivariateNormal(
        torch.zeros(3).double(),
        torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64),
    )
    covariance = torch.cov(draw(q, 400).T)
    q = MultivariateNormal(torch.zeros(3).double(), covariance)
    margins = MultivariateNormal(torch.zeros(3).double(), covariance.diag().diag())
    truth = kl_divergence(q, margins).item()
    # The sample's own covariance is the truth, so that there is no sampling error.
    z = standard(400, d=3)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    assert gaussian_total_correlation(z @ q.scale_tril.T) == pytest.approx(truth, rel=1e-9)


def test_dependence_without_correlation_escapes_the_total_correlation():
    x = torch.linspace(-1, 1, 101).double()
    assert gaussian_total_correlation(torch.stack((x, x.square()), dim=1)) == pytest.approx(0)


def test_one_dimension_has_nothing_to_be_correlated_with():
    assert gaussian_total_correlation(standard(50, d=1)) == pytest.approx(0)


# Codes


def constant_posterior(make_vae, mu: list[float], sigma: list[float]) -> VAE:
    """A VAE with one posterior, whatever the image."""
    vae = make_vae(hidden=())
    (layer,) = vae.encoder.layers
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor([*mu, *(2 * math.log(s) for s in sigma)])
    return vae


def test_codes_have_the_mean_and_the_spread_of_the_posterior(make_vae):
    vae, n = constant_posterior(make_vae, [3.0, -1.0], [0.1, 2.0]), 4000
    z = codes(vae, torch.zeros(n, 1, 4, 4))
    assert (z.shape, z.dtype, z.requires_grad) == ((n, 2), torch.float32, False)
    sigma = torch.tensor([0.1, 2.0])
    assert ((z.mean(0) - torch.tensor([3.0, -1.0])) / sigma).abs().max() < 4 / math.sqrt(n)
    assert (z.std(0) / sigma - 1).abs().max() < 4 / math.sqrt(2 * n)
    assert abs(torch.corrcoef(z.T)[0, 1].item()) < 4 / math.sqrt(n)


def test_every_code_is_drawn_from_the_posterior_of_its_image(make_vae):
    vae = make_vae(seed=2)
    x = torch.rand(2300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mu, logvar = (out.detach() for out in vae.encoder(x))
    assert (mu.std(0) > 0.1).all()
    vae.encoder.layers[-1].bias.data[2:] -= 20  # hardly any noise
    torch.testing.assert_close(codes(vae, x), mu, rtol=0, atol=1e-3)
    vae.encoder.layers[-1].bias.data[2:] += 20
    noise = (codes(vae, x) - mu) / (logvar / 2).exp()
    for part in (noise, noise[:1000], noise[1000:]):
        n = len(part)
        assert part.mean(0).abs().max() < 4 / math.sqrt(n)
        assert (part.std(0) - 1).abs().max() < 4 / math.sqrt(2 * n)
    assert len(noise.unique()) == noise.numel()  # every pass has noise of its own


def test_codes_depend_on_the_seed_and_on_no_global_stream(make_vae, images, rng_untouched):
    vae = make_vae()
    with rng_untouched():
        first = codes(vae, images, seed=3)
    torch.manual_seed(77)
    assert torch.equal(codes(vae, images, seed=3), first)
    assert torch.equal(codes(vae, images.flatten(1), seed=3), first)
    assert not torch.equal(codes(vae, images, seed=4), first)


@pytest.mark.parametrize("training", [True, False])
def test_codes_do_not_depend_on_the_training_mode_and_keep_it(images, training):
    sizes = {"latent_dim": 2, "hidden": (16,), "image_shape": (1, 4, 4)}
    vae = VAE(
        encoder=MLPEncoder(activation=nn.Dropout, **sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(),
    )
    expected = codes(vae.eval(), images)
    assert torch.equal(codes(vae.train(training), images), expected)
    assert all(module.training is training for module in vae.modules())


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 5, 4), ValueError, r"images have shape \[3, 1, 5, 4\]"),
        (torch.zeros(3, 1, 4, 4).double(), TypeError, "images are torch.float64"),
    ],
    ids=["whole-numbers", "shape", "double"],
)
def test_codes_of_images_that_do_not_suit_the_model_are_refused(make_vae, bad, error, message):
    with pytest.raises(error, match=message):
        codes(make_vae(), bad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_codes_of_a_model_on_the_gpu_have_the_same_noise(make_vae, images):
    on_cpu = codes(make_vae(), images)
    on_gpu = codes(make_vae().cuda(), images)
    assert on_gpu.device.type == "cpu"
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=1e-4)


# Mutual information


def channel(make_vae, slope: list[float], sigma: list[float]) -> VAE:
    """A VAE whose unit d sees pixel d times a slope, with noise of a scale."""
    d = len(slope)
    vae = make_vae(hidden=(), latent_dim=d)
    (layer,) = vae.encoder.layers
    nn.init.zeros_(layer.weight)
    layer.weight.data[range(d), range(d)] = torch.tensor(slope)
    layer.bias.data = torch.tensor([0.0] * d + [2 * math.log(s) for s in sigma])
    return vae


def pixels(x: Tensor) -> Tensor:
    """Images whose first pixels are the columns of x, and all others 0."""
    return nn.functional.pad(x.float(), (0, 16 - x.shape[1]))


@pytest.mark.parametrize(
    ("slope", "sigma"),
    [([0.5], [1.0]), ([1.0, 0.0], [1.0, 0.3]), ([0.6, 3.0], [0.5, 6.0])],
    ids=["one", "one-of-two", "two"],
)
def test_the_information_through_a_gaussian_channel_is_its_closed_form(make_vae, slope, sigma):
    vae, n = channel(make_vae, slope, sigma), 3000
    snr = [(s / t) ** 2 for s, t in zip(slope, sigma, strict=True)]
    truth = sum(0.5 * math.log(1 + r) for r in snr)
    # log q(z|x) - log q(z) of a Gaussian channel has the variance snr / (1 + snr) per dimension.
    error = math.sqrt(sum(r / (1 + r) for r in snr) / n)
    assert truth > 3 * error
    found = mutual_information(vae, pixels(standard(n, len(slope))))
    assert found == pytest.approx(truth, abs=3 * error)


def test_the_information_equals_an_explicit_double_loop(make_vae, images):
    vae, x = make_vae(seed=2), images[:47]
    mu, logvar = (out.detach().double() for out in vae.encoder(x))
    z = codes(vae, x, seed=3).double()
    total = 0.0
    for n in range(47):
        densities = [
            math.exp(Normal(m, (v / 2).exp()).log_prob(z[n]).sum().item())
            for m, v in zip(mu, logvar, strict=True)
        ]
        total += math.log(densities[n] / (math.fsum(densities) / 47)) / 47
    assert 0.05 < total < math.log(47)
    assert mutual_information(vae, x, seed=3) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("n", [1, 19, 20, 50])
def test_images_that_are_told_apart_without_error_give_log_n_nats(make_vae, n):
    vae = channel(make_vae, [1.0, 1.0], [1e-3, 1e-3])
    x = pixels(torch.arange(n)[:, None].repeat(1, 2))
    assert mutual_information(vae, x) == pytest.approx(math.log(n), abs=1e-5)


@pytest.mark.parametrize("log_scale", [-8.0, -3.0, 0.0])
def test_no_more_than_log_n_nats_are_seen(make_vae, images, log_scale):
    for seed in range(5):
        vae = make_vae(latent_dim=4, seed=seed)
        vae.encoder.layers[-1].bias.data[4:] += log_scale
        assert mutual_information(vae, images, seed=seed) <= math.log(50) + 1e-5


def test_a_code_that_ignores_the_image_tells_nothing(make_vae, images):
    vae = constant_posterior(make_vae, [3.0, -1.0], [0.1, 2.0])
    assert mutual_information(vae, images) == pytest.approx(0, abs=1e-5)


def test_the_information_depends_on_the_seed_and_on_nothing_else(make_vae, images, rng_untouched):
    vae = make_vae(seed=2)
    with rng_untouched():
        first = mutual_information(vae.train(), images, seed=3)
    assert vae.training
    torch.manual_seed(77)
    assert mutual_information(vae.eval(), images.flatten(1), seed=3) == first
    assert not vae.training
    assert mutual_information(vae, images, seed=4) != first
    order = torch.randperm(50)
    error = 4 / math.sqrt(50)  # another draw of z for each image
    assert mutual_information(vae, images[order], seed=3) == pytest.approx(first, abs=error)
    exact = mutual_information(vae.double(), images.double(), seed=3)
    assert exact == pytest.approx(first, abs=1e-5)
