import errno
import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, small_images, small_run

from vaelib import runs
from vaelib.checkpoints import CheckpointError
from vaelib.configuration import Configuration, ConfigurationError
from vaelib.data import DataError
from vaelib.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from vaelib.runs import RunError, build, images_of, load, recipe_of, train
from vaelib.training import fit


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).state_dict()


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def left(monkeypatch):
    """Function that makes a run and leaves it with Ctrl-C after some of its epochs."""

    def leave(folder: Path, *, after: int, config: Configuration = SMALL) -> Path:
        with monkeypatch.context() as patch:
            save, saved = runs.save_state, []

            def save_and_leave(*args, **options):
                save(*args, **options)
                saved.append(args)
                if len(saved) == after:
                    raise KeyboardInterrupt

            patch.setattr(runs, "save_state", save_and_leave)
            history = train(config, folder, images=small_images(), progress=False)
            assert history.interrupted
        return folder

    return leave


# What a run leaves behind


def test_a_run_trains_what_fit_trains(tmp_path):
    images, model = small_images(), build(SMALL)
    history = fit(
        model,
        images.train,
        test=images.test,
        progress=False,
        **recipe_of(SMALL, images.train_labels),
    )
    small_run(tmp_path / "run")
    assert equal(weights_of(tmp_path / "run"), model.state_dict())
    for line, train_report, test_report in zip(
        lines_of(tmp_path / "run"), history.train[1:], history.test[1:], strict=True
    ):
        for split, report in (("train", train_report), ("test", test_report)):
            assert line[split] == {
                "distortion": report.distortion,
                "rate": report.rate,
                "negative_elbo": report.distortion + report.rate,
            }
    assert [line["epoch"] for line in lines_of(tmp_path / "run")] == [1, 2, 3]


def test_the_folder_holds_four_files_and_says_on_what_it_was_trained(tmp_path):
    folder = small_run(tmp_path / "a" / "run")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock", "config.json", "metrics.jsonl", "checkpoint.safetensors", "environment.json",
    }  # fmt: skip
    said = json.loads((folder / "environment.json").read_text())
    assert said["torch"] == torch.__version__ and said["device"] == "cpu"
    assert Configuration.read(folder / "config.json") == SMALL


def test_a_loaded_model_is_in_evaluation_mode_and_leaves_the_global_stream(tmp_path, rng_untouched):
    folder = small_run(tmp_path)
    with rng_untouched():
        assert not load(folder).training


# Going on


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_was_left_ends_with_the_same_bits(tmp_path, left, after, network):
    config = replace(SMALL, network=network, encoder_channels=(4,), decoder_channels=(4, 4))
    whole = small_run(tmp_path / "whole", config)
    folder = left(tmp_path / "left", after=after, config=config)
    assert not equal(weights_of(folder), weights_of(whole))
    small_run(folder, config, resume=True)
    assert equal(weights_of(folder), weights_of(whole))
    for line, truth in zip(lines_of(folder), lines_of(whole), strict=True):
        assert {**line, "seconds": 0} == {**truth, "seconds": 0}


def test_a_finished_run_that_goes_on_is_as_it_was(tmp_path):
    folder = small_run(tmp_path)
    before = (folder / "checkpoint.safetensors").read_bytes()
    small_run(folder, resume=True)
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert len(lines_of(folder)) == 3


def test_a_folder_without_a_run_is_begun(tmp_path):
    assert equal(
        weights_of(small_run(tmp_path / "a", resume=True)), weights_of(small_run(tmp_path / "b"))
    )


def test_a_line_ahead_of_the_checkpoint_is_written_anew(tmp_path, left):
    folder = left(tmp_path, after=1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "tra')  # killed there
    small_run(folder, resume=True)
    assert [line["epoch"] for line in lines_of(folder)] == [1, 2, 3]


def test_a_short_version_of_the_stress_of_kills():
    script = Path(__file__).with_name("stress_resume.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        [sys.executable, script, "--kills", "3"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed with") == 3
    assert "3 of 3 ended with the same bits" in done.stdout


# What is refused


def test_a_run_is_not_overwritten(tmp_path):
    folder = small_run(tmp_path)
    before = weights_of(folder)
    with pytest.raises(RunError, match=r"holds a run already\. Go on with it \(--resume\)"):
        small_run(folder)
    assert equal(weights_of(folder), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1.0}, r"a run with lr = 0.003; it cannot go on with 1.0"),
        ({"encoder_hidden": (9,)}, r"a run with encoder_hidden = \(8,\); it cannot go on with"),
        ({"epochs": 4}, r"a run with epochs = 3"),
    ],
)
def test_another_configuration_cannot_go_on(tmp_path, left, change, message):
    folder = left(tmp_path, after=1)
    with pytest.raises(ConfigurationError, match=message):
        small_run(folder, replace(SMALL, **change), resume=True)


