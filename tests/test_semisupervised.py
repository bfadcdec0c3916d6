import math
import pickle
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import kstest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC
from torch import Tensor, nn

from vaelib import VAE, Bernoulli, MLPDecoder, MLPEncoder, data, semisupervised
from vaelib.corruption import RandomBinarization
from vaelib.data import balanced_subset, to_float
from vaelib.seeding import generator
from vaelib.semisupervised import (
    M1,
    SpreadingClassifier,
    draw_labels,
    fit_over_draws,
    neighbour_graph,
    tuned_svc,
)
from vaelib.training import fit

SLOPE, SIGMA = (2.0, 0.0, 1.0, 0.2, -3.0), (0.5, 1.0, 0.8, 0.9, 0.1)
ACTIVE = [0, 2, 4]  # the mean of unit 3 varies by 0.2^2 / 12, which is less than 0.01


class Recorder(ClassifierMixin, BaseEstimator):
    """A classifier that remembers what it was fitted to, and says the first class always."""

    def fit(self, z, labels, sample_weight=None):
        self.z_, self.labels_, self.weight_ = z, labels, sample_weight
        self.classes_ = np.unique(labels[labels != -1])
        return self

    def predict(self, z):
        return np.full(len(z), self.classes_[0])


@pytest.fixture
def reader(make_vae) -> VAE:
    """A VAE whose mean d is 0.5 plus SLOPE[d] times pixel d, and whose scales are SIGMA."""
    vae = make_vae(latent_dim=5, hidden=(), likelihood=Bernoulli(grey=True))
    (layer,) = vae.encoder.layers
    nn.init.zeros_(layer.weight)
    layer.weight.data[:5, :5] = torch.tensor(SLOPE).diag()
    layer.bias.data = torch.tensor([0.5] * 5 + [2 * math.log(s) for s in SIGMA])
    return vae.eval()


def means(x: Tensor) -> np.ndarray:
    return (0.5 + x.flatten(1)[:, :5] * torch.tensor(SLOPE)).numpy()


def examples(n: int, seed: int = 0, hidden: int = 0) -> tuple[Tensor, Tensor]:
    """Images of three classes that overlap, the last of them unlabelled."""
    labels = torch.arange(n) % 3
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    x[:, 0, 0, 0] = (labels + 2 * x[:, 0, 0, 0]) / 4
    return x, torch.where(torch.arange(n) < n - hidden, labels, -1)


def state(vae: VAE) -> list[Tensor]:
    return [value.clone() for value in vae.state_dict().values()]


# M1: a classifier on codes


@pytest.mark.parametrize(
    "classifier",
    [
        None,
        SVC(C=10),
        LogisticRegression(),
        KNeighborsClassifier(3),
        GridSearchCV(SVC(), {"C": [1, 9]}),
    ],
    ids=["default", "svc", "logistic", "neighbours", "grid"],
)
def test_the_predictions_are_those_of_the_classifier_fitted_by_hand_to_the_active_means(
    reader, classifier
):
    (x, labels), (new, truth) = examples(60), examples(90, seed=1)
    m1 = M1(vae=reader, classifier=classifier)
    assert m1.fit(x, labels) is m1
    by_hand = clone(SVC() if classifier is None else classifier)
    by_hand.fit(means(x)[:, ACTIVE], labels.numpy())
    expected = by_hand.predict(means(new)[:, ACTIVE])
    assert len(set(expected)) == 3
    assert np.array_equal(m1.predict(new), expected)
    assert m1.score(new, truth.numpy()) == accuracy_score(truth.numpy(), expected) < 1
    assert m1.units_.tolist() == ACTIVE
    assert m1.classes_.tolist() == [0, 1, 2]
    np.testing.assert_allclose(m1.features(new), means(new)[:, ACTIVE], rtol=1e-6)


def test_the_codes_are_the_means_that_the_vae_embeds(make_vae, images):
    vae, labels = make_vae(latent_dim=3), (images[:, 0, 0, 3] > 0.5).long().numpy()
    m1 = M1(vae=vae, units="all").fit(images[:30], labels[:30])
    z = vae.embed(images).numpy()
    np.testing.assert_array_equal(m1.features(images[30:]), z[30:])
    by_hand = SVC().fit(z[:30], labels[:30])
    assert np.array_equal(m1.predict(images[30:]), by_hand.predict(z[30:]))


def test_all_units_are_seen_if_asked_for(reader):
    x, labels = examples(60)
    m1 = M1(vae=reader, units="all", classifier=Recorder()).fit(x, labels)
    assert m1.units_.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(m1.classifier_.z_, means(x), rtol=1e-6)


def test_tensors_and_arrays_and_flat_images_give_the_same(reader):
    (x, labels), (new, _) = examples(60, hidden=12), examples(90, seed=1)
    expected = M1(vae=reader).fit(x, labels).predict(new)
    for convert in (Tensor.numpy, lambda a: a.flatten(1), lambda a: a.flatten(1).numpy()):
        m1 = M1(vae=reader).fit(convert(x), labels.numpy())
        assert np.array_equal(m1.predict(convert(new)), expected)
    for dtype in (torch.int8, torch.int32):
        assert np.array_equal(M1(vae=reader).fit(x, labels.to(dtype)).predict(new), expected)


