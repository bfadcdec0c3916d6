import inspect
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import linalg, optimize
from sizes import mlp_parameters
from torch import nn

from vaelib.aggregate import AggregatePosterior, codes
from vaelib.course import lesson_3, lesson_4
from vaelib.data import Dataset, Split
from vaelib.evaluation import evaluate, rate_per_unit
from vaelib.networks import count_parameters
from vaelib.objectives import elbo
from vaelib.sample_quality import Judge
from vaelib.seeding import generator
from vaelib.sweeps import fit_sweep
from vaelib.training import fit


def test_the_networks_of_the_sweep_are_one_for_each_beta_and_start_alike(rng_untouched):
    with rng_untouched():
        vaes = lesson_4.sweep_vaes(seed=3)
    alone = lesson_3.comparison_vae("mlp", 800_000, latent_dim=16, seed=3)
    other = lesson_4.sweep_vaes(seed=4)[0]
    assert len(vaes) == len(lesson_4.BETAS)
    assert len({p.data_ptr() for vae in vaes for p in vae.parameters()}) == sum(
        len(list(vae.parameters())) for vae in vaes
    )
    for name, value in alone.state_dict().items():
        assert all(torch.equal(vae.state_dict()[name], value) for vae in vaes)
        assert "weight" not in name or not torch.equal(other.state_dict()[name], value)


def test_the_betas_of_the_sweep_rise_from_no_rate_past_the_bound():
    betas = list(lesson_4.BETAS)
    assert betas == sorted(set(betas))
    assert betas[0] == 0
    assert 1 in betas


@pytest.mark.parametrize(("profile", "precision"), [("full", "auto"), ("quick", "float32")])
def test_the_sweep_is_trained_with_a_warm_up_and_keeps_full_precision_on_a_cpu(profile, precision):
    recipe = lesson_4.sweep_training(profile)
    assert recipe.keys() <= inspect.signature(fit_sweep).parameters.keys()
    assert recipe["precision"] == precision
    lr = [recipe["lr"](k / 100) for k in range(101)]
    assert lr[0] == 0
    assert lr[5] == pytest.approx(lr[10] / 2)
    assert max(lr) == lr[10]
    assert lr[10:] == sorted(lr[10:], reverse=True)
    assert lr[100] < 1e-12


def test_the_network_of_project_c_has_its_size():
    size = mlp_parameters([784, 500, 120, 2 * 15], [15, 120, 500, 784])
    assert count_parameters(lesson_4.project_c_vae()) == size == 911_454
    assert lesson_4.project_c_vae().latent_dim == 15


def test_the_posterior_of_project_c_has_the_scale_softplus():
    vae, x = lesson_4.project_c_vae(seed=2), torch.randn(5, 784)
    rho = vae.encoder(x.view(5, 1, 28, 28))[1]
    torch.testing.assert_close(vae.encode(x).stddev, F.softplus(rho))


def test_the_distortion_of_project_c_is_its_sum_of_squared_errors_and_a_constant():
    vae = lesson_4.project_c_vae(seed=2).double()
    rng = torch.Generator().manual_seed(0)
    x = lesson_4.project_c_images(torch.rand(6, 1, 28, 28, generator=rng).double())
    noise = torch.randn(6, 15, generator=rng).double()
    found = elbo(vae, x, noise=noise).distortion - lesson_4.PROJECT_C_CONSTANT
    mu, rho = vae.encoder(x)
    mean = vae.decoder(mu + (1 + rho.exp()).log() * noise)
    for image, drawn, error in zip(x, mean, found.tolist(), strict=True):
        pairs = zip(image.flatten().tolist(), drawn.flatten().tolist(), strict=True)
        # The scale is kept as a logarithm that was rounded to float32.
        assert error == pytest.approx(math.fsum((a - b) ** 2 for a, b in pairs), rel=1e-6)


def test_the_images_of_project_c_are_standardised_by_the_numbers_of_mnist():
    # 0.1307 and 0.3081 are the mean and the deviation that torch's own example of MNIST uses.
    grey = torch.linspace(0, 1, 11).double().view(1, 1, 1, 11)
    found = lesson_4.project_c_images(grey)
    assert found.shape == grey.shape
    torch.testing.assert_close(found, (grey - 0.1307) / 0.3081, rtol=0, atol=5e-4)
    assert grey.max() == 1


