import inspect
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sizes import conv_parameters, mlp_parameters
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn

from vaelib import VAE, Bernoulli, MLPDecoder, MLPEncoder, data, semisupervised
from vaelib.corruption import RandomBinarization, RandomWarp
from vaelib.course import lesson_2, lesson_6, protocols
from vaelib.course.lesson_6 import (
    accuracies,
    classify_without_vae,
    codes_of_parts,
    first_of_each_class,
    spreading_over,
    train_and_classify_project_b,
    train_m1,
    train_on_swapped_sets,
    train_project_b_repaired,
    train_supervised,
    with_spreading,
    with_svms,
)
from vaelib.data import Dataset, Split, balanced_subset, to_float
from vaelib.evaluation import active_units, evaluate
from vaelib.networks import count_parameters
from vaelib.seeding import generator
from vaelib.semisupervised import SpreadingClassifier, draw_labels, neighbour_graph, tuned_svc
from vaelib.training import fit

DRAWS = 2
BRIEF = {
    "epochs": 4,
    "lr": 0.01,
    "batch_size": 25,
    "device": "cpu",
    "evaluate_every": 4,
    "progress": False,
}


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
    monkeypatch.setattr(lesson_6, "NUMBERS_OF_LABELS", (100,))
    monkeypatch.setattr(
        lesson_6,
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
        return fit(vae, images, **options | BRIEF)

    for module in (lesson_6, protocols):
        monkeypatch.setattr(module, "fit", brief)
    for module, name in (
        (lesson_6, "m1_vae"),
        (lesson_6, "project_b_vae"),
        (lesson_2, "project_b_vae"),
    ):
        monkeypatch.setattr(module, name, small_vae)
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


def sampled_by_hand(vae: VAE, images: torch.Tensor, seed: int, stream: str) -> np.ndarray:
    """Sample the codes in all units."""
    q = vae.encode(images)
    noise = torch.randn(len(images), vae.latent_dim, generator=generator(seed, f"{stream} codes"))
    return (q.mu + q.stddev * noise).detach().numpy()


def first_by_hand(labels: torch.Tensor) -> np.ndarray:
    """Find the first ten examples of each class."""
    return np.concatenate([np.flatnonzero(labels.numpy() == k)[:10] for k in range(10)])


def assert_accuracies(
    numbers: dict, names: list[str], *, first: list[str] | None = None, draws: int = DRAWS
) -> None:
    """Assert that these, and no others, are lists of accuracies, one for each draw.

    Those of the ``first`` of each class are numbers.
    """
    first = first or []
    assert sorted(name for name in numbers if "accuracy" in name) == sorted(names + first)
    for name in names + first:
        assert list(numbers[name]) == ["100"]
    for name in first:
        assert type(numbers[name]["100"]) is float
        assert 0 <= numbers[name]["100"] <= 1
    for name in names:
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
    monkeypatch.setattr(lesson_6, "NUMBERS_OF_LABELS", (20, 50))
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
    names = [str(n) for n in lesson_6.NUMBERS_OF_LABELS]
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
    fit(vae, to_float(digits.train_part.images), **BRIEF)
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

        monkeypatch.setattr(lesson_6, name, judge)
    return judged


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(-1)


@pytest.mark.parametrize("warped", ["input", "image", None])
def test_the_network_of_the_chapter_is_trained_without_labels_and_judged(
    digits, trainings, judges, warped
):
    vae, numbers = train_m1(3, dataset="digits", warped=warped)
    (asked,) = trainings
    assert asked["vae"] is vae
    assert type(vae.encoder.corruption) is (RandomWarp if warped == "input" else nn.Identity)
    assert torch.equal(asked["images"], to_float(digits.train_part.images))
    assert "labels" not in asked
    assert "objective" not in asked
    assert (asked.get("augment") is not None) == (warped == "image")
    assert asked["seed"] == 3
    recipe = lesson_6.m1_training()
    for name in ("epochs", "batch_size", "beta", "weight_decay", "precision"):
        assert asked[name] == recipe[name]
    assert asked["lr"](0.3) == recipe["lr"](0.3)
    names = ["with_svms", "with_spreading"]
    assert judges == [(name, vae, digits) for name in names]
    assert {name: numbers[name] for name in names} == dict.fromkeys(names, 0.25)
    assert numbers["parameters"] == 785 * 16 + 17 * 12 + 7 * 16 + 17 * 784
    on_test = evaluate(vae, to_float(digits.test.images))
    assert numbers["test_negative_elbo"] == on_test.negative_elbo
    json.dumps(numbers, allow_nan=False)


def test_by_default_the_encoder_sees_images_that_are_warped_as_their_data_set_bears(
    digits, trainings, judges
):
    vae, _ = train_m1(0, dataset="fashion-mnist")
    found, expected = vae.encoder.corruption, lesson_6.m1_warp("fashion-mnist")
    assert isinstance(found, RandomWarp)
    for name in ("turn", "stretch", "slant", "shift", "bend"):
        assert getattr(found, name) == getattr(expected, name)
    assert trainings[0].get("augment") is None
    assert [name for name, *_ in judges] == ["with_svms", "with_spreading"]


def test_the_images_themselves_are_warped_by_the_warp_of_their_data_set(digits, trainings, judges):
    train_m1(0, dataset="fashion-mnist", warped="image")
    x, augment = trainings[0]["images"][:20], trainings[0]["augment"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        seen = augment(x, torch.Generator())
        torch.manual_seed(1)
        assert torch.equal(seen, lesson_6.m1_warp("fashion-mnist")(x))
        assert not torch.equal(seen, augment(x, torch.Generator()))  # new at every step
    assert not torch.equal(seen, x)


@pytest.mark.parametrize("warped", ["input", "image"])
def test_the_decoder_has_to_match_the_warped_image_or_the_image_as_it_was(
    digits, trainings, judges, monkeypatch, warped
):
    monkeypatch.setattr(lesson_6, "m1_warp", lambda dataset: {"digits": Flip()}[dataset])
    vae, _ = train_m1(2, dataset="digits", warped=warped)
    x = to_float(digits.train_part.images)
    expected = small_vae(corruption=Flip() if warped == "input" else None, seed=2)
    target = x.flip(-1) if warped == "image" else x
    fit(expected, target, seed=2, **lesson_6.m1_training() | BRIEF)
    for name, value in expected.state_dict().items():
        assert torch.equal(vae.state_dict()[name], value)


def test_project_b_is_judged_by_codes_drawn_once_and_by_means(digits, trainings):
    vae, numbers = train_and_classify_project_b(2, beta=0.3)
    drawn = [f"test_accuracy_{code}" for code in ("sample", "mean")]
    first = [f"{name}_of_first" for name in drawn]
    assert_accuracies(numbers, [*drawn, "test_accuracy_mean_tuned"], first=first)
    assert trainings[0]["beta"] == 0.3
    test, truth = to_float(digits.test.images), digits.test.labels
    kept = first_by_hand(digits.train.labels)
    x, labels = to_float(digits.train.images)[kept], digits.train.labels[kept]
    new = vae.embed(test).numpy()
    codes = {
        "mean": (vae.embed(x).numpy(), new),
        "sample": [
            sampled_by_hand(vae, part, 2, stream)
            for part, stream in ((x, "labelled"), (test, "new"))
        ],
    }
    for code, (z, z_new) in codes.items():
        predicted = SVC().fit(z, labels.numpy()).predict(z_new)
        expected = float(np.mean(predicted == truth.numpy()))
        assert numbers[f"test_accuracy_{code}_of_first"] == {"100": pytest.approx(expected)}
    part = digits.train_part
    train = vae.embed(to_float(part.images)).numpy(), part.labels
    expected = [accuracy_by_hand(SVC(), train, (new, truth), 100, seed) for seed in range(DRAWS)]
    assert numbers["test_accuracy_mean"]["100"] == pytest.approx(expected)
    expected = accuracy_by_hand(tuned_svc(train[0]), train, (new, truth), 100, 1)
    assert numbers["test_accuracy_mean_tuned"]["100"][1] == pytest.approx(expected)
    assert numbers["test_accuracy_sample"] != numbers["test_accuracy_mean"]
    size = math.sqrt(np.mean(np.var(new, axis=0)))
    assert numbers["test_size_of_means"] == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize("decay", [True, False])
def test_the_network_of_project_b_is_repaired_with_and_without_its_decay(
    digits, trainings, judges, monkeypatch, decay
):
    built = []

    def build(**options):
        built.append(options)
        return small_vae(seed=options["seed"])

    monkeypatch.setattr(lesson_6, "project_b_vae", build)
    vae, numbers = train_project_b_repaired(1, beta=0.2, decay=decay)
    assert built == [{"scale": "exp", "seed": 1}]
    (asked,) = trainings
    assert asked["vae"] is vae
    assert torch.equal(asked["images"], to_float(digits.train_part.images))
    assert (asked["seed"], asked["beta"], asked["epochs"]) == (1, 0.2, 25)
    assert (asked["batch_size"], asked["lr"]) == (128, 1e-3)
    assert asked.get("objective") == (lesson_2.project_b_objective if decay else None)
    assert judges == [("with_svms", vae, digits)]
    assert numbers["with_svms"] == 0.25
    assert_accuracies(numbers, ["test_accuracy_sample"])


def test_the_sampled_codes_of_the_repaired_network_are_judged_in_all_units(
    digits, trainings, judges
):
    vae, numbers = train_project_b_repaired(1, beta=3.0)
    part, test = digits.train_part, digits.test
    x, labels = to_float(part.images), part.labels
    assert 0 < active_units(vae, x).sum() < vae.latent_dim
    new = sampled_by_hand(vae, to_float(test.images), 1, "new")
    expected = []
    for seed in range(DRAWS):
        kept = balanced_subset(labels, 100, seed=seed).sort().values
        z = sampled_by_hand(vae, x[kept], 1, "labelled")
        predicted = SVC().fit(z, labels[kept].numpy()).predict(new)
        expected.append(float(np.mean(predicted == test.labels.numpy())))
    assert numbers["test_accuracy_sample"]["100"] == pytest.approx(expected)


def test_without_a_vae_pixels_and_components_are_judged(digits, monkeypatch):
    seen = []
    monkeypatch.setattr(lesson_6, "tuned_svc", lambda z: seen.append(z.shape) or tuned_svc(z))
    model, numbers = classify_without_vae(0, dataset="digits")
    assert sorted(seen) == [(300, 50), (300, 784)]  # on digits 50 components have all the variance
    assert model is None
    kinds = ("pixels_svc", "pixels_svm", "pixels_neighbours", "pca_svm", "pca_taught")
    names = [f"test_accuracy_{kind}" for kind in kinds]
    assert_accuracies(numbers, names, first=["test_accuracy_pixels_svc_of_first"])
    assert numbers["provenance"]["wall_time_s"] == round(numbers["seconds"], 1)
    train, test = ((pixels(part), part.labels) for part in (digits.train_part, digits.test))
    neighbours = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 9]}, cv=5)
    for name, machine in (("svc", SVC()), ("neighbours", neighbours)):
        expected = [accuracy_by_hand(machine, train, test, 100, seed) for seed in range(DRAWS)]
        assert numbers[f"test_accuracy_pixels_{name}"]["100"] == expected
    everything = pixels(digits.train), digits.train.labels
    kept = first_by_hand(everything[1])
    predicted = SVC().fit(everything[0][kept], everything[1][kept].numpy()).predict(test[0])
    expected = float(np.mean(predicted == test[1].numpy()))
    assert numbers["test_accuracy_pixels_svc_of_first"] == {"100": expected}
    expected = accuracy_by_hand(tuned_svc(train[0]), train, test, 100, 0)
    assert numbers["test_accuracy_pixels_svm"]["100"][0] == expected
    pca = PCA(50, svd_solver="full").fit(train[0].astype(np.float64))
    parts = [(pca.transform(x), labels) for x, labels in (train, test)]
    expected = accuracy_by_hand(tuned_svc(parts[0][0]), *parts, 100, 1)
    assert numbers["test_accuracy_pca_svm"]["100"][1] == pytest.approx(expected, abs=1.5 / 60)
    expected = taught_by_hand(*parts, 100, 0)
    assert numbers["test_accuracy_pca_taught"]["100"][0] == pytest.approx(expected, abs=1.5 / 60)


