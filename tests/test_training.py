import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vaelib import (
    VAE,
    Autoencoder,
    Bernoulli,
    ConvDecoder,
    ConvEncoder,
    Gaussian,
    MLPDecoder,
    MLPEncoder,
    hardware,
    training,
)
from vaelib.corruption import RandomBinarization
from vaelib.evaluation import evaluate, fixed_subset
from vaelib.objectives import (
    ELBO,
    elbo,
    elbo_at_optimal_scale,
    free_bits,
    importance_weighted,
    reconstruction,
)
from vaelib.schedules import constant, cosine, linear, warmup_cosine
from vaelib.seeding import generator
from vaelib.supervision import elbo_with_labels, labels_alone
from vaelib.training import DivergenceError, History, fit
from vaelib.triplet import triplet_loss

QUIET = {"device": "cpu", "progress": False}


def weights(model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def make_autoencoder() -> Autoencoder:
    sizes = {"latent_dim": 2, "hidden": (8,), "image_shape": (1, 4, 4)}
    return Autoencoder(
        encoder=MLPEncoder(**sizes), decoder=MLPDecoder(**sizes), likelihood=Bernoulli()
    )


class Raises:
    """An augmentation that does something at one of the steps."""

    def __init__(self, at_step: int, action) -> None:
        self.at_step, self.action, self.steps = at_step, action, 0

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        self.steps += 1
        return self.action(x) if self.steps == self.at_step else x


def interrupt(x: Tensor) -> Tensor:
    raise KeyboardInterrupt


def poison(x: Tensor) -> Tensor:
    return x * math.nan


@pytest.fixture
def updates():
    """What the optimiser is given at every step: its learning rate and the gradient norm."""
    seen = []

    def look(optimizer, args, kwargs):
        (lr,) = {group["lr"] for group in optimizer.param_groups}
        grads = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        seen.append(SimpleNamespace(lr=lr, norm=torch.cat(grads).norm().item()))

    handle = register_optimizer_step_pre_hook(look)
    yield seen
    handle.remove()


# The loop itself


@pytest.mark.parametrize("batch_size", [16, 50, 64])
@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_fit_equals_a_plain_loop(make_vae, images, kind, batch_size):
    lr, beta, epochs, seed = cosine(0.01, end=0.001), linear(0.5, 2.0), 2, 4
    model, plain = (make_vae() if kind == "vae" else make_autoencoder() for _ in range(2))
    objective = elbo if kind == "vae" else reconstruction
    fit(
        model, images, objective=objective, epochs=epochs, batch_size=batch_size,
        lr=lr, beta=beta, seed=seed, **QUIET,
    )  # fmt: skip

    optimizer = torch.optim.Adam(plain.parameters())
    batches, noise = generator(seed, "batches"), generator(seed, "noise")
    step, steps = 0, epochs * math.ceil(50 / batch_size)
    for _ in range(epochs):
        order = torch.randperm(50, generator=batches)
        for first in range(0, 50, batch_size):
            x = images[order[first : first + batch_size]]
            mu, logvar = plain.encoder(x)
            eps = torch.randn(len(x), 2, generator=noise)
            z = mu + (logvar / 2).exp() * eps if kind == "vae" else mu
            loss = F.binary_cross_entropy_with_logits(plain.decoder(z), x, reduction="sum")
            if kind == "vae":
                kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum()
                loss = loss + beta(step / steps) * kl
            optimizer.param_groups[0]["lr"] = lr(step / steps)
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            step += 1
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", [None, elbo, importance_weighted()])
def test_fit_with_several_samples_equals_a_plain_loop(make_vae, images, objective):
    beta = 1.0 if objective not in (None, elbo) else 0.5
    model, plain = make_vae(), make_vae()
    fit(
        model, images, objective=objective, epochs=2, batch_size=20, samples=3, beta=beta, seed=4,
        **QUIET,
    )  # fmt: skip
    optimizer = torch.optim.Adam(plain.parameters())
    batches, noise = generator(4, "batches"), generator(4, "noise")
    for _ in range(2):
        order = torch.randperm(50, generator=batches)
        for index in (order[:20], order[20:40], order[40:]):
            x, eps = images[index], torch.randn(3, len(index), 2, generator=noise)
            mu, logvar = plain.encoder(x)
            z = mu + (logvar / 2).exp() * eps
            logits = plain.decoder(z)
            pixels = F.binary_cross_entropy_with_logits(
                logits, x.expand_as(logits), reduction="none"
            )
            distortion = pixels.sum((-3, -2, -1))
            if beta == 1.0:
                # The constants of the two densities are the same.
                log_ratio = -0.5 * (z.square() - eps.square() - logvar).sum(-1)
                loss = -((log_ratio - distortion).exp().mean(0)).log().mean()
            else:
                kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(-1)
                loss = distortion.mean() + beta * kl.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("samples", "leading"), [(1, []), (2, [2]), (5, [5])])
