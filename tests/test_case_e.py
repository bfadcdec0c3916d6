import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from vaelib import data
from vaelib.course import case_e
from vaelib.course.case_e import (
    AS_COMMITTED,
    MLP_RUNS,
    OF_THE_PICTURES,
    RUNS,
    SETS,
    Bugs,
    Judge,
    Run,
    bugs_of,
    confusions,
    conv_vae,
    draw_reconstructions,
    draw_samples,
    entropy_of,
    examine,
    kinds_of,
    loss_with,
    run_name,
    start_as_torch_does,
    train,
    train_perceptron,
)
from vaelib.networks import count_parameters
from vaelib.objectives import ELBO, elbo
from vaelib.published import PUBLISHED
from vaelib.schedules import cosine
from vaelib.seeding import generator


@pytest.fixture
def digits():
    return data.load("digits")


@pytest.fixture
def x():
    return torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def noise():
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(3))


# The perceptron


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_average_losses_are_those_of_an_explicit_loop(images, make_vae, weight_decay):
    run = Run(cosine(2e-3), 0.8, None, weight_decay)
    trained, vae = make_vae(), make_vae()
    losses = train_perceptron(trained, images[:40], run, seed=3, epochs=2, batch_size=20)
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    order_rng, noise_rng = (generator(3, name) for name in ("order", "noise"))
    expected = []
    for _ in range(2):
        overall_loss, last = 0.0, 1  # the second batch is number 1
        batches = images[torch.randperm(40, generator=order_rng)].split(20)
        for batch in batches:
            terms = elbo(vae, batch, noise=torch.randn(20, 2, generator=noise_rng))
            loss = (terms.distortion + 0.8 * terms.rate).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            overall_loss += loss.item()
        expected.append(overall_loss / (last * 20))
        scheduler.step()
    # bfloat16 on processors that have it
    assert losses == pytest.approx(expected, rel=0.01)


def test_the_average_loss_of_mnist_is_divided_by_59900(monkeypatch, make_vae):
    def one_nat(vae, x, **_):
        nothing = 0 * vae.encoder.layers[0].bias.sum()
        return ELBO(nothing + torch.ones(len(x)), torch.zeros(len(x)))

    monkeypatch.setattr(case_e, "elbo", one_nat)
    black = torch.zeros(60_000, 1, 4, 4)
    (loss,) = train_perceptron(make_vae(), black, MLP_RUNS[1], seed=0, epochs=1)
    assert loss == pytest.approx(60_000 / 59_900, rel=1e-6)


def test_the_start_is_that_of_torchs_layers_and_leaves_its_stream_alone(rng_untouched):
    with rng_untouched():
        vae = case_e.project_e_vae(seed=1)
        start_as_torch_does(vae, seed=1)
    first = vae.encoder.layers[0]
    bound = 1 / math.sqrt(784)  # torch draws weights and biases from +-1/sqrt(fan-in)
    for tensor in (first.weight, first.bias):
        assert 0.95 * bound < tensor.abs().max() <= bound
    again, other = case_e.project_e_vae(), case_e.project_e_vae()
    start_as_torch_does(again, seed=1)
    start_as_torch_does(other, seed=2)
    assert torch.equal(again.encoder.layers[0].weight, first.weight)
    assert not torch.equal(other.encoder.layers[0].weight, first.weight)


def test_true_betas_are_twice_the_projects():
    c = {1: 0.5, 2: 0.4, 3: 0.37, 4: 0.5, 5: 0.38, 6: 0.39, 7: 0.41}
    assert {n: run.beta for n, run in MLP_RUNS.items()} == {n: 2 * b for n, b in c.items()}


def test_confusions_are_counted_per_digit(digits):
    class SeesNinesFirst:
        def classes(self, images):
            return torch.tensor([9, 9, 3] + [4] * (len(images) - 3))

    found = confusions(case_e.project_e_vae(), digits.test, SeesNinesFirst(), seed=0)
    fours, fives = (int((digits.test.labels == k).sum()) for k in (4, 5))
    assert found == {
        "four_as_nine": pytest.approx(2 / fours),
        "five_as_three": pytest.approx(1 / fives),
    }


