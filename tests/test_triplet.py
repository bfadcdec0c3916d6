import itertools
import math

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import (
    BatchEasyHardMiner,
    BatchHardMiner,
    TripletMarginMiner,
)
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from torch import Tensor

from vaelib.triplet import pairwise_distances, triplet_loss

MININGS = ["batch-all", "batch-hard", "easy-positive", "semi-hard"]
REDUCTIONS = ["mined", "active"]
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
every_mining = pytest.mark.parametrize("mining", MININGS)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
both_distances = pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])


def batch(
    seed: int, *, size: int = 10, classes: int = 4, dim: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Codes and labels of classes that overlap, so that triplets of every difficulty occur."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes - 1, (size,), generator=rng)
    z = torch.randn(size, dim, generator=rng, dtype=torch.float64) + 0.6 * labels.unsqueeze(1)
    return z.to(dtype).requires_grad_(), labels


def distance(z: Tensor, i: int, j: int, squared: bool) -> Tensor:
    square = sum((z[i, k] - z[j, k]) ** 2 for k in range(z.shape[1]))
    return square if squared else square.sqrt()


def triplets(z: Tensor, labels: Tensor, mining: str) -> list[tuple[int, int, int]]:
    """Return the triplets of a batch, mined with loops and plain numbers."""
    label, points = labels.tolist(), z.tolist()
    every = range(len(label))
    mined = []
    for a in every:
        positives = [i for i in every if label[i] == label[a] and i != a]
        negatives = [i for i in every if label[i] != label[a]]
        d = [math.dist(points[a], point) for point in points]
        if not positives or not negatives:
            continue
        if mining == "batch-all":
            mined += [(a, p, n) for p in positives for n in negatives]
        if mining == "batch-hard":
            mined += [(a, max(positives, key=d.__getitem__), min(negatives, key=d.__getitem__))]
        if mining == "easy-positive":
            mined += [(a, min(positives, key=d.__getitem__), min(negatives, key=d.__getitem__))]
        if mining == "semi-hard":
            for p in positives:
                farther = [n for n in negatives if d[n] > d[p]]
                n = (
                    min(farther, key=lambda n: d[n])
                    if farther
                    else max(negatives, key=lambda n: d[n])
                )
                mined.append((a, p, n))
    return mined


def loss_by_loop(z, labels, mining, margin, squared, reduction):
    losses = []
    for a, p, n in triplets(z, labels, mining):
        gap = distance(z, a, p, squared) - distance(z, a, n, squared) + margin
        if gap > 0 or reduction == "mined":
            losses.append(gap.clamp(min=0))
    return sum(losses, start=0 * z.sum()) / max(len(losses), 1)


def value_and_gradient(loss: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient


def assert_same(ours: Tensor, theirs: Tensor, z: Tensor, tolerance: float) -> None:
    assert ours.dtype == z.dtype
    assert ours.shape == ()
    for one, other in zip(value_and_gradient(ours, z), value_and_gradient(theirs, z), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# --- Distances


@DTYPES
@both_distances
def test_distances_and_gradients_are_those_of_torch_also_where_points_coincide(
    squared, dtype, tolerance
):
    z, _ = batch(0, size=8, dtype=dtype)
    z = torch.cat((z, z[:3], z[:1])).detach().requires_grad_()
    weights = torch.rand(12, 12, generator=torch.Generator().manual_seed(1), dtype=dtype)
    theirs = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    theirs = theirs**2 if squared else theirs
    ours = pairwise_distances(z, squared=squared)
    assert (ours == 0).sum() == 12 + 2 * 5  # the diagonal, and five pairs of copies
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    assert_same((weights * ours).sum(), (weights * theirs).sum(), z, tolerance)


def test_distances_equal_plain_arithmetic():
    z = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, -8.0]])
    d = torch.tensor([[0.0, 5.0, 73**0.5], [5.0, 0.0, 12.0], [73**0.5, 12.0, 0.0]])
    torch.testing.assert_close(pairwise_distances(z), d)
    torch.testing.assert_close(pairwise_distances(z, squared=True), d**2)


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_float32_distances_are_exact_far_from_the_origin(offset):
    z = batch(0, size=40)[0].detach().float() + offset
    exact = torch.tensor([[math.dist(x, y) for y in z.tolist()] for x in z.tolist()])
    torch.testing.assert_close(pairwise_distances(z), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gap", [1e-12, 1e-19, 1e-22, 1e-38])
def test_the_gradient_of_a_tiny_distance_is_a_unit_vector_or_zero(gap):
    # In float32 the square of the gap becomes inaccurate on the way, and then zero.
    z = torch.tensor([[0.0], [gap]], requires_grad=True)
    ((_, size),) = torch.autograd.grad(pairwise_distances(z)[0, 1], z)[0].T.abs().tolist()
    assert size == 0 or size == pytest.approx(1, rel=0.3)


# --- The loss


@pytest.mark.parametrize(
    ("mining", "reduction", "expected"),
    [
        ("batch-all", "mined", 6.5 / 8),
        ("batch-all", "active", 6.5 / 3),
        ("batch-hard", "mined", 5 / 4),
        ("batch-hard", "active", 5 / 2),
        ("easy-positive", "mined", 5 / 4),
        ("easy-positive", "active", 5 / 2),
        ("semi-hard", "mined", 1.5 / 4),
        ("semi-hard", "active", 1.5),
    ],
)
def test_the_loss_of_four_points_worked_out_by_hand(mining, reduction, expected):
    # All losses above 0: (1, 0, 2) 2-1+0.5, (2, 3, 0) 4-3+0.5, (2, 3, 1) 4-1+0.5. Semi-hard takes
    # the farther negative 3 for (1, 0), and for (2, 3), which has none, the farthest, 0.
    z = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
    labels = torch.tensor([0, 0, 1, 1])
    loss = triplet_loss(z, labels, mining=mining, margin=0.5, reduction=reduction)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("mining", "reduction", "expected"),
    [
        ("batch-hard", "mined", 7 / 5),
        ("batch-hard", "active", 7 / 2),
        ("easy-positive", "mined", 6 / 5),
        ("easy-positive", "active", 6 / 2),
    ],
)
def test_the_nearest_of_two_positives_is_the_easy_one(mining, reduction, expected):
    # Only the anchors at 5 and 6 lose: 4-1+0.5 with the near positive of the first, 5-1+0.5 with
    # the far one; the second has but one, 3-1+0.5.
    z = torch.tensor([[0.0], [1.0], [5.0], [6.0], [9.0]])
    labels = torch.tensor([4, 4, 4, 2, 2])
    loss = triplet_loss(z, labels, mining=mining, margin=0.5, reduction=reduction)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@both_distances
