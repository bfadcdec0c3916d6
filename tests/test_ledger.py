import json
import math
import re

import nbformat
import pytest

from book.layout import CHECKOUT
from book.ledger import claims_page, mutants_page
from vaelib.course.claims import Claims, from_record

CHAPTERS = CHECKOUT.chapters()


def recorded(profile: str, name: str) -> list:
    file = CHECKOUT.results / "claims" / profile / f"{name}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["provenance"]["profile"] == profile
    return [from_record(entry) for entry in content["claims"]]


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return request.param


def test_the_ledger_has_every_line_of_the_chapter(chapter):
    cells = nbformat.read(chapter, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    lines = re.findall("^✓ .*$", "".join(o.get("text", "") for o in outputs), re.MULTILINE)
    assert [str(claim) for claim in recorded("full", chapter.stem)] == lines


def test_both_profiles_claim_the_same(chapter):
    full, quick = (recorded(profile, chapter.stem) for profile in ("full", "quick"))
    assert [(c.sentence, c.kind) for c in full] == [(c.sentence, c.kind) for c in quick]
    assert all(claim.checked for claim in full)


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_what_was_checked_holds(chapter, profile):
    for claim in recorded(profile, chapter.stem):
        assert claim.margin >= 0 or not claim.checked, claim.sentence


def test_a_loose_bound_has_its_reason(chapter):
    for claim in recorded("full", chapter.stem):
        assert claim.loose or not claim.is_loose, claim


def test_half_of_the_claims_are_live_and_no_chapter_is_without(chapter):
    claims = [claim for path in CHAPTERS for claim in recorded("full", path.stem)]
    assert sum(not claim.published for claim in claims) >= len(claims) / 2
    assert any(not claim.published for claim in recorded("full", chapter.stem))


@pytest.fixture
def results(tmp_path):
    for profile, live in {"full": 3.0, "quick": 1.5}.items():
        claims = Claims(profile=profile)
        claims.check("a live one", live, at_least=2 if profile == "full" else 1)
        claims.check("over seeds | paired", [1.0, 2.0, 3.0], at_most=3.5, published=True)
        claims.check("a sign", live, at_least=0, loose="only the sign", on_digits=False)
        run = {"profile": profile, "processor": "P", "auto_precision": "float32", "date": "D"}
        file = tmp_path / "claims" / profile / "01_x.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"provenance": run, "claims": claims.record()}))
    return tmp_path


def test_the_page_shows_both_profiles(results):
    page = claims_page(results, {"01_x": "The title"})
    assert "## 1. The title" in page
    assert "[To the chapter](../notebooks/01_x.ipynb)" in page
    assert "| a live one | live | 3 (≥ 2) |  | 1.5 (≥ 1) |" in page
    assert r"| over seeds \| paired *(loose: None)* | published | 2 ± 1 (≤ 3.5) | 1.5 |" in page
    assert "| a sign *(loose: only the sign)* | live | 3 (≥ 0) |  | 1.5 (not checked) |" in page
    assert page.count("3 claims, 2 of them live; 2 bounds are loose.") == 2
    assert "Full run: P, float32, D." in page


def test_a_case_file_has_no_number(results):
    for profile in ("full", "quick"):
        folder = results / "claims" / profile
        (folder / "case_b_y.json").write_bytes((folder / "01_x.json").read_bytes())
    page = claims_page(results, {"01_x": "The title", "case_b_y": "Case file B: the title"})
    assert "## 1. The title" in page
    assert "## Case file B: the title" in page


def test_without_a_ledger_the_page_says_so(tmp_path):
    assert "no ledger yet" in claims_page(tmp_path, {"01_x": "The title"})
    assert "Not tried yet" in mutants_page(tmp_path)


def test_the_page_of_mutants_says_who_caught_what(tmp_path):
    rows = [
        {"name": "KL twice", "file": "vaelib/objectives.py", "test": "tests/test_a.py::test_b[x]",
         "chapter": "01_x", "claim": "the ELBO is right"},
        {"name": "no decay", "file": "vaelib/training.py", "test": "tests/test_c.py::test_d",
         "chapter": "04_y", "claim": None},
        {"name": "clamped", "file": "vaelib/b.py", "test": "tests/test_e.py::test_f",
         "chapter": "02_z", "claim": "notebooks/02_z.ipynb::Cell 5"},
        {"name": "uniform", "file": "vaelib/f.py", "test": None,
         "chapter": "case_e_w", "claim": "the noise is normal"},
        {"name": "lost", "file": "vaelib/data.py", "test": None, "chapter": None, "claim": None},
    ]  # fmt: skip
    (tmp_path / "mutants.json").write_text(json.dumps({"mutants": rows}))
    page = mutants_page(tmp_path)
    assert "4 of 5 were caught, 3 by a chapter, too." in page
    chapter = "[chapter 1](../notebooks/01_x.ipynb): the ELBO is right"
    assert f"| KL twice | `objectives.py` | b | {chapter} |" in page
    assert "[chapter 4](../notebooks/04_y.ipynb) does not notice |" in page
    assert "[chapter 2](../notebooks/02_z.ipynb): an assert |" in page
    case = "[case file E](../notebooks/case_e_w.ipynb): the noise is normal"
    assert f"| uniform | `f.py` |  | {case} |" in page
    assert "| lost | `data.py` |  |  |" in page


def test_a_bound_of_two_sides_is_written_as_an_interval(tmp_path):
    claims = Claims(profile="full")
    claims.check("near", 1.0, near=1, within=0.25)
    assert math.isclose(next(iter(claims)).margin, 0.25)
    file = tmp_path / "claims" / "full" / "01_x.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"claims": claims.record()}))
    assert "| near | live | 1 (0.75 to 1.25) |" in claims_page(tmp_path, {"01_x": "T"})
