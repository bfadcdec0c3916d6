import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vaelib import VAE, Bernoulli, MLPDecoder, MLPEncoder
from vaelib.corruption import RandomBinarization
from vaelib.evaluation import evaluate
from vaelib.objectives import ELBO, elbo
from vaelib.supervision import classification_loss, elbo_with_labels, labels_alone
from vaelib.training import fit
from vaelib.triplet import triplet_loss

QUIET = {"device": "cpu", "progress": False}
LOSSES = {
    "triplets": triplet_loss,
    "other triplets": partial(triplet_loss, mining="batch-all", margin=1.0, squared=True),
    "spread": lambda codes, labels: (codes.sum(-1) - labels).square().mean(),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
both_points = pytest.mark.parametrize("on", ["sample", "mean"])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def gradients(value: Tensor, model: nn.Module) -> list[Tensor | None]:
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True)


def batch_of(vae, images) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return noise, labels, and the two kinds of points that a loss can see."""
    rng = torch.Generator().manual_seed(3)
    noise = torch.randn(len(images), vae.latent_dim, generator=rng, dtype=images.dtype)
    labels = torch.arange(len(images)) % 3
    q = vae.encode(images)
    return noise, labels, {"sample": q.mu + q.stddev * noise, "mean": q.mu}


class Spy:
    """The mean square of the codes, and a memory of what it was called with."""

    def __init__(self) -> None:
        self.codes, self.labels = [], []

    def __call__(self, codes: Tensor, labels: Tensor) -> Tensor:
        self.codes.append(codes.detach().clone())
        self.labels.append(labels.clone())
        return codes.square().mean()


def two_kinds(images: Tensor) -> Tensor:
    """Labels that can be seen in the images."""
    return (images[:, 0, 0, 3] > 0.5).long()


# The bound and a loss


def assert_bound_plus(extra: Tensor, terms: ELBO, bound: ELBO, vae: VAE) -> None:
    """Assert that the terms and their gradients are those of the bound and an extra loss."""
    assert extra > 0
    torch.testing.assert_close(terms.distortion, bound.distortion + extra, rtol=1e-12, atol=0)
    assert torch.equal(terms.rate, bound.rate)
    by_hand = gradients((bound.distortion + 2 * bound.rate).mean() + extra, vae)
    ours = gradients((terms.distortion + 2 * terms.rate).mean(), vae)
    torch.testing.assert_close(ours, by_hand, rtol=1e-10, atol=1e-12)


@both_points
@every_loss
def test_the_objective_is_the_bound_plus_the_weighted_loss(make_vae, images, loss, on):
    vae, images = make_vae().double().train(), images.double()
    noise, labels, points = batch_of(vae, images)
    terms = elbo_with_labels(loss, 0.7, on=on)(vae, images, labels=labels, noise=noise)
    bound = elbo(vae, images, noise=noise)
    extra = 0.7 * loss(points[on], labels)
    assert_bound_plus(extra, terms, bound, vae)


def test_the_loss_is_that_of_a_sample_unless_told_otherwise(make_vae, images):
    vae = make_vae().train()
    noise, labels, points = batch_of(vae, images)
    for make in (partial(elbo_with_labels, weight=1.0), labels_alone):
        spy = Spy()
        make(spy)(vae, images, labels=labels, noise=noise)
        torch.testing.assert_close(spy.codes[0], points["sample"])
        assert torch.equal(spy.labels[0], labels)


def test_fit_gives_the_loss_the_labels_of_its_batch(make_vae, images):
    spy, vae = Spy(), make_vae()
    images = images.unique(dim=0)
    codes = vae.embed(images)
    objective = elbo_with_labels(spy, 1.0, on="mean")
    fit(vae, images, labels=torch.arange(len(images)), objective=objective, lr=0.0, **QUIET)
    assert len(spy.labels) == 10  # one batch in each epoch
    for codes_seen, labels in zip(spy.codes, spy.labels, strict=True):
        torch.testing.assert_close(codes_seen, codes[labels])


def a_vae_that_draws_in_its_layers() -> VAE:
    sizes = {"latent_dim": 2, "hidden": (8,), "image_shape": (1, 4, 4)}
    return VAE(
        encoder=MLPEncoder(corruption=RandomBinarization(), **sizes),
        decoder=MLPDecoder(activation=nn.Dropout, **sizes),
        likelihood=Bernoulli(grey=True),
    )


@both_points
def test_with_weight_zero_a_model_is_trained_as_by_the_bound(images, on):
    images = 0.8 * images + 0.1  # so that the binarization has something to draw
    labels = torch.arange(len(images)) % 3
    supervised, plain = a_vae_that_draws_in_its_layers(), a_vae_that_draws_in_its_layers()
    recipe = {"epochs": 2, "batch_size": 20, **QUIET}
    objective = elbo_with_labels(triplet_loss, 0.0, on=on)
    fit(supervised, images, labels=labels, objective=objective, **recipe)
    fit(plain, images, **recipe)
    assert equal(weights(supervised), weights(plain))


@both_points
def test_with_few_labels_and_weight_zero_too_if_no_layer_draws_numbers(make_vae, images, on):
    # The draw of the labelled images moves the stream from which such layers draw.
    labelled = images[:20], torch.arange(20) % 3
    objective = elbo_with_labels(triplet_loss, 0.0, on=on, labelled=labelled, labelled_batch=7)
    supervised, plain = make_vae(), make_vae()
    recipe = {"epochs": 2, "batch_size": 20, **QUIET}
    fit(supervised, images, objective=objective, **recipe)
    fit(plain, images, **recipe)
    assert equal(weights(supervised), weights(plain))


def test_training_on_triplets_lowers_their_loss_on_the_means(make_vae, images):
    labels = two_kinds(images)
    losses = {}
    for weight in (0.0, 20.0):
        vae = make_vae()
        objective = elbo_with_labels(triplet_loss, weight, on="mean")
        fit(vae, images, labels=labels, objective=objective, epochs=60, **QUIET)
        losses[weight] = triplet_loss(vae.embed(images), labels).item()
    assert losses[20.0] < 0.5 * losses[0.0]


# Few labels


@pytest.mark.parametrize("labelled_batch", [12, 13, 256, None])
def test_all_of_the_labelled_images_are_seen_if_they_are_no_more_than_a_batch(
    make_vae, images, labelled_batch
):
    spy, vae = Spy(), make_vae().train()
    options = {} if labelled_batch is None else {"labelled_batch": labelled_batch}
    labelled = images[:12], torch.arange(12)
    objective = elbo_with_labels(spy, 1.0, on="mean", labelled=labelled, **options)
    for _ in range(3):
        objective(vae, images[20:])
    for codes, labels in zip(spy.codes, spy.labels, strict=True):
        assert sorted(labels.tolist()) == list(range(12))
        torch.testing.assert_close(codes, vae.embed(images)[labels])


@pytest.mark.parametrize("labelled_batch", [1, 5, 11])
def test_of_more_labelled_images_as_many_as_a_batch_are_drawn_without_repetition(
    make_vae, images, labelled_batch
):
    torch.manual_seed(0)
    spy, vae = Spy(), make_vae().train()
    labelled = images[:12], torch.arange(12)
    options = {"on": "mean", "labelled": labelled, "labelled_batch": labelled_batch}
    objective = elbo_with_labels(spy, 1.0, **options)
    for _ in range(200):
        objective(vae, images[20:])
    counts = torch.zeros(12)
    for codes, labels in zip(spy.codes, spy.labels, strict=True):
        assert len(labels) == len(labels.unique()) == labelled_batch
        torch.testing.assert_close(codes, vae.embed(images)[labels])
        counts[labels] += 1
    share = labelled_batch / 12
    error = (share * (1 - share) / 200) ** 0.5
    torch.testing.assert_close(counts / 200, torch.full((12,), share), rtol=0, atol=4 * error)


def test_a_batch_of_labelled_images_has_256_unless_told_otherwise(make_vae, images):
    spy = Spy()
    labelled = images.repeat(6, 1, 1, 1), torch.arange(300)
    elbo_with_labels(spy, 1.0, labelled=labelled)(make_vae().train(), images)
    assert len(spy.labels[0].unique()) == 256


@every_loss
def test_with_few_labels_value_and_gradient_are_those_of_two_batches(make_vae, images, loss):
    vae, images = make_vae().double().train(), images.double()
    noise, _, _ = batch_of(vae, images[10:])
    few = images[:10], torch.arange(10) % 4
    objective = elbo_with_labels(loss, 0.7, on="mean", labelled=few)
    terms = objective(vae, images[10:], noise=noise)
    bound = elbo(vae, images[10:], noise=noise)
    extra = 0.7 * loss(vae.encode(few[0]).mu, few[1])
    assert_bound_plus(extra, terms, bound, vae)


def test_the_labelled_images_that_are_drawn_are_sampled_with_fresh_standard_normal_noise(
    make_vae, images
):
    torch.manual_seed(0)
    spy, vae = Spy(), make_vae().double().train()
    images = images.double()
    objective = elbo_with_labels(spy, 1.0, labelled=(images, torch.arange(50)), labelled_batch=30)
    noise = torch.zeros(50, 2).double()
    for _ in range(100):
        objective(vae, images, noise=noise)
    q = vae.encode(images)
    drawn = torch.stack(
        [
            (codes - q.mu[labels]) / q.stddev[labels]
            for codes, labels in zip(spy.codes, spy.labels, strict=True)
        ]
    )
    assert drawn.mean().item() == pytest.approx(0, abs=4 / 6000**0.5)
    assert drawn.std().item() == pytest.approx(1, abs=4 / 12000**0.5)
    assert len(drawn.unique()) == 6000


def test_with_few_labels_those_of_the_batch_do_not_count(make_vae, images):
    vae = make_vae().train()
    noise, labels, _ = batch_of(vae, images)
    objective = elbo_with_labels(
        triplet_loss, 3.0, labelled=(images[:20], labels[:20]), labelled_batch=9
    )
    measured = []
    for hidden in ({}, {"labels": None}, {"labels": labels}, {"labels": labels * 0 + 99}):
        torch.manual_seed(1)
        measured.append(objective(vae, images, noise=noise, **hidden))
    for terms in measured[1:]:
        assert torch.equal(terms.distortion, measured[0].distortion)
        assert torch.equal(terms.rate, measured[0].rate)


def train_with_few_labels(make_vae, images, *, on: str = "sample", **options) -> dict[str, Tensor]:
    labelled = images[:20], torch.arange(20) % 3
    objective = elbo_with_labels(triplet_loss, 5.0, on=on, labelled=labelled, labelled_batch=9)
    vae = make_vae()
    fit(vae, images, objective=objective, epochs=2, batch_size=20, **QUIET, **options)
    return weights(vae)


@both_points
def test_training_with_few_labels_depends_on_its_seed_only(make_vae, images, rng_untouched, on):
    with rng_untouched():
        first = train_with_few_labels(make_vae, images, on=on)
    torch.manual_seed(99)
    assert equal(train_with_few_labels(make_vae, images, on=on), first)
    assert not equal(train_with_few_labels(make_vae, images, on=on, seed=1), first)


def test_training_with_few_labels_never_sees_the_hidden_ones(make_vae, images):
    first = train_with_few_labels(make_vae, images)
    for hidden in (torch.arange(50) % 3, torch.zeros(50).long()):
        assert equal(train_with_few_labels(make_vae, images, labels=hidden), first)


def test_a_step_draws_other_labelled_images_than_the_one_before(make_vae, images):
    spy = Spy()
    labelled = images[:20], torch.arange(20)
    objective = elbo_with_labels(spy, 1.0, labelled=labelled, labelled_batch=5)
    fit(make_vae(), images, objective=objective, epochs=4, batch_size=25, **QUIET)
    draws = {tuple(labels.tolist()) for labels in spy.labels}
    assert len(draws) == len(spy.labels) == 8


def test_training_with_few_labels_lowers_the_loss_of_the_labelled_images(make_vae, images):
    labels = two_kinds(images)
    losses = {}
    for weight in (0.0, 20.0):
        vae = make_vae()
        few = images[:20], labels[:20]
        objective = elbo_with_labels(triplet_loss, weight, on="mean", labelled=few)
        fit(vae, images, objective=objective, epochs=60, **QUIET)
        losses[weight] = triplet_loss(vae.embed(few[0]), few[1]).item()
    assert losses[20.0] < 0.5 * losses[0.0]


# Labels alone


@both_points
@every_loss
def test_labels_alone_give_the_loss_and_no_gradient_to_the_decoder(make_vae, images, loss, on):
    vae, images = make_vae().double().train(), images.double()
    noise, labels, points = batch_of(vae, images)
    objective = labels_alone(loss, on=on)
    terms = objective(vae, images, labels=labels, noise=noise)
    expected = loss(points[on], labels)
    assert expected > 0
    torch.testing.assert_close(terms.distortion, expected.expand(50), rtol=1e-12, atol=0)
    assert not terms.rate.any()
    assert terms.rate.shape == (50,)
    value = (terms.distortion + 2 * terms.rate).mean()
    ours, by_hand = gradients(value, vae.encoder), gradients(expected, vae.encoder)
    torch.testing.assert_close(ours, by_hand, rtol=1e-10, atol=1e-12)
    value = objective(vae, images, labels=labels, noise=noise).distortion.mean()
    assert all(gradient is None for gradient in gradients(value, vae.decoder))


def test_training_on_labels_alone_leaves_the_decoder_as_it_was(make_vae, images):
    after = {}
    for beta in (0.0, 1.0, 7.0):
        vae = make_vae()
        before = weights(vae)
        fit(
            vae,
            images,
            labels=two_kinds(images),
            objective=labels_alone(triplet_loss),
            epochs=3,
            beta=beta,
            weight_decay=0.1,
            **QUIET,
        )
        after[beta] = weights(vae)
        changed = {name for name in before if not torch.equal(before[name], after[beta][name])}
        assert changed == {name for name in before if name.startswith("encoder")}
    assert equal(after[0.0], after[1.0])
    assert equal(after[0.0], after[7.0])


def test_training_on_labels_alone_separates_the_means(make_vae, images):
    vae, labels = make_vae(seed=1), two_kinds(images)
    assert triplet_loss(vae.embed(images), labels) > 1
    objective = labels_alone(triplet_loss)
    fit(vae, images, labels=labels, objective=objective, epochs=60, lr=1e-2, **QUIET)
    assert triplet_loss(vae.embed(images), labels) < 0.1


# The classifier


def test_the_loss_of_a_classifier_is_minus_the_mean_log_probability_of_the_label():
    rng = torch.Generator().manual_seed(0)
    codes, labels = torch.randn(9, 2, generator=rng).double(), torch.arange(9) % 4
    head = nn.Linear(2, 4).double()
    log_p = []
    for code, label in zip(codes.tolist(), labels.tolist(), strict=True):
        parameters = zip(head.weight.tolist(), head.bias.tolist(), strict=True)
        logits = [w[0] * code[0] + w[1] * code[1] + b for w, b in parameters]
        log_p.append(logits[label] - math.log(sum(map(math.exp, logits))))
    loss = classification_loss(head)(codes, labels)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-sum(log_p) / 9, rel=1e-12)
    # The gradient of the logits is probability minus indicator, over the size of the batch.
    (gradient,) = torch.autograd.grad(loss, head.bias)
    error = torch.softmax(head(codes), 1) - torch.eye(4)[labels]
    torch.testing.assert_close(gradient, error.mean(0), rtol=1e-12, atol=1e-12)


def test_a_classifier_that_knows_nothing_costs_the_logarithm_of_the_number_of_classes():
    codes, labels = torch.randn(6, 2), torch.arange(6) % 5
    loss = classification_loss(lambda codes: torch.zeros(len(codes), 5))(codes, labels)
    assert loss.item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("few", [False, True], ids=["all labels", "few labels"])
@pytest.mark.parametrize("part", [True, False], ids=["part of the model", "not part of it"])
def test_a_head_that_is_part_of_the_model_is_trained(make_vae, images, part, few):
    torch.manual_seed(0)
    vae, head, labels = make_vae(), nn.Linear(2, 2), two_kinds(images)
    if part:
        vae.add_module("head", head)
    before = weights(head)
    labelled = (images[:20], labels[:20]) if few else None
    objective = elbo_with_labels(classification_loss(head), 10.0, labelled=labelled)
    all_labels = {} if few else {"labels": labels}
    fit(vae, images, objective=objective, epochs=30, lr=1e-2, **all_labels, **QUIET)
    after = weights(head)
    if part:
        assert not any(torch.equal(before[name], after[name]) for name in before)
        right = (head(vae.embed(images)).argmax(1) == labels).float().mean()
        assert right > 0.9
    else:
        assert equal(before, after)


def test_a_classifier_can_be_trained_on_labels_alone(make_vae, images):
    torch.manual_seed(0)
    vae, labels = make_vae(), two_kinds(images)
    vae.add_module("head", nn.Linear(2, 2))
    objective = labels_alone(classification_loss(vae.head))
    fit(vae, images, labels=labels, objective=objective, epochs=60, lr=1e-2, **QUIET)
    assert (vae.head(vae.embed(images)).argmax(1) == labels).float().mean() > 0.9


# Evaluation


def never(codes: Tensor, labels: Tensor) -> Tensor:
    raise AssertionError("the loss was called.")


OBJECTIVES = {
    "all labels": lambda loss, images: elbo_with_labels(loss, 5.0),
    "few labels": lambda loss, images: elbo_with_labels(
        loss, 5.0, labelled=(images[:9], torch.arange(9) % 2)
    ),
    "labels alone": lambda loss, images: labels_alone(loss),
}
every_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_the_curves_of_a_training_are_those_of_the_bound(make_vae, images, make):
    vae = make_vae()
    objective = make(triplet_loss, images)
    history = fit(
        vae, images, test=images[:30], labels=two_kinds(images), objective=objective, **QUIET
    )
    assert history.test[-1] == evaluate(vae, images[:30], objective=elbo)


# Bad input


@pytest.mark.parametrize("make", [OBJECTIVES["all labels"], OBJECTIVES["labels alone"]])
def test_training_without_labels_says_how_to_give_them(make_vae, images, make):
    with pytest.raises(ValueError, match=r"no labels; expected .* fit\(labels=...\)"):
        make(triplet_loss, images)(make_vae().train(), images)
    with pytest.raises(ValueError, match=r"no labels; expected .* fit\(labels=...\)"):
        fit(make_vae(), images, objective=make(triplet_loss, images), **QUIET)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight is .*; expected a finite number, at least 0"):
        elbo_with_labels(triplet_loss, weight)


def test_an_unknown_kind_of_point_is_named():
    with pytest.raises(ValueError, match="on is 'mode'; expected sample or mean"):
        elbo_with_labels(triplet_loss, 1.0, on="mode")
    with pytest.raises(ValueError, match="on is 'mode'; expected sample or mean"):
        labels_alone(triplet_loss, on="mode")


@pytest.mark.parametrize(("n_images", "n_labels"), [(5, 4), (4, 5), (0, 0)])
def test_labelled_images_and_labels_that_are_not_as_many_are_refused(images, n_images, n_labels):
    message = f"labelled has {n_images} images and {n_labels} labels; expected at least one image"
    labelled = images[:n_images], torch.arange(n_labels)
    with pytest.raises(ValueError, match=message):
        elbo_with_labels(triplet_loss, 1.0, labelled=labelled)


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_a_labelled_batch_of_no_size_is_refused(images, size):
    labelled = images[:9], torch.arange(9)
    with pytest.raises(ValueError, match=rf"labelled_batch is {size}; expected a whole number"):
        elbo_with_labels(triplet_loss, 1.0, labelled=labelled, labelled_batch=size)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[:, :, :2], ValueError, r"images have shape \[9, 1, 2, 4\]; expected"),
        (lambda x: x.to(torch.uint8), TypeError, "images are torch.uint8; expected floating"),
        (lambda x: 7 * x, ValueError, r"images lie in \[0, 7\]"),
    ],
    ids=["shape", "type", "values"],
)
def test_labelled_images_that_do_not_suit_the_model_are_refused(
    make_vae, images, change, error, message
):
    labelled = change(images[:9]), torch.arange(9) % 2
    objective = elbo_with_labels(triplet_loss, 1.0, labelled=labelled)
    with pytest.raises(error, match=message):
        objective(make_vae().train(), images)


@every_objective
def test_images_and_noise_that_do_not_suit_the_model_are_refused(make_vae, images, make):
    vae, objective, labels = make_vae().train(), make(triplet_loss, images), two_kinds(images)
    with pytest.raises(ValueError, match=r"noise has shape \[4, 2\]; expected \[50, 2\]"):
        objective(vae, images, labels=labels, noise=torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"images lie in \[0, 7\]"):
        objective(vae, 7 * images, labels=labels)
    objective(vae, 7 * images, labels=labels, validate=False)
