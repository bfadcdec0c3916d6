import itertools
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from vaelib.seeding import generator
from vaelib.separation import (
    knn_accuracy,
    mean_triplet_loss,
    root_mean_square,
    silhouette,
    triplet_accuracy,
)
from vaelib.triplet import triplet_loss


def batch(
    seed: int, *, size: int = 50, classes: int = 4, dim: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Codes and labels of classes that overlap."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes - 1, (size,), generator=rng)
    z = torch.randn(size, dim, generator=rng, dtype=torch.float64) + 0.8 * labels.unsqueeze(1)
    return z.to(dtype), labels


def knn_of_one_set(z: Tensor, labels: Tensor, neighbours: int = 3) -> float:
    """The first codes vote on the last ones."""
    half = len(z) // 2
    return knn_accuracy(z[:half], labels[:half], z[half:], labels[half:], neighbours=neighbours)


MEASURES = {
    "knn": knn_of_one_set,
    "triplets": partial(triplet_accuracy, n=1000),
    "silhouette": silhouette,
    "rms": lambda z, labels: root_mean_square(z),
    "loss": partial(mean_triplet_loss, batch_size=16),
}
FREE_OF_SCALE = ["knn", "triplets", "silhouette"]
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
every_measure_of_labels = pytest.mark.parametrize(
    "measure", [MEASURES[name] for name in MEASURES if name != "rms"], ids=[*FREE_OF_SCALE, "loss"]
)
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


# What all have in common


@pytest.mark.parametrize("scale", [1e-3, 0.3, 2.0, 1e4])
@pytest.mark.parametrize("name", FREE_OF_SCALE)
def test_the_scale_of_the_codes_does_not_count(name, scale):
    z, labels = batch(0)
    measured = MEASURES[name](z, labels)
    assert MEASURES[name](scale * z, labels) == pytest.approx(measured, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 2.0, 1e4])
def test_the_size_is_proportional_to_the_scale_and_the_mean_loss_follows_it(scale):
    z, labels = batch(0)
    size = root_mean_square(z)
    assert root_mean_square(scale * z) == pytest.approx(scale * size, rel=1e-12)
    loss, scaled = (mean_triplet_loss(s * z, labels, margin=s) for s in (1.0, scale))
    assert loss > 0
    assert scaled == pytest.approx(scale * loss, rel=1e-12)


@every_measure
def test_where_the_codes_lie_does_not_count(measure):
    z, labels = batch(1, dtype=torch.float32)
    z = (64 * z).round() / 64  # so that the sums below are exact
    shift = torch.tensor([1000.0, -5000.0, 300.0])
    assert measure(z + shift, labels) == pytest.approx(measure(z, labels), rel=1e-5)


@every_measure
def test_every_measure_is_a_number_and_depends_on_no_random_stream_but_its_own(
    measure, rng_untouched
):
    z, labels = batch(2)
    with rng_untouched():
        first = measure(z, labels)
    assert type(first) is float
    torch.manual_seed(99)
    np.random.seed(99)
    assert measure(z, labels) == first


@every_measure
def test_codes_that_still_have_a_graph_and_labels_of_any_whole_type_are_measured(measure):
    z, labels = batch(3)
    expected = measure(z, labels)
    assert measure(z.clone().requires_grad_(), labels) == expected
    assert measure(z, (labels + 1).to(torch.uint8)) == expected


@every_measure_of_labels
def test_no_measure_changes_what_it_is_given(measure):
    z, labels = batch(4)
    before = z.clone(), labels.clone()
    measure(z, labels)
    assert torch.equal(z, before[0])
    assert torch.equal(labels, before[1])


# Nearest neighbours


def knn_by_loop(train_z, train_labels, z, labels, neighbours: int) -> float:
    voters = list(zip(train_z.tolist(), train_labels.tolist(), strict=True))
    right = 0
    for point, label in zip(z.tolist(), labels.tolist(), strict=True):
        nearest = sorted((math.dist(point, other), vote) for other, vote in voters)[:neighbours]
        votes = Counter(vote for _, vote in nearest)
        winner = min(votes, key=lambda label: (-votes[label], label))  # of a tie, the smallest
        right += winner == label
    return right / len(z)


