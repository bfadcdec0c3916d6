"""All chapters with their long runs, and the scoreboard of all models."""

from __future__ import annotations

from typing import Any, NamedTuple

from vaelib.course import (
    case_c,
    case_d,
    case_e,
    lesson_1,
    lesson_2,
    lesson_3,
    lesson_4,
    lesson_5,
    lesson_6,
    lesson_7,
)

LESSONS = (lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6, lesson_7)
CASES = (case_c, case_d, case_e)
CHAPTERS = tuple(chapter.RUNS for chapter in (*LESSONS, *CASES))


class Row(NamedTuple):
    """A model on the scoreboard."""

    chapter: str
    """Its lesson's number, or its case file's letter."""
    dataset: str
    title: str
    score: dict[str, Any]
    """What :func:`vaelib.course.scoreboard.measure` found, for the run's first seed."""


def scoreboard() -> list[Row]:
    """Return every published score, in the order of data sets, chapters and declarations."""
    rows = []
    for dataset in ("mnist", "fashion-mnist"):
        for runs in CHAPTERS:
            for run in runs:
                if run.dataset == dataset:
                    first = runs.published(run.name).get(run.seeds[0], {})
                    scores = first.get("scores", {})
                    name = short_name(runs.chapter)
                    rows += [Row(name, dataset, *item) for item in scores.items()]
    return rows


def short_name(chapter: str) -> str:
    """Return ``"2"`` for ``"02_likelihoods"``, and ``"D"`` for ``"case_d_reconstruction"``."""
    first, second, *_ = chapter.split("_")
    return second.upper() if first == "case" else str(int(first))
