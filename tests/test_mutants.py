"""The list of known errors and its table; three of them are applied for real."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mutants import MUTANTS, Mutant
from mutation import (
    TABLE,
    BrokenRunError,
    check_control,
    copy_of_repository,
    entry,
    environment,
    first_failure,
    main,
    try_mutant,
)

from book.layout import CHECKOUT

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
# Of modules whose tests take no time.
SAMPLE = [
    BY_NAME["variance for standard deviation in the sample"],
    BY_NAME["fall that forgets the warm-up before it"],
    BY_NAME["one stream for all purposes"],
]


@pytest.fixture(params=MUTANTS, ids=lambda mutant: mutant.name)
def mutant(request) -> Mutant:
    return request.param


def test_names_are_unique():
    assert len(BY_NAME) == len(MUTANTS) >= 30


def test_every_mutant_applies(mutant, tmp_path):
    (tmp_path / "vaelib").mkdir()
    path = Path(shutil.copy(CHECKOUT.root / mutant.file, tmp_path / mutant.file))
    before = ast.parse(path.read_text(encoding="utf-8"))
    mutant.apply(tmp_path)
    text = path.read_text(encoding="utf-8")
    compile(text, mutant.file, "exec")
    assert ast.dump(ast.parse(text)) != ast.dump(before)


def test_its_tests_and_its_chapter_exist(mutant):
    assert mutant.tests
    for test in mutant.tests:
        assert (CHECKOUT.root / test).is_file()
    if mutant.chapter:
        assert (CHECKOUT.notebooks / f"{mutant.chapter}.ipynb").is_file()


def test_the_table_has_every_mutant_and_none_survived():
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["mutants"]
    shown = [{key: row[key] for key in entry(MUTANTS[0])} for row in rows]
    assert shown == list(map(entry, MUTANTS)), "run make mutants"
    for row in rows:
        assert row["test"] or row["claim"], f"survived: {row['name']}"


# The runner


def test_a_text_that_is_not_there_once_is_an_error(tmp_path):
    (tmp_path / "code.py").write_text("a = 1\na = 1\n", encoding="utf-8")
    for before, found in (("a = 1", 2), ("b", 0)):
        with pytest.raises(ValueError, match=f"occurs {found} times in code.py"):
            Mutant("an error", "code.py", before, "a = 2", ()).apply(tmp_path)


def test_what_is_imported_is_the_copy_also_by_kernels():
    # A kernel starts in the folder of its notebook.
    program = "from importlib.util import find_spec; print(find_spec('vaelib').origin)"
    with copy_of_repository() as root:
        for folder in (root, root / "notebooks"):
            origin = subprocess.run(
                [sys.executable, "-c", program],
                cwd=folder, env=environment(root), capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            assert Path(origin.strip()) == root / "vaelib" / "__init__.py"


def test_a_sample_is_caught_and_the_repository_itself_passes():
    check_control(SAMPLE, "tests")
    for mutant in SAMPLE:
        test = try_mutant(mutant, "tests")["test"]
        assert test.startswith(mutant.tests), test


BY_A_TEST = {"test": "tests/test_a.py::test_b"}
FIRST, SECOND = MUTANTS[0].name, MUTANTS[1].name


@pytest.fixture
def caught(monkeypatch):
    """What is said to catch a mutant, without running anything; no word of it is Ctrl-C."""
    answers: dict[str, dict] = {}

    def answer(mutant: Mutant, only: str | None) -> dict:
        if mutant.name not in answers:
            raise KeyboardInterrupt
        return answers[mutant.name]

    monkeypatch.setattr("mutation.check_control", lambda mutants, only: None)
    monkeypatch.setattr("mutation.try_mutant", answer)
    return answers


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "mutants.json"


def written(out: Path) -> list[tuple]:
    rows = json.loads(out.read_text(encoding="utf-8"))["mutants"]
    return [(row["name"], row["test"], row["claim"]) for row in rows]


def test_other_rows_are_kept_in_the_order_of_the_list(caught, out):
    caught |= {FIRST: {"test": None, "claim": "one"}, SECOND: BY_A_TEST | {"claim": "two"}}
    assert main([SECOND, "--out", str(out)]) == 0
    assert main([FIRST, "--out", str(out)]) == 0
    caught[SECOND] = {"test": "tests/test_c.py::test_d"}  # the chapter was left out
    assert main([SECOND, "--only=tests", "--out", str(out)]) == 0
    assert written(out) == [(FIRST, None, "one"), (SECOND, "tests/test_c.py::test_d", "two")]


def test_a_row_of_an_error_that_has_changed_is_not_kept(caught, out):
    caught |= {FIRST: BY_A_TEST, SECOND: BY_A_TEST}
    main([FIRST, "--out", str(out)])
    table = json.loads(out.read_text(encoding="utf-8"))
    table["mutants"][0]["after"] = "what it was before"
    out.write_text(json.dumps(table), encoding="utf-8")
    main([SECOND, "--out", str(out)])
    assert written(out) == [(SECOND, BY_A_TEST["test"], None)]


def test_a_survivor_is_named_and_fails_the_command_after_all_have_run(caught, out, capsys):
    caught |= {mutant.name: BY_A_TEST for mutant in MUTANTS}
    caught[FIRST] = {"test": None, "claim": None}
    assert main(["--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert f"SURVIVED {FIRST}" in printed
    assert f"{len(MUTANTS) - 1} of {len(MUTANTS)} mutants were caught" in printed
    assert len(written(out)) == len(MUTANTS)


def test_an_interruption_loses_nothing_that_is_done(caught, out):
    caught[FIRST] = BY_A_TEST
    with pytest.raises(KeyboardInterrupt):
        main(["--out", str(out)])
    assert written(out) == [(FIRST, BY_A_TEST["test"], None)]


def test_an_unknown_name_is_an_error(out, capsys):
    with pytest.raises(SystemExit):
        main(["no such error", "--out", str(out)])
    assert "no mutant has a name" in capsys.readouterr().err


TEST_FAILS = "ClaimError: the claim does not hold: a test\nFAILED tests/test_a.py::test_b[1-x] - a"
CLAIM_FAILS = (
    'raise ClaimError(\n    f"the claim does not hold: {sentence}"\n'
    "\x1b[31mClaimError\x1b[39m: the claim does not hold: it is small\nmeasured 2\n"
    "FAILED a.ipynb::Cell 3 - AssertionError\n"
)


@pytest.mark.parametrize(
    ("status", "printed", "what", "expected"),
    [
        (0, "3 passed", ("tests/test_a.py",), None),
        (1, TEST_FAILS, ("tests/test_a.py",), "tests/test_a.py::test_b[1-x]"),
        (1, CLAIM_FAILS, ("--nbval", "a.ipynb"), "it is small"),
        (1, "FAILED a.ipynb::Cell 3\n", ("--nbval", "a.ipynb"), "a.ipynb::Cell 3"),
    ],
)
def test_what_pytest_says_is_read(monkeypatch, status, printed, what, expected):
    run = SimpleNamespace(returncode=status, stdout=printed, stderr="")
    monkeypatch.setattr("mutation.subprocess.run", lambda *_, **__: run)
    assert first_failure(CHECKOUT.root, *what) == expected


@pytest.mark.parametrize("status", [1, 2, 4, 5])
def test_pytest_that_cannot_run_is_neither_caught_nor_survived(monkeypatch, status):
    run = SimpleNamespace(returncode=status, stdout="ERROR: file not found", stderr="")
    monkeypatch.setattr("mutation.subprocess.run", lambda *_, **__: run)
    with pytest.raises(BrokenRunError, match="file not found"):
        first_failure(CHECKOUT.root, "tests/no_such_file.py")