# The convolutional network


def test_the_network_has_the_projects_sizes():
    vae = conv_vae()
    shapes = []
    handles = [
        layer.register_forward_hook(lambda _, __, out: shapes.append(list(out.shape[1:])))
        for layer in (*vae.encoder.layers, *vae.decoder.layers)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    vae.decode(vae.encode(torch.zeros(2, 1, 28, 28)).mu)
    for handle in handles:
        handle.remove()
    assert shapes == [
        [8, 14, 14], [16, 7, 7], [32, 3, 3], [128], [64],
        [128], [288], [16, 7, 7], [8, 14, 14], [1, 28, 28],
    ]  # fmt: skip
    norms = [m.num_features for m in vae.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [16, 16, 8]
    assert count_parameters(vae) == 98_449


def project_e_loss(vae, x, noise):
    """Compute the loss of the pictures' version from the bare outputs of the networks."""
    mu, output = vae.encoder(x)
    sigma = output.abs()
    decoded = torch.sigmoid(vae.decoder(mu + sigma * noise))
    bracket = 1 + torch.log(sigma + 1e-13) - mu**2 - sigma**2
    return nn.MSELoss()(decoded, x) - 0.11 * bracket.mean()


def test_with_all_bugs_the_loss_is_the_projects(x, noise):
    vae = conv_vae(OF_THE_PICTURES)
    loss = loss_with(OF_THE_PICTURES, vae, x, noise=noise)
    torch.testing.assert_close(loss, project_e_loss(vae, x, noise))


def test_without_bugs_the_loss_is_the_bound(x, noise):
    vae = conv_vae().eval()
    terms = elbo(vae, x, noise=noise)
    loss = loss_with(Bugs(), vae, x, noise=noise)
    torch.testing.assert_close(loss, (terms.distortion + terms.rate).mean())
    with_share = loss_with(Bugs(), vae, x, noise=noise, share=0.25)
    torch.testing.assert_close(with_share, (terms.distortion + 0.25 * terms.rate).mean())


def test_means_are_a_beta_of_2_7_on_a_gaussian_of_unit_variance(x, noise):
    bugs = Bugs(means=True, squared=True)
    vae = conv_vae(bugs)
    means = loss_with(bugs, vae, x, noise=noise)
    sums = loss_with(replace(bugs, means=False), vae, x, noise=noise, share=0.11 * 784 / 32)
    torch.testing.assert_close(means * 784 / 2, sums)


class OnlyScale(nn.Module):
    """An encoder that gives a mean of 0 and one number for every scale."""

    latent_dim, image_shape = 32, (1, 28, 28)

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(torch.tensor(output))

    def forward(self, x):
        return x.new_zeros(len(x), 32), self.output.expand(len(x), 32)


@pytest.mark.parametrize(("half_log", "sigma"), [(True, 0.5**0.5), (False, 1.0)])
def test_where_the_kl_has_its_minimum(x, noise, half_log, sigma):
    bugs = Bugs(half_log=half_log, absolute=True)
    vae = conv_vae(bugs).eval()
    for output, side in ((0.9 * sigma, -1), (sigma, 0), (1.1 * sigma, 1)):
        vae.encoder = OnlyScale(output)
        whole, without = (loss_with(bugs, vae, x, noise=noise, share=share) for share in (1.0, 0.0))
        (slope,) = torch.autograd.grad(whole - without, vae.encoder.output)
        assert slope * side > 1 if side else abs(slope) < 1e-2


def test_a_cross_entropy_over_one_class_trains_the_kl_only(x, noise):
    vae = conv_vae(AS_COMMITTED)
    loss_with(AS_COMMITTED, vae, x, noise=noise).backward()
    assert all(p.grad is None or not p.grad.any() for p in vae.decoder.parameters())
    assert vae.encoder.layers[-1].weight.grad.any()


def test_a_training_depends_on_its_seed_only_and_has_a_first_phase(x, rng_untouched, monkeypatch):
    shares = []
    original = case_e.loss_with

    def spy(*arguments, share, **named):
        shares.append(share)
        return original(*arguments, share=share, **named)

    monkeypatch.setattr(case_e, "loss_with", spy)
    with rng_untouched():
        a, b, c = (
            train(seed, OF_THE_PICTURES, x, first_epochs=1, epochs=3, batch_size=3)
            for seed in (4, 4, 5)
        )
    assert shares[:6] == [5e-6 / 0.11] * 2 + [1.0] * 4
    assert torch.equal(a.decoder.layers[0].weight, b.decoder.layers[0].weight)
    assert not torch.equal(a.decoder.layers[0].weight, c.decoder.layers[0].weight)
    assert not a.training


def test_samples_are_decoded_where_they_should_be():
    vae = conv_vae().train()
    seen = []
    vae.decoder.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
    normal = draw_samples(vae, 500)
    uniform = draw_samples(vae, 500, uniform=True)
    draw_samples(vae, 500, uniform=True, mean=1.0, scale=2**0.5)
    assert normal.shape == uniform.shape == (500, 1, 28, 28)
    assert vae.training  # as it was
    assert seen[0].mean().abs() < 0.05 and abs(seen[0].std() - 1) < 0.05
    assert 0 <= seen[1].min() < 0.01 and 0.99 < seen[1].max() <= 1
    assert seen[2].min() >= 1 and seen[2].max() <= 1 + 2**0.5


def test_wide_reconstructions_take_the_log_variance_for_sigma(x):
    vae = conv_vae().eval()
    q = vae.encode(x)
    eps = torch.randn(q.mu.shape, generator=generator(0, "reconstructions"))
    for wide, sigma in ((False, q.variance.sqrt()), (True, q.variance.log())):
        expected = torch.sigmoid(vae.decoder(q.mu + sigma * eps))
        drawn = draw_reconstructions(vae, x, wide=wide)
        torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)


def test_the_judge_agrees_with_scikit_learn(digits):
    from sklearn.neighbors import KNeighborsClassifier

    train_x, test_x = (data.to_float(p.images) for p in (digits.train, digits.test))
    reference = KNeighborsClassifier(15).fit(train_x.flatten(1), digits.train.labels)
    expected = torch.from_numpy(reference.predict(test_x.flatten(1).numpy()))
    judge = Judge(digits.train)
    agree = (judge.classes(test_x) == expected).double().mean()
    assert agree > 0.99  # ties among equally many neighbours are broken in another way
    histogram = judge.histogram(test_x)
    assert sum(histogram) == len(test_x) and len(histogram) == 10


def test_kinds_and_entropies():
    assert kinds_of([989, 10, 1, 0]) == 2
    assert entropy_of([7] * 10) == pytest.approx(math.log(10))
    assert entropy_of([0, 9, 0]) == 0


def test_an_examination_reports_everything(digits):
    found = examine(conv_vae().eval(), digits.test, Judge(digits.train), n=60)
    assert set(found["histograms"]) == set(case_e.PLACES)
    assert all(sum(histogram) == 60 for histogram in found["histograms"].values())
    assert 0 < found["rmse"]["sigma"] < 1


def test_sets_of_bugs_have_names():
    everything, without_means, nothing = map(bugs_of, SETS)
    assert replace(everything, uniform=True) == OF_THE_PICTURES
    assert replace(without_means, means=True) == everything
    assert nothing == Bugs()
    assert run_name(("half_log", "means")) == "conv-halflog-means"
    assert run_name(()) == "conv-none"
    assert str(OF_THE_PICTURES) == "half_log means squared absolute uniform"
    assert str(Bugs()) == "none"
    with pytest.raises(TypeError):
        bugs_of(("half_a_log",))


def test_the_published_runs_are_those_that_are_declared():
    for run in RUNS:
        path = PUBLISHED / "long_runs" / "case_e_conv_vs_mlp" / f"{run.name}.json"
        records = json.loads(path.read_text(encoding="utf-8"))
        assert [record["seed"] for record in records] == list(run.seeds)
        for record in records:
            if run.name.startswith("run-"):
                losses = record["average_losses"]
                assert len(losses) == case_e.MLP_EPOCHS
                assert losses[-1] < losses[0]
            else:
                assert all(sum(h) == 1000 for h in record["histograms"].values())