def test_a_long_class_costs_nothing_with_easy_positives_and_much_with_hard_ones(squared):
    along = torch.arange(20.0)
    z = torch.stack((along.repeat(2), torch.tensor([0.0, 2.0]).repeat_interleave(20)), dim=1)
    labels = torch.tensor([0, 1]).repeat_interleave(20)
    easy, hard = (
        triplet_loss(z, labels, mining=mining, margin=1.0, squared=squared)
        for mining in ("easy-positive", "batch-hard")
    )
    assert easy == 0
    assert hard > 10


@both_distances
def test_a_negative_as_far_as_the_positive_is_not_semi_hard(squared):
    # The anchor at 0 takes the negative at 3, not that at -1; the anchor at 1 takes either.
    z = torch.tensor([[0.0], [1.0], [-1.0], [3.0]])
    labels = torch.tensor([0, 0, 1, 2])
    loss = triplet_loss(z, labels, mining="semi-hard", margin=2.5, squared=squared)
    expected = [1 - 9 + 2.5, 1 - 4 + 2.5] if squared else [1 - 3 + 2.5, 1 - 2 + 2.5]
    assert loss.item() == sum(max(0, value) for value in expected) / 2


@DTYPES
@both_distances
@every_reduction
@every_mining
def test_loss_and_gradient_equal_explicit_loops(mining, reduction, squared, dtype, tolerance):
    for seed, margin in itertools.product(range(4), (0.0, 0.7)):
        z, labels = batch(seed, dtype=dtype)
        options = {"mining": mining, "margin": margin, "squared": squared, "reduction": reduction}
        theirs = loss_by_loop(z, labels, **options)
        assert_same(triplet_loss(z, labels, **options), theirs, z, tolerance)


def test_these_random_batches_hold_every_case():
    alone, farther, active = 0, set(), {mining: set() for mining in MININGS}
    easy_is_hard = set()
    for seed in range(4):
        z, labels = batch(seed)
        alone += (labels.unique(return_counts=True)[1] == 1).sum()
        pairs = (triplets(z, labels, mining) for mining in ("easy-positive", "batch-hard"))
        easy_is_hard |= {easy == hard for easy, hard in zip(*pairs, strict=True)}
        for mining in MININGS:
            for a, p, n in triplets(z, labels, mining):
                gap = distance(z, a, p, False) - distance(z, a, n, False)
                active[mining].add(bool(gap > 0))
                if mining == "semi-hard":
                    farther.add(bool(gap < 0))
    assert alone > 0
    assert farther == easy_is_hard == {True, False}
    assert active == {mining: {True, False} for mining in MININGS}


