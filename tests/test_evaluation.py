import math
import statistics
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from vaelib import VAE, Autoencoder, Bernoulli, MLPDecoder, MLPEncoder
from vaelib.evaluation import (
    LogLikelihood,
    Report,
    active_units,
    elbo_per_image,
    evaluate,
    fixed_subset,
    log_likelihood,
    posterior_of,
    posterior_scale,
    rate_per_unit,
    reconstruction_rmse,
)
from vaelib.objectives import elbo, reconstruction
from vaelib.posteriors import DiagonalNormal
from vaelib.seeding import generator


@pytest.fixture
def vae(make_vae) -> VAE:
    return make_vae(hidden=(16,), seed=1)


@pytest.fixture
def autoencoder() -> Autoencoder:
    sizes = {"latent_dim": 2, "image_shape": (1, 4, 4)}
    return Autoencoder(
        encoder=MLPEncoder(**sizes), decoder=MLPDecoder(**sizes), likelihood=Bernoulli()
    )


def noise(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=generator(seed, "evaluation"))


def test_every_image_equals_an_explicit_loop(vae, images):
    terms = elbo_per_image(vae, images)
    assert (terms.distortion.shape, terms.rate.shape) == ((50,), (50,))
    for i, eps in enumerate(noise(50)):
        mu, logvar = (out.detach()[0].double() for out in vae.encoder(images[i : i + 1]))
        z = mu + (logvar / 2).exp() * eps
        p = vae.decoder(z.float()[None]).detach().double().sigmoid().flatten()
        x = images[i].flatten()
        distortion = -(x * p.log() + (1 - x) * (1 - p).log()).sum().item()
        rate = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum().item()
        assert terms.distortion[i].item() == pytest.approx(distortion, abs=1e-4)
        assert terms.rate[i].item() == pytest.approx(rate, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 128, 50])
def test_no_image_depends_on_the_batch_size(vae, images, batch_size):
    terms = elbo_per_image(vae, images, batch_size=batch_size)
    whole = elbo_per_image(vae, images)
    torch.testing.assert_close(terms.distortion, whole.distortion, rtol=0, atol=1e-4)
    torch.testing.assert_close(terms.rate, whole.rate, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 128, 50])
def test_the_report_is_the_sum_over_images_divided_by_their_number(vae, images, batch_size):
    report = evaluate(vae, images, batch_size=batch_size)
    terms = elbo(vae, images, noise=noise(50))
    distortion, rate = terms.distortion.tolist(), terms.rate.tolist()
    assert report.distortion == pytest.approx(math.fsum(distortion) / 50, abs=1e-5)
    assert report.rate == pytest.approx(math.fsum(rate) / 50, abs=1e-5)
    bound = [d + r for d, r in zip(distortion, rate, strict=True)]
    assert report.negative_elbo == pytest.approx(math.fsum(bound) / 50, abs=1e-5)
    error = statistics.stdev(bound) / math.sqrt(50)
    assert report.standard_error == pytest.approx(error, rel=1e-4)
    assert report.n == 50


def test_a_short_last_batch_of_hard_images_weighs_what_it_should(vae, images):
    with torch.no_grad():
        vae.decoder.layers[-1].weight.zero_()
        vae.decoder.layers[-1].bias.fill_(3)  # sure that every pixel is 1
    x = torch.ones(18, 1, 4, 4)
    x[16:] = 0
    easy, hard = 16 * math.log1p(math.exp(-3)), 16 * math.log1p(math.exp(3))
    report = evaluate(vae, x, batch_size=16)
    assert report.distortion == pytest.approx((16 * easy + 2 * hard) / 18, rel=1e-6)
    assert abs((easy + hard) / 2 - report.distortion) > 10  # what a mean of batch means would say


def test_the_order_of_the_images_permutes_the_results(vae, images):
    vae, images, order = vae.double(), images.double(), torch.randperm(50)
    straight = elbo(vae, images, noise=noise(50))
    permuted = elbo(vae, images[order], noise=noise(50)[order])
    torch.testing.assert_close(permuted.distortion, straight.distortion[order])
    torch.testing.assert_close(permuted.rate, straight.rate[order])


