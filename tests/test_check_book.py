"""The checker of the rendered book finds every kind of fault, and none in a good page."""

import pytest

from book.check_book import check_book, find_browser

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
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Check a book with a good page and a page that has every fault."""
    if not (browser := find_browser()):
        pytest.skip("Chromium is not installed")
    html = tmp_path_factory.mktemp("html")
    (html / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=good.html" />')
    (html / "good.html").write_text(GOOD % "")
    (html / "other.html").write_text(OTHER)
    (html / "dot.svg").write_text(DOT)
    (html / "bad.html").write_text(GOOD % "\n".join(FAULTS))
    return check_book(html, browser)


def test_good_pages_have_no_fault(faults):
    assert not [fault for fault in faults if not fault.startswith("bad.html: ")]


@pytest.mark.parametrize("message", FAULTS.values())
def test_a_fault_is_reported(faults, message):
    assert any(message in fault for fault in faults)
