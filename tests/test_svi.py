import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import nn
from torch.distributions import Normal, kl_divergence

from vaelib import VAE, Bernoulli, MLPDecoder, MLPEncoder
from vaelib.evaluation import log_likelihood, posterior_of
from vaelib.objectives import elbo
from vaelib.posteriors import DiagonalNormal
from vaelib.svi import elbo_under, fit_posteriors


@pytest.fixture
def astray(make_vae) -> VAE:
    """A VAE in double precision whose encoder is off, and whose code matters."""
    vae = make_vae(hidden=(16,), seed=1).double()
    with torch.no_grad():
        vae.decoder.layers[0].weight *= 3
        vae.encoder.layers[-1].bias += torch.tensor([0.5, -0.3, -0.2, 0.2])
    return vae


def bounds(vae: VAE, x: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """The bound at two latent dimensions by Gauss-Hermite quadrature, [N]."""
    points, weights = np.polynomial.hermite_e.hermegauss(24)
    noise = torch.cartesian_prod(*[torch.from_numpy(points)] * 2)
    weight = torch.outer(*[torch.from_numpy(weights)] * 2).flatten() / (2 * math.pi)
    z = mu + (logvar / 2).exp() * noise[:, None]
    with torch.no_grad():
        logits = vae.decoder(z)
    loss = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    return -(weight[:, None] * loss.sum((-3, -2, -1))).sum(0) - kl


def test_the_exact_posterior_of_ppca_is_found_from_a_wrong_encoder(make_ppca):
    ppca, n = make_ppca(3), 6
    x, log_p = ppca.x[:n], ppca.log_p[:n]
    (layer,) = ppca.vae.encoder.layers
    with torch.no_grad():
        layer.weight += 0.05 * torch.randn(
            layer.weight.shape, generator=torch.Generator().manual_seed(0)
        )
        layer.bias[3:] += torch.tensor([1.0, -1.0, 0.5])
    exact = Normal(ppca.posterior_mean[:n], ppca.posterior_std.expand(n, -1))

    def gap(q) -> torch.Tensor:
        return kl_divergence(Normal(q.mean, q.stddev), exact).sum(-1)

    q = fit_posteriors(ppca.vae, x, steps=200, samples=48, lr=0.05)
    assert q.mu.shape == q.logvar.shape == (n, 3)
    assert gap(posterior_of(ppca.vae, x)).min() > 0.1
    assert gap(q).max() < 2e-3
    assert ((q.mean - exact.mean) / exact.stddev).abs().max() < 0.05
    assert (q.stddev / exact.stddev - 1).abs().max() < 0.05
    # With the exact posterior all samples have one weight.
    found = log_likelihood(ppca.vae, x, k=20, proposal=q)
    assert found.effective_samples.min() > 19.8
    torch.testing.assert_close(found.value, log_p, rtol=0, atol=0.05)


def test_each_of_more_images_than_one_pass_takes_gets_its_own_posterior(astray, images):
    x = images.double()
    few = fit_posteriors(astray, x, steps=100, samples=32, lr=0.05)
    many = fit_posteriors(astray, x.repeat(6, 1, 1, 1)[:260], steps=100, samples=32, lr=0.05)
    assert many.mu.shape == many.logvar.shape == (260, 2)
    assert few.mu.std(0).min() > 0.2
    for part, first in ((many.mu, few.mu), (many.logvar, few.logvar)):
        assert (part[200:250] - first).abs().max() < 0.25
        assert (part[250:] - first[:10]).abs().max() < 0.25


def test_the_bound_reaches_its_maximum_as_another_search_finds_it(astray, images):
    x = images[[0, 3, 8]].double()
    q = fit_posteriors(astray, x)
    found = bounds(astray, x, q.mu, q.logvar)
    start = posterior_of(astray, x)
    at_start = bounds(astray, x, start.mu, start.logvar)
    for i in range(3):

        def loss(at: np.ndarray, i: int = i) -> float:
            mu, logvar = torch.from_numpy(at).view(2, 1, 2)
            return -bounds(astray, x[i : i + 1], mu, logvar).item()

        first = torch.cat((start.mu[i], start.logvar[i])).numpy()
        best = -optimize.minimize(loss, first, method="Nelder-Mead", tol=1e-3).fun
        assert best - at_start[i].item() > 0.05
        assert found[i].item() == pytest.approx(best, abs=0.01)


def test_no_image_is_worse_off_than_with_the_encoder_or_better_than_log_p(
    astray, images, log_p_on_a_grid
):
    x = images.double()
    start, q = posterior_of(astray, x), fit_posteriors(astray, x, steps=150)
    before, after = bounds(astray, x, start.mu, start.logvar), bounds(astray, x, q.mu, q.logvar)
    assert (after > before).all()
    log_p = log_p_on_a_grid(astray, x)
    assert (after < log_p + 1e-6).all()
    # What the package says of the same posteriors, by many samples.
    for under, truth in ((start, before), (q, after)):
        found = elbo_under(astray, x, under, samples=1000)
        torch.testing.assert_close(found, truth, rtol=0, atol=0.25)
        assert found.mean().item() == pytest.approx(truth.mean().item(), abs=0.03)


def test_the_bound_under_a_posterior_equals_an_explicit_loop(astray, images):
    x, n = images.repeat(6, 1, 1, 1)[:260].double(), 260  # more than one pass takes
    rng = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, n, 2, dtype=torch.float64, generator=rng)
    seen = []
    handle = astray.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    found = elbo_under(astray, x, DiagonalNormal(mu, logvar), samples=3)
    handle.remove()
    assert [list(z.shape) for z in seen] == [[250, 2]] * 3 + [[10, 2]] * 3
    z = torch.cat((torch.stack(seen[:3]), torch.stack(seen[3:])), dim=1)
    noise = (z - mu) / (logvar / 2).exp()
    assert len(noise.unique()) == noise.numel()
    assert abs(noise.mean().item()) < 4 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * noise.numel()))
    for i in (0, 7, 249, 250, 259):
        p, pixels = astray.decoder(z[:, i]).detach().sigmoid().flatten(1), x[i].flatten()
        log_p = (pixels * p.log() + (1 - pixels) * (1 - p).log()).sum(1).mean()
        kl = kl_divergence(Normal(mu[i], (logvar[i] / 2).exp()), Normal(0.0, 1.0)).sum()
        assert found[i].item() == pytest.approx((log_p - kl).item(), rel=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_the_bound_under_a_posterior_depends_on_the_seed_and_on_no_mode_or_global_stream(
    images, training, rng_untouched
):
    sizes = {"latent_dim": 2, "hidden": (16,), "image_shape": (1, 4, 4)}
    vae = VAE(
        encoder=MLPEncoder(**sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(),
    )
    q = posterior_of(vae, images)
    expected = elbo_under(vae.eval(), images, q, seed=3)
    with rng_untouched():
        found = elbo_under(vae.train(training), images.flatten(1), q, seed=3)
    assert torch.equal(found, expected)
    assert not torch.equal(elbo_under(vae, images, q, seed=4), expected)
    assert all(module.training is training for module in vae.modules())
    assert not found.requires_grad


def test_the_bound_under_a_posterior_refuses_bad_arguments(make_vae, images):
    vae = make_vae()
    q = posterior_of(vae, images)
    with pytest.raises(ValueError, match=r"samples is 0; expected a whole number"):
        elbo_under(vae, images, q, samples=0)
    with pytest.raises(
        ValueError, match=r"q has shape \[50, 2\]; expected \[49, 2\]: one Gaussian"
    ):
        elbo_under(vae, images[1:], q)
    with pytest.raises(ValueError, match="grey values"):
        elbo_under(vae, images / 2, q)


def test_without_a_code_that_matters_the_prior_is_found(make_vae, images):
    vae = make_vae()
    nn.init.zeros_(vae.decoder.layers[0].weight)
    assert posterior_of(vae, images).mu.abs().max() > 0.3
    q = fit_posteriors(vae, images)
    assert q.mu.abs().max() < 0.02
    assert q.logvar.abs().max() < 0.02


def test_an_encoder_that_is_right_already_is_left_nearly_as_it_is(make_ppca):
    ppca = make_ppca(2)
    q = fit_posteriors(ppca.vae, ppca.x[:20], steps=50, samples=64, lr=0.03)
    assert ((q.mean - ppca.posterior_mean[:20]) / ppca.posterior_std).abs().max() < 0.1
    assert (q.stddev / ppca.posterior_std - 1).abs().max() < 0.1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(images, training):
    sizes = {"latent_dim": 2, "hidden": (16,), "image_shape": (1, 4, 4)}
    vae = VAE(
        encoder=MLPEncoder(activation=nn.Dropout, **sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(),
    ).train(training)
    elbo(vae, images).elbo.sum().backward()
    vae.encoder.layers[0].bias.grad = None
    vae.decoder.layers[0].weight.requires_grad_(False)
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in vae.named_parameters()}
    asked = [p.requires_grad for p in vae.parameters()]
    q = fit_posteriors(vae, images, steps=5)
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())
    for name, p in vae.named_parameters():
        assert p.grad is None if grads[name] is None else torch.equal(p.grad, grads[name])
    assert [p.requires_grad for p in vae.parameters()] == asked
    assert all(module.training is training for module in vae.modules())
    assert not q.mu.requires_grad
    assert not q.logvar.requires_grad
    # What is dropped while training plays no part in the search.
    same = fit_posteriors(vae.train(not training), images, steps=5)
    assert torch.equal(same.mu, q.mu)


def test_the_training_mode_survives_an_error(make_vae, images):
    def broken(*_):
        raise RuntimeError("broken decoder")

    vae = make_vae().train()
    vae.decoder.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="broken decoder"):
        fit_posteriors(vae, images, steps=2)
    assert all(module.training for module in vae.modules())