@pytest.mark.parametrize("size", [24, 128])
@both_distances
@every_reduction
@pytest.mark.parametrize("mining", ["batch-all", "batch-hard", "easy-positive"])
def test_loss_and_gradient_equal_pytorch_metric_learning(mining, reduction, squared, size):
    metric = LpDistance(normalize_embeddings=False, p=2, power=2 if squared else 1)
    reducer = {"mined": MeanReducer, "active": AvgNonZeroReducer}[reduction]()
    criterion = TripletMarginLoss(margin=0.4, distance=metric, reducer=reducer)
    z, labels = batch(3, size=size, classes=6)
    miner = {
        "batch-all": lambda z, labels: None,
        "batch-hard": BatchHardMiner(distance=metric),
        "easy-positive": BatchEasyHardMiner(
            pos_strategy="easy", neg_strategy="hard", distance=metric
        ),
    }[mining]
    mined = miner(z, labels)
    ours = triplet_loss(z, labels, mining=mining, margin=0.4, squared=squared, reduction=reduction)
    # From 26 codes on, their distances are those of the expanded square.
    assert_same(ours, criterion(z, labels, mined), z, 1e-12 if size < 26 else 1e-7)


@both_distances
def test_semi_hard_is_the_hardest_of_the_semi_hard_triplets_of_pytorch_metric_learning(squared):
    # Spread out classes, so that every pair has a negative that is farther than the positive.
    z, labels = batch(5, size=24)
    z = (z + 8 * labels.unsqueeze(1)).detach().requires_grad_()
    metric = LpDistance(normalize_embeddings=False, p=2, power=2 if squared else 1)
    margin = 1e4
    a, p, n = TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=metric)(
        z, labels
    )
    d = metric(z, z).detach()
    hardest = {}  # the last to be written is the triplet with the nearest negative
    for i in sorted(range(len(a)), key=lambda i: -d[a[i], n[i]]):
        hardest[a[i].item(), p[i].item()] = (a[i], p[i], n[i])
    assert len(a) > len(hardest) == (labels.unsqueeze(1) == labels).sum() - len(labels)
    mined = tuple(map(torch.stack, zip(*hardest.values(), strict=True)))
    theirs = TripletMarginLoss(margin=margin, distance=metric, reducer=MeanReducer())(
        z, labels, mined
    )
    ours = triplet_loss(z, labels, mining="semi-hard", margin=margin, squared=squared)
    assert_same(ours, theirs, z, 1e-12)


@both_distances
@every_reduction
@every_mining
def test_the_gradient_is_that_of_finite_differences(mining, reduction, squared):
    z, labels = batch(1, size=8, classes=3)
    options = {"mining": mining, "margin": 0.3, "squared": squared, "reduction": reduction}
    assert torch.autograd.gradcheck(lambda z: triplet_loss(z, labels, **options), z)


@every_reduction
@every_mining
def test_scaled_codes_with_a_scaled_margin_give_the_scaled_loss(mining, reduction):
    z, labels = batch(2)
    options = {"mining": mining, "reduction": reduction}
    loss = triplet_loss(z, labels, margin=0.4, **options)
    assert loss > 0
    torch.testing.assert_close(pairwise_distances(5 * z), 5 * pairwise_distances(z))
    torch.testing.assert_close(triplet_loss(5 * z, labels, margin=2.0, **options), 5 * loss)
    squared = triplet_loss(z, labels, margin=0.4, squared=True, **options)
    torch.testing.assert_close(
        triplet_loss(5 * z, labels, margin=10.0, squared=True, **options), 25 * squared
    )


def test_the_defaults_are_batch_hard_plain_distances_margin_0_2_and_all_that_is_mined():
    z, labels = batch(1)
    assert_same(
        triplet_loss(z, labels),
        loss_by_loop(z, labels, "batch-hard", 0.2, False, "mined"),
        z,
        1e-12,
    )


@both_distances
@every_reduction
@every_mining
def test_separated_classes_cost_nothing(mining, reduction, squared):
    z = torch.tensor([[0.0], [0.1], [9.0], [9.2]], requires_grad=True)
    loss = triplet_loss(
        z, torch.tensor([3, 3, 1, 1]), mining=mining, squared=squared, reduction=reduction
    )
    value, gradient = value_and_gradient(loss, z)
    assert value == 0
    assert not gradient.any()


