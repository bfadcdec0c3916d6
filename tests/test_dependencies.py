"""Which files a chapter depends on."""

import nbformat
import pytest

from book.dependencies import files_of, modules_of
from book.layout import CHECKOUT


@pytest.fixture
def root(tmp_path):
    """Return a folder with a small package: a imports b, b imports course.lesson_3; c is alone."""
    package = tmp_path / "vaelib"
    (package / "course").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "course" / "__init__.py").write_text("")
    (package / "a.py").write_text("from vaelib.b import x\n")
    (package / "b.py").write_text("def x():\n    from vaelib.course import lesson_3\n")
    (package / "c.py").write_text("import torch\n")
    (package / "course" / "lesson_3.py").write_text("import vaelib.a\n")
    for name in ("03_three/run.json", "04_four/run.json", "case_b_two/run.json"):
        file = tmp_path / "results" / "long_runs" / name
        file.parent.mkdir(parents=True)
        file.write_text("[]")
    return tmp_path


@pytest.mark.parametrize(
    "code",
    [
        "import vaelib.a",
        "from vaelib import a",
        "from vaelib.a import x as y",
        "import vaelib.a as z",
    ],
)
def test_imports_are_followed_through_functions_and_circles(root, code):
    assert modules_of(code, root) == {
        "vaelib", "vaelib.a", "vaelib.b", "vaelib.course", "vaelib.course.lesson_3",
    }  # fmt: skip


def test_what_the_package_imports_on_demand_concerns_those_that_ask_for_it(root):
    (root / "vaelib" / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vaelib.c import thing\n"
    )
    assert modules_of("from vaelib import thing", root) == {"vaelib", "vaelib.c"}
    assert modules_of("from vaelib import other", root) == {"vaelib"}


def test_other_packages_and_names_that_are_no_modules_are_left_out(root):
    assert modules_of("import torch\nfrom vaelib.c import missing", root) == {"vaelib", "vaelib.c"}


def test_the_long_runs_of_a_lesson_belong_to_it(root):
    found = files_of("import vaelib.a", root, root / "results")
    names = {file.relative_to(root).as_posix() for file in found}
    assert "results/long_runs/03_three/run.json" in names
    assert "results/long_runs/04_four/run.json" not in names
    assert "results/long_runs/case_b_two/run.json" not in names
    assert "vaelib/c.py" not in names
    assert {"vaelib/__init__.py", "vaelib/b.py"} <= names


def test_the_long_runs_of_a_case_file_belong_to_it(root):
    (root / "vaelib" / "course" / "case_b.py").write_text("")
    found = files_of("from vaelib.course import case_b", root, root / "results")
    runs = {file.relative_to(root).as_posix() for file in found if file.suffix == ".json"}
    assert runs == {"results/long_runs/case_b_two/run.json"}


def test_an_edit_to_triplets_concerns_the_chapters_that_use_them():
    concerned = set()
    for chapter in CHECKOUT.chapters():
        cells = nbformat.read(chapter, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        if "vaelib.triplet" in modules_of(code, CHECKOUT.root):
            concerned.add(chapter.stem)
    # Case file A compares with runs of lesson 5, 6 shows a measure of classes, 7 scores all models,
    # and case file D runs the command, which can train on triplets.
    others = {"case_a_triplet_thesis", "case_d_reconstruction"}
    assert concerned == others | {"05_triplet_latents", "06_m1_semi_supervised", "07_scoring"}
