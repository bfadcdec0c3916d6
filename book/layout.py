"""Where things lie, and the facts that ``_config.yml`` and ``_toc.yml`` hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Repository(NamedTuple):
    """The public address of the course."""

    url: str
    branch: str


class Layout:
    """The folders of one checkout.

    Parameters
    ----------
    root
        The folder of ``_config.yml``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notebooks = root / "notebooks"
        self.results = root / "results"
        self.executed = root / "_build" / "executed"
        self.published = root / "_build" / "published"
        self.stage = root / "_build" / "stage"
        self.html = root / "_build" / "html"

    def chapters(self) -> list[Path]:
        """Return the committed notebooks: lessons by their numbers, then case files by letters."""
        return sorted(self.notebooks.glob("*.ipynb"))

    def repository(self) -> Repository:
        """Return the public address; it is written in ``_config.yml`` and nowhere else."""
        fields = self._load("_config.yml")["repository"]
        return Repository(url=fields["url"], branch=fields["branch"])

    def pages(self) -> list[str]:
        """Return the pages of the table of contents, in order and without suffixes."""
        return list(_files(self._load("_toc.yml")))

    def _load(self, name: str) -> dict[str, Any]:
        return yaml.safe_load((self.root / name).read_text(encoding="utf-8"))


def _files(node: Any) -> Iterator[str]:
    """Yield what stands under ``root`` and ``file`` anywhere in nested maps and lists."""
    if isinstance(node, list):
        for item in node:
            yield from _files(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from _files(value)


CHECKOUT = Layout(Path(__file__).resolve().parent.parent)