def test_the_encoder_alone_is_trained_on_the_labelled_images_alone(digits, trainings):
    model, numbers = train_supervised(3, dataset="digits", corruption=RandomBinarization())
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


@pytest.fixture
def taught(digits, monkeypatch) -> list[tuple]:
    """A note of the images and labels that each machine of the error on trial was taught."""
    noted = []

    class Noted(lesson_6.M1):
        def fit(self, images, labels):
            noted.append((images, labels))
            return super().fit(images, labels)

    monkeypatch.setattr(lesson_6, "M1", Noted)
    monkeypatch.setattr(lesson_6, "NUMBERS_OF_LABELS", (20, 100))
    monkeypatch.setattr(data, "load", lambda name: {"fashion-mnist": digits}[name])
    return noted


def swapped_vae(seed: int) -> VAE:
    sizes = {"latent_dim": 50, "hidden": (500,), "seed": seed}
    encoder, decoder = MLPEncoder(**sizes), MLPDecoder(**sizes)
    return VAE(encoder=encoder, decoder=decoder, likelihood=Bernoulli(grey=True))


@pytest.mark.parametrize("is_trained", [True, False])
def test_swapped_the_labelled_images_train_the_vae_and_all_other_labels_the_machine(
    digits, trainings, taught, is_trained
):
    last, numbers = train_on_swapped_sets(3, trained=is_trained)
    assert list(numbers["test_accuracy"]) == ["20", "100"]
    assert numbers["provenance"]["wall_time_s"] == round(numbers["seconds"], 1)
    json.dumps(numbers, allow_nan=False)
    assert len(trainings) == (2 if is_trained else 0)
    x, labels = to_float(digits.train.images), digits.train.labels
    for i, n in enumerate((20, 100)):
        kept = sorted(balanced_subset(labels, n, seed=3).tolist())
        others = sorted(set(range(500)) - set(kept))
        assert labels[kept].bincount().tolist() == [n // 10] * 10
        vae = swapped_vae(3)  # new for each number of labels
        if is_trained:
            asked = trainings[i]
            assert torch.equal(asked["images"], x[kept])
            assert (asked["epochs"], asked["seed"]) == (100, 3)
            # All else is as it comes.
            assert asked.keys() <= {*BRIEF, "vae", "images", "seed"} - {"lr", "batch_size"}
            fit(vae, x[kept], seed=3, **BRIEF)
            for name, value in vae.state_dict().items():
                assert torch.equal(asked["vae"].state_dict()[name], value)
        images, seen = taught[i]
        assert torch.equal(images, x[others])
        assert torch.equal(seen, labels[others])
        machine = SVC().fit(vae.embed(x[others]).numpy(), labels[others].numpy())
        predicted = machine.predict(vae.embed(to_float(digits.test.images)).numpy())
        expected = float(np.mean(predicted == digits.test.labels.numpy()))
        assert type(numbers["test_accuracy"][str(n)]) is float
        assert numbers["test_accuracy"][str(n)] == pytest.approx(expected)
    assert len(taught) == 2
    for name, value in vae.state_dict().items():
        assert torch.equal(last.state_dict()[name], value)


def test_no_accuracy_depends_on_a_label_that_was_not_drawn(digits, trainings, monkeypatch):
    _, honest = train_m1(0, dataset="digits", warped=None)
    labels = digits.train_part.labels
    truth = labels.clone()

    def draw(_, n, **options):
        known = draw_labels(truth, n, **options)
        labels.copy_(torch.where(known == -1, 9 - truth, truth))
        return known

    monkeypatch.setattr(semisupervised, "draw_labels", draw)
    labels.copy_(9 - truth)
    _, spoilt = train_m1(0, dataset="digits", warped=None)
    assert (labels != truth).sum() >= 200
    kinds = ("", "_tuned", "_taught")
    names = [f"{part}_accuracy{kind}" for part in ("validation", "test") for kind in kinds]
    assert_accuracies(spoilt, names)
    assert {name: spoilt[name] for name in names} == {name: honest[name] for name in names}


def test_what_is_warped_has_a_name():
    with pytest.raises(ValueError, match="warped is 'imgae'; expected 'input', 'image' or None"):
        train_m1(0, dataset="digits", warped="imgae")


# The network


def test_the_numbers_of_labels_are_multiples_of_ten_classes_that_rise():
    numbers = list(lesson_6.NUMBERS_OF_LABELS)
    assert numbers == sorted(set(numbers))
    assert all(n > 0 and n % 10 == 0 for n in numbers)
    # Table 1 of Kingma et al. (2014).
    assert numbers == [100, 600, 1000, 3000]


def test_the_network_of_chapter_6_has_convolutions_in_and_a_perceptron_out():
    vae = lesson_6.m1_vae(seed=3)
    encoder = conv_parameters([1, 16, 32]) + mlp_parameters([32 * 49, 256, 2 * 50])
    decoder = mlp_parameters([50, 500, 500, 784])
    assert count_parameters(vae) == encoder + decoder == 1_100_948
    assert vae.latent_dim == 50
    assert isinstance(vae.encoder.corruption, nn.Identity)
    nn.init.constant_(vae.encoder.layers[-1].bias, 1000.0)
    assert vae.encode(torch.rand(3, 784)).logvar.eq(2).all()
    vae.likelihood.check(torch.tensor([0.0, 0.5, 1.0]))


def test_the_network_of_chapter_6_takes_a_corruption_and_no_other_weights():
    warp = lesson_6.m1_warp("mnist")
    warped, plain = lesson_6.m1_vae(corruption=warp, seed=3), lesson_6.m1_vae(seed=3)
    assert warped.encoder.corruption is warp
    for name, value in plain.state_dict().items():
        assert torch.equal(warped.state_dict()[name], value)


@pytest.mark.parametrize(
    ("dataset", "degrees", "factor", "slant", "shift", "bend"),
    [
        ("mnist", 15, 0.1, 0.2, 2, 1),
        ("digits", 15, 0.1, 0.2, 2, 1),
        ("fashion-mnist", 3, 0.05, 0.05, 1, 0.5),
    ],
)
def test_digits_are_warped_more_than_clothes(dataset, degrees, factor, slant, shift, bend):
    warp = lesson_6.m1_warp(dataset)
    assert isinstance(warp, RandomWarp)
    assert math.degrees(warp.turn) == pytest.approx(degrees)
    assert (warp.stretch, warp.slant, warp.shift, warp.bend) == (factor, slant, shift, bend)


@pytest.mark.parametrize(
    ("profile", "epochs", "batch_size", "precision"),
    [("full", 20, 128, "auto"), ("quick", 20, 64, "float32")],
)
def test_the_network_of_chapter_6_is_trained_as_its_profile_says(
    profile, epochs, batch_size, precision
):
    recipe = lesson_6.m1_training(profile)
    assert recipe.keys() <= inspect.signature(fit).parameters.keys()
    assert (recipe["epochs"], recipe["batch_size"]) == (epochs, batch_size)
    assert (recipe["beta"], recipe["weight_decay"]) == (0.1, 0.01)
    assert recipe["precision"] == precision
    assert [recipe["lr"](p) for p in (0, 0.05, 0.1)] == [0, 0.002, 0.004]
    assert recipe["lr"](1.0) < 1e-12
    assert lesson_6.m1_training()["epochs"] == 20