def test_only_a_training_step_has_several_samples_and_each_step_its_own(
    make_vae, images, samples, leading
):
    trained = []

    def spy(model, x, *, noise, **options):
        trained.append(noise.clone())
        return elbo(model, x, noise=noise, **options)

    fit(
        make_vae(), images, test=images[:7], objective=spy, epochs=2, batch_size=20,
        samples=samples, **QUIET,
    )  # fmt: skip
    assert [list(noise.shape) for noise in trained] == [[*leading, b, 2] for b in (20, 20, 10)] * 2
    drawn = torch.cat([noise.flatten() for noise in trained])
    assert len(drawn.unique()) == len(drawn) == 200 * samples
    assert abs(drawn.mean().item()) < 4 / math.sqrt(len(drawn))
    assert drawn.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * len(drawn)))


def test_one_sample_is_the_default(make_vae, images):
    one, two = make_vae(), make_vae()
    fit(one, images, epochs=1, **QUIET)
    fit(two, images, epochs=1, samples=1, **QUIET)
    assert equal(weights(one), weights(two))


def test_every_image_is_used_once_in_an_epoch_and_the_last_batch_is_short(make_vae):
    batches = []

    def spy(x: Tensor, rng: torch.Generator) -> Tensor:
        batches.append(x.clone())
        return x

    x = torch.stack([torch.tensor([float(b) for b in f"{k:016b}"]) for k in range(10)])
    fit(make_vae(), x, epochs=2, batch_size=4, augment=spy, **QUIET)
    assert [len(batch) for batch in batches] == [4, 4, 2] * 2
    value = 2.0 ** torch.arange(15, -1, -1)
    epochs = [(torch.cat(b).flatten(1) @ value).tolist() for b in (batches[:3], batches[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]  # another order in every epoch
    assert epochs[0] != sorted(epochs[0])


def test_a_trained_linear_vae_arrives_at_ppca():
    x = load_digits().data / 16
    truth = PCA(2).fit(x).score_samples(x).mean()
    sizes = {"latent_dim": 2, "hidden": (), "image_shape": (1, 8, 8)}
    vae = VAE(
        encoder=MLPEncoder(**sizes),
        decoder=MLPDecoder(**sizes),
        likelihood=Gaussian(scale=0.5, learned=True),
    )
    x = torch.from_numpy(x).float()
    fit(vae, x, epochs=60, batch_size=64, lr=warmup_cosine(0.02), evaluate_every=60, **QUIET)
    # Samples per image enough for a standard error far below the tolerance.
    noise = torch.randn(50, len(x), 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bound = elbo(vae, x, noise=noise).elbo.mean().item()
    assert truth - 0.5 < bound < truth + 0.05


# Seeds


def test_the_same_seed_gives_the_same_bits(make_vae, images):
    one, two = make_vae(), make_vae()
    past = [
        fit(vae, images, test=images, epochs=2, batch_size=16, seed=3, **QUIET)
        for vae in (one, two)
    ]
    assert equal(weights(one), weights(two))
    assert past[0].train == past[1].train
    assert past[0].test == past[1].test
    assert past[0].grad_norm == past[1].grad_norm


def test_another_seed_gives_another_result(make_vae, images):
    one, two = make_vae(), make_vae()
    for seed, vae in enumerate((one, two)):
        fit(vae, images, epochs=1, seed=seed, **QUIET)
    assert not equal(weights(one), weights(two))


def test_the_global_stream_is_neither_read_nor_moved(make_vae, images, rng_untouched):
    one, two = make_vae(), make_vae()
    with rng_untouched():
        fit(one, images, epochs=1, test=images, **QUIET)
    torch.manual_seed(77)
    fit(two, images, epochs=1, test=images, **QUIET)
    assert equal(weights(one), weights(two))


@pytest.mark.parametrize(
    "options",
    [{"test": True}, {"evaluate_every": 3}, {"snapshot_every": 1}, {"max_grad_norm": 1e9}],
    ids=str,
)
def test_looking_on_has_no_influence_on_the_training(make_vae, images, options):
    if "test" in options:
        options = {"test": 1 - images[:7]}
    plain, watched = make_vae(), make_vae()
    fit(plain, images, epochs=3, batch_size=16, **QUIET)
    fit(watched, images, epochs=3, batch_size=16, **options, **QUIET)
    assert equal(weights(plain), weights(watched))


@pytest.mark.parametrize("guard_every", [1, 3, 4])
def test_the_guard_has_no_influence_on_the_training(make_vae, images, guard_every, monkeypatch):
    plain, guarded = make_vae(), make_vae()
    past = fit(plain, images, epochs=2, batch_size=5, **QUIET)
    monkeypatch.setattr(training, "GUARD_EVERY", guard_every)
    assert fit(guarded, images, epochs=2, batch_size=5, **QUIET).grad_norm == past.grad_norm
    assert equal(weights(plain), weights(guarded))


def test_the_images_are_left_as_they_were(make_vae, images):
    before = images.clone()
    fit(make_vae(), images, epochs=1, augment=lambda x, rng: x.mul_(1), **QUIET)
    assert torch.equal(images, before)


def make_noisy_vae() -> VAE:
    """A VAE with layers that draw from torch's global stream while training."""
    sizes = {"latent_dim": 2, "hidden": (8,), "image_shape": (1, 4, 4)}
    return VAE(
        encoder=MLPEncoder(corruption=RandomBinarization(), **sizes),
        decoder=MLPDecoder(activation=torch.nn.Dropout, **sizes),
        likelihood=Bernoulli(grey=True),
    )


def test_layers_that_draw_depend_on_the_seed_and_on_no_global_stream(images, rng_untouched):
    one, two, other, x = make_noisy_vae(), make_noisy_vae(), make_noisy_vae(), images / 2
    with rng_untouched():
        fit(one, x, epochs=2, batch_size=16, seed=1, **QUIET)
    torch.manual_seed(77)
    fit(two, x, epochs=2, batch_size=16, seed=1, **QUIET)
    assert equal(weights(one), weights(two))
    fit(other, x, epochs=2, batch_size=16, seed=2, **QUIET)
    assert not equal(weights(one), weights(other))


def test_layers_that_draw_do_so_anew_at_every_step_of_every_epoch_and_for_every_seed():
    vae, seen = make_noisy_vae(), []
    vae.encoder.corruption.register_forward_hook(
        lambda module, inputs, output: seen.append(output.clone()) if module.training else None
    )
    grey = torch.full((4, 1, 4, 4), 0.5)  # alike, so that the order of the batches is no matter
    for seed in (0, 1):
        fit(vae, grey, epochs=3, batch_size=2, seed=seed, **QUIET)
    assert len(seen) == 12
    assert len({tuple(batch.flatten().tolist()) for batch in seen}) == 12


def test_layers_that_draw_do_not_when_the_model_is_measured(images):
    x = images / 2
    plain, looked_at = make_noisy_vae(), make_noisy_vae()
    fit(plain, x, epochs=3, evaluate_every=3, **QUIET)
    past = fit(looked_at, x, test=x, epochs=3, **QUIET)
    assert equal(weights(plain), weights(looked_at))
    assert past.test[-1] == evaluate(plain, x)


# What is minimised


def test_the_derivative_of_the_loss_by_beta_is_the_rate(make_vae, images):
    vae, beta = make_vae(seed=3), torch.tensor(1.0, requires_grad=True)
    rate = evaluate(vae, images).rate
    fit(vae, images, epochs=1, batch_size=50, beta=lambda progress: beta, **QUIET)
    assert rate > 0.1
    assert beta.grad.item() == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(("beta", "moves"), [(0.0, False), (1.0, True), (1e-3, True)])
def test_beta_alone_moves_the_encoder_of_a_decoder_that_ignores_it(make_vae, images, beta, moves):
    vae = make_vae()
    torch.nn.init.zeros_(vae.decoder.layers[-1].weight)
    before = weights(vae.encoder)
    fit(vae, images, epochs=1, batch_size=50, beta=beta, **QUIET)
    assert equal(weights(vae.encoder), before) is not moves


def test_reports_are_at_beta_1_whatever_was_trained(make_vae, images):
    vae = make_vae()
    past = fit(vae, images, epochs=1, beta=7.0, **QUIET)
    report = past.train[-1]
    assert report == evaluate(vae, images)
    assert report.negative_elbo == report.distortion + report.rate


def shrunken(model, x, **options):
    """The bound and a decay of the weights, as project B has it."""
    distortion, rate = elbo(model, x, **options)
    return ELBO(distortion + sum(p.square().sum() for p in model.parameters()), rate)


def rate_alone(model, x, **options):
    """No distortion at all, as in one of project E's bugs."""
    distortion, rate = elbo(model, x, **options)
    return ELBO(torch.zeros_like(distortion), rate)


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (elbo, {"beta": 7.0}),
        (free_bits(0.5), {}),
        (importance_weighted(), {"samples": 3}),
        (importance_weighted(doubly_reparameterized=True), {"samples": 3}),
        (elbo_at_optimal_scale, {"likelihood": Gaussian(scale=0.7)}),
        (elbo_with_labels(triplet_loss, 3.0), {"labels": torch.arange(50) % 2}),
        (elbo_with_labels(triplet_loss, 3.0, labelled=(torch.ones(4, 1, 4, 4),
            torch.arange(4) % 2)), {}),
        (labels_alone(triplet_loss), {"labels": torch.arange(50) % 2}),
        (shrunken, {}),
        (rate_alone, {}),
    ],
)  # fmt: skip
def test_history_is_the_plain_bound_whatever_was_trained(make_vae, images, objective, options):
    vae = make_vae(likelihood=options.pop("likelihood", None))
    past = fit(vae, images, test=images, objective=objective, epochs=2, **options, **QUIET)
    truth = evaluate(vae, images)
    noise = torch.randn(50, 2, generator=generator(0, "evaluation"))
    by_hand = elbo(vae, images, noise=noise)
    for report in (past.train[-1], past.test[-1]):
        assert report.negative_elbo == pytest.approx(truth.negative_elbo, abs=1e-4)
        assert report.rate == pytest.approx(by_hand.rate.mean().item(), abs=1e-4)
        assert report.distortion == pytest.approx(by_hand.distortion.mean().item(), abs=1e-4)


def test_a_learning_rate_of_zero_leaves_the_weights(make_vae, images):
    vae = make_vae()
    before = weights(vae)
    fit(vae, images, epochs=2, lr=0.0, **QUIET)
    assert equal(weights(vae), before)


def test_the_learning_rate_follows_its_schedule_at_every_step(make_vae, images, updates):
    schedule = warmup_cosine(0.01, warmup=0.3, start=0.001)
    fit(make_vae(), images, epochs=3, batch_size=16, lr=schedule, **QUIET)
    assert [update.lr for update in updates] == [schedule(k / 12) for k in range(12)]


def test_beta_is_asked_for_at_the_progress_of_every_step(make_vae, images):
    asked = []
    fit(make_vae(), images, epochs=2, batch_size=20, beta=lambda p: asked.append(p) or 1.0, **QUIET)
    assert asked == [k / 6 for k in range(6)]


def test_numbers_and_constant_schedules_are_the_same(make_vae, images):
    one, two = make_vae(), make_vae()
    fit(one, images, epochs=1, lr=0.01, beta=0.5, **QUIET)
    fit(two, images, epochs=1, lr=constant(0.01), beta=constant(0.5), **QUIET)
    assert equal(weights(one), weights(two))


def test_weight_decay_is_decoupled(make_vae, images):
    start, plain, decayed = make_vae(), make_vae(), make_vae()
    fit(plain, images, epochs=1, batch_size=50, lr=0.01, **QUIET)
    fit(decayed, images, epochs=1, batch_size=50, lr=0.01, weight_decay=0.3, **QUIET)
    for name, value in weights(plain).items():
        expected = value - 0.01 * 0.3 * start.state_dict()[name]
        torch.testing.assert_close(decayed.state_dict()[name], expected, rtol=0, atol=1e-7)


def test_weight_decay_leaves_biases_and_scales_alone(make_vae, images):
    def start() -> VAE:
        vae = make_vae(likelihood=Gaussian(scale=0.5, learned=True))
        for layer in vae.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.ones_(layer.bias)  # at 0, where they start, nothing could shrink
        return vae

    first, plain, decayed = start(), start(), start()
    fit(plain, images, epochs=1, batch_size=50, lr=0.01, **QUIET)
    fit(decayed, images, epochs=1, batch_size=50, lr=0.01, weight_decay=0.3, **QUIET)
    for name, value in weights(plain).items():
        shrunk = 0.01 * 0.3 * first.state_dict()[name] if name.endswith("weight") else 0
        torch.testing.assert_close(decayed.state_dict()[name], value - shrunk, rtol=0, atol=1e-7)


def test_gradients_are_clipped_to_the_norm_and_reported_before(make_vae, images, updates):
    limit = 3.0
    past = fit(make_vae(), images, epochs=2, batch_size=16, max_grad_norm=limit, lr=0.0, **QUIET)
    clipped, updates[:] = list(updates), []
    # At lr = 0 the second run meets the very same gradients.
    free = fit(make_vae(), images, epochs=2, batch_size=16, lr=0.0, **QUIET)
    norms = [update.norm for update in updates]
    assert min(norms) > limit / 2
    assert [u.norm for u in clipped] == pytest.approx([min(n, limit) for n in norms], rel=1e-4)
    assert past.grad_norm == free.grad_norm
    assert past.grad_norm == pytest.approx([max(norms[:4]), max(norms[4:])], rel=1e-5)


def test_frozen_weights_stay(make_vae, images):
    vae = make_vae()
    vae.decoder.requires_grad_(False)
    before = weights(vae)
    fit(vae, images, epochs=1, weight_decay=0.1, **QUIET)
    after = weights(vae)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"encoder"}


