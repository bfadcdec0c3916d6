import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vaelib import ConvEncoder, data
from vaelib.course import (
    case_e,
    lesson_1,
    lesson_3,
    lesson_4,
    lesson_5,
    lesson_6,
    lesson_7,
    store,
)
from vaelib.course.chapters import CHAPTERS
from vaelib.course.store import LongRun, LongRuns, write_weights

DECLARED = [(runs, run) for runs in CHAPTERS for run in runs]


@pytest.fixture(autouse=True)
def scored(monkeypatch) -> list[tuple]:
    """A note of what was scored, in place of the scores."""
    noted = []

    def score(model: nn.Module, dataset: str, *, binary: bool = False) -> dict[str, int]:
        noted.append((model, dataset, binary))
        return {"place": len(noted)}

    monkeypatch.setattr(store, "score", score)
    return noted


@pytest.fixture
def trained() -> list[int]:
    """The seeds that were trained."""
    return []


@pytest.fixture
def runs(trained, tmp_path) -> LongRuns:
    """A long run of four seeds, whose third is interrupted."""

    def train(seed: int) -> tuple[nn.Module, dict[str, float]]:
        trained.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return nn.Linear(1, 1), {"value": 10.0 * seed}

    return LongRuns("chapter", [LongRun("run", train, seeds=(0, 1, 2, 3))], folder=tmp_path)


def stored(folder: Path, name: str = "run") -> list[dict]:
    path = folder / "long_runs" / "chapter" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_an_interrupted_run_keeps_its_seeds_and_goes_on_from_there(runs, trained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        runs.publish("run")
    assert stored(tmp_path) == [{"seed": 0, "value": 0.0}, {"seed": 1, "value": 10.0}]
    assert runs.published("run") == {entry["seed"]: entry for entry in stored(tmp_path)}
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        runs.publish("run")
    assert trained == [2]


def test_published_numbers_are_read_and_not_trained(runs, trained, tmp_path):
    numbers = [{"seed": seed, "value": 1.5} for seed in range(4)]
    (tmp_path / "long_runs" / "chapter").mkdir(parents=True)
    (tmp_path / "long_runs" / "chapter" / "run.json").write_text(json.dumps(numbers))
    assert runs.load("run") == numbers
    assert trained == []


def test_missing_seeds_are_named(runs):
    assert runs.published("run") == {}
    with pytest.raises(
        FileNotFoundError, match=r"'run' are not published for seeds \[0, 1, 2, 3\]"
    ):
        runs.load("run")


def test_retrain_trains_and_leaves_the_published_numbers_alone(tmp_path):
    run = LongRun(
        "run",
        lambda seed: (nn.Linear(1, 1), {"value": 2.0 * seed}),
        seeds=(3, 4),
        keeps_weights=True,
    )
    runs = LongRuns("chapter", [run], folder=tmp_path)
    expected = [{"seed": 3, "value": 6.0}, {"seed": 4, "value": 8.0}]
    assert runs.load("run", retrain=True) == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["load", "published", "publish", "weights"])
def test_an_unknown_run_is_named(runs, method):
    with pytest.raises(ValueError, match="chapter has no long run called 'x'; expected one of run"):
        getattr(runs, method)("x")


def test_the_runs_are_in_the_order_in_which_they_are_declared(tmp_path):
    declared = [LongRun(name, network) for name in "zxy"]
    assert list(LongRuns("chapter", declared, folder=tmp_path)) == declared


def test_two_runs_of_one_name_are_refused():
    with pytest.raises(ValueError, match="chapter declares two long runs of one name"):
        LongRuns("chapter", [LongRun("run", network), LongRun("run", network, seeds=(1,))])


# Weights


def network(seed: int) -> nn.Module:
    """A network whose kernels lie in memory in an order of their own."""
    return ConvEncoder(latent_dim=2, channels=(3, 4), seed=seed)


@pytest.fixture
def keeping(trained, tmp_path) -> LongRuns:
    """Two long runs of seeds 5, 1 and 7; ``kept`` publishes weights, ``plain`` does not."""

    def train(seed: int) -> tuple[nn.Module, dict[str, float]]:
        trained.append(seed)
        return network(seed), {"value": 10.0 * seed}

    kept = LongRun("kept", train, seeds=(5, 1, 7), keeps_weights=True)
    return LongRuns("chapter", [kept, LongRun("plain", train, seeds=(5, 1, 7))], folder=tmp_path)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "long_runs" / "chapter").iterdir())