def test_the_order_of_the_images_changes_the_mean_by_its_noise_only(vae, images):
    report = evaluate(vae, images)
    permuted = evaluate(vae, images[torch.randperm(50)])
    assert permuted.rate == pytest.approx(report.rate, abs=1e-6)
    assert abs(permuted.distortion - report.distortion) < 4 * report.standard_error


@pytest.mark.parametrize("training", [False, True])
def test_the_training_mode_makes_no_difference_and_is_kept(training, images):
    sizes = {"latent_dim": 2, "hidden": (16,), "image_shape": (1, 4, 4)}
    vae = VAE(
        encoder=MLPEncoder(activation=nn.Dropout, **sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(),
    )
    expected = elbo(vae.eval(), images, noise=noise(50))
    vae.train(training)
    terms = elbo_per_image(vae, images)
    assert all(module.training is training for module in vae.modules())
    torch.testing.assert_close(terms.distortion, expected.distortion.detach())


def test_a_sample_is_scored_in_either_mode_and_not_the_mean(vae, images):
    at_the_mean = elbo(vae, images, noise=torch.zeros(50, 2)).distortion
    for mode in (True, False):
        distortion = elbo_per_image(vae.train(mode), images).distortion
        assert (distortion - at_the_mean).abs().min() > 0


def test_the_training_mode_survives_an_error(vae, images):
    def objective(*_, **__):
        raise RuntimeError("broken objective")

    vae.train()
    with pytest.raises(RuntimeError, match="broken objective"):
        evaluate(vae, images, objective=objective)
    assert vae.training


def test_the_result_depends_on_the_seed_and_on_no_global_stream(vae, images, rng_untouched):
    with rng_untouched():
        first = evaluate(vae, images, seed=3)
    torch.manual_seed(99)
    assert evaluate(vae, images, seed=3) == first
    other = evaluate(vae, images, seed=4)
    assert other.distortion != first.distortion
    assert other.rate == first.rate


def test_the_weights_are_left_as_they_were_and_have_no_gradient(vae, images):
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    terms = elbo_per_image(vae, images)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())
    assert not terms.distortion.requires_grad


@pytest.mark.parametrize("latent_dim", [2, 10])
def test_the_report_of_ppca_is_its_log_p(make_ppca, latent_dim):
    ppca = make_ppca(latent_dim)
    terms = elbo_per_image(ppca.vae, ppca.x)
    gap = terms.distortion + terms.rate + ppca.log_p
    error = statistics.stdev(gap.tolist()) / len(gap) ** 0.5
    report = evaluate(ppca.vae, ppca.x)
    assert abs(report.negative_elbo + ppca.log_p.mean().item()) < 4 * error
    mu, std = ppca.posterior_mean, ppca.posterior_std
    rate = 0.5 * (mu**2 + std**2 - 1 - 2 * std.log()).sum(1)
    torch.testing.assert_close(terms.rate, rate)


def test_an_autoencoder_is_measured_by_its_reconstruction(autoencoder, images):
    report = evaluate(autoencoder, images, objective=reconstruction, batch_size=7)
    p = autoencoder.reconstruct(images)
    truth = -(images * p.log() + (1 - images) * (1 - p).log()).flatten(1).sum(1).mean()
    assert report.distortion == pytest.approx(truth.item(), rel=1e-5)
    assert report.rate == 0
    assert report.negative_elbo == report.distortion


def test_flat_images_give_the_same_report(vae, images):
    assert evaluate(vae, images.flatten(1)) == evaluate(vae, images)


def test_one_image_has_no_standard_error(vae, images):
    report = evaluate(vae, images[:1])
    assert report.n == 1
    assert math.isnan(report.standard_error)


def test_the_report_reads_as_one_line():
    report = Report(distortion=100.126, rate=6.125, standard_error=0.5, n=10_000)
    assert report.negative_elbo == pytest.approx(106.251)
    assert str(report) == "-ELBO 106.25 = distortion 100.13 + rate 6.12 nats (n = 10,000)"


