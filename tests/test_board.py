import sys

import pytest
import torch
from small_runs import SMALL, small_images, small_run

from vaelib.runs import load, train

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def log_of(folder):
    log = events.EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    return log.Reload()


def test_the_log_has_the_curves_the_panels_and_the_codes(tmp_path):
    history = train(SMALL, tmp_path, images=small_images(), tensorboard=True, progress=False)
    log = log_of(tmp_path)
    for split in ("train", "test"):
        for quantity in ("distortion", "rate", "negative_elbo"):
            points = log.Scalars(f"{quantity}/{split}")
            assert [point.step for point in points] == [1, 2, 3]
            truth = history.curve(split, quantity)[1:]
            assert [point.value for point in points] == pytest.approx(truth, rel=1e-6)
    assert set(log.Tags()["images"]) == {"samples", "reconstructions"}
    assert [image.step for image in log.Images("samples")] == [1, 2, 3]
    # The projector's files: one line of numbers for each test image, its label, and a picture.
    (vectors,) = (tmp_path / "tensorboard").rglob("tensors.tsv")
    codes = [[float(v) for v in line.split("\t")] for line in vectors.read_text().splitlines()]
    truth = load(tmp_path).embed(small_images().test)
    assert torch.tensor(codes)[:, :2].numpy() == pytest.approx(truth.numpy(), abs=1e-6)
    assert all(code[2:] == [0] for code in codes)  # the projector shows no plane
    labels = vectors.with_name("metadata.tsv").read_text().split()
    assert [int(label) for label in labels] == small_images().test_labels.tolist()
    assert vectors.with_name("sprite.png").exists()


def test_looking_on_has_no_influence_on_the_training(tmp_path):
    plain, watched = (
        load(small_run(tmp_path / name, tensorboard=name == "watched")).state_dict()
        for name in ("plain", "watched")
    )
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vaelib\[tensorboard\]'"):
        small_run(tmp_path, tensorboard=True)
    small_run(tmp_path)  # nothing was left behind
