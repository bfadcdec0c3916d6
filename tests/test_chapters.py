"""The scoreboard of all models."""

import json
from itertools import groupby
from pathlib import Path

import pytest

from vaelib.course import chapters, lesson_2
from vaelib.course.chapters import scoreboard, short_name
from vaelib.course.results import write_json
from vaelib.course.store import LongRun, LongRuns

PUBLISHED = Path(__file__).parents[1] / "results" / "long_runs"


def test_the_scoreboard_holds_every_published_score_of_a_first_seed():
    rows = scoreboard()
    assert len(rows) == 36
    published = {}
    for path in PUBLISHED.glob("*/*.json"):
        first = json.loads(path.read_text(encoding="utf-8"))[0]
        assert first["seed"] == 0
        is_fashion = "fashion" in path.stem or path.stem.startswith("project-b")
        dataset = "fashion-mnist" if is_fashion else "mnist"
        for title, numbers in first.get("scores", {}).items():
            published[short_name(path.parent.name), dataset, title] = numbers
    assert {row[:3]: row.score for row in rows} == published


def test_the_scoreboard_is_in_the_order_of_data_sets_chapters_and_declarations():
    rows = scoreboard()
    assert [name for name, _ in groupby(row.dataset for row in rows)] == ["mnist", "fashion-mnist"]
    for dataset, chapters_of in (("mnist", "1234567D"), ("fashion-mnist", "256")):
        found = [row.chapter for row in rows if row.dataset == dataset]
        assert found == sorted(found)  # a letter comes after every digit
        assert "".join(dict.fromkeys(found)) == chapters_of
    of_chapter_2 = [row.title for row in rows if row.chapter == "2"]
    assert of_chapter_2 == [run.title for run in lesson_2.RUNS if run.title]
    assert [row.title for row in rows if row.chapter == "7"] == ["50-D, VAE", "50-D, IWAE-50"]
    assert [row.title for row in rows if row.chapter == "D"] == ["128-D, project D"]
    titles = [(row.dataset, row.title) for row in rows]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("chapter", ["likelihoods", "two_likelihoods", "-_likelihoods"])
def test_a_chapter_without_a_number_has_no_short_name(chapter):
    with pytest.raises(ValueError):
        short_name(chapter)


def test_only_a_gaussian_has_no_log_p_on_the_scoreboard():
    without = [row.title for row in scoreboard() if "test_negative_log_p" not in row.score]
    assert without == ["128-D, Gaussian"]


def test_every_model_of_a_run_is_listed_with_the_scores_of_the_first_seed(monkeypatch, tmp_path):
    def runs(chapter: str, *declared: LongRun) -> LongRuns:
        for run in declared:
            records = [
                {"seed": seed, "scores": {f"{run.name} {i}": {"rate": seed + i} for i in (1, 2)}}
                for seed in sorted(run.seeds)
            ]
            if run.name == "plain":
                records = [{"seed": seed} for seed in run.seeds]
            write_json(tmp_path / "long_runs" / chapter / f"{run.name}.json", records)
        return LongRuns(chapter, declared, folder=tmp_path)

    def train(seed: int):
        raise AssertionError("the scoreboard trains nothing")

    first = runs(
        "01_one",
        LongRun("coats", train, dataset="fashion-mnist"),
        LongRun("plain", train),
        LongRun("later", train, seeds=(30, 10)),
    )
    last = runs("case_b_two", LongRun("last", train, seeds=(5,)))
    unpublished = LongRuns(
        "case_c_three", [LongRun("waiting", train, title="no score yet")], folder=tmp_path
    )
    monkeypatch.setattr(chapters, "CHAPTERS", (first, last, unpublished))
    assert scoreboard() == [
        ("1", "mnist", "later 1", {"rate": 31}),
        ("1", "mnist", "later 2", {"rate": 32}),
        ("B", "mnist", "last 1", {"rate": 6}),
        ("B", "mnist", "last 2", {"rate": 7}),
        ("1", "fashion-mnist", "coats 1", {"rate": 1}),
        ("1", "fashion-mnist", "coats 2", {"rate": 2}),
    ]
