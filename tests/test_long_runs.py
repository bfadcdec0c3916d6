import json

import pytest

from vaelib import long_runs
from vaelib.long_runs import LongRun, load, publish


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """A long run of three seeds that notes which of them it trained."""
    seeds = []

    def train(seed: int) -> dict[str, float]:
        seeds.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return {"value": 10.0 * seed}

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
    run = LongRun(lambda seed: {"value": 2.0 * seed}, seeds=(3, 4))
    monkeypatch.setattr(long_runs, "LONG_RUNS", {"run": run})
    monkeypatch.setattr(long_runs, "PUBLISHED", tmp_path)
    assert load("run", retrain=True) == [{"seed": 3, "value": 6.0}, {"seed": 4, "value": 8.0}]
    assert not list(tmp_path.iterdir())


def test_an_unknown_run_is_named():
    with pytest.raises(ValueError, match="no long run is called 'x'; expected one of two-dim"):
        load("x")


def test_the_published_runs_hold_every_seed_and_their_provenance():
    for name, run in long_runs.LONG_RUNS.items():
        entries = load(name)
        assert [entry["seed"] for entry in entries] == list(run.seeds)
        assert all(entry["provenance"]["profile"] == "full" for entry in entries)
