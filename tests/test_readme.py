"""Every command of README.md exists, and every link of the front pages leads somewhere."""

import re
import shlex

import pytest

from book.layout import CHECKOUT
from vaelib.cli import _parse

ROOT = CHECKOUT.root
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
PAGES = ["README.md", "CONTRIBUTING.md", "LICENSE-CC-BY-4.0.md", "results/README.md"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`((?:make|conda) [^`]*)`", README)
    return [words for words in [*lines, *map(shlex.split, inline)] if words]


def test_readme_shows_commands():
    assert {"book", "test"} <= {words[1] for words in commands() if words[0] == "make"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_exists(words):
    program, *arguments = words
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert targets
        assert set(targets) <= TARGETS
        variables = [word.partition("=")[0] for word in arguments if "=" in word]
        assert set(variables) <= {"PYTHON", "PROFILE", "ARGS"}
    elif program == "git":
        assert arguments == ["clone", CHECKOUT.repository().url]
    elif program == "cd":
        assert CHECKOUT.repository().url.endswith("/" + arguments[0])
    elif program == "vaelib":
        assert _parse(arguments) is not None  # a wrong one ends the process
    elif program == "conda":
        assert (ROOT / arguments[-1]).is_file()
    else:
        pytest.fail(f"no test knows the command {program}: add it here")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith(("https://", "mailto:", "#")):
            target = link.partition("#")[0]
            assert ((ROOT / page).parent / target).exists(), link