def test_the_weights_of_the_first_seed_are_read_back_as_they_were(keeping, trained, tmp_path):
    keeping.publish("kept")
    assert trained == [5, 1, 7]
    assert files(tmp_path) == ["kept.json", "kept.safetensors"]
    assert keeping.load("kept") == [{"seed": seed, "value": 10.0 * seed} for seed in (5, 1, 7)]
    read, truth = keeping.weights("kept"), network(5).state_dict()
    assert read.keys() == truth.keys()
    assert all(torch.equal(read[name], value) for name, value in truth.items())
    model, x = network(0), torch.rand(3, 1, 28, 28)
    model.load_state_dict(read)
    torch.testing.assert_close(model(x), network(5)(x))


def test_a_run_that_keeps_no_weights_writes_none_and_has_none(keeping, tmp_path):
    keeping.publish("plain")
    assert files(tmp_path) == ["plain.json"]
    with pytest.raises(ValueError, match="'plain' publishes numbers, but no weights"):
        keeping.weights("plain")


def test_seeds_that_are_published_leave_the_weights_alone(keeping, trained, tmp_path):
    keeping.publish("kept")
    path = tmp_path / "long_runs" / "chapter" / "kept.json"
    path.write_text(json.dumps([{"seed": 5, "value": 0.5}]))
    path.with_suffix(".safetensors").write_bytes(b"published before")
    trained.clear()
    keeping.publish("kept")
    assert trained == [1, 7]
    assert path.with_suffix(".safetensors").read_bytes() == b"published before"


def test_training_all_seeds_again_replaces_the_weights(keeping, trained, tmp_path):
    keeping.publish("kept")
    path = tmp_path / "long_runs" / "chapter" / "kept.safetensors"
    path.write_bytes(b"published before")
    keeping.publish("kept", retrain=True)
    assert trained == [5, 1, 7] * 2
    assert torch.equal(keeping.weights("kept")["layers.0.weight"], network(5).layers[0].weight)


# Scores


def test_a_run_with_a_title_is_scored_before_its_model_is_dropped(scored, tmp_path):
    models = []

    def train(seed: int) -> tuple[nn.Module, dict[str, float]]:
        # The model of the seed before has its score, and its numbers are stored.
        assert len(scored) == len(models)
        assert not models or len(stored(tmp_path)) == len(models)
        models.append(nn.Linear(1, 1))
        return models[-1], {"value": 10.0 * seed}

    run = LongRun("run", train, seeds=(4, 6), title="2-D", dataset="fashion-mnist", binary=True)
    runs = LongRuns("chapter", [run], folder=tmp_path)
    runs.publish("run")
    assert stored(tmp_path) == [
        {"seed": 4, "value": 40.0, "scores": {"2-D": {"place": 1}}},
        {"seed": 6, "value": 60.0, "scores": {"2-D": {"place": 2}}},
    ]
    assert runs.load("run") == stored(tmp_path)
    for (model, dataset, binary), trained in zip(scored, models, strict=True):
        assert model is trained
        assert (dataset, binary) == ("fashion-mnist", True)


def test_every_model_of_a_training_that_returns_several_has_a_score(scored, tmp_path):
    models = {title: nn.Linear(1, 1) for title in ("β = 1", "β = 0.5")}
    run = LongRun("run", lambda seed: (models, {"beta": [1.0, 0.5]}))
    LongRuns("chapter", [run], folder=tmp_path).publish("run")
    assert stored(tmp_path) == [
        {
            "seed": 0,
            "beta": [1.0, 0.5],
            "scores": {"β = 1": {"place": 1}, "β = 0.5": {"place": 2}},
        }
    ]
    assert [(id(m), *rest) for m, *rest in scored] == [
        (id(m), "mnist", False) for m in models.values()
    ]


@pytest.mark.parametrize("model", [nn.Linear(1, 1), None], ids=["model", "no model"])
def test_a_run_without_a_title_has_no_score(scored, tmp_path, model):
    run = LongRun("run", lambda seed: (model, {"value": 1.0}))
    LongRuns("chapter", [run], folder=tmp_path).publish("run")
    assert stored(tmp_path) == [{"seed": 0, "value": 1.0}]
    assert scored == []


def test_training_here_scores_nothing(scored, tmp_path):
    run = LongRun("run", lambda seed: (nn.Linear(1, 1), {"value": 1.0}), title="2-D")
    runs = LongRuns("chapter", [run], folder=tmp_path)
    assert runs.load("run", retrain=True) == [{"seed": 0, "value": 1.0}]
    assert scored == []


# What the chapters declare, and what is published


def test_the_names_of_the_runs_are_unique_over_all_chapters():
    names = [run.name for _, run in DECLARED]
    assert len(set(names)) == len(names) > 90
    assert len({runs.chapter for runs in CHAPTERS}) == len(CHAPTERS)


