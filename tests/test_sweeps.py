import math

import pytest
import torch
from torch import Tensor

from vaelib import VAE, Bernoulli, ConvDecoder, ConvEncoder, Gaussian, sweeps
from vaelib.evaluation import evaluate
from vaelib.schedules import warmup_cosine
from vaelib.sweeps import fit_sweep
from vaelib.training import DivergenceError, fit

QUIET = {"device": "cpu", "progress": False}
BETAS = (0.0, 1.0, 4.0)
RECIPE = {"epochs": 3, "batch_size": 16, "lr": warmup_cosine(0.02), "weight_decay": 0.3, "seed": 4}


def weights(model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def assert_close(one, two, **tolerance) -> None:
    for name, value in weights(two).items():
        torch.testing.assert_close(one.state_dict()[name], value, **tolerance)


# Every model of a sweep is that of a training alone


@pytest.mark.parametrize("batch_size", [16, 50, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_model_ends_where_fit_alone_brings_it(make_vae, images, dtype, batch_size):
    x, recipe = images.to(dtype), RECIPE | {"batch_size": batch_size}
    vaes = [make_vae(seed=seed).to(dtype) for seed in (0, 0, 3)]
    fit_sweep(vaes, x, betas=BETAS, **recipe, **QUIET)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for beta, seed, vae in zip(BETAS, (0, 0, 3), vaes, strict=True):
        alone = make_vae(seed=seed).to(dtype)
        fit(alone, x, beta=beta, **recipe, **QUIET)
        assert_close(vae, alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("learned", [False, True], ids=["fixed-scale", "learned-scale"])
def test_a_scale_that_is_a_number_is_trained_or_left_as_by_fit(make_vae, images, learned):
    def build() -> VAE:
        return make_vae(likelihood=Gaussian(scale=0.5, learned=learned), scale="softplus").double()

    vaes = [build() for _ in BETAS]
    fit_sweep(vaes, images.double(), betas=BETAS, **RECIPE, **QUIET)
    for beta, vae in zip(BETAS, vaes, strict=True):
        alone = build()
        fit(alone, images.double(), beta=beta, **RECIPE, **QUIET)
        assert_close(vae, alone, rtol=0, atol=1e-12)
        moved = abs(vae.likelihood.log_scale.item() - math.log(0.5)) > 1e-3
        assert moved is learned
        assert vae.likelihood.log_scale.requires_grad is learned


def test_convolutional_models_end_where_fit_alone_brings_them():
    def build() -> VAE:
        return VAE(
            encoder=ConvEncoder(latent_dim=2, channels=(2, 3)),
            decoder=ConvDecoder(latent_dim=2, hidden=(5,), channels=(3, 2)),
            likelihood=Bernoulli(grey=True),
        ).double()

    x = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    vaes = [build(), build()]
    fit_sweep(vaes, x, betas=(0.5, 4.0), **RECIPE, **QUIET)
    for beta, vae in zip((0.5, 4.0), vaes, strict=True):
        alone = build()
        fit(alone, x, beta=beta, **RECIPE, **QUIET)
        assert_close(vae, alone, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:this cpu has no units for bfloat16")
def test_bfloat16_is_that_of_fit(make_vae, images):
    vaes, exact = ([make_vae() for _ in BETAS] for _ in range(2))
    fit_sweep(vaes, images, betas=BETAS, precision="bfloat16", **RECIPE, **QUIET)
    fit_sweep(exact, images, betas=BETAS, **RECIPE, **QUIET)
    for beta, vae, full in zip(BETAS, vaes, exact, strict=True):
        alone = make_vae()
        fit(alone, images, beta=beta, precision="bfloat16", **RECIPE, **QUIET)
        assert_close(vae, alone, rtol=0, atol=5e-3)
        assert not equal(weights(vae), weights(full))
        assert {p.dtype for p in vae.parameters()} == {torch.float32}


def test_one_model_makes_a_sweep(make_vae, images):
    vae, alone = make_vae(), make_vae()
    fit_sweep([vae], images, betas=[2.0], **RECIPE, **QUIET)
    fit(alone, images, beta=2.0, **RECIPE, **QUIET)
    assert_close(vae, alone, rtol=0, atol=1e-5)


def test_models_differ_where_their_betas_do_and_only_there(make_vae, images):
    one, same, other = vaes = [make_vae() for _ in range(3)]
    fit_sweep(vaes, images, betas=(1.0, 1.0, 4.0), **RECIPE, **QUIET)
    assert equal(weights(one), weights(same))
    assert not equal(weights(one), weights(other))


def test_a_larger_beta_buys_a_smaller_rate(make_vae, images):
    vaes, betas = [make_vae() for _ in range(4)], (0.0, 0.5, 2.0, 50.0)
    fit_sweep(vaes, images, betas=betas, epochs=60, batch_size=25, lr=0.02, **QUIET)
    rates = [evaluate(vae, images).rate for vae in vaes]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1 > 0.05 > rates[-1]


# Seeds and modes


def test_the_sweep_depends_on_its_seed_and_on_no_global_stream(make_vae, images, rng_untouched):
    first, same, other = ([make_vae(), make_vae()] for _ in range(3))
    recipe = {"betas": (1.0, 2.0), "epochs": 2, "batch_size": 16, **QUIET}
    with rng_untouched():
        fit_sweep(first, images, seed=3, **recipe)
    torch.manual_seed(77)
    fit_sweep(same, images, seed=3, **recipe)
    fit_sweep(other, images, seed=4, **recipe)
    assert all(map(equal, map(weights, first), map(weights, same)))
    assert not any(map(equal, map(weights, first), map(weights, other)))


@pytest.mark.parametrize("training", [True, False])
def test_the_models_train_in_training_mode_and_are_left_in_evaluation_mode(
    make_vae, images, monkeypatch, training
):
    modes, elbo = [], sweeps.elbo

    def spy(model, x, **options):
        modes.append(model.training)
        return elbo(model, x, **options)

    monkeypatch.setattr(sweeps, "elbo", spy)
    vaes = [make_vae().train(training) for _ in range(2)]
    fit_sweep(vaes, images, betas=(1.0, 2.0), epochs=2, **QUIET)
    assert set(modes) == {True}
    assert not any(module.training for vae in vaes for module in vae.modules())


def test_the_images_are_left_as_they_were_and_may_be_flat(make_vae, images):
    before, square, flat = images.clone(), [make_vae(), make_vae()], [make_vae(), make_vae()]
    fit_sweep(square, images, betas=(1.0, 2.0), **RECIPE, **QUIET)
    fit_sweep(flat, images.flatten(1), betas=(1.0, 2.0), **RECIPE, **QUIET)
    assert torch.equal(images, before)
    assert all(map(equal, map(weights, square), map(weights, flat)))


def test_the_models_can_be_trained_further(make_vae, images):
    vaes, alone = [make_vae(), make_vae()], make_vae()
    for _ in range(2):
        fit_sweep(vaes, images, betas=(1.0, 2.0), **RECIPE, **QUIET)
        fit(alone, images, beta=2.0, **RECIPE, **QUIET)
    assert_close(vaes[1], alone, rtol=0, atol=1e-5)
    assert all(p.is_leaf and p.requires_grad for vae in vaes for p in vae.parameters())


@pytest.mark.parametrize(("progress", "options"), [(True, {}), (False, {"disable": True})])
def test_a_hidden_bar_is_hidden_and_a_shown_one_obeys_the_environment(
    make_vae, images, progress, options, watch_bar
):
    asked = watch_bar(sweeps)
    fit_sweep([make_vae()], images, betas=[1.0], epochs=1, device="cpu", progress=progress)
    assert {key: value for key, value in asked.items() if key == "disable"} == options


# Divergence


def test_an_absurd_learning_rate_is_an_error_and_the_first_weights_are_kept(make_vae, images):
    vaes = [make_vae(seed=seed) for seed in (0, 3)]
    before = [weights(vae) for vae in vaes]
    message = "epoch 1: the loss at beta 1, 2 is not finite. Try a smaller lr"
    with pytest.raises(DivergenceError, match=message):
        fit_sweep(vaes, images, betas=(1.0, 2.0), epochs=2, batch_size=10, lr=1e30, **QUIET)
    assert all(map(equal, map(weights, vaes), before))


def test_only_the_betas_that_diverge_are_named(make_vae, images):
    vaes = [make_vae() for _ in range(3)]
    before = weights(vaes[0])
    with pytest.raises(DivergenceError, match=r"epoch 1: the loss at beta 1e\+39 is not finite"):
        fit_sweep(vaes, images, betas=(0.5, 1e39, 2.0), epochs=2, **QUIET)
    assert all(equal(weights(vae), before) for vae in vaes)


def test_a_last_step_that_diverges_is_noticed(make_vae, images):
    vae = make_vae()
    before = weights(vae)
    with pytest.raises(DivergenceError):
        fit_sweep([vae], images, betas=[1.0], epochs=1, batch_size=50, lr=1e30, **QUIET)
    assert equal(weights(vae), before)


def test_models_that_diverged_are_left_in_evaluation_mode(make_vae, images):
    vae = make_vae().eval()
    with pytest.raises(DivergenceError):
        fit_sweep([vae], images, betas=[1.0], epochs=2, batch_size=10, lr=1e30, **QUIET)
    assert not vae.training


# Devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sweep_on_the_gpu_ends_where_fit_alone_brings_each_model(make_vae, images, precision):
    vaes = [make_vae() for _ in BETAS]
    fit_sweep(vaes, images, betas=BETAS, precision=precision, progress=False, **RECIPE)
    for beta, vae in zip(BETAS, vaes, strict=True):
        alone = make_vae()
        fit(alone, images, beta=beta, precision=precision, progress=False, **RECIPE)
        assert vae.device.type == "cuda"
        assert_close(vae, alone, rtol=0, atol=1e-4 if precision == "float32" else 2e-2)


def test_a_device_that_is_not_there_is_named(make_vae, images, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' is not available"):
        fit_sweep([make_vae()], images, betas=[1.0], device="cuda")


# Bad arguments


@pytest.mark.parametrize(("models", "betas"), [(0, 0), (0, 1), (2, 1), (2, 3), (1, 0)])
def test_there_must_be_one_beta_for_each_model(make_vae, images, models, betas):
    message = f"got {models} models and {betas} betas; expected one for each"
    with pytest.raises(ValueError, match=message):
        fit_sweep([make_vae() for _ in range(models)], images, betas=[1.0] * betas, **QUIET)


def test_an_unknown_precision_is_named(make_vae, images):
    message = "precision is 'float16'; expected one of auto, float32, bfloat16"
    with pytest.raises(ValueError, match=message):
        fit_sweep([make_vae()], images, betas=[1.0], precision="float16", **QUIET)


OTHERS = {
    "latent": {"latent_dim": 3},
    "width": {"hidden": (9,)},
    "depth": {"hidden": (8, 8)},
    "scale": {"scale": "softplus"},
    "likelihood": {"likelihood": Gaussian()},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_models_of_different_architectures_are_refused(make_vae, images, other, first):
    vaes = [make_vae(), make_vae(**other)][:: 1 if first else -1]
    before = [weights(vae) for vae in vaes]
    with pytest.raises(ValueError, match="architecture"):
        fit_sweep(vaes, images, betas=(1.0, 2.0), epochs=1, **QUIET)
    assert all(map(equal, map(weights, vaes), before))


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_a_bad_count_is_named(make_vae, images, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected a whole number"):
        fit_sweep([make_vae()], images, betas=[1.0], **{name: value}, **QUIET)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 5, 4), ValueError, r"images have shape \[3, 1, 5, 4\]"),
        (torch.zeros(0, 1, 4, 4), ValueError, "there are no images"),
        (torch.full((3, 1, 4, 4), 0.5), ValueError, "grey values"),
        (torch.full((3, 1, 4, 4), math.nan), ValueError, "48 values that are NaN"),
    ],
    ids=["whole-numbers", "shape", "none", "grey", "nan"],
)
def test_images_that_do_not_suit_the_models_are_refused(make_vae, bad, error, message):
    vaes = [make_vae(), make_vae()]
    with pytest.raises(error, match=message):
        fit_sweep(vaes, bad, betas=(1.0, 2.0), epochs=1, **QUIET)
    assert all(equal(weights(vae), weights(make_vae())) for vae in vaes)