def test_arrays_that_may_not_be_written_to_are_read(reader):
    (x, labels), (new, _) = examples(60), examples(90, seed=1)
    expected = M1(vae=reader).fit(x, labels).predict(new)
    locked = [part.numpy().copy() for part in (x, labels, new)]
    for part in locked:
        part.flags.writeable = False
    assert np.array_equal(M1(vae=reader).fit(*locked[:2]).predict(locked[2]), expected)


def test_labels_need_not_be_consecutive(reader):
    (x, labels), (new, _) = examples(60), examples(90, seed=1)
    m1 = M1(vae=reader).fit(x, 10 * labels + 7)
    assert m1.classes_.tolist() == [7, 17, 27]
    assert np.array_equal(m1.predict(new), 10 * M1(vae=reader).fit(x, labels).predict(new) + 7)


# M1: its place in scikit-learn


def test_a_clone_has_the_same_parameters_and_results_and_is_not_fitted(reader):
    (x, labels), (new, _) = examples(60), examples(90, seed=1)
    options = {"semi_supervised": True, "code": "sample", "units": "all", "seed": 4}
    m1 = M1(vae=reader, classifier=SpreadingClassifier(alpha=0.5), **options).fit(x, labels)
    copy = clone(m1)
    assert options.items() <= copy.get_params().items()
    assert copy.get_params().keys() == m1.get_params().keys()
    assert copy.get_params()["classifier__alpha"] == 0.5
    with pytest.raises(NotFittedError):
        copy.features(new)
    assert np.array_equal(copy.fit(x, labels).predict(new), m1.predict(new))


def test_parameters_are_set_by_name(reader):
    x, labels = examples(60)
    m1 = M1(vae=reader, classifier=SVC())
    m1.set_params(classifier__C=7, code="sample", units="all", seed=3).fit(x, labels)
    assert m1.classifier_.C == 7
    assert m1.classifier.C == 7
    assert m1.units_.tolist() == [0, 1, 2, 3, 4]
    same = M1(vae=reader, classifier=SVC(C=7), code="sample", units="all", seed=3).fit(x, labels)
    np.testing.assert_array_equal(m1.features(x), same.features(x))


def test_the_classifier_that_is_given_is_not_fitted(reader):
    given = SVC()
    M1(vae=reader, classifier=given).fit(*examples(60))
    assert not hasattr(given, "classes_")


def test_it_is_the_last_step_of_a_pipeline(reader):
    (x, labels), (new, truth) = examples(60), examples(90, seed=1)
    halve = FunctionTransformer(partial(np.multiply, np.float32(0.5)))
    pipeline = Pipeline([("halve", halve), ("m1", M1(vae=reader))])
    pipeline.fit(x.numpy(), labels.numpy())
    alone = M1(vae=reader).fit(x / 2, labels)
    assert np.array_equal(pipeline.predict(new.numpy()), alone.predict(new / 2))
    assert pipeline.score(new.numpy(), truth.numpy()) == alone.score(new / 2, truth.numpy())


def test_a_grid_search_chooses_by_the_accuracy_of_its_folds(reader):
    x, labels = examples(60)
    grid = {"classifier__C": [0.02, 10.0], "code": ["mean", "sample"]}
    search = GridSearchCV(M1(vae=reader, classifier=SVC()), grid, cv=4)
    search.fit(x.numpy(), labels.numpy())
    for options, found in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        scores = []
        for train, test in StratifiedKFold(4).split(x, labels):
            m1 = M1(vae=reader, classifier=SVC(C=options["classifier__C"]), code=options["code"])
            m1.fit(x[train], labels[train])
            scores.append(float(np.mean(m1.predict(x[test]) == labels[test].numpy())))
        assert found == pytest.approx(np.mean(scores))
    assert len(set(search.cv_results_["mean_test_score"])) > 2
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()


def test_a_fitted_m1_survives_pickling(reader):
    (x, labels), (new, _) = examples(60), examples(90, seed=1)
    for code in ("mean", "sample"):
        m1 = M1(vae=reader, code=code).fit(x, labels)
        copy = pickle.loads(pickle.dumps(m1))
        assert np.array_equal(copy.predict(new), m1.predict(new))


@pytest.mark.parametrize("ask", ["features", "predict", "score"])
def test_an_m1_that_is_not_fitted_says_so(reader, ask):
    x, labels = examples(6)
    arguments = (x, labels.numpy()) if ask == "score" else (x,)
    with pytest.raises(NotFittedError, match="M1 instance is not fitted yet"):
        getattr(M1(vae=reader), ask)(*arguments)


# M1: samples


def noise_of(z: np.ndarray, x: Tensor) -> np.ndarray:
    return (z - means(x)) / np.array(SIGMA)


def test_a_sample_is_the_mean_and_normal_noise_times_the_scale(reader):
    x, labels = examples(3000)
    m1 = M1(vae=reader, classifier=Recorder(), code="sample", units="all").fit(x, labels)
    for z in (m1.classifier_.z_, m1.features(x)):
        noise = noise_of(z, x)
        for unit in noise.T:
            assert kstest(unit, "norm").pvalue > 0.001
        correlation = np.corrcoef(np.vstack((noise.T, means(x)[:, ACTIVE].T)))
        assert np.abs(correlation[:5] - np.eye(8)[:5]).max() < 4 / math.sqrt(3000)


def test_the_samples_of_labelled_and_of_new_images_share_no_noise(reader):
    x, labels = examples(3000)
    m1 = M1(vae=reader, classifier=Recorder(), code="sample", units="all").fit(x, labels)
    for one, two in zip(
        noise_of(m1.classifier_.z_, x).T, noise_of(m1.features(x), x).T, strict=True
    ):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / math.sqrt(3000)