@both_distances
@every_reduction
@every_mining
def test_codes_that_all_coincide_cost_the_margin_and_have_no_gradient(mining, reduction, squared):
    z = torch.full((8, 2), 0.3, requires_grad=True)
    labels = torch.arange(8) % 2
    loss = triplet_loss(z, labels, mining=mining, margin=0.25, squared=squared, reduction=reduction)
    value, gradient = value_and_gradient(loss, z)
    assert value == 0.25
    assert torch.equal(gradient, torch.zeros(8, 2))


@both_distances
@every_reduction
@every_mining
def test_duplicates_within_and_across_classes_leave_the_gradient_finite(mining, reduction, squared):
    z, labels = batch(0)
    z, labels = torch.cat((z, z)).detach(), torch.cat((labels, labels.roll(1)))
    options = {"mining": mining, "squared": squared, "reduction": reduction}
    value, gradient = value_and_gradient(triplet_loss(z.requires_grad_(), labels, **options), z)
    assert value > 0
    assert gradient.isfinite().all()
    # Moving all codes together changes no distance.
    torch.testing.assert_close(gradient.sum(0), torch.zeros(3).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "labels", [[], [0], [2, 2, 2, 2], [3, 1, 4, 5]], ids=["empty", "one", "one class", "all differ"]
)
@both_distances
@every_reduction
@every_mining
def test_a_batch_without_triplets_has_loss_and_gradient_zero(mining, reduction, squared, labels):
    z, _ = batch(0, size=len(labels), dtype=torch.float32)
    labels = torch.tensor(labels, dtype=torch.int64)
    loss = triplet_loss(z, labels, mining=mining, squared=squared, reduction=reduction)
    value, gradient = value_and_gradient(loss, z)
    assert torch.equal(value, torch.zeros(()))
    assert torch.equal(gradient, torch.zeros_like(z))


@every_reduction
@every_mining
def test_codes_that_are_nan_show_in_the_loss(mining, reduction):
    z, labels = batch(0)
    z = torch.where(torch.arange(10).unsqueeze(1) == 4, math.nan, z)
    assert (labels == labels[4]).sum() > 1
    assert triplet_loss(z, labels, mining=mining, reduction=reduction).isnan()


@both_distances
@every_reduction
@every_mining
def test_the_loss_needs_no_number_from_the_device(mining, reduction, squared):
    # Tensors on "meta" have no values: reading one, or making a tensor elsewhere, is an error.
    z = torch.empty(6, 2, device="meta", requires_grad=True)
    labels = torch.empty(6, dtype=torch.int64, device="meta")
    loss = triplet_loss(z, labels, mining=mining, squared=squared, reduction=reduction)
    assert loss.shape == ()
    (gradient,) = torch.autograd.grad(loss, z)
    assert (gradient.device.type, gradient.shape) == ("meta", (6, 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool], ids=str)
def test_the_type_of_the_labels_does_not_matter(dtype):
    z, labels = batch(0, classes=2)
    expected = loss_by_loop(z, labels, "batch-hard", 0.2, False, "mined")
    assert_same(triplet_loss(z, (labels + 1).to(dtype)), expected, z, 1e-12)


# --- Bad input

CODES, LABELS = torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])


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
        (CODES[:0], LABELS[:1], ValueError, r"labels have shape \[1\]; expected \[0\]"),
    ],
    ids=["vector", "3d", "whole", "array", "floats", "list", "short", "column", "empty"],
)
def test_codes_and_labels_of_the_wrong_kind_are_refused(z, labels, error, message):
    with pytest.raises(error, match=message):
        triplet_loss(z, labels)


@pytest.mark.parametrize(
    ("z", "error"),
    [(torch.zeros(3), ValueError), (torch.zeros(3, 2).int(), TypeError)],
    ids=["vector", "whole"],
)
def test_distances_of_anything_but_rows_of_codes_are_refused(z, error):
    with pytest.raises(error, match=r"expected .*\[B, D\]"):
        pairwise_distances(z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mining": "hard"},
            "mining is 'hard'; expected one of batch-all, batch-hard, easy-positive, semi-hard",
        ),
        ({"reduction": "mean"}, "reduction is 'mean'; expected mined or active"),
        ({"margin": -0.1}, "margin is -0.1; expected a finite number, at least 0"),
        ({"margin": math.nan}, "margin is nan"),
        ({"margin": math.inf}, "margin is inf"),
    ],
    ids=["mining", "reduction", "negative", "nan", "infinite"],
)
def test_unknown_options_of_the_loss_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        triplet_loss(CODES, LABELS, **options)