def test_other_images_cannot_go_on(tmp_path, left):
    folder = left(tmp_path, after=1)
    with pytest.raises(CheckpointError, match="was written with images = "):
        train(SMALL, folder, images=small_images(41), resume=True, progress=False)


def test_a_checkpoint_without_its_configuration_is_refused(tmp_path):
    folder = small_run(tmp_path)
    (folder / "config.json").unlink()
    for resume in (False, True):
        with pytest.raises(RunError, match=r"has a checkpoint.safetensors, but no config.json"):
            small_run(folder, resume=resume)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with runs._locked(tmp_path), pytest.raises(RunError, match="another training uses"):
        small_run(tmp_path)
    small_run(tmp_path)  # the lock is gone


@pytest.mark.parametrize(
    ("number", "message"), [(errno.EROFS, "Read-only file system"), (errno.EACCES, "denied")]
)
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, number, message):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match=rf"{tmp_path} cannot be used for a run: .*{message}"):
        small_run(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used for a run"):
        small_run(tmp_path / "file")


@contextmanager
def files_of_at_most(n: int):
    """The system refuses to write more than n bytes into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_the_run_goes_on(tmp_path, left):
    whole, folder = small_run(tmp_path / "whole"), left(tmp_path / "left", after=1)
    before = (folder / "checkpoint.safetensors").read_bytes()
    with files_of_at_most(len(before) // 2), pytest.raises(CheckpointError) as error:
        small_run(folder, resume=True)
    assert "checkpoint.safetensors cannot be written: File too large" in str(error.value)
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert not list(folder.glob(".*.part"))
    small_run(folder, resume=True)
    assert equal(weights_of(folder), weights_of(whole))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_is_named(tmp_path, left):
    folder = left(tmp_path, after=1)
    (folder / ".checkpoint.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"No space left on device\. What was there before"):
        small_run(folder, resume=True)
    small_run(folder, resume=True)
    assert len(lines_of(folder)) == 3


# What a configuration stands for


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"likelihood": "bernoulli"}, Bernoulli),
        ({"likelihood": "continuous-bernoulli"}, ContinuousBernoulli),
        ({"likelihood": "gaussian", "sigma": 0.3}, Gaussian),
    ],
)
def test_the_likelihood_is_the_one_asked_for(change, kind):
    likelihood = build(replace(SMALL, learn_sigma=False, **change)).likelihood
    assert type(likelihood) is kind
    if kind is Gaussian:
        assert likelihood.log_scale.exp().item() == pytest.approx(0.3)
        assert likelihood.link == "logit" and not likelihood.log_scale.requires_grad


@pytest.mark.parametrize(
    ("schedule", "values"),
    [("constant", [4, 4, 4]), ("linear", [0, 2, 4]), ("cyclical", [0, 0, 0])],
)
def test_beta_follows_its_schedule(schedule, values):
    beta = recipe_of(replace(SMALL, beta=4.0, beta_schedule=schedule), None)["beta"]
    assert [beta(t) for t in (0, 0.25, 0.5)] == values


def test_triplets_need_labels(tmp_path):
    config, images = replace(SMALL, triplet_weight=1.0), small_images()
    assert recipe_of(config, images.train_labels)["objective"] is not None
    unlabelled = runs.Images(images.train, images.test)
    with pytest.raises(ConfigurationError, match="triplet_weight is 1, but digits has no labels"):
        train(config, tmp_path, images=unlabelled, progress=False)
    train(SMALL, tmp_path / "other", images=unlabelled, progress=False)


def test_triplets_change_what_is_trained(tmp_path):
    plain = small_run(tmp_path / "plain")
    triplets = small_run(tmp_path / "triplets", replace(SMALL, triplet_weight=10.0))
    assert not equal(weights_of(plain), weights_of(triplets))


def test_a_data_set_has_its_official_splits_and_labels():
    images = images_of(SMALL)
    assert [len(part) for part in (images.train, images.test)] == [1297, 500]
    assert len(images.train_labels) == 1297 and images.train.max() == 1


def test_what_is_neither_a_data_set_nor_a_path_is_named(tmp_path):
    with pytest.raises(DataError, match=r"neither a folder of images nor an \.npz file"):
        images_of(replace(SMALL, data=str(tmp_path / "nothing")))