def test_the_seed_fixes_the_samples_and_nothing_else_does(reader, rng_untouched):
    x, labels = examples(60)
    options = {"vae": reader, "classifier": Recorder(), "code": "sample"}
    with rng_untouched():
        first = M1(seed=5, **options).fit(x, labels)
        z = first.features(x)
    torch.manual_seed(99)
    np.random.seed(99)
    same, other = (M1(seed=seed, **options).fit(x, labels) for seed in (5, 6))
    np.testing.assert_array_equal(same.features(x), z)
    np.testing.assert_array_equal(same.classifier_.z_, first.classifier_.z_)
    assert np.abs(other.features(x) - z).max() > 0.1
    assert np.abs(other.classifier_.z_ - first.classifier_.z_).max() > 0.1


def test_labelled_and_new_images_have_streams_of_their_own(reader):
    x, labels = examples(40)
    m1 = M1(vae=reader, classifier=Recorder(), code="sample", units="all", seed=2).fit(x, labels)
    for z, stream in ((m1.classifier_.z_, "labelled codes"), (m1.features(x), "new codes")):
        noise = torch.randn(40, 5, generator=generator(2, stream)).numpy()
        np.testing.assert_allclose(z, means(x) + np.array(SIGMA) * noise, rtol=1e-4, atol=1e-5)


def test_a_classifier_of_samples_sees_the_units_whose_means_vary(reader):
    m1 = M1(vae=reader, code="sample").fit(*examples(60))
    assert m1.units_.tolist() == ACTIVE


# M1: unlabelled images


def with_one_grey(x: Tensor, labelled: slice) -> Tensor:
    """Make pixel 4 alike in all labelled images."""
    x[labelled, 0, 1, 0] = 0.5
    return x


def test_unlabelled_images_decide_on_the_active_units_and_teach_no_ordinary_classifier(reader):
    x, labels = examples(60, hidden=30)
    x = with_one_grey(x, slice(30))
    m1 = M1(vae=reader, classifier=Recorder()).fit(x, labels)
    assert m1.units_.tolist() == ACTIVE
    np.testing.assert_allclose(m1.classifier_.z_, means(x)[:30, ACTIVE], rtol=1e-6)
    assert m1.classifier_.labels_.tolist() == labels[:30].tolist()
    alone = M1(vae=reader).fit(x[:30], labels[:30])
    assert alone.units_.tolist() == [0, 2]


@pytest.mark.parametrize(
    "classifier",
    [
        LabelSpreading(gamma=1.0, max_iter=500),
        SelfTrainingClassifier(LogisticRegression()),
        SpreadingClassifier(n_taught=20),
    ],
    ids=lambda classifier: type(classifier).__name__,
)
def test_a_semi_supervised_classifier_is_given_the_unlabelled_codes(reader, classifier):
    (x, labels), (new, _) = examples(90, hidden=60), examples(90, seed=1)
    m1 = M1(vae=reader, classifier=classifier, semi_supervised=True).fit(x, labels)
    by_hand = clone(classifier).fit(means(x)[:, ACTIVE], labels.numpy())
    expected = by_hand.predict(means(new)[:, ACTIVE])
    assert np.array_equal(m1.predict(new), expected)
    assert m1.classes_.tolist() == [0, 1, 2]
    assert len(set(expected)) == 3


def test_a_semi_supervised_classifier_is_given_all_codes_in_their_order(reader):
    x, labels = examples(60, hidden=30)
    m1 = M1(vae=reader, classifier=Recorder(), semi_supervised=True).fit(x, labels)
    np.testing.assert_allclose(m1.classifier_.z_, means(x)[:, ACTIVE], rtol=1e-6)
    assert m1.classifier_.labels_.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("classifier", "name"),
    [(None, "SVC"), (LogisticRegression(), "LogisticRegression")],
    ids=["default", "logistic"],
)
def test_an_ordinary_classifier_cannot_learn_from_unlabelled_codes(reader, classifier, name):
    m1 = M1(vae=reader, classifier=classifier, semi_supervised=True)
    with pytest.raises(ValueError, match=f"{name} takes -1 for a class.*semi_supervised=False"):
        m1.fit(*examples(60, hidden=30))


def test_a_fit_that_failed_leaves_nothing_that_predicts(reader):
    m1 = M1(vae=reader, semi_supervised=True)
    with pytest.raises(ValueError, match="takes -1 for a class"):
        m1.fit(*examples(60, hidden=30))
    with pytest.raises(NotFittedError):
        m1.predict(IMAGES)


# M1: the VAE, and bad inputs


@pytest.mark.parametrize("training", [True, False])
def test_the_vae_stays_as_it_is(training):
    sizes = {"latent_dim": 3, "hidden": (8,), "image_shape": (1, 4, 4)}
    encoder = MLPEncoder(corruption=RandomBinarization(), activation=nn.Dropout, **sizes)
    vae = VAE(encoder=encoder, decoder=MLPDecoder(**sizes), likelihood=Bernoulli(grey=True))
    before, (x, labels) = state(vae), examples(60)
    vae.train(training)
    m1 = M1(vae=vae, units="all").fit(x, labels)
    found = m1.features(x)
    assert m1.vae is vae
    assert all(module.training is training for module in vae.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, state(vae), strict=True))
    assert all(parameter.grad is None for parameter in vae.parameters())
    np.testing.assert_array_equal(found, vae.eval().embed(x).numpy())


