import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from vaelib.course import case_c
from vaelib.course.case_c import (
    BETA,
    CONDITIONAL,
    N_CONDITIONAL,
    RUNS,
    SCALES,
    ConditionalVAE,
    conditional_elbo,
    record_training,
    start_at,
)
from vaelib.course.lesson_4 import project_c_images, project_c_vae
from vaelib.data import Split
from vaelib.likelihoods import Gaussian
from vaelib.objectives import elbo
from vaelib.published import PUBLISHED
from vaelib.seeding import generator

RECIPE = {"seed": 3, "epochs": 2, "batch_size": 20, "lr": 1e-3}


@pytest.fixture
def make_small(make_vae):
    return lambda scale="softplus": make_vae(likelihood=Gaussian(link="identity"), scale=scale)


@pytest.mark.parametrize("scale", SCALES)
def test_losses_and_norms_are_those_of_an_explicit_loop(images, make_small, scale):
    steps = record_training(make_small(scale), images, **RECIPE)
    vae, expected = make_small(scale), []
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    order_rng, noise_rng = (generator(3, name) for name in ("order", "noise"))
    for _ in range(2):
        for batch in images[torch.randperm(50, generator=order_rng)].split(20):
            distortion, rate = elbo(
                vae, batch, noise=torch.randn(len(batch), 2, generator=noise_rng)
            )
            loss = (distortion + BETA * rate).mean()
            optimizer.zero_grad()
            loss.backward()
            trained = [p for p in vae.parameters() if p.requires_grad]
            norm = sum(p.grad.square().sum() for p in trained).sqrt()
            expected.append((loss.item(), norm.item()))
            optimizer.step()
    torch.testing.assert_close(steps, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_the_training_ends_with_the_first_epoch_that_has_a_step_that_is_not_finite(
    images, make_small
):
    vae = make_small("linear")
    nn.init.zeros_(vae.encoder.layers[-1].weight)
    nn.init.zeros_(vae.encoder.layers[-1].bias)  # sigma = 0, whose logarithm is not finite
    steps = record_training(vae, images, **RECIPE)
    assert steps.shape == (3, 2)  # one epoch of two
    assert not steps[0].isfinite().all()


@pytest.mark.parametrize(
    ("scale", "sigma_of"), [("softplus", F.softplus), ("exp", lambda out: (out / 2).exp())]
)
@pytest.mark.parametrize("sigma", [math.log(2), 1.0])
def test_a_start_shifts_the_output_to_its_sigma(scale, sigma_of, sigma):
    plain, shifted = (project_c_vae(seed=1, scale=scale) for _ in range(2))
    start_at(shifted, sigma, scale=scale)
    last = plain.encoder.layers[-1], shifted.encoder.layers[-1]
    shift = last[1].bias - last[0].bias
    assert shift[:15].eq(0).all()  # of mu
    torch.testing.assert_close(sigma_of(shift[15:]), torch.full((15,), sigma))
    assert torch.equal(last[0].weight, last[1].weight)


def test_there_is_no_start_for_a_bare_sigma(make_small):
    with pytest.raises(KeyError):
        start_at(make_small("linear"), 1.0, scale="linear")


def test_a_run_starts_where_it_is_told_and_reports_what_it_saw(images, monkeypatch):
    seen = []

    def record(vae, x, **recipe):
        seen.append(vae.encode(torch.zeros(1, 784)).stddev.mean().item())
        return torch.tensor([[1.0, 2.0], [1.0, 6.0], [1.0, math.inf], [1.0, 4.0]])

    monkeypatch.setattr(case_c, "images_of", lambda name: torch.rand(2, 9, 1, 28, 28))
    monkeypatch.setattr(case_c, "record_training", record)
    of_sigma = [run for run in RUNS if run.name.startswith("sigma-")]
    numbers = {run.name: run.train(0)[1] for run in of_sigma if run.name != "sigma-linear"}
    expected = {"softplus": 0.69, "exp": 1.0, "exp-from-0.69": 0.69, "softplus-from-1": 1.0}
    assert dict(zip(numbers, seen, strict=True)) == {
        f"sigma-{name}": pytest.approx(sigma, abs=0.05) for name, sigma in expected.items()
    }
    for of_run in numbers.values():
        assert (of_run["steps"], of_run["non_finite_steps"]) == (4, 1)
        assert (of_run["median_norm"], of_run["largest_norm"]) == (4, 6)


def test_the_published_runs_went_to_the_end():
    of_sigma = [run for run in RUNS if run.name.startswith("sigma-")]
    assert [run.name for run in of_sigma[:3]] == [f"sigma-{scale}" for scale in SCALES]
    for run in of_sigma:
        records = published(run)
        assert [record["seed"] for record in records] == list(run.seeds)
        for record in records:
            assert record["steps"] == 15 * math.ceil(60_000 / 64)
            assert record["median_norm"] < record["norm_99"] < record["largest_norm"]


def published(run):
    path = PUBLISHED / "long_runs" / "case_c_beta" / f"{run.name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def run_named(name):
    (run,) = (run for run in RUNS if run.name == name)
    return run


# --- the manifold ---


def test_grey_undoes_the_standardisation_and_cuts_off():
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(case_c.grey(project_c_images(x)), x)
    assert case_c.grey(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]


def test_the_2d_network_is_project_cs_but_for_its_codes():
    two, fifteen = case_c.project_c_2d_vae(seed=3), project_c_vae(seed=3)
    shapes = [[tuple(p.shape) for p in vae.parameters()] for vae in (two, fifteen)]
    changed = [a for a, b in zip(*shapes, strict=True) if a != b]
    assert changed == [(4, 120), (4,), (120, 2)]
    assert two.scale == fifteen.scale == "softplus"
    x = project_c_images(torch.rand(2, 1, 28, 28))
    mean = two.decode(torch.zeros(2, 2)).mean
    error = (x - mean).square().flatten(1).sum(1) + case_c.PROJECT_C_CONSTANT
    torch.testing.assert_close(-two.decode(torch.zeros(2, 2)).log_prob(x), error)


class Judge:
    """One that remembers what it saw, and takes every picture for a nought."""

    def __init__(self):
        self.seen = []

    def assess(self, samples, real):
        self.seen.append(samples)
        assert samples.shape == real.shape
        return case_c.ELBO(0.25, 0.5)  # any named tuple

    def probabilities(self, images):
        return F.one_hot(torch.zeros(len(images), dtype=torch.long), 10).double()


# --- the conditional VAE ---


@pytest.fixture
def labelled():
    rng = torch.Generator().manual_seed(3)
    x, labels = torch.rand(12, 1, 28, 28, generator=rng), torch.arange(12) % 10
    return project_c_images(x), labels, torch.randn(12, 4, generator=rng)


def conditional(join=case_c.joined, **options):
    return ConditionalVAE(join=join, latent_dim=4, hidden=(9, 7), seed=1, **options)


JOINS = (case_c.joined, case_c.joined_by_numpy)


@pytest.mark.parametrize("join", JOINS)
def test_both_ways_append_the_same_one_hot_labels(join):
    part = torch.rand(3, 2, requires_grad=True)
    both = join(part, torch.tensor([0, 9, 4]))
    assert torch.equal(both[:, :2], part)
    assert both[:, 2:].nonzero().tolist() == [[0, 0], [1, 9], [2, 4]]
    assert both.requires_grad == (join is case_c.joined)


@pytest.mark.parametrize("join", JOINS)
def test_the_conditional_bound_is_that_of_an_explicit_loop(labelled, join):
    x, labels, noise = labelled
    model = conditional(join)
    found = conditional_elbo(model, x, labels=labels, noise=noise)
    for i in range(len(x)):
        one_hot = torch.zeros(10)
        one_hot[labels[i]] = 1
        h = x[i].flatten()
        for layer in model.features[1]:
            h = layer(h)
        out = model.head(torch.cat((h.relu(), one_hot)))
        mu, sigma = out[:4], (1 + out[4:].exp()).log()
        image = model.decoder(torch.cat((mu + sigma * noise[i], one_hot))[None])
        error = sum(e.item() ** 2 for e in (x[i] - image[0]).flatten())
        rate = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum().item()
        assert found.distortion[i].item() == pytest.approx(error, rel=1e-4)
        assert found.rate[i].item() == pytest.approx(rate, rel=1e-4, abs=1e-5)


def test_numpy_cuts_the_gradient_of_the_error_and_leaves_the_heads_that_of_the_rate(labelled):
    x, labels, noise = labelled
    for join in JOINS:
        model = conditional(join)
        distortion, rate = conditional_elbo(model, x, labels=labels, noise=noise)
        reached = {}
        for name, part in {"error": distortion, "rate": rate}.items():
            parameters = dict(model.named_parameters())
            slopes = torch.autograd.grad(
                part.sum(), parameters.values(), retain_graph=True, allow_unused=True
            )
            for module in ("features", "head", "decoder"):
                reached[module, name] = any(
                    slope is not None and slope.ne(0).any()
                    for key, slope in zip(parameters, slopes, strict=True)
                    if key.startswith(module)
                )
        whole = join is case_c.joined
        assert reached == {
            ("features", "error"): whole,
            ("features", "rate"): whole,
            ("head", "error"): whole,
            ("head", "rate"): True,
            ("decoder", "error"): True,
            ("decoder", "rate"): False,
        }


def test_the_conditional_bound_refuses_labels_that_do_not_fit(labelled):
    x, labels, noise = labelled
    for bad in (labels[:5], labels - 1, labels + 1):
        with pytest.raises(ValueError, match="one label from 0 to 9"):
            conditional_elbo(conditional(), x, labels=bad, noise=noise)


def test_a_conditional_training_uses_the_labels_of_its_batches(labelled):
    x, labels, _ = labelled
    recipe = {"epochs": 1, "batch_size": 5, "lr": 1e-3, "objective": conditional_elbo}
    model, seen = conditional(), []

    def objective(model, images, *, labels, **options):
        seen.append((images, labels))
        return conditional_elbo(model, images, labels=labels, **options)

    losses = record_training(
        model, x, labels=labels, seed=0, beta=3.0, **recipe | {"objective": objective}
    )
    assert [len(batch) for batch, _ in seen] == [5, 5, 2]
    for batch, of_batch in seen:
        for image, label in zip(batch, of_batch, strict=True):
            (place,) = (i for i in range(12) if torch.equal(x[i], image))
            assert labels[place] == label
    other = record_training(conditional(), x, labels=labels, seed=0, beta=0.0, **recipe)
    assert losses[0, 0] > other[0, 0]  # beta weighs the rate


def test_samples_of_all_classes_have_the_same_codes():
    model = conditional()
    samples = case_c.conditional_samples(model, 3, seed=5)
    assert samples.shape == (10, 3, 1, 28, 28)
    z = torch.randn(3, 4, generator=generator(5, "conditional samples"))
    expected = model.decode(z, torch.tensor([7, 7, 7])).detach()
    torch.testing.assert_close(samples[7], expected)


def test_variation_is_a_ratio_of_variances_within_classes():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(400, 1, 28, 28, generator=rng)
    labels = torch.arange(400) % 10
    images += labels.view(-1, 1, 1, 1)  # classes far apart count for nothing
    samples = torch.rand(10, 40, 1, 28, 28, generator=rng)
    assert case_c.variation(samples, images, labels) == pytest.approx(1, rel=0.02)
    assert case_c.variation(samples / 2, images, labels) == pytest.approx(0.25, rel=0.02)
    assert case_c.variation(samples[:, :1].expand(-1, 3, -1, -1, -1), images, labels) == 0


def test_what_is_measured_of_a_conditional_vae(labelled):
    x, labels, _ = labelled
    x, labels = torch.cat((x, x)), torch.cat((labels, labels))
    model = conditional()
    found = case_c.measure_conditional(model, x, labels, seed=2)
    noise = torch.randn(24, 4, generator=generator(2, "evaluation"))
    error, rate = conditional_elbo(model, x, labels=labels, noise=noise)
    assert found["squared_error"] == pytest.approx(error.mean().item(), rel=1e-5)
    assert found["rate"] == pytest.approx(rate.mean().item(), rel=1e-5)
    samples = case_c.conditional_samples(model, 200, seed=2)
    assert found["variation"] == pytest.approx(case_c.variation(samples, x, labels), rel=1e-5)


def test_the_judge_is_asked_for_the_class_that_was_told():
    class Quality:
        precision, coverage = 0.5, 0.75

    judge, model = Judge(), conditional()
    judge.assess = lambda samples, real: judge.seen.append(samples) or Quality
    found = case_c.judge_by_class(model, judge, torch.rand(60, 1, 28, 28), seed=3)
    assert found == {"right_class": 0.1, "precision": 0.5, "coverage": 0.75}
    (drawn,) = judge.seen
    samples = case_c.grey(case_c.conditional_samples(model, 6, seed=3))
    assert torch.equal(drawn.view(10, 6, 1, 28, 28), samples)


def test_the_conditional_run_trains_every_setting(monkeypatch):
    seen = []
    part = Split(
        torch.zeros(N_CONDITIONAL + 5, 28, 28, dtype=torch.uint8),
        torch.arange(N_CONDITIONAL + 5) % 10,
    )

    class Source:
        train = test = part

    monkeypatch.setattr(case_c.data, "load", lambda name: Source)
    monkeypatch.setattr(case_c, "judge_and_images", lambda seed: ("judge", "real"))
    monkeypatch.setattr(
        case_c, "record_training", lambda model, x, **r: seen.append((model.join, len(x), r))
    )
    monkeypatch.setattr(case_c, "measure_conditional", lambda *a, seed: {"rate": seed})
    monkeypatch.setattr(case_c, "judge_by_class", lambda *a, seed: {"right_class": seed})
    _, numbers = run_named("conditional").train(4)
    assert numbers["settings"] == {n: {"rate": 4, "right_class": 4} for n in CONDITIONAL}
    for (join, beta), (used, n, recipe) in zip(CONDITIONAL.values(), seen, strict=True):
        assert (used, n, len(recipe.pop("labels"))) == (join, N_CONDITIONAL, N_CONDITIONAL)
        assert recipe.pop("beta") == beta
        assert recipe.pop("objective") is conditional_elbo
        assert recipe == {"seed": 4, "epochs": 5, "batch_size": 64, "lr": 1e-3}
