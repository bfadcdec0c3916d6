import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn

from vaelib import (
    VAE,
    Bernoulli,
    MLPDecoder,
    MLPEncoder,
    data,
    m1_comparison,
    recipes,
    semisupervised,
)
from vaelib.corruption import RandomBinarization, RandomWarp
from vaelib.data import Dataset, Split, balanced_subset, to_float
from vaelib.evaluation import evaluate
from vaelib.m1_comparison import (
    accuracies,
    codes_of_parts,
    first_of_each_class,
    m1,
    project_b,
    project_b_repaired,
    spreading_over,
    supervised,
    with_spreading,
    with_svms,
    without_vae,
)
from vaelib.seeding import generator
from vaelib.semisupervised import SpreadingClassifier, draw_labels, neighbour_graph, tuned_svc
from vaelib.training import fit

DRAWS = 2


def small_vae(*, corruption: nn.Module | None = None, seed: int = 0, **_) -> VAE:
    sizes = {"latent_dim": 6, "hidden": (16,), "seed": seed}
    encoder = MLPEncoder(corruption=corruption, **sizes)
    return VAE(encoder=encoder, decoder=MLPDecoder(**sizes), likelihood=Bernoulli(grey=True))


@pytest.fixture
def digits(monkeypatch) -> Dataset:
    """The comparisons of chapter 6 on a few digits: one number of labels, two draws."""
    whole = data.load("digits")
    train = Split(whole.train.images[:500], whole.train.labels[:500])
    test = Split(whole.test.images[:60], whole.test.labels[:60])
    source = replace(whole, train=train, test=test)
    monkeypatch.setattr(data, "load", lambda name: source)
    monkeypatch.setattr(m1_comparison, "NUMBERS_OF_LABELS", (100,))
    monkeypatch.setattr(
        m1_comparison,
        "accuracies",
        lambda *args, **options: accuracies(*args, **{"draws": DRAWS} | options),
    )
    return source


@pytest.fixture
def trainings(monkeypatch) -> list[dict]:
    """Small networks that train for 4 epochs, and a note of what each training was asked for."""
    asked = []

    def brief(vae, images, **options):
        asked.append({"vae": vae, "images": images} | options)
        shorter = {"epochs": 4, "lr": 0.01, "batch_size": 25, "device": "cpu", "progress": False}
        return fit(vae, images, **options | shorter | {"evaluate_every": 4})

    for module in (m1_comparison, m1_comparison.experiments):
        monkeypatch.setattr(module, "fit", brief)
    for name in ("m1_vae", "project_b_vae"):
        monkeypatch.setattr(recipes, name, small_vae)
    return asked


def pixels(split: Split) -> np.ndarray:
    return split.images.flatten(1).numpy().astype(np.float32) / 255


def accuracy_by_hand(classifier, train, test, n: int, seed: int) -> float:
    """Fit to one draw of labels and count."""
    (x, labels), (new, truth) = train, test
    kept = np.sort(balanced_subset(labels, n, seed=seed).numpy())
    predicted = classifier.fit(np.asarray(x)[kept], labels[kept].numpy()).predict(new)
    return sum(int(a == b) for a, b in zip(predicted, truth.tolist(), strict=True)) / len(truth)


def taught_by_hand(train, test, n: int, seed: int) -> float:
    (x, labels), (new, truth) = train, test
    spreading = SpreadingClassifier(classifier=SVC(C=3), alpha=0.95, n_taught=5000, weight=0.1)
    spreading.fit(x, draw_labels(labels, n, seed=seed).numpy())
    return float(np.mean(spreading.predict(new) == truth.numpy()))


def assert_accuracies(numbers: dict, names: list[str], draws: int = DRAWS) -> None:
    """Assert that these, and no others, are lists of accuracies, one for each draw."""
    assert sorted(name for name in numbers if "accuracy" in name) == sorted(names)
    for name in names:
        assert list(numbers[name]) == ["100"]
        assert len(numbers[name]["100"]) == draws
        assert all(type(value) is float and 0 <= value <= 1 for value in numbers[name]["100"])
    json.dumps(numbers, allow_nan=False)


# The parts


