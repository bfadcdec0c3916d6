import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vaelib.course import case_c
from vaelib.course.case_c import BETA, RUNS, SCALES, record_training, start_at
from vaelib.course.lesson_4 import project_c_vae
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
    numbers = {run.name: run.train(0)[1] for run in RUNS if run.name != "sigma-linear"}
    expected = {"softplus": 0.69, "exp": 1.0, "exp-from-0.69": 0.69, "softplus-from-1": 1.0}
    assert dict(zip(numbers, seen, strict=True)) == {
        f"sigma-{name}": pytest.approx(sigma, abs=0.05) for name, sigma in expected.items()
    }
    for of_run in numbers.values():
        assert (of_run["steps"], of_run["non_finite_steps"]) == (4, 1)
        assert (of_run["median_norm"], of_run["largest_norm"]) == (4, 6)


def test_the_published_runs_went_to_the_end():
    names = [run.name for run in RUNS]
    assert names[:3] == [f"sigma-{scale}" for scale in SCALES]
    for run in RUNS:
        path = PUBLISHED / "long_runs" / "case_c_beta" / f"{run.name}.json"
        records = json.loads(path.read_text(encoding="utf-8"))
        assert [record["seed"] for record in records] == list(run.seeds)
        for record in records:
            assert record["steps"] == 15 * math.ceil(60_000 / 64)
            assert record["median_norm"] < record["norm_99"] < record["largest_norm"]