@pytest.mark.parametrize("measure", [evaluate, elbo_per_image])
@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_a_bad_batch_size_is_named(vae, images, measure, batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; expected a whole number"):
        measure(vae, images, batch_size=batch_size)


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (0, 16)])
def test_no_images_are_an_error(vae, shape):
    with pytest.raises(ValueError, match="there are no images"):
        evaluate(vae, torch.zeros(shape))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 4, 5), ValueError, r"images have shape \[3, 1, 4, 5\]"),
        (torch.full((3, 1, 4, 4), 0.5), ValueError, "grey values"),
        (torch.full((3, 1, 4, 4), 2.0), ValueError, r"images lie in \[2, 2\]"),
        (torch.full((3, 1, 4, 4), math.nan), ValueError, "48 values that are NaN"),
    ],
)
def test_images_that_do_not_suit_the_model_are_refused(vae, bad, error, message):
    with pytest.raises(error, match=message):
        evaluate(vae, bad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_measures_the_same_at_the_same_noise(vae, images):
    on_cpu = elbo_per_image(vae, images)
    on_gpu = elbo_per_image(vae.cuda(), images)  # images may be anywhere
    assert on_gpu.distortion.device.type == "cpu"
    torch.testing.assert_close(on_gpu.distortion, on_cpu.distortion, rtol=0, atol=1e-3)
    torch.testing.assert_close(on_gpu.rate, on_cpu.rate, rtol=0, atol=1e-3)


def test_the_fixed_subset_is_distinct_images_and_always_the_same():
    images = torch.arange(100.0).view(100, 1)
    subset = fixed_subset(images, 30)
    assert len(set(subset.flatten().tolist())) == 30
    assert torch.equal(subset, fixed_subset(images, 30))
    assert fixed_subset(images, 100) is images


def test_the_fixed_subset_does_not_follow_a_pattern_in_the_order():
    # Every second image of MNIST has less ink: a stride of an even number would see only those.
    images = torch.arange(12_000.0).remainder(2).view(-1, 1)
    assert fixed_subset(images, 2000).mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)


def test_the_fixed_subset_comes_from_all_of_a_sorted_data_set():
    # Ten classes, one after the other. The shares in a random tenth are 0.1 each, with a standard
    # deviation of at most (0.1 * 0.9 / 500)^0.5; the first, or every tenth, are of one class only.
    classes = torch.arange(5000).div(500, rounding_mode="floor").float()
    for images in (classes, torch.arange(5000.0).remainder(10)):
        shares = torch.bincount(fixed_subset(images.view(-1, 1), 500).flatten().long()) / 500
        assert len(shares) == 10
        assert (shares - 0.1).abs().max() < 4 * (0.1 * 0.9 / 500) ** 0.5


@pytest.mark.parametrize("sampled", [True, False])
def test_the_error_of_every_reconstruction_equals_an_explicit_loop(vae, images, sampled):
    errors = reconstruction_rmse(vae, images, sampled=sampled, seed=3)
    assert errors.shape == (50,)
    for i, eps in enumerate(noise(50, seed=3)):
        mu, logvar = (out.detach()[0] for out in vae.encoder(images[i : i + 1]))
        z = mu + (logvar / 2).exp() * eps if sampled else mu
        mean = vae.decoder(z[None]).sigmoid().flatten().tolist()
        squares = [(a - b) ** 2 for a, b in zip(images[i].flatten().tolist(), mean, strict=True)]
        assert errors[i].item() == pytest.approx(math.sqrt(math.fsum(squares) / 16), rel=1e-5)


@pytest.mark.parametrize("sampled", [True, False])
def test_the_error_of_an_autoencoder_is_that_of_its_code(autoencoder, images, sampled):
    errors = reconstruction_rmse(autoencoder, images, sampled=sampled)
    mean = autoencoder.decoder(autoencoder.encoder(images)[0]).sigmoid().detach()
    truth = (images - mean).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(errors, truth)


