import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from vaelib import data
from vaelib.data import Dataset, Split, to_float
from vaelib.sample_quality import Judge, SampleQuality, coverage, entropy, precision_recall


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def judge(digits) -> Judge:
    return Judge(digits.train_part, epochs=25)  # its passes are short


def cloud(n: int, f: int = 3, *, seed: int = 0) -> Tensor:
    return torch.randn(n, f, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Precision and recall


def radii_of(centres: list, k: int) -> list[float]:
    """The distance of every point to its k-th nearest neighbour, by loops."""
    radii = []
    for i, centre in enumerate(centres):
        others = [math.dist(centre, other) for j, other in enumerate(centres) if j != i]
        radii.append(sorted(others)[k - 1])
    return radii


def share_within(points: list, centres: list, k: int) -> float:
    """Share of the points that lie in a ball around one of the centres, by loops."""
    radii = radii_of(centres, k)
    inside = [
        any(math.dist(point, centre) <= r for centre, r in zip(centres, radii, strict=True))
        for point in points
    ]
    return sum(inside) / len(points)


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (25, 60)])
def test_precision_and_recall_equal_explicit_loops(n, m, k):
    real, generated = cloud(n, 2), cloud(m, 2, seed=1) + torch.tensor([2.0, 0.0])
    found = precision_recall(real, generated, k=k)
    a, b = real.tolist(), generated.tolist()
    assert found == pytest.approx((share_within(b, a, k), share_within(a, b, k)))
    assert all(0 < share < 1 for share in found)
    assert found[0] != found[1]
    assert {type(share) for share in found} == {float}


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (25, 60)])
def test_the_coverage_equals_an_explicit_loop(n, m, k):
    real, generated = cloud(n, 2), cloud(m, 2, seed=1) + torch.tensor([2.0, 0.0])
    a, b = real.tolist(), generated.tolist()
    covered = [
        any(math.dist(point, centre) <= r for point in b)
        for centre, r in zip(a, radii_of(a, k), strict=True)
    ]
    assert 0 < sum(covered) < n
    assert coverage(real, generated, k=k) == pytest.approx(sum(covered) / n)


def test_the_fifth_neighbour_is_the_default_of_the_coverage():
    real, generated = cloud(80, 2), cloud(80, 2, seed=1) + torch.tensor([2.5, 0.0])
    found = [coverage(real, generated, k=k) for k in (3, 5, 7)]
    assert len(set(found)) == 3
    assert coverage(real, generated) == found[1]


def test_an_outlier_raises_the_recall_and_not_the_coverage():
    real, far = cloud(100), cloud(100, seed=1) + 50
    assert precision_recall(real, far) == (0, 0)
    outlier = torch.cat((far[:-4], -50 - 200 * cloud(4, seed=2).abs()))
    assert precision_recall(real, outlier)[1] > 0.5
    assert coverage(real, real) == 1
    assert coverage(real, far) == coverage(real, outlier) == 0
    half = torch.cat((real, far))
    assert 0.4 < coverage(half, cloud(300, seed=2)) <= 0.5


def test_the_third_neighbour_is_the_default():
    real, generated = cloud(80, 2), cloud(80, 2, seed=1) + torch.tensor([2.5, 0.0])
    found = [precision_recall(real, generated, k=k) for k in (2, 3, 6)]
    assert len(set(found)) == 3
    assert precision_recall(real, generated) == found[1]


def test_a_ball_reaches_to_the_kth_neighbour_and_not_to_itself_or_the_next():
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # at k = 1 the radii are 1, 1, 2 and 4
    inside = torch.tensor([[-1.0], [2.0], [5.0], [11.0]])
    beyond = torch.tensor([[-1.01], [11.01], [-5.0], [20.0]])
    assert precision_recall(real, inside, k=1)[0] == 1
    assert precision_recall(real, beyond, k=1)[0] == 0
    # At k = 2 they are 3, 2, 3 and 6.
    assert precision_recall(real, beyond, k=2)[0] == 0.5


@pytest.mark.parametrize("k", [1, 3])
def test_a_cloud_covers_itself_and_nothing_that_is_far(k):
    z = cloud(50)
    assert precision_recall(z, z, k=k) == (1, 1)
    assert precision_recall(z, z[torch.randperm(50)], k=k) == (1, 1)
    assert precision_recall(z, z + 100, k=k) == (0, 0)


def test_copies_of_one_point_are_a_cloud_of_one_point():
    one = torch.ones(10, 3)
    assert precision_recall(one, one) == (1, 1)
    assert precision_recall(one, one + 1e-3) == (0, 0)
    # All points but four are alike, so that no ball but those of the four has a size.
    assert precision_recall(one, torch.cat((one[:6], cloud(4).float() + 50))) == (0.6, 1)


def test_samples_of_one_of_two_modes_are_precise_and_recall_the_other_half_not():
    one, two = cloud(300), cloud(300, seed=1) + 50
    precision, recall = precision_recall(torch.cat((one, two)), cloud(300, seed=2))
    assert precision > 0.9
    assert 0.4 < recall < 0.5
    # And the other way round: samples of two modes, of which the data have one.
    precision, recall = precision_recall(cloud(300, seed=2), torch.cat((one, two)))
    assert 0.4 < precision < 0.5
    assert recall > 0.9


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [
        (3, 9, "got 3 real and 9 generated points; expected more than k = 3 of each"),
        (9, 3, "got 9 real and 3 generated points"),
        (0, 0, "got 0 real and 0 generated points"),
    ],
)
def test_too_few_points_are_refused(n, m, message):
    for measure in (precision_recall, partial(coverage, k=3)):
        with pytest.raises(ValueError, match=message):
            measure(cloud(n), cloud(m))
    assert precision_recall(cloud(4), cloud(4)) == (1, 1)


