from types import SimpleNamespace

import pytest
import torch
from sizes import mlp_parameters
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from vaelib import data
from vaelib.corruption import RandomBinarization
from vaelib.course import lesson_3
from vaelib.data import to_float
from vaelib.evaluation import evaluate
from vaelib.networks import count_parameters
from vaelib.training import DivergenceError


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


@pytest.mark.parametrize("shape", lesson_3.OTHER_SHAPES)
def test_other_shapes_of_the_small_perceptron_keep_to_its_budget(shape):
    vae = lesson_3.comparison_vae("mlp", 70_000, latent_dim=16, shape=shape)
    encoder, decoder = lesson_3.OTHER_SHAPES[shape]
    widths = [784, *encoder["hidden"], 32], [16, *decoder["hidden"], 784]
    assert count_parameters(vae) == sum(map(mlp_parameters, widths))
    assert 60_000 < count_parameters(vae) < 70_000


@pytest.mark.parametrize(
    ("family", "budget", "shape"), [("conv", 70_000, "deep"), ("mlp", 800_000, "deep"),
                                    ("mlp", 70_000, "round")]
)  # fmt: skip
def test_a_shape_that_the_network_does_not_have_is_named(family, budget, shape):
    with pytest.raises(ValueError, match=f"'{shape}'; expected, of"):
        lesson_3.comparison_vae(family, budget, latent_dim=16, shape=shape)


def test_the_rate_is_the_one_with_the_lowest_bound_that_is_a_number():
    assert lesson_3.choose_rate({"0.1": 3.0, "0.2": 1.0, "0.3": 2.0}) == "0.2"
    assert lesson_3.choose_rate({"0.1": None, "0.2": 5.0}) == "0.2"
    with pytest.raises(ValueError, match=r"every training diverged, at rates 0\.1, 0\.2"):
        lesson_3.choose_rate({"0.1": None, "0.2": None})


PARTS = tuple(torch.full((2, 1, 28, 28), grey) for grey in (0.1, 0.2, 0.3))


@pytest.fixture
def trials(monkeypatch):
    """Trainings that take no time: their bounds are given, and what was done is noted."""
    notes = SimpleNamespace(bounds={}, trained=[], judged=[], measured=[], published={})

    def train(vae, images, *, seed, lr, **recipe):
        assert images is PARTS[0]
        rate = lr(0.1)
        notes.trained.append((vae, seed, pytest.approx(rate), recipe))
        vae.rate = next(r for r in lesson_3.RATES if r == pytest.approx(rate))
        if notes.bounds[vae.rate] is None:
            raise DivergenceError("step 1")
        return f"history at {vae.rate:g}"

    def bound(vae, images):
        assert images is PARTS[1]
        notes.judged.append(vae)
        return SimpleNamespace(negative_elbo=notes.bounds[vae.rate])

    def measured(vae, images, test, history):
        assert images is PARTS[0]
        assert test is PARTS[2]
        assert history == f"history at {vae.rate:g}"
        notes.measured.append(vae)
        return {"test_negative_elbo": 100 + vae.rate}

    monkeypatch.setattr(lesson_3, "parts_of", {"mnist": PARTS}.__getitem__)
    monkeypatch.setattr(lesson_3, "fit", train)
    monkeypatch.setattr(lesson_3, "evaluate", bound)
    monkeypatch.setattr(lesson_3, "measured", measured)
    monkeypatch.setattr(lesson_3, "what_codes_know", lambda vae: {"known": vae.rate})
    monkeypatch.setattr(lesson_3.RUNS, "published", lambda name: notes.published.get(name, {}))
    return notes