def test_project_c_is_trained_at_a_constant_rate_in_full_precision():
    recipe = lesson_4.project_c_training()
    assert recipe == {"epochs": 15, "batch_size": 64, "lr": 0.001}
    assert recipe.keys() <= inspect.signature(fit).parameters.keys()


def test_the_sweep_returns_a_titled_model_for_each_beta_and_their_numbers_in_order(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.rand(n, 1, 28, 28, generator=rng) for n in (9, 5))
    monkeypatch.setattr(lesson_4, "images_of", {"mnist": (train, test)}.__getitem__)
    asked = []

    def tell_apart(vaes, images, **options):
        asked.append((vaes, images, options))
        for i, vae in enumerate(vaes):
            nn.init.constant_(vae.encoder.layers[-1].bias, 0.1 * i)

    matched = []

    def match(vae, *images):
        assert all(map(torch.equal, images, (train, test)))
        matched.append(vae)
        return {"test_mismatch": float(len(matched))}

    monkeypatch.setattr(lesson_4, "fit_sweep", tell_apart)
    monkeypatch.setattr(lesson_4, "prior_match", match)
    titled, numbers = lesson_4.train_sweep(3)
    json.dumps(numbers, allow_nan=False)
    ((vaes, images, options),) = asked
    assert torch.equal(images, train)
    recipe = lesson_4.sweep_training()
    assert options.pop("lr")(0.3) == recipe.pop("lr")(0.3)
    assert options == recipe | {"betas": lesson_4.BETAS, "seed": 3}
    betas = ["0", "0.005", "0.1", "0.3", "1", "2", "4", "8", "16", "28", "50", "200"]
    assert list(titled) == [f"16-D, mlp, β = {beta}" for beta in betas]
    assert numbers["beta"] == [float(beta) for beta in betas]
    for i, vae in enumerate(titled.values()):
        assert vae is vaes[i] is matched[i]
        report = evaluate(vae, test)
        assert numbers["test_rate"][i] == report.rate
        assert numbers["test_distortion"][i] == report.distortion
        assert numbers["test_mismatch"][i] == i + 1
    assert len(set(numbers["test_rate"])) == 12


# Thresholds


