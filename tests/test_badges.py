"""The address of the course, and what names it."""

import builtins
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import vaelib
from book import badges
from book.__main__ import main
from book.address import AddressError, address_here, check_address
from book.badges import refresh, refresh_all, with_address
from book.layout import CHECKOUT, Layout, Repository

ROOT = CHECKOUT.root
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


def chapter():
    title = "# Chapter\n\n<!-- badges -->\nold\n<!-- /badges -->\n\nText."
    setup = new_code_cell("old", metadata={"tags": ["setup"]})
    return new_notebook(cells=[new_markdown_cell(title), setup, new_code_cell("1")])


@pytest.fixture
def layout(tmp_path):
    """Return a small checkout outside any repository."""
    (tmp_path / "notebooks").mkdir()
    nbformat.write(chapter(), tmp_path / "notebooks" / "01.ipynb")
    config = "# kept\nrepository:\n  url: https://github.com/a_b/c  # kept\n  branch: main\n"
    (tmp_path / "_config.yml").write_text(config)
    (tmp_path / "README.md").write_text("git clone https://github.com/a_b/c\ncd c\ncd d\n")
    return Layout(tmp_path)


def remote(layout, url: str) -> None:
    git = ["git", "-C", str(layout.root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", url], check=True)


def test_links_and_setup_follow_the_address():
    notebook = refresh(chapter(), "01.ipynb", Repository("https://github.com/some/where", "dev"))
    first, setup, other = notebook.cells
    assert (
        "https://colab.research.google.com/github/some/where/blob/dev/notebooks/01.ipynb"
        in first.source
    )
    assert "https://github.com/some/where/raw/dev/notebooks/01.ipynb" in first.source
    assert first.source.startswith("# Chapter")
    assert first.source.endswith("Text.")
    # From a tag: what is pushed to the branch later does not reach readers of this version.
    assert f'git+https://github.com/some/where@v{vaelib.__version__}"' in setup.source
    assert "hide-input" in setup.metadata.tags
    assert setup.metadata.jupyter["source_hidden"]
    assert setup.metadata.cellView == "form"
    assert (other.source, dict(other.metadata)) == ("1", {})


def test_a_new_address_reaches_every_file_and_nothing_else_changes(layout):
    changed = refresh_all(layout, "https://github.com/me/mine")
    assert changed == ["_config.yml", "README.md", "01.ipynb"]
    assert (layout.root / "_config.yml").read_text() == (
        "# kept\nrepository:\n  url: https://github.com/me/mine  # kept\n  branch: main\n"
    )
    page = (layout.root / "README.md").read_text()
    assert page == "git clone https://github.com/me/mine\ncd mine\ncd d\n"
    assert "github.com/me/mine" in (layout.notebooks / "01.ipynb").read_text()
    assert refresh_all(layout) == []


def test_the_reading_time_follows_the_chapter(layout):
    path = layout.notebooks / "01.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += "\n\n<!-- time -->old<!-- /time -->"
    notebook.cells.append(new_markdown_cell("### Exercise 1 · derive · ★ · 10 min"))
    nbformat.write(notebook, path)
    assert refresh_all(layout) == ["01.ipynb"]
    written = nbformat.read(path, as_version=4)
    sentence = "About 5 minutes to read, 10 more for the exercises."
    assert written.cells[0].source.endswith(f"Text.\n\n<!-- time -->{sentence}<!-- /time -->")
    assert refresh_all(layout) == []
    written.cells.append(new_markdown_cell("word " * 800))
    nbformat.write(written, path)
    assert refresh_all(layout) == ["01.ipynb"]
    assert "About 10 minutes to read, 10 more" in path.read_text(encoding="utf-8")


def test_an_address_edited_by_hand_reaches_every_file(layout):
    config = layout.root / "_config.yml"
    config.write_text(config.read_text().replace("a_b/c", "me/mine"))
    assert refresh_all(layout) == ["README.md", "01.ipynb"]
    assert "git clone https://github.com/me/mine\ncd mine\n" in (
        (layout.root / "README.md").read_text()
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/me/mine", "https://github.com/me/mine.git",
        "git@github.com:me/mine.git", "ssh://git@github.com/me/mine",
    ],
)  # fmt: skip
def test_the_address_is_read_from_the_remote(layout, url):
    remote(layout, url)
    assert address_here(layout.root, {}) == "https://github.com/me/mine"


def test_elsewhere_there_is_no_address(layout):
    assert address_here(layout.root, {"GIT_CEILING_DIRECTORIES": "/"}) is None
    remote(layout, "https://example.org/me/mine")
    assert address_here(layout.root, {}) is None
    with pytest.raises(AddressError, match="no repository on GitHub is known"):
        check_address(layout, {})


def test_a_workflow_of_another_server_has_no_address_on_github(layout):
    elsewhere = {"GITHUB_REPOSITORY": "a_b/c", "GITHUB_SERVER_URL": "https://git.example.org"}
    assert address_here(layout.root, elsewhere) is None
    here = {"GITHUB_REPOSITORY": "a_b/c", "GITHUB_SERVER_URL": "https://github.com"}
    assert address_here(layout.root, here) == "https://github.com/a_b/c"


def test_the_command_fails_with_one_sentence_and_passes(monkeypatch):
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    committed = CHECKOUT.repository().url
    monkeypatch.setenv("GITHUB_REPOSITORY", committed.removeprefix("https://github.com/"))
    main(["address"])
    monkeypatch.setenv("GITHUB_REPOSITORY", "somebody/else")
    with pytest.raises(SystemExit) as stopped:
        main(["address"])
    assert re.fullmatch(
        r"this repository is https://github\.com/somebody/else, but _config\.yml names "
        rf"{re.escape(committed)}, .*: run make badges, commit .*",
        stopped.value.code,
    )


def test_the_command_needs_the_yaml_reader_alone():
    # The workflow runs it before it installs anything else.
    program = "import sys, book.__main__, book.address; print(*sys.modules)"
    run = [sys.executable, "-c", program]
    loaded = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "yaml" in loaded.split()
    assert not {"nbformat", "numpy", "torch", "vaelib"} & set(loaded.split())


def test_the_check_fails_and_passes(layout):
    remote(layout, "https://github.com/other/one")
    here = {"GITHUB_REPOSITORY": "me/mine"}  # in a workflow it comes first
    with pytest.raises(AddressError, match=r"this repository is .*/me/mine, but"):
        check_address(layout, here)
    refresh_all(layout, address_here(layout.root, here))
    check_address(layout, here)
    check_address(layout, {"GITHUB_REPOSITORY": "Me/Mine"})  # GitHub knows no case


@pytest.mark.parametrize("bad", ["mine", "https://github.com/me/mine", "me/mine/", "a b/c"])
def test_a_malformed_repository_is_named(layout, bad):
    with pytest.raises(AddressError, match="expected owner/name"):
        address_here(layout.root, {"GITHUB_REPOSITORY": bad})


def test_the_committed_address_stands_everywhere():
    url, branch = CHECKOUT.repository()
    for name in badges.PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert url in ADDRESS.findall(text), name
        own = {a for a in ADDRESS.findall(text) if a.endswith(url.rsplit("/", 1)[1])}
        assert own == {url}, name
        moved = with_address(text, "https://github.com/somebody/else")
        assert url not in moved, f"{name} names the address where make badges does not look"
        assert with_address(moved, url) == text
    assert branch


def test_the_workflow_checks_the_address_before_it_builds():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in workflow["jobs"]["build"]["steps"]]
    checks = [step.endswith("python -m book address") for step in steps]
    builds = [step.startswith("make html") for step in steps]
    assert checks.index(True) < builds.index(True)


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert vaelib.__version__ == project["version"] == str(citation["version"])