def test_the_error_of_more_images_than_one_pass_takes_is_that_of_each(vae):
    x = torch.rand(2300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mu, logvar = vae.encoder(x)
    mean = vae.decoder(mu + (logvar / 2).exp() * noise(2300)).sigmoid().detach()
    truth = (x - mean).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(reconstruction_rmse(vae, x), truth)


def test_the_error_depends_on_the_seed_and_on_no_global_stream(vae, images, rng_untouched):
    with rng_untouched():
        first = reconstruction_rmse(vae, images, seed=3)
    torch.manual_seed(99)
    assert torch.equal(reconstruction_rmse(vae, images, seed=3), first)
    assert not torch.equal(reconstruction_rmse(vae, images, seed=4), first)
    assert torch.equal(reconstruction_rmse(vae, images.flatten(1), seed=3), first)
    assert not first.requires_grad


@pytest.mark.parametrize(
    "measure",
    [
        reconstruction_rmse,
        partial(reconstruction_rmse, sampled=False),
        rate_per_unit,
        partial(active_units, threshold=0.1),
        posterior_scale,
    ],
    ids=["rmse", "rmse-of-the-mean", "rate", "active", "scale"],
)
def test_no_measure_depends_on_the_training_mode(measure, images):
    sizes = {"latent_dim": 2, "hidden": (16,), "image_shape": (1, 4, 4)}
    vae = VAE(
        encoder=MLPEncoder(activation=nn.Dropout, **sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(),
    )
    torch.manual_seed(0)
    expected = measure(vae.eval(), images)
    for training in (True, False):
        vae.train(training)
        torch.testing.assert_close(measure(vae, images), expected)
        assert all(module.training is training for module in vae.modules())


def test_the_posterior_of_all_images_is_that_of_each(make_vae):
    vae = make_vae(seed=2)
    x = torch.rand(1300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    q = posterior_of(vae, x)
    mu, logvar = vae.encoder(x)
    torch.testing.assert_close(q.mu, mu.detach())
    torch.testing.assert_close(q.stddev, (logvar / 2).exp().detach())
    assert not q.mu.requires_grad
    assert torch.equal(posterior_of(vae, x.flatten(1)).mu, q.mu)


def test_the_rates_of_the_units_equal_those_of_torch_and_sum_to_the_rate(make_vae):
    vae = make_vae(latent_dim=3, seed=2)
    # 1000 images and then 300 others: a mean of batch means would weigh them alike.
    x = torch.rand(1300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[1000:] = 1
    rates = rate_per_unit(vae, x)
    mu, logvar = vae.encoder(x)
    truth = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean(0)
    assert rates.shape == (3,)
    torch.testing.assert_close(rates, truth.detach())
    report = evaluate(make_vae(latent_dim=3, likelihood=Bernoulli(grey=True), seed=2), x)
    assert rates.sum().item() == pytest.approx(report.rate, rel=1e-5)
    assert not rates.requires_grad


@pytest.mark.parametrize(
    ("scale", "sigma"), [("exp", lambda r: (r / 2).exp()), ("softplus", F.softplus)]
)
def test_the_scale_of_a_unit_is_the_mean_of_sigma_over_the_images(make_vae, scale, sigma):
    vae = make_vae(latent_dim=3, scale=scale, seed=2)
    # 1000 images and then 300 others: a mean of batch means would weigh them alike.
    x = torch.rand(1300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[1000:] = 1
    found = posterior_scale(vae, x)
    columns = sigma(vae.encoder(x)[1].detach()).double().T.tolist()
    assert found.tolist() == pytest.approx([statistics.fmean(c) for c in columns], rel=1e-5)
    root_of_the_mean_variance = [math.hypot(*c) / math.sqrt(1300) for c in columns]
    assert found.tolist() != pytest.approx(root_of_the_mean_variance, rel=1e-4)
    assert not found.requires_grad
    assert torch.equal(posterior_scale(vae, x.flatten(1)), found)


def test_the_scale_of_a_unit_that_is_not_used_is_1(make_vae, images):
    vae = make_vae()
    nn.init.zeros_(vae.encoder.layers[-1].weight)  # the posterior of every image is the prior
    assert posterior_scale(vae, images).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 4, 5), ValueError, r"images have shape \[3, 1, 4, 5\]"),
    ],
    ids=["whole-numbers", "shape"],
)
def test_the_scale_refuses_images_that_do_not_suit_the_model(vae, bad, error, message):
    with pytest.raises(error, match=message):
        posterior_scale(vae, bad)


@pytest.fixture
def hand_built(make_vae) -> VAE:
    """Means: 0.202 and 0.198 times the first pixel, then a constant; the noise is large."""
    vae = make_vae(latent_dim=3, hidden=())
    (layer,) = vae.encoder.layers
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:2, 0] = torch.tensor([0.202, 0.198])
        layer.bias.copy_(torch.tensor([0.0, -1.0, 5.0, 3.0, 3.0, 3.0]))
    return vae


