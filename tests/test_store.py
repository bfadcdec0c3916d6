import json

import pytest
import torch
from torch import nn
from vaelib.long_runs import LongRun, load, publish, weights

from vaelib import ConvEncoder, long_runs


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """A long run of three seeds that notes which of them it trained."""
    seeds = []

    def train(seed: int) -> tuple[nn.Module, dict[str, float]]:
        seeds.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return nn.Linear(1, 1), {"value": 10.0 * seed}

    monkeypatch.setattr(long_runs, "LONG_RUNS", {"run": LongRun(train, seeds=(0, 1, 2, 3))})
    monkeypatch.setattr(long_runs, "PUBLISHED", tmp_path)
    return seeds


def stored(folder) -> list[dict]:
    return json.loads((folder / "long_runs" / "run.json").read_text(encoding="utf-8"))


def test_an_interrupted_run_keeps_its_seeds_and_goes_on_from_there(trained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        publish("run", tmp_path)
    assert stored(tmp_path) == [{"seed": 0, "value": 0.0}, {"seed": 1, "value": 10.0}]
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        publish("run", tmp_path)
    assert trained == [2]


def test_published_numbers_are_read_and_not_trained(trained, tmp_path):
    runs = [{"seed": seed, "value": 1.5} for seed in range(4)]
    (tmp_path / "long_runs").mkdir()
    (tmp_path / "long_runs" / "run.json").write_text(json.dumps(runs))
    assert load("run") == runs
    assert trained == []


def test_missing_seeds_are_named(trained, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'run' are not published for seeds \[0, 1, 2, 3\]"
    ):
        load("run")


def test_retrain_trains_and_leaves_the_published_numbers_alone(monkeypatch, tmp_path):
    run = LongRun(lambda seed: (nn.Linear(1, 1), {"value": 2.0 * seed}), (3, 4), keeps_weights=True)
    monkeypatch.setattr(long_runs, "LONG_RUNS", {"run": run})
    monkeypatch.setattr(long_runs, "PUBLISHED", tmp_path)
    assert load("run", retrain=True) == [{"seed": 3, "value": 6.0}, {"seed": 4, "value": 8.0}]
    assert not list(tmp_path.iterdir())


def test_an_unknown_run_is_named():
    for function in (load, publish, weights):
        with pytest.raises(ValueError, match="no long run is called 'x'; expected one of two-dim"):
            function("x")


def network(seed: int) -> nn.Module:
    """A network whose kernels lie in memory in an order of their own."""
    return ConvEncoder(latent_dim=2, channels=(3, 4), seed=seed)


@pytest.fixture
def keeping(monkeypatch, tmp_path):
    """Two long runs of seeds 5, 1 and 7; ``kept`` publishes weights, ``plain`` does not."""
    seeds = []

    def train(seed: int) -> tuple[nn.Module, dict[str, float]]:
        seeds.append(seed)
        return network(seed), {"value": 10.0 * seed}

    runs = {
        "kept": LongRun(train, seeds=(5, 1, 7), keeps_weights=True),
        "plain": LongRun(train, seeds=(5, 1, 7)),
    }
    monkeypatch.setattr(long_runs, "LONG_RUNS", runs)
    monkeypatch.setattr(long_runs, "PUBLISHED", tmp_path)
    return seeds


def files(folder) -> list[str]:
    return sorted(path.name for path in (folder / "long_runs").iterdir())


def test_the_weights_of_the_first_seed_are_read_back_as_they_were(keeping, tmp_path):
    publish("kept", tmp_path)
    assert keeping == [5, 1, 7]
    assert files(tmp_path) == ["kept.json", "kept.safetensors"]
    assert load("kept") == [{"seed": seed, "value": 10.0 * seed} for seed in (5, 1, 7)]
    read, truth = weights("kept"), network(5).state_dict()
    assert read.keys() == truth.keys()
    assert all(torch.equal(read[name], value) for name, value in truth.items())
    model, x = network(0), torch.rand(3, 1, 28, 28)
    model.load_state_dict(read)
    torch.testing.assert_close(model(x), network(5)(x))


def test_a_run_that_keeps_no_weights_writes_none_and_has_none(keeping, tmp_path):
    publish("plain", tmp_path)
    assert files(tmp_path) == ["plain.json"]
    with pytest.raises(ValueError, match="'plain' publishes numbers, but no weights"):
        weights("plain")


def test_seeds_that_are_published_leave_the_weights_alone(keeping, tmp_path):
    publish("kept", tmp_path)
    path = tmp_path / "long_runs" / "kept.json"
    path.write_text(json.dumps([{"seed": 5, "value": 0.5}]))
    path.with_suffix(".safetensors").write_bytes(b"published before")
    keeping.clear()
    publish("kept", tmp_path)
    assert keeping == [1, 7]
    assert path.with_suffix(".safetensors").read_bytes() == b"published before"


def test_training_all_seeds_again_replaces_the_weights(keeping, tmp_path):
    publish("kept", tmp_path)
    (tmp_path / "long_runs" / "kept.safetensors").write_bytes(b"published before")
    publish("kept", tmp_path, retrain=True)
    assert keeping == [5, 1, 7] * 2
    assert torch.equal(weights("kept")["layers.0.weight"], network(5).layers[0].weight)


def test_the_published_runs_hold_every_seed_and_their_provenance():
    for name, run in long_runs.LONG_RUNS.items():
        entries = load(name)
        assert [entry["seed"] for entry in entries] == list(run.seeds)
        assert all(entry["provenance"]["profile"] == "full" for entry in entries)