def test_the_search_depends_on_the_seed_and_on_no_global_stream(make_vae, images, rng_untouched):
    vae = make_vae()
    with rng_untouched():
        first = fit_posteriors(vae, images, steps=5, seed=3)
    torch.manual_seed(77)
    again = fit_posteriors(vae, images.flatten(1), steps=5, seed=3)
    assert torch.equal(again.mu, first.mu)
    assert torch.equal(again.logvar, first.logvar)
    assert not torch.equal(fit_posteriors(vae, images, steps=5, seed=4).mu, first.mu)


@pytest.mark.parametrize("samples", [1, 8])
def test_every_step_decodes_as_many_new_samples_of_each_image_as_asked(make_vae, images, samples):
    vae, seen = make_vae(), []
    vae.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    q = fit_posteriors(vae, images, steps=6, samples=samples, lr=0.0)
    assert [list(z.shape) for z in seen] == [[samples, 50, 2]] * 6
    noise = (torch.stack(seen) - q.mu) / q.stddev
    assert abs(noise.mean().item()) < 4 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * noise.numel()))
    assert len(torch.cat(seen).unique()) > 0.99 * noise.numel()


@pytest.mark.parametrize("name", ["steps", "samples"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_a_bad_number_of_steps_or_samples_is_named(make_vae, images, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected a whole number"):
        fit_posteriors(make_vae(), images, **{name: value})


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 5, 4), ValueError, r"images have shape \[3, 1, 5, 4\]"),
        (torch.zeros(0, 1, 4, 4), ValueError, "there are no images"),
        (torch.full((3, 1, 4, 4), 0.5), ValueError, "grey values"),
    ],
    ids=["whole-numbers", "shape", "none", "grey"],
)
def test_images_that_do_not_suit_the_model_are_refused(make_vae, bad, error, message):
    with pytest.raises(error, match=message):
        fit_posteriors(make_vae(), bad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_finds_the_same_posteriors(make_vae, images):
    on_cpu = fit_posteriors(make_vae(), images)
    on_gpu = fit_posteriors(make_vae().cuda(), images)
    assert on_gpu.mu.device.type == "cpu"
    torch.testing.assert_close(on_gpu.mu, on_cpu.mu, rtol=0, atol=0.1)
    torch.testing.assert_close(on_gpu.logvar, on_cpu.logvar, rtol=0, atol=0.2)


def test_a_posterior_of_another_precision_is_refused(make_vae, images):
    q = DiagonalNormal(torch.zeros(50, 2).double(), torch.zeros(50, 2).double())
    with pytest.raises(TypeError, match=r"q is torch.float64, the model torch.float32"):
        elbo_under(make_vae(), images, q)


def test_posteriors_are_fitted_where_gradients_are_switched_off(make_vae, images):
    vae = make_vae()
    with torch.no_grad():
        q = fit_posteriors(vae, images, steps=3)
    assert torch.equal(q.mu, fit_posteriors(vae, images, steps=3).mu)
    assert not q.mu.requires_grad
