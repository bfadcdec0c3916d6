from types import SimpleNamespace

import pytest
import torch
from sizes import mlp_parameters
from torch import nn

from vaelib.course import lesson_3
from vaelib.networks import count_parameters


def test_the_network_of_project_e_has_its_size_and_leaks():
    vae = lesson_3.project_e_vae()
    size = mlp_parameters([784, 400, 200, 2 * 2], [2, 200, 400, 784])
    assert count_parameters(vae) == size == 790_388
    z = torch.randn(3, 2)
    w1, w2, w3 = (layer.weight for layer in vae.decoder.layers[::2])
    h = z @ w1.T
    h = torch.where(h > 0, h, 0.2 * h) @ w2.T
    h = torch.where(h > 0, h, 0.2 * h) @ w3.T
    torch.testing.assert_close(vae.decoder(z), h.reshape(3, 1, 28, 28))


COMPARED = [(family, budget) for family in ("mlp", "conv") for budget in (70_000, 800_000)]


@pytest.mark.parametrize(
    ("family", "budget", "latent_dim"),
    [(*key, d) for key in COMPARED for d in (2, 16, 32)],
)
def test_the_networks_of_the_comparison_keep_to_their_budget(family, budget, latent_dim):
    vae = lesson_3.comparison_vae(family, budget, latent_dim=latent_dim)
    n = count_parameters(vae)
    assert vae.latent_dim == latent_dim
    for network, kind in ((vae.encoder, nn.Conv2d), (vae.decoder, nn.ConvTranspose2d)):
        assert any(isinstance(m, kind) for m in network.modules()) is (family == "conv")
    assert budget > 70_000 or n < 70_000
    assert abs(n - budget) < 0.1 * budget


@pytest.mark.parametrize(("family", "budget"), [("cnn", 70_000), ("mlp", 50_000)])
def test_an_unknown_network_of_the_comparison_is_named(family, budget):
    with pytest.raises(ValueError, match=f"'{family}' and {budget}; expected one of mlp 70000"):
        lesson_3.comparison_vae(family, budget, latent_dim=2)


@pytest.mark.parametrize(("family", "best"), [("mlp", 32e-3), ("mlp", 8e-3), ("conv", 16e-3)])
def test_the_networks_are_trained_at_the_rate_that_validation_chooses(family, best, monkeypatch):
    parts = tuple(torch.full((2, 1, 28, 28), grey) for grey in (0.1, 0.2, 0.3))
    monkeypatch.setattr(lesson_3, "parts_of", {"mnist": parts}.__getitem__)
    rates, trained, judged = {"mlp": [8e-3, 16e-3, 32e-3], "conv": [8e-3, 16e-3]}[family], [], []

    def train(vae, train, test, *, seed, **recipe):
        assert (train is parts[0], test is parts[2], seed) == (True, True, 4)
        assert recipe.pop("lr")(0.1) == pytest.approx(rates[len(trained)])
        common = lesson_3.comparison_training()
        assert recipe == {name: common[name] for name in common.keys() - {"lr"}}
        trained.append(vae)
        return vae, {"test_rate": float(len(trained))}

    def bound(vae, images):
        assert images is parts[1]
        judged.append(vae)
        return SimpleNamespace(negative_elbo=1.0 if rates[len(judged) - 1] == best else 2.0)

    monkeypatch.setattr(lesson_3, "train_and_measure", train)
    monkeypatch.setattr(lesson_3, "evaluate", bound)
    vae, numbers = lesson_3.train_comparison(4, family=family, budget=70_000, latent_dim=16)
    chosen = rates.index(best)
    assert vae is trained[chosen] is judged[chosen]
    assert len(trained) == len(judged) == len(rates)
    assert numbers == {"test_rate": chosen + 1.0, "lr": best, "validation_negative_elbo": 1.0}
    twin = lesson_3.comparison_vae(family, 70_000, latent_dim=16, seed=4).state_dict()
    for one in trained:  # each rate starts from the same weights
        assert all(torch.equal(value, twin[name]) for name, value in one.state_dict().items())
