import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from vaelib.course import case_d
from vaelib.course.case_d import BETAS, N_SHORT, N_TRAIN, RUNS, SAMPLES, VARIANCES
from vaelib.likelihoods import Bernoulli, Gaussian
from vaelib.published import PUBLISHED
from vaelib.seeding import generator

SHORT = {
    "project-d-length": (case_d.length_and_rate, 1.0),
    "project-d-length-alone": (case_d.length_and_rate, 0.0),
    "project-d-first-version": (case_d.logits_as_pixels, 1.0),
    **{f"project-d-square-{v:g}": (case_d.elbo, 1.0) for v in VARIANCES},
    "project-d-cross-entropy": (case_d.elbo, 1.0),
}


@pytest.fixture
def noise():
    return torch.randn(50, 2, generator=torch.Generator().manual_seed(2))


def code_and_rate(vae, x, eps):
    """Return z and the KL of one image, from the encoder's bare outputs."""
    mu, logvar = (part[0] for part in vae.encoder(x[None]))
    sigma = (logvar / 2).exp()
    return mu + sigma * eps, kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum()


def test_the_length_is_that_of_an_explicit_loop(images, make_vae, noise):
    vae = make_vae(likelihood=Gaussian(link="logit"), seed=4)
    found = case_d.length_and_rate(vae, images, noise=noise)
    for i, (x, eps) in enumerate(zip(images, noise, strict=True)):
        z, rate = code_and_rate(vae, x, eps)
        x_hat = 1 / (1 + (-vae.decoder(z[None])[0]).exp())
        length = sum(e.item() ** 2 for e in (x - x_hat).flatten()) ** 0.5
        assert found.distortion[i].item() == pytest.approx(length, rel=1e-5)
        assert found.rate[i].item() == pytest.approx(rate.item(), rel=1e-4, abs=1e-6)


def test_the_gradient_of_the_length_has_length_one_at_every_decoded_image(images, make_vae, noise):
    vae = make_vae(likelihood=Gaussian(link="identity"), seed=4)
    seen = []
    vae.decoder.register_forward_hook(lambda *args: seen.append(args[-1]) or args[-1])
    seen_of = case_d.length_and_rate(vae, images, noise=noise)
    (slope,) = torch.autograd.grad(seen_of.distortion.sum(), seen[-1])
    torch.testing.assert_close(slope.flatten(1).norm(dim=1), torch.ones(50))


