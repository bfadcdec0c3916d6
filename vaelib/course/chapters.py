"""All chapters with their long runs, and the scoreboard of all models."""

from __future__ import annotations

from typing import Any, NamedTuple

from vaelib.course import (
    case_c,
    lesson_1,
    lesson_2,
    lesson_3,
    lesson_4,
    lesson_5,
    lesson_6,
    lesson_7,
)

LESSONS = (lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6, lesson_7)
CASES = (case_c,)
CHAPTERS = tuple(chapter.RUNS for chapter in (*LESSONS, *CASES))


class Row(NamedTuple):
    """A model on the scoreboard."""

    chapter: int
    dataset: str
    title: str
    score: dict[str, Any]
    """What :func:`vaelib.course.scoreboard.measure` found, for the run's first seed."""


def scoreboard() -> list[Row]:
    """Return every published score, in the order of data sets, chapters and declarations."""
    rows = []
    for dataset in ("mnist", "fashion-mnist"):
        for number, chapter in enumerate(CHAPTERS, start=1):
            for run in chapter:
                if run.dataset == dataset:
                    first = chapter.published(run.name).get(run.seeds[0], {})
                    scores = first.get("scores", {})
                    rows += [Row(number, dataset, *item) for item in scores.items()]
    return rows