def test_an_augmentation_has_a_stream_of_its_seed(make_vae, images):
    def flip(x: Tensor, rng: torch.Generator) -> Tensor:
        drawn.append(torch.rand(1, generator=rng).item())
        return x

    runs = []
    for _ in range(2):
        drawn = []
        fit(make_vae(), images, epochs=2, batch_size=16, augment=flip, seed=5, **QUIET)
        runs.append(drawn)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 8


def test_an_augmentation_that_draws_does_not_change_the_order_of_the_batches(make_vae, images):
    orders = []
    for draws in (0, 10):
        batches = []

        def spy(x: Tensor, rng: torch.Generator, draws=draws, batches=batches) -> Tensor:
            torch.rand(draws, generator=rng)
            batches.append(x.clone())
            return x

        fit(make_vae(), images, epochs=3, batch_size=16, augment=spy, **QUIET)
        orders.append(torch.cat(batches))
    assert torch.equal(*orders)


def test_the_model_trains_in_training_mode_and_is_left_in_evaluation_mode(make_vae, images):
    vae, modes = make_vae().eval(), []

    def spy(x: Tensor, rng: torch.Generator) -> Tensor:
        modes.append(vae.training)
        return x

    fit(vae, images, epochs=2, augment=spy, **QUIET)
    assert modes == [True, True]
    assert not vae.training