def test_a_unit_is_active_if_its_mean_varies_over_the_images(hand_built):
    # The first pixel has a variance of 1/4, and each mean (0.202 / 2)^2 and (0.198 / 2)^2 of it:
    # just above and just below 0.01. All of it is between the passes of 1000 images.
    x = torch.zeros(2000, 1, 4, 4)
    x[1000:] = 1
    assert active_units(hand_built, x).tolist() == [True, False, False]
    assert active_units(hand_built, x.flatten(1)).tolist() == [True, False, False]
    assert active_units(hand_built, x, threshold=0.009).tolist() == [True, True, False]
    assert active_units(hand_built, x, threshold=0.011).tolist() == [False, False, False]


def test_on_equal_images_no_unit_is_active(hand_built):
    assert not active_units(hand_built, torch.ones(20, 1, 4, 4)).any()


# Importance sampling


@pytest.fixture
def astray(make_vae) -> VAE:
    """A VAE in double precision whose encoder is off, and whose code matters."""
    vae = make_vae(hidden=(16,), seed=1).double()
    with torch.no_grad():
        vae.decoder.layers[0].weight *= 3
        vae.encoder.layers[-1].bias += torch.tensor([0.5, -0.3, -0.2, 0.2])
    return vae


def log_weights(vae: VAE, x: torch.Tensor, z: torch.Tensor, q=None) -> torch.Tensor:
    """log p(x | z) + log p(z) - log q(z | x) for samples [K, N, D], by torch's distributions."""
    with torch.no_grad():
        if q is None:
            mu, logvar = vae.encoder(x)
            q = Normal(mu, (logvar / 2).exp())
        logits = vae.decoder(z)
        loss = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
        return prior - q.log_prob(z).sum(-1) - loss.sum((-3, -2, -1))


@pytest.mark.parametrize("k", [1, 3, 120])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str
)
def test_with_the_exact_posterior_any_number_of_samples_gives_log_p_of_ppca(
    make_ppca, dtype, tolerance, k
):
    ppca = make_ppca(3, dtype)
    found = log_likelihood(ppca.vae, ppca.x[:200], k=k)
    assert found.value.dtype == found.effective_samples.dtype == torch.float64
    torch.testing.assert_close(found.value, ppca.log_p[:200], rtol=0, atol=tolerance)
    assert found.effective_samples.tolist() == pytest.approx([k] * 200, rel=tolerance)
    if k > 1:
        assert found.standard_error.max() < math.sqrt(tolerance)


def test_with_any_other_posterior_the_estimate_is_off_by_its_standard_error(make_ppca):
    ppca, n = make_ppca(3), 300
    (layer,) = ppca.vae.encoder.layers
    with torch.no_grad():
        layer.weight += 0.02 * normal(*layer.weight.shape)
        layer.bias[3:] += torch.tensor([0.6, 0.4, -0.2])
    found = log_likelihood(ppca.vae, ppca.x[:n], k=1000)
    assert found.effective_samples.median() < 900
    deviation = (found.value - ppca.log_p[:n]) / found.standard_error
    assert abs(deviation.mean().item()) < 4 / math.sqrt(n)
    assert deviation.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * n))
    _, error = found.standard_error_of_mean
    assert found.mean == pytest.approx(ppca.log_p[:n].mean().item(), abs=3 * error)
    assert error < 0.01


