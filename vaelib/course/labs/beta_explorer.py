"""An interactive figure without a kernel: a slider over the models of a sweep."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import torch
from PIL import Image
from torch import Tensor

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 400, 300, 60, 16, 16, 46
"""Size and margins of the plane of rate and distortion, in units of the drawing."""

PAGE = Template("""
<figure class="beta-explorer" id="$name">
<style>
.beta-explorer { background: white; color: black; padding: 0.8rem; margin: 1rem 0;
  font-size: 0.9rem; }
.beta-explorer .panes { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.beta-explorer svg { flex: 1 1 300px; max-width: 420px; font-size: 13px; }
.beta-explorer .models { flex: 1 1 300px; min-width: 0; }
.beta-explorer section { margin-bottom: 0.7rem; }
.beta-explorer img { width: 100%; max-width: 560px; image-rendering: pixelated; display: block; }
.beta-explorer p { margin: 0.3rem 0; }
.beta-explorer label { display: flex; gap: 0.8rem; align-items: center; margin-bottom: 0.5rem; }
.beta-explorer input { flex: 1; }
.beta-explorer figcaption { color: black; margin-top: 0.5rem; }
.beta-explorer .chosen { fill: #d62728; }
.beta-explorer [hidden] { display: none; }
</style>
<label hidden>β <input type="range" min="0" max="$last" step="1" value="$start"></label>
<div class="panes">
$plane
<div class="models">
<p>the images</p>
<img src="$originals" alt="Test images, which the rows below reconstruct.">
$models
</div>
</div>
<figcaption>$caption</figcaption>
<script>
(() => {
  const figure = document.getElementById($name_in_script);
  const slider = figure.querySelector("input");
  const models = [...figure.querySelectorAll("section")];
  const points = [...figure.querySelectorAll("circle")];
  const choose = chosen => {
    slider.value = chosen;
    slider.setAttribute("aria-valuetext", models[chosen].dataset.says);
    models.forEach((model, i) => { model.hidden = i !== chosen; });
    points.forEach((point, i) => {
      point.setAttribute("r", i === chosen ? 8 : 4);
      point.classList.toggle("chosen", i === chosen);
    });
  };
  slider.addEventListener("input", () => choose(Number(slider.value)));
  points.forEach((point, i) => {
    point.style.cursor = "pointer";
    point.addEventListener("click", () => choose(i));
  });
  slider.parentElement.hidden = false;
  choose(Number(slider.value));
})();
</script>
</figure>
""")

MODEL = Template("""
<section data-says="$says">
<p><strong>$says</strong></p>
<p>reconstructions</p>
<img src="$reconstructions" alt="Reconstructions at $beta.">
<p>samples from the prior</p>
<img src="$samples" alt="Samples from the prior at $beta.">
</section>
""")


@dataclass(frozen=True)
class Explorer:
    """A figure that a notebook shows as HTML."""

    page: str

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        """Return a short stand-in for the page, for terminals."""
        return "Explorer()"


def beta_explorer(
    *,
    betas: Sequence[float],
    distortion: Sequence[float],
    rate: Sequence[float],
    originals: Tensor,
    reconstructions: Sequence[Tensor],
    samples: Sequence[Tensor],
    start: int,
    name: str,
    caption: str,
) -> Explorer:
    """Show the models of a sweep over beta one at a time, chosen with a slider.

    The page holds everything that it shows and asks no other host for anything. Without
    JavaScript all models stand below one another.

    Parameters
    ----------
    betas, distortion, rate
        One number for each model; distortion and rate in nats.
    originals
        Images ``[N, 1, H, W]`` with values in [0, 1].
    reconstructions, samples
        For each model: images of the same shape, reconstructed and drawn from the prior.
    start
        Index of the model that is shown at first.
    name
        Identifier of the figure, unique on its page.
    caption
        What the figure shows.

    Raises
    ------
    ValueError
        If there is not one of everything for each model.
    """
    counts = [len(part) for part in (betas, distortion, rate, reconstructions, samples)]
    if len(set(counts)) > 1 or not 0 <= start < counts[0]:
        raise ValueError(
            f"betas, distortion, rate, reconstructions and samples have {counts} entries, and the "
            f"start is {start}; expected one entry for each model, and a start among them."
        )
    models = "".join(
        MODEL.substitute(
            says=f"β = {beta:g}: distortion {d:.1f} nats, rate {r:.1f} nats",
            beta=f"β = {beta:g}",
            reconstructions=_strip(reconstructed),
            samples=_strip(sampled),
        )
        for beta, d, r, reconstructed, sampled in zip(
            betas, distortion, rate, reconstructions, samples, strict=True
        )
    )
    return Explorer(
        PAGE.substitute(
            name=html.escape(name),
            name_in_script=json.dumps(name),
            last=len(betas) - 1,
            start=start,
            plane=_plane(betas, distortion, rate),
            originals=_strip(originals),
            models=models,
            caption=html.escape(caption),
        )
    )


def _strip(images: Tensor) -> str:
    """Return images side by side as the address of a PNG that holds itself."""
    row = torch.cat(list(images[:, 0].detach().cpu()), dim=1)
    grey = (row.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plane(betas: Sequence[float], distortion: Sequence[float], rate: Sequence[float]) -> str:
    """Draw distortion against rate, one point for each model."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    across, up = 1.05 * max(rate), 1.05 * max(distortion)
    places = [
        (LEFT + r / across * (right - LEFT), bottom - d / up * (bottom - TOP))
        for d, r in zip(distortion, rate, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    points = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>β = {beta:g}</title></circle>'
        for (x, y), beta in zip(places, betas, strict=True)
    )
    x_ticks = "".join(
        f'<text x="{LEFT + t / across * (right - LEFT):.1f}" y="{bottom + 18}" '
        f'text-anchor="middle">{t:g}</text>'
        for t in _ticks(across)
    )
    y_ticks = "".join(
        f'<text x="{LEFT - 8}" y="{bottom - t / up * (bottom - TOP) + 4:.1f}" '
        f'text-anchor="end">{t:g}</text>'
        for t in _ticks(up)
    )
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
aria-label="Distortion against rate: one point for each β on a falling curve.">
<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>
<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/>
{points}{x_ticks}{y_ticks}
<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">rate, nats</text>
<text transform="translate(16 {(TOP + bottom) / 2}) rotate(-90)"
text-anchor="middle">distortion, nats</text>
</svg>"""


def _ticks(end: float, *, most: int = 6) -> list[float]:
    """Return round numbers from 0 up to ``end``."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if end / s <= most or s == 500)
    return [step * i for i in range(int(end / step) + 1)]