def test_a_collapsed_posterior_is_named(reader):
    nn.init.zeros_(reader.encoder.layers[0].weight)
    x, labels = examples(60)
    with pytest.raises(ValueError, match=r"no latent unit of the VAE is active.*ask for all units"):
        M1(vae=reader).fit(x, labels)
    assert M1(vae=reader, units="all").fit(x, labels).units_.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"code": "mode"}, {"units": "dead"}, {"code": None}], ids=str)
def test_an_unknown_code_or_choice_of_units_is_named(reader, options):
    m1 = M1(vae=reader, **options)
    expected = f"code is {m1.code!r} and units is {m1.units!r}; expected 'mean' or 'sample'"
    with pytest.raises(ValueError, match=expected):
        m1.fit(*examples(60))


IMAGES, LABELS = examples(12)
BAD_LABELS = {
    "fractions": (LABELS.double(), TypeError, "labels are float64; expected whole numbers"),
    "truth values": (LABELS.bool(), TypeError, "labels are bool; expected whole numbers"),
    "names": (np.array(["a", "b", "c"] * 4), TypeError, "labels are <U1; expected whole numbers"),
    "below -1": (LABELS - 2, ValueError, "a label is -2; expected class numbers, or -1"),
    "too few": (LABELS[:11], ValueError, r"labels have shape \(11,\) for 12 .*; expected \[12\]"),
    "too many": (LABELS.repeat(2), ValueError, r"labels have shape \(24,\) for 12 "),
    "columns": (LABELS.view(12, 1), ValueError, r"labels have shape \(12, 1\) for 12 "),
    "one class": (LABELS * 0, ValueError, "are of 1 classes; expected labelled images of at least"),
    "one class and none": (LABELS.clamp(max=1) - 1, ValueError, "that are not -1 are of 1 classes"),
    "none": (LABELS * 0 - 1, ValueError, "that are not -1 are of 0 classes"),
}
bad_labels = pytest.mark.parametrize(
    ("labels", "error", "match"), BAD_LABELS.values(), ids=BAD_LABELS
)


@bad_labels
def test_labels_that_do_not_suit_are_named(reader, labels, error, match):
    with pytest.raises(error, match=match):
        M1(vae=reader).fit(IMAGES, labels)
    with pytest.raises(error, match=match):
        SpreadingClassifier().fit(means(IMAGES), labels)


def test_no_images_at_all_are_an_error_that_says_so(reader):
    with pytest.raises(ValueError, match="classes"):
        M1(vae=reader).fit(IMAGES[:0], LABELS[:0])
    with pytest.raises(ValueError, match="classes"):
        SpreadingClassifier().fit(means(IMAGES)[:0], LABELS[:0])


BAD_IMAGES = {
    "whole numbers": (
        (255 * IMAGES).byte(),
        TypeError,
        "images are torch.uint8; expected floating",
    ),
    "double": (
        IMAGES.double().numpy(),
        TypeError,
        "images are torch.float64, the model is torch.fl",
    ),
    "large": (torch.rand(12, 1, 5, 5), ValueError, r"images have shape \[12, 1, 5, 5\]; expected"),
    "no channel": (torch.rand(12, 4, 4), ValueError, r"images have shape \[12, 4, 4\]; expected"),
}


