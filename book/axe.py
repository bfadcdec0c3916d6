"""Ask axe-core whether a page that is open in the browser can be used by everybody.

All rules of the levels A and AA of WCAG 2.1 are asked; none is left out. What is folded is
opened for the time of the check, because axe looks only at what shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
COLOURS = ["color-contrast", "link-in-text-block"]

# Contrast takes 3 ms for each coloured word of a code cell or a signature, that is 20 s a page. It
# is measured once for each look of a text: its colour and weight on these layers of background.
RUN = """async ([levels, colours, coloursOnly]) => {
  const folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach(e => e.open = true);
  // The theme measures what scrolls 0.3 s after the last change of the window, later where the
  // machine is busy: wait for it, but not for ever, so that a block that it forgets is found.
  const unreached = () => [...document.querySelectorAll("pre")]
    .some(e => e.scrollWidth > e.clientWidth && e.tabIndex < 0);
  for (let k = 0; !coloursOnly && k < 100 && (k < 5 || unreached()); k++)
    await new Promise(done => setTimeout(done, 100));
  const layers = new Map([[null, ""]]);
  const layersOf = e => {
    if (!layers.has(e)) {
      const s = getComputedStyle(e);
      const own = [s.backgroundColor, s.backgroundImage, s.opacity, s.filter].join(" ");
      const below = layersOf(e.parentElement);
      layers.set(e, own === "rgba(0, 0, 0, 0) none 1 none" ? below : below + "|" + own);
    }
    return layers.get(e);
  };
  const looks = new Map();
  for (const e of document.body.querySelectorAll("*")) {
    // Of a text of one letter, axe does not say whether it can be read.
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim().length > 1);
    if (!text || !e.checkVisibility({visibilityProperty: true})) continue;
    const s = getComputedStyle(e);
    const look = [s.color, s.fontSize, s.fontWeight, s.textShadow, layersOf(e)].join(" ");
    if (!looks.has(look)) looks.set(look, e);
  }
  const violations = [];
  // No preloading: axe would look for the style sheets' imports in the wrong folder.
  const run = async (context, options) => {
    const found = await axe.run(context, {...options, preload: false, resultTypes: ["violations"]});
    violations.push(...found.violations);
  };
  const off = Object.fromEntries(colours.map(rule => [rule, {enabled: false}]));
  if (!coloursOnly) await run(document, {runOnly: levels, rules: off});
  // Together, because axe first maps the layers of the whole page, some seconds each time.
  const include = [...looks.values(), ...document.links];
  if (include.length) await run({include}, {runOnly: colours});
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
