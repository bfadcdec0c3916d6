"""What all live figures share: a figure that holds its script, its data and a still in one page.

A lab is a readable ``.js`` file beside a ``.py`` file of the same name. The script is the body of
a function of ``(figure, data)``: the element of the figure, and what Python computed for it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parent

PAGE = Template("""
<figure class="live-figure" id="$name" aria-label="$label">
<style>
$style
</style>
$body
<figcaption>$caption</figcaption>
<script type="application/json">$data</script>
<script>
(() => {
const figure = document.getElementById($name_in_script);
const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
((figure, data) => {
$script
})(figure, data);
figure.classList.add("runs");
})();
</script>
</figure>
""")


@dataclass(frozen=True)
class LiveFigure:
    """A figure that a notebook shows as HTML."""

    page: str

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        """Return a short stand-in for the page, for terminals."""
        return "LiveFigure()"


def live_figure(
    lab: str, *, name: str, label: str, data: Mapping[str, Any], body: str, caption: str
) -> LiveFigure:
    """Put a lab's script, data and markup into one page that asks no other host for anything.

    Parameters
    ----------
    lab
        Name of the lab: ``<lab>.js`` lies in this folder.
    name
        Identifier of the figure, unique on its page.
    label
        What the figure is, for readers who do not see it.
    data
        What the script gets; anything that JSON can hold.
    body
        Markup of the figure: the still for readers without scripts, and the controls. Elements
        of class ``with-script`` show only where the script runs, ``without-script`` elsewhere.
    caption
        What the figure shows.

    Raises
    ------
    ValueError
        If there is no such lab, or a number is not finite.
    """
    labs = {file.stem: file for file in FOLDER.glob("*.js")}
    if lab not in labs:
        raise ValueError(f"there is no lab {lab!r}; expected one of {', '.join(sorted(labs))}.")
    page = PAGE.substitute(
        name=html.escape(name),
        name_in_script=_json(name),
        label=html.escape(label),
        style=(FOLDER / "live.css").read_text(encoding="utf-8"),
        body=body,
        caption=html.escape(caption),
        data=_json(data),
        script=labs[lab].read_text(encoding="utf-8"),
    )
    return LiveFigure(page)


def _json(value: Any) -> str:
    """Return a value for a script element, which nothing in it can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
