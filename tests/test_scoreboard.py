import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vaelib import VAE, Bernoulli, Gaussian, data
from vaelib.course import scoreboard
from vaelib.course.scoreboard import IMAGES, SAMPLES, fitted_proposal, measure, score
from vaelib.data import Dataset, Split, to_float
from vaelib.evaluation import active_units, evaluate, fixed_subset, log_likelihood, posterior_of
from vaelib.posteriors import DiagonalNormal
from vaelib.sample_quality import Judge
from vaelib.seeding import generator
from vaelib.svi import elbo_under, fit_posteriors

BERNOULLI = Bernoulli(grey=True)


@pytest.fixture
def source(monkeypatch) -> Dataset:
    """A few digits, and a protocol of few images and samples."""
    monkeypatch.setattr(scoreboard, "IMAGES", 30)
    monkeypatch.setattr(scoreboard, "SAMPLES", 20)
    whole = data.load("digits")
    train = Split(whole.train.images[:150], whole.train.labels[:150])
    test = Split(whole.test.images[:40], whole.test.labels[:40])
    return replace(whole, train=train, test=test, n_validation=20)


@pytest.fixture
def judge(source) -> Judge:
    return Judge(source.train_part, hidden=(16, 8), epochs=3)


@pytest.fixture
def vae(make_vae) -> VAE:
    return make_vae(image_shape=(1, 28, 28), likelihood=BERNOULLI, seed=2)


def binary(x: Tensor) -> Tensor:
    """The fixed binarisation of some grey images."""
    return torch.bernoulli(x, generator=generator(0, "scoreboard"))


def test_the_protocol_takes_a_thousand_images_and_samples():
    assert (IMAGES, SAMPLES) == (1000, 1000)


@pytest.mark.parametrize("is_binary", [False, True])
def test_every_score_is_what_its_function_says_on_its_own(vae, source, judge, is_binary):
    found = measure(vae, source, judge, binary=is_binary, seed=3)
    json.dumps(found, allow_nan=False)
    grey, train = to_float(source.test.images), to_float(source.train_part.images)
    train = fixed_subset(train, 40)  # as many as there are test images
    test = binary(grey) if is_binary else grey
    train = binary(train) if is_binary else train
    report = evaluate(vae, test)
    assert found["test_negative_elbo"] == report.negative_elbo
    assert found["test_rate"] == report.rate
    assert found["train_negative_elbo"] == evaluate(vae, train).negative_elbo
    assert found["test_active_units"] == int(active_units(vae, test).sum())
    assert found["parameters"] == sum(p.numel() for p in vae.parameters())
    samples = vae.sample(40, generator=generator(3, "samples"))
    quality = judge.assess(samples, grey)
    assert {key: found[key] for key in quality._fields} == quality._asdict()
    # The binary image is the same; only where its samples of z come from is not.
    few = fixed_subset(grey, 30)
    assert few.shape == (30, 1, 28, 28)
    x = binary(few)
    own = posterior_of(vae, x if is_binary else few)
    proposal, factor = fitted_proposal(vae, x)
    estimate = log_likelihood(vae, x, k=20, proposal=proposal, seed=3)
    assert found["proposal_widened_by"] == factor
    assert found["scored_negative_elbo"] == -elbo_under(vae, x, own, seed=3).mean().item()
    assert found["test_negative_log_p"] == -estimate.mean
    of_images, of_samples = estimate.standard_error_of_mean
    assert found["standard_error_images"] == of_images
    assert found["standard_error_samples"] == of_samples
    assert found["median_effective_samples"] == estimate.effective_samples.median().item()
    assert len(found) == 16


def is_all_binary(x: Tensor) -> bool:
    return set(x.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("is_binary", [False, True])
def test_the_encoder_is_measured_on_images_as_in_its_training_and_log_p_is_of_binary_ones(
    vae, source, judge, is_binary, monkeypatch
):
    seen, explained = [], []
    vae.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))

    def spy(vae, x, **options):
        explained.append(x)
        return log_likelihood(vae, x, **options)

    monkeypatch.setattr(scoreboard, "log_likelihood", spy)
    measure(vae, source, judge, binary=is_binary)
    assert sorted({len(x) for x in seen}) == [30, 40]
    assert all(is_all_binary(x) is is_binary for x in seen if len(x) == 40)
    # The code of the binary image itself is only where the search for a proposal starts.
    assert [is_all_binary(x) for x in seen if len(x) == 30] == [is_binary, True]
    assert all(is_all_binary(x) for x in explained)


def test_the_score_is_an_estimate_of_log_p_of_binary_images_for_grey_codes_too(
    make_vae, source, judge, log_p_on_a_grid, monkeypatch
):
    monkeypatch.setattr(scoreboard, "SAMPLES", 1000)
    vae = make_vae(image_shape=(1, 28, 28), likelihood=BERNOULLI, seed=2)
    found = [measure(vae, source, judge, binary=is_binary) for is_binary in (False, True)]
    x = binary(fixed_subset(to_float(source.test.images), 30))
    truth = -log_p_on_a_grid(vae, x, points=101).mean().item()
    for numbers in found:
        error = numbers["standard_error_samples"]
        assert numbers["test_negative_log_p"] == pytest.approx(truth, abs=4 * error + 1e-3)
        assert numbers["scored_negative_elbo"] > truth


def test_a_gaussian_has_no_log_p_of_binary_images(make_vae, source, judge):
    gaussian = Gaussian(link="logit", scale=0.3, learned=True)
    found = measure(make_vae(image_shape=(1, 28, 28), likelihood=gaussian), source, judge)
    assert "test_negative_elbo" in found
    assert "precision" in found
    words = ("log_p", "error", "effective", "scored", "proposal")
    assert not [key for key in found if any(word in key for word in words)]
    assert len(found) == 10


