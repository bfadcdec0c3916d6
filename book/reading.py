"""How long a chapter takes to read, counted from its notebook, so that no author guesses.

Prose is read at 150 words a minute, visible code at 15 lines a minute. A formula in a sentence
counts as one word, a displayed one as five, however long it is. An exercise says how long
it takes in its heading, ``### Exercise 3 · find the bug · ★★ · 10 min``; its hints and solution
are part of these minutes. A notebook shows the time between ``<!-- time -->`` and
``<!-- /time -->``, where ``make badges`` writes it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from nbformat import NotebookNode

WORDS_PER_MINUTE = 150
LINES_PER_MINUTE = 15
WORDS_PER_DISPLAYED_FORMULA = 5
FOLDING = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
"""Tags of cells whose code the book does not show at first."""

EXERCISE = re.compile(r"### Exercise (\d+) · (.+) · (★{1,3}) · (\d+) min$", re.MULTILINE)
DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
TIME = re.compile(r"<!-- time -->.*?<!-- /time -->", re.DOTALL)
_WRITTEN_BY_THE_BUILDER = re.compile(r"<!-- (\w+) -->.*?<!-- /\1 -->", re.DOTALL)
_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = "\0"  # begins a line that stood in a fence, where # is a comment and no heading
_HEADING = re.compile(r"^(?=#{1,3} )", re.MULTILINE)
_UNREAD = re.compile(r"<!--.*?-->|</?[a-z][^>]*>|(?<=\])\([^)\s]*\)", re.DOTALL)
_DISPLAYED = re.compile(r"\$\$.*?\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<!\\)\$[^$]+(?<!\\)\$")
_WORD = re.compile(r"\S*\w\S*")


@dataclass
class Section:
    """What stands under one heading of level one to three."""

    text: str = ""
    """Its Markdown, with the heading."""
    code: list[NotebookNode] = field(default_factory=list)
    """Its code cells."""

    @property
    def exercise(self) -> re.Match[str] | None:
        """Number, title, stars and minutes, if this is an exercise."""
        return EXERCISE.match(self.text)

    @property
    def visible_code(self) -> list[NotebookNode]:
        """Its code cells that the book shows unfolded."""
        return [cell for cell in self.code if not FOLDING & set(cell.metadata.get("tags", []))]


@dataclass(frozen=True)
class Reading:
    """What there is to read in a chapter."""

    words: int
    """Words of prose and captions; the answers to questions count, hints and solutions do not."""
    lines: int
    """Lines of visible code."""
    exercise_minutes: int
    """Sum of the minutes marked on exercises."""

    @property
    def minutes(self) -> float:
        """Minutes to read the chapter, without its exercises."""
        return self.words / WORDS_PER_MINUTE + self.lines / LINES_PER_MINUTE

    def __str__(self) -> str:
        """Return the sentence that the chapter shows."""
        reading = f"About {5 * math.ceil(self.minutes / 5)} minutes to read"
        exercises = f", {self.exercise_minutes} more for the exercises"
        return f"{reading}{exercises if self.exercise_minutes else ''}."


def reading_time(notebook: NotebookNode) -> Reading:
    """Count what there is to read in a notebook.

    Parameters
    ----------
    notebook
        The chapter. Captions of pictures count as prose; what cells print does not count.
    """
    words = lines = minutes = 0
    for section in sections(notebook):
        text = section.text
        if section.exercise:
            minutes += int(section.exercise[4])
            text = DETAILS.sub("", text)
        prose = [line for line in text.splitlines() if not line.startswith(_CODE)]
        prose += map(_caption, section.code)
        words += _count_words("\n".join(prose))
        lines += text.count(_CODE)
        lines += sum(len(cell.source.splitlines()) for cell in section.visible_code)
    return Reading(words, lines, minutes)


def sections(notebook: NotebookNode) -> list[Section]:
    """Split a notebook at its headings of level one to three."""
    found = [Section()]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found[-1].code.append(cell)
        else:
            source = _FENCE.sub(_mark_code, _WRITTEN_BY_THE_BUILDER.sub("", cell.source))
            before, *headed = _HEADING.split(source)
            found[-1].text += before + "\n"
            found += [Section(text + "\n") for text in headed]
    return found


def write_time(notebook: NotebookNode) -> None:
    """Write the reading time, in place, where the notebook has a mark for it."""
    time = reading_time(notebook)
    for cell in notebook.cells:
        cell.source = TIME.sub(f"<!-- time -->{time}<!-- /time -->", cell.source)


def _count_words(prose: str) -> int:
    prose = _DISPLAYED.sub(WORDS_PER_DISPLAYED_FORMULA * " formula ", prose)
    return len(_WORD.findall(_UNREAD.sub("", _INLINE.sub("formula", prose))))


def _mark_code(fence: re.Match[str]) -> str:
    return "".join(_CODE + line for line in fence[1].splitlines(keepends=True))


def _caption(cell: NotebookNode) -> str:
    return cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