# The set-up cell, run without a network


@pytest.fixture
def run_setup(monkeypatch):
    """Function that runs the cell; what importing vaelib does, and pip's exit status, are given."""
    calls = []

    def run(failure, status=0):
        code = badges.SETUP.format(url="https://github.com/me/mine", version="1.2.3")
        pending = [failure] if failure else []
        original = builtins.__import__

        def fake_import(name, *arguments):
            if name == "vaelib" and pending:
                raise pending.pop()
            return original(name, *arguments)

        monkeypatch.setattr(builtins, "__import__", fake_import)
        monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command) or status)
        exec(code, {})
        return calls

    run.calls = calls
    return run


def test_nothing_is_installed_where_vaelib_is(run_setup):
    assert run_setup(None) == []


def test_a_missing_vaelib_is_installed_from_its_tag_alone(run_setup):
    missing = ModuleNotFoundError("No module named 'vaelib'", name="vaelib")
    (command,) = run_setup(missing)
    assert command[0] == sys.executable
    assert "--no-deps" in command
    assert command[-1] == "vaelib @ git+https://github.com/me/mine@v1.2.3"


def test_a_failed_installation_is_explained(run_setup):
    missing = ModuleNotFoundError("No module named 'vaelib'", name="vaelib")
    with pytest.raises(RuntimeError, match=r"could not install vaelib @ git.*network.*pip install"):
        run_setup(missing, status=1)


@pytest.mark.parametrize(
    "failure",
    [
        ModuleNotFoundError("No module named 'torch'", name="torch"),
        ModuleNotFoundError("No module named 'vaelib.threads'", name="vaelib.threads"),
        ImportError("cannot import name 'fit'", name="vaelib"),
    ],
    ids=["dependency", "module", "name"],
)
def test_a_broken_vaelib_shows_its_cause(run_setup, failure):
    with pytest.raises(type(failure), match=str(failure)):
        run_setup(failure)
    assert run_setup.calls == []