@pytest.mark.parametrize(("x", "error", "match"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_that_do_not_suit_are_named(reader, x, error, match):
    with pytest.raises(error, match=match):
        M1(vae=reader).fit(x, LABELS)
    m1 = M1(vae=reader).fit(IMAGES, LABELS)
    with pytest.raises(error, match=match):
        m1.predict(x)


def test_a_bad_seed_of_the_samples_is_named(reader):
    with pytest.raises(ValueError, match="seed is -1; expected a whole number"):
        M1(vae=reader, code="sample", seed=-1).fit(IMAGES, LABELS)


# Draws of labels

MANY = torch.randint(10, (2000,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [10, 100, 600])
def test_as_many_labels_of_each_class_stay_and_all_others_are_hidden(n):
    before = MANY.clone()
    known = draw_labels(MANY, n, seed=3)
    assert known.dtype == torch.int64
    assert known[known != -1].bincount().tolist() == [n // 10] * 10
    assert (known != -1).sum() == n
    assert torch.equal(known[known != -1], MANY[known != -1])
    assert torch.equal(MANY, before)
    assert known.data_ptr() != MANY.data_ptr()


def test_with_one_seed_fewer_labels_are_part_of_more():
    for seed in range(3):
        kept = [(draw_labels(MANY, n, seed=seed) != -1) for n in (10, 100, 600, 1000)]
        for fewer, more in pairwise(kept):
            assert more[fewer].all()


def test_the_seed_fixes_the_draw():
    first, same, other = (draw_labels(MANY, 100, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    # Of each class about 10 in 200 are kept, so that two draws share about 5 of 100.
    assert ((first != -1) & (other != -1)).sum() < 20
    assert torch.equal(draw_labels(MANY, 100), draw_labels(MANY, 100, seed=0))


def test_each_example_of_a_class_is_as_likely_to_be_drawn():
    labels = torch.arange(40) % 2
    counts = sum((draw_labels(labels, 20, n_classes=2, seed=s) != -1).long() for s in range(400))
    error = 5 * math.sqrt(400 * 0.5 * 0.5)
    assert (counts - 200).abs().max() < error


@pytest.mark.parametrize(
    ("labels", "n", "options", "error", "match"),
    [
        (MANY.clamp(max=8), 9, {}, ValueError, r"classes \[0, 1, 2, 3, 4, 5, 6, 7, 8\]; .* 0 to 9"),
        (
            MANY,
            10,
            {"n_classes": 11},
            ValueError,
            r"the labels have the classes .*; expected 0 to 10",
        ),
        (
            MANY,
            10,
            {"n_classes": 3},
            ValueError,
            r"the labels have the classes .*; expected 0 to 2",
        ),
        (
            MANY - 1,
            10,
            {},
            ValueError,
            r"the labels have the classes \[-1, 0, 1, .*expected 0 to 9",
        ),
        (MANY, 15, {}, ValueError, "n is 15; expected a positive multiple of the 10 classes"),
        (MANY, 0, {}, ValueError, "n is 0; expected a positive multiple of the 10 classes"),
        (MANY, -10, {}, ValueError, "n is -10; expected a positive multiple of the 10 classes"),
        (MANY, 10.0, {}, ValueError, "n is 10.0; expected a positive multiple"),
        (MANY[:100], 300, {}, ValueError, r"30 of each class, but class \d has only \d+ examples"),
        (MANY.int(), 10, {}, TypeError, "expected a torch.int64 tensor"),
        (MANY.numpy(), 10, {}, TypeError, "expected a torch.int64 tensor"),
        (MANY.view(2, -1), 10, {}, ValueError, r"labels have shape \(2, 1000\); expected \[N\]"),
    ],
)
def test_labels_that_cannot_be_drawn_from_are_named(labels, n, options, error, match):
    with pytest.raises(error, match=match):
        draw_labels(labels, n, **options)


# The graph of neighbours


def graph_by_loop(z: np.ndarray, neighbours: int) -> np.ndarray:
    points, n = z.tolist(), len(z)
    nearest, scale = [], []
    for i in range(n):
        others = sorted((math.dist(points[i], points[j]), j) for j in range(n) if j != i)
        nearest.append({j for _, j in others[:neighbours]})
        scale.append(others[neighbours - 1][0])
    weights = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if j in nearest[i] or i in nearest[j]:
                squared = math.dist(points[i], points[j]) ** 2
                weights[i, j] = math.exp(-squared / (scale[i] * scale[j]))
    return weights


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("neighbours", [1, 2, 10, 39])
def test_the_graph_equals_an_explicit_loop(neighbours, dtype):
    # Dense on the left and sparse on the right, so that being near is not mutual.
    z = np.exp(np.random.RandomState(0).randn(40, 3)).astype(dtype)
    graph = neighbour_graph(z, neighbours=neighbours)
    assert isinstance(graph, csr_matrix)
    expected = graph_by_loop(z, neighbours)
    np.testing.assert_allclose(graph.toarray(), expected, rtol=1e-4, atol=1e-12)
    assert graph.nnz == (expected > 0).sum()
    assert abs(graph - graph.T).max() == 0
    assert graph.diagonal().max() == 0


def test_ten_neighbours_are_joined_unless_told_otherwise():
    z = np.random.RandomState(0).randn(40, 3)
    assert (neighbour_graph(z) != neighbour_graph(z, neighbours=10)).nnz == 0


def test_the_weights_depend_neither_on_the_scale_nor_on_the_place_of_the_codes():
    z = np.random.RandomState(0).randn(40, 3)
    expected = neighbour_graph(z).toarray()
    for moved in (1000 * z, 1e-3 * z, z + 5):
        np.testing.assert_allclose(neighbour_graph(moved).toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("copies", [2, 5, 11, 12, 40])
def test_copies_of_a_code_are_joined_by_a_weight_of_one(copies, dtype):
    z = 1000 * np.random.RandomState(0).randn(40, 3).astype(dtype)
    z[:copies] = z[0]
    graph = neighbour_graph(z).toarray()
    assert np.isfinite(graph).all()
    assert (graph == graph.T).all()
    assert (graph.diagonal() == 0).all()
    joined = graph[:copies, :copies][graph[:copies, :copies] > 0]
    assert len(joined) >= copies * min(10, copies - 1)
    np.testing.assert_allclose(joined, 1, atol=1e-6)


@pytest.mark.parametrize("neighbours", [0, -1, 12, 13])
def test_a_number_of_neighbours_that_cannot_be_is_named(neighbours):
    expected = f"neighbours is {neighbours} for 12 codes; expected 1 to N - 1"
    with pytest.raises(ValueError, match=expected):
        neighbour_graph(np.random.RandomState(0).randn(12, 2), neighbours=neighbours)


# The classifier that a graph teaches


def spread_by_hand(weights: np.ndarray, labels: np.ndarray, alpha: float) -> np.ndarray:
    """Zhou et al. (2004): the limit of their iteration, in closed form."""
    classes = np.unique(labels[labels != -1])
    degree = weights.sum(1)
    s = weights / np.sqrt(np.outer(degree, degree))
    y = (labels[:, None] == classes).astype(float)
    f = (1 - alpha) * np.linalg.solve(np.eye(len(s)) - alpha * s, y)
    first, second = np.sort(f, axis=1)[:, :-3:-1].T
    assert (first > 1.01 * second).all()  # no ties, else the truth were a matter of rounding
    return classes[f.argmax(1)]


def crowd(n: int = 80, seed: int = 82) -> tuple[np.ndarray, np.ndarray]:
    """Codes of three classes that overlap, and labels of twelve of them, one of which is wrong."""
    rng = np.random.RandomState(seed)
    truth = np.array([2, 5, 7])[np.arange(n) % 3]
    z = rng.randn(n, 2) + 1.2 * np.array([[0, 0], [2, 0], [0, 2]])[np.arange(n) % 3]
    labels = np.where(np.arange(n) < 12, truth, -1)
    labels[0] = 7
    return z, labels


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.95, 0.99])
def test_the_labels_spread_as_in_closed_form(alpha):
    z, labels = crowd()
    expected = spread_by_hand(graph_by_loop(z, 10), labels, alpha)
    found = SpreadingClassifier(alpha=alpha).fit(z, labels).transduction_
    assert np.array_equal(found, expected)
    assert set(found) == {2, 5, 7}


def test_how_far_labels_spread_makes_a_difference():
    z, labels = crowd()
    spread = [spread_by_hand(graph_by_loop(z, 10), labels, a) for a in (0.1, 0.95)]
    assert (spread[0] != spread[1]).any()
    default = SpreadingClassifier().fit(z, labels).transduction_
    assert np.array_equal(default, spread[1])


def test_another_graph_takes_the_place_of_the_neighbours():
    z, labels = crowd()
    dense = np.exp(-2 * ((z[:, None] - z) ** 2).sum(-1))
    np.fill_diagonal(dense, 0)
    found = SpreadingClassifier(graph=lambda _: csr_matrix(dense)).fit(z, labels).transduction_
    assert np.array_equal(found, spread_by_hand(dense, labels, 0.95))
    seen = []
    SpreadingClassifier(graph=lambda z: seen.append(z) or neighbour_graph(z)).fit(z, labels)
    np.testing.assert_array_equal(seen[0], z)


def rows(z: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the places of some codes among all."""
    places = [np.flatnonzero((among == code).all(1)) for code in z]
    assert all(len(place) == 1 for place in places)
    return np.concatenate(places)


def test_the_classifier_learns_the_labelled_codes_and_a_draw_of_those_that_the_graph_labels():
    z, labels = crowd()
    spread = spread_by_hand(graph_by_loop(z, 10), labels, 0.95)
    assert (spread[labels != -1] != labels[labels != -1]).any()  # the graph knows better: ignored
    fitted = SpreadingClassifier(classifier=Recorder(), n_taught=20, weight=0.3).fit(z, labels)
    seen = fitted.classifier_
    places = rows(seen.z_, z)
    assert sorted(places[:12]) == list(range(12))
    assert len(set(places[12:]) - set(range(12))) == 20
    expected = np.where(labels == -1, spread, labels)[places]
    assert np.array_equal(seen.labels_, expected)
    assert seen.weight_.tolist() == [1.0] * 12 + [0.3] * 20
    assert fitted.classes_.tolist() == [2, 5, 7]


def test_a_taught_code_counts_a_tenth_unless_told_otherwise():
    seen = SpreadingClassifier(classifier=Recorder()).fit(*crowd()).classifier_
    assert seen.weight_.tolist() == [1.0] * 12 + [0.1] * 68


@pytest.mark.parametrize(("n_taught", "taught"), [(0, 0), (1, 1), (68, 68), (69, 68), (5000, 68)])
def test_as_many_codes_are_taught_as_asked_for_or_as_there_are(n_taught, taught):
    z, labels = crowd()
    fitted = SpreadingClassifier(classifier=Recorder(), n_taught=n_taught).fit(z, labels)
    assert len(set(rows(fitted.classifier_.z_, z))) == len(fitted.classifier_.z_) == 12 + taught


def test_five_thousand_codes_are_taught_unless_told_otherwise():
    z = np.random.RandomState(0).randn(5100, 1)
    labels = np.full(5100, -1)
    labels[[0, 1]] = 3, 4
    star = csr_matrix((np.ones(5099), (np.zeros(5099, int), np.arange(1, 5100))), (5100, 5100))
    spreading = SpreadingClassifier(classifier=Recorder(), graph=lambda _: star + star.T, alpha=0.5)
    assert len(spreading.fit(z, labels).classifier_.z_) == 5002


def test_every_unlabelled_code_is_as_likely_to_be_taught_and_the_seed_fixes_which(rng_untouched):
    z, labels = crowd()

    def taught(seed: int) -> np.ndarray:
        spreading = SpreadingClassifier(classifier=Recorder(), n_taught=17, seed=seed)
        return rows(spreading.fit(z, labels).classifier_.z_[12:], z)

    with rng_untouched():
        first = taught(1)
    np.random.seed(99)
    assert np.array_equal(taught(1), first)
    counts = np.bincount(np.concatenate([taught(seed) for seed in range(60)]), minlength=80)
    assert (counts[:12] == 0).all()
    assert np.abs(counts[12:] - 15).max() < 5 * math.sqrt(60 * 0.25 * 0.75)


def test_the_predictions_are_those_of_the_classifier_fitted_by_hand_to_weighted_codes():
    (z, labels), new = crowd(), crowd(seed=1)[0]
    spread = spread_by_hand(graph_by_loop(z, 10), labels, 0.95)
    taught = np.where(labels == -1, spread, labels)
    for weight in (0.01, 0.1, 1.0):
        by_hand = SVC(C=3).fit(z, taught, sample_weight=np.where(labels == -1, weight, 1.0))
        fitted = SpreadingClassifier(classifier=SVC(C=3), weight=weight).fit(z, labels)
        expected = by_hand.predict(new)
        assert np.array_equal(fitted.predict(new), expected)
        assert fitted.score(new, expected) == 1
    default = SpreadingClassifier().fit(z, labels).predict(new)
    by_hand = SVC().fit(z, taught, sample_weight=np.where(labels == -1, 0.1, 1.0))
    assert np.array_equal(default, by_hand.predict(new))


def test_without_unlabelled_codes_the_classifier_learns_the_labels_alone():
    z, labels = crowd()
    labels = np.where(labels == -1, np.array([2, 5, 7])[np.arange(80) % 3], labels)
    seen = SpreadingClassifier(classifier=Recorder()).fit(z, labels).classifier_
    np.testing.assert_array_equal(seen.z_, z)
    assert np.array_equal(seen.labels_, labels)
    assert (seen.weight_ == 1).all()


def test_a_spreading_classifier_is_cloned_and_leaves_the_given_classifier_alone():
    (z, labels), given = crowd(), SVC(C=4)
    spreading = SpreadingClassifier(classifier=given, alpha=0.7, n_taught=30, weight=0.2, seed=3)
    expected = spreading.fit(z, labels).predict(z)
    assert not hasattr(given, "classes_")
    copy = clone(spreading)
    assert copy.get_params()["classifier__C"] == 4
    for name in ("alpha", "n_taught", "weight", "seed", "graph"):
        assert getattr(copy, name) == getattr(spreading, name)
    with pytest.raises(NotFittedError, match="SpreadingClassifier instance is not fitted yet"):
        copy.predict(z)
    assert np.array_equal(copy.fit(z, labels).predict(z), expected)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, math.nan])
def test_an_alpha_that_is_not_between_0_and_1_is_named(alpha):
    with pytest.raises(ValueError, match="alpha"):
        SpreadingClassifier(alpha=alpha).fit(*crowd())


@pytest.mark.parametrize("n_taught", [-1, -5000])
def test_a_negative_number_of_taught_codes_is_named(n_taught):
    with pytest.raises(ValueError, match="n_taught"):
        SpreadingClassifier(n_taught=n_taught).fit(*crowd())


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_negative_or_not_finite_is_named(weight):
    with pytest.raises(ValueError, match="weight"):
        SpreadingClassifier(weight=weight).fit(*crowd())


# A tuned support vector machine


def test_the_unit_of_gamma_is_one_over_the_sum_of_the_variances():
    z = np.random.RandomState(0).randn(50, 4) * np.array([1.0, 2.0, 0.1, 5.0]) + [3, -4, 0, 100]
    total = sum(sum((v - column.mean()) ** 2 for v in column) / 50 for column in z.T)
    search = tuned_svc(z)
    assert search.param_grid["gamma"] == pytest.approx([0.5 / total, 1 / total, 2 / total])
    assert search.param_grid["C"] == [1, 4, 16]


def test_for_codes_around_zero_the_unit_of_gamma_is_what_scikit_learn_calls_scale():
    z = np.random.RandomState(0).randn(50, 4) * np.array([1.0, 2.0, 0.1, 5.0])
    z -= z.mean(0)
    scale = SVC(gamma="scale").fit(z, np.arange(50) % 2)._gamma
    assert tuned_svc(z.astype(np.float32)).param_grid["gamma"][1] == pytest.approx(scale, rel=1e-5)


def test_the_machine_is_tuned_by_five_folds_of_the_labelled_codes():
    z, labels = crowd(60)[0], np.array([2, 5, 7])[np.arange(60) % 3]
    search = tuned_svc(np.vstack((z, 3 * z)))
    search.fit(z, labels)
    assert search.n_splits_ == 5
    results = search.cv_results_
    pairs = [(p["C"], p["gamma"]) for p in results["params"]]
    gammas = search.param_grid["gamma"]
    assert sorted(pairs) == sorted((c, gamma) for c in (1, 4, 16) for gamma in gammas)
    for (c, gamma), found in zip(pairs, results["mean_test_score"], strict=True):
        scores = [
            SVC(C=c, gamma=gamma).fit(z[train], labels[train]).score(z[test], labels[test])
            for train, test in StratifiedKFold(5).split(z, labels)
        ]
        assert found == pytest.approx(np.mean(scores))
    assert search.best_score_ == max(results["mean_test_score"])


# Many draws


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_each_fitted_copy_sees_the_labels_of_its_own_draw_and_nothing_else(convert):
    x, given = np.arange(200.0).reshape(100, 2), Recorder()
    labels = torch.arange(100) % 4
    fits = list(fit_over_draws(given, convert(x), labels, n=20, draws=3))
    assert len({id(fitted) for fitted in fits}) == 3
    assert not hasattr(given, "z_")
    kept = []
    for seed, fitted in enumerate(fits):
        kept.append(np.asarray(fitted.z_)[:, 0] // 2)
        expected = sorted(balanced_subset(labels, 20, seed=seed).tolist())
        assert kept[-1].tolist() == expected
        assert np.array_equal(fitted.labels_, labels[expected].numpy())
        assert np.bincount(fitted.labels_).tolist() == [5] * 4
    assert len({tuple(places) for places in kept}) == 3


def test_semi_supervised_copies_see_all_examples_and_the_labels_of_their_draw():
    x, labels = np.arange(200.0).reshape(100, 2), torch.arange(100) % 4
    for seed, fitted in enumerate(
        fit_over_draws(Recorder(), x, labels, n=20, draws=3, semi_supervised=True)
    ):
        np.testing.assert_array_equal(fitted.z_, x)
        expected = np.full(100, -1)
        kept = balanced_subset(labels, 20, seed=seed)
        expected[kept] = labels[kept]
        assert np.array_equal(fitted.labels_, expected)


def test_there_are_ten_draws_unless_told_otherwise():
    fits = fit_over_draws(Recorder(), np.zeros((30, 2)), torch.arange(30) % 3, n=6)
    assert len({fitted.z_.shape for fitted in fits}) == 1
    assert len(list(fit_over_draws(Recorder(), np.zeros((30, 2)), torch.arange(30) % 3, n=6))) == 10


def test_an_m1_is_fitted_over_draws_of_images(reader):
    (x, labels), (new, _) = examples(90), examples(60, seed=1)
    m1 = M1(vae=reader, units="all")
    for seed, fitted in enumerate(fit_over_draws(m1, x, labels, n=30, draws=2)):
        kept = np.sort(balanced_subset(labels, 30, seed=seed))
        by_hand = SVC().fit(means(x)[kept], labels[kept].numpy())
        assert np.array_equal(fitted.predict(new), by_hand.predict(means(new)))


def test_a_draw_that_cannot_be_is_named_when_the_first_copy_is_asked_for():
    x, labels = np.zeros((30, 2)), torch.arange(30) % 3
    with pytest.raises(ValueError, match="n is 7; expected a positive multiple of the 3 classes"):
        next(fit_over_draws(Recorder(), x, labels, n=7))
    with pytest.raises(
        ValueError, match=r"the labels have the classes \[0, 2, 4\]; expected 0 to 4"
    ):
        next(fit_over_draws(Recorder(), x, 2 * labels, n=6))


# Hidden labels


def permuted(labels: Tensor) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]


SPOILS = {"permuted": permuted, "unknown classes": lambda labels: labels - 1000}


@pytest.fixture
def predictions(monkeypatch):
    """Function that trains, draws and classifies, and may spoil the labels that are hidden.

    They are spoilt in the tensor that holds all labels, at the moment of each draw.
    """
    source = data.load("digits")
    images, new = to_float(source.train.images[:300]), to_float(source.test.images[:100])
    truth = source.train.labels[:300]

    def run(spoil=None, *, fits=fit_over_draws) -> list[np.ndarray]:
        labels = truth.clone()

        def draw(_, n: int, **options) -> Tensor:
            known = draw_labels(truth, n, **options | {"n_classes": 10})
            if spoil is not None:
                labels.copy_(torch.where(known == -1, spoil(truth), truth))
                assert (labels != truth).sum() > 200
            return known

        monkeypatch.setattr(semisupervised, "draw_labels", draw)
        vae = VAE(
            encoder=MLPEncoder(latent_dim=8, hidden=(32,)),
            decoder=MLPDecoder(latent_dim=8, hidden=(32,)),
            likelihood=Bernoulli(grey=True),
        )
        recipe = {"epochs": 10, "evaluate_every": 10, "lr": 0.01, "batch_size": 25, "beta": 0.3}
        fit(vae, images, device="cpu", progress=False, **recipe)
        supervised = M1(vae=vae, classifier=tuned_svc(vae.embed(images).numpy()))
        spreading = SpreadingClassifier(classifier=SVC(C=3), n_taught=150)
        taught = M1(vae=vae, classifier=spreading, semi_supervised=True)
        found = [
            fitted.predict(new)
            for m1 in (supervised, taught)
            for fitted in fits(
                m1, images, labels, n=50, draws=2, semi_supervised=m1.semi_supervised
            )
        ]
        assert len(found) == 4
        return found

    return run


def fits_that_leak(estimator, x, labels, *, n, draws, semi_supervised):
    for seed in range(draws):
        semisupervised.draw_labels(labels, n, seed=seed)
        yield clone(estimator).fit(x, labels)


def test_no_prediction_depends_on_a_hidden_label(predictions):
    honest = predictions()
    truth = data.load("digits").test.labels[:100].numpy()
    assert all(np.mean(found == truth) > 0.4 for found in honest)
    assert len({tuple(found) for found in honest}) == 4
    for name, spoil in SPOILS.items():
        for found, expected in zip(predictions(spoil), honest, strict=True):
            assert np.array_equal(found, expected), name


def test_a_classifier_that_sees_a_hidden_label_would_be_found_out(predictions):
    unspoilt = predictions(fits=fits_that_leak)
    for found, expected in zip(predictions(permuted, fits=fits_that_leak), unspoilt, strict=True):
        assert np.mean(found != expected) > 0.1


def test_what_no_label_reaches_stays_unlabelled_and_teaches_nobody():
    z = np.array([[0.0], [1], [2], [10], [11], [12], [50], [51], [52]])
    labels = np.array([0, -1, -1, 1, -1, -1, -1, -1, -1])
    spreading = SpreadingClassifier(
        classifier=Recorder(), graph=partial(neighbour_graph, neighbours=2)
    ).fit(z, labels)
    assert spreading.transduction_.tolist() == [0] * 3 + [1] * 3 + [-1] * 3
    assert sorted(spreading.classifier_.z_.ravel()) == [0, 1, 2, 10, 11, 12]


def test_as_many_labels_as_examples():
    with pytest.raises(ValueError, match="got 3 labels for 4 examples"):
        next(fit_over_draws(SVC(), np.zeros((4, 2)), torch.tensor([0, 1, 0]), n=2))
