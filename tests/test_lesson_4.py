import inspect
import json
import math

import pytest
import torch
import torch.nn.functional as F
from sizes import mlp_parameters
from torch import nn

from vaelib.course import lesson_3, lesson_4
from vaelib.evaluation import evaluate
from vaelib.networks import count_parameters
from vaelib.objectives import elbo
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
