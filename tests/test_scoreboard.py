import inspect
import json
import math
from dataclasses import replace
from functools import partial
from itertools import groupby

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from vaelib.long_runs import LONG_RUNS, load

from vaelib import VAE, Bernoulli, Gaussian, data, scoreboard
from vaelib.aggregate import codes
from vaelib.course import lesson_3, lesson_4, lesson_5, lesson_6, lesson_7
from vaelib.course.scoreboard import ENTRIES, IMAGES, SAMPLES, Entry, fitted_proposal, score, scored
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
    found = score(vae, source, judge, binary=is_binary, seed=3)
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
    score(vae, source, judge, binary=is_binary)
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
    found = [score(vae, source, judge, binary=is_binary) for is_binary in (False, True)]
    x = binary(fixed_subset(to_float(source.test.images), 30))
    truth = -log_p_on_a_grid(vae, x, points=101).mean().item()
    for numbers in found:
        error = numbers["standard_error_samples"]
        assert numbers["test_negative_log_p"] == pytest.approx(truth, abs=4 * error + 1e-3)
        assert numbers["scored_negative_elbo"] > truth


def test_a_gaussian_has_no_log_p_of_binary_images(make_vae, source, judge):
    gaussian = Gaussian(link="logit", scale=0.3, learned=True)
    found = score(make_vae(image_shape=(1, 28, 28), likelihood=gaussian), source, judge)
    assert "test_negative_elbo" in found
    assert "precision" in found
    words = ("log_p", "error", "effective", "scored", "proposal")
    assert not [key for key in found if any(word in key for word in words)]
    assert len(found) == 10


def test_scores_depend_on_the_seed_in_what_is_drawn_and_on_no_global_stream(
    vae, source, judge, rng_untouched
):
    with rng_untouched():
        first = score(vae, source, judge, seed=3)
    torch.manual_seed(77)
    assert score(vae, source, judge, seed=3) == first
    other = score(vae, source, judge, seed=4)
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
    score(vae, replace(source, test=many), judge)
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
    for widening in (1.0, 1.2, 1.5, 2.0, 3.0):
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
    assert sizes == [(200, 200, 100)] * 5
    assert proposal.mu.shape == proposal.logvar.shape == (250, 2)


# The entries


def test_every_entry_is_a_long_run_of_its_name():
    runs = {name: run for name, run in LONG_RUNS.items() if name.startswith("scoreboard-")}
    assert list(runs) == [f"scoreboard-{name}" for name in ENTRIES]
    for name in ENTRIES:
        train = runs[f"scoreboard-{name}"].train
        assert train.func is scored
        assert train.keywords == {"name": name}
        assert runs[f"scoreboard-{name}"].seeds == (0,)


def test_the_entries_are_of_known_data_and_in_the_order_of_the_chapters():
    assert {entry.dataset for entry in ENTRIES.values()} == {"mnist", "fashion-mnist"}
    for _, group in groupby(ENTRIES.values(), key=lambda entry: entry.dataset):
        chapters = [entry.chapter for entry in group]
        assert chapters == sorted(chapters)
        assert set(chapters) <= set(range(1, 8))
    assert len(list(groupby(ENTRIES.values(), key=lambda entry: entry.dataset))) == 2
    assert {e.chapter for e in ENTRIES.values() if e.dataset == "mnist"} == set(range(1, 8))
    titles = [(entry.dataset, entry.title) for entry in ENTRIES.values()]
    assert len(set(titles)) == len(titles)
    assert all(name.startswith("fashion-") is (e.dataset != "mnist") for name, e in ENTRIES.items())


def test_only_the_models_of_burda_were_trained_on_binary_images():
    assert [name for name, e in ENTRIES.items() if e.binary] == ["burda-vae", "burda-iwae-50"]


@pytest.fixture
def fits(monkeypatch, source):
    """The trainings that an entry asks for; none is done."""
    seen = []
    negative = Split(255 - source.train.images, source.train.labels)
    loaded = {
        "mnist": replace(source, name="mnist"),
        "fashion-mnist": replace(source, name="fashion-mnist", train=negative),
    }
    monkeypatch.setattr(data, "load", loaded.__getitem__)
    monkeypatch.setattr(
        scoreboard, "fit", lambda vae, images, **options: seen.append((vae, images, options))
    )
    return seen


@pytest.mark.parametrize("beta", lesson_4.BETAS)
def test_the_models_of_the_sweep_are_trained_as_in_chapter_4(fits, source, beta):
    vae, _ = ENTRIES[f"sweep-{beta:g}"].train(5)
    ((trained, images, options),) = fits
    assert trained is vae
    assert torch.equal(images, to_float(source.train.images))
    twin = lesson_3.comparison_vae("mlp", 800_000, latent_dim=16, seed=5).state_dict()
    assert all(torch.equal(value, twin[name]) for name, value in vae.state_dict().items())
    recipe = lesson_4.sweep_training()
    assert options.pop("lr")(0.3) == recipe.pop("lr")(0.3)
    assert options == recipe | {"seed": 5, "beta": beta, "evaluate_every": recipe["epochs"]}