# History


def test_the_history_holds_what_evaluate_says(make_vae, images):
    train, test = images[:30], images[30:]
    vae = make_vae()
    measured = fixed_subset(train, 20)  # as many training images as test images
    before = evaluate(vae, measured), evaluate(vae, test)
    past = fit(vae, train, test=test, epochs=3, batch_size=8, **QUIET)
    assert past.epochs == [0, 1, 2, 3]
    assert (past.train[0], past.test[0]) == before
    assert (past.train[-1], past.test[-1]) == (evaluate(vae, measured), evaluate(vae, test))
    assert len(past.train) == len(past.test) == 4
    assert past.images_seen == 90
    assert not past.interrupted


def test_the_history_of_every_epoch_is_that_of_a_shorter_training(make_vae, images):
    past = fit(make_vae(), images, test=images, epochs=3, **QUIET)
    for epoch in (1, 2):
        shorter = fit(make_vae(), images, test=images, epochs=epoch, **QUIET)
        assert shorter.test == past.test[: epoch + 1]
        assert shorter.grad_norm == past.grad_norm[:epoch]


def test_without_test_images_there_are_no_test_reports(make_vae, images):
    past = fit(make_vae(), images, epochs=1, **QUIET)
    assert past.test == []
    assert [report.n for report in past.train] == [50, 50]


