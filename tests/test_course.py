"""What imports what, the command of the long runs, and what all lessons share."""

import ast
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch

from vaelib.course import lesson_2, lesson_3, lesson_4, lesson_6, lesson_7
from vaelib.course.__main__ import main
from vaelib.course.chapters import CHAPTERS
from vaelib.course.store import LongRuns

ROOT = Path(__file__).parents[1]


def name_of(path: Path) -> str:
    """Return the dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in (ROOT / "vaelib").rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Return the modules of vaelib that a file names in its imports, wherever these stand.

    The packages around a module are run before it, too, but need nothing of it: they are left out.
    """
    names, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    # What only type checkers see is imported when it is asked for.
    tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports by a relative name"
            whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in whole.values()}
    return names & MODULES.keys()


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def is_of_the_course(module: str) -> bool:
    return module == "vaelib.course" or module.startswith("vaelib.course.")


def test_the_imports_are_read_from_the_files():
    assert {"vaelib", "vaelib.data", "vaelib.course", "vaelib.course.labs"} <= IMPORTS.keys()
    assert "vaelib.data" in IMPORTS["vaelib.course.protocols"]  # from vaelib import data
    assert "vaelib.threads" in IMPORTS["vaelib"]  # import vaelib.threads
    assert "vaelib.models" in IMPORTS["vaelib.course.store"]  # from vaelib.models import VAE
    assert IMPORTS["vaelib.course"] == set()


def test_the_core_never_imports_the_course():
    core = {name: found for name, found in IMPORTS.items() if not is_of_the_course(name)}
    assert len(core) > 20
    assert {name: found for name, found in core.items() if any(map(is_of_the_course, found))} == {}


def test_no_imports_go_in_a_circle():
    TopologicalSorter(IMPORTS).prepare()  # a CycleError names the circle


def test_the_store_trains_nothing():
    found, waiting = set(), {"vaelib.course.store"}
    while waiting:
        found |= waiting
        waiting = set().union(*(IMPORTS[name] for name in waiting)) - found
    assert "vaelib.course.scoreboard" in found
    assert not found & {"vaelib", "vaelib.training", "vaelib.sweeps"}


# The command


def test_every_run_is_listed_with_the_seeds_that_are_published(capsys):
    main(["--list"])
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        [runs.chapter, run.name, f"{len(run.seeds)} of {len(run.seeds)} seeds published"]
        for runs in CHAPTERS
        for run in runs
    ]


def test_some_runs_are_listed_if_named(capsys):
    main(["--list", "project-c-8", "128d"])
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [
        ["04_beta_tradeoff", "project-c-8"],
        ["02_likelihoods", "128d"],
    ]


@pytest.fixture
def published(monkeypatch) -> list[tuple]:
    """A note of what was to be published; nothing is trained."""
    noted = []

    def publish(runs: LongRuns, name: str, *, retrain: bool = False) -> None:
        noted.append((runs.chapter, name, retrain))

    monkeypatch.setattr(LongRuns, "publish", publish)
    return noted


@pytest.mark.parametrize("option", [[], ["--list"], ["--retrain"]])
def test_an_unknown_run_is_named_and_nothing_is_trained(option, published, capsys):
    with pytest.raises(SystemExit, match="no long run is called x, y; --list shows their names"):
        main([*option, "x", "128d", "y"])
    assert published == []
    assert capsys.readouterr().out == ""


def test_runs_are_published_by_name_or_all_of_them(published):
    main(["project-c-8", "--retrain"])
    assert published == [("04_beta_tradeoff", "project-c-8", True)]
    published.clear()
    main([])
    assert published == [(runs.chapter, run.name, False) for runs in CHAPTERS for run in runs]


# The networks


@pytest.mark.parametrize(
    "build",
    [
        lesson_2.vae_128d,
        lesson_2.project_b_vae,
        lesson_4.project_c_vae,
        lesson_3.project_e_vae,
        lesson_6.m1_vae,
        partial(lesson_7.burda_vae, torch.full((2, 1, 28, 28), 0.3)),
    ],
)
def test_the_seed_of_a_recipe_fixes_its_weights(build, rng_untouched):
    with rng_untouched():
        one, same, other = build(seed=3), build(seed=3), build(seed=4)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        assert "weight" not in name or not torch.equal(value, other.state_dict()[name])