def test_features_of_different_number_are_refused():
    for measure in (precision_recall, coverage):
        with pytest.raises(ValueError, match=r"have shapes \[9, 3\] and \[9, 2\]; expected"):
            measure(cloud(9), cloud(9, 2))


@pytest.mark.parametrize("k", [0, -1, 1.0, True])
def test_a_bad_neighbour_is_named(k):
    for measure in (precision_recall, coverage):
        with pytest.raises(ValueError, match=f"k is {k!r}; expected a whole number"):
            measure(cloud(9), cloud(9), k=k)


# Entropy


def test_the_entropy_is_that_of_scipy():
    p = torch.softmax(3 * cloud(20, 7), 1).view(4, 5, 7)
    assert entropy(p).shape == (4, 5)
    assert np.allclose(entropy(p).numpy(), scipy_entropy(p.numpy(), axis=-1), rtol=1e-12)
    assert entropy(torch.full((10,), 0.1)).item() == pytest.approx(math.log(10))
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0


# The judge


def test_the_judge_is_right_about_nearly_all_test_images(judge, digits):
    accuracy = judge.accuracy(digits.test)
    predicted = judge.probabilities(to_float(digits.test.images)).argmax(1)
    assert accuracy == pytest.approx((predicted == digits.test.labels).double().mean().item())
    assert accuracy > 0.9
    wrong = Split(digits.test.images, (digits.test.labels + 1) % 10)
    assert judge.accuracy(wrong) < 0.1


@pytest.mark.parametrize("options", [{}, {"hidden": (9,)}], ids=["default", "one-layer"])
def test_the_judge_is_a_perceptron_of_scikit_learn(digits, options):
    split, hidden = digits.train_part, options.get("hidden", (256, 64))
    x, y = split.images.flatten(1).numpy().astype(np.float32) / 255, split.labels.numpy()
    network = MLPClassifier(hidden, batch_size=200, random_state=3)
    for _ in range(2):
        network.partial_fit(x, y, classes=np.arange(10))
    found = Judge(split, epochs=2, seed=3, **options)
    test = to_float(digits.test.images)
    truth = torch.from_numpy(network.predict_proba(test.flatten(1).numpy()))
    assert truth.shape == (500, 10)
    assert torch.equal(found.probabilities(test), truth)
    predicted = network.predict(test.flatten(1).numpy())
    assert found.accuracy(digits.test) == (predicted == digits.test.labels.numpy()).mean()
    # The features are what its last layer sees, and no more than that.
    features = found.features(test)
    assert features.shape == (500, hidden[-1])
    assert (features >= 0).all()
    weight, bias = (torch.from_numpy(part[-1]) for part in (network.coefs_, network.intercepts_))
    torch.testing.assert_close((features @ weight + bias).softmax(1), truth)


def test_the_judge_depends_on_the_seed_and_on_no_global_stream(digits, rng_untouched):
    few = Split(digits.train.images[:150], digits.train.labels[:150])  # less than a batch of 200
    x = to_float(digits.test.images[:20])
    with rng_untouched():
        first = Judge(few, hidden=(8,), epochs=1, seed=3).probabilities(x)
    np.random.seed(77)
    assert torch.equal(Judge(few, hidden=(8,), epochs=1, seed=3).probabilities(x), first)
    assert not torch.equal(Judge(few, hidden=(8,), epochs=1, seed=4).probabilities(x), first)
    assert not torch.equal(Judge(few, hidden=(8,), epochs=2, seed=3).probabilities(x), first)


def test_real_images_pass_for_real_and_constant_ones_for_nothing(judge, digits):
    test, other = (to_float(part.images[:400]) for part in (digits.test, digits.train_part))
    found = judge.assess(test, other)
    assert isinstance(found, SampleQuality)
    p = judge.probabilities(test).double()
    assert (found.precision, found.recall) == precision_recall(
        judge.features(other), judge.features(test)
    )
    assert found.coverage == coverage(judge.features(other), judge.features(test)) > 0.7
    assert found.entropy_of_classes == pytest.approx(scipy_entropy(p.mean(0)), rel=1e-4)
    truth = np.mean([scipy_entropy(row) for row in p.numpy()])
    assert found.entropy_per_image == pytest.approx(truth, rel=1e-4)
    assert found.precision > 0.7
    assert found.recall > 0.7
    assert found.entropy_of_classes == pytest.approx(math.log(10), abs=0.05)
    assert found.entropy_per_image < 0.5
    assert found.precision != found.recall
    constant = judge.assess(torch.full((400, 1, 28, 28), 0.5), other)
    assert (constant.precision, constant.recall, constant.coverage) == (0, 0, 0)
    assert constant.entropy_of_classes == pytest.approx(constant.entropy_per_image, rel=1e-3)
    ones = judge.assess(test[digits.test.labels[:400] == 1].repeat(10, 1, 1, 1)[:400], other)
    assert max(ones.recall, ones.coverage) < 0.2 < ones.precision
    assert ones.entropy_of_classes < 1


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_a_bad_number_of_epochs_of_the_judge_is_named(digits, epochs):
    with pytest.raises(ValueError, match=f"epochs is {epochs!r}; expected a whole number"):
        Judge(digits.train_part, epochs=epochs)
