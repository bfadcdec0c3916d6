import math
from types import SimpleNamespace

import pytest
import torch
from sizes import mlp_parameters
from torch import nn
from torch.distributions import Normal, kl_divergence

from vaelib import VAE, Autoencoder, Gaussian
from vaelib.course import lesson_2
from vaelib.evaluation import evaluate
from vaelib.networks import count_parameters
from vaelib.objectives import elbo


def test_the_vae_of_chapter_2_has_the_size_that_the_chapter_states():
    size = mlp_parameters([784, 512, 256, 2 * 128], [128, 256, 512, 784])
    assert count_parameters(lesson_2.vae_128d()) == size == 1_165_840


def test_the_network_of_chapter_2_takes_another_likelihood_and_makes_an_autoencoder():
    gaussian = Gaussian(link="logit", scale=0.3)
    autoencoder = lesson_2.vae_128d(gaussian, model=Autoencoder)
    assert isinstance(autoencoder, Autoencoder)
    assert autoencoder.likelihood is gaussian
    vae = lesson_2.vae_128d()
    assert isinstance(vae, VAE)
    assert vae.likelihood.check(torch.tensor([0.0, 0.5, 1.0])) is None
    for one, two in zip(autoencoder.encoder.parameters(), vae.encoder.parameters(), strict=True):
        assert torch.equal(one, two)


def test_only_the_full_profile_trains_the_network_of_chapter_2_as_long_as_asked():
    full, quick = (lesson_2.training_128d(profile, epochs=7) for profile in ("full", "quick"))
    assert (full["epochs"], full["batch_size"], full["precision"]) == (7, 128, "auto")
    assert (quick["epochs"], quick["batch_size"], quick["precision"]) == (10, 64, "float32")
    for recipe in (full, quick):
        assert [recipe["lr"](p) for p in (0, 0.05, 0.1)] == [0, 0.001, 0.002]


def test_the_small_vae_is_that_of_chapter_1_and_takes_what_the_lesson_changes():
    size = mlp_parameters([784, 400, 2 * 20], [20, 400, 784])
    assert count_parameters(lesson_2.small_vae()) == size
    gaussian = Gaussian(link="logit")
    other = lesson_2.small_vae(gaussian, latent_dim=32, seed=3, model=Autoencoder)
    assert isinstance(other, Autoencoder)
    assert (other.latent_dim, other.likelihood) == (32, gaussian)
    first, again = (lesson_2.small_vae(seed=3).state_dict() for _ in range(2))
    for name, weight in first.items():
        assert torch.equal(weight, again[name])


def test_short_trainings_have_the_same_schedule_in_both_profiles():
    full, quick = map(lesson_2.short_training, ("full", "quick"))
    assert (full["epochs"], full["batch_size"], full["precision"]) == (3, 128, "auto")
    assert (quick["batch_size"], quick["precision"]) == (64, "float32")
    for recipe in (full, quick):
        assert [recipe["lr"](p) for p in (0, 0.05, 0.1)] == [0, 0.002, 0.004]


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_price_of_the_rate_rises_only_where_a_long_run_asks_for_it(monkeypatch, warmup):
    asked = {}

    def train_and_measure(vae, train, test, *, seed, **training):
        asked.update(training, likelihood=vae.likelihood)
        return vae, {"test_rate": 1.0}

    monkeypatch.setattr(lesson_2, "train_and_measure", train_and_measure)
    monkeypatch.setattr(lesson_2, "images_of", lambda name: (None, None))
    _, numbers = lesson_2.train_gaussian(0, scale=0.1, learned=True, warmup=warmup)
    assert numbers == {"test_rate": 1.0, "scale": pytest.approx(0.1)}
    assert asked["likelihood"].log_scale.requires_grad
    assert asked["objective"] is None
    assert [asked["beta"](p) for p in (0.125, 0.25, 1.0)] == [0.5 if warmup else 1, 1, 1]