def normal(*shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def spied(vae: VAE) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Images that the encoder gets and codes that the decoder gets, noted from now on."""
    encoded, decoded = [], []
    vae.encoder.register_forward_pre_hook(lambda _, args: encoded.append(args[0].clone()))
    vae.decoder.register_forward_pre_hook(lambda _, args: decoded.append(args[0].clone()))
    return encoded, decoded


def by_image(blocks: list[torch.Tensor], n: int, k: int) -> torch.Tensor:
    """The k samples of each of n images, [k, n, D], from blocks in which these come in order."""
    samples, first, shown = [[] for _ in range(n)], 0, 0
    for block in blocks:
        if len(samples[first]) == k:
            first += shown
        shown = block.shape[-2]
        for i in range(shown):
            samples[first + i].extend(block.reshape(-1, shown, block.shape[-1])[:, i])
    assert [len(one) for one in samples] == [k] * n
    return torch.stack([torch.stack(one) for one in samples], dim=1)


@pytest.mark.parametrize(
    ("k", "rows"),
    [(1, None), (7, None), (7, 20), (60, 1), (5, 3), (50, 100), (51, 50), (120, 130), (1100, None)],
)
def test_the_estimate_equals_an_explicit_loop_in_bounded_memory(astray, images, k, rows):
    x = images[:5].double()
    encoded, decoded = spied(astray)
    found = log_likelihood(astray, x, k=k, rows=rows)
    assert torch.equal(torch.cat(encoded), x)  # each image once, whatever k and rows are
    assert max(z[..., 0].numel() for z in decoded) <= (rows or 1000)
    z = by_image(decoded, 5, k)
    assert len(z.unique()) == z.numel()  # no sample is used twice
    for i, log_w in enumerate(log_weights(astray, x, z).T.tolist()):
        largest = max(log_w)
        w = [math.exp(v - largest) for v in log_w]
        value = math.log(math.fsum(w) / k) + largest
        assert found.value[i].item() == pytest.approx(value, rel=1e-10)
        effective = math.fsum(w) ** 2 / math.fsum(v * v for v in w)
        assert found.effective_samples[i].item() == pytest.approx(effective, rel=1e-8)
        if k > 1:
            # The delta method: the standard deviation of log m is that of m divided by m.
            error = math.sqrt(statistics.variance(w) / k) / statistics.fmean(w)
            assert found.standard_error[i].item() == pytest.approx(error, rel=1e-6)


def test_the_samples_are_those_of_the_posterior_of_their_image(astray, images):
    x = images[:5].double()
    _, decoded = spied(astray)
    log_likelihood(astray, x, k=2000)
    z = by_image(decoded, 5, 2000)
    mu, logvar = (out.detach() for out in astray.encoder(x))
    noise = (z - mu) / (logvar / 2).exp()
    assert (noise.mean(0).abs() < 4 / math.sqrt(2000)).all()
    assert ((noise.std(0) - 1).abs() < 4 / math.sqrt(2 * 2000)).all()


def test_a_bernoulli_decoder_gets_the_log_p_of_a_sum_over_the_plane(
    astray, images, log_p_on_a_grid
):
    x = images.double()
    truth = log_p_on_a_grid(astray, x)
    found = log_likelihood(astray, x, k=1000)
    deviation = (found.value - truth) / found.standard_error
    assert abs(deviation.mean().item()) < 4 / math.sqrt(50)
    assert deviation.abs().max() < 5
    _, error = found.standard_error_of_mean
    assert found.mean == pytest.approx(truth.mean().item(), abs=3 * error)
    assert elbo(astray, x).elbo.mean() < truth.mean() - 10 * error


def test_more_samples_give_more_on_average_and_never_more_than_log_p(
    astray, images, log_p_on_a_grid
):
    x = images[:10].double()
    ladder = torch.tensor(
        [[log_likelihood(astray, x, k=k, seed=seed).mean for seed in range(40)] for k in (1, 5, 25)]
    )
    error = ladder.std(1).max().item() / math.sqrt(40)
    rises = ladder.mean(1).diff()
    assert (rises > 0).all()
    assert rises[0] > 3 * error
    truth = log_p_on_a_grid(astray, x).mean().item()
    assert ladder.mean(1)[-1].item() < truth + 3 * ladder[-1].std().item() / math.sqrt(40)


def test_the_standard_error_is_the_spread_over_repetitions(astray, images):
    x, repeats = images[:8].double(), 200
    runs = [log_likelihood(astray, x, k=100, seed=seed) for seed in range(repeats)]
    spread = torch.stack([run.value for run in runs]).std(0)
    claimed = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
    assert (claimed > 0.01).all()
    assert (claimed / spread - 1).abs().max() < 0.25
    assert (claimed / spread).mean().item() == pytest.approx(1, abs=0.1)
    means = statistics.stdev(run.mean for run in runs)
    assert means == pytest.approx(runs[0].standard_error_of_mean[1], rel=0.25)


def test_another_proposal_gives_the_same_log_p_and_no_look_at_the_encoder(
    astray, images, log_p_on_a_grid
):
    x = images[:20].double()
    proposal = DiagonalNormal(0.3 * normal(20, 2), torch.full((20, 2), 0.3, dtype=torch.float64))
    encoded, decoded = spied(astray)
    found = log_likelihood(astray, x, k=1000, proposal=proposal)
    assert encoded == []
    z = by_image(decoded, 20, 1000)
    noise = (z - proposal.mean) / proposal.stddev
    assert (noise.mean(0).abs() < 5 / math.sqrt(1000)).all()
    q = Normal(proposal.mean, proposal.stddev)
    truth = log_weights(astray, x, z, q).logsumexp(0) - math.log(1000)
    torch.testing.assert_close(found.value, truth)
    deviation = (found.value - log_p_on_a_grid(astray, x)) / found.standard_error
    assert abs(deviation.mean().item()) < 4 / math.sqrt(20)


def test_the_encoder_is_the_proposal_if_there_is_no_other(astray, images):
    x = images.double()
    found = log_likelihood(astray, x, k=10)
    given = log_likelihood(astray, x, k=10, proposal=posterior_of(astray, x))
    assert torch.equal(found.value, given.value)


def test_one_sample_has_no_standard_error_and_is_one_effective_sample(astray, images):
    found = log_likelihood(astray, images.double(), k=1)
    assert found.value.isfinite().all()
    assert found.standard_error.isnan().all()
    torch.testing.assert_close(found.effective_samples, torch.ones(50, dtype=torch.float64))
    assert math.isfinite(found.standard_error_of_mean[0])
    assert math.isnan(found.standard_error_of_mean[1])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)], ids=str
)
def test_weights_that_underflow_are_added_all_the_same(astray, images, dtype, tolerance):
    x, k = images[:5].to(dtype), 70
    astray.to(dtype).decoder.layers[-1].bias.data -= 1000  # sure that every pixel is 0
    _, decoded = spied(astray)
    found = log_likelihood(astray, x, k=k)
    z = by_image(decoded, 5, k).double()
    log_w = log_weights(astray.double(), x.double(), z)
    assert (log_w[:, x.flatten(1).sum(1) > 6] < -6000).all()
    truth = log_w.logsumexp(0) - math.log(k)
    torch.testing.assert_close(found.value, truth, rtol=tolerance, atol=0)
    share = log_w.softmax(0)
    effective = 1 / share.square().sum(0)
    torch.testing.assert_close(found.effective_samples, effective, rtol=1e4 * tolerance, atol=0)
    assert found.standard_error.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_log_p_does_not_depend_on_the_training_mode_and_keeps_it(images, training):
    sizes = {"latent_dim": 2, "hidden": (16,), "image_shape": (1, 4, 4)}
    vae = VAE(
        encoder=MLPEncoder(activation=nn.Dropout, **sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(),
    )
    expected = log_likelihood(vae.eval(), images, k=20)
    found = log_likelihood(vae.train(training), images, k=20)
    assert torch.equal(found.value, expected.value)
    assert all(module.training is training for module in vae.modules())


def test_log_p_restores_the_training_mode_after_an_error(vae, images):
    def broken(*_):
        raise RuntimeError("broken decoder")

    vae.train().decoder.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="broken decoder"):
        log_likelihood(vae, images, k=2)
    assert all(module.training for module in vae.modules())


def test_log_p_depends_on_the_seed_and_on_no_global_stream(vae, images, rng_untouched):
    with rng_untouched():
        first = log_likelihood(vae, images, k=30, seed=3)
    torch.manual_seed(99)
    again = log_likelihood(vae, images.flatten(1), k=30, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(log_likelihood(vae, images, k=30, seed=4).value, first.value)
    assert all(p.grad is None for p in vae.parameters())
    assert not any(part.requires_grad for part in first)
    assert {part.dtype for part in first} == {torch.float64}


def test_single_and_double_precision_agree(make_vae, images):
    single = log_likelihood(make_vae(seed=1), images, k=2000)
    double = log_likelihood(make_vae(seed=1).double(), images.double(), k=2000)
    error = (single.standard_error**2 + double.standard_error**2).sqrt()
    assert ((single.value - double.value).abs() < 5 * error + 1e-4).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_log_p_on_the_gpu_is_that_on_the_cpu(vae, images):
    on_cpu = log_likelihood(vae, images, k=2000)
    proposal = posterior_of(vae, images)
    for options in ({}, {"proposal": proposal}, {"rows": 77}):
        on_gpu = log_likelihood(vae.cuda(), images, k=2000, **options)
        assert {part.device.type for part in on_gpu} == {"cpu"}
        error = (on_cpu.standard_error**2 + on_gpu.standard_error**2).sqrt()
        assert ((on_cpu.value - on_gpu.value).abs() < 5 * error + 1e-4).all()


def test_the_mean_has_an_error_from_the_images_and_one_from_the_samples():
    value, error = [-90.0, -100.0, -83.5, -94.5], [0.1, 0.2, 0.4, 0.2]
    found = LogLikelihood(*(torch.tensor(v).double() for v in (value, error, [1.0] * 4)))
    assert found.mean == pytest.approx(-92)
    of_images, of_samples = found.standard_error_of_mean
    assert of_images == pytest.approx(statistics.stdev(value) / 2)
    assert of_samples == pytest.approx(math.sqrt(0.01 + 0.04 + 0.16 + 0.04) / 4)
    assert str(found) == (
        "log p(x) -92.00 nats (n = 4; standard error 3.49 from the images, 0.125 from the samples)"
    )


def test_one_image_has_an_error_from_the_samples_only():
    found = LogLikelihood(*(torch.tensor([v]).double() for v in (-90.0, 0.25, 8.0)))
    of_images, of_samples = found.standard_error_of_mean
    assert math.isnan(of_images)
    assert of_samples == 0.25


@pytest.mark.parametrize("name", ["k", "rows"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
def test_a_bad_number_of_samples_or_rows_is_named(vae, images, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected a whole number"):
        log_likelihood(vae, images, **{name: value})


@pytest.mark.parametrize("shape", [(49, 2), (50, 3), (1, 2), (2,), (3, 50, 2)], ids=str)
def test_a_proposal_that_is_not_one_for_each_image_is_refused(vae, images, shape):
    proposal = DiagonalNormal(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match=r"q has shape .*; expected \[50, 2\]: one G"):
        log_likelihood(vae, images, k=3, proposal=proposal)


BAD_IMAGES = pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 4, 5), ValueError, r"images have shape \[3, 1, 4, 5\]"),
        (torch.zeros(0, 1, 4, 4), ValueError, "there are no images; expected at least one"),
        (torch.full((3, 1, 4, 4), 0.5), ValueError, "grey values"),
        (torch.full((3, 1, 4, 4), math.nan), ValueError, "48 values that are NaN"),
    ],
    ids=["whole-numbers", "shape", "none", "grey", "nan"],
)


@BAD_IMAGES
def test_log_p_and_the_check_refuse_images_that_do_not_suit_the_model(vae, bad, error, message):
    for function in (VAE.checked_images, partial(log_likelihood, k=2)):
        with pytest.raises(error, match=message):
            function(vae, bad)


def test_checked_images_have_the_shape_of_images(vae, autoencoder, images):
    for model in (vae, autoencoder):
        assert torch.equal(model.checked_images(images.flatten(1)), images)
        assert torch.equal(model.checked_images(images), images)
