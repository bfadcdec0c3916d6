"""The builder on tiny notebooks, and the configuration of the book."""

import ast
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book import accessible, execute, publish, stage
from book.__main__ import main
from book.layout import CHECKOUT, Layout
from book.render import RenderError, render

ROOT = CHECKOUT.root


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Put back the variables that the builder sets for its kernels."""
    for name in ("VAELIB_PROFILE", "TQDM_DISABLE", "PYTHONHASHSEED", "VAELIB_RESULTS_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture
def layout(tmp_path):
    """Return a checkout of its own, with two chapters of which the first one fails."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results").mkdir()
    write(tmp_path / "notebooks" / "01_bad.ipynb", 'raise ValueError("the lever broke")')
    write(tmp_path / "notebooks" / "02_good.ipynb", "print(seed)")
    return Layout(tmp_path)


def write(path: Path, *sources: str) -> None:
    title = "# Chapter\n\n<!-- badges -->\nold\n<!-- /badges -->\n\nText."
    setup = new_code_cell(
        'pip = "vaelib @ git+https://old.example/x@y"', metadata={"tags": ["setup"]}
    )
    parameters = new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell(title), setup, parameters, *map(new_code_cell, sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def shown(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_a_failing_chapter_is_reported_and_the_others_are_kept(layout, capsys):
    before = {path: path.read_bytes() for path in layout.chapters()}
    assert execute.execute(layout.chapters(), layout.executed, profile="quick") == ["01_bad"]
    report = capsys.readouterr().out
    assert "01_bad: FAILED" in report
    assert "cell [3] raise ValueError" in report
    assert "ValueError: the lever broke" in report
    assert (layout.executed / "01_bad.partial.ipynb").exists()
    assert not (layout.executed / "01_bad.ipynb").exists()
    assert shown(layout.executed / "02_good.ipynb") == "0\n"
    record = json.loads((layout.executed / "02_good.json").read_text())
    assert record["provenance"]["profile"] == "quick"
    assert {path: path.read_bytes() for path in layout.chapters()} == before


def test_an_unchanged_chapter_is_not_run_again(layout, capsys):
    good = layout.notebooks / "02_good.ipynb"

    def run(**options) -> str:
        assert execute.execute([good], layout.executed, profile="quick", **options) == []
        return capsys.readouterr().out

    assert "done" in run()
    assert "unchanged" in run()
    assert "done" in run(parameters={"seed": 7})
    assert shown(layout.executed / "02_good.ipynb") == "7\n"
    write(good, "print(seed + 1)")
    assert "done" in run()


def test_what_a_chapter_depends_on_changes_its_fingerprint(layout, monkeypatch, tmp_path):
    good = layout.notebooks / "02_good.ipynb"
    write(good, "import vaelib")
    prints = [
        execute.fingerprint(good, "quick", {}),
        execute.fingerprint(good, "full", {}),
        execute.fingerprint(good, "quick", {"seed": 1}),
    ]
    monkeypatch.setattr(execute, "version", lambda package: f"new {package}")
    prints.append(execute.fingerprint(good, "quick", {}))
    module = tmp_path / "vaelib" / "__init__.py"
    module.parent.mkdir()
    monkeypatch.setattr(execute.vaelib, "__path__", [str(module.parent)])
    for text in ("", "x = 1"):
        module.write_text(text)
        prints.append(execute.fingerprint(good, "quick", {}))
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("name", ["sed", "profile"])
def test_an_unknown_parameter_is_an_error_before_anything_runs(layout, name):
    with pytest.raises(execute.ParameterError, match=r"02_good .* knows seed|--profile"):
        execute.execute(
            [layout.notebooks / "02_good.ipynb"],
            layout.executed,
            profile="quick",
            parameters={name: 1},
        )
    assert not layout.executed.exists()


def test_auto_is_full_only_where_there_is_data(monkeypatch, capsys):
    monkeypatch.setattr(execute.data, "load", lambda name: None)
    assert execute.resolve_profile("auto") == "full"

    def offline(name):
        raise execute.data.DataError("no network")

    monkeypatch.setattr(execute.data, "load", offline)
    assert execute.resolve_profile("auto") == "quick"
    assert "no network" in capsys.readouterr().out
    assert execute.resolve_profile("full") == "full"


# What a chapter does in the end, in place of vaelib.course.results: it writes its two files.
SAVES = """import os, pathlib
folder = pathlib.Path(os.environ["VAELIB_RESULTS_DIR"])
ledger = folder / "claims" / os.environ["VAELIB_PROFILE"] / "02_good.json"
ledger.parent.mkdir(parents=True)
ledger.write_text(os.environ["VAELIB_PROFILE"])
(folder / "02_good.json").write_text("{}")"""


def test_publish_copies_back_only_what_went_through_and_cleans_it(layout, capsys):
    good, bad = layout.notebooks / "02_good.ipynb", layout.notebooks / "01_bad.ipynb"
    write(layout.notebooks / "03_silent.ipynb", "print(1)")
    write(good, "print(1)", SAVES)
    before = bad.read_bytes()
    assert publish.publish(layout, layout.chapters()) == ["01_bad", "03_silent"]
    assert bad.read_bytes() == before
    assert (layout.results / "02_good.json").read_text() == "{}"
    for profile in ("full", "quick"):
        assert (layout.results / "claims" / profile / "02_good.json").read_text() == profile
    committed = nbformat.read(good, as_version=4)
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, 4]
    text = good.read_text()
    assert "papermill" not in text
    assert not re.search(r"20\d\d-\d\d-\d\dT", text)
    assert "version" not in committed.metadata.language_info


def test_a_ledger_is_recorded_without_touching_the_chapter(layout):
    good = layout.notebooks / "02_good.ipynb"
    write(good, "print(1)", SAVES)
    before = good.read_bytes()
    assert publish.record_claims(layout, layout.chapters(), profile="quick") == ["01_bad"]
    assert good.read_bytes() == before
    ledgers = layout.results / "claims"
    assert [file.relative_to(ledgers).as_posix() for file in ledgers.rglob("*.json")] == [
        "quick/02_good.json"
    ]


RUN = {
    "profile": "full",
    "device": "cpu",
    "threads": 2,
    "torch": "2.9",
    "wall_time_s": 83.2,
    "date": "2026-01-02",
}


def test_a_page_says_what_it_was_run_on(layout):
    notebook = nbformat.read(layout.notebooks / "02_good.ipynb", as_version=4)
    notebook.cells[2].source += '\nname = "mnist"'
    stage.add_provenance(notebook, RUN)
    expected = (
        "<!-- /badges -->\n\n> **Run on** MNIST (profile `full`), CPU with 2 threads, torch "
        "2.9, 1 min 23 s, 2026-01-02."
    )
    assert expected in notebook.cells[0].source
    assert "digits" in stage.describe_run(RUN | {"profile": "quick"}, "")
    machine = {"processor": "Xeon 1", "auto_precision": "bfloat16"}
    assert "Xeon 1 with 2 threads in bfloat16, torch" in stage.describe_run(RUN | machine, "")


def test_a_quick_page_says_that_it_shows_digits(layout):
    def staged(profile: str) -> nbformat.NotebookNode:
        record = layout.results / "02_good.json"
        record.write_text(json.dumps({"provenance": RUN | {"profile": profile}, "results": []}))
        (layout.root / "book").mkdir(exist_ok=True)
        for name in ("_config.yml", "_toc.yml"):
            (layout.root / name).touch()
        stage.stage(layout, committed=True)
        return nbformat.read(layout.stage / "notebooks" / "02_good.ipynb", as_version=4)

    path = layout.notebooks / "02_good.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata["mystnb"] = {"figure": {"caption": "A curve.\n", "name": "fig-a"}}
    nbformat.write(notebook, path)
    full, quick = staged("full"), staged("quick")
    assert "digits" not in str(full.cells)
    assert re.search(r"> \*\*Run on\*\* .*\n\n<!-- -->\n\n> \*\*Computed", quick.cells[0].source)
    assert quick.cells[0].source.endswith("outputs.\n\nText.")
    assert quick.cells[2].metadata.mystnb.figure.caption == "A curve." + stage.CAPTION
    assert quick.cells[2].metadata.mystnb.figure.name == "fig-a"


def test_a_page_gets_the_measured_tables_in_their_places(tmp_path):
    page = "before\n<!-- benchmarks: scoring -->\nafter"
    assert stage.with_benchmarks(page, tmp_path) == "before\nNot measured yet.\nafter"
    row = {"library": "pythae", "n": 20, "k": 5000, "images_per_second": 1234.56, "spread": 0.5}
    table = {
        "provenance": {"device": "cpu", "threads": 2},
        "matrix_product": {"float32": 177e9, "bfloat16": 2e12},
        "rows": [row | {"peak_bytes": 3 * 2**20}, {"library": "vaelib"}],
    }
    run = {"scoring": table}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "cpu.json").write_text(json.dumps(run), encoding="utf-8")
    page = stage.with_benchmarks(page, tmp_path)
    assert page.startswith("before\nCPU with 2 threads") and page.endswith("\nafter")
    assert "177 in float32 and 2,000 in bfloat16, in GFLOP/s" in page
    assert "| library | images | samples | images/s | ± | MiB |\n| --- | --: |" in page
    assert "| pythae | 20 | 5000 | 1,234.6 | 0.5 | 3 |" in page
    assert "| vaelib |  |  |  |  |  |" in page


