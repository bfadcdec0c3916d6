import json
import math
import statistics
import subprocess
from datetime import date
from xml.etree import ElementTree

import pytest
import torch

from vaelib.course import results
from vaelib.course.results import (
    Results,
    Table,
    mean_and_sd,
    over_seeds,
    provenance,
    write_json,
    write_spread,
)

WORDS = {"protocol": "test set, one sample", "better": "lower"}
ENTRY = {"name", "value", "sd", "n", "unit", "protocol", "better"}


@pytest.fixture
def collected() -> Results:
    collected = Results("01_vae_theory", profile="quick")
    collected.add("mnist test -elbo", [130.0, 131.0, 133.0], **WORDS)
    return collected


def test_an_entry_holds_the_mean_and_the_spread(collected):
    (entry,) = collected.entries
    assert set(entry) == ENTRY
    assert entry["value"] == pytest.approx(394 / 3)
    assert entry["sd"] == pytest.approx(statistics.stdev([130, 131, 133]))
    assert entry["sd"] == pytest.approx(math.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2))
    assert (entry["n"], entry["unit"]) == (3, "nats")
    assert entry["name"] == "mnist test -elbo"
    assert {key: entry[key] for key in WORDS} == WORDS


@pytest.mark.parametrize("value", [0.875, [0.875], torch.tensor(0.875)])
def test_one_value_has_no_spread(value):
    collected = Results("x", profile="quick")
    collected.add("accuracy", value, unit="fraction", protocol="p", better="higher")
    (entry,) = collected.entries
    assert (entry["value"], entry["sd"], entry["n"]) == (0.875, None, 1)
    assert (entry["unit"], entry["better"]) == ("fraction", "higher")


def test_prior_work_is_named_with_its_source(collected):
    collected.add("other", 1.0, **WORDS, reference=0.0, source="Kingma & Welling (2014)")
    entry = collected.entries[1]
    assert set(entry) == ENTRY | {"reference", "source"}
    assert (entry["reference"], entry["source"]) == (0.0, "Kingma & Welling (2014)")


@pytest.mark.parametrize("prior", [{"reference": 1.0}, {"source": "Kingma & Welling (2014)"}])
def test_a_reference_and_its_source_go_together(collected, prior):
    with pytest.raises(ValueError, match=r"reference.*source"):
        collected.add("other", 1.0, **WORDS, **prior)


@pytest.mark.parametrize("better", ["Lower", "smaller", ""])
def test_an_unknown_direction_is_named(collected, better):
    with pytest.raises(ValueError, match=f"better is '{better}'; expected 'lower' or 'higher'"):
        collected.add("other", 1.0, protocol="p", better=better)


def test_a_number_without_values_is_an_error(collected):
    with pytest.raises(ValueError, match="other: there is no value to report"):
        collected.add("other", [], **WORDS)
    assert len(collected.entries) == 1


@pytest.mark.parametrize("values", [math.nan, [1.0, math.inf]])
def test_a_value_that_is_not_finite_is_not_published(collected, values):
    with pytest.raises(ValueError, match="other"):
        collected.add("other", values, **WORDS)