@pytest.mark.parametrize(
    ("family", "budget", "latent_dim"),
    [
        (*network, latent_dim)
        for network in lesson_3.NETWORKS_BEYOND_2D
        for latent_dim in (2, 16, 32)
    ],
)
def test_the_networks_of_chapter_3_are_trained_at_the_rate_that_validation_chose(
    fits, source, family, budget, latent_dim
):
    name = f"{family}-{budget // 1000}k-{latent_dim}d"
    vae, _ = ENTRIES[name].train(0)
    ((_, images, options),) = fits
    assert torch.equal(images, to_float(source.train_part.images))
    twin = lesson_3.comparison_vae(family, budget, latent_dim=latent_dim, seed=0)
    assert all(map(torch.equal, vae.state_dict().values(), twin.state_dict().values()))
    chosen = load(f"comparison-{name}")[0]["lr"]
    assert options["lr"](0.1) == pytest.approx(chosen)
    assert options["epochs"] == lesson_3.comparison_training()["epochs"]


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("conv-to-mlp-2d", "2d-plain"),
        ("conv-to-mlp-2d-triplets", "2d-easy-positive-100"),
        ("conv-to-mlp-16d", "16d-plain"),
        ("conv-to-mlp-16d-triplets", "16d-batch-all-30"),
        ("fashion-conv-to-mlp-2d", "2d-fashion-plain"),
        ("fashion-conv-to-mlp-2d-triplets", "2d-fashion-easy-positive-100"),
        ("fashion-conv-to-mlp-16d", "16d-fashion-plain"),
        ("fashion-conv-to-mlp-16d-triplets", "16d-fashion-batch-all-30"),
    ],
)
def test_the_models_of_chapter_5_are_trained_as_its_long_runs_are(name, run):
    def training(f) -> dict:
        call = inspect.signature(f).bind(0)
        call.apply_defaults()
        found = call.arguments | {"of": getattr(f, "func", f)}
        loss = found["loss"]
        return found | {"loss": loss and (loss.func, loss.keywords)}

    assert training(ENTRIES[name].train) == training(LONG_RUNS[run].train)


@pytest.mark.parametrize(("name", "dataset"), [("m1", "mnist"), ("fashion-m1", "fashion-mnist")])
def test_the_models_of_chapter_6_are_trained_with_the_warp_of_their_data(
    fits, source, name, dataset
):
    vae, _ = ENTRIES[name].train(1)
    ((_, images, options),) = fits
    assert torch.equal(images, to_float(data.load(dataset).train_part.images))
    assert options["beta"] == 0.1
    assert vae.encoder.corruption.turn == lesson_6.m1_warp(dataset).turn
    assert ENTRIES[name].dataset == dataset


@pytest.mark.parametrize(
    ("name", "file", "build"),
    [
        (
            "small-conv",
            "small-conv",
            partial(lesson_3.comparison_vae, "conv", 70_000, latent_dim=2),
        ),
        ("tutorial", "tutorial-conv", lesson_5.project_a_vae),
        ("tutorial-triplets", "tutorial-conv-triplets", lesson_5.project_a_vae),
        ("burda-vae", "burda-vae", partial(lesson_7.burda_vae, torch.rand(2, 1, 28, 28))),
        ("burda-iwae-50", "burda-iwae-50", partial(lesson_7.burda_vae, torch.rand(2, 1, 28, 28))),
    ],
)
def test_what_is_too_long_to_train_again_has_its_published_weights(
    name, file, build, monkeypatch, tmp_path
):
    published = build(seed=9)
    (tmp_path / "long_runs").mkdir()
    weights = {key: value.contiguous() for key, value in published.state_dict().items()}
    save_file(weights, tmp_path / "long_runs" / f"{file}.safetensors")
    monkeypatch.setattr(scoreboard, "PUBLISHED", tmp_path)
    vae, _ = ENTRIES[name].train(0)
    read = vae.state_dict()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], value) for key, value in weights.items())
    assert LONG_RUNS[file].keeps_weights
    x = torch.rand(3, 1, 28, 28).round()
    torch.testing.assert_close(codes(vae, x), codes(published, x))


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_scored_model_is_measured_with_a_judge_of_its_data(
    make_vae, source, is_binary, monkeypatch
):
    make = partial(make_vae, image_shape=(1, 28, 28), likelihood=BERNOULLI)
    entry = Entry(3, "tiny", "digits", lambda seed: (make(seed=seed), {"lost": 1}), is_binary)
    loaded = []
    monkeypatch.setattr(data, "load", lambda name: loaded.append(name) or source)
    monkeypatch.setattr(scoreboard, "ENTRIES", {"tiny": entry})
    monkeypatch.setattr(scoreboard, "pick_device", lambda: torch.device("cpu"))
    vae, numbers = scored(6, name="tiny")
    assert loaded == ["digits"]
    twin = make(seed=6)
    for one, two in zip(vae.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    record = numbers.pop("provenance")
    assert (record["profile"], record["device"]) == ("full", "cpu")
    assert numbers == score(twin, source, Judge(source.train_part), binary=is_binary)
    assert math.isfinite(numbers["test_negative_log_p"])
    json.dumps(numbers | {"provenance": record}, allow_nan=False)