def test_every_lesson_has_runs_and_all_runs_are_in_the_order_of_the_notebooks():
    notebooks = [path.stem for path in sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))]
    chapters = [runs.chapter for runs in CHAPTERS]
    assert chapters == [name for name in notebooks if name in chapters]
    assert set(chapters) >= {name for name in notebooks if name[0].isdigit()}


def test_only_the_models_of_burda_were_trained_on_binary_images():
    binary = [run.name for _, run in DECLARED if run.binary]
    assert binary == ["burda-vae", "burda-iwae-50"]


@pytest.mark.parametrize(
    "run",
    [run for _, run in DECLARED if run.title or run.name == "beta-sweep-16d"],
    ids=lambda run: run.name,
)
def test_a_run_is_scored_on_the_data_that_it_is_trained_on(run, monkeypatch):
    class Loaded(Exception):
        pass

    def load(name: str):
        raise Loaded(name)

    monkeypatch.setattr(data, "load", load)
    with pytest.raises(Loaded) as asked:
        run.train(0)
    assert asked.value.args == (run.dataset,)


def test_the_published_runs_hold_every_seed_and_their_provenance():
    for runs, run in DECLARED:
        entries = runs.load(run.name)
        assert [entry["seed"] for entry in entries] == list(run.seeds)
        assert runs.published(run.name).keys() == set(run.seeds)
        assert all(entry["provenance"]["profile"] == "full" for entry in entries)


def test_the_published_runs_have_a_score_for_each_title():
    for runs, run in DECLARED:
        titles = [run.title] if run.title else []
        if run.name == "beta-sweep-16d":
            titles = [f"16-D, mlp, β = {beta:g}" for beta in lesson_4.BETAS]
        scores = runs.load(run.name)[0].get("scores", {})
        assert list(scores) == titles
        for numbers in scores.values():
            assert numbers["provenance"]["profile"] == "full"
            assert {"test_negative_elbo", "precision", "recall"} <= numbers.keys()


def test_every_published_file_belongs_to_a_run_and_none_is_missing():
    folder = Path(__file__).parents[1] / "results" / "long_runs"
    expected = {f"{runs.chapter}/{run.name}.json" for runs, run in DECLARED}
    expected |= {
        f"{runs.chapter}/{run.name}.safetensors" for runs, run in DECLARED if run.keeps_weights
    }
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == expected


def test_weights_that_are_too_large_are_halved(tmp_path):
    small, large = nn.Linear(100, 100), nn.Linear(1000, 1001)
    for name, model, kind in (("a", small, torch.float32), ("b", large, torch.float16)):
        write_weights(tmp_path / f"{name}.safetensors", model)
        written = load_file(tmp_path / f"{name}.safetensors")
        assert written["weight"].dtype == kind
        assert torch.allclose(written["weight"].float(), model.weight, rtol=1e-3, atol=1e-6)


KEPT = {
    "two-dimensional-vae": lesson_1.two_dimensional_vae,
    "small-conv": partial(lesson_3.comparison_vae, "conv", 70_000, latent_dim=2),
    "comparison-mlp-70k-16d": partial(lesson_3.comparison_vae, "mlp", 70_000, latent_dim=16),
    "comparison-conv-70k-16d": partial(lesson_3.comparison_vae, "conv", 70_000, latent_dim=16),
    "longer-conv-800k-16d": partial(lesson_3.comparison_vae, "conv", 800_000, latent_dim=16),
    "prices-bernoulli": lambda seed: lesson_4.Pictures(),
    **dict.fromkeys(("project-c-0", "project-c-12", "project-c-200"), lesson_4.project_c_vae),
    **dict.fromkeys(("tutorial-conv", "tutorial-conv-triplets"), lesson_5.project_a_vae),
    "2d-easy-positive-100": partial(lesson_5.conv_to_mlp_vae, latent_dim=2),
    **dict.fromkeys(("m1-mnist", "m1-fashion-mnist"), lesson_6.m1_vae),
    **dict.fromkeys(
        ("burda-vae", "burda-iwae-50"), partial(lesson_7.burda_vae, torch.rand(2, 1, 28, 28))
    ),
    **{
        case_e.run_name(names): partial(case_e.conv_vae, case_e.bugs_of(names))
        for names in case_e.SETS
    },
}


def test_the_published_weights_fit_the_networks_of_their_runs():
    keeping = {run.name: runs for runs, run in DECLARED if run.keeps_weights}
    assert keeping.keys() == KEPT.keys()
    for name, build in KEPT.items():
        vae, weights = build(seed=9), keeping[name].weights(name)
        vae.load_state_dict(weights, strict=True)
        for key, value in vae.state_dict().items():
            assert torch.equal(value, weights[key].to(value.dtype)), (name, key)
        assert vae.state_dict().keys() == weights.keys()
