"""What is installed where the chapters are tried on other versions."""

import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from book import versions

PROJECT = tomllib.loads((versions.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}


def pinned(lines: list[str]) -> dict[str, str]:
    """Return package -> version of the lines that pin one exactly."""
    pins = {}
    for requirement in map(Requirement, lines):
        for bound in requirement.specifier:
            assert bound.operator == "=="
            pins[requirement.name] = bound.version
    return pins


def test_lowest_is_every_declared_bound_exactly():
    pins = pinned(versions.requirements("lowest"))
    for name, bounds in DECLARED.items():
        assert [(b.operator, b.version) for b in bounds] == [(">=", pins[name])]
    assert pins.keys() - DECLARED.keys() == set(versions.RUNNER)


def test_colab_has_what_is_declared():
    option, file, *runner = versions.requirements("colab")
    assert (option, tuple(runner)) == ("-r", versions.RUNNER)
    lines = (versions.ROOT / file).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    pins = pinned(lines)
    assert {Requirement(line).name for line in lines} >= DECLARED.keys()
    for name in pins.keys() & DECLARED.keys():
        assert DECLARED[name].contains(pins[name]), f"Colab's {name} {pins[name]} is too old"


def test_newest_asks_for_what_is_declared():
    assert set(versions.requirements("newest")) >= set(PROJECT["dependencies"])


def test_the_lowest_python_is_the_declared_one():
    lowest = ".".join(map(str, versions.PYTHONS["lowest"]))
    assert PROJECT["requires-python"] == f">={lowest}"


def test_another_python_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.raises(SystemExit, match=r"PYTHON=python3\.13") as error:
        versions.run("colab")
    assert "colab is tried on Python 3.13, this is 3.99" in str(error.value)


def test_the_workflow_tries_all_of_them_on_their_python():
    file = versions.ROOT / ".github" / "workflows" / "versions.yml"
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
    tried = {e["versions"]: e["python"] for e in jobs["quick"]["strategy"]["matrix"]["include"]}
    assert tried.keys() == versions.PYTHONS.keys()
    for name, python in versions.PYTHONS.items():
        assert python is None or tried[name] == ".".join(map(str, python))
