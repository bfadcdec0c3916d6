"""Every command of the book's page on the command line, and its Python, as they stand there."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from book.layout import CHECKOUT
from vaelib import cli

PAGE = (CHECKOUT.root / "book" / "command_line.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def quick_recipes(monkeypatch):
    """The recipes with the digits in place of MNIST, and every training for one epoch."""
    for name, recipe in cli.RECIPES.items():
        monkeypatch.setitem(cli.RECIPES, name, replace(recipe, data="digits", epochs=1))


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys, quick_recipes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        image = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i}.png")
    ran = []
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block.replace("epochs=20", "epochs=1"), "command_line.md", "exec"), {})
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "vaelib"
            if "the-rest" in line:
                (tmp_path / "pictures" / "7.png").write_bytes(b"")
            if "--epochs" in arguments:
                arguments[arguments.index("--epochs") + 1] = "2"
            cli.main(arguments)
            ran.append(arguments[0])
    assert set(ran) == {"train", "evaluate", "generate", "data"}
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    assert made >= {"2d-mlp", "128d-bernoulli", "conv-16d", "triplets", "3d", "pictures"}
    assert {path.name for path in (tmp_path / "runs" / "2d-mlp").glob("*.png")} == {
        "samples.png", "reconstructions.png", "interpolation.png", "manifold.png", "classes.png",
    }  # fmt: skip
    assert "skipped 7.png: has 0 bytes" in capsys.readouterr().err