@both_types
@pytest.mark.parametrize("neighbours", [1, 2, 5, 15, 30])
def test_the_accuracy_of_neighbours_equals_an_explicit_loop(neighbours, dtype):
    seen = set()
    for seed in range(4):
        train, test = batch(seed, size=30, dtype=dtype), batch(seed + 10, size=41, dtype=dtype)
        expected = knn_by_loop(*train, *test, neighbours)
        assert knn_accuracy(*train, *test, neighbours=neighbours) == pytest.approx(expected)
        seen.add(expected)
    assert len(seen) > 1


def test_fifteen_neighbours_vote_unless_told_otherwise():
    # Seven or eight voters of one label are the nearest, and of a tie the smaller label wins.
    train_z, z = torch.arange(30.0).unsqueeze(1), torch.tensor([[-1.0]])
    for first, near, far, winner in ((7, 3, 5, 5), (8, 5, 3, 5)):
        voters = torch.tensor([near] * first + [far] * (30 - first))
        assert knn_accuracy(train_z, voters, z, torch.tensor([winner])) == 1


def test_the_training_codes_vote_and_the_others_are_counted():
    train_z, train_labels = torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1])
    z, labels = torch.tensor([[1.0], [2.0], [3.0], [4.0], [9.0]]), torch.tensor([0, 0, 0, 1, 7])
    assert knn_accuracy(train_z, train_labels, z, labels, neighbours=1) == 3 / 5
    # The other way round 0 is nearest to 1, and 10 to 9, whose label nothing else has.
    assert knn_accuracy(z, labels, train_z, train_labels, neighbours=1) == 1 / 2


def test_one_neighbour_finds_every_code_of_its_own_set():
    z, labels = batch(0)
    assert knn_accuracy(z, labels, z, labels, neighbours=1) == 1


def test_all_training_codes_may_vote_and_then_the_most_frequent_label_wins():
    z, labels = batch(0)
    ((_, most),) = Counter(labels.tolist()).most_common(1)
    assert knn_accuracy(z, labels, z, labels, neighbours=50) == most / 50


# Triplets