def test_the_first_of_each_class_are_found_as_by_a_loop():
    labels = torch.randint(10, (400,), generator=torch.Generator().manual_seed(0))
    for n in (10, 50, 100):
        expected = []
        for k in range(10):
            places = [i for i, label in enumerate(labels.tolist()) if label == k]
            expected += places[: n // 10]
        found = first_of_each_class(labels, n)
        assert found.tolist() == expected
        assert len(found) == n


def test_the_accuracies_are_those_of_each_number_each_draw_and_each_part(monkeypatch):
    monkeypatch.setattr(m1_comparison, "NUMBERS_OF_LABELS", (20, 50))
    source = data.load("digits")
    train = pixels(source.train_part)[:300], source.train_part.labels[:300]
    parts = {
        name: (pixels(split)[:50], split.labels[:50])
        for name, split in (("validation", source.validation), ("test", source.test))
    }
    found = accuracies("_svm", SVC(), train, draws=3, **parts)
    assert found.keys() == {"validation_accuracy_svm", "test_accuracy_svm"}
    for name, part in parts.items():
        expected = {
            str(n): [accuracy_by_hand(SVC(), train, part, n, seed) for seed in range(3)]
            for n in (20, 50)
        }
        assert found[f"{name}_accuracy_svm"] == expected
    assert found["test_accuracy_svm"] != found["validation_accuracy_svm"]
    assert json.loads(json.dumps(found)) == found


def test_there_are_ten_draws_unless_told_otherwise_and_the_numbers_of_labels_are_the_recipe_s():
    labels = torch.arange(5000) % 10
    x = labels.numpy()[:, None].astype(float)
    found = accuracies("", KNeighborsClassifier(1), (x, labels), test=(x[:10], labels[:10]))
    names = [str(n) for n in recipes.NUMBERS_OF_LABELS]
    assert found == {"test_accuracy": {name: [1.0] * 10 for name in names}}


def test_the_codes_are_the_means_of_the_units_that_are_active_on_the_training_images(digits):
    vae = small_vae()
    fit(vae, to_float(digits.train.images), epochs=3, lr=0.01, device="cpu", progress=False)
    last = vae.encoder.layers[-1]
    last.weight.data[[1, 4]] = 0  # two units that no image moves
    found = codes_of_parts(vae, digits)
    active = np.var(vae.embed(to_float(digits.train_part.images)).numpy(), axis=0, ddof=1) > 0.01
    assert active[[1, 4]].tolist() == [False, False]
    assert active.sum() > 1
    parts = digits.train_part, digits.validation, digits.test
    for (z, labels), part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(z, vae.embed(to_float(part.images)).numpy()[:, active])
        assert torch.equal(labels, part.labels)


def test_the_classifier_of_the_chapter_spreads_over_the_graph_that_is_made_once():
    z = np.random.RandomState(0).randn(60, 2)
    graph = neighbour_graph(z, neighbours=4)
    spreading = spreading_over(graph)
    assert spreading.graph(z[:3]) is graph
    assert isinstance(spreading, SpreadingClassifier)
    options = spreading.get_params(deep=False)
    assert options["classifier"].C == 3
    defaults = SpreadingClassifier().get_params(deep=False)
    for name in ("alpha", "n_taught", "weight", "seed"):
        assert options[name] == defaults[name]


# The runs


@pytest.fixture
def trained(digits) -> VAE:
    vae = small_vae()
    recipe = {"epochs": 4, "lr": 0.01, "batch_size": 25, "device": "cpu", "progress": False}
    fit(vae, to_float(digits.train_part.images), **recipe)
    return vae


def test_a_vae_is_judged_by_machines_on_its_codes(digits, trained):
    numbers = with_svms(trained, digits)
    names = [
        f"{part}_accuracy{tuned}" for part in ("validation", "test") for tuned in ("", "_tuned")
    ]
    assert_accuracies(numbers, names)
    train, validation, test = codes_of_parts(trained, digits)
    for name, part in (("validation", validation), ("test", test)):
        for seed in range(DRAWS):
            expected = accuracy_by_hand(SVC(), train, part, 100, seed)
            assert numbers[f"{name}_accuracy"]["100"][seed] == expected
    expected = accuracy_by_hand(tuned_svc(train[0]), train, test, 100, 1)
    assert numbers["test_accuracy_tuned"]["100"][1] == expected


def test_a_vae_is_judged_by_a_machine_that_a_graph_has_taught(digits, trained):
    numbers = with_spreading(trained, digits)
    assert_accuracies(numbers, ["validation_accuracy_taught", "test_accuracy_taught"])
    train, validation, test = codes_of_parts(trained, digits)
    for name, part in (("validation", validation), ("test", test)):
        expected = [taught_by_hand(train, part, 100, seed) for seed in range(DRAWS)]
        assert numbers[f"{name}_accuracy_taught"]["100"] == expected


@pytest.fixture
def judges(monkeypatch) -> list[tuple]:
    """A note of who was judged, in place of the judgements."""
    judged = []
    for name in ("with_svms", "with_spreading"):

        def judge(vae, source, name=name):
            judged.append((name, vae, source))
            return {name: 0.25}

        monkeypatch.setattr(m1_comparison, name, judge)
    return judged


def flip(x, rng):
    return x.flip(-1)


@pytest.mark.parametrize("spreading", [True, False])
def test_the_network_of_the_chapter_is_trained_without_labels_and_judged(
    digits, trainings, judges, spreading
):
    warp = RandomWarp(turn=5, stretch=0, slant=0, shift=1, bend=0)
    options = {"corruption": warp, "augment": flip, "beta": 0.2, "spreading": spreading}
    vae, numbers = m1(3, dataset="digits", **options)
    (asked,) = trainings
    assert asked["vae"] is vae
    assert vae.encoder.corruption is warp
    assert torch.equal(asked["images"], to_float(digits.train_part.images))
    assert "labels" not in asked
    assert "objective" not in asked
    assert (asked["seed"], asked["beta"], asked["augment"]) == (3, 0.2, flip)
    recipe = recipes.m1_training()
    for name in ("epochs", "batch_size", "weight_decay", "precision"):
        assert asked[name] == recipe[name]
    assert asked["lr"](0.3) == recipe["lr"](0.3)
    names = ["with_svms", "with_spreading"][: 1 + spreading]
    assert judges == [(name, vae, digits) for name in names]
    assert {name: numbers[name] for name in names} == dict.fromkeys(names, 0.25)
    assert numbers["parameters"] == 785 * 16 + 17 * 12 + 7 * 16 + 17 * 784
    on_test = evaluate(vae, to_float(digits.test.images))
    assert numbers["test_negative_elbo"] == on_test.negative_elbo
    json.dumps(numbers, allow_nan=False)


def test_by_default_the_network_of_the_chapter_sees_whole_images_and_spreads(
    digits, trainings, judges
):
    vae, _ = m1(0, dataset="digits", epochs=7)
    assert isinstance(vae.encoder.corruption, nn.Identity)
    assert trainings[0]["beta"] == recipes.m1_training()["beta"]
    assert trainings[0]["augment"] is None
    assert trainings[0]["epochs"] == 7
    assert [name for name, *_ in judges] == ["with_svms", "with_spreading"]


def test_project_b_is_judged_by_codes_drawn_once_and_by_means(digits, trainings):
    vae, numbers = project_b(2, beta=0.3)
    drawn = [f"test_accuracy_{code}" for code in ("sample", "mean")]
    first = [f"{name}_of_first" for name in drawn]
    assert_accuracies({k: v for k, v in numbers.items() if k not in first}, drawn)
    json.dumps(numbers, allow_nan=False)
    assert trainings[0]["beta"] == 0.3
    test = to_float(digits.test.images)
    x, labels = to_float(digits.train.images), digits.train.labels
    q, new = vae.encode(x), vae.encode(test)
    kept = np.concatenate([np.flatnonzero(labels.numpy() == k)[:10] for k in range(10)])
    q, new = ((part.mu.detach(), part.stddev.detach()) for part in (q, new))
    noise = [
        torch.randn(n, 6, generator=generator(2, f"{stream} codes"))
        for n, stream in ((100, "labelled"), (60, "new"))
    ]
    codes = {
        "mean": (q[0][kept], new[0]),
        "sample": (q[0][kept] + q[1][kept] * noise[0], new[0] + new[1] * noise[1]),
    }
    for code, (z, z_new) in codes.items():
        predicted = SVC().fit(z.numpy(), labels[kept].numpy()).predict(z_new.numpy())
        expected = float(np.mean(predicted == digits.test.labels.numpy()))
        assert numbers[f"test_accuracy_{code}_of_first"] == {"100": pytest.approx(expected)}
    part = digits.train_part
    train = vae.embed(to_float(part.images)).numpy(), part.labels
    expected = [
        accuracy_by_hand(SVC(), train, (new[0].numpy(), digits.test.labels), 100, seed)
        for seed in range(DRAWS)
    ]
    assert numbers["test_accuracy_mean"]["100"] == pytest.approx(expected)
    assert numbers["test_accuracy_sample"] != numbers["test_accuracy_mean"]
    size = math.sqrt(np.mean(np.var(new[0].numpy(), axis=0)))
    assert numbers["test_size_of_means"] == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize("decay", [True, False])
def test_the_network_of_project_b_is_repaired_with_and_without_its_decay(
    digits, trainings, judges, monkeypatch, decay
):
    built = []

    def build(**options):
        built.append(options)
        return small_vae(seed=options["seed"])

    monkeypatch.setattr(recipes, "project_b_vae", build)
    vae, numbers = project_b_repaired(1, beta=0.2, decay=decay)
    assert built == [{"scale": "exp", "seed": 1}]
    (asked,) = trainings
    assert asked["vae"] is vae
    assert torch.equal(asked["images"], to_float(digits.train_part.images))
    assert (asked["seed"], asked["beta"], asked["epochs"]) == (1, 0.2, 25)
    assert (asked["batch_size"], asked["lr"]) == (128, 1e-3)
    assert asked.get("objective") == (recipes.project_b_objective if decay else None)
    assert judges == [("with_svms", vae, digits)]
    assert numbers["with_svms"] == 0.25
    json.dumps(numbers, allow_nan=False)


def test_without_a_vae_pixels_and_components_are_judged(digits, monkeypatch):
    seen = []
    monkeypatch.setattr(m1_comparison, "tuned_svc", lambda z: seen.append(z.shape) or tuned_svc(z))
    model, numbers = without_vae(0, dataset="digits")
    assert sorted(seen) == [(300, 50), (300, 784)]  # on digits 50 components have all the variance
    assert model is None
    kinds = ("pixels_svm", "pixels_neighbours", "pca_svm", "pca_taught")
    assert_accuracies(numbers, [f"test_accuracy_{kind}" for kind in kinds])
    assert numbers["provenance"]["wall_time_s"] == round(numbers["seconds"], 1)
    train, test = ((pixels(part), part.labels) for part in (digits.train_part, digits.test))
    neighbours = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 9]}, cv=5)
    expected = [accuracy_by_hand(neighbours, train, test, 100, seed) for seed in range(DRAWS)]
    assert numbers["test_accuracy_pixels_neighbours"]["100"] == expected
    expected = accuracy_by_hand(tuned_svc(train[0]), train, test, 100, 0)
    assert numbers["test_accuracy_pixels_svm"]["100"][0] == expected
    pca = PCA(50, svd_solver="full").fit(train[0].astype(np.float64))
    parts = [(pca.transform(x), labels) for x, labels in (train, test)]
    expected = accuracy_by_hand(tuned_svc(parts[0][0]), *parts, 100, 1)
    assert numbers["test_accuracy_pca_svm"]["100"][1] == pytest.approx(expected, abs=1.5 / 60)
    expected = taught_by_hand(*parts, 100, 0)
    assert numbers["test_accuracy_pca_taught"]["100"][0] == pytest.approx(expected, abs=1.5 / 60)


