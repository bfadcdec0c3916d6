"""Open every page of the rendered book in headless Chromium and report what is wrong with it.

``python -m book.check_book`` (or ``make check-book``) looks at each page at desktop and phone
width, in light and in dark mode, without any network but the book's own files. Among the faults
is what axe-core finds against accessibility (``book/axe.py``).
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from playwright.sync_api import BrowserContext, Page, Request, TimeoutError, sync_playwright

from book.axe import violations
from book.layout import CHECKOUT
from book.live import live_faults, still_faults

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No name but this machine's own is found, as for a reader without a network.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

# What a page shows, as seen by the browser after its scripts have run.
INSPECT = """async () => {
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  const article = document.querySelector("article") ?? document.body;
  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const label = e => (e.id ? "#" + e.id + " " : "") + (e.getAttribute("src") ?? e.tagName);
  return {
    links: all("a[href]").map(e => e.getAttribute("href")),
    ids: all("[id]").map(e => e.id),
    text: prose.textContent,
    formulas: all(".math", article).length,
    rendered: all("mjx-container", article).length,
    formulaErrors: all("mjx-merror, [data-mjx-error]").map(e => e.textContent),
    images: all("img").map(e => [e.getAttribute("src"), e.getAttribute("alt")]),
    brokenImages: all("img").filter(e => e.complete && !e.naturalWidth).map(label),
    uncaptioned: all(".cell_output img, figure img", article)
      .filter(e => !e.closest("figure")?.querySelector("figcaption")?.textContent.trim())
      .map(label),
    theme: document.documentElement.dataset.theme,
  };
}"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
RAW_FORMULAS = ("$$", r"\(", r"\[", r"\begin{", r"\frac", r"\mathbb")
# index.html only leads to the first page of the book.
REDIRECT = re.compile(r'<meta http-equiv="refresh" content="0; url=([^"]+)"', re.IGNORECASE)


@dataclass
class Report:
    """The faults, and what is known of each page."""

    faults: list[str] = field(default_factory=list)
    anchors: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, set[str]] = field(default_factory=dict)

    def add(self, page: str, fault: str) -> None:
        """Note a fault once."""
        line = f"{page}: {fault}"
        if line not in self.faults:
            self.faults.append(line)


def check_book(html: Path, executable: str, screenshots: Path | None = None) -> list[str]:
    """Look at every page and return its faults.

    Parameters
    ----------
    html
        The folder of the rendered book.
    executable
        The browser.
    screenshots
        A folder for a picture of every view of every page; none by default.

    Returns
    -------
    list of str
        One line per fault, beginning with the page.
    """
    report = Report()
    pages = []
    for file in sorted(html.rglob("*.html")):
        name = file.relative_to(html).as_posix()
        if redirect := REDIRECT.search(file.read_text(encoding="utf-8")):
            report.links[name] = {redirect[1]}
        elif not name.startswith("_static/"):
            pages.append(name)
    with serve(html) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[OFFLINE])
        for theme in ("light", "dark"):
            context = browser.new_context(viewport=DESKTOP, color_scheme=theme)
            for page in pages:
                _visit(context, base, page, theme, report, screenshots)
            print(f"{len(pages)} pages in {theme} mode", flush=True)
        if "search.html" in pages:
            _check_search(context, base, report)
        without_scripts = browser.new_context(java_script_enabled=False)
        for page in pages:
            _visit_without_scripts(without_scripts, base, page, report)
        browser.close()
    _check_links(html, report)
    return report.faults


