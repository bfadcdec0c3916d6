import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from small_runs import SMALL, small_run

from vaelib import cli, runs
from vaelib.cli import main
from vaelib.configuration import Configuration
from vaelib.data import NAMES
from vaelib.evaluation import active_units, evaluate, reconstruction_rmse
from vaelib.recipes import RECIPES

ROOT = Path(cli.__file__).parents[1]
TINY = shlex.split("--data digits --encoder-hidden 16 --decoder-hidden 16 --epochs 2 --device cpu")


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Return the exit status of a command, and what it wrote."""
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = ended.code or 0
    written = capsys.readouterr()
    return status, written.out, written.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run on the digits, made by the command."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    main(["train", *TINY, "--out", str(folder)])
    return folder


# Help


def test_help_needs_no_torch():
    code = """
import sys
from vaelib.cli import main
for arguments in (["--help"], ["train", "--help"], ["data", "--help"]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code
print(sorted({"torch", "matplotlib", "numpy", "sklearn"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(cli.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    for word in ("train", "evaluate", "generate", "data"):
        assert word in done.stdout


def test_the_help_names_every_flag_with_the_default_of_the_recipe(capsys):
    status, out, _ = run(capsys, "train", "--recipe", "128d-gaussian", "--help")
    assert status == 0
    for field in fields(Configuration):
        assert re.search(rf"--{field.name.replace('_', '-')}[ ,]", out), field.name
    assert "default: 128)" in " ".join(out.split())


def test_python_m_vaelib_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "vaelib", "--help"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("usage: vaelib")


def test_the_installed_command_is_this_one():
    (command,) = entry_points(group="console_scripts", name="vaelib")
    assert command.load() is main


def test_the_choices_are_those_of_the_package():
    assert get_args(cli.Recipe) == tuple(RECIPES)
    assert get_args(cli.DataSet) == NAMES


def test_a_shell_can_complete_the_command(capsys):
    status, out, _ = run(capsys, "--tyro-print-completion", "bash")
    assert status == 0 and "evaluate" in out


# Training


def test_train_writes_a_run_of_the_flags(folder):
    config, _ = runs.configuration_of(folder)
    start = RECIPES["2d-mlp"].as_dict()
    changed = {name for name, value in config.as_dict().items() if value != start[name]}
    assert changed == {"data", "encoder_hidden", "decoder_hidden", "epochs", "device"}
    assert config.encoder_hidden == (16,)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_train_starts_from_a_file_and_flags_change_it(tmp_path, capsys, ending):
    file, out = tmp_path / f"c.{ending}", tmp_path / "run"
    values = {**SMALL.as_dict(), "epochs": 5}
    file.write_text(
        json.dumps(values)
        if ending == "json"
        else "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    )
    status, _, _ = run(capsys, "train", "--config-file", file, "--epochs", 1, "--out", out)
    assert status == 0
    config = runs.configuration_of(out)[0]
    assert config.as_dict() == {**values, "epochs": 1}


def test_resume_needs_no_other_flag_and_says_how_good_the_model_is(folder, capsys):
    status, out, _ = run(capsys, "train", "--resume", "--out", folder)
    assert status == 0 and out.startswith(f"{folder}: -ELBO ")


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "save_state", interrupt)
    status, _, err = run(capsys, "train", *TINY, "--out", tmp_path)
    assert status == 130
    assert f"vaelib train --out {tmp_path} --resume" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "--lr", "-1"], 2, "vaelib: lr is -1.0; expected larger than 0 and finite."),
        (["train", "--latent-dim", "x"], 2, "--latent-dim"),
        (["train", "--network", "gru"], 2, "mlp"),
        (["train", "--recipe", "3d"], 2, "2d-mlp"),
        (["train", "--config-file", "/nowhere.toml"], 2, "vaelib: /nowhere.toml cannot be read"),
        (["train", "--learning-rate", "1"], 2, "learning-rate"),
        (["train", "--data", "/nowhere", "--out", "/tmp/unused"], 1, "vaelib: /nowhere is neither"),
        (["train", *TINY, "--out", "/dev/null/x"], 1, "vaelib: /dev/null/x cannot be used"),
        (["train", *TINY, "--device", "tpu", "--out", "{tmp}/t"], 1, "vaelib: device is 'tpu'"),
        (["evaluate", "/nowhere"], 1, "vaelib: /nowhere/config.json cannot be read"),
        (["evaluate", "{run}", "--k", "0"], 1, "vaelib: k is 0; expected a whole number"),
        (["generate", "{run}", "--out", "/nowhere/a.png"], 1, "vaelib: /nowhere/a.png cannot be"),
        (["generate", "{run}", "--n", "0"], 1, "vaelib: n is 0"),
        (["data", "verify", "cifar"], 2, "digits"),
        ([], 2, "train"),
    ],
)
def test_errors_are_one_line_on_stderr_and_a_status(
    folder, tmp_path, capsys, arguments, status, message
):
    arguments = [a.format(run=folder, tmp=tmp_path) for a in arguments]
    ended, out, err = run(capsys, *arguments)
    assert (ended, out) == (status, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    if status == 1:
        assert len(err.splitlines()) == 1


def test_images_of_ones_own_are_trained_on_and_the_broken_ones_named(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes(b"")
    arguments = ["train", *TINY, "--data", tmp_path, "--out", tmp_path / "run"]
    status, _, err = run(capsys, *arguments)
    assert status == 1 and "7.png: has 0 bytes" in err and "--skip-broken" in err
    status, _, err = run(capsys, *arguments, "--skip-broken")
    assert status == 0 and "skipped 7.png: has 0 bytes" in err
    status, out, _ = run(capsys, "evaluate", tmp_path / "run", "--k", 5, "--json")
    assert status == 0 and "knn_accuracy" not in json.loads(out)
    status, _, err = run(capsys, "generate", tmp_path / "run", "--what", "classes")
    assert status == 1 and "have no labels" in err


# Measuring


def test_evaluate_prints_what_the_package_measures(folder, capsys):
    status, out, _ = run(capsys, "evaluate", folder, "--k", 20, "--images", 100, "--json")
    assert status == 0
    scores = json.loads(out)
    model, images = runs.load(folder), runs.images_of(runs.configuration_of(folder)[0])
    report = evaluate(model, images.test)
    assert scores["distortion"] == report.distortion and scores["rate"] == report.rate
    assert scores["negative_elbo"] == report.negative_elbo
    assert scores["rmse"] == float(reconstruction_rmse(model, images.test).mean())
    assert scores["active_units"] == int(active_units(model, images.test).sum())
    assert (scores["test_images"], scores["log_p_images"]) == (500, 100)
    assert -scores["log_p"] < scores["negative_elbo"] + 5
    # By hand: the 15 nearest training codes, counted with a loop.
    codes, test = model.embed(images.train), model.embed(images.test)
    hits = 0
    for z, label in zip(test, images.test_labels, strict=True):
        nearest = (codes - z).norm(dim=1).argsort()[:15]
        hits += int(images.train_labels[nearest].bincount().argmax() == label)
    assert scores["knn_accuracy"] == pytest.approx(hits / 500, abs=0.005)


def test_the_table_has_the_numbers_of_the_json(folder, capsys):
    _, table, _ = run(capsys, "evaluate", folder, "--k", 20)
    _, text, _ = run(capsys, "evaluate", folder, "--k", 20, "--json")
    scores = json.loads(text)
    lines = table.splitlines()
    assert len(lines) == len(scores)
    for line, (name, value) in zip(lines, scores.items(), strict=True):
        assert line.startswith(name.replace("_", " "))
        assert float(line.split()[-1].replace(",", "")) == pytest.approx(value, abs=1e-4)


# Pictures


@pytest.mark.parametrize("what", get_args(cli.Picture))
def test_every_picture_is_a_png_that_shows_something(folder, tmp_path, capsys, what):
    out = tmp_path / "a.png"
    status, said, _ = run(capsys, "generate", folder, "--what", what, "--n", 6, "--out", out)
    assert status == 0 and said == f"{out}\n"
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5


def test_a_picture_depends_on_the_seed_only(folder, tmp_path, capsys):
    contents = []
    for i, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{i}.png"
        run(capsys, "generate", folder, "--seed", seed, "--out", out)
        contents.append(out.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_picture_lies_in_the_folder_of_the_run(folder, capsys):
    run(capsys, "generate", folder)
    assert (folder / "samples.png").exists()


def test_a_manifold_needs_two_dimensions(tmp_path, capsys):
    small_run(tmp_path, replace(SMALL, latent_dim=3))
    status, _, err = run(capsys, "generate", tmp_path, "--what", "manifold")
    assert status == 1 and "3 latent dimensions; expected 2" in err


# Data sets


def test_data_list_names_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VAELIB_DATA_DIR", str(tmp_path))
    status, out, _ = run(capsys, "data", "list")
    assert status == 0
    assert out.splitlines() == [
        "mnist: not downloaded",
        "fashion-mnist: not downloaded",
        "digits: comes with scikit-learn",
    ]


def test_data_that_is_not_there_cannot_be_verified(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VAELIB_DATA_DIR", str(tmp_path))
    status, _, err = run(capsys, "data", "verify", "mnist")
    assert status == 1 and "train-images-idx3-ubyte (or .gz) is not in" in err