def test_every_table_that_the_page_on_speed_asks_for_is_known():
    asked = re.findall(
        r"<!-- benchmarks: (\w+) -->", (ROOT / "book" / "speed.md").read_text("utf-8")
    )
    assert sorted(asked) == sorted(stage.BENCHMARKS)


def test_the_page_of_numbers_shows_every_number(tmp_path):
    assert "no published run" in stage.numbers(tmp_path)
    entry = {
        "name": "mnist a|b",
        "value": 130.96,
        "sd": None,
        "n": 1,
        "unit": "nats",
        "protocol": "test set",
        "better": "lower",
    }
    prior = entry | {"sd": 0.25, "n": 3, "reference": 141.5, "source": "project A"}
    content = {"provenance": RUN, "results": [entry, prior]}
    (tmp_path / "01_x.json").write_text(json.dumps(content))
    page = stage.numbers(tmp_path)
    assert r"| mnist a\|b | 131 |  | 1 | nats | lower |  | test set |" in page
    assert "| 131 | 0.25 | 3 | nats | lower | 141.5 (project A) | test set |" in page


def test_a_book_that_fails_to_build_leaves_the_old_one(tmp_path, capfd):
    html, sources = tmp_path / "html", tmp_path / "stage"
    html.mkdir()
    sources.mkdir()
    (html / "index.html").write_text("old")
    (sources / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (sources / "_config.yml").write_text("title: x\n")
    (sources / "intro.md").write_text("# Title\n\n[nowhere](missing.md)\n")
    with pytest.raises(RenderError):
        render(sources, html)
    assert "missing.md" in capfd.readouterr().err
    assert (html / "index.html").read_text() == "old"


def test_a_book_that_builds_replaces_the_old_one(tmp_path, monkeypatch):
    def build(command, **_):
        (tmp_path / "html.new/_build/html/_static/mathjax").mkdir(parents=True)
        for name in ("index.html", "_static/mathjax/tex-chtml.js", "_static/mathjax/tex-svg.js"):
            (tmp_path / "html.new/_build/html" / name).write_text("new")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", build)
    html = tmp_path / "html"
    for _ in range(2):
        render(tmp_path / "stage", html)
        assert (html / "index.html").read_text() == "new"
    assert [path.name for path in (html / "_static" / "mathjax").iterdir()] == ["tex-chtml.js"]
    assert [path.name for path in tmp_path.iterdir()] == ["html"]


def test_a_signature_over_several_lines_is_no_definition_list():
    signature = "<dt>fit(\n\n<dl>\n<dd><em>x</em>,</dd>\n<dd><em>y</em>,</dd>\n</dl>\n\n)</dt>"
    lines = '<div class="sig-line"><em>x</em>,</div>\n<div class="sig-line"><em>y</em>,</div>\n'
    mended = f"<dt>fit(\n\n<div>\n{lines}</div>\n\n)</dt>"
    page = '<dl class="py">{}<dd><dl>\n<dt>a</dt><dd>b</dd>\n</dl></dd></dl>{}'
    assert accessible.mend(page.format(signature, signature)) == page.format(mended, mended)


def test_a_reference_is_an_item_of_its_list():
    page = '<div role="list"><div class="citation" id="a" role="{}">A</div></div>'
    assert accessible.mend(page.format("doc-biblioentry")) == page.format("listitem")


@pytest.mark.parametrize("tag", ["pre", 'div class="pst-scrollable-table-container"'])
def test_the_keyboard_reaches_what_scrolls(tag):
    mended = f'<{tag} tabindex="0">x'
    assert accessible.mend(f"<{tag}>x") == mended
    assert accessible.mend(mended) == mended


def test_every_page_is_mended(tmp_path):
    (tmp_path / "book").mkdir()
    for name in ("index.html", "book/api.html"):
        (tmp_path / name).write_text("<pre>é</pre>", encoding="utf-8")
    accessible.mend_all(tmp_path)
    for name in ("index.html", "book/api.html"):
        assert (tmp_path / name).read_text(encoding="utf-8") == '<pre tabindex="0">é</pre>'


def test_the_command_line_refuses_unknown_names(capsys):
    with pytest.raises(SystemExit, match="no chapter 99_x"):
        main(["execute", "99_x"])
    with pytest.raises(SystemExit):
        main(["execute", "-p", "seed"])
    assert "NAME=VALUE" in capsys.readouterr().err


def test_the_table_of_contents_is_complete():
    pages = CHECKOUT.pages()
    for page in pages:
        generated = page in ("book/numbers", "book/claims", "book/mutants")
        assert generated or any((ROOT / f"{page}{end}").is_file() for end in (".md", ".ipynb")), (
            page
        )
    chapters = [page for page in pages if page.startswith("notebooks/")]
    assert chapters == [f"notebooks/{path.stem}" for path in CHECKOUT.chapters()]


def test_the_api_page_shows_every_module():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "vaelib").rglob("*.py"))
    modules = {".".join(file.parts) for file in files if not file.name.startswith("__")}
    assert set(re.findall(r"automodule:: (\S+)", page)) == modules


def test_no_property_is_shown_with_a_wrong_type():
    # Napoleon reads "words: text" on top of a property's docstring as its type and its text.
    for file in (ROOT / "vaelib").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "property" in map(
                ast.unparse, node.decorator_list
            ):
                assert ": " not in ast.get_docstring(node).split("\n")[0], (
                    f"{file.name}, {node.name}"
                )


def test_pins_stand_in_one_place():
    pin = re.compile(r"[a-z][a-z0-9-]+==\d")
    places = ("*.yml", "*.txt", "*.md", "Makefile", ".ci/*", ".github/workflows/*", "book/*.py")
    files = [file for place in places for file in ROOT.glob(place)]
    assert not [file for file in files if pin.search(file.read_text(encoding="utf-8"))]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *packages, through_pip = environment["dependencies"]
    assert [re.split(r"\W", package)[0] for package in packages] == ["python", "pip"]
    assert through_pip == {"pip": ["-e .[book,test,dev]"]}


def test_the_package_gives_lower_bounds_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", name) for name in project["dependencies"])