@pytest.mark.parametrize("folder", [None, ""])
def test_nothing_is_written_unless_asked(collected, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if folder is None:
        monkeypatch.delenv("VAELIB_RESULTS_DIR", raising=False)
    else:
        monkeypatch.setenv("VAELIB_RESULTS_DIR", folder)
    collected.save(device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_the_ledger_lies_beside_it(collected, monkeypatch, tmp_path):
    monkeypatch.setenv("VAELIB_RESULTS_DIR", str(tmp_path))
    collected.claims.check("the claim", 2.0, at_least=1)
    collected.save(device=torch.device("cpu"))
    content = json.loads((tmp_path / "claims" / "quick" / "01_vae_theory.json").read_text("utf-8"))
    assert content["provenance"]["profile"] == "quick"
    assert content["claims"] == collected.claims.record()


def test_the_file_holds_entries_and_provenance(collected, monkeypatch, tmp_path):
    monkeypatch.setenv("VAELIB_RESULTS_DIR", str(tmp_path / "new" / "folder"))
    collected.save(device=torch.device("cpu"))
    (file,) = (tmp_path / "new" / "folder").glob("*.json")
    assert file.name == "01_vae_theory.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert set(content) == {"provenance", "results"}
    assert content["results"] == collected.entries
    assert content["provenance"]["profile"] == "quick"


def test_provenance_describes_the_run():
    record = provenance("full", "cpu", 12.345)
    assert {"profile", "device", "torch", "commit", "wall_time_s", "date"} <= set(record)
    assert (record["profile"], record["device"], record["wall_time_s"]) == ("full", "cpu", 12.3)
    assert record["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
    assert record["processor"]
    assert record["auto_precision"] in ("float32", "bfloat16")
    assert date.fromisoformat(record["date"])


def test_provenance_names_the_commit_of_the_package(monkeypatch, tmp_path):
    identity = ("user.name=a", "user.email=a@b.c", "commit.gpgsign=false")
    git = ["git", "-C", str(tmp_path), *(word for i in identity for word in ("-c", i))]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    monkeypatch.setattr(results, "PACKAGE", tmp_path)
    commit = provenance("full", "cpu", 0)["commit"]
    assert len(commit) >= 7
    assert head.stdout.startswith(commit)


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_without_a_repository_or_git_there_is_no_commit(monkeypatch, tmp_path, path):
    monkeypatch.setattr(results, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if path:
        monkeypatch.setenv("PATH", str(tmp_path / path))
    assert provenance("full", "cpu", 0)["commit"] is None


def test_json_is_read_back_as_it_was_written(tmp_path):
    content = {"a": [1, 0.1, None, "−ELBO, β"]}
    write_json(tmp_path / "deep" / "x.json", content)
    text = (tmp_path / "deep" / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "−ELBO, β" in text
    assert text.endswith("}\n")


def test_a_new_file_replaces_the_old_one(tmp_path):
    for number in (1, 2):
        write_json(tmp_path / "x.json", {"number": number})
    assert json.loads((tmp_path / "x.json").read_text()) == {"number": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_the_file_is_readable_for_others(tmp_path):
    write_json(tmp_path / "x.json", 1)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [{"good": 1, "bad": object()}, {"bad": math.nan}])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, content):
    write_json(tmp_path / "x.json", {"old": True})
    with pytest.raises((TypeError, ValueError)):
        write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": True}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", [1, 2, object()])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_moved_into_place_leaves_nothing(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(OSError, match=r"x\.json"):
        write_json(tmp_path / "x.json", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_table_is_padded_text_and_html():
    table = Table(["β", "nats", "units"], [["0.3", "101.25", "16"], ["a < b", "9.50", ""]])
    assert repr(table).splitlines() == [
        "β        nats  units",
        "0.3    101.25     16",
        "a < b    9.50",
    ]
    found = ElementTree.fromstring(table._repr_html_())
    rows = [[cell.text or "" for cell in row] for row in found.iter("tr")]
    assert rows == [table.heading, *table.rows]
    assert [cell.get("scope") for cell in found.iter("th")] == ["col"] * 3 + ["row"] * 2


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"has 1 cells; expected 2, one for each of \['a', 'b'\]"):
        Table(["a", "b"], [["1"]])


def test_numbers_over_seeds_and_their_spread():
    runs = [{"seed": 0, "nats": 1.0}, {"seed": 1, "nats": 2.0}, {"seed": 2}]
    assert over_seeds(runs, "nats") == [1.0, 2.0]
    assert mean_and_sd([1.0, 2.0]) == (1.5, pytest.approx(math.sqrt(0.5)))
    assert mean_and_sd([3.0]) == (3.0, 0.0)
    assert write_spread([1.0, 2.0], 1) == "1.5 ± 0.7"
    assert write_spread([3.0]) == "3.00"