@pytest.mark.parametrize(
    ("epochs", "every", "measured"),
    [(5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (2, 9, [0, 2]), (2, 1, [0, 1, 2])],
)
def test_the_model_is_measured_every_few_epochs_and_at_the_end(
    make_vae, images, epochs, every, measured
):
    past = fit(make_vae(), images, epochs=epochs, evaluate_every=every, **QUIET)
    assert past.epochs == measured
    assert len(past.train) == len(measured)
    assert len(past.grad_norm) == epochs


def test_seconds_leave_out_the_evaluations(make_vae, images, monkeypatch):
    clock = {"now": 0.0}

    def slow_evaluate(*args, **options):
        clock["now"] += 1000
        return evaluate(*args, **options)

    def work(x: Tensor, rng: torch.Generator) -> Tensor:
        clock["now"] += 1
        return x

    timer = SimpleNamespace(perf_counter=lambda: clock["now"])
    monkeypatch.setattr(training, "time", timer)
    monkeypatch.setattr(training, "evaluate", slow_evaluate)
    past = fit(make_vae(), images, test=images, epochs=3, batch_size=25, augment=work, **QUIET)
    assert past.seconds == 6


def test_snapshots_are_copies_of_their_epoch(make_vae, images):
    vae = make_vae()
    past = fit(vae, images, test=images, epochs=5, snapshot_every=2, **QUIET)
    assert set(past.snapshots) == {2, 4}
    assert not equal(past.snapshots[2], past.snapshots[4])
    for epoch, snapshot in past.snapshots.items():
        shorter, loaded = make_vae(), make_vae(seed=9)
        fit(shorter, images, epochs=epoch, **QUIET)
        assert equal(snapshot, weights(shorter))
        loaded.load_state_dict(snapshot)
        assert evaluate(loaded, images) == past.test[epoch]


def test_a_snapshot_does_not_follow_the_model(make_vae, images):
    vae = make_vae()
    past = fit(vae, images, epochs=1, snapshot_every=1, **QUIET)
    final = weights(vae)
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(1)
    assert equal(past.snapshots[1], final)


def test_there_are_no_snapshots_unless_asked(make_vae, images):
    assert fit(make_vae(), images, epochs=1, **QUIET).snapshots == {}


def test_a_curve_is_one_quantity_over_the_epochs(make_vae, images):
    past = fit(make_vae(), images[:30], test=images[30:], epochs=2, **QUIET)
    for split, reports in (("train", past.train), ("test", past.test)):
        assert past.curve(split, "rate") == [r.rate for r in reports]
        assert past.curve(split, "distortion") == [r.distortion for r in reports]
        assert past.curve(split, "negative_elbo") == [r.distortion + r.rate for r in reports]
    assert History().curve("test", "rate") == []


@pytest.mark.parametrize(("progress", "options"), [(True, {}), (False, {"disable": True})])
def test_a_hidden_bar_is_hidden_and_a_shown_one_obeys_the_environment(
    make_vae, images, progress, options, watch_bar
):
    asked = watch_bar(training)
    fit(make_vae(), images, epochs=1, device="cpu", progress=progress)
    assert {key: value for key, value in asked.items() if key == "disable"} == options


# Interruption and divergence


def test_ctrl_c_returns_the_history_so_far_and_a_model_that_works(make_vae, images):
    vae, shorter = make_vae(), make_vae()
    fit(shorter, images, epochs=1, batch_size=25, **QUIET)
    past = fit(
        vae, images, test=images, epochs=4, batch_size=25, augment=Raises(3, interrupt), **QUIET
    )
    assert past.interrupted
    assert past.epochs == [0, 1]
    assert len(past.train) == len(past.test) == 2
    assert len(past.grad_norm) == 1
    assert past.images_seen == 50
    assert past.test[1] == evaluate(shorter, images)
    assert not vae.training
    assert equal(weights(vae), weights(shorter))  # the step that was interrupted did not happen
    assert math.isfinite(evaluate(vae, images).negative_elbo)


@pytest.mark.parametrize("at_call", [3, 4])
def test_ctrl_c_during_a_measurement_leaves_a_history_that_fits_together(
    make_vae, images, monkeypatch, at_call
):
    calls = []

    def interrupted_evaluate(*args, **options):
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(training, "evaluate", interrupted_evaluate)
    past = fit(make_vae(), images, test=images, epochs=2, **QUIET)
    assert past.interrupted
    assert past.epochs == [0]
    assert len(past.train) == len(past.test) == 1


@pytest.mark.parametrize("guard_every", [1, 2, 100])
def test_a_loss_that_is_nan_stops_the_training_at_its_step(
    make_vae, images, guard_every, monkeypatch
):
    monkeypatch.setattr(training, "GUARD_EVERY", guard_every)
    vae, shorter = make_vae(), make_vae()
    fit(shorter, images, epochs=1, batch_size=10, **QUIET)
    with pytest.raises(DivergenceError, match="step 8 of 15: the loss is nan"):
        fit(vae, images, epochs=3, batch_size=10, augment=Raises(8, poison), **QUIET)
    # The weights of the last whole epoch, and finite.
    assert equal(weights(vae), weights(shorter))
    assert all(p.isfinite().all() for p in vae.parameters())
    assert not vae.training


def test_an_absurd_learning_rate_is_named_and_the_first_weights_are_kept(make_vae, images):
    vae = make_vae()
    before = weights(vae)
    message = r"lr was 1e\+30 and beta 2.*smaller lr.*weights of the last whole epoch"
    with pytest.raises(DivergenceError, match=message):
        fit(vae, images, epochs=2, batch_size=10, lr=1e30, beta=2, **QUIET)
    assert equal(weights(vae), before)


def test_a_gradient_that_is_not_finite_stops_the_training_though_the_loss_is(make_vae, images):
    def objective(model, x, **options):
        terms = elbo(model, x, **options)
        flat = (terms.distortion * 0).abs().sqrt()  # value 0, derivative 0 times infinity
        return terms._replace(distortion=terms.distortion + flat)

    with pytest.raises(DivergenceError, match=r"step 1 of 1: the loss is \d+.* gradient nan"):
        fit(make_vae(), images, epochs=1, objective=objective, **QUIET)


def test_a_last_step_that_diverges_is_noticed(make_vae, images):
    # The loss of the last step is finite; the weights that it leaves are not worth a report.
    vae = make_vae()
    before = weights(vae)
    with pytest.raises(DivergenceError):
        fit(vae, images, epochs=1, batch_size=50, lr=1e30, **QUIET)
    assert equal(weights(vae), before)


# Precision and devices


@pytest.mark.filterwarnings("ignore:this cpu has no units for bfloat16")
def test_bfloat16_trains_the_networks_only_and_evaluates_in_float32(make_vae, images):
    seen = []

    def spy(model, x, **options):
        terms = elbo(model, x, **options)
        networks = model.encoder(x)[0].dtype, model.decoder(torch.zeros(1, 2)).dtype
        seen.append((*networks, terms.distortion.dtype, terms.rate.dtype))
        return terms

    vae, exact = make_vae(), make_vae()
    options = {"epochs": 3, "batch_size": 16, "lr": 0.01, **QUIET}
    past = fit(vae, images, test=images, objective=spy, precision="bfloat16", **options)
    full, half = torch.float32, torch.bfloat16
    assert set(seen) == {(half, half, full, full)}
    assert {p.dtype for p in vae.parameters()} == {full}
    assert past.test[-1] == evaluate(vae, images)
    fit(exact, images, **options)
    assert not equal(weights(vae), weights(exact))
    for name, value in weights(exact).items():
        torch.testing.assert_close(vae.state_dict()[name], value, rtol=0.1, atol=0.02)


def test_float32_is_the_default(make_vae, images):
    one, two = make_vae(), make_vae()
    fit(one, images, epochs=1, **QUIET)
    fit(two, images, epochs=1, precision="float32", **QUIET)
    assert equal(weights(one), weights(two))


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_what_the_device_multiplies_in(make_vae, images, monkeypatch, native):
    monkeypatch.setattr(hardware, "multiplies_in_bfloat16", lambda device: native)
    auto, named = make_vae(), make_vae()
    fit(auto, images, epochs=2, precision="auto", **QUIET)
    fit(named, images, epochs=2, precision="bfloat16" if native else "float32", **QUIET)
    assert equal(weights(auto), weights(named))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_the_gpu_is_reproducible_and_agrees_with_the_cpu(make_vae, images, precision):
    one, two = make_vae(), make_vae()
    past = [
        fit(vae, images, test=images, epochs=2, batch_size=16, precision=precision, progress=False)
        for vae in (one, two)
    ]
    assert one.device.type == "cuda"
    assert equal(weights(one), weights(two))
    assert past[0].test == past[1].test
    on_cpu = evaluate(one.cpu(), images)
    assert past[0].test[-1].negative_elbo == pytest.approx(on_cpu.negative_elbo, abs=1e-3)


# Bad arguments


@pytest.mark.parametrize(
    "name", ["epochs", "batch_size", "samples", "evaluate_every", "snapshot_every"]
)
@pytest.mark.parametrize("value", [0, -2, 1.5, True, "3"])
def test_a_bad_count_is_named(make_vae, images, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected a whole number"):
        fit(make_vae(), images, **{name: value}, **QUIET)


def test_an_unknown_precision_is_named(make_vae, images):
    with pytest.raises(ValueError, match="precision is 'float16'; expected one of auto, float32"):
        fit(make_vae(), images, precision="float16", **QUIET)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_gradient_norm_that_is_not_positive_is_named(make_vae, images, value):
    with pytest.raises(ValueError, match=f"max_grad_norm is {value}"):
        fit(make_vae(), images, epochs=1, max_grad_norm=value, **QUIET)


@pytest.mark.parametrize(("name", "value"), [("lr", -0.1), ("weight_decay", -1.0), ("seed", -1)])
def test_a_negative_number_is_refused(make_vae, images, name, value):
    with pytest.raises(ValueError, match=str(value)):
        fit(make_vae(), images, epochs=1, **{name: value}, **QUIET)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(3, 1, 5, 4), ValueError, r"images have shape \[3, 1, 5, 4\]"),
        (torch.zeros(0, 1, 4, 4), ValueError, "there are no images"),
        (torch.full((3, 1, 4, 4), 0.5), ValueError, "grey values"),
        (torch.full((3, 1, 4, 4), 255.0), ValueError, r"images lie in \[255, 255\]"),
        (torch.full((3, 1, 4, 4), math.nan), ValueError, "48 values that are NaN"),
    ],
)
def test_images_that_do_not_suit_the_model_are_refused(
    make_vae, images, split, bad, error, message
):
    train, test = (bad, images) if split == "train" else (images, bad)
    with pytest.raises(error, match=message):
        fit(make_vae(), train, test=test, epochs=1, **QUIET)


