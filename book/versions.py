"""Run every chapter in ``quick`` on other versions of its packages than those of ``.venv``.

``make versions VERSIONS=lowest`` (or ``colab``, ``newest``) builds an environment under
``_build/versions`` and runs the chapters there. Nothing but Python itself is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS_OF_COLAB = Path("book", "colab.txt")
# What runs a chapter, beside what vaelib needs.
RUNNER = ("papermill", "nbformat", "ipykernel")
PYTHONS = {"lowest": (3, 11), "colab": (3, 13), "newest": None}
"""The Python of each environment; None: any."""


def requirements(versions: str) -> list[str]:
    """Return what pip is asked for.

    Parameters
    ----------
    versions
        ``"lowest"``: every lower bound of ``pyproject.toml``, exactly. ``"colab"``: the versions
        that Colab comes with. ``"newest"``: whatever is the newest today.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if versions == "colab":
        return ["-r", str(PINS_OF_COLAB), *RUNNER]
    tools = [tool for tool in project["optional-dependencies"]["book"] if _name(tool) in RUNNER]
    asked = project["dependencies"] + tools
    return [line.replace(">=", "==") for line in asked] if versions == "lowest" else asked


def run(versions: str) -> int:
    """Build the environment and run the chapters in it; return the exit status."""
    expected, here = PYTHONS[versions], sys.version_info[:2]
    if expected and here != expected:
        name = ".".join(map(str, expected))
        sys.exit(
            f"{versions} is tried on Python {name}, this is {here[0]}.{here[1]}: "
            f"make versions VERSIONS={versions} PYTHON=python{name}"
        )
    folder = ROOT / "_build" / "versions" / versions
    python = folder / "bin" / "python"
    venv.create(folder, with_pip=True, clear=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", *requirements(versions)], cwd=ROOT, check=True)
    # As in Colab: what is there stays as it is.
    subprocess.run([*pip, "--no-deps", "--editable", "."], cwd=ROOT, check=True)
    execute = ["-m", "book", "execute", "--profile", "quick", "--force", "--out", folder / "run"]
    environment = os.environ | {"PYTHONPATH": ""}
    return subprocess.run([python, *execute], cwd=ROOT, env=environment).returncode


def _name(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement).group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", choices=PYTHONS)
    sys.exit(run(parser.parse_args().versions))