@pytest.mark.parametrize("best", [2e-3, 16e-3, 32e-3])
def test_every_network_is_tried_at_every_rate_and_measured_at_the_chosen_one(best, trials):
    trials.bounds = {rate: 120.0 for rate in lesson_3.RATES} | {4e-3: None, best: 90.0}
    vae, numbers = lesson_3.train_comparison(0, family="conv", budget=70_000, latent_dim=16)
    assert [rate for _, _, rate, _ in trials.trained] == list(lesson_3.RATES)
    common = lesson_3.comparison_training()
    for _, seed, _, recipe in trials.trained:
        assert seed == 0
        assert recipe.pop("evaluate_every") > common["epochs"]
        assert recipe == {name: common[name] for name in common.keys() - {"lr"}}
    assert vae.rate == best
    assert trials.measured == [vae]  # test images are looked at once
    grid = {f"{rate:g}": bound for rate, bound in trials.bounds.items()}
    assert numbers["grid"] == grid
    assert numbers["processor_seconds"] >= 0
    assert {key: numbers[key] for key in ("lr", "validation_negative_elbo", "known")} == {
        "lr": best, "validation_negative_elbo": 90.0, "known": best,
    }  # fmt: skip
    twin = lesson_3.comparison_vae("conv", 70_000, latent_dim=16).state_dict()
    for one, *_ in trials.trained:  # each rate starts from the same weights
        assert all(torch.equal(value, twin[name]) for name, value in one.state_dict().items())


def test_other_seeds_take_the_rate_of_the_first(trials):
    trials.bounds = dict.fromkeys(lesson_3.RATES, 100.0)
    trials.published = {"comparison-mlp-800k-2d": {0: {"lr": 16e-3}}}
    vae, numbers = lesson_3.train_comparison(2, family="mlp", budget=800_000, latent_dim=2)
    assert [(seed, rate) for _, seed, rate, _ in trials.trained] == [(2, 16e-3)]
    assert numbers["lr"] == vae.rate == 16e-3
    assert "grid" not in numbers
    twin = lesson_3.comparison_vae("mlp", 800_000, latent_dim=2, seed=2).state_dict()
    assert all(torch.equal(value, twin[name]) for name, value in vae.state_dict().items())


def test_another_seed_needs_the_first_and_one_that_diverges_says_so(trials):
    trials.bounds = dict.fromkeys(lesson_3.RATES)
    with pytest.raises(FileNotFoundError, match="seed 0 of 'comparison-mlp-70k-16d-deep'"):
        lesson_3.train_comparison(1, family="mlp", budget=70_000, latent_dim=16, shape="deep")
    trials.published = {"comparison-mlp-70k-16d": {0: {"lr": 4e-3}}}
    with pytest.raises(ValueError, match=r"every training diverged, at rates 0\.004"):
        lesson_3.train_comparison(1, family="mlp", budget=70_000, latent_dim=16)


def test_a_run_of_the_comparison_trains_the_network_of_its_name():
    runs = {run.name: run for run in lesson_3.RUNS if run.name.startswith("comparison")}
    del runs["comparison-beyond-the-grid"]
    assert len(runs) == 12 + len(lesson_3.OTHER_SHAPES)
    for name, run in runs.items():
        network = run.train.keywords
        shape = network.get("shape")
        assert run.seeds == (0, 1, 2)
        assert name == lesson_3.comparison_name(**network)
        weights = (network["latent_dim"], network["budget"], shape) == (16, 70_000, None)
        assert run.keeps_weights is weights


def test_longer_trainings_try_the_chosen_rate_and_half_of_it(trials):
    trials.bounds = {8e-3: 90.0, 16e-3: 91.0}
    trials.published = {"comparison-conv-800k-16d": {0: {"lr": 16e-3}}}
    vae, numbers = lesson_3.train_longer(0, family="conv", budget=800_000)
    assert [rate for _, _, rate, _ in trials.trained] == [8e-3, 16e-3]
    assert {recipe["epochs"] for *_, recipe in trials.trained} == {20}
    assert (vae.rate, vae.latent_dim, numbers["lr"]) == (8e-3, 16, 8e-3)
    trials.published["longer-conv-800k-16d"] = {0: {"lr": 8e-3}}
    trials.trained.clear()
    lesson_3.train_longer(1, family="conv", budget=800_000)
    assert [(seed, rate) for _, seed, rate, _ in trials.trained] == [(1, 8e-3)]


