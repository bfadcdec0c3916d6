import inspect
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from sizes import conv_parameters, mlp_parameters

from vaelib import Bernoulli, data
from vaelib.aggregate import codes
from vaelib.course import lesson_5
from vaelib.course.lesson_5 import (
    few_labels,
    separation_of,
    train_alternately,
    train_conv_to_mlp,
    train_with_classifier,
)
from vaelib.data import Split, to_float
from vaelib.evaluation import evaluate
from vaelib.networks import count_parameters
from vaelib.separation import mean_triplet_loss, silhouette, triplet_accuracy
from vaelib.supervision import elbo_with_labels, labels_alone
from vaelib.training import fit
from vaelib.triplet import triplet_loss

QUIET = {"device": "cpu", "progress": False}


def test_the_network_of_the_tensorflow_tutorial_has_its_size():
    encoder = conv_parameters([1, 32, 64]) + mlp_parameters([64 * 6 * 6, 2 * 2])
    decoder = mlp_parameters([2, 32 * 7 * 7]) + conv_parameters([32, 64, 32, 1])
    assert count_parameters(lesson_5.project_a_vae()) == encoder + decoder == 69_989


@pytest.mark.parametrize(
    ("latent_dim", "hidden"), [(2, [128, 128, 128, 256]), (16, [256, 376])], ids=["2-D", "16-D"]
)
def test_the_network_of_chapter_5_has_convolutions_in_and_a_perceptron_out(latent_dim, hidden):
    vae = lesson_5.conv_to_mlp_vae(latent_dim=latent_dim, seed=3)
    convolutions = (9 + 1) * 8 + (9 * 8 + 1) * 16
    encoder = convolutions + mlp_parameters([16 * 49, 256, 128, 2 * latent_dim])
    assert count_parameters(vae) == encoder + mlp_parameters([latent_dim, *hidden, 784])
    assert vae.latent_dim == latent_dim
    other = lesson_5.conv_to_mlp_vae(latent_dim=latent_dim, seed=4)
    assert not torch.equal(vae.encoder.layers[0].weight, other.encoder.layers[0].weight)


@pytest.mark.parametrize("latent_dim", [2, 16])
@pytest.mark.parametrize(("profile", "precision"), [("full", "auto"), ("quick", "float32")])
def test_the_network_of_chapter_5_is_trained_in_the_precision_of_its_profile(
    latent_dim, profile, precision
):
    recipe = lesson_5.conv_to_mlp_training(profile, latent_dim=latent_dim)
    assert recipe.keys() <= inspect.signature(fit).parameters.keys()
    assert recipe["precision"] == precision
    assert max(recipe["lr"](k / 100) for k in range(101)) == {2: 4e-3, 16: 8e-3}[latent_dim]


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
    monkeypatch.setattr(lesson_5, "conv_to_mlp_training", lambda **_: recipe)


@pytest.mark.parametrize(
    "train",
    [
        train_conv_to_mlp,
        partial(train_conv_to_mlp, loss=triplet_loss, weight=1.0, epochs=2),
        partial(train_conv_to_mlp, latent_dim=16, loss=triplet_loss, weight=1.0, n_labels=20),
        partial(train_with_classifier, weight=1.0),
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

    monkeypatch.setattr(lesson_5, "fit", spy)
    _, numbers = train_alternately(
        0, objectives=(elbo_with_labels(triplet_loss, 0.0), labels_alone(triplet_loss))
    )
    assert decoders == [False, True, False, True]
    assert {len(curve) for key, curve in numbers.items() if "epoch" in key} == {40}


def test_mining_in_parts_is_the_mean_of_the_parts():
    rng = torch.Generator().manual_seed(0)
    z, labels = torch.randn(300, 2, generator=rng), torch.randint(3, (300,), generator=rng)
    loss = partial(triplet_loss, mining="semi-hard")
    first, second, rest = (slice(0, 128), slice(128, 256), slice(256, 300))
    expected = sum(loss(z[part], labels[part]) for part in (first, second, rest)) / 3
    torch.testing.assert_close(lesson_5.mined_in_parts(loss)(z, labels), expected)
    assert lesson_5.mined_in_parts(loss, 300)(z, labels) == loss(z, labels)
