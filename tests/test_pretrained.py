import json
import re
import shlex
import shutil
from pathlib import Path
from typing import get_args

import nbformat
import pytest
import torch
from safetensors.torch import save

from book.layout import CHECKOUT
from book.models import with_cards
from vaelib import cli, commands, data, load_pretrained, pretrained
from vaelib.checkpoints import CheckpointError
from vaelib.course import lesson_1, lesson_3, lesson_5, lesson_6, lesson_7
from vaelib.data import to_float
from vaelib.evaluation import evaluate
from vaelib.pretrained import PRETRAINED, card, facts_of, model_from, weights_path
from vaelib.seeding import generator

BLACK = torch.zeros(2, 1, 28, 28)
AS_THE_LESSONS_BUILD_IT = {
    "2d-mlp": lesson_1.two_dimensional_vae,
    "2d-conv": lesson_3.small_conv_vae,
    "16d-conv": lambda: lesson_3.comparison_vae("conv", 800_000, latent_dim=16),
    "2d-triplets": lambda: lesson_5.conv_to_mlp_vae(latent_dim=2),
    "m1-mnist": lesson_6.m1_vae,
    "m1-fashion-mnist": lesson_6.m1_vae,
    "burda-vae": lambda: lesson_7.burda_vae(BLACK),
    "burda-iwae": lambda: lesson_7.burda_vae(BLACK),
}
every = pytest.mark.parametrize("name", PRETRAINED)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of one model's files that a test may spoil."""
    for path in (weights_path("burda-vae"), pretrained.PUBLISHED / "pretrained" / "burda-vae.json"):
        target = tmp_path / path.relative_to(pretrained.PUBLISHED)
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    monkeypatch.setattr(pretrained, "PUBLISHED", tmp_path)
    return tmp_path


@every
def test_it_is_the_model_that_the_lesson_trains(name):
    theirs = AS_THE_LESSONS_BUILD_IT[name]()
    ours = load_pretrained(name)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(5, 1, 28, 28, generator=generator(0, "images"))
    with torch.no_grad():
        q, expected = ours.encode(x), theirs.eval().encode(x)
        assert torch.equal(q.mean, expected.mean) and torch.equal(q.stddev, expected.stddev)
        images, wanted = ours.decode(q.mean).mean, theirs.decode(q.mean).mean
        assert torch.equal(images, wanted)
    assert not ours.training


@every
def test_a_long_run_publishes_its_weights(name):
    chapter, _, run = PRETRAINED[name].run.partition("/")
    lessons = (lesson_1, lesson_3, lesson_5, lesson_6, lesson_7)
    (runs,) = (lesson.RUNS for lesson in lessons if chapter == lesson.RUNS.chapter)
    (declared,) = (declared for declared in runs if declared.name == run)
    assert declared.keeps_weights
    assert declared.dataset == PRETRAINED[name].network.data
    assert declared.binary == PRETRAINED[name].binary


@every
def test_a_file_is_small(name):
    assert weights_path(name).stat().st_size == facts_of(name)["bytes"] <= 4 * 2**20


@every
def test_a_card_says_what_one_must_know(name):
    said = card(name)
    for heading in ("Data", "Trained by", "Measured", "Spread", "For", "File", "Licence"):
        assert f"**{heading}**" in said
    assert f"−ELBO {facts_of(name)['scores']['negative_elbo']:.4g} nats" in said
    assert facts_of(name)["sha256"][:16] in said


@every
def test_it_is_as_good_as_its_card_says(name):
    if not data.is_here(PRETRAINED[name].network.data):
        pytest.skip(f"{PRETRAINED[name].network.data} is not here")
    report = evaluate(load_pretrained(name), commands.images_of(Path(name)).test)
    scores = facts_of(name)["scores"]
    assert report.negative_elbo == pytest.approx(scores["negative_elbo"], abs=0.02)
    assert report.rate == pytest.approx(scores["rate"], abs=0.02)


def test_binary_models_are_measured_on_binary_images():
    if not data.is_here("mnist"):
        pytest.skip("MNIST is not here")
    grey = to_float(data.load("mnist").test.images)
    binary = commands.images_of(Path("burda-vae")).test
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    assert (binary.mean() - grey.mean()).abs() < 1e-3


def test_an_unknown_name_is_refused_with_those_that_are_known():
    for function in (load_pretrained, card, facts_of, weights_path):
        with pytest.raises(ValueError, match=r"no pretrained model '3d'; expected one of 2d-mlp, "):
            function("3d")


def test_a_flipped_bit_is_noticed(elsewhere):
    path = weights_path("burda-vae")
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"'burda-vae' are damaged.*SHA-256.*install it"):
        load_pretrained("burda-vae")


def test_a_missing_file_is_named(elsewhere):
    weights_path("burda-vae").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read: .*burda-vae.*: No such file"):
        load_pretrained("burda-vae")


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_a_damaged_card_is_named(elsewhere, content):
    path = elsewhere / "pretrained" / "burda-vae.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the card of 'burda-vae' cannot be read"):
        load_pretrained("burda-vae")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04 a pickle", save({"encoder": torch.zeros(3)})],
    ids=["nothing", "pickle", "another model"],
)
def test_what_is_not_its_weights_is_refused(content):
    with pytest.raises(CheckpointError, match="does not hold 'burda-vae'"):
        model_from("burda-vae", content)


def test_the_published_files_lie_in_a_known_folder():
    package = Path(pretrained.__file__).parent
    assert pretrained.PUBLISHED in (package.parent / "results", package / "published")


# The command


def test_the_choices_are_those_of_the_package():
    assert get_args(cli.Model) == tuple(PRETRAINED)


def test_models_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "no-such-model"])
    assert ended.value.code == 2
    capsys.readouterr()
    cli.main(["models"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PRETRAINED)
    cli.main(["models", "2d-mlp"])
    assert capsys.readouterr().out.strip() == f"# 2d-mlp\n\n{card('2d-mlp')}".strip()


def test_a_name_stands_for_a_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["generate", "2d-mlp", "--n", "4"])
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    if data.is_here("mnist"):
        capsys.readouterr()
        cli.main(["evaluate", "2d-mlp", "--k", "2", "--images", "10", "--json"])
        scores = json.loads(capsys.readouterr().out)
        expected = facts_of("2d-mlp")["scores"]["negative_elbo"]
        assert scores["negative_elbo"] == pytest.approx(expected, abs=0.05)


def test_a_folder_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("2d-mlp").mkdir()
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        commands.model_of(Path("2d-mlp"))


# What the book says of them


@pytest.mark.parametrize("chapter", ["01", "03", "05", "06", "07"])
def test_a_lesson_offers_to_load_what_it_trains(chapter):
    (path,) = CHECKOUT.notebooks.glob(f"{chapter}_*.ipynb")
    text = "\n".join(
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    offered = re.findall(r'vaelib\.load_pretrained\("(.*?)"\)', text)
    assert offered and set(offered) <= PRETRAINED.keys()


def test_the_page_shows_every_card_and_commands_that_exist():
    page = (CHECKOUT.root / "book" / "models.md").read_text(encoding="utf-8")
    for line in re.findall(r"^vaelib (.*)$", page, re.MULTILINE):
        cli._parse(shlex.split(line))
    shown = with_cards(page)
    assert "<!--" not in shown
    for name in PRETRAINED:
        assert card(name) in shown
