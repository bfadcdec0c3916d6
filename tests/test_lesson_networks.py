import inspect
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from vaelib import VAE, Autoencoder, Gaussian
from vaelib.corruption import RandomBinarization, RandomWarp
from vaelib.course import lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6, lesson_7
from vaelib.networks import count_parameters
from vaelib.objectives import elbo
from vaelib.sweeps import fit_sweep
from vaelib.training import fit


def mlp_parameters(*networks: list[int]) -> int:
    return sum(a * b + b for widths in networks for a, b in pairwise(widths))


def conv_parameters(channels: list[int]) -> int:
    return sum((9 * a + 1) * b for a, b in pairwise(channels))


def test_the_two_dimensional_vae_has_the_size_that_the_chapter_states():
    widths = [784, 256, 256, 256, 4], [2, 128, 128, 128, 256, 784]
    weights = sum(a * b + b for w in widths for a, b in pairwise(w))
    assert count_parameters(lesson_1.two_dimensional_vae()) == weights == 601_492


def test_only_the_full_profile_corrupts_the_input():
    full, quick = (lesson_1.two_dimensional_vae(p).encoder.corruption for p in ("full", "quick"))
    assert isinstance(full, RandomBinarization)
    assert isinstance(quick, nn.Identity)


def test_an_image_that_overshoots_keeps_a_finite_rate():
    vae = lesson_1.two_dimensional_vae()
    nn.init.constant_(vae.encoder.layers[-1].bias, 1000.0)
    assert vae.encode(torch.rand(3, 784)).logvar.eq(2).all()


def test_the_learning_rate_rises_for_a_tenth_of_the_training_and_ends_at_zero():
    lr = lesson_1.two_dimensional_training()["lr"]
    assert [lr(p) for p in (0, 0.05, 0.1)] == [0, 0.002, 0.004]
    assert lr(1.0) < 1e-12


def test_the_wide_vae_has_the_size_that_the_chapter_states():
    size = mlp_parameters([784, 512, 256, 2 * 128], [128, 256, 512, 784])
    assert count_parameters(lesson_2.vae_128d()) == size == 1_165_840


def test_the_wide_network_takes_another_likelihood_and_makes_an_autoencoder():
    gaussian = Gaussian(link="logit", scale=0.3)
    autoencoder = lesson_2.vae_128d(gaussian, model=Autoencoder)
    assert isinstance(autoencoder, Autoencoder)
    assert autoencoder.likelihood is gaussian
    vae = lesson_2.vae_128d()
    assert isinstance(vae, VAE)
    assert vae.likelihood.check(torch.tensor([0.0, 0.5, 1.0])) is None
    for one, two in zip(autoencoder.encoder.parameters(), vae.encoder.parameters(), strict=True):
        assert torch.equal(one, two)


def test_only_the_full_profile_trains_the_wide_network_as_long_as_asked():
    full, quick = (lesson_2.training_128d(profile, epochs=7) for profile in ("full", "quick"))
    assert (full["epochs"], full["batch_size"], full["precision"]) == (7, 128, "auto")
    assert (quick["epochs"], quick["batch_size"], quick["precision"]) == (10, 64, "float32")
    for recipe in (full, quick):
        assert [recipe["lr"](p) for p in (0, 0.05, 0.1)] == [0, 0.001, 0.002]


def test_the_network_of_project_b_has_its_size():
    size = mlp_parameters([784, 600, 600, 2 * 50], [50, 600, 600, 784])
    assert count_parameters(lesson_2.project_b_vae()) == size == 1_754_084


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


def test_the_network_of_the_tensorflow_tutorial_has_its_size():
    encoder = conv_parameters([1, 32, 64]) + mlp_parameters([64 * 6 * 6, 2 * 2])
    decoder = mlp_parameters([2, 32 * 7 * 7]) + conv_parameters([32, 64, 32, 1])
    assert count_parameters(lesson_5.project_a_vae()) == encoder + decoder == 69_989


@pytest.mark.parametrize(
    "build",
    [
        lesson_2.vae_128d,
        lesson_2.project_b_vae,
        lesson_4.project_c_vae,
        lesson_3.project_e_vae,
        lesson_6.m1_vae,
        partial(lesson_7.burda_vae, torch.full((2, 1, 28, 28), 0.3)),
    ],
)
def test_the_seed_of_a_recipe_fixes_its_weights(build, rng_untouched):
    with rng_untouched():
        one, same, other = build(seed=3), build(seed=3), build(seed=4)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        assert "weight" not in name or not torch.equal(value, other.state_dict()[name])


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


def test_the_numbers_of_labels_are_multiples_of_ten_classes_that_rise():
    numbers = list(lesson_6.NUMBERS_OF_LABELS)
    assert numbers == sorted(set(numbers))
    assert all(n > 0 and n % 10 == 0 for n in numbers)
    # Table 1 of Kingma et al. (2014).
    assert numbers == [100, 600, 1000, 3000]


def test_the_network_of_chapter_6_has_convolutions_in_and_a_perceptron_out():
    vae = lesson_6.m1_vae(seed=3)
    encoder = conv_parameters([1, 16, 32]) + mlp_parameters([32 * 49, 256, 2 * 50])
    decoder = mlp_parameters([50, 500, 500, 784])
    assert count_parameters(vae) == encoder + decoder == 1_100_948
    assert vae.latent_dim == 50
    assert isinstance(vae.encoder.corruption, nn.Identity)
    nn.init.constant_(vae.encoder.layers[-1].bias, 1000.0)
    assert vae.encode(torch.rand(3, 784)).logvar.eq(2).all()
    vae.likelihood.check(torch.tensor([0.0, 0.5, 1.0]))


def test_the_network_of_chapter_6_takes_a_corruption_and_no_other_weights():
    warp = lesson_6.m1_warp("mnist")
    warped, plain = lesson_6.m1_vae(corruption=warp, seed=3), lesson_6.m1_vae(seed=3)
    assert warped.encoder.corruption is warp
    for name, value in plain.state_dict().items():
        assert torch.equal(warped.state_dict()[name], value)


@pytest.mark.parametrize(
    ("dataset", "degrees", "factor", "slant", "shift", "bend"),
    [
        ("mnist", 15, 0.1, 0.2, 2, 1),
        ("digits", 15, 0.1, 0.2, 2, 1),
        ("fashion-mnist", 3, 0.05, 0.05, 1, 0.5),
    ],
)
def test_digits_are_warped_more_than_clothes(dataset, degrees, factor, slant, shift, bend):
    warp = lesson_6.m1_warp(dataset)
    assert isinstance(warp, RandomWarp)
    assert math.degrees(warp.turn) == pytest.approx(degrees)
    assert (warp.stretch, warp.slant, warp.shift, warp.bend) == (factor, slant, shift, bend)


@pytest.mark.parametrize(
    ("profile", "epochs", "batch_size", "precision"),
    [("full", 20, 128, "auto"), ("quick", 20, 64, "float32")],
)
def test_the_network_of_chapter_6_is_trained_as_its_profile_says(
    profile, epochs, batch_size, precision
):
    recipe = lesson_6.m1_training(profile)
    assert recipe.keys() <= inspect.signature(fit).parameters.keys()
    assert (recipe["epochs"], recipe["batch_size"]) == (epochs, batch_size)
    assert (recipe["beta"], recipe["weight_decay"]) == (0.1, 0.01)
    assert recipe["precision"] == precision
    assert [recipe["lr"](p) for p in (0, 0.05, 0.1)] == [0, 0.002, 0.004]
    assert recipe["lr"](1.0) < 1e-12
    assert lesson_6.m1_training()["epochs"] == 20


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
