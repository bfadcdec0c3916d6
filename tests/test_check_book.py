"""The checker of the rendered book finds every kind of fault, and none in a good page."""

import pytest
from playwright.sync_api import sync_playwright

from book import live
from book.check_book import OFFLINE, PHONE, check_book, find_browser

GOOD = """<!doctype html><html lang="en"><head><title>t</title>
<link rel="icon" href="data:,"></head>
<body><article id="top"><h1>Title</h1><a href="other.html#here">other</a> <a href="#top">top</a>
<a href="https://example.org/">a link to elsewhere is no request</a>
<figure><img src="dot.svg" alt="A grey dot"><figcaption>A dot.</figcaption></figure>
<pre>$$ in code is no formula</pre>%s</article>
<script>
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.theme = dark ? "dark" : "light";
</script></body></html>"""
OTHER = GOOD % '<p id="here">here</p>'
DOT = """<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="9"/></svg>"""

STILL = '<p class="without-script">a still</p>'
BUTTON = '<button type="button">Play</button>'
RUNS = """const figure = document.currentScript.closest("figure");
const output = figure.querySelector("output, svg, canvas");
const control = figure.querySelector("input, select, button, [tabindex]");
figure.classList.add("runs");
figure.querySelector(".without-script")?.remove();"""
ANSWERS = 'control.onclick = control.oninput = () => { output.textContent += "!"; };'


def live_figure(name: str, body: str, script: str = RUNS + ANSWERS) -> str:
    """Return the markup of a live figure; by default its script runs and its control works."""
    return (
        f'<figure class="live-figure" id="{name}">{body}<figcaption>It plays.</figcaption>'
        f"<script>{{ {script} }}</script></figure>"
    )