@pytest.mark.parametrize("variance", [0.25, "of each pixel"])
def test_thresholds_are_the_generalised_eigenvalues_of_covariance_and_variance(variance):
    x = torch.rand(200, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    x = x @ torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    v = torch.linspace(0.1, 0.4, 12) if variance == "of each pixel" else torch.full((12,), variance)
    found = lesson_4.thresholds(x, v.view(3, 4) if variance == "of each pixel" else variance)
    sigma = np.cov(x.flatten(1).double().numpy().T)
    expected = linalg.eigh(sigma, np.diag(v.double().numpy()), eigvals_only=True)[::-1]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_pixel_that_never_varies_has_no_threshold():
    x = torch.rand(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = 0
    m = x.mean(0)
    found = lesson_4.thresholds(x, m * (1 - m))
    assert len(found) == 3
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("price", "beta"), [(10.0, 1.0), (10.0, 8.0), (10.0, 12.0), (3.0, 0.01)])
def test_the_rate_of_a_linear_unit_minimises_its_loss(price, beta):
    """Of a direction with variance price, in units of the noise, a rate R leaves e^(-2R)."""
    best = optimize.minimize_scalar(
        lambda rate: price * math.exp(-2 * rate) / 2 + beta * rate, bounds=(0, 20), method="bounded"
    ).x
    found = lesson_4.linear_rates(beta, torch.tensor([price, price / 2], dtype=torch.float64))
    assert found[0].item() == pytest.approx(best, abs=1e-4)
    assert found[1] <= found[0]
    assert found.min() >= 0


# The sweeps with samples and units


@pytest.fixture
def few(monkeypatch) -> Dataset:
    """Forty images of two kinds in place of MNIST, and trainings that tell models apart."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = (torch.rand(40, 28, 28, generator=rng) * 255).to(torch.uint8)
    images[labels == 1, :14] //= 8
    source = Dataset(
        "mnist", Split(images, labels), Split(images[:20], labels[:20]), ("0", "1"), n_validation=4
    )

    def tell_apart(vaes, images, **options):
        tell_apart.asked = options | {"images": images}
        for i, vae in enumerate(vaes):
            nn.init.constant_(vae.encoder.layers[-1].bias, 0.1 * i)

    monkeypatch.setattr(lesson_4, "load", {"mnist": source}.__getitem__)
    monkeypatch.setattr(
        lesson_4,
        "images_of",
        lambda name: tuple(part.images.unsqueeze(1) / 255 for part in (source.train, source.test)),
    )
    monkeypatch.setattr(lesson_4, "fit_sweep", tell_apart)
    monkeypatch.setattr(lesson_4, "SAMPLED", 30)
    tell_apart.source = source
    return tell_apart


def test_the_sweep_with_samples_measures_each_model_by_its_own_codes(few):
    pictures, numbers = lesson_4.train_prices(3)
    json.dumps(numbers, allow_nan=False)
    recipe = lesson_4.sweep_training()
    assert few.asked.pop("lr")(0.3) == recipe.pop("lr")(0.3)
    train, test = (part.images.unsqueeze(1) / 255 for part in (few.source.train, few.source.test))
    assert torch.allclose(few.asked.pop("images"), train)
    assert few.asked == recipe | {"betas": lesson_4.BETAS, "seed": 3}
    vaes = lesson_4.sweep_vaes(seed=3)
    few(vaes, train)
    judge = Judge(few.source.train_part)
    for k in (0, 5, 11):
        report = evaluate(vaes[k], test)
        assert numbers["test_distortion"][k] == pytest.approx(report.distortion, rel=1e-6)
        assert sum(numbers["test_rate_per_unit"][k]) == pytest.approx(report.rate, rel=1e-5)
        mixture = AggregatePosterior(codes(vaes[k], train, seed=1))
        expected = mixture.mismatch(codes(vaes[k], test))
        assert numbers["test_mismatch"][k] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        drawn = {
            "prior": torch.randn(30, 16, generator=generator(3, "samples")),
            "mixture": mixture.sample(30, seed=3),
        }
        for name, z in drawn.items():
            images = vaes[k].decode(z).mean.detach()
            quality = judge.assess(images, test)
            assert numbers[f"{name}_coverage"][k] == quality.coverage
            assert numbers[f"{name}_precision"][k] == quality.precision
            kept = pictures.get_buffer(name)[k]
            assert (kept / 255 - images[:20, 0]).abs().max() < 0.51 / 255
        rebuilt = vaes[k].decode(codes(vaes[k], test)[:10]).mean.detach()[:, 0]
        assert (pictures.reconstructions[k] / 255 - rebuilt).abs().max() < 0.51 / 255
    assert torch.equal(pictures.originals, few.source.test.images[:10])
    assert len(numbers["thresholds"]) == 16


def test_the_pictures_of_a_run_are_small():
    pictures = lesson_4.Pictures()
    assert sum(buffer.nbytes for buffer in pictures.buffers()) < 500_000
    assert {buffer.dtype for buffer in pictures.buffers()} == {torch.uint8}


def test_under_a_gaussian_the_network_is_the_same_and_the_distortion_is_a_sum_of_squares(few):
    alone, bernoulli = lesson_4.gaussian_sweep_vaes(seed=5)[2], lesson_4.sweep_vaes(seed=5)[2]
    weights = alone.state_dict()
    assert all(torch.equal(value, weights[k]) for k, value in bernoulli.state_dict().items())
    _, numbers = lesson_4.train_gaussian_prices(5)
    json.dumps(numbers, allow_nan=False)
    assert few.asked["betas"] == lesson_4.GAUSSIAN_BETAS
    test = few.source.test.images.unsqueeze(1) / 255
    vaes = lesson_4.gaussian_sweep_vaes(seed=5)
    few(vaes, test)
    for k in (0, 8):
        assert numbers["test_rate"][k] == pytest.approx(evaluate(vaes[k], test).rate, rel=1e-6)
        assert numbers["test_rate_per_unit"][k] == rate_per_unit(vaes[k], test).tolist()
    z = torch.zeros(len(test), 16)
    stated = alone.decode(z)
    squares = (test - stated.mean).square().flatten(1).sum(1)
    constant = 784 / 2 * math.log(math.pi)
    torch.testing.assert_close(-stated.log_prob(test), squares + constant, rtol=1e-5, atol=1e-3)
    shares = np.array(lesson_4.GAUSSIAN_BETAS) / 10.23 / (np.array(lesson_4.BETAS[2:11]) / 32.23)
    assert np.abs(shares - 1).max() < 0.1
