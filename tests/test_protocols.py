import json
import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from vaelib.experiments import (
    burda,
    classifier_head,
    conv_to_mlp,
    few_labels,
    four_legs,
    measured,
    prior_match,
    separation_of,
)

from vaelib import VAE, Bernoulli, data, experiments, recipes
from vaelib.aggregate import AggregatePosterior, codes
from vaelib.course import lesson_5, lesson_7
from vaelib.data import Split, to_float
from vaelib.evaluation import active_units, evaluate, fixed_subset, log_likelihood
from vaelib.objectives import ELBO, elbo, importance_weighted
from vaelib.seeding import generator
from vaelib.separation import mean_triplet_loss, silhouette, triplet_accuracy
from vaelib.supervision import elbo_with_labels, labels_alone
from vaelib.training import fit
from vaelib.triplet import triplet_loss

QUIET = {"device": "cpu", "progress": False}


def test_the_measured_numbers_are_those_of_the_trained_model(make_vae, images):
    images = images / 2 + 0.25
    train, test = images[:30], images[30:]
    recipe = {"epochs": 3, "batch_size": 8, "lr": 0.01, "beta": 0.5, **QUIET}
    vae, twin = (make_vae(likelihood=Bernoulli(grey=True), seed=2) for _ in range(2))
    trained, numbers = measured(vae, train, test, seed=6, **recipe)
    assert trained is vae
    fit(twin, train, seed=6, **recipe)
    for one, two in zip(vae.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    on_train, on_test = evaluate(twin, train), evaluate(twin, test)
    assert numbers["test_negative_elbo"] == pytest.approx(on_test.negative_elbo)
    assert numbers["test_distortion"] == pytest.approx(on_test.distortion)
    assert numbers["test_rate"] == pytest.approx(on_test.rate)
    assert numbers["train_negative_elbo"] == pytest.approx(on_train.negative_elbo)
    assert on_train != on_test
    mu, logvar = (out.detach() for out in twin.encoder(test))
    assert numbers["test_active_units"] == sum(
        statistics.variance(column) > 0.01 for column in mu.T.tolist()
    )
    eps = torch.randn(20, 2, generator=generator(0, "evaluation"))
    mean = twin.decoder(mu + (logvar / 2).exp() * eps).sigmoid().detach()
    rmse = sum(math.sqrt((x - m).square().mean()) for x, m in zip(test, mean, strict=True)) / 20
    assert numbers["test_rmse"] == pytest.approx(rmse, rel=1e-5)
    assert numbers["parameters"] == 17 * 8 + 9 * 4 + 3 * 8 + 9 * 16
    assert numbers["provenance"]["device"] == "cpu"
    assert numbers["provenance"]["wall_time_s"] == round(numbers["seconds"], 1)
    json.dumps(numbers, allow_nan=False)


def test_the_bound_is_measured_whatever_was_trained(make_vae, images):
    def objective(model, x, **options):
        distortion, rate = elbo(model, x, **options)
        return ELBO(distortion + 1e6, rate)

    _, numbers = measured(
        make_vae(), images, images, seed=0, objective=objective, epochs=1, batch_size=50, **QUIET
    )
    assert 0 < numbers["test_distortion"] < 100
    assert numbers["test_negative_elbo"] == numbers["train_negative_elbo"]


SLOPE, SIGMA = (2.0, 1.0, 0.0), (0.5, 0.8, 1.2)


@pytest.fixture
def placing(make_vae) -> VAE:
    """A VAE whose means are SLOPE times the first pixel, and whose scales are SIGMA.

    The third mean is 0.5, and the second pixel halves the scales.
    """
    vae = make_vae(latent_dim=3, hidden=())
    (layer,) = vae.encoder.layers
    nn.init.zeros_(layer.weight)
    layer.weight.data[:3, 0] = torch.tensor(SLOPE)
    layer.weight.data[3:, 1] = -2 * math.log(2)
    layer.bias.data = torch.tensor([0.0, 0.0, 0.5, *(2 * math.log(s) for s in SIGMA)])
    return vae


def two_pixels(first: torch.Tensor | float, n: int, second: float = 0.0) -> torch.Tensor:
    x = torch.zeros(n, 1, 4, 4)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = first, second
    return x


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def codes_of(spread: float, sigma: torch.Tensor) -> MultivariateNormal:
    """The law of the codes if the first pixel is normal around 0."""
    slope = spread * torch.tensor(SLOPE)
    covariance = torch.outer(slope, slope) + sigma.square().diag()
    return MultivariateNormal(torch.tensor([0.0, 0.0, 0.5]), covariance)


PRIOR = MultivariateNormal(torch.zeros(3), torch.eye(3))


def total_correlation(q: MultivariateNormal) -> float:
    """Only the first two dimensions depend on each other."""
    v = q.covariance_matrix
    return -0.5 * math.log(1 - v[0, 1].item() ** 2 / (v[0, 0] * v[1, 1]).item())


def test_the_match_with_the_prior_is_that_of_codes_that_are_gaussian(placing):
    train, test = (two_pixels(normal(8000, seed), 8000) for seed in (0, 1))
    numbers = prior_match(placing, train, test)
    q = codes_of(1.0, torch.tensor(SIGMA))
    # A mixture of ten Gaussians falls a little short of the one that the codes are.
    truth = kl_divergence(q, PRIOR).item()
    assert numbers["test_mismatch"] == pytest.approx(truth, abs=0.15)
    # The correlation of a sample has the error (1 - r^2) / sqrt(n), and the logarithm undoes it.
    error = 4 / math.sqrt(8000)
    assert numbers["test_total_correlation"] == pytest.approx(total_correlation(q), abs=error)
    assert numbers["test_mean_scale"] == pytest.approx(sum(SIGMA) / 3, rel=1e-5)
    assert {type(number) for number in numbers.values()} == {float}


def test_the_mixture_is_that_of_the_training_images_and_all_else_of_the_test_images(
    placing, monkeypatch
):
    monkeypatch.setattr(
        experiments, "AggregatePosterior", partial(AggregatePosterior, components=1)
    )
    train, test = two_pixels(0.0, 8000), two_pixels(0.5 * normal(8000, 1), 8000, 1.0)
    numbers = prior_match(placing, train, test)
    on_train, on_test = codes_of(0.0, torch.tensor(SIGMA)), codes_of(0.5, 0.5 * torch.tensor(SIGMA))
    truth = (kl_divergence(on_test, PRIOR) - kl_divergence(on_test, on_train)).item()
    assert truth < -0.3
    assert numbers["test_mismatch"] == pytest.approx(truth, abs=0.15)
    error = 4 / math.sqrt(8000)
    truth = total_correlation(on_test)
    assert truth > 3 * error
    assert numbers["test_total_correlation"] == pytest.approx(truth, abs=error)
    assert numbers["test_mean_scale"] == pytest.approx(0.5 * sum(SIGMA) / 3, rel=1e-5)


def test_the_mixture_has_not_seen_the_codes_of_the_test_images(placing, monkeypatch):
    fitted, measured_on, mixture = [], [], experiments.AggregatePosterior

    class Spy(mixture):
        def __init__(self, z: torch.Tensor) -> None:
            fitted.extend(z.flatten().tolist())
            super().__init__(z)

        def mismatch(self, z: torch.Tensor) -> float:
            measured_on.extend(z.flatten().tolist())
            return super().mismatch(z)

    monkeypatch.setattr(experiments, "AggregatePosterior", Spy)
    prior_match(placing, two_pixels(0.0, 2000), two_pixels(0.0, 1000))
    assert (len(fitted), len(measured_on)) == (6000, 3000)
    # Numbers in single precision meet by chance, but hardly ever.
    assert len(set(fitted) & set(measured_on)) < 30


def test_the_mixture_is_fitted_to_a_fixed_subset_of_many_training_images(placing, monkeypatch):
    seen, mixture = [], experiments.AggregatePosterior

    def spy(z: torch.Tensor):
        seen.append(z)
        return mixture(z[:100])

    monkeypatch.setattr(experiments, "AggregatePosterior", spy)
    # Every second image is far away, and so are all of the last: a subset that followed the order
    # would see another share of them.
    index = torch.arange(24_000)
    is_far = (index.remainder(2) == 1) | (index >= 20_000)
    x = two_pixels(100 * is_far, 24_000)
    prior_match(placing, x, x[:100])
    assert seen[0].shape == (20_000, 3)
    far = (seen[0][:, 0] > 100).double().mean().item()
    assert far == pytest.approx(7 / 12, abs=4 * 0.5 / math.sqrt(20_000))


def test_the_separation_is_measured_on_means_or_codes_as_named(make_vae):
    vae = make_vae(hidden=(), image_shape=(1, 28, 28), likelihood=Bernoulli(grey=True), seed=1)
    labels = torch.arange(600) % 2
    brightness = 40 + 150 * labels + torch.arange(600) % 50
    split = Split(brightness.view(-1, 1, 1).expand(-1, 28, 28).to(torch.uint8), labels)
    found = separation_of(vae, split, split)
    x = to_float(split.images)
    mu, z = vae.encode(x).mu.detach(), codes(vae, x)
    assert found["knn_accuracy"] == 1
    assert found["triplet_accuracy"] == triplet_accuracy(mu, labels)
    assert found["silhouette"] == pytest.approx(silhouette(mu, labels), rel=1e-4)
    size = z.double().var(0, correction=0).mean().sqrt().item()
    assert found["root_mean_square_z"] == pytest.approx(size)
    for key, scaled in (("triplet_loss_z", z), ("triplet_loss_z_at_unit_size", z / size)):
        assert found[key] == pytest.approx(mean_triplet_loss(scaled, labels), rel=1e-5)


def test_few_labels_are_balanced_and_another_draw_for_each_seed():
    labels = torch.arange(200) % 10
    grey = torch.arange(200).view(-1, 1, 1).expand(-1, 28, 28).to(torch.uint8)
    images, drawn = (part.cpu() for part in few_labels(Split(grey, labels), 30, 0))
    assert drawn.bincount().tolist() == [3] * 10
    index = (images[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(labels[index], drawn)
    assert not torch.equal(few_labels(Split(grey, labels), 30, 1)[0].cpu(), images)


@pytest.fixture
def tiny_digits(monkeypatch):
    """The trainings of chapter 5 on a few digits, for one epoch."""
    whole = data.load("digits")
    train = Split(whole.train.images[:300], whole.train.labels[:300])
    test = Split(whole.test.images[:60], whole.test.labels[:60])
    monkeypatch.setattr(data, "load", lambda name: replace(whole, train=train, test=test))
    recipe = lesson_5.conv_to_mlp_training("quick", latent_dim=2) | {"epochs": 1, **QUIET}
    monkeypatch.setattr(recipes, "conv_to_mlp_training", lambda **_: recipe)


@pytest.mark.parametrize(
    "train",
    [
        conv_to_mlp,
        partial(conv_to_mlp, loss=triplet_loss, weight=1.0, epochs=2),
        partial(conv_to_mlp, latent_dim=16, loss=triplet_loss, weight=1.0, n_labels=20),
        partial(classifier_head, weight=1.0),
    ],
    ids=["plain", "triplets", "few labels", "classifier"],
)
def test_a_labelled_run_measures_validation_and_test(tiny_digits, train):
    vae, numbers = train(0)
    json.dumps(numbers, allow_nan=False)
    source = data.load("digits")
    for name, split in (("validation", source.validation), ("test", source.test)):
        truth = separation_of(vae, source.train_part, split)
        assert {key: numbers[f"{name}_{key}"] for key in truth} == truth
        truth = evaluate(vae, to_float(split.images)).negative_elbo
        assert numbers[f"{name}_negative_elbo"] == truth


def test_training_four_legs_leaves_the_decoder_alone_in_the_legs_of_triplets(
    tiny_digits, monkeypatch
):
    decoders = []

    def spy(vae, *args, **options):
        before = vae.decoder.layers[0].weight.clone()
        history = fit(vae, *args, **options)
        decoders.append(torch.equal(before, vae.decoder.layers[0].weight))
        return history

    monkeypatch.setattr(experiments, "fit", spy)
    _, numbers = four_legs(
        0, objectives=(elbo_with_labels(triplet_loss, 0.0), labels_alone(triplet_loss))
    )
    assert decoders == [False, True, False, True]
    assert {len(curve) for key, curve in numbers.items() if "epoch" in key} == {40}


@pytest.fixture
def burdas(monkeypatch):
    """The training of chapter 7 on a few digits, with what was trained on and estimated."""
    whole = data.load("digits")
    train = Split(whole.train.images[:130], whole.train.labels[:130])
    test = Split(whole.test.images[:25], whole.test.labels[:25])
    few = replace(whole, train=train, test=test, n_validation=20)
    monkeypatch.setattr(data, "load", lambda name: few)
    recipe = lesson_7.burda_training("quick") | QUIET
    monkeypatch.setattr(recipes, "burda_training", lambda: recipe)
    fits, estimates = [], []

    def spied_fit(vae, images, **options):
        fits.append((images, options))
        return fit(vae, images, **options)

    def spied_estimate(vae, images, *, k):
        found = log_likelihood(vae, images, k=10)  # a few are enough here
        estimates.append((images, k, found))
        return found

    monkeypatch.setattr(experiments, "fit", spied_fit)
    monkeypatch.setattr(experiments, "log_likelihood", spied_estimate)
    return few, fits, estimates


def drawn(split: Split, name: str, seed: int = 0) -> torch.Tensor:
    return data.binarize(to_float(split.images), generator=generator(seed, f"binary {name}"))


@pytest.mark.parametrize("static", [False, True])
def test_the_run_of_chapter_7_trains_as_asked_and_measures_binary_images(burdas, static):
    source, fits, estimates = burdas
    objective = importance_weighted()
    vae, numbers = burda(4, epochs=2, samples=3, objective=objective, static=static)
    json.dumps(numbers, allow_nan=False)
    parts = {
        name: drawn(split, name)
        for name, split in (
            ("train", source.train_part),
            ("validation", source.validation),
            ("test", source.test),
        )
    }
    grey = to_float(source.train_part.images)
    ((images, options),) = fits
    assert torch.equal(images, parts["train"] if static else grey)
    assert options["augment"] is (None if static else lesson_7.redraw)
    assert (options["samples"], options["epochs"], options["seed"]) == (3, 2, 4)
    # Smaller steps than the chapter's own training takes.
    assert (options["batch_size"], options["lr"](0.1)) == (128, 4e-3)
    assert options["objective"] is objective
    twin = lesson_7.burda_vae(grey, seed=4)
    fit(twin, images, **options)
    for one, two in zip(vae.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    for name, part in parts.items():
        assert numbers[f"{name}_negative_elbo"] == evaluate(twin, part).negative_elbo
    assert numbers["test_active_units"] == int(active_units(twin, parts["test"]).sum())
    assert numbers["epochs"] == 2
    assert "test_negative_log_p" not in numbers
    # 110 images of training: all, since there are no more than 1000.
    parts["redrawn_train"] = drawn(source.train_part, "train", seed=1)
    assert not torch.equal(parts["redrawn_train"], parts["train"])
    for (name, part), (x, k, found) in zip(parts.items(), estimates, strict=True):
        assert torch.equal(x, fixed_subset(part, 1000))
        assert k == 1000
        assert numbers[f"{name}_negative_log_p_of_1000"] == -found.mean


def test_all_test_images_of_chapter_7_have_more_samples_if_asked(burdas):
    source, fits, estimates = burdas
    _, numbers = burda(0, epochs=1, all_images=True)
    json.dumps(numbers, allow_nan=False)
    assert fits[0][1]["samples"] == 1
    assert fits[0][1]["objective"] is None
    x, _, found = estimates[-1]
    assert torch.equal(x, drawn(source.test, "test"))
    assert [k for _, k, _ in estimates] == [1000] * 4 + [5000]
    assert numbers["test_negative_log_p"] == -found.value.mean().item()
    assert numbers["standard_error_images"] == found.standard_error_of_mean[0]
    assert numbers["standard_error_samples"] == found.standard_error_of_mean[1]
    assert numbers["median_effective_samples"] == found.effective_samples.median().item()


def test_of_many_images_of_chapter_7_a_fixed_thousand_is_estimated(burdas, monkeypatch):
    source, _, estimates = burdas
    many = source.test.images.repeat(45, 1, 1), source.test.labels.repeat(45)
    source = replace(source, test=Split(*many))
    monkeypatch.setattr(data, "load", lambda name: source)
    burda(0, epochs=1)
    sizes = [len(x) for x, _, _ in estimates]
    assert sizes == [110, 20, 1000, 110]
    assert torch.equal(estimates[2][0], fixed_subset(drawn(source.test, "test"), 1000))
