"""What is wrong with the live figures of a page: ``.live-figure``, see ``vaelib.course.labs``."""

from __future__ import annotations

from collections.abc import Iterator

from playwright.sync_api import Locator, Page, TimeoutError

CONTROLS = "input, select, button, [tabindex]"
# What a figure shows, without the state of its controls: a slider that only moves is no figure.
SHOWN = """figure => {
  const copy = figure.cloneNode(true);
  copy.querySelectorAll("input, select, button").forEach(e => e.remove());
  const canvases = [...figure.querySelectorAll("canvas")].map(e => e.toDataURL());
  return copy.innerHTML + canvases.join();
}"""
CHANGES = f"([figure, before]) => ({SHOWN})(figure) !== before"
REACHED = "e => { e.focus(); return e.tabIndex >= 0 && document.activeElement === e; }"
# Elements past the right edge, and boxes that scroll to hold what is too wide for them.
TOO_WIDE = """figure => {
  const edge = document.documentElement.clientWidth;
  const box = figure.closest(".cell_output") ?? figure;
  const all = [figure, ...figure.querySelectorAll("*")].filter(e => e.getClientRects().length);
  const right = Math.max(...all.map(e => e.getBoundingClientRect().right));
  return Math.ceil(Math.max(right - edge, box.scrollWidth - box.clientWidth));
}"""
PATIENCE_MS = 3000


def live_faults(page: Page) -> Iterator[str]:
    """Play with each live figure of a page, and yield what is wrong with it.

    Parameters
    ----------
    page
        The page, at the width of a phone; scripts have run.
    """
    for figure in page.locator(".live-figure").all():
        name = f"live figure {figure.get_attribute('id')}"
        if not figure.evaluate("figure => figure.classList.contains('runs')"):
            yield f"{name} does not run"
            continue
        if (wide := figure.evaluate(TOO_WIDE)) > 0:
            yield f"{name} is {wide} px too wide"
        reached = [e for e in figure.locator(CONTROLS).all() if e.evaluate(REACHED)]
        if not reached:
            yield f"{name} has no control that the Tab key reaches"
        elif not _answers(page, figure, reached[0]):
            yield f"{name} shows the same after its first control is used"


def still_faults(page: Page) -> Iterator[str]:
    """Yield the live figures that show nothing in their place to a reader without scripts."""
    for figure in page.locator(".live-figure").all():
        stills = figure.locator(".without-script")
        if not any(still.is_visible() for still in stills.all()):
            yield f"live figure {figure.get_attribute('id')} shows nothing without scripts"


def _answers(page: Page, figure: Locator, control: Locator) -> bool:
    """Use a control by the keyboard, and tell whether the figure shows something else then."""
    before = figure.evaluate(SHOWN)
    for key in _keys(control):
        control.press(key)
        try:
            arguments = [figure.element_handle(), before]
            page.wait_for_function(CHANGES, arg=arguments, timeout=PATIENCE_MS)
        except TimeoutError:
            continue
        return True
    return False


def _keys(control: Locator) -> tuple[str, ...]:
    """Return the keys that change a control: both ways, as it may stand at an end."""
    kind = control.evaluate("e => e.type ?? ''")
    if kind in ("button", "submit"):
        return ("Enter",)
    if kind == "checkbox":
        return ("Space",)
    return ("ArrowRight", "ArrowLeft")
