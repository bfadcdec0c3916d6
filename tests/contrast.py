"""How well colours are told apart, by WCAG 2."""

import re


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, each as ``#rrggbb`` or ``rgb(...)``: from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, from 0 to 1."""
    if colour.startswith("#"):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    else:
        channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def assert_texts_stand_out(page, paper: str, inks: str) -> None:
    """Compare the paper with the texts of all pictures, and of what ``inks`` selects."""
    fills = page.locator("svg text").evaluate_all("all => all.map(e => getComputedStyle(e).fill)")
    others = page.locator(inks).evaluate_all("all => all.map(e => getComputedStyle(e).color)")
    assert fills and others
    for colour in {*fills, *others}:
        assert contrast(colour, paper) >= 4.5, colour
