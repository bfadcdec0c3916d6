import inspect
import json
from dataclasses import replace

import pytest
import torch
from sizes import mlp_parameters
from torch import nn

from vaelib import Bernoulli, data
from vaelib.course import lesson_7
from vaelib.course.lesson_7 import train_burda
from vaelib.data import Split, to_float
from vaelib.evaluation import active_units, evaluate, fixed_subset, log_likelihood
from vaelib.networks import count_parameters
from vaelib.objectives import elbo, importance_weighted
from vaelib.seeding import generator
from vaelib.training import fit

QUIET = {"device": "cpu", "progress": False}


@pytest.fixture
def grey() -> torch.Tensor:
    """Thirty images whose first rows are black and whose last rows are white."""
    x = torch.rand(30, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x[:, :, :3], x[:, :, -2:] = 0, 1
    return x


def test_the_network_of_chapter_7_is_that_of_burda_et_al_with_one_stochastic_layer(grey):
    vae = lesson_7.burda_vae(grey, seed=3)
    size = mlp_parameters([784, 200, 200, 2 * 50], [50, 200, 200, 784])
    assert count_parameters(vae) == size == 425_284
    assert vae.latent_dim == 50
    for network in (vae.encoder, vae.decoder):
        kinds = [type(layer) for layer in network.layers]
        assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    vae.likelihood.check(grey)


def test_the_first_guess_of_the_network_of_chapter_7_is_the_mean_image(grey):
    vae = lesson_7.burda_vae(grey, seed=3)
    guess = vae.decoder.layers[-1].bias.sigmoid().view(28, 28)
    mean = sum(grey[:, 0]) / 30
    torch.testing.assert_close(guess[3:-2], mean[3:-2])
    # Never quite sure, so that a pixel of the test images costs a finite number of nats.
    torch.testing.assert_close(guess[:3], torch.full((3, 28), 0.001))
    torch.testing.assert_close(guess[-2:], torch.full((2, 28), 0.999))
    other = lesson_7.burda_vae(grey.flip(2), seed=3)
    same = {
        name: torch.equal(value, other.state_dict()[name])
        for name, value in vae.state_dict().items()
    }
    assert [name for name in same if not same[name]] == ["decoder.layers.4.bias"]


def test_redrawn_images_are_binary_and_new_at_every_draw(grey, rng_untouched):
    rng = torch.Generator().manual_seed(5)
    with rng_untouched():
        first, second = (lesson_7.redraw(grey, rng) for _ in range(2))
    assert set(first.unique().tolist()) == {0, 1}
    assert (first.shape, first.dtype) == (grey.shape, grey.dtype)
    assert not torch.equal(first, second)
    assert torch.equal(lesson_7.redraw(grey, torch.Generator().manual_seed(5)), first)
    draws = torch.stack([lesson_7.redraw(grey[:1], rng) for _ in range(2000)]).mean(0)
    error = (grey[:1] * (1 - grey[:1]) / 2000).sqrt()
    assert ((draws - grey[:1]).abs() <= 5 * error).all()


@pytest.mark.parametrize(
    ("profile", "batch_size", "precision", "peak"),
    [("full", 256, "auto", 0.006), ("quick", 64, "float32", 0.004)],
)
def test_the_network_of_chapter_7_is_trained_as_its_profile_says(
    profile, batch_size, precision, peak
):
    recipe = lesson_7.burda_training(profile)
    assert recipe.keys() <= inspect.signature(fit).parameters.keys()
    assert recipe["augment"] is lesson_7.redraw
    assert (recipe["batch_size"], recipe["precision"]) == (batch_size, precision)
    assert [recipe["lr"](p) for p in (0, 0.05, 0.1)] == pytest.approx([0, peak / 2, peak])
    assert recipe["lr"](1.0) < 1e-12
    assert lesson_7.burda_training()["epochs"] > lesson_7.burda_training("quick")["epochs"] > 0


def test_the_network_of_chapter_7_sees_new_binary_images_at_every_step(grey):
    seen = []

    def spy(model, x, **options):
        if model.training:
            seen.append(x.clone())
        return elbo(model, x, **options)

    recipe = lesson_7.burda_training("quick") | {"epochs": 3, "objective": spy}
    fit(lesson_7.burda_vae(grey), grey, device="cpu", progress=False, evaluate_every=3, **recipe)
    assert [len(x) for x in seen] == [30] * 3
    assert all(set(x.unique().tolist()) == {0, 1} for x in seen)
    ink = {round(x.sum().item()) for x in seen}
    assert len(ink) == 3  # the same images in another order would have the same ink


@pytest.fixture
def burdas(monkeypatch):
    """The training of chapter 7 on a few digits, with what was trained on and estimated."""
    whole = data.load("digits")
    train = Split(whole.train.images[:130], whole.train.labels[:130])
    test = Split(whole.test.images[:25], whole.test.labels[:25])
    few = replace(whole, train=train, test=test, n_validation=20)
    monkeypatch.setattr(data, "load", lambda name: few)
    recipe = lesson_7.burda_training("quick") | QUIET
    monkeypatch.setattr(lesson_7, "burda_training", lambda: recipe)
    fits, estimates = [], []

    def spied_fit(vae, images, **options):
        fits.append((images, options))
        return fit(vae, images, **options)

    def spied_estimate(vae, images, *, k):
        found = log_likelihood(vae, images, k=10)  # a few are enough here
        estimates.append((images, k, found))
        return found

    monkeypatch.setattr(lesson_7, "fit", spied_fit)
    monkeypatch.setattr(lesson_7, "log_likelihood", spied_estimate)
    return few, fits, estimates


def drawn(split: Split, name: str, seed: int = 0) -> torch.Tensor:
    return data.binarize(to_float(split.images), generator=generator(seed, f"binary {name}"))


@pytest.mark.parametrize("static", [False, True])
def test_the_run_of_chapter_7_trains_as_asked_and_measures_binary_images(burdas, static):
    source, fits, estimates = burdas
    objective = importance_weighted()
    vae, numbers = train_burda(4, epochs=2, samples=3, objective=objective, static=static)
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
    _, numbers = train_burda(0, epochs=1, all_images=True)
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
    train_burda(0, epochs=1)
    sizes = [len(x) for x, _, _ in estimates]
    assert sizes == [110, 20, 1000, 110]
    assert torch.equal(estimates[2][0], fixed_subset(drawn(source.test, "test"), 1000))


# The plane of codes, where log p(x) is a sum


@pytest.fixture
def plane(make_vae):
    return make_vae(image_shape=(1, 28, 28), likelihood=Bernoulli(grey=True), seed=2)


@pytest.fixture
def binary(grey) -> torch.Tensor:
    return torch.bernoulli(grey[:4], generator=torch.Generator().manual_seed(1))


def test_the_joint_density_is_prior_times_likelihood_image_by_image_and_code_by_code(plane, binary):
    codes = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    found = lesson_7.log_joint(plane, binary, codes)
    assert found.shape == (4, 5)
    for i, image in enumerate(binary):
        for j, z in enumerate(codes):
            p = torch.sigmoid(plane.decoder(z[None])).flatten().double()
            x = image.flatten().double()
            log_p = torch.where(x == 1, p, 1 - p).log().sum()
            prior = torch.distributions.Normal(0.0, 1.0).log_prob(z.double()).sum()
            assert found[i, j].item() == pytest.approx((log_p + prior).item(), rel=1e-5)


def test_quadrature_agrees_with_a_grid_of_its_own_and_adds_up_to_one(
    plane, binary, log_p_on_a_grid
):
    found = lesson_7.quadrature(plane, binary, step=0.1, reach=5.0)
    truth = log_p_on_a_grid(plane, binary, points=101)
    torch.testing.assert_close(found.log_p, truth.double(), rtol=1e-5, atol=2e-3)
    assert found.codes.shape == (101 * 101, 2)
    assert found.log_joint.shape == (4, 101 * 101)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(found.codes.double()).sum(1)
    assert (prior.exp().sum() * 0.1**2).item() == pytest.approx(1, abs=1e-4)


def test_quadrature_needs_a_plane(make_vae, binary):
    vae = make_vae(latent_dim=3, image_shape=(1, 28, 28), likelihood=Bernoulli(grey=True))
    with pytest.raises(ValueError, match="3 latent dimensions; expected 2"):
        lesson_7.quadrature(vae, binary)


def test_the_lesson_scores_the_published_network_or_one_trained_on_digits(grey, monkeypatch):
    weights = lesson_7.burda_vae(grey, seed=9).state_dict()
    loaded = []
    monkeypatch.setattr(
        type(lesson_7.RUNS), "weights", lambda self, name: loaded.append(name) or weights
    )
    vae = lesson_7.trained_vae(grey, "full")
    assert loaded == ["burda-vae"]
    assert not vae.training
    assert all(torch.equal(vae.state_dict()[name], value) for name, value in weights.items())
    recipe = lesson_7.burda_training("quick") | {"epochs": 2, "device": "cpu"}
    monkeypatch.setattr(lesson_7, "burda_training", lambda profile: recipe)
    trained = lesson_7.trained_vae(grey, "quick", seed=4)
    twin = lesson_7.burda_vae(grey, seed=4)
    fit(twin, grey, seed=4, progress=False, **recipe)
    for one, two in zip(trained.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    assert loaded == ["burda-vae"]


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_fine_tuning_is_short_and_its_learning_rate_falls(profile):
    recipe, whole = lesson_7.fine_tuning(profile), lesson_7.burda_training(profile)
    assert recipe.keys() <= inspect.signature(fit).parameters.keys()
    assert 0 < recipe["epochs"] < whole["epochs"] / 5
    assert recipe["augment"] is lesson_7.redraw
    rates = [recipe["lr"](p) for p in (0, 0.5, 1)]
    assert rates == pytest.approx([1e-3, 5e-4, 0])