# Labels


def test_every_image_reaches_the_objective_with_its_own_label(make_vae, images):
    labels = torch.arange(len(images))
    seen = []

    def spy(model, x, *, labels=None, **options):
        if model.training:
            assert torch.equal(x, images[labels])
            seen.append(labels)
        return elbo(model, x, **options)

    fit(make_vae(), images, labels=labels, objective=spy, epochs=2, batch_size=20, **QUIET)
    for epoch in (seen[:3], seen[3:]):
        assert torch.equal(torch.cat(epoch).sort().values, labels)


def test_labels_do_not_change_what_an_objective_that_ignores_them_trains(make_vae, images):
    def indifferent(model, x, *, labels=None, **options):
        return elbo(model, x, **options)

    with_labels, without = make_vae(), make_vae()
    labels = torch.zeros(len(images))
    fit(with_labels, images, labels=labels, objective=indifferent, epochs=2, **QUIET)
    fit(without, images, epochs=2, **QUIET)
    for a, b in zip(with_labels.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_wrong_number_of_labels_is_refused(make_vae, images):
    with pytest.raises(ValueError, match="got 49 labels for 50 images; expected one each"):
        fit(make_vae(), images, labels=torch.zeros(49), **QUIET)


# Going on from a state


def make_conv_vae(seed: int = 0) -> VAE:
    return VAE(
        encoder=ConvEncoder(latent_dim=2, channels=(4, 8), seed=seed),
        decoder=ConvDecoder(latent_dim=2, channels=(4, 4), seed=seed),
        likelihood=Bernoulli(grey=True),
    )


def noisy_augmentation(x: Tensor, rng: torch.Generator) -> Tensor:
    return (x + 0.01 * torch.rand(x.shape, generator=rng)).clamp(max=1)


@pytest.mark.parametrize("kind", ["mlp", "noisy", "conv"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_training_goes_on_from_a_state_with_the_same_bits(make_vae, images, kind, after):
    make = {"mlp": make_vae, "noisy": make_noisy_vae, "conv": make_conv_vae}[kind]
    x = F.interpolate(images, size=(28, 28)) if kind == "conv" else images
    recipe = {
        "test": x[:7],
        "epochs": 3,
        "batch_size": 16,
        "lr": warmup_cosine(0.01),
        "beta": linear(0.0, 1.0),
        "weight_decay": 0.1,
        "augment": None if kind == "mlp" else noisy_augmentation,
        **QUIET,
    }
    whole, resumed, states = make(), make(seed=9) if kind != "noisy" else make(), []
    past = fit(whole, x, on_epoch=states.append, **recipe)
    assert [state.epoch for state in states] == [1, 2, 3]
    later = []
    again = fit(resumed, x, resume=states[after - 1], on_epoch=later.append, **recipe)
    assert equal(weights(whole), weights(resumed))
    assert [state.epoch for state in later] == list(range(after + 1, 4))
    past.seconds = again.seconds = 0.0
    assert past == again


def test_a_state_stays_as_it_is_whatever_the_training_does_next(make_vae, images):
    states, copies = [], []

    def keep(state):
        states.append(state)
        copies.append(deepcopy(state))

    vae = make_vae()
    fit(vae, images, epochs=3, on_epoch=keep, **QUIET)
    fit(vae, images, epochs=3, resume=states[0], **QUIET)
    for state, copied in zip(states, copies, strict=True):
        assert equal(state.weights, copied.weights)
        assert equal(state.streams, copied.streams)
        assert state.history == copied.history
        for i, gathered in state.moments.items():
            assert equal(gathered, copied.moments[i])


def test_looking_at_the_states_has_no_influence_on_the_training(make_vae, images, rng_untouched):
    plain, watched = make_vae(), make_vae()
    fit(plain, images, epochs=2, **QUIET)
    with rng_untouched():
        fit(watched, images, epochs=2, on_epoch=lambda state: None, **QUIET)
    assert equal(weights(plain), weights(watched))


def test_a_state_beyond_the_last_epoch_is_refused(make_vae, images):
    states = []
    fit(make_vae(), images, epochs=3, on_epoch=states.append, **QUIET)
    with pytest.raises(ValueError, match="a state after epoch 3; expected at most 2 epochs"):
        fit(make_vae(), images, epochs=2, resume=states[-1], **QUIET)