def test_scores_depend_on_the_seed_in_what_is_drawn_and_on_no_global_stream(
    vae, source, judge, rng_untouched
):
    with rng_untouched():
        first = measure(vae, source, judge, seed=3)
    torch.manual_seed(77)
    assert measure(vae, source, judge, seed=3) == first
    other = measure(vae, source, judge, seed=4)
    differ = {key for key in first if first[key] != other[key]}
    assert "test_negative_log_p" in differ
    assert not differ & {"test_negative_elbo", "train_negative_elbo", "test_rate", "parameters"}


def test_no_more_than_two_thousand_samples_are_judged(vae, source, judge, monkeypatch):
    many = Split(source.test.images.repeat(60, 1, 1), source.test.labels.repeat(60))
    sizes = []

    def spy(samples: Tensor, real: Tensor):
        sizes.append((len(samples), len(real)))
        return Judge.assess(judge, samples[:40], real[:40])

    monkeypatch.setattr(judge, "assess", spy)
    measure(vae, replace(source, test=many), judge)
    assert sizes == [(2000, 2000)]


# The proposal


@pytest.fixture
def misled(make_vae, images) -> VAE:
    """A VAE whose encoder answers every image with the same point, far out and much too sure."""
    vae = make_vae(hidden=(16,), seed=1)
    with torch.no_grad():
        vae.encoder.layers[-1].weight.zero_()
        vae.encoder.layers[-1].bias.copy_(torch.tensor([2.0, -2.0, -10.0, -10.0]))
        vae.decoder.layers[-1].weight *= 5
    return vae


def test_the_proposal_is_the_best_gaussian_at_the_width_with_the_highest_estimate(misled, images):
    found, factor = fitted_proposal(misled, images)
    fitted = fit_posteriors(misled, images, steps=300, samples=1)
    best = -math.inf
    for widening in (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
        stddev = torch.maximum(fitted.stddev, (fitted.stddev * widening).clamp(max=1))
        wide = DiagonalNormal(fitted.mu, stddev.square().log())
        value = log_likelihood(misled, images, k=100, proposal=wide, seed=1).mean
        if value > best + 1e-6:
            best, proposal, expected = value, wide, widening
    assert factor == expected
    assert torch.equal(found.mu, proposal.mu)
    torch.testing.assert_close(found.stddev, proposal.stddev)


def test_the_faults_of_an_encoder_do_not_reach_the_estimate(misled, images, log_p_on_a_grid):
    proposal, _ = fitted_proposal(misled, images)
    truth = log_p_on_a_grid(misled, images).mean().item()
    before, after = (
        log_likelihood(misled, images, k=100, proposal=q, seed=9)
        for q in (posterior_of(misled, images), proposal)
    )
    assert before.mean < truth - 1
    assert after.mean == pytest.approx(truth, abs=0.02)
    assert after.effective_samples.median() > 50


def test_a_proposal_is_widened_but_not_beyond_the_prior():
    q = DiagonalNormal(torch.zeros(1, 3), torch.tensor([[0.1, 0.8, 1.5]]).square().log())
    wide = scoreboard.widened(q, 2.0)
    torch.testing.assert_close(wide.stddev, torch.tensor([[0.2, 1.0, 1.5]]))
    assert torch.equal(wide.mu, q.mu)


def test_the_width_is_chosen_on_two_hundred_images_for_all(make_vae, images, monkeypatch):
    vae, x, sizes = make_vae(), images.repeat(5, 1, 1, 1), []

    def spy(vae, x, *, k, proposal, seed):
        sizes.append((len(x), len(proposal.mu), k))
        assert seed == 1  # other samples than those of the estimate
        return log_likelihood(vae, x, k=k, proposal=proposal, seed=seed)

    monkeypatch.setattr(scoreboard, "log_likelihood", spy)
    proposal, _ = fitted_proposal(vae, x)
    assert sizes == [(200, 200, 100)] * 8
    assert proposal.mu.shape == proposal.logvar.shape == (250, 2)


# The score of a model of the book


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_model_is_scored_on_the_data_of_its_name_with_a_judge_of_these(
    vae, make_vae, source, is_binary, monkeypatch
):
    loaded = []
    monkeypatch.setattr(data, "load", lambda name: loaded.append(name) or source)
    monkeypatch.setattr(scoreboard, "pick_device", lambda: torch.device("cpu"))
    numbers = score(vae, "digits", binary=is_binary)
    assert loaded == ["digits"]
    record = numbers.pop("provenance")
    assert (record["profile"], record["device"]) == ("full", "cpu")
    assert record["wall_time_s"] > 0
    twin = make_vae(image_shape=(1, 28, 28), likelihood=BERNOULLI, seed=2)
    assert numbers == measure(twin, source, Judge(source.train_part), binary=is_binary)
    assert math.isfinite(numbers["test_negative_log_p"])
    json.dumps(numbers | {"provenance": record}, allow_nan=False)


def test_a_model_is_moved_to_the_device_that_scores_it(vae, source, monkeypatch):
    monkeypatch.setattr(data, "load", lambda name: source)
    monkeypatch.setattr(scoreboard, "pick_device", lambda: torch.device("meta"))
    seen = []
    monkeypatch.setattr(
        scoreboard, "measure", lambda vae, *_, **__: seen.append(vae.device.type) or {"rate": 1.0}
    )
    numbers = score(vae, "digits")
    assert seen == ["meta"]
    assert numbers["provenance"]["device"] == "meta"
    assert numbers["rate"] == 1
