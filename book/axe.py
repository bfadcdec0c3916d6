"""Ask axe-core whether a page that is open in the browser can be used by everybody.

All rules of the levels A and AA of WCAG 2.1 are asked; none is switched off. What is folded is
opened for the time of the check, because axe looks only at what shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
COLOURS = ["color-contrast", "link-in-text-block"]

# Contrast takes 3 ms for each coloured word of a code cell or a signature, that is 20 s a page.
# Blocks of which every kind of word showed in a block before are made invisible for this rule:
# axe passes over them, and nothing moves.
RUN = """async ([levels, colours, coloursOnly]) => {
  const folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach(e => e.open = true);
  const violations = [];
  const run = async (runOnly, rules = {}) =>
    violations.push(...(await axe.run({runOnly, rules, resultTypes: ["violations"]})).violations);
  const off = Object.fromEntries(colours.map(rule => [rule, {enabled: false}]));
  if (!coloursOnly) await run({type: "tag", values: levels}, off);
  const seen = new Set();
  const repeated = [...document.querySelectorAll(".highlight, dt.sig")].filter(block => {
    const kind = e => [block.parentElement.className, e.tagName, e.className].join(" ");
    const kinds = [block, ...block.querySelectorAll("*")].map(kind);
    const known = kinds.every(k => seen.has(k));
    kinds.forEach(k => seen.add(k));
    return known;
  });
  repeated.forEach(e => e.style.visibility = "hidden");
  await run({type: "rule", values: colours});
  repeated.forEach(e => e.style.visibility = "");
  folded.forEach(e => e.open = false);
  return violations.map(v => ({
    rule: v.id, help: v.help, count: v.nodes.length, target: v.nodes[0].target.flat().join(" "),
  }));
}"""


def violations(page: Page, *, colours_only: bool = False) -> Iterator[str]:
    """Yield what an open page violates in its present theme and width.

    Parameters
    ----------
    page
        A loaded page.
    colours_only
        Whether to ask only the rules that depend on colours: they are all that can change
        between a page in the light and the same page in the dark.

    Yields
    ------
    str
        One line per rule: its name, how many elements violate it, and the first of them.
    """
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    for found in page.evaluate(RUN, [LEVELS, COLOURS, colours_only]):
        yield (
            f"axe {found['rule']}: {found['help']}, "
            f"{found['count']} times, first at {found['target']}"
        )