def test_the_first_version_takes_its_logits_for_pixels(images, make_vae, noise):
    vae = make_vae(likelihood=Bernoulli(grey=True), seed=4)
    found = case_d.logits_as_pixels(vae, images, noise=noise)
    for i, (x, eps) in enumerate(zip(images, noise, strict=True)):
        z, rate = code_and_rate(vae, x, eps)
        logits = vae.decoder(z[None])[0]
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        half = 0.5 * cross_entropy + 0.5 * (x - logits).square().sum().sqrt()
        assert found.distortion[i].item() == pytest.approx(half.item(), rel=1e-5)
        assert found.rate[i].item() == pytest.approx(rate.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("objective", [case_d.length_and_rate, case_d.logits_as_pixels])
def test_the_losses_refuse_images_of_another_size_and_take_flat_ones(
    objective, images, make_vae, noise
):
    vae = make_vae(likelihood=Bernoulli(grey=True))
    with pytest.raises(ValueError, match="images have shape"):
        objective(vae, torch.rand(50, 1, 5, 5), noise=noise)
    with pytest.raises(TypeError, match="floating point"):
        objective(vae, images.long(), noise=noise)
    flat = objective(vae, images.flatten(1), noise=noise)
    torch.testing.assert_close(flat, objective(vae, images, noise=noise))


def test_project_ds_codes_have_the_moments_of_its_mixture(rng_untouched):
    with rng_untouched():
        z = case_d.codes_of_project_d(20_000, 10, generator=generator(0, "test")).double()
    assert z.shape == (20_000, 10)
    n = z.numel()
    variance = 1 / 3 + math.sinh(1)  # E[mu^2] + E[e^logvar], by hand
    # E[z^4] = E[mu^4] + 6 E[mu^2] E[s^2] + 3 E[s^4]
    fourth = 1 / 5 + 6 / 3 * math.sinh(1) + 3 * math.sinh(2) / 2
    assert abs(z.mean()) < 5 * math.sqrt(variance / n)
    assert abs(z.square().mean() - variance) < 5 * math.sqrt((fourth - variance**2) / n)
    assert z.pow(4).mean().item() == pytest.approx(fourth, rel=0.03)
    assert math.sqrt(variance) == pytest.approx(1.228, abs=5e-4)


def test_the_codes_follow_their_generator():
    one, two, other = (
        case_d.codes_of_project_d(5, 3, generator=generator(seed, "test")) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_outputs_are_the_decoders_at_a_sample_of_the_posterior(make_vae):
    vae = make_vae(seed=4)
    images = torch.rand(1003, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1003, 2, generator=generator(5, "outputs"))
    found, errors = case_d.outputs(vae, images, seed=5), []
    assert found.shape == images.shape
    for x, eps, logits in zip(images, noise, found, strict=True):
        z, _ = code_and_rate(vae, x, eps)
        torch.testing.assert_close(vae.decoder(z[None])[0], logits, rtol=1e-4, atol=1e-5)
    for x, logits in zip(images, case_d.outputs(vae, images), strict=True):
        errors.append(sum(e.item() ** 2 for e in (x - logits).flatten()) / 16)
    expected = sum(error**0.5 for error in errors) / 1003
    assert case_d.rmse_of_logits(vae, images) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="images have shape"):
        case_d.outputs(vae, torch.rand(3, 1, 5, 5))


def test_the_judge_sees_the_prior_and_project_ds_codes(monkeypatch, make_vae):
    class Part:
        images = torch.zeros(SAMPLES + 3, 28, 28, dtype=torch.uint8)

    class Source:
        train_part, test = "training images", Part

    class Judge:
        def __init__(self, split, *, seed):
            assert (split, seed) == ("training images", 7)

        def assess(self, samples, real):
            assert len(samples) == len(real) == SAMPLES
            seen.append(samples)
            return case_d.ELBO(0.25, 0.5)  # any named tuple

    seen, codes = [], []
    monkeypatch.setattr(case_d.data, "load", lambda name: Source)
    monkeypatch.setattr(case_d, "Judge", Judge)
    vae = make_vae()
    monkeypatch.setattr(
        case_d, "decoded", lambda model, z: codes.append(z) or torch.zeros(len(z), 1, 4, 4)
    )
    found = case_d.quality_of_samples(vae, seed=7)
    assert found == {n: {"distortion": 0.25, "rate": 0.5} for n in ("prior", "project D")}
    prior, wide = (z.std().item() for z in codes)
    assert prior == pytest.approx(1, abs=0.06)
    assert wide == pytest.approx(1.228, abs=0.06)


def test_decoded_images_are_means(make_vae):
    vae, z = make_vae(), torch.randn(3, 2)
    torch.testing.assert_close(case_d.decoded(vae, z), vae.decoder(z).sigmoid().detach())
    with pytest.raises(ValueError, match="z has shape"):
        case_d.decoded(vae, torch.randn(3, 5))


@pytest.fixture
def trainings(monkeypatch):
    """What every run trains: its model, images and recipe; nothing is trained."""
    seen = {}

    def train_and_measure(vae, train, test, **recipe):
        seen.update(vae=vae, n=len(train), n_test=len(test), **recipe)
        return vae, {}

    monkeypatch.setattr(case_d, "images_of", lambda name: (range(60_000), range(10_000)))
    monkeypatch.setattr(case_d, "train_and_measure", train_and_measure)
    monkeypatch.setattr(case_d, "rmse_of_logits", lambda vae, images: 5.0)
    monkeypatch.setattr(case_d, "quality_of_samples", lambda vae, seed: {"of seed": seed})
    return seen


def run_named(name):
    (run,) = (run for run in RUNS if run.name == name)
    return run


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "rates"),
    [
        ("project-d", 100, 100, (2e-3, 2e-3, 2e-3)),
        ("project-d-one-cycle", 40, 100, (0, 2e-3, 0)),
        *((f"project-d-beta-{beta:g}", 8, 250, (0, 4e-3, 0)) for beta in BETAS),
    ],
)
def test_the_long_runs_train_on_project_ds_images(trainings, name, epochs, batch_size, rates):
    _, numbers = run_named(name).train(3)
    assert numbers == ({"samples": {"of seed": 3}} if name == "project-d-beta-1" else {})
    assert trainings["beta"] == (float(name.split("-")[-1]) if "beta" in name else 1)
    assert (trainings["n"], trainings["n_test"]) == (N_TRAIN, 10_000) == (55_000, 10_000)
    assert [trainings[k] for k in ("seed", "epochs", "batch_size")] == [3, epochs, batch_size]
    found = [trainings["lr"](progress) for progress in (0, 0.1, 1)]
    assert found == pytest.approx(rates, abs=1e-9)


@pytest.mark.parametrize("name", SHORT)
def test_the_short_runs_differ_in_nothing_but_the_loss(trainings, name):
    _, numbers = run_named(name).train(3)
    assert numbers == {"test_rmse_of_logits": 5.0}
    assert (trainings["objective"], trainings["beta"]) == SHORT[name]
    assert trainings["n"] == N_SHORT
    common = ("seed", "epochs", "batch_size", "precision")
    assert [trainings[key] for key in common] == [3, 4, 100, "auto"]
    likelihood = trainings["vae"].likelihood
    if "length" in name or "square" in name:
        assert likelihood.link == "logit"
        if "square" in name:
            variance = (2 * likelihood.log_scale).exp().item()
            assert f"{variance:.2g}" == name.rpartition("-")[2]
    else:
        assert likelihood.grey


def test_only_the_full_profile_trains_as_long_runs_do():
    full, quick = (case_d.short_training(profile) for profile in ("full", "quick"))
    assert (full["batch_size"], full["precision"]) == (100, "auto")
    assert (quick["batch_size"], quick["precision"]) == (50, "float32")
    assert (full["epochs"], quick["epochs"]) == (4, 8)  # of 20,000 images, and of 1,300
    assert full["lr"](0.1) == quick["lr"](0.1) == pytest.approx(2e-3)


def test_the_published_runs_are_there_and_of_this_network():
    long = {"project-d", "project-d-one-cycle", *(f"project-d-beta-{b:g}" for b in BETAS)}
    assert {run.name for run in RUNS} == long | SHORT.keys()
    for run in RUNS:
        path = PUBLISHED / "long_runs" / "case_d_reconstruction" / f"{run.name}.json"
        records = json.loads(path.read_text(encoding="utf-8"))
        assert [record["seed"] for record in records] == [0, 1, 2]
        for record in records:
            assert record["parameters"] == 1_165_840
            total = record["test_distortion"] + record["test_rate"]
            assert record["test_negative_elbo"] == pytest.approx(total)
            assert 0.05 < record["test_rmse"] < 0.27
