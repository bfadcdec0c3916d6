"""Which pictures are drawn in ink on white paper, and may be turned over in dark mode.

A plot in dark ink on white becomes one in light ink on the page (``book.css``). A picture that
holds photographs stays as it is: a handwritten digit turned over is another picture.
"""

from __future__ import annotations

import base64
import io

import nbformat
import numpy as np
from PIL import Image

CLASS = "ink"
"""Class of such a picture on the page."""
NEARLY_BLACK = 48
"""The brightest channel of a pixel that counts as black, of 255."""
MOST_INK = 0.05
"""Share of black pixels. Text and lines cover at most 2 % of a plot; photographs of digits and
clothes are black around what they show, 8 % of a picture and more."""


def mark_ink(notebook: nbformat.NotebookNode) -> None:
    """Name, in place, the cells whose pictures are all drawn in ink, for the style sheet."""
    for cell in notebook.cells:
        pictures = [
            output.data["image/png"]
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        if pictures and all(map(is_ink, pictures)):
            image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
            image["classes"] = f"{image.get('classes', '')} {CLASS}".strip()


def is_ink(png: str) -> bool:
    """Return whether a picture, PNG in base64, is lines and text on a light ground."""
    # What is transparent is nobody's paper: it counts as black, and stays as it is.
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))
    black = (pixels[..., :3].max(-1) < NEARLY_BLACK) | (pixels[..., 3] == 0)
    return bool(black.mean() <= MOST_INK)