def test_scales_are_chosen_on_validation_images_only(monkeypatch):
    train, validation, test = (torch.rand(n, 1, 28, 28) for n in (130, 60, 50))
    monkeypatch.setattr(lesson_2, "parts_of", lambda name: (train, validation, test))
    seen = []

    def fit(vae, images, *, seed, **training):
        seen.append((images, seed, training["beta"](0.125), vae.likelihood))
        return SimpleNamespace(seconds=1.0)

    monkeypatch.setattr(lesson_2, "fit", fit)
    candidates = lesson_2.CANDIDATES | lesson_2.RIVALS
    model, found = lesson_2.choose_scale(4, candidates=candidates)
    assert model is None
    del found["provenance"]
    assert list(found) == list(candidates)
    assert all(images is train and seed == 4 for images, seed, _, _ in seen)
    for (_, _, beta, likelihood), (name, numbers) in zip(seen, found.items(), strict=True):
        assert beta == (0.5 if "warm-up" in name else 1)
        assert likelihood.log_scale.requires_grad == ("learned" in name)
        vae = lesson_2.vae_128d(likelihood, seed=4)
        assert numbers["negative_elbo"] == pytest.approx(
            evaluate(vae, validation).negative_elbo, rel=1e-4
        )
        assert numbers["rate"] == pytest.approx(evaluate(vae, validation).rate, rel=1e-4)
        on_test = evaluate(vae, test).negative_elbo
        assert numbers["test_negative_elbo"] == pytest.approx(on_test, rel=1e-4)


def test_the_network_of_project_b_has_its_size():
    size = mlp_parameters([784, 600, 600, 2 * 50], [50, 600, 600, 784])
    assert count_parameters(lesson_2.project_b_vae()) == size == 1_754_084


def test_all_weights_of_project_b_are_tiny_and_its_biases_zero():
    for name, parameter in lesson_2.project_b_vae(seed=1).named_parameters():
        if "bias" in name:
            assert parameter.eq(0).all()
        else:
            n = parameter.numel()
            # The standard deviation of n normal draws has the relative error 1 / sqrt(2 n).
            assert parameter.std().item() == pytest.approx(1e-3, rel=5 / math.sqrt(2 * n))
            assert abs(parameter.mean().item()) < 5 * 1e-3 / math.sqrt(n)


@pytest.mark.parametrize("bias", [-80.0, 0.0, 3.0])
def test_no_posterior_of_project_b_is_tighter_than_the_prior_unless_asked(bias):
    x = torch.rand(5, 784)
    for scale, variance in (("softplus-logvar", 1 + math.exp(bias)), ("exp", math.exp(bias))):
        vae = lesson_2.project_b_vae(scale=scale)
        nn.init.zeros_(vae.encoder.layers[-1].weight)
        nn.init.constant_(vae.encoder.layers[-1].bias, bias)
        found = vae.encode(x).variance
        torch.testing.assert_close(found, torch.full((5, 50), variance), rtol=1e-5, atol=0)
    assert lesson_2.project_b_vae().encode(x).variance.min() >= 1


def test_the_objective_of_project_b_adds_its_weight_decay_to_every_gradient(make_vae, images):
    vae = make_vae(seed=5).double()
    for parameter in vae.parameters():  # biases are zero at the start, and decay as well
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    x, noise = images[:9].double(), torch.randn(9, 2, dtype=torch.float64)
    parameters = list(vae.parameters())
    bare = elbo(vae, x, noise=noise)
    decayed = lesson_2.project_b_objective(vae, x, noise=noise)
    found = torch.autograd.grad(-decayed.elbo.mean(), parameters)
    truth = torch.autograd.grad(-bare.elbo.mean(), parameters)
    for grad, plain, parameter in zip(found, truth, parameters, strict=True):
        torch.testing.assert_close(grad, plain + 0.1 / 128 * parameter.detach())
    assert torch.equal(decayed.rate, bare.rate)


def test_the_objective_of_project_b_trains_as_adam_with_weight_decay_on_a_sum(make_vae):
    x = torch.rand(128, 16, generator=torch.Generator().manual_seed(0)).round().double()
    noise = torch.randn(128, 2, generator=torch.Generator().manual_seed(1)).double()
    ours, theirs = make_vae(seed=5).double(), make_vae(seed=5).double()
    # Adam divides by the size of the gradient, so that a sum and a mean take the same steps.
    mean = torch.optim.Adam(ours.parameters(), lr=0.05, eps=1e-30)
    total = torch.optim.Adam(theirs.parameters(), lr=0.05, eps=1e-30, weight_decay=0.1)
    for _ in range(20):
        mean.zero_grad()
        (-lesson_2.project_b_objective(ours, x, noise=noise).elbo.mean()).backward()
        mean.step()
        total.zero_grad()
        mu, logvar = theirs.encoder(x.view(128, 1, 4, 4))
        logits = theirs.decoder(mu + (logvar / 2).exp() * noise).flatten(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum()
        (loss + kl).backward()
        total.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_the_objective_of_project_b_refuses_what_the_bound_refuses(make_vae, images):
    with pytest.raises(ValueError, match="grey values"):
        lesson_2.project_b_objective(make_vae(), images / 2)
    with pytest.raises(ValueError, match="noise has shape"):
        lesson_2.project_b_objective(make_vae(), images, noise=torch.zeros(3, 2))