def find_browser() -> str | None:
    """Return the path of this machine's Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine, and yield its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def copyfile(self, *files: Any) -> None:
            with suppress(ConnectionError):  # a page was closed before its last file had come
                super().copyfile(*files)

    handler = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _visit(
    context: BrowserContext,
    base: str,
    name: str,
    theme: str,
    report: Report,
    screenshots: Path | None,
) -> None:
    """Open a page in one theme, at both widths."""
    page = context.new_page()
    note = functools.partial(report.add, name)
    _listen(page, base, note)
    page.goto(base + name, wait_until="load")
    facts = page.evaluate(INSPECT)
    report.anchors[name], report.links[name] = set(facts["ids"]), set(facts["links"])
    for fault in _content_faults(facts):
        note(fault)
    if facts["theme"] != theme:
        note(f"shows theme {facts['theme']} where the reader's system asks for {theme}")
    # Sidebars slide and unfolded code fades in otherwise: neither is what a reader reads.
    page.add_style_tag(content="* { transition: none !important; animation: none !important }")
    for viewport, label in ((DESKTOP, "desktop"), (PHONE, "phone")):
        page.set_viewport_size(viewport)
        overflow = page.evaluate(OVERFLOW)
        if overflow > 0:
            note(f"is {overflow} px wider than {viewport['width']} px, in {theme} mode")
        if screenshots:
            file = f"{name.removesuffix('.html').replace('/', '-')}-{label}-{theme}.png"
            page.screenshot(path=screenshots / file, full_page=True)
        for violation in violations(page, colours_only=theme == "dark"):
            note(f"{violation}, at {viewport['width']} px in {theme} mode")
    for fault in live_faults(page):
        note(f"{fault}, at {PHONE['width']} px in {theme} mode")
    page.close()


def _visit_without_scripts(context: BrowserContext, base: str, name: str, report: Report) -> None:
    """Look whether a page shows its live figures to a reader without scripts."""
    page = context.new_page()
    page.goto(base + name, wait_until="load")
    for fault in still_faults(page):
        report.add(name, fault)
    page.close()


def _listen(page: Page, base: str, note: functools.partial[None]) -> None:
    """Report what goes wrong while a page loads."""

    def request(request: Request) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            note(f"asks another host for {request.url}")

    page.on("request", request)
    page.on("pageerror", lambda error: note(f"script error: {error}"))
    page.on("console", lambda m: note(f"console: {m.text}") if m.type == "error" else None)
    page.on("requestfailed", lambda r: note(f"could not load {r.url}"))
    page.on("response", lambda r: note(f"got {r.status} for {r.url}") if r.status >= 400 else None)


def _content_faults(facts: dict) -> Iterator[str]:
    for raw in RAW_FORMULAS:
        if raw in facts["text"]:
            start = max(0, facts["text"].index(raw) - 30)
            yield f"unrendered formula: ...{facts['text'][start : start + 90].strip()!r}..."
    if facts["rendered"] < facts["formulas"]:
        yield f"{facts['formulas']} formulas, but only {facts['rendered']} rendered"
    for error in facts["formulaErrors"]:
        yield f"formula error: {error}"
    for src, alt in facts["images"]:
        if not (alt or "").strip():
            yield f"image without alternative text: {src}"
        elif Path(urlsplit(src).path).name in alt or alt == Path(src).stem:
            yield f"image whose alternative text is a file name: {alt}"
    for image in facts["brokenImages"]:
        yield f"image that does not show: {image}"
    for image in facts["uncaptioned"]:
        yield f"figure without caption: {image}"


def _check_search(context: BrowserContext, base: str, report: Report) -> None:
    """Search for the subject of the book."""
    page = context.new_page()
    page.goto(f"{base}search.html?q=vae")
    try:
        page.wait_for_selector("#search-results li a", timeout=10_000)
    except TimeoutError:
        report.add("search.html", "finds nothing about vae")
    page.close()


def _check_links(html: Path, report: Report) -> None:
    """Report links to files or anchors of the book that do not exist."""
    book = "http://book/"
    for name, links in report.links.items():
        for link in sorted(links):
            url, anchor = urldefrag(urljoin(book + name, link))
            target = unquote(url.removeprefix(book)) or "index.html"
            if not url.startswith(book):
                continue
            if not (html / target).is_file():
                report.add(name, f"link to a file that does not exist: {link}")
            elif anchor and unquote(anchor) not in report.anchors.get(target, {unquote(anchor)}):
                report.add(name, f"link to an anchor that does not exist: {link}")


def main() -> None:
    """Check the built book; exit with status 1 if something is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m book.check_book", description=__doc__)
    parser.add_argument("html", nargs="?", type=Path, default=CHECKOUT.html)
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="save every view there")
    options = parser.parse_args()
    executable = find_browser()
    if executable is None:
        print(f"skipped: none of {', '.join(BROWSERS)} is installed")
        return
    if not (options.html / "index.html").exists():
        sys.exit(f"{options.html} holds no book; build it with make book or make html")
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    faults = check_book(options.html, executable, options.screenshots)
    if faults:
        sys.exit("\n".join([*faults, f"{len(faults)} faults"]))
    print("no fault")


if __name__ == "__main__":
    main()