FAULTS = {
    '<a href="nowhere.html">x</a>': "link to a file that does not exist: nowhere.html",
    '<a href="other.html#gone">x</a>': "link to an anchor that does not exist: other.html#gone",
    '<a href="#gone">x</a>': "link to an anchor that does not exist: #gone",
    "<p>$$x^2$$</p>": "unrendered formula",
    '<span class="math">x</span>': "1 formulas, but only 0 rendered",
    "<mjx-merror>Missing brace</mjx-merror>": "formula error: Missing brace",
    '<img src="dot.svg" class="a">': "image without alternative text: dot.svg",
    '<img src="dot.svg" alt="dot.svg">': "alternative text is a file name: dot.svg",
    '<figure><img src="dot.svg" alt="A dot"></figure>': "figure without caption: dot.svg",
    '<img src="gone.svg" alt="Nothing to see">': "image that does not show: gone.svg",
    '<script src="https://example.org/a.js"></script>': "asks another host for https://example.org",
    '<script>console.error("boom")</script>': "console: boom",
    '<script>throw Error("thrown")</script>': "script error: thrown",
    '<div style="width: 800px">x</div>': "px wider than 390 px, in dark mode",
    '<dl><dd>x</dd></dl><div role="list"><p>y</p></div>': "axe aria-required-children: ",
    "<details><summary>x</summary><input></details>": "axe label: ",
    '<div class="highlight"><b id="faint" style="color: #bbb; background: #fff">faint</b></div>': (
        "1 times, first at #faint, at 1280 px in dark mode"
    ),
    '<pre class="wide" style="overflow: auto; width: 90px">a word that is long</pre>': (
        "first at .wide, at 390 px in light mode"
    ),
    live_figure("stuck", STILL + BUTTON, ""): "live figure stuck does not run, at 390 px in light",
    live_figure("bare", f"<output>1</output>{BUTTON}"): "bare shows nothing without scripts",
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Check a book with a good page and a page that has every fault."""
    if not (browser := find_browser()):
        pytest.skip("Chromium is not installed")
    html = tmp_path_factory.mktemp("html")
    (html / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=good.html" />')
    works = live_figure("works", f"{STILL}<output>1</output>{BUTTON}")
    (html / "good.html").write_text(GOOD % works)
    (html / "other.html").write_text(OTHER)
    (html / "dot.svg").write_text(DOT)
    (html / "bad.html").write_text(GOOD % "\n".join(FAULTS))
    return check_book(html, browser)


def test_good_pages_have_no_fault(faults):
    assert not [fault for fault in faults if not fault.startswith("bad.html: ")]


@pytest.mark.parametrize("message", FAULTS.values())
def test_a_fault_is_reported(faults, message):
    assert any(message in fault for fault in faults)


# Live figures, each on a page of its own


@pytest.fixture(scope="module")
def browser():
    if not (executable := find_browser()):
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[OFFLINE])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, monkeypatch):
    """Function that opens a page as wide as a phone."""
    monkeypatch.setattr(live, "PATIENCE_MS", 200)
    contexts = []

    def go(body: str, *, scripts: bool = True):
        contexts.append(browser.new_context(viewport=PHONE, java_script_enabled=scripts))
        page = contexts[-1].new_page()
        page.set_content(f"<!doctype html><html><body>{body}</body></html>")
        return page

    yield go
    for context in contexts:
        context.close()


SLIDER = '<input type="range" min="0" max="3" value="{}">'
PAINTS = """control.onkeydown = () => output.getContext("2d").fillRect(0, 0, 9, 9);"""
TURNS = """control.onclick = () => setTimeout(() => output.setAttribute("x", 1), 20);"""


@pytest.mark.parametrize(
    ("body", "script"),
    [
        (f"<output>1</output>{BUTTON}", ANSWERS),
        ("<output>1</output>" + SLIDER.format(0), ANSWERS),
        ("<output>1</output>" + SLIDER.format(3), ANSWERS),  # it can go to the left only
        ('<output>1</output><input type="checkbox">', ANSWERS),
        ("<output>1</output><select><option>a</option><option>b</option></select>", ANSWERS),
        (f'<svg width="9"></svg>{BUTTON}', TURNS),  # a little later
        ('<canvas tabindex="0" width="9" height="9"></canvas>', PAINTS),
        (f"<output>1</output><button disabled>no</button>{BUTTON}",
         "figure.querySelectorAll('button')[1].onclick = () => { output.textContent = 2; };"),
    ],
    ids=["button", "slider", "at its end", "box", "list", "svg", "canvas", "first of two"],
)  # fmt: skip
def test_a_live_figure_that_works_has_no_fault(open_page, body, script):
    page = open_page(live_figure("a", STILL + body, RUNS + script))
    assert list(live.live_faults(page)) == []
    assert list(live.still_faults(open_page(live_figure("a", STILL + body), scripts=False))) == []


@pytest.mark.parametrize(
    ("body", "script", "fault"),
    [
        (f"<output>1</output>{BUTTON}", "", "live figure a does not run"),
        (f'<div style="width: 500px">wide</div><output>1</output>{BUTTON}', RUNS + ANSWERS,
         "px too wide"),
        (f'<div class="cell_output" style="overflow-x: auto; width: 200px">'
         f'{live_figure("b", f"<div style=width:300px>wide</div><output>1</output>{BUTTON}")}</div>'
         f"<output>1</output>{BUTTON}", RUNS + ANSWERS, "live figure b is "),
        ("<output>1</output>", RUNS.replace("const control", "var control"),
         "has no control that the Tab key reaches"),
        ('<output>1</output><button tabindex="-1">Play</button>', RUNS + ANSWERS,
         "has no control that the Tab key reaches"),
        ("<output>1</output><button hidden>Play</button>", RUNS + ANSWERS,
         "has no control that the Tab key reaches"),
        (f"<output>1</output>{BUTTON}", RUNS, "shows the same after its first control is used"),
        ("<output>1</output>" + SLIDER.format(1), RUNS,  # the slider moves, and nothing else
         "shows the same after its first control is used"),
    ],
    ids=["does not run", "too wide", "scrolls", "no control", "out of reach", "hidden", "is dead",
         "only moves"],
)  # fmt: skip
def test_a_fault_of_a_live_figure_is_reported(open_page, body, script, fault):
    faults = list(live.live_faults(open_page(live_figure("a", body, script))))
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    "still", ["", '<p class="without-script"></p>', '<p class="without-script" hidden>x</p>']
)
def test_a_live_figure_needs_a_still(open_page, still):
    page = open_page(live_figure("a", still + BUTTON), scripts=False)
    assert list(live.still_faults(page)) == ["live figure a shows nothing without scripts"]


def test_every_live_figure_of_a_page_is_looked_at(open_page):
    works = live_figure("one", f"<output>1</output>{BUTTON}")
    page = open_page(works + live_figure("two", BUTTON, "") + live_figure("three", BUTTON, ""))
    faults = ["live figure two does not run", "live figure three does not run"]
    assert list(live.live_faults(page)) == faults