def accuracy_by_loop(z: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean over anchors of the mean over their triplets, and the mean over all triplets."""
    points, label, wins = z.tolist(), labels.tolist(), {}
    for a, p, n in itertools.product(range(len(label)), repeat=3):
        if a != p and label[a] == label[p] != label[n]:
            near, far = math.dist(points[a], points[p]), math.dist(points[a], points[n])
            wins.setdefault(a, []).append(1.0 if near < far else 0.5 if near == far else 0.0)
    over_anchors = sum(sum(win) / len(win) for win in wins.values()) / len(wins)
    together = [w for win in wins.values() for w in win]
    return over_anchors, sum(together) / len(together)


@pytest.mark.parametrize("seed", range(4))
def test_the_triplet_accuracy_is_that_of_all_triplets(seed):
    # Whole numbers, so that there are ties; the last class has one member, the first has many.
    rng = torch.Generator().manual_seed(seed)
    labels = torch.tensor([7, 7, 7, 7, 7, 7, -2, -2, 4, 4, 4, 5])[torch.randperm(12, generator=rng)]
    z = torch.randint(4, (12, 2), generator=rng).float() + (labels == 4).unsqueeze(1)
    expected, _ = accuracy_by_loop(z, labels)
    n = 200_000
    assert triplet_accuracy(z, labels, n=n, seed=seed) == pytest.approx(expected, abs=2 / n**0.5)


def test_every_anchor_weighs_the_same_however_many_triplets_it_has():
    z = torch.tensor([[0.0], [0.1], [0.2], [0.3], [0.4], [0.5], [-9.0], [9.0]])
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    expected, over_triplets = accuracy_by_loop(z, labels)
    assert (expected, over_triplets) == (6 / 8, 60 / 72)  # the anchors of class 1 always lose
    assert triplet_accuracy(z, labels, n=200_000) == pytest.approx(expected, abs=0.005)


@both_types
def test_the_triplet_accuracy_of_separated_classes_is_1(dtype):
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 1])
    z = (10 * labels + torch.linspace(-1, 1, 7)).to(dtype).unsqueeze(1).requires_grad_()
    assert triplet_accuracy(z, labels) == 1


def test_the_triplet_accuracy_is_0_where_the_negative_is_always_nearer():
    z = torch.tensor([[-1.0], [0.0], [1.0]])
    assert triplet_accuracy(z, torch.tensor([1, 0, 1])) == 0


def test_the_triplet_accuracy_of_codes_that_coincide_is_that_of_chance():
    assert triplet_accuracy(torch.ones(6, 2), torch.arange(6) % 2) == 0.5


def test_the_triplet_accuracy_of_many_codes_that_know_nothing_of_the_labels_is_that_of_chance():
    z, labels = batch(0, size=10_000, classes=10, dim=8, dtype=torch.float32)
    labels = labels[torch.randperm(10_000, generator=torch.Generator().manual_seed(1))]
    assert triplet_accuracy(z, labels) == pytest.approx(0.5, abs=0.01)


def test_the_triplet_accuracy_depends_on_its_seed_and_on_nothing_else(rng_untouched):
    z, labels = batch(0, size=50)
    with rng_untouched():
        first = triplet_accuracy(z, labels, n=1000, seed=1)
    assert triplet_accuracy(z, labels, n=1000, seed=1) == first
    assert triplet_accuracy(3 * z, labels, n=1000, seed=1) == first  # the same triplets
    assert len({triplet_accuracy(z, labels, n=1000, seed=seed) for seed in range(5)}) > 1


# Silhouette


def silhouette_by_loop(z: Tensor, labels: Tensor) -> float:
    points, label = z.tolist(), labels.tolist()
    values = []
    for i, point in enumerate(points):
        distances = {}
        for j, other in enumerate(points):
            if j != i:
                distances.setdefault(label[j], []).append(math.dist(point, other))
        own = distances.pop(label[i], None)
        if own is None:  # alone in its class: 0, as Rousseeuw has it
            values.append(0.0)
            continue
        inside = sum(own) / len(own)
        outside = min(sum(d) / len(d) for d in distances.values())
        values.append((outside - inside) / max(inside, outside))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize("seed", range(4))
def test_the_silhouette_equals_an_explicit_loop(seed, dtype, tolerance):
    z, labels = batch(seed, size=40, dtype=dtype)
    labels[7] = 99  # alone in its class
    expected = silhouette_by_loop(z, labels)
    assert silhouette(z, labels) == pytest.approx(expected, abs=tolerance)


def test_the_silhouette_of_four_points_worked_out_by_hand():
    z, labels = torch.tensor([[0.0], [1.0], [3.0], [5.0]]), torch.tensor([6, 6, 2, 2])
    # Own class, and the other: 1 and 4, 1 and 3, 2 and 2.5, 2 and 4.5.
    expected = (3 / 4 + 2 / 3 + 0.5 / 2.5 + 2.5 / 4.5) / 4
    assert silhouette(z, labels) == pytest.approx(expected, rel=1e-6)
    # With the labels mixed: 3 and 3, 4 and 1.5, 3 and 2, 4 and 3.5.
    mixed = (0 - 2.5 / 4 - 1 / 3 - 0.5 / 4) / 4
    assert silhouette(z, torch.tensor([6, 2, 6, 2])) == pytest.approx(mixed, rel=1e-6)


def test_a_long_class_has_a_bad_silhouette_and_good_neighbours():
    along = torch.arange(200.0)
    z = torch.stack((along.repeat(2), torch.tensor([0.0, 3.0]).repeat_interleave(200)), dim=1)
    labels = torch.tensor([0, 1]).repeat_interleave(200)
    assert silhouette(z, labels) < 0.1
    assert knn_accuracy(z, labels, z, labels, neighbours=5) == 1


# Size


def test_the_size_equals_plain_arithmetic():
    # Around the means 3 and 3 the variances are 4 and (9 + 36 + 9 + 0) / 4.
    z = torch.tensor([[1.0, 0.0], [5.0, 9.0], [1.0, 0.0], [5.0, 3.0]])
    assert root_mean_square(z) == pytest.approx(((4 + 13.5) / 2) ** 0.5, rel=1e-12)


def test_the_size_is_that_of_the_covariance_matrix():
    z, _ = batch(0, dim=5)
    total = np.trace(np.cov(z.numpy(), rowvar=False, bias=True))
    assert root_mean_square(z) == pytest.approx((total / 5) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_the_size_of_the_standard_normal_is_1(dim):
    z = torch.randn(100_000 // dim, dim, generator=torch.Generator().manual_seed(0))
    assert root_mean_square(z) == pytest.approx(1, abs=0.01)
    assert root_mean_square(5 * z / root_mean_square(z) - 300) == pytest.approx(5, rel=1e-5)


def test_codes_that_coincide_have_no_size():
    assert root_mean_square(torch.full((6, 2), 0.3)) == 0


# The mean of the triplet loss


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"margin": 1.5},
        {"mining": "batch-all", "reduction": "active"},
        {"mining": "semi-hard", "squared": True},
    ],
    ids=lambda options: "-".join(options) or "default",
)
@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 1000])
def test_the_mean_loss_is_the_mean_over_batches_of_which_a_short_last_one_is_one(
    batch_size, options
):
    z, labels = batch(0)
    starts = range(0, 50, batch_size)
    parts = [(z[i : i + batch_size], labels[i : i + batch_size]) for i in starts]
    losses = [triplet_loss(*part, **options).item() for part in parts]
    measured = mean_triplet_loss(z, labels, batch_size=batch_size, shuffle=False, **options)
    assert measured == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert (measured > 0) == (batch_size > 1)


def test_the_mean_loss_of_two_batches_worked_out_by_hand():
    # The first batch has 1-2+2, 1-1+2, 1-1+2, 1-2+2, and the second no negative.
    z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [8.0], [9.0]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    loss = mean_triplet_loss(z, labels, batch_size=4, shuffle=False, margin=2.0)
    assert loss == (6 / 4 + 0) / 2


def test_batches_hold_128_codes_unless_told_otherwise():
    z, labels = batch(0, size=300)
    losses = [triplet_loss(z[i : i + 128], labels[i : i + 128]).item() for i in (0, 128, 256)]
    measured = mean_triplet_loss(z, labels, shuffle=False)
    assert measured == pytest.approx(sum(losses) / 3, rel=1e-12)


def test_codes_and_labels_are_put_in_one_random_order_that_the_seed_fixes():
    z, labels = batch(0)
    for seed in range(3):
        order = torch.randperm(50, generator=generator(seed, "order"))
        measured = mean_triplet_loss(z, labels, batch_size=16, seed=seed)
        expected = mean_triplet_loss(z[order], labels[order], batch_size=16, shuffle=False)
        assert measured == expected
    assert mean_triplet_loss(z, labels, batch_size=16) == mean_triplet_loss(
        z, labels, batch_size=16, seed=0
    )
    losses = {mean_triplet_loss(z, labels, batch_size=16, seed=seed) for seed in range(5)}
    assert len(losses) == 5


def test_a_sorted_data_set_has_triplets_only_if_it_is_shuffled():
    z, labels = torch.zeros(64, 2), torch.arange(4).repeat_interleave(16)
    assert mean_triplet_loss(z, labels, batch_size=16, shuffle=False) == 0
    # Every batch costs the margin, for its codes coincide.
    assert mean_triplet_loss(z, labels, batch_size=16) == pytest.approx(0.2, rel=1e-6)


def test_a_shuffled_code_keeps_its_label():
    labels = torch.arange(64) % 4
    z = 100.0 * labels.unsqueeze(1) + torch.linspace(-1, 1, 64).unsqueeze(1)
    assert mean_triplet_loss(z, labels, batch_size=16) == 0


def test_the_order_does_not_count_in_a_single_batch():
    z, labels = batch(0)
    expected = triplet_loss(z, labels).item()
    assert mean_triplet_loss(z, labels, batch_size=50) == pytest.approx(expected, rel=1e-12)


def test_the_mean_loss_grows_with_the_batch():
    z, labels = batch(0, size=400)
    losses = [mean_triplet_loss(z, labels, batch_size=size) for size in (8, 40, 400)]
    assert losses == sorted(losses)
    assert losses[0] < losses[1] < losses[2]


# Bad input

CODES, LABELS = torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])


def knn_with_bad_voters(z, labels) -> float:
    return knn_accuracy(z, labels, CODES, LABELS, neighbours=1)


def knn_with_bad_codes(z, labels) -> float:
    return knn_accuracy(CODES, LABELS, z, labels, neighbours=1)


every_function = pytest.mark.parametrize(
    "function",
    [knn_with_bad_voters, knn_with_bad_codes, triplet_accuracy, silhouette, mean_triplet_loss],
)


@pytest.mark.parametrize(
    ("z", "labels", "error", "message"),
    [
        (torch.zeros(4), LABELS, ValueError, r"z has shape \[4\]; expected \[B, D\]"),
        (torch.zeros(1, 4, 2), LABELS, ValueError, r"z has shape \[1, 4, 2\]"),
        (torch.zeros(4, 2).long(), LABELS, TypeError, "z is torch.int64; expected a floating"),
        (CODES.numpy(), LABELS, TypeError, "z is a ndarray"),
        (CODES, LABELS.float(), TypeError, "labels are torch.float32; expected an integer"),
        (CODES, LABELS.tolist(), TypeError, "labels are a list"),
        (CODES, LABELS[:3], ValueError, r"labels have shape \[3\]; expected \[4\]"),
        (CODES, LABELS.unsqueeze(1), ValueError, r"labels have shape \[4, 1\]; expected \[4\]"),
    ],
    ids=["vector", "3d", "whole", "array", "floats", "list", "short", "column"],
)
@every_function
def test_codes_and_labels_of_the_wrong_kind_are_refused(function, z, labels, error, message):
    with pytest.raises(error, match=message):
        function(z, labels)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@every_function
def test_codes_that_are_no_numbers_are_refused(function, bad):
    z = CODES.clone()
    z[1, 1] = bad
    with pytest.raises(ValueError, match="z has values that are NaN or infinite"):
        function(z, LABELS)


@pytest.mark.parametrize(
    ("z", "error"),
    [(torch.zeros(3), ValueError), (torch.zeros(3, 2).int(), TypeError), ([[0.0]], TypeError)],
    ids=["vector", "whole", "list"],
)
def test_the_size_of_anything_but_rows_of_codes_is_refused(z, error):
    with pytest.raises(error, match=r"expected .*\[B, D\]"):
        root_mean_square(z)


@pytest.mark.parametrize("measure", [triplet_accuracy, mean_triplet_loss])
@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_that_is_none_is_refused(measure, seed):
    with pytest.raises(ValueError, match=rf"seed is {seed}; expected a whole number"):
        measure(CODES, LABELS, seed=seed)


@pytest.mark.parametrize("neighbours", [0, -1, 51])
def test_a_number_of_neighbours_that_there_are_not_is_refused(neighbours):
    z, labels = batch(0)
    with pytest.raises(ValueError, match=rf"neighbours is {neighbours}; expected 1 to 50"):
        knn_accuracy(z, labels, z, labels, neighbours=neighbours)


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_a_number_of_triplets_that_is_none_is_refused(n):
    with pytest.raises(ValueError, match=rf"n is {n}; expected a whole number"):
        triplet_accuracy(CODES, LABELS, n=n)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], "1 codes of 1"),
        ([1, 1], "of 1 classes"),
        ([0, 1], "of 2 classes"),
    ],
    ids=["one", "one class", "all differ"],
)
def test_a_triplet_accuracy_without_triplets_is_refused(labels, message):
    with pytest.raises(ValueError, match=message + r".*expected at least two classes"):
        triplet_accuracy(torch.zeros(len(labels), 2), torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    "measure",
    [triplet_accuracy, silhouette, mean_triplet_loss, lambda z, y: knn_accuracy(z, y, z, y)],
)
def test_no_codes_are_refused(measure):
    with pytest.raises(ValueError, match="there are no codes; expected at least one"):
        measure(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("labels", [[3, 3, 3, 3], [1, 2, 3, 4]], ids=["one class", "all differ"])
def test_a_silhouette_without_an_own_or_another_class_is_refused(labels):
    with pytest.raises(ValueError, match="Number of labels"):
        silhouette(torch.arange(8.0).view(4, 2), torch.tensor(labels))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_a_batch_of_no_size_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size}; expected a whole number"):
        mean_triplet_loss(CODES, LABELS, batch_size=batch_size)


def test_an_unknown_option_of_the_loss_is_refused():
    with pytest.raises(ValueError, match="mining is 'hard'; expected one of"):
        mean_triplet_loss(CODES, LABELS, mining="hard")
    with pytest.raises(TypeError, match="'alpha'"):
        mean_triplet_loss(CODES, LABELS, alpha=1.0)