def test_beyond_the_grid_only_those_are_tried_that_chose_its_end(trials, monkeypatch):
    monkeypatch.setattr(lesson_3, "RATES", (2e-3, 4e-3))
    trials.bounds = {8e-3: 99.0}
    chose_the_end = {"comparison-mlp-70k-2d", "comparison-conv-800k-32d"}

    def train(vae, images, *, seed, lr, **recipe):
        assert lr(0.1) == pytest.approx(8e-3)  # the peak
        vae.rate = 8e-3

    monkeypatch.setattr(lesson_3, "fit", train)
    published = lambda name: {0: {"lr": 4e-3 if name in chose_the_end else 2e-3}}  # noqa: E731
    monkeypatch.setattr(lesson_3.RUNS, "published", published)
    model, numbers = lesson_3.train_beyond_the_grid(0)
    assert model is None
    assert numbers["beyond"] == dict.fromkeys(chose_the_end, 99.0)


def test_images_move_to_the_right_and_black_comes_in():
    images = torch.rand(3, 1, 28, 28)
    moved = lesson_3.move_right(images, 2)
    assert torch.equal(moved[..., 2:], images[..., :-2])
    assert not moved[..., :2].any()
    assert torch.equal(lesson_3.move_right(images, 0), images)


def test_neighbours_vote_as_those_of_scikit_learn():
    rng = torch.Generator().manual_seed(0)
    known, codes = torch.randn(300, 4, generator=rng), torch.randn(1100, 4, generator=rng)
    labels = torch.randint(2, (300,), generator=rng)  # two classes and an odd vote: no draw
    judge = KNeighborsClassifier(15).fit(known.numpy(), labels.numpy())
    guess = lesson_3.classes_of_neighbours(codes, known, labels)
    assert guess.tolist() == judge.predict(codes.numpy()).tolist()


def test_separation_is_the_quotient_of_the_two_parts_of_the_variance():
    codes, labels = torch.randn(60, 3), torch.tensor([1, 4, 7] * 20)
    parts = [codes[labels == k] for k in (1, 4, 7)]
    within = sum(float((part - part.mean(0)).square().sum()) for part in parts)
    total = float((codes - codes.mean(0)).square().sum())
    assert lesson_3.separation(codes, labels) == pytest.approx((total - within) / within, rel=1e-4)
    assert lesson_3.separation(5 * codes + 2, labels) == pytest.approx(
        lesson_3.separation(codes, labels), rel=1e-3
    )


def test_what_codes_know_is_measured_on_test_images():
    source = data.load("digits")
    vae = lesson_3.comparison_vae("mlp", 70_000, latent_dim=2)
    found = lesson_3.what_codes_know(vae, source)
    images, labels = to_float(source.test.images), source.test.labels
    assert found["test_separation"] == pytest.approx(
        lesson_3.separation(vae.embed(images), labels), rel=1e-3
    )
    judge = KNeighborsClassifier(15).fit(
        vae.embed(to_float(source.train_part.images)), source.train_part.labels
    )
    for pixels, share, bound in zip(
        lesson_3.MOVES, found["right_when_moved"], found["negative_elbo_when_moved"], strict=True
    ):
        moved = lesson_3.move_right(images, pixels)
        expected = (judge.predict(vae.embed(moved)) == labels.numpy()).mean()
        assert share == pytest.approx(expected, abs=0.02)  # draws are broken differently
        assert bound == pytest.approx(evaluate(vae, moved).negative_elbo, rel=1e-3)


def test_the_networks_in_the_plane_see_corrupted_images_and_are_as_large_as_said():
    for build, size in ((lesson_3.small_conv_vae, 70_000), (lesson_3.large_conv_vae, 810_000)):
        vae = build(seed=1)
        assert isinstance(vae.encoder.corruption, RandomBinarization)
        assert 0.9 * size < count_parameters(vae) <= size
        assert vae.latent_dim == 2