def test_the_encoder_alone_is_trained_on_the_labelled_images_alone(digits, trainings):
    model, numbers = supervised(3, dataset="digits", corruption=RandomBinarization())
    assert model is None
    assert_accuracies(numbers, ["test_accuracy"], draws=5)
    assert numbers["provenance"]["wall_time_s"] == round(numbers["seconds"], 1)
    train, test = digits.train_part, digits.test
    x, labels = to_float(train.images), train.labels
    for draw, asked in enumerate(trainings):
        vae, kept = asked["vae"], balanced_subset(labels, 100, seed=draw)
        assert torch.equal(asked["images"], x[kept])
        assert torch.equal(asked["labels"], labels[kept])
        assert isinstance(vae.encoder.corruption, RandomBinarization)
        assert asked["seed"] == 3 + draw
        assert 600 <= asked["epochs"] * math.ceil(100 / asked["batch_size"]) < 650
        # The decoder learned nothing; the encoder and the head did.
        untouched = small_vae(seed=3 + draw)
        assert torch.equal(vae.decoder.layers[0].bias, untouched.decoder.layers[0].bias)
        assert not torch.equal(vae.encoder.layers[0].bias, untouched.encoder.layers[0].bias)
        (head,) = vae.classifier
        assert head.bias.abs().max() > 0
        scores = vae.embed(to_float(test.images)) @ head.weight.T + head.bias
        expected = (scores.argmax(1) == test.labels).double().mean().item()
        assert numbers["test_accuracy"]["100"][draw] == pytest.approx(expected)
    assert min(numbers["test_accuracy"]["100"]) > 0.2


def test_no_accuracy_depends_on_a_label_that_was_not_drawn(digits, trainings, monkeypatch):
    _, honest = m1(0, dataset="digits")
    labels = digits.train_part.labels
    truth = labels.clone()

    def draw(_, n, **options):
        known = draw_labels(truth, n, **options)
        labels.copy_(torch.where(known == -1, 9 - truth, truth))
        return known

    monkeypatch.setattr(semisupervised, "draw_labels", draw)
    labels.copy_(9 - truth)
    _, spoilt = m1(0, dataset="digits")
    assert (labels != truth).sum() >= 200
    kinds = ("", "_tuned", "_taught")
    names = [f"{part}_accuracy{kind}" for part in ("validation", "test") for kind in kinds]
    assert_accuracies(spoilt, names)
    assert {name: spoilt[name] for name in names} == {name: honest[name] for name in names}
