"""The address of the course, and that of the repository that it lies in.

Imports no package but the YAML reader, so that a workflow can compare the two before it installs.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from book.layout import Layout

GITHUB = "https://github.com"


class AddressError(ValueError):
    """The repository that the course lies in is not the one that it names."""


def address_here(root: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the address on GitHub of the repository that a checkout lies in.

    The variable ``GITHUB_REPOSITORY`` says so in a workflow, elsewhere the remote ``origin``.

    Returns
    -------
    str or None
        None if there is no such remote, or it does not lie on GitHub: Colab opens nothing else.

    Raises
    ------
    AddressError
        If the variable is not of the form ``owner/name``.
    """
    if owner_and_name := environment.get("GITHUB_REPOSITORY"):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", owner_and_name):
            raise AddressError(f"GITHUB_REPOSITORY is {owner_and_name!r}; expected owner/name")
        # Another server has workflows too, and who owns the same name on GitHub is not known.
        on_github = environment.get("GITHUB_SERVER_URL", GITHUB) == GITHUB
        return f"{GITHUB}/{owner_and_name}" if on_github else None
    git = ["git", "-C", str(root), "remote", "get-url", "origin"]
    remote = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    match = re.fullmatch(
        r"(?:https://github\.com/|git@github\.com:|ssh://git@github\.com/)([\w.-]+/[\w.-]+?)(?:\.git)?/?",
        remote,
    )
    return f"{GITHUB}/{match[1]}" if match else None


def check_address(layout: Layout, environment: Mapping[str, str] = os.environ) -> None:
    """Compare the committed address with that of the repository.

    Raises
    ------
    AddressError
        If they differ, or nobody knows the repository's.
    """
    committed, here = layout.repository().url, address_here(layout.root, environment)
    if here is None:
        raise AddressError(f"no repository on GitHub is known to compare with {committed}")
    if here.lower() != committed.lower():
        raise AddressError(
            f"this repository is {here}, but _config.yml names {committed}, from where readers "
            "would install: run make badges, commit what it changes, and push"
        )
