"""Reading times of small notebooks, against counts by hand."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.reading import Reading, reading_time, sections, write_time


def notebook(*cells: str | tuple[str, ...]):
    """Markdown as a string; code as a tuple of its source and its tags."""
    return new_notebook(
        cells=[
            new_markdown_cell(cell)
            if isinstance(cell, str)
            else new_code_cell(cell[0], metadata={"tags": list(cell[1:])})
            for cell in cells
        ]
    )


def test_words_visible_lines_and_minutes_are_counted():
    counted = reading_time(
        notebook(
            "# A title of five words",  # 5, without the mark of the heading
            "Two words – and a [link](https://example.org/a/b) here.",  # 6: a dash is no word
            ("x = 1\n\ny = 2",),  # an empty line is a line
            ("import torch\nimport numpy", "hide-input"),
            "### Exercise 3 · find the bug · ★★ · 10 min\n\nFind it.",  # 7 and 2
        )
    )
    assert counted == Reading(words=20, lines=3, exercise_minutes=10)
    assert counted.minutes == 20 / 150 + 3 / 15


@pytest.mark.parametrize(
    ("prose", "words"),
    [
        ("", 0),
        ("A code $z \\sim p(z)$ is drawn.", 5),
        ("Let $a$, $b$ and $c + d = e$.", 5),
        ("A $z$-space and 5\\$ or 6\\$ more", 7),
        ("$$\\log p(x) = \\log \\int p(x, z)\\,dz$$", 5),
        ("Before.\n\n$$\n\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}\n$$\n\nAfter.", 7),
        ("$$a$$ and $$b$$", 11),
        ("one <!-- not read --> two", 2),
        ("<!-- badges -->\n[Open in Colab](https://x.org)\n<!-- /badges -->\nread", 1),
        ("<!-- time -->About 5 minutes to read.<!-- /time --> read", 1),
        ("| a | b |\n|---|---|\n| 1 | 2 |", 4),
        ("**bold** and `code`", 3),
        ("![the text](picture.png)", 2),
    ],
)
def test_words_of_prose(prose, words):
    assert reading_time(notebook(prose)).words == words


def test_a_longer_formula_counts_as_a_short_one():
    short, long = "$a$ and $$b$$", "$a + b + c + d$ and $$b = c = d = e = f = g = h$$"
    assert reading_time(notebook(short)) == reading_time(notebook(long))


def test_captions_are_read_and_outputs_are_not():
    chapter = notebook(("show()", "hide-input"))
    (cell,) = chapter.cells
    cell.metadata["mystnb"] = {"figure": {"caption": "Four words of caption."}}
    cell.outputs = [{"output_type": "stream", "name": "stdout", "text": "many more words"}]
    assert reading_time(chapter) == Reading(4, 0, 0)


@pytest.mark.parametrize("tag", ["hide-input", "hide-cell", "remove-input", "remove-cell"])
def test_folded_code_is_not_read(tag):
    assert reading_time(notebook(("a\nb", tag), ("c", "other-tag"))).lines == 1


def test_code_in_a_fence_is_code_and_its_comments_are_no_headings():
    counted = reading_time(notebook("One\n\n```python\n# a comment\nx = 1\n```\n\ntwo."))
    assert counted == Reading(2, 2, 0)
    assert len(sections(notebook("# One\n\n```\n# two\n```"))) == 2  # before, and under One


def test_answers_are_read_and_the_hints_of_exercises_are_not():
    folded = "<details><summary>Answer</summary>\n\nthree words more\n\n</details>"
    question = f"## Question\n\nWhy?\n\n{folded}"  # 1 + 1 + 4
    exercise = f"### Exercise 1 · derive · ★ · 5 min\n\nWhy?\n\n{folded}"  # 5 + 1
    assert reading_time(notebook(question)).words == 6
    assert reading_time(notebook(exercise)).words == 6
    assert reading_time(notebook(exercise, folded)).words == 6  # in a cell of its own
    assert reading_time(notebook(exercise, "## Summary", folded)).words == 11


def test_the_minutes_of_exercises_are_added():
    exercises = [f"### Exercise {k} · investigate · ★★★ · {5 * k} min\n\nText." for k in (1, 2, 3)]
    assert reading_time(notebook("\n\n".join(exercises))).exercise_minutes == 30
    assert [s.exercise and s.exercise[1] for s in sections(notebook(*exercises))] == [
        None, "1", "2", "3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "heading",
    [
        "### Exercise 1 · derive · ★★", "### Exercise 1: derive · ★ · 5 min",
        "#### Exercise 1 · derive · ★ · 5 min", "### Exercise 1 · derive · ★★★★ · 5 min",
        "### Exercise 1 · derive · ★ · 5 minutes", "### Exercise one · derive · ★ · 5 min",
    ],
)  # fmt: skip
def test_another_heading_is_no_exercise(heading):
    chapter = notebook(heading)
    assert not any(section.exercise for section in sections(chapter))
    assert reading_time(chapter).exercise_minutes == 0


@pytest.mark.parametrize(
    ("words", "lines", "exercises", "sentence"),
    [
        (150, 0, 0, "About 5 minutes to read."),
        (750, 0, 0, "About 5 minutes to read."),
        (751, 0, 0, "About 10 minutes to read."),
        (4000, 250, 75, "About 45 minutes to read, 75 more for the exercises."),
    ],
)
def test_the_sentence_rounds_up_to_five_minutes(words, lines, exercises, sentence):
    assert str(Reading(words, lines, exercises)) == sentence


def test_the_time_is_written_where_the_mark_stands_and_nowhere_else():
    chapter = notebook(
        "# T\n\nTime: <!-- time -->old<!-- /time -->",
        "word " * 800,
        ("code = '<!-- no mark -->'",),
        "### Exercise 1 · derive · ★ · 15 min",
    )
    others = [cell.source for cell in chapter.cells[1:]]
    write_time(chapter)
    sentence = "About 10 minutes to read, 15 more for the exercises."
    first = f"# T\n\nTime: <!-- time -->{sentence}<!-- /time -->"
    assert [cell.source for cell in chapter.cells] == [first, *others]
    write_time(chapter)  # what it wrote is not read
    assert chapter.cells[0].source == first


def test_a_notebook_without_a_mark_stays_as_it_is():
    chapter = notebook("# T", ("x",))
    before = str(chapter)
    write_time(chapter)
    assert str(chapter) == before
